//! tidegate: watch, guard, deliver, be managed.

pub mod config;
pub mod record;
pub mod sources;
