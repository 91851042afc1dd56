//! The broker and what passes through it.

mod broker;
mod ledger;
mod pki;
mod publisher;
mod subscriber;
mod tap;
mod wire;

pub use broker::{Broker, BrokerBuilder};
pub use ledger::{Envelope, Ledger, ReportedLoss};
pub use pki::{Identity, Pki};
pub use publisher::{Post, Publisher};
pub use rumqttc::mqttbytes::v5::PubAckReason;
pub use subscriber::Subscriber;
pub use tap::Tap;
pub use wire::Message;
#[cfg(feature = "fleet")]
pub(crate) use wire::Packets;
