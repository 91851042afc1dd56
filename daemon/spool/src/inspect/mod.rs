//! Looks at a spool's files without opening it: read-only, no lock, whether a daemon runs on them or not.
//!
//! Segments that a running daemon removes meanwhile are left out. Memory is a chunk, and a few dozen bytes a
//! segment.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use tidegate_storage::{Buffer, Pool};

use crate::{
    api::Position,
    format::{
        BLOCK, FIRST_FRAME,
        header::{self, Header},
        meta::{self, LaneMeta, Meta, SLOT},
        segment_number,
    },
};

mod check;
mod list;
mod records;

pub use check::{FileReport, check};
pub use list::{LaneSummary, Quarantined, SegmentSummary, StreamSummary, Summary, list};
pub use records::{Record, Records, records};

/// Bytes read at once.
const CHUNK: usize = 128 * 1024;

/// Why a spool cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The system refused.
    #[error("{call} on {path}: {source}")]
    Io {
        /// System call.
        call: &'static str,
        /// File or folder.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
    /// There is no spool in the folder.
    #[error("{0} holds no spool: neither a meta file nor a lane")]
    NoSpool(PathBuf),
    /// The lane does not exist.
    #[error("no lane {wanted:?}, there are: {}", known.join(", "))]
    NoLane {
        /// Asked for.
        wanted: String,
        /// Found.
        known: Vec<String>,
    },
}

fn io_error(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InspectError {
    let path = path.to_owned();
    move |source| InspectError::Io { call, path, source }
}

/// A segment file as found.
#[derive(Debug)]
struct Found {
    path: PathBuf,
    number: u64,
    bytes: u64,
    /// `None` where it is not readable as a segment of this lane.
    header: Option<Header>,
    /// Where the log leaves it, as far as that is known.
    end: Option<u64>,
}

/// The newer valid slot of the meta file, and how many of the two are valid.
fn read_meta(dir: &Path) -> Result<(Option<Meta>, usize), InspectError> {
    let path = dir.join("meta");
    let bytes = match File::open(&path) {
        Ok(file) => {
            let mut bytes = vec![0; 2 * SLOT];
            let filled = read_at(&file, &mut bytes, 0).map_err(io_error("read", &path))?;
            bytes.truncate(filled);
            bytes
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(io_error("open", &path)(error)),
    };
    let slots: Vec<Meta> = bytes.chunks(SLOT).filter_map(meta::decode).collect();
    let valid = slots.len();
    Ok((slots.into_iter().max_by_key(|meta| meta.generation), valid))
}

/// Names of the lanes: those in the meta file, then other folders that hold segments.
fn lane_names(dir: &Path, meta: Option<&Meta>) -> Result<Vec<String>, InspectError> {
    let mut names: Vec<String> = meta.iter().flat_map(|meta| &meta.lanes).map(|lane| lane.name.clone()).collect();
    let mut others = Vec::new();
    for entry in dir.read_dir().map_err(io_error("read", dir))? {
        let entry = entry.map_err(io_error("read", dir))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && name != "quarantine" && !names.contains(&name) {
            let holds_segments = entry.path().read_dir().is_ok_and(|mut files| {
                files.any(|file| {
                    file.is_ok_and(|file| file.file_name().to_str().is_some_and(|name| segment_number(name).is_some()))
                })
            });
            if holds_segments {
                others.push(name);
            }
        }
    }
    others.sort_unstable();
    names.extend(others);
    if names.is_empty() { Err(InspectError::NoSpool(dir.to_owned())) } else { Ok(names) }
}

/// The lane's segment files, oldest first, with what their headers say.
fn segments(dir: &Path, lane: &str, meta: Option<&LaneMeta>) -> Result<Vec<Found>, InspectError> {
    let dir = dir.join(lane);
    let mut found: Vec<Found> = Vec::new();
    let entries = match dir.read_dir() {
        Ok(entries) => entries,
        // Known to the meta file, and nothing was ever written to it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(io_error("read", &dir)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(io_error("read", &dir))?;
        let Some(number) = entry.file_name().to_str().and_then(segment_number) else { continue };
        // Gone meanwhile: delivered, or evicted.
        let Ok(bytes) = fs::metadata(entry.path()).map(|metadata| metadata.len()) else { continue };
        found.push(Found { path: entry.path(), number, bytes, header: None, end: None });
    }
    found.sort_unstable_by_key(|segment| segment.number);
    let mut block = vec![0; BLOCK];
    let mut previous: Option<usize> = None;
    for index in 0..found.len() {
        let segment = &found[index];
        let Ok(file) = File::open(&segment.path) else { continue };
        let filled = read_at(&file, &mut block, 0).unwrap_or(0);
        let header = header::decode(&block[..filled]);
        let header = header.filter(|header| header.number == segment.number && header.lane == lane);
        let Some(header) = header else { continue };
        if let Some(previous) = previous.replace(index) {
            let previous = &mut found[previous];
            previous.end = match header.previous_end.segment.cmp(&previous.number) {
                std::cmp::Ordering::Equal => Some(header.previous_end.offset),
                std::cmp::Ordering::Less => Some(FIRST_FRAME),
                std::cmp::Ordering::Greater => None,
            };
        }
        found[index].header = Some(header);
    }
    if let (Some(meta), Some(last)) = (meta.filter(|meta| meta.sealed), found.last_mut())
        && meta.end.segment == last.number
    {
        last.end = Some(meta.end.offset);
    }
    Ok(found)
}

/// Whether a daemon holds the spool.
fn is_held(dir: &Path) -> bool {
    let Ok(lock) = File::open(dir.join("lock")) else { return false };
    // Shared, and released at once: it disturbs nobody but a daemon that starts in this very instant.
    flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Fills `bytes`; returns how many there were.
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The file's bytes from `offset` on, and whether they could be read; what cannot be reads as zeros.
fn load(file: &File, pool: &Pool, offset: u64, length: usize) -> (Buffer, bool) {
    let mut buffer = pool.take(length);
    buffer.extend_zeros(length);
    let readable = read_at(file, buffer.as_mut(), offset).is_ok();
    (buffer, readable)
}

/// Whether the cursor has passed a place.
fn is_delivered(meta: Option<&LaneMeta>, position: Position) -> bool {
    meta.is_some_and(|meta| position <= meta.cursor)
}
