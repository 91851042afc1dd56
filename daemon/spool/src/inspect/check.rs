//! Verifies every frame.

use std::{
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

use super::{CHUNK, Found, InspectError, lane_names, load, read_meta, segments};
use tidegate_storage::Pool;

use crate::{
    format::{
        FIRST_FRAME,
        frame::Kind,
        walk::{Event, Walk},
    },
    pool::pool,
};

/// Damaged ranges named for one file; [`FileReport::damaged_bytes`] counts on.
const MAX_RANGES: usize = 64;

/// What one file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// Lane; empty for the meta file.
    pub lane: String,
    /// Records whose checksums hold.
    pub records: u64,
    /// Bytes of whole frames.
    pub good_bytes: u64,
    /// Damaged ranges with good frames behind them, or in a sealed segment: the first 64.
    pub damaged: Vec<Range<u64>>,
    /// Bytes of all damaged ranges.
    pub damaged_bytes: u64,
    /// Bytes behind the last good frame of the segment that is written to: a commit cut short, or one under way.
    pub torn_bytes: u64,
    /// Why the file as a whole is not readable.
    pub problem: Option<String>,
}

impl FileReport {
    /// Whether anything in the file is lost. A torn end is not: nothing there was acknowledged.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.problem.is_some() || self.damaged_bytes > 0
    }
}

/// Verifies every frame of every lane and hands over a report for each file, the meta file first.
///
/// # Errors
///
/// [`InspectError`] where the folder cannot be read or holds no spool. Damage is no error.
pub fn check(dir: &Path, mut each: impl FnMut(FileReport)) -> Result<(), InspectError> {
    let (meta, slots) = read_meta(dir)?;
    let lanes = lane_names(dir, meta.as_ref())?;
    // One slot is empty until the second write.
    let problem = match (slots, meta.as_ref().map_or(0, |meta| meta.generation)) {
        (0, _) => Some("no valid slot: everything on disk is delivered again"),
        (1, 2..) => Some("one of two slots is damaged: the next write replaces it"),
        _ => None,
    };
    each(FileReport { path: dir.join("meta"), problem: problem.map(Into::into), ..FileReport::default() });
    let pool = pool();
    for lane in lanes {
        let known = meta.iter().flat_map(|meta| &meta.lanes).find(|known| known.name == lane);
        let epoch = meta.as_ref().map(|meta| meta.epoch);
        let found = segments(dir, &lane, known)?;
        let newest = found.last().map(|segment| segment.number);
        for segment in found {
            let is_open = newest == Some(segment.number) && segment.end.is_none();
            if let Some(report) = check_segment(&pool, &lane, &segment, epoch, is_open) {
                each(report);
            }
        }
    }
    Ok(())
}

/// `None` if the segment has gone meanwhile.
fn check_segment(
    pool: &Pool,
    lane: &str,
    segment: &Found,
    epoch: Option<[u8; 16]>,
    is_open: bool,
) -> Option<FileReport> {
    let mut report = FileReport { path: segment.path.clone(), lane: lane.to_owned(), ..FileReport::default() };
    let file = match File::open(&segment.path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            report.problem = Some(error.to_string());
            return Some(report);
        }
    };
    let header = match &segment.header {
        None => Err("not readable as a segment of this lane"),
        Some(header) if epoch.is_some_and(|epoch| epoch != header.epoch) => Err("a segment of another spool"),
        Some(header) => Ok(header),
    };
    let header = match header {
        Ok(header) => header,
        Err(problem) => {
            report.problem = Some(problem.into());
            return Some(report);
        }
    };
    let mut walk = Walk { at: FIRST_FRAME, end: segment.end.unwrap_or(segment.bytes), salt: header.frame_salt() };
    let (mut chunk, mut start) = (pool.take(1), FIRST_FRAME);
    // The hole since the last frame, and where its last byte that is not zero lies.
    let mut hole: Option<Range<u64>> = None;
    let mut dirty_to = FIRST_FRAME;
    loop {
        match walk.next(&chunk, start) {
            Event::Frame(head, _) => {
                report.good_bytes += head.frame_bytes() as u64;
                report.records += u64::from(head.kind == Kind::Record);
                if let Some(hole) = hole.take() {
                    report.add_damage(hole);
                }
            }
            Event::Hole(range) => {
                let [from, to] = [range.start, range.end].map(|at| usize::try_from(at - start).unwrap_or(usize::MAX));
                let bytes = chunk.get(from..to.min(chunk.len())).unwrap_or_default();
                if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                    dirty_to = range.start + last as u64 + 1;
                }
                hole = Some(hole.map_or(range.start, |hole| hole.start)..range.end);
            }
            Event::More(wanted) => {
                start = walk.at;
                let readable;
                (chunk, readable) = load(&file, pool, start, wanted.max(CHUNK));
                if !readable {
                    report.problem = Some("parts cannot be read".into());
                }
            }
            Event::End => break,
        }
    }
    if let Some(hole) = hole {
        if is_open {
            report.torn_bytes = dirty_to.saturating_sub(hole.start);
        } else if segment.end.is_some() || dirty_to > hole.start {
            report.add_damage(hole);
        }
    }
    Some(report)
}

impl FileReport {
    fn add_damage(&mut self, range: Range<u64>) {
        self.damaged_bytes += range.end - range.start;
        if self.damaged.len() < MAX_RANGES {
            self.damaged.push(range);
        }
    }
}
