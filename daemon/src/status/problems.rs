//! What is wrong, worst first, each with the next step. Pure: a status in, a list out.

use serde::Serialize;

use super::{Reload, Status};
use crate::uplink::LinkState;

/// Something that a person should know or do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub next_step: String,
}

/// How bad a problem is; the worst one comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Data is being lost, or will not be accepted.
    Loss,
    /// A job of the gateway is not done.
    Down,
    /// It works, but not as it was told to.
    Degraded,
}

/// Share of the cap from which a filling spool is a problem.
const NEARLY_FULL_PERCENT: u64 = 80;

/// All problems of this status, the worst first.
#[must_use]
pub fn problems(status: &Status) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut add = |severity, what: String, next_step: &str| {
        found.push(Problem { severity, what, next_step: next_step.to_owned() });
    };

    let spool = &status.spool;
    if let Some(reason) = &spool.paused {
        add(
            Severity::Loss,
            format!("the spool accepts nothing: {reason}"),
            "free space on its disk or mend the folder ([spool] dir); it is tried again by itself",
        );
    }
    if spool.max_size_bytes > 0 && spool.bytes > spool.max_size_bytes / 100 * NEARLY_FULL_PERCENT {
        add(
            Severity::Loss,
            format!("the spool is nearly full: {} of {} bytes", spool.bytes, spool.max_size_bytes),
            "restore the link to the broker, or raise [spool] max_size; when full the oldest telemetry goes first",
        );
    }

    let uplink = &status.uplink;
    let reason = uplink.reason.as_deref().unwrap_or("no reason given");
    match uplink.state {
        LinkState::NotProvisioned => add(
            Severity::Down,
            "not provisioned: there is no broker to deliver to".into(),
            "set [mqtt] url in the configuration; records wait in the spool",
        ),
        LinkState::Unreachable | LinkState::BackingOff => add(
            Severity::Down,
            format!("no connection to the broker: {reason}"),
            "check the link, [mqtt] url and credentials; records wait in the spool",
        ),
        LinkState::Connecting | LinkState::Connected => {}
    }
    if let (true, Some(reason)) = (uplink.held > 0, &uplink.held_reason) {
        add(
            Severity::Down,
            format!("the broker refuses {} records: {reason}", uplink.held),
            "check what this gateway may publish at the broker (docs/mqtt.md)",
        );
    }
    for missing in &status.traffic.unavailable {
        add(Severity::Down, format!("{}: {}", missing.what, missing.why), &missing.fix);
    }
    for missing in &status.traffic.not_watched {
        add(
            Severity::Degraded,
            format!("interface {} is not watched: {}", missing.interface, missing.reason),
            "exclude it with \"!NAME\" in [traffic] interfaces if that is right",
        );
    }
    match &status.configuration {
        Reload::Refused { errors } => add(
            Severity::Degraded,
            format!("the changed configuration is refused: {}", errors.join("; ")),
            "mend it (tidegate check-config) and send SIGHUP; the running one stays until then",
        ),
        Reload::Running { pending_restart } if !pending_restart.is_empty() => add(
            Severity::Degraded,
            format!("changed, but needs a restart: {}", pending_restart.join(", ")),
            "restart the daemon; nothing that is in the spool is lost",
        ),
        Reload::Running { .. } => {}
    }
    if !status.clock_synced {
        add(
            Severity::Degraded,
            "the wall clock has not been set".into(),
            "start a time service; until then records say \"synced\": false and carry the time since boot",
        );
    }
    found.sort_by_key(|problem| problem.severity);
    found
}
