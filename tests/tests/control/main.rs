//! Managed from afar: desired state goes to a real broker, and what the daemon makes of it comes back.

mod absent;
mod broker;
mod certificates;
mod changes;
mod commands;
mod crashes;
mod flood;
mod hostile;
mod lockout;
mod managed;
mod operate;
mod provision;
mod show;

use std::time::Duration;

/// Most that anything may take on a busy machine beyond the times that it has by itself.
const SOON: Duration = Duration::from_secs(30);
