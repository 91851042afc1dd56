//! Harness for scenarios with real parts: a real broker, real network namespaces, the built daemon, real faults.
//!
//! A scenario is a test in `tests/tests/` whose name is the sentence that it proves. It begins with what it
//! needs, and is skipped, loudly, where that is missing:
//!
//! ```no_run
//! # use std::time::Duration;
//! # use tidegate_tests::{eventually, need, requires, Broker, Daemon, Ingest, Tap};
//! # fn scenario() {
//! requires!(need::program("mosquitto"));
//! let broker = Broker::start();
//! let tap = Tap::before(&broker);
//! let daemon = Daemon::builder().broker(tap.port()).start();
//! let mut ingest = Ingest::connect(&daemon);
//! ingest.put("meter", &serde_json::json!({"kwh": 7})).unwrap();
//! eventually(Duration::from_secs(10), "the record is acknowledged", || tap.acknowledged().len() == 1);
//! # }
//! ```
//!
//! # Nothing is left behind
//!
//! Whatever a helper makes goes when it is dropped, at a panic too. Beyond that, network and mount
//! namespaces are anonymous (held by a file descriptor), so that the kernel takes them down with the
//! process however it ends, children die with their parent, and folders are removed at Ctrl-C ([`cleanup`]).
//!
//! # When has a record arrived?
//!
//! When the broker acknowledged it. A [`Subscriber`] shows what reaches consumers, but cannot prove that the
//! *gateway* lost nothing while a broker is killed: a broker without persistence acknowledges a message and
//! forgets it. A [`Tap`] between daemon and broker sees each PUBLISH and each PUBACK that goes back, so that it
//! holds exactly what the daemon was entitled to regard as delivered, whatever became of the broker.

#![expect(clippy::missing_panics_doc, reason = "a helper of tests fails by a panic that says what was wanted")]

pub mod cleanup;
mod daemon;
mod eventually;
pub mod faults;
#[cfg(feature = "fleet")]
pub mod fleet;
mod ingest;
mod mounts;
pub mod mqtt;
pub mod need;
pub mod net;
mod notify;
mod over;
#[cfg(feature = "policy")]
pub mod policy;
pub mod probes;
mod process;
#[cfg(feature = "schema")]
pub mod schema;
mod scratch;
#[cfg(feature = "upload")]
pub mod upload;
#[cfg(feature = "device")]
pub mod vm;

pub use daemon::{Daemon, DaemonBuilder};
pub use eventually::{Outcome, eventually};
pub use ingest::{Ingest, Refused};
pub use mounts::Mounts;
pub use mqtt::{Broker, BrokerBuilder, Message, Post, Publisher, Subscriber, Tap};
pub use net::{Gateway, Netns};
pub use notify::{NotifySocket, Told};
pub use over::Over;
pub use process::{Process, memory_kib};
pub use scratch::Scratch;
