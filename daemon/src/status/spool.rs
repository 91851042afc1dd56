//! The spool's figures as `tidegate status` and `telemetry/spool` show them.

use serde::Serialize;
use tidegate_spool::{LaneStats, Stats, StreamStats};

use crate::record::Uuid;

/// Figures of the spool. Sizes are bytes, times milliseconds since 1970.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SpoolStatus {
    /// Identity of the spool; absent while it could not be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// `uring` or `threads`.
    pub io: &'static str,
    /// Why it is not the preferred backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_reason: Option<String>,
    /// Whether segments are written with `O_DIRECT`.
    pub direct: bool,
    /// Why nothing is accepted at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// Size of all segment files.
    pub bytes: u64,
    /// Its cap.
    pub max_size_bytes: u64,
    /// Records that wait for delivery.
    pub pending_records: u64,
    /// Records appended since start.
    pub appended: u64,
    /// Commits since start: each is one write and one sync a lane.
    pub commits: u64,
    /// Damaged records skipped since start.
    pub damaged: u64,
    /// Records lost for good since the spool was made.
    pub lost: u64,
    /// By lane.
    pub lanes: Vec<Lane>,
}

/// Figures of one lane.
#[derive(Clone, Debug, Serialize)]
pub struct Lane {
    /// `event`, `ingest` or `telemetry`.
    pub name: String,
    /// Size of its segment files.
    pub bytes: u64,
    /// Number of its segment files.
    pub segments: u64,
    /// Records that wait for delivery.
    pub pending_records: u64,
    /// Time of the oldest record that waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_ts_ms: Option<u64>,
    /// By stream.
    pub streams: Vec<Stream>,
}

/// Figures of one stream.
#[derive(Clone, Debug, Serialize)]
pub struct Stream {
    /// `event`, `telemetry` or `ingest/NAME`.
    pub name: String,
    /// Sequence that its next record gets.
    pub next_seq: u64,
    /// Records lost for good since the spool was made.
    pub lost: u64,
}

impl From<&Stats> for SpoolStatus {
    fn from(stats: &Stats) -> Self {
        let lanes: Vec<Lane> = stats.lanes.iter().map(Lane::from).collect();
        Self {
            epoch: (stats.epoch != [0; 16]).then(|| Uuid(&stats.epoch).to_string()),
            io: stats.io,
            io_reason: stats.io_reason.clone(),
            direct: stats.direct,
            paused: stats.paused.clone(),
            bytes: stats.bytes,
            max_size_bytes: stats.max_size_bytes,
            pending_records: lanes.iter().map(|lane| lane.pending_records).sum(),
            appended: stats.appended,
            commits: stats.commits,
            damaged: stats.damaged,
            lost: lanes.iter().flat_map(|lane| &lane.streams).map(|stream| stream.lost).sum(),
            lanes,
        }
    }
}

impl From<&LaneStats> for Lane {
    fn from(lane: &LaneStats) -> Self {
        Self {
            name: lane.name.clone(),
            bytes: lane.bytes,
            segments: lane.segments,
            pending_records: lane.pending_records,
            oldest_ts_ms: lane.oldest_ts_ms,
            streams: lane.streams.iter().map(Stream::from).collect(),
        }
    }
}

impl From<&StreamStats> for Stream {
    fn from(stream: &StreamStats) -> Self {
        Self { name: stream.stream.to_string(), next_seq: stream.next_seq, lost: stream.lost }
    }
}
