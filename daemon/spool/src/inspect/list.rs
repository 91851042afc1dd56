//! What there is.

use std::{path::Path, sync::Arc};

use super::{InspectError, io_error, is_delivered, is_held, lane_names, read_meta, segments};
use crate::{
    api::{Loss, Position},
    format::meta::{LaneMeta, Meta},
};

/// A spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Identity, if a slot of the meta file is valid.
    pub epoch: Option<[u8; 16]>,
    /// Valid slots of the meta file, 2 in a healthy spool that was written to twice.
    pub meta_slots: usize,
    /// Whether a daemon has it open: then cursors and sequences are those of its last checkpoint.
    pub held: bool,
    /// Lanes.
    pub lanes: Vec<LaneSummary>,
    /// Losses that nobody has reported yet.
    pub losses: Vec<Loss>,
    /// What was set aside.
    pub quarantined: Vec<Quarantined>,
}

/// A lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneSummary {
    /// Name.
    pub name: String,
    /// What lies before was delivered.
    pub cursor: Option<Position>,
    /// Streams, as the meta file has them.
    pub streams: Vec<StreamSummary>,
    /// Segment files, oldest first.
    pub segments: Vec<SegmentSummary>,
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSummary {
    /// Name.
    pub name: Arc<str>,
    /// Sequence of the next record, when the meta file was written.
    pub next_seq: u64,
    /// The lowest sequence that was not acknowledged then.
    pub acked: u64,
    /// Records lost for good since the spool was made.
    pub lost: u64,
}

/// A segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Number.
    pub number: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Where its frames end, if it is sealed.
    pub end: Option<u64>,
    /// Whether everything in it was delivered.
    pub delivered: bool,
    /// Whether it is readable as a segment of this lane and spool.
    pub readable: bool,
    /// Streams known when it was made, and the first sequence of each that may stand here.
    pub streams: Vec<(Arc<str>, u64)>,
}

/// A file in quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Name: a growing number, the lane, the segment, and for parts of a segment their offset.
    pub name: String,
    /// Length.
    pub bytes: u64,
}

/// What there is in the spool's folder.
///
/// # Errors
///
/// [`InspectError`] where the folder cannot be read or holds no spool. Damage is no error.
pub fn list(dir: &Path) -> Result<Summary, InspectError> {
    let (meta, meta_slots) = read_meta(dir)?;
    let mut lanes = Vec::new();
    for name in lane_names(dir, meta.as_ref())? {
        let lane = meta.iter().flat_map(|meta| &meta.lanes).find(|lane| lane.name == name);
        lanes.push(lane_summary(dir, name.clone(), meta.as_ref(), lane)?);
    }
    let losses = meta.iter().flat_map(losses).collect();
    let epoch = meta.map(|meta| meta.epoch);
    Ok(Summary { epoch, meta_slots, held: is_held(dir), lanes, losses, quarantined: quarantined(dir)? })
}

fn lane_summary(
    dir: &Path,
    name: String,
    meta: Option<&Meta>,
    lane: Option<&LaneMeta>,
) -> Result<LaneSummary, InspectError> {
    let mut summaries = Vec::new();
    for segment in segments(dir, &name, lane)? {
        let header = segment.header.filter(|header| meta.is_none_or(|meta| meta.epoch == header.epoch));
        let end = Position { segment: segment.number, offset: segment.end.unwrap_or(u64::MAX) };
        summaries.push(SegmentSummary {
            number: segment.number,
            bytes: segment.bytes,
            end: segment.end,
            delivered: is_delivered(lane, end),
            readable: header.is_some(),
            streams: header.into_iter().flat_map(|header| header.streams).map(|at| (at.name, at.next_seq)).collect(),
        });
    }
    let streams = lane.iter().flat_map(|lane| &lane.streams).map(|stream| StreamSummary {
        name: Arc::clone(&stream.name),
        next_seq: stream.next_seq,
        acked: stream.acked,
        lost: stream.lost,
    });
    Ok(LaneSummary { name, cursor: lane.map(|lane| lane.cursor), streams: streams.collect(), segments: summaries })
}

fn losses(meta: &Meta) -> impl Iterator<Item = Loss> + '_ {
    meta.losses.iter().map(|loss| Loss {
        id: loss.id,
        stream: Arc::clone(&meta.lanes[usize::from(loss.lane)].streams[usize::from(loss.stream)].name),
        from_seq: loss.from_seq,
        to_seq: loss.to_seq,
        count: loss.count,
        reason: loss.reason,
    })
}

fn quarantined(dir: &Path) -> Result<Vec<Quarantined>, InspectError> {
    let dir = dir.join("quarantine");
    let entries = match dir.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("read", &dir)(error)),
    };
    let file = |entry: std::fs::DirEntry| {
        Some(Quarantined { name: entry.file_name().into_string().ok()?, bytes: entry.metadata().ok()?.len() })
    };
    let mut files: Vec<Quarantined> = entries.filter_map(|entry| file(entry.ok()?)).collect();
    files.sort_unstable_by(|left, right| left.name.cmp(&right.name));
    Ok(files)
}
