//! Files from outbox folders to an endpoint: resumable, in constant memory, kind to the link.
//!
//! # Shape
//!
//! One thread does all but encoding ([`engine`]): it looks into the outboxes ([`outbox`]), decides which file goes when, and makes
//! attempts. An attempt reads a file a frame at a time, encodes each ([`codec`], on a thread beside), writes down what it is going to send
//! ([`journal`]) and hands it to a connection ([`http`]), as its protocol wants it ([`tus`], or `PUT`). What servers and links do
//! on the way has a name, and a consequence ([`trouble`]). Files that are not to be tried again are in the [`ledger`].
//!
//! Decisions are pure and have no clock of their own: [`breaker`], [`retry`], [`pace`], [`part`], [`window`], [`splay`], [`tus`].
//!
//! # Promises
//!
//! A file arrives whole, with its SHA-256, or is still where it was put. Memory for one is constant. What a server has
//! confirmed is not sent again; whatever it says, nothing is removed that was not sent. `docs/decisions/0008-uploads.md` says
//! why it is done so.

pub mod ask;
mod attempt;
mod beside;
mod body;
pub mod breaker;
pub mod codec;
pub mod engine;
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
