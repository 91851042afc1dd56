//! Reading: one large read, its frames handed out as slices of it.

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use tidegate_storage::{Access, Buffer, Pool, Storage};
use tracing::{error, warn};

use super::{
    Engine, MAX_MARKS,
    lane::{Mark, Reader, Segment},
};
use crate::{
    api::{Entry, LaneId, LossReason, Position, ReadFrom},
    fault::{At as _, Fault},
    format::{
        BLOCK, BLOCK_BYTES, FIRST_FRAME,
        frame::{Head, Kind, MAX_PAYLOAD},
        walk::{Event, Walk},
    },
};

/// What cannot be read is tried this often before it counts as damage.
const TRIES: u32 = 3;

/// Bytes of a segment.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Bytes,
    /// Their offset in the segment.
    pub(super) start: u64,
}

/// What the blocks around `offset..offset + wanted` are, up to `end`.
pub(super) fn blocks(offset: u64, wanted: usize, end: u64) -> (u64, usize) {
    let start = offset - offset % BLOCK_BYTES;
    let stop = (offset + wanted as u64).min(end).next_multiple_of(BLOCK_BYTES);
    (start, usize::try_from(stop - start).expect("a chunk is at most a few MiB"))
}

/// A buffer as wide as was asked for: what the file no longer holds reads as zeros, which are no frame.
pub(super) fn widen(mut buffer: Buffer, length: usize) -> Buffer {
    let missing = length - buffer.len();
    buffer.extend_zeros(missing);
    buffer
}

impl<S: Storage> Engine<S> {
    pub(super) async fn read(&mut self, lane: LaneId, from: ReadFrom, max_bytes: usize) -> Result<Vec<Entry>, Fault> {
        let index = usize::from(lane.0);
        let Some(lane) = self.lanes.get(index) else { return Ok(Vec::new()) };
        let mut at = match from {
            ReadFrom::Cursor => lane.cursor,
            ReadFrom::After(position) => position,
        };
        let max_bytes = max_bytes.clamp(BLOCK, MAX_PAYLOAD);
        let mut entries = Vec::new();
        // Segments behind the place, or the oldest where the place itself was evicted.
        while let Some(segment) = self.lanes[index].segment_from(at.segment).copied() {
            if segment.number > at.segment {
                at = Position { segment: segment.number, offset: FIRST_FRAME };
            }
            let at_frame = at.offset.max(FIRST_FRAME).next_multiple_of(8);
            if at_frame < segment.end {
                self.enter(index, segment.number).await;
                self.read_segment(index, &segment, at_frame, max_bytes, &mut entries).await?;
                if !entries.is_empty() || self.lanes[index].marks.len() >= MAX_MARKS {
                    break;
                }
            }
            at = Position { segment: segment.number + 1, offset: 0 };
        }
        Ok(entries)
    }

