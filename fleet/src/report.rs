//! What a gateway reports about its configuration: `ROOT/ID/config/reported`, as much of it as is needed to say
//! whether the gateway is as wanted.
//!
//! Ten thousand of them are held at a time, so what is kept of one is small; members that are not known are passed over
//! (a newer daemon may say more).

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use serde::Deserialize;
use serde_json::Value;
use tidegate_values::Digest;

/// Longest report that is read. A daemon bounds its own far below; what is longer is not a daemon's.
pub const MAX_REPORT_BYTES: usize = 1 << 20;

/// One gateway's report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// About the document for the gateway itself.
    pub device: Reported,
    /// About the documents of its groups, in the order in which they apply.
    pub groups: Box<[(Arc<str>, Reported)]>,
    /// Keys that wait for a restart.
    pub pending_restart: Box<[Box<str>]>,
    /// Keys of which desired, local and running values are not all the same.
    pub drift: Box<[Drift]>,
}

/// What a gateway says about the document of one source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reported {
    /// The version that `state` is about; none where there is no document.
    pub version: Option<u64>,
    /// Digest of the payload of that version.
    pub digest: Option<Digest>,
    /// What became of it.
    pub state: State,
    /// Why, where it did not go well.
    pub reason: Option<Box<str>>,
    /// Seconds until it is tried again.
    pub next_attempt_s: Option<u64>,
    /// What is in force: version and digest.
    pub confirmed: Option<(u64, Digest)>,
}

/// What became of a document (design, Desired and reported).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Seen, and waits for its turn.
    Pending,
    /// In effect, but not yet proven to leave the gateway reachable.
    Applied,
    /// In effect for good.
    #[default]
    Confirmed,
    /// Cut the gateway off, or could not be applied; the one before is back.
    RolledBack,
    /// Never took effect.
    Refused,
    /// Its time was over.
    Expired,
    /// In effect as far as that goes without a restart.
    PendingRestart,
    /// A word of a newer daemon.
    Unknown,
}

impl State {
    fn of_word(word: &str) -> Self {
        match word {
            "pending" => Self::Pending,
            "applied" => Self::Applied,
            "confirmed" => Self::Confirmed,
            "rolled-back" => Self::RolledBack,
            "refused" => Self::Refused,
            "expired" => Self::Expired,
            "pending-restart" => Self::PendingRestart,
            _ => Self::Unknown,
        }
    }
}

/// As in the report.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Applied => "applied",
            Self::Confirmed => "confirmed",
            Self::RolledBack => "rolled-back",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::PendingRestart => "pending-restart",
            Self::Unknown => "unknown",
        })
    }
}

/// One key that is not everywhere the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Drift {
    /// Dotted name.
    pub key: Box<str>,
    /// `running` (what runs is not what is desired), `unread` (a local file says what does not run yet) or `local`
    /// (a local file disagrees with the desired value, which runs).
    pub kind: Box<str>,
    /// What the documents say.
    pub desired: Option<Value>,
    /// What a file on the gateway says.
    pub file: Option<Value>,
    /// What the environment of its daemon says.
    pub environment: Option<Value>,
    /// What runs.
    pub running: Option<Value>,
}

impl Report {
    /// Reads a report.
    ///
    /// # Errors
    ///
    /// What it is instead, in words.
    pub fn read(payload: &[u8]) -> Result<Self, String> {
        if payload.len() > MAX_REPORT_BYTES {
            return Err(format!("its report has {} bytes, over {MAX_REPORT_BYTES}", payload.len()));
        }
        let wire: Wire =
            serde_json::from_slice(payload).map_err(|error| format!("its report is not readable: {error}"))?;
        Ok(Self {
            device: wire.device.into(),
            groups: wire.groups.into_iter().map(|entry| (entry.group.as_ref().into(), entry.about.into())).collect(),
            pending_restart: wire.pending_restart,
            drift: wire.drift.into_iter().map(|(key, drift)| drift.named(&key)).collect(),
        })
    }

