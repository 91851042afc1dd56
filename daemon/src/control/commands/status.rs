//! What `tidegate status` shows of requests.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use tokio::time::Instant;

use super::Name;

/// Requests since start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CommandsStatus {
    /// Performed, by command.
    #[serde(serialize_with = "by_name")]
    pub performed: BTreeMap<Name, u64>,
    /// Not performed, by the code of the reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Found no room on their way from control; nobody answers them.
    pub dropped: u64,
    /// Answers that the uplink did not take in time: the connection was away.
    pub unanswered: u64,
    /// The filter that logs for a time instead of the configured one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
}

/// A filter that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLevel {
    /// Its directives.
    pub filter: String,
    /// When the configured one comes back; serialized as seconds from now: the wall clock may be set in between.
    #[serde(rename = "ends_in_s", serialize_with = "seconds_until")]
    pub ends: Instant,
}

fn by_name<S: Serializer>(counts: &BTreeMap<Name, u64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(counts.iter().map(|(name, count)| (name.name(), count)))
}

fn seconds_until<S: Serializer>(at: &Instant, serializer: S) -> Result<S::Ok, S::Error> {
    at.saturating_duration_since(Instant::now()).as_secs().serialize(serializer)
}
