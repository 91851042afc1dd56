//! What every report says of its sources, whatever is managed; and what is read from one that the broker kept.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    link::Source,
    protocol::{Stamp, State, View},
};
use crate::{
    gather::Gather as _,
    record::{self, Uuid},
};

/// Sources with what there is to say of them: groups in their order, then the device.
pub(super) type Views = Vec<(Source, View)>;

/// What a report begins with.
#[derive(Debug, Serialize)]
pub(super) struct Head {
    v: u8,
    boot: String,
    ts_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    synced: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    up_ms: Option<u64>,
    #[serde(flatten)]
    device: Part,
    groups: Vec<Group>,
}

#[derive(Debug, Serialize)]
struct Group {
    group: String,
    #[serde(flatten)]
    part: Part,
}

#[derive(Debug, Serialize)]
struct Part {
    state: State,
    version: Option<u64>,
    digest: Option<String>,
    since_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_s: Option<u64>,
    confirmed: Option<Stamp>,
}

impl Part {
    fn new(view: View, up: Duration) -> Self {
        Self {
            state: view.state,
            version: view.version,
            digest: view.digest.map(|digest| digest.to_string()),
            since_ms: view.since_ms,
            reason: view.reason,
            attempts: view.attempts,
            next_attempt_s: view.next_attempt.map(|next| next.saturating_sub(up).as_secs()),
            confirmed: view.confirmed,
        }
    }
}

impl Head {
    /// Of the report that is published at this moment.
    pub(super) fn new(views: &Views, now: &record::Stamp) -> Self {
        let up = Duration::from_millis(now.up_ms);
        let of = |source: &Source| views.iter().find(|(known, _)| known == source).map(|(_, view)| view.clone());
        let groups = views.iter().filter_map(|(source, view)| match source {
            Source::Group(group) => Some(Group { group: group.to_string(), part: Part::new(view.clone(), up) }),
            Source::Device => None,
        });
        Self {
            v: 1,
            boot: Uuid(&now.boot).to_string(),
            ts_ms: now.ts_ms,
            synced: (!now.synced).then_some(false),
            up_ms: (!now.synced).then_some(now.up_ms),
            device: Part::new(of(&Source::Device).unwrap_or_default(), up),
            groups: groups.collect(),
        }
    }
}

/// The highest version that a report names for each source: what whoever kept it knows of us.
pub(super) fn versions(report: &[u8]) -> BTreeMap<Source, u64> {
    #[derive(Deserialize)]
    struct Witness {
        #[serde(flatten)]
        device: WitnessOf,
        #[serde(default)]
        groups: Vec<WitnessOf>,
    }
    #[derive(Deserialize)]
    struct WitnessOf {
        group: Option<String>,
        version: Option<u64>,
        confirmed: Option<Confirmed>,
    }
    #[derive(Deserialize)]
    struct Confirmed {
        version: u64,
    }
    let Ok(Witness { device, groups }) = serde_json::from_slice(report) else { return BTreeMap::new() };
    let version = |of: &WitnessOf| of.version.max(of.confirmed.as_ref().map(|confirmed| confirmed.version));
    let groups = groups.iter().filter_map(|of| Some((Source::Group(of.group.as_deref()?.into()), version(of)?)));
    groups.chain(version(&device).map(|version| (Source::Device, version))).gather()
}

/// One source of documents, in `tidegate status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// `device`, or `@` and the group.
    pub source: Source,
    /// Where it stands.
    pub state: State,
    /// What this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<u64>,
}

/// Of those sources that ever had a document.
pub(super) fn statuses(views: &Views) -> Vec<SourceStatus> {
    let heard_of = views.iter().filter(|(_, view)| view.since_ms > 0 || view.version.is_some());
    heard_of
        .map(|(source, view)| SourceStatus {
            source: source.clone(),
            state: view.state,
            version: view.version,
            reason: view.reason.clone(),
            confirmed: view.confirmed.map(|stamp| stamp.version),
        })
        .collect()
}
