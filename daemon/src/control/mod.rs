//! What the gateway should be, and what it is: desired state comes in, reports go out.
//!
//! # Files
//!
//! [`link`] is what passes between here and the uplink, and [`inbox`] where it waits for us; [`desired`] reads
//! documents, and [`digest`] tells two of them apart. [`protocol`] decides what becomes of anything that is managed so, and
//! `report` has what is told of each; [`store`] remembers. [`config`] and [`policy`] are what is managed: an agent that decides,
//! and a keeper that does it, with what takes long `beside` and `outward` as the way to the rest of the daemon. `run` is the
//! loop around them; [`commands`] answers requests.

mod beside;
pub mod commands;
pub mod config;
pub mod desired;
pub mod inbox;
pub mod link;
mod outward;
pub mod policy;
pub mod protocol;
mod report;
mod run;
pub mod store;

pub use self::{
    config::{ConfigStatus, Reload},
    policy::BundleStatus,
    protocol::State,
    report::SourceStatus,
    run::{Begun, Control, begin},
};
