//! What is told of the configuration: `config/reported`, and the part of `tidegate status`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use super::super::report::{Head, SourceStatus, Views};
use crate::{
    config::{Drift, DriftKind},
    record,
};

/// All that a report says but when it is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Content {
    pub(super) sources: Views,
    pub(super) pending_restart: Vec<&'static str>,
    pub(super) drift: BTreeMap<&'static str, Drift>,
}

/// `docs/schema/config-reported.json`.
#[derive(Serialize)]
struct Reported<'a> {
    #[serde(flatten)]
    head: Head,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pending_restart: &'a [&'static str],
    drift: &'a BTreeMap<&'static str, Drift>,
}

impl Content {
    /// The report that is published at this moment.
    pub(super) fn report(&self, now: &record::Stamp) -> Bytes {
        let reported = Reported {
            head: Head::new(&self.sources, now),
            pending_restart: &self.pending_restart,
            drift: &self.drift,
        };
        serde_json::to_vec(&reported).expect("a report is JSON").into()
    }
}

/// What `tidegate status` shows of the configuration that runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ConfigStatus {
    /// What became of the last reading of the local configuration.
    #[serde(flatten)]
    pub local: Reload,
    /// Remote documents: of groups in their order, then of the device; only sources that ever had one.
    pub remote: Vec<SourceStatus>,
    /// Keys for which what is desired, what the local layers say and what runs are apart, and how.
    pub drift: BTreeMap<&'static str, DriftKind>,
    /// What is wrong with the local files as they are now, with which the daemon would not start: they are looked at every 20 s.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<String>,
    /// Why what is desired cannot be remembered, or was forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

/// What became of the last reading of the local configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Reload {
    /// It runs.
    Running {
        /// Changed keys that take effect with the next start only.
        pending_restart: Vec<&'static str>,
    },
    /// It is wrong; the one before runs.
    Refused {
        /// What is wrong with it.
        errors: Vec<String>,
    },
}

impl Default for Reload {
    fn default() -> Self {
        Self::Running { pending_restart: Vec::new() }
    }
}
