//! tidegate: watch, guard, deliver, be managed.
//!
//! Data flows one way: sources → spool → uplink. Read [`app`] first: the daemon's life is one function there.

pub mod app;
mod chunks;
pub mod cli;
pub mod config;
pub mod control;
pub mod control_socket;
pub mod credentials;
mod gather;
pub mod heap;
pub mod json;
pub mod kernel;
pub mod local_socket;
pub mod logging;
mod order;
pub mod paths;
pub mod pki;
pub mod provision;
pub mod record;
pub mod sources;
pub mod status;
pub mod supervisor;
mod task;
pub mod uplink;

/// Network policy; a crate of its own, that is built for speed.
pub use tidegate_policy as policy;
