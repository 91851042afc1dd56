//! What is wrong, worst first, each with the next step. Pure but for the clock: a status in, a list out.

use std::time::Duration;

use serde::Serialize;
use tidegate_upload::status::{State as UploadState, UploadStatus};

use super::Status;
use crate::{
    config::DriftKind,
    control::{BundleStatus, ConfigStatus, Reload, SourceStatus, State},
    order::sort_by_key,
    sources::host::Certificate,
    uplink::LinkState,
};

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

/// For reading desired state in a connection that works: a slow link brings the largest documents in that time.
const READ_WITHIN: Duration = Duration::from_mins(5);
/// Of a list that strangers can make long, so many are named.
const MAX_NAMED: usize = 3;

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
            "free space on its disk, mount it, or mend the folder ([spool] dir); it is tried again by itself",
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
            "put a provision.toml into /etc/tidegate (docs/provisioning.md) and restart, or set [mqtt] url; records wait in the spool",
        ),
        LinkState::Unreachable | LinkState::BackingOff => add(
            Severity::Down,
            format!("no connection to the broker: {reason}"),
            "check the link, [mqtt] url and credentials; records wait in the spool",
        ),
        LinkState::Connecting | LinkState::Connected => {}
    }
    if !uplink.forbidden.is_empty() {
        let some: Vec<_> = uplink.forbidden.iter().take(MAX_NAMED).map(String::as_str).collect();
        let more = uplink.forbidden.len() - some.len();
        let more = if more > 0 { format!("; and {more} more (uplink.forbidden)") } else { String::new() };
        add(
            Severity::Degraded,
            format!("the broker does not let this gateway {}{more}", some.join("; ")),
            "complete the broker's access list (docs/broker.md); what is forbidden is tried again with each connect",
        );
    }
    if let Some(since) = uplink.reading_since.filter(|since| since.elapsed() >= READ_WITHIN) {
        add(
            Severity::Degraded,
            format!("desired state has not been read in full for {} s", since.elapsed().as_secs()),
            "let the gateway read and write echo/desired, and read its own …/desired and …/reported (docs/broker.md)",
        );
    }
    if let Some(reason) = &uplink.not_renewed {
        add(
            Severity::Degraded,
            format!("replaced credentials are not used: {reason}"),
            "mend the file, which is looked at every 30 s; the connection goes on with those before",
        );
    }
    for warning in status.host.last.iter().flat_map(|sample| &sample.certificates).filter_map(Certificate::warning) {
        add(Severity::Degraded, warning, "replace the file with a renewed one; it is taken over within 30 s");
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
    upload(&status.upload, &mut add);
    configuration(&status.configuration, &mut add);
    policy(&status.bundles, &mut add);
    if !status.clock_synced {
        add(
            Severity::Degraded,
            "the wall clock has not been set".into(),
            "start a time service; until then records say \"synced\": false and carry the time since boot",
        );
    }
    sort_by_key(&mut found, |problem| problem.severity);
    found
}

/// What is wrong with uploads. That they are paused, put off or kept from an interface is as somebody told them.
fn upload(status: &UploadStatus, add: &mut impl FnMut(Severity, String, &str)) {
    let reason = status.reason.as_deref().unwrap_or("no reason given");
    match status.state {
        UploadState::Off if status.waiting_files > 0 => add(
            Severity::Down,
            format!("{} in the outbox, and there is nowhere to send them to", waiting(status.waiting_files)),
            "set [upload] endpoint, or take them out of the outbox; they are kept until then",
        ),
        UploadState::Broken => add(
            Severity::Down,
            format!("uploads fail: {reason}"),
            "check the link, [upload] endpoint and its credentials; files wait in the outbox, and it is tried again by itself",
        ),
        UploadState::Blocked => add(
            Severity::Down,
            format!("uploads are blocked: {reason}"),
            "free space on the disk of the state folder, or mend it; it is tried again by itself",
        ),
        UploadState::Off
        | UploadState::Idle
        | UploadState::Sending
        | UploadState::BackingOff
        | UploadState::Closed
        | UploadState::Paused
        | UploadState::Metered
        | UploadState::Splayed => {}
    }
    if let Some(first) = status.parked.first() {
        let more = match status.parked_files {
            0 | 1 => String::new(),
            files => format!("; and {} more (tidegate put --list)", files - 1),
        };
        add(
            Severity::Degraded,
            format!("the file {} is parked: {}{more}", first.name, first.reason),
            "mend that, then: tidegate put --retry (or cmd/retry); or take the file out of the outbox",
        );
    }
    if let Some(first) = status.unusable.first() {
        let more = match status.unusable.len() {
            0 | 1 => String::new(),
            some => format!("; and at least {} more (tidegate put --list)", some - 1),
        };
        add(
            Severity::Degraded,
            format!("{} in the outbox cannot be taken: {}{more}", first.name, first.reason),
            "mend that, or take it out of the outbox; it is looked at again by itself",
        );
    }
}

