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

use serde_json::Value;
use tidegate_tests::{Daemon, eventually};

/// Most that anything may take on a busy machine beyond the times that it has by itself.
const SOON: Duration = Duration::from_secs(30);

/// Waits until `tidegate status` says that the daemon's own messages come back from the broker, and that it has read what
/// is desired: a request before that may find no subscriber.
#[track_caller]
fn connected(daemon: &Daemon) -> Value {
    eventually(SOON, "the daemon is connected", || {
        let status = daemon.status();
        let uplink = &status["uplink"];
        let listens = uplink["state"] == "connected" && uplink["desired_read"] == true;
        if listens { Ok(status) } else { Err(uplink.to_string()) }
    })
}
