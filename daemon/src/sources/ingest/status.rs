//! What the ingest socket shows of itself.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{names::NameCounts, protocol::Kind};

/// The ingest socket's part of `tidegate status`. Counts are since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IngestStatus {
    /// Where it listens; absent before it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Connections at the moment.
    pub connections: usize,
    /// Connections that may be open at the same time.
    pub max_connections: usize,
    /// Connections that were accepted.
    pub connected: u64,
    /// Connections that were turned away with `busy` because too many were open.
    pub turned_away: u64,
    /// Connections that were cut off: half a line for too long, or answers not read.
    pub cut_off: u64,
    /// Lines whose records are on disk.
    pub accepted: u64,
    /// Lines that were refused, by the error in their answer.
    pub refused: Refused,
    /// By name.
    pub names: BTreeMap<String, NameCounts>,
}

/// Refused lines, by error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Over 64 KiB.
    pub too_large: u64,
    /// Not the JSON object of the contract.
    pub bad_json: u64,
    /// Not a name, or one too many.
    pub bad_name: u64,
    /// The spool was paused.
    pub full: u64,
    /// The daemon was stopping.
    pub busy: u64,
}

impl Refused {
    pub(super) fn count(&mut self, kind: Kind) {
        *match kind {
            Kind::TooLarge => &mut self.too_large,
            Kind::BadJson => &mut self.bad_json,
            Kind::BadName => &mut self.bad_name,
            Kind::Full => &mut self.full,
            Kind::Busy => &mut self.busy,
        } += 1;
    }
}