fn waiting(files: u64) -> String {
    if files == 1 { "1 file waits".to_owned() } else { format!("{files} files wait") }
}

/// What is wrong with the configuration, local and remote.
fn configuration(status: &ConfigStatus, add: &mut impl FnMut(Severity, String, &str)) {
    match &status.local {
        Reload::Refused { errors } => add(
            Severity::Degraded,
            format!("the changed configuration is refused: {}", errors.join("; ")),
            "mend it (tidegate check-config), then: systemctl reload tidegate (or SIGHUP); the running one stays until then",
        ),
        Reload::Running { pending_restart } if !pending_restart.is_empty() => add(
            Severity::Degraded,
            format!("changed, but needs a restart: {}", pending_restart.join(", ")),
            "systemctl restart tidegate (or stop it and start it again); nothing that is in the spool is lost",
        ),
        Reload::Running { .. } => {}
    }
    let told = matches!(&status.local, Reload::Refused { errors } if *errors == status.broken);
    if !status.broken.is_empty() && !told {
        add(
            Severity::Degraded,
            format!(
                "the configuration on disk is wrong, and the daemon would not start with it: {}",
                status.broken.join("; ")
            ),
            "mend it (tidegate check-config) before anything restarts the daemon; what runs is not concerned",
        );
    }
    for remote in &status.remote {
        let source = &remote.source;
        let which = remote.version.map_or_else(|| "message".to_owned(), |version| format!("version {version}"));
        let reason = remote.reason.as_deref().unwrap_or("no reason given");
        match remote.state {
            State::Refused => add(
                Severity::Degraded,
                format!("the remote configuration for {source}, {which}, is refused: {reason}"),
                "publish a corrected document with a higher version; what was confirmed before runs until then",
            ),
            State::RolledBack => add(
                Severity::Degraded,
                format!("the remote configuration for {source}, {which}, was rolled back: {reason}"),
                "see what it does to the link; it is tried again by itself at most three times, then by cmd/retry",
            ),
            State::Pending if remote.reason.is_some() => add(
                Severity::Degraded,
                format!("the remote configuration for {source}, {which}, waits: {reason}"),
                "it is tried by itself once that is mended",
            ),
            State::Pending | State::Applied | State::Confirmed | State::PendingRestart | State::Expired => {}
        }
    }
    if let Some(reason) = &status.memory {
        add(Severity::Degraded, reason.clone(), "free space on the disk of the state folder, or mend it");
    }
    // What is desired and does not run has its reason above; what overrides the local layers is meant to.
    let waits =
        |key: &&str| matches!(&status.local, Reload::Running { pending_restart } if pending_restart.contains(key));
    let unread = status.drift.iter().filter(|(_, kind)| **kind == DriftKind::Unread).map(|(key, _)| *key);
    let unread: Vec<_> = unread.filter(|key| !waits(key)).collect();
    if !unread.is_empty() {
        add(
            Severity::Degraded,
            format!("the files say something that does not run: {}", unread.join(", ")),
            "systemctl reload tidegate (or SIGHUP), or undo the change; tidegate config show --origin tells what runs",
        );
    }
}

