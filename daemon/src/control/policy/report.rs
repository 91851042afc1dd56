//! What is told of the policy: `policy/reported`, and the part of `tidegate status`.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tidegate_values::Digest;

use crate::{
    control::{
        link::Source,
        protocol::State,
        report::{Head, SourceStatus, Views},
    },
    record,
};

/// Of a list that a bundle can make long, so many are named.
pub(super) const MAX_NAMES: usize = 100;

/// What the kernel judges by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Enforced {
    /// Whose bundle it is.
    pub source: Source,
    /// Its version.
    pub version: u64,
    /// Of its envelope.
    pub digest: Digest,
    /// Its rules.
    pub rules: usize,
    /// Pairs of prefix and rule.
    pub prefixes: usize,
    /// Of the tables that it was compiled to.
    pub bytes: usize,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
}

/// All that a report says but when it is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Content {
    pub(super) sources: Views,
    pub(super) enforced: Option<Enforced>,
    pub(super) open_until_ms: Option<u64>,
    pub(super) expired_rules: Vec<String>,
    pub(super) keys: Vec<Digest>,
}

/// `docs/schema/policy-reported.json`.
#[derive(Serialize)]
struct Reported<'a> {
    #[serde(flatten)]
    head: Head,
    enforced: Option<&'a Enforced>,
    #[serde(skip_serializing_if = "Option::is_none")]
    open_until_ms: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    expired_rules: &'a [String],
    keys: &'a [Digest],
}

impl Content {
    /// The report that is published at this moment.
    pub(super) fn report(&self, now: &record::Stamp) -> Bytes {
        let reported = Reported {
            head: Head::new(&self.sources, now),
            enforced: self.enforced.as_ref(),
            open_until_ms: self.open_until_ms,
            expired_rules: &self.expired_rules,
            keys: &self.keys,
        };
        serde_json::to_vec(&reported).expect("a report is JSON").into()
    }
}

/// What `tidegate status` shows of policy bundles: which are desired, and which one is enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BundleStatus {
    /// Bundles of groups in their order, then of the device; only sources that ever had one.
    pub sources: Vec<SourceStatus>,
    /// What the kernel judges by; absent where everything passes.
    pub enforced: Option<Enforced>,
    /// Until when a person has opened it, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_until_ms: Option<u64>,
    /// Rules whose `ttl` is over; the first hundred.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expired_rules: Vec<String>,
    /// Ids of the keys whose signatures count.
    pub keys: Vec<Digest>,
    /// Why what should be enforced is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_enforced: Option<String>,
    /// Why the policy cannot be remembered, or was forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

/// How what the kernel judges by stands, for whoever asks at the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What the kernel judges by; absent where everything passes.
    pub enforced: Option<Provenance>,
    /// Until when a person has opened it, milliseconds since 1970.
    pub open_until_ms: Option<u64>,
    /// Why what should be enforced is not.
    pub not_enforced: Option<String>,
    /// Ids of the keys whose signatures count.
    pub keys: Vec<Digest>,
}

/// Where the policy in force comes from, and how sure it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Provenance {
    /// Whose bundle it is: `device`, or `@` and the group.
    pub source: Source,
    /// Its version.
    #[serde(skip)]
    pub version: u64,
    /// Who brought it.
    pub from: Bringer,
    /// Where it stands: on trial, or confirmed.
    pub state: State,
    /// Since when it is in force, milliseconds since 1970.
    pub since_ms: u64,
    /// Of its envelope.
    pub digest: Digest,
    /// Where its source wishes for another version: which, and why that one is not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wished: Option<SourceStatus>,
}

/// Who brought a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bringer {
    /// It was published.
    Broker,
    /// A technician had it.
    Stick,
}

/// What time a rule with a `ttl` has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLeft {
    /// Its number in the policy in force.
    pub rule: u32,
    /// Until it counts no more.
    pub left: Duration,
    /// Whether the kernel was told so.
    pub expired: bool,
}
