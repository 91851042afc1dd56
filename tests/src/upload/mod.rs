//! Servers that uploads go to, what lies between, and whether what arrived is what was sent.
//!
//! None of the servers was written here: [`TusNode`] and [`TusChecksum`] speak tus 1.0.0, [`Dav`] is nginx, which takes
//! PUT. Each keeps what it received in a folder of its own across restarts, and says in its own books what is complete.
//! A [`FaultProxy`] between daemon and server cuts, stalls and lies as its [`Schedule`] says.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use tidegate_tests::{eventually, need, requires, upload::{End, Fault, FaultProxy, Kind, Schedule, TusNode, sample}};
//! # fn scenario(outbox: &std::path::Path) {
//! requires!(need::tus_node(), need::program("zstd"));
//! let server = TusNode::start();
//! let proxy = FaultProxy::before(server.port()).schedule([Fault::cut_up(100_000, End::Reset), Fault::Refuse]).start();
//! let endpoint = server.url_through(proxy.port());
//! let sample = sample(outbox, "log.txt", 1 << 20, Kind::Text, 7);
//! // … a daemon uploads it to the endpoint …
//! eventually(Duration::from_secs(30), "the file is there", || server.received().len() == 1);
//! assert_eq!(server.received()[0].content_sha256(), sample.sha256);
//! # }
//! ```

mod dav;
mod proxy;
mod received;
mod sample;
mod server;
mod tools;
mod tus_checksum;
mod tus_node;

pub use dav::{Dav, DavBuilder, DavRequest};
pub use proxy::{At, Counts, End, Fault, FaultProxy, FaultProxyBuilder, Protocol, Schedule};
pub use received::{Encoding, Received, sha256};
pub use sample::{Kind, Sample, sample};
pub use server::{Server, Setup, Unfinished};
pub use tools::tus_js_client;
pub(crate) use tools::{dav, tus_checksum, tus_node};
pub use tus_checksum::{TusChecksum, TusChecksumBuilder};
pub use tus_node::{TusNode, TusNodeBuilder, TusRequest};