/// What is wrong with the policy that is desired.
fn policy(status: &BundleStatus, add: &mut impl FnMut(Severity, String, &str)) {
    if let Some(reason) = &status.not_enforced {
        add(
            Severity::Down,
            format!("the policy is not enforced: {reason}"),
            "mend that; it is tried again every 30 s, and at once by cmd/retry",
        );
    }
    if status.open_until_ms.is_some() {
        add(
            Severity::Degraded,
            "a person has opened the gateway: no policy is enforced".into(),
            "it ends by itself; tidegate policy open --end ends it now",
        );
    }
    for SourceStatus { source, state, version, reason, .. } in &status.sources {
        let which = version.map_or_else(|| "message".to_owned(), |version| format!("version {version}"));
        let reason = reason.as_deref().unwrap_or("no reason given");
        match state {
            State::Refused if status.not_enforced.is_none() => add(
                Severity::Degraded,
                format!("the policy for {source}, {which}, is refused: {reason}"),
                "publish a corrected one with a higher version; what was enforced before is until then",
            ),
            State::RolledBack => add(
                Severity::Degraded,
                format!("the policy for {source}, {which}, was rolled back: {reason}"),
                "see whether it drops the way to the broker (tidegate policy test); it is tried again by cmd/retry or tidegate policy apply only",
            ),
            State::Expired => add(
                Severity::Degraded,
                format!("the policy for {source}, {which}, has expired and is no longer enforced"),
                "publish one with a higher version and a later not_after",
            ),
            _ => {}
        }
    }
    if let Some(reason) = &status.memory {
        add(Severity::Degraded, reason.clone(), "free space on the disk of the state folder, or mend it");
    }
}

#[cfg(test)]
mod tests {
    use tidegate_upload::status::Parked;
    use tokio::time::{Instant, advance};

    use super::*;

    fn found(status: &Status) -> Vec<String> {
        problems(status).into_iter().map(|problem| problem.what).filter(|what| !what.contains("clock")).collect()
    }

    fn connected() -> Status {
        let mut status = Status::default();
        status.uplink.state = LinkState::Connected;
        status
    }

    #[test]
    fn what_the_broker_forbids_is_named_and_a_long_list_is_counted() {
        let mut status = connected();
        assert_eq!(found(&status), [""; 0]);
        status.uplink.forbidden = (1..=5).map(|topic| format!("subscribe to {topic}: not authorized")).collect();
        let [what] = &found(&status)[..] else { panic!("{:?}", found(&status)) };
        assert!(
            what.contains("subscribe to 1: not authorized; ") && what.ends_with("; and 2 more (uplink.forbidden)"),
            "{what}"
        );
    }

    #[test]
    fn files_that_need_a_person_are_named_and_waiting_is_none_of_the_kind() {
        let parked =
            |name: &str, reason: &str| Parked { name: name.to_owned(), reason: reason.to_owned(), folder: 0, bytes: 0 };
        let mut status = connected();
        status.upload.waiting_files = 2;
        assert_eq!(found(&status), ["2 files wait in the outbox, and there is nowhere to send them to"]);
        for state in [UploadState::Closed, UploadState::Paused, UploadState::Metered, UploadState::BackingOff] {
            status.upload.state = state;
            assert_eq!(found(&status), [""; 0], "{state:?}");
        }
        status.upload.state = UploadState::Broken;
        status.upload.reason = Some("connection refused".to_owned());
        status.upload.parked = vec![parked("a.csv", "403 Forbidden"), parked("b.csv", "404 Not Found")];
        status.upload.parked_files = 5;
        status.upload.unusable = vec![parked("c.csv", "the daemon may not read it")];
        assert_eq!(
            found(&status),
            [
                "uploads fail: connection refused",
                "the file a.csv is parked: 403 Forbidden; and 4 more (tidegate put --list)",
                "c.csv in the outbox cannot be taken: the daemon may not read it",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn desired_state_may_take_minutes_to_read_and_no_longer() {
        let mut status = connected();
        status.uplink.reading_since = Some(Instant::now());
        advance(Duration::from_secs(299)).await;
        assert_eq!(found(&status), [""; 0]);
        advance(Duration::from_secs(1)).await;
        assert_eq!(found(&status), ["desired state has not been read in full for 300 s"]);
    }
}
