//! The retained `status` message: birth, will and the orderly farewell. Its schema is `docs/schema/status.json`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use crate::record::{Clock, Uuid};

/// What this gateway can do, by name (`traffic`, `spool`, …).
pub type Features = BTreeMap<String, Feature>;

/// One thing that a kernel, a privilege or a configuration may withhold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Whether it works.
    pub available: bool,
    /// Why it does not, or in which way it works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Serialize)]
struct Online<'a> {
    v: u8,
    state: &'static str,
    boot: String,
    ts_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    synced: Option<bool>,
    version: &'static str,
    kernel: String,
    arch: String,
    features: &'a Features,
}

#[derive(Serialize)]
struct Offline {
    v: u8,
    state: &'static str,
    boot: String,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts_ms: Option<u64>,
}

/// Why a gateway is offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// The daemon stops.
    Stopping,
    /// It goes to another broker, or comes back as someone else.
    Reconfigured,
}

/// `{"state":"online", …}`.
pub(super) fn online(clock: &Clock, features: &Features) -> Bytes {
    let now = clock.now();
    let system = rustix::system::uname();
    json(&Online {
        v: 1,
        state: "online",
        boot: Uuid(clock.boot()).to_string(),
        ts_ms: now.ts_ms,
        synced: (!now.synced).then_some(false),
        version: env!("CARGO_PKG_VERSION"),
        kernel: system.release().to_string_lossy().into_owned(),
        arch: system.machine().to_string_lossy().into_owned(),
        features,
    })
}

/// `{"state":"offline"}` as the broker publishes it when we vanish: without a time, since nobody knows it now.
pub(super) fn will(clock: &Clock) -> Bytes {
    let boot = Uuid(clock.boot()).to_string();
    json(&Offline { v: 1, state: "offline", boot, reason: "connection-lost", ts_ms: None })
}

/// `{"state":"offline"}` as we publish it ourselves.
pub(super) fn offline(clock: &Clock, farewell: Farewell) -> Bytes {
    let reason = match farewell {
        Farewell::Stopping => "stopping",
        Farewell::Reconfigured => "reconfigured",
    };
    let boot = Uuid(clock.boot()).to_string();
    json(&Offline { v: 1, state: "offline", boot, reason, ts_ms: Some(clock.now().ts_ms) })
}

fn json(message: &impl Serialize) -> Bytes {
    serde_json::to_vec(message).expect("plain structs with string keys serialize").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &Bytes) -> serde_json::Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn birth_says_what_works_and_why_the_rest_does_not() {
        let reason = Some("needs CAP_BPF".to_owned());
        let features = Features::from([("traffic".to_owned(), Feature { available: false, reason })]);
        let birth = parsed(&online(&Clock::new([1; 16]), &features));
        assert_eq!(birth["state"], "online");
        assert_eq!(birth["features"]["traffic"]["reason"], "needs CAP_BPF");
        assert!(birth["ts_ms"].is_u64() && birth["version"].is_string() && birth["kernel"].is_string());
    }

    #[test]
    fn will_carries_no_time_and_farewell_does() {
        let clock = Clock::new([1; 16]);
        let will = parsed(&will(&clock));
        assert_eq!((will["state"].as_str(), will.get("ts_ms")), (Some("offline"), None));
        let farewell = parsed(&offline(&clock, Farewell::Stopping));
        assert_eq!((farewell["reason"].as_str(), farewell["ts_ms"].is_u64()), (Some("stopping"), true));
        assert_eq!(will["boot"], farewell["boot"]);
    }
}
