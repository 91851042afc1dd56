//! Streams the records of a lane, oldest first.

use std::{collections::VecDeque, fs::File, path::Path, sync::Arc};

use bytes::Bytes;

use super::{CHUNK, Found, InspectError, is_delivered, lane_names, load, read_meta, segments};
use tidegate_storage::Pool;

use crate::{
    api::Position,
    format::{
        FIRST_FRAME,
        frame::Kind,
        meta::LaneMeta,
        walk::{Event, Walk},
    },
    pool::pool,
};

/// A record as it stands on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Place behind it.
    pub position: Position,
    /// Stream.
    pub stream: Arc<str>,
    /// Sequence.
    pub seq: u64,
    /// Time given at append, milliseconds since 1970.
    pub ts_ms: u64,
    /// Whether it was delivered, as far as the last checkpoint knows.
    pub delivered: bool,
    /// The record's bytes.
    pub payload: Bytes,
}

/// The records of one lane. What is damaged is left out; [`super::check`] tells of it.
#[derive(Debug)]
pub struct Records {
    segments: VecDeque<Found>,
    lane: Option<LaneMeta>,
    /// Names by index, from the meta file, headers and frames.
    names: Vec<Option<Arc<str>>>,
    stream: Option<String>,
    from_seq: u64,
    pool: Pool,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    number: u64,
    file: File,
    walk: Walk,
    chunk: Bytes,
    start: u64,
}

/// The records of a lane that stand on disk, all streams or one, from a sequence on.
///
/// # Errors
///
/// [`InspectError`] where the folder cannot be read or has no such lane.
pub fn records(dir: &Path, lane: &str, stream: Option<&str>, from_seq: u64) -> Result<Records, InspectError> {
    let (meta, _) = read_meta(dir)?;
    let known = lane_names(dir, meta.as_ref())?;
    if !known.iter().any(|name| name == lane) {
        return Err(InspectError::NoLane { wanted: lane.to_owned(), known });
    }
    let epoch = meta.as_ref().map(|meta| meta.epoch);
    let meta = meta.and_then(|meta| meta.lanes.into_iter().find(|meta| meta.name == lane));
    let mut segments = segments(dir, lane, meta.as_ref())?;
    segments
        .retain(|found| found.header.as_ref().is_some_and(|header| epoch.is_none_or(|epoch| header.epoch == epoch)));
    let names = meta.iter().flat_map(|meta| &meta.streams).map(|stream| Some(Arc::clone(&stream.name))).collect();
    Ok(Records {
        segments: segments.into(),
        lane: meta,
        names,
        stream: stream.map(str::to_owned),
        from_seq,
        pool: pool(),
        open: None,
    })
}

impl Records {
    fn name(&mut self, id: u16, name: Arc<str>) {
        let id = usize::from(id);
        if self.names.len() <= id {
            self.names.resize(id + 1, None);
        }
        self.names[id].get_or_insert(name);
    }

    /// Opens the next segment that is still there.
    fn open_next(&mut self) -> Option<Open> {
        loop {
            let found = self.segments.pop_front()?;
            let (Some(header), Ok(file)) = (found.header, File::open(&found.path)) else { continue };
            let salt = header.frame_salt();
            for at in header.streams {
                self.name(at.id, at.name);
            }
            let walk = Walk { at: FIRST_FRAME, end: found.end.unwrap_or(found.bytes), salt };
            return Some(Open { number: found.number, file, walk, chunk: Bytes::new(), start: FIRST_FRAME });
        }
    }
}

impl Iterator for Records {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        loop {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.open_next()?,
            };
            let event = open.walk.next(&open.chunk, open.start);
            let position = Position { segment: open.number, offset: open.walk.at };
            let mut found = None;
            match event {
                Event::End => continue,
                Event::Hole(_) => {}
                Event::More(wanted) => {
                    open.start = open.walk.at;
                    open.chunk = Bytes::from_owner(load(&open.file, &self.pool, open.start, wanted.max(CHUNK)).0);
                }
                Event::Frame(head, payload) => match head.kind {
                    Kind::Record => found = Some((head, open.chunk.slice(payload))),
                    Kind::StreamName => {
                        if let Ok(name) = str::from_utf8(&open.chunk[payload]) {
                            self.name(head.stream, name.into());
                        }
                    }
                    Kind::Padding => {}
                },
            }
            self.open = Some(open);
            let Some((head, payload)) = found else { continue };
            let Some(stream) = self.names.get(usize::from(head.stream)).cloned().flatten() else { continue };
            if head.seq >= self.from_seq && self.stream.as_ref().is_none_or(|wanted| **wanted == *stream) {
                let delivered = is_delivered(self.lane.as_ref(), position);
                return Some(Record { position, stream, seq: head.seq, ts_ms: head.ts_ms, delivered, payload });
            }
        }
    }
}