    async fn read_segment(
        &mut self,
        index: usize,
        segment: &Segment,
        offset: u64,
        max_bytes: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<(), Fault> {
        let mut walk = Walk { at: offset, end: segment.end, salt: segment.salt };
        let mut chunk = self.load(index, segment, offset, max_bytes).await?;
        let mut taken = 0;
        loop {
            match walk.next(&chunk.bytes, chunk.start) {
                Event::Frame(head, payload) if head.kind == Kind::Record => {
                    let position = Position { segment: segment.number, offset: walk.at };
                    if !self.account(index, head, position) {
                        return Ok(());
                    }
                    let Some(stream) = self.lanes[index].streams.get(usize::from(head.stream)) else { continue };
                    taken += head.length;
                    entries.push(Entry {
                        position,
                        stream: Arc::clone(&stream.name),
                        seq: head.seq,
                        ts_ms: head.ts_ms,
                        payload: chunk.bytes.slice(payload),
                    });
                    if taken >= max_bytes {
                        return Ok(());
                    }
                }
                Event::Frame(..) => {}
                Event::Hole(hole) => self.keep_hole(index, segment, &chunk, &hole).await,
                Event::More(_) if !entries.is_empty() => return Ok(()),
                Event::More(wanted) => chunk = self.load(index, segment, walk.at, wanted.max(max_bytes)).await?,
                Event::End => return Ok(()),
            }
        }
    }

    /// Notes that a reader has come to this record. A gap before it in its stream is a loss that is counted here,
    /// once. Says no where so much was read ahead of the cursor that the reader has to acknowledge first.
    fn account(&mut self, index: usize, head: Head, position: Position) -> bool {
        let lane = &self.lanes[index];
        let id = usize::from(head.stream);
        if position > lane.marked && lane.marks.len() >= MAX_MARKS {
            return false;
        }
        // Its name is lost with the frame and both slots of the meta file that held it.
        let Some(stream) = lane.streams.get(id) else {
            error!(lane = %lane.options.name, stream = head.stream, seq = head.seq, "record of a stream without a name is skipped");
            return true;
        };
        if head.seq > stream.accounted {
            let doubtful = lane.doubt.is_some_and(|doubt| position.segment == doubt.segment && position > doubt);
            let reason = if doubtful { LossReason::Unknown } else { LossReason::Damaged };
            self.lose_gap(index, id, reason, stream.accounted, head.seq);
        }
        let lane = &mut self.lanes[index];
        lane.streams[id].accounted = lane.streams[id].accounted.max(head.seq + 1);
        if position > lane.marked {
            lane.marked = position;
            lane.marks.push_back(Mark { position, stream: head.stream, seq: head.seq, ts_ms: head.ts_ms });
        }
        true
    }

    /// Compares what was read before a segment with what its header says was written before it.
    async fn enter(&mut self, index: usize, number: u64) {
        if number <= self.lanes[index].entered {
            return;
        }
        self.lanes[index].entered = number;
        for at in self.table_of(index, number).await.unwrap_or_default() {
            let id = usize::from(at.id);
            let Some(stream) = self.lanes[index].streams.get_mut(id) else { continue };
            let expected = stream.accounted;
            stream.accounted = expected.max(at.next_seq);
            if at.skipped && expected < at.next_seq {
                self.lose(index, id, LossReason::Unknown, expected, at.next_seq - 1);
            } else if expected < at.next_seq {
                self.lose_gap(index, id, LossReason::Damaged, expected, at.next_seq);
            }
        }
    }

    /// Records `from..to` of a stream are not where they should be.
    fn lose_gap(&mut self, index: usize, stream: usize, reason: LossReason, from: u64, to: u64) {
        let count = self.lose(index, stream, reason, from, to - 1);
        self.counters.damaged += count;
        let lane = &mut self.lanes[index];
        lane.pending = lane.pending.saturating_sub(count);
    }

    /// Keeps a copy of bytes that are no frame. A hole that may be a commit cut short is no damage to look at.
    async fn keep_hole(&mut self, index: usize, segment: &Segment, chunk: &Chunk, hole: &std::ops::Range<u64>) {
        let lane = &self.lanes[index];
        let position = Position { segment: segment.number, offset: hole.start };
        if lane.doubt.is_some_and(|doubt| position.segment == doubt.segment && position >= doubt) {
            return;
        }
        let what = format!("{}-{:016x}-{:08x}.part", lane.options.name, segment.number, hole.start);
        warn!(lane = %lane.options.name, segment = segment.number, from = hole.start, to = hole.end, "damaged bytes are skipped");
        let range = [hole.start, hole.end].map(|offset| usize::try_from(offset - chunk.start).unwrap_or(usize::MAX));
        let bytes = chunk.bytes.get(range[0]..range[1].min(chunk.bytes.len())).unwrap_or_default();
        self.quarantine.keep(&self.storage, &self.pool, &what, bytes).await;
    }

    /// Reads the blocks around `offset..offset + wanted`.
    async fn load(&mut self, index: usize, segment: &Segment, offset: u64, wanted: usize) -> Result<Chunk, Fault> {
        let (start, length) = blocks(offset, wanted, segment.end);
        let mut buffer = self.pool.take(length);
        buffer.set_len(length);
        let path = self.segment_path(index, segment.number);
        if self.lanes[index].reader.as_ref().is_none_or(|reader| reader.segment != segment.number) {
            if let Some(other) = self.lanes[index].reader.take() {
                self.storage.close(other.file).await;
            }
            let file = self.storage.open(&path, Access::Read, self.direct).await.at("open", &path)?;
            self.lanes[index].reader = Some(Reader { segment: segment.number, file });
        }
        let file = &self.lanes[index].reader.as_ref().expect("opened above").file;
        let (read, buffer) = self.storage.read(file, buffer, start).await;
        let buffer = match read {
            Ok(()) => {
                self.lanes[index].refused = None;
                widen(buffer, length)
            }
            Err(error) => {
                let position = Position { segment: segment.number, offset: start };
                let tries =
                    self.lanes[index].refused.filter(|(at, _)| *at == position).map_or(1, |(_, tries)| tries + 1);
                self.lanes[index].refused = Some((position, tries));
                if tries < TRIES {
                    return Err(error).at("read", &path);
                }
                let file = &self.lanes[index].reader.as_ref().expect("opened above").file;
                read_blocks(&self.storage, file, &self.pool, start, length).await.0
            }
        };
        Ok(Chunk { bytes: Bytes::from_owner(buffer), start })
    }

    /// Time of the record at the cursor.
    pub(super) async fn peek_oldest(&mut self, index: usize) -> Option<u64> {
        let mut at = self.lanes[index].cursor;
        let segment = self.lanes[index].segment_from(at.segment).copied()?;
        if segment.number > at.segment {
            at = Position { segment: segment.number, offset: FIRST_FRAME };
        }
        let offset = at.offset.max(FIRST_FRAME);
        let chunk = self.load(index, &segment, offset, BLOCK).await.ok()?;
        let mut walk = Walk { at: offset, end: segment.end, salt: segment.salt };
        loop {
            // The header is enough: the payload need not be in the chunk.
            let bytes = chunk.bytes.get(usize::try_from(walk.at - chunk.start).ok()?..)?;
            let head = crate::format::frame::head(bytes, walk.at, walk.end, walk.salt)?;
            if head.kind == Kind::Record {
                return Some(head.ts_ms);
            }
            walk.at += head.frame_bytes() as u64;
        }
    }
}

/// Opens for reading, and again where the system refuses.
pub(super) async fn open_again<S: Storage>(storage: &S, path: &Path, direct: bool) -> io::Result<S::File> {
    let mut tries = 0;
    loop {
        let opened = storage.open(path, Access::Read, direct).await;
        tries += 1;
        if opened.is_ok() || tries == TRIES {
            return opened;
        }
    }
}

/// Reads, and again where the system refuses: what is small and decides much is not given up for
/// an error that passes.
pub(super) async fn read_again<S: Storage>(
    storage: &S,
    file: &S::File,
    pool: &Pool,
    offset: u64,
    length: usize,
) -> io::Result<Buffer> {
    let mut tries = 0;
    loop {
        let mut buffer = pool.take(length);
        buffer.set_len(length);
        let (read, buffer) = storage.read(file, buffer, offset).await;
        tries += 1;
        match read {
            Err(_) if tries < TRIES => {}
            other => return other.map(|()| buffer),
        }
    }
}

/// Reads block by block where a large read failed: blocks that cannot be read are zeros, and counted.
pub(super) async fn read_blocks<S: Storage>(
    storage: &S,
    file: &S::File,
    pool: &Pool,
    start: u64,
    length: usize,
) -> (Buffer, usize) {
    let mut whole = pool.take(length);
    let mut unreadable = 0;
    while whole.len() < length {
        if let Ok(block) = read_again(storage, file, pool, start + whole.len() as u64, BLOCK).await {
            whole.extend(&widen(block, BLOCK));
        } else {
            unreadable += 1;
            whole.extend_zeros(BLOCK);
        }
    }
    (whole, unreadable)
}
