//! Files from outbox folders to an endpoint: resumable, in constant memory, kind to the link.

pub mod ask;
mod attempt;
mod body;
pub mod breaker;
pub mod codec;
pub mod event;
pub mod http;
mod job;
pub mod journal;
pub mod ledger;
pub mod order;
pub mod outbox;
pub mod pace;
mod pacing;
pub mod part;
pub mod ports;
mod producer;
mod progress;
pub mod retry;
pub mod settings;
mod slots;
mod source;
pub mod splay;
pub mod status;
pub mod trouble;
pub mod tus;
pub mod window;
