//! The broker and what passes through it.

mod broker;
mod ledger;
mod pki;
mod subscriber;
mod tap;
mod wire;

pub use broker::{Broker, BrokerBuilder};
pub use ledger::{Envelope, Ledger, ReportedLoss};
pub use pki::{Identity, Pki};
pub use subscriber::Subscriber;
pub use tap::Tap;
pub use wire::Message;