    /// The entry about a group, where the gateway is a member.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<&Reported> {
        self.groups.iter().find(|(group, _)| &**group == name).map(|(_, about)| about)
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(flatten, borrow)]
    device: About<'a>,
    #[serde(default, borrow)]
    groups: Vec<WireGroup<'a>>,
    #[serde(default)]
    pending_restart: Box<[Box<str>]>,
    #[serde(default)]
    drift: BTreeMap<String, WireDrift>,
}

#[derive(Deserialize)]
struct WireGroup<'a> {
    #[serde(borrow)]
    group: Cow<'a, str>,
    #[serde(flatten, borrow)]
    about: About<'a>,
}

#[derive(Deserialize)]
struct About<'a> {
    #[serde(default)]
    version: Option<u64>,
    #[serde(default, borrow)]
    digest: Option<Cow<'a, str>>,
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(default)]
    reason: Option<Box<str>>,
    #[serde(default)]
    next_attempt_s: Option<u64>,
    #[serde(default, borrow)]
    confirmed: Option<WireConfirmed<'a>>,
}

#[derive(Deserialize)]
struct WireConfirmed<'a> {
    version: u64,
    #[serde(borrow)]
    digest: Cow<'a, str>,
}

#[derive(Deserialize)]
struct WireDrift {
    kind: Box<str>,
    desired: Option<Value>,
    file: Option<Value>,
    environment: Option<Value>,
    running: Option<Value>,
}

impl WireDrift {
    fn named(self, key: &str) -> Drift {
        let Self { kind, desired, file, environment, running } = self;
        Drift { key: key.into(), kind, desired, file, environment, running }
    }
}

impl From<About<'_>> for Reported {
    fn from(about: About<'_>) -> Self {
        Self {
            version: about.version,
            digest: about.digest.and_then(|digest| digest.parse().ok()),
            state: State::of_word(&about.state),
            reason: about.reason,
            next_attempt_s: about.next_attempt_s,
            confirmed: about.confirmed.and_then(|confirmed| Some((confirmed.version, confirmed.digest.parse().ok()?))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_says_what_runs_what_failed_and_what_drifts() {
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        let payload = json!({
            "v": 1, "boot": "b", "ts_ms": 1, "state": "refused", "version": 8, "digest": new.to_string(), "since_ms": 1,
            "reason": "[log] filtre: there is no such key", "confirmed": {"version": 7, "digest": old.to_string()},
            "groups": [{"group": "plant", "state": "confirmed", "version": null, "digest": null, "since_ms": 1, "confirmed": null}],
            "pending_restart": ["traffic.flow_capacity"],
            "drift": {"host.interval": {"kind": "local", "desired": "10s", "file": "1m", "running": "10s"}},
            "something_new": {"x": 1},
        });
        let report = Report::read(payload.to_string().as_bytes()).unwrap();
        assert_eq!((report.device.version, report.device.state), (Some(8), State::Refused));
        assert_eq!(report.device.confirmed, Some((7, old)));
        assert_eq!(report.device.reason.as_deref(), Some("[log] filtre: there is no such key"));
        assert_eq!(report.group("plant"), Some(&Reported::default()));
        assert_eq!(report.group("other"), None);
        assert_eq!(*report.pending_restart, ["traffic.flow_capacity".into()]);
        assert_eq!((&*report.drift[0].key, &report.drift[0].file), ("host.interval", &Some(json!("1m"))));
    }

    #[test]
    fn what_is_no_report_says_so() {
        for payload in [&b""[..], b"[]", b"{}", b"\xff", br#"{"state":7}"#] {
            assert!(Report::read(payload).unwrap_err().contains("not readable"));
        }
        assert!(Report::read(&vec![b' '; MAX_REPORT_BYTES + 1]).unwrap_err().contains("bytes"));
    }
}
