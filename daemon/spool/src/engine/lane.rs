//! State of one lane: its streams, its segments, its cursor. No I/O.

use std::{collections::VecDeque, path::PathBuf, sync::Arc};

use bytes::Bytes;

use crate::{
    api::{LaneOptions, Position},
    format::{
        FIRST_FRAME,
        frame::Salt,
        header::StreamAt,
        meta::{LaneMeta, StreamMeta},
    },
};

/// One stream of a lane. `acked <= accounted <= next_seq`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) name: Arc<str>,
    /// Sequence of the next record.
    pub(crate) next_seq: u64,
    /// The meta file on disk says that no sequence at or above this is used.
    pub(crate) reserved: u64,
    /// All below were acknowledged or are lost.
    pub(crate) acked: u64,
    /// All below were handed to a reader or are lost: a gap is found once, however often it is read over.
    pub(crate) accounted: u64,
    /// Records lost for good.
    pub(crate) lost: u64,
    /// Numbers just before `next_seq` were skipped by recovery.
    pub(crate) skipped: bool,
}

impl Stream {
    pub(crate) const fn starting_at(name: Arc<str>, seq: u64) -> Self {
        Self { name, next_seq: seq, reserved: seq, acked: seq, accounted: seq, lost: 0, skipped: false }
    }
}

/// A segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    /// Length of the file.
    pub(crate) bytes: u64,
    /// Where the log leaves it. For the one that is written to, where the last commit ended.
    pub(crate) end: u64,
    /// Length it was made with.
    pub(crate) size: u64,
    pub(crate) salt: Salt,
}

/// The segment that is written to.
#[derive(Debug)]
pub(crate) struct Active<F> {
    pub(crate) file: F,
    /// Streams whose names stand in it, in the header or in a frame.
    pub(crate) named: usize,
}

/// An open file for reading.
#[derive(Debug)]
pub(crate) struct Reader<F> {
    pub(crate) segment: u64,
    pub(crate) file: F,
}

/// A record that was read and not yet acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) position: Position,
    pub(crate) stream: u16,
    pub(crate) seq: u64,
    pub(crate) ts_ms: u64,
}

/// A record on its way into the lane, held until its commit is on stable storage.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    pub(crate) stream: u16,
    pub(crate) seq: u64,
    pub(crate) ts_ms: u64,
    pub(crate) payload: Bytes,
}

#[derive(Debug)]
pub(crate) struct Lane<F> {
    pub(crate) options: LaneOptions,
    pub(crate) dir: PathBuf,
    pub(crate) streams: Vec<Stream>,
    /// Oldest first; the active one is the last.
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) active: Option<Active<F>>,
    /// Highest segment number ever used.
    pub(crate) newest: u64,
    /// Where the next commit goes.
    pub(crate) end: Position,
    pub(crate) cursor: Position,
    /// Holes behind this place may be commits that were never acknowledged.
    pub(crate) doubt: Option<Position>,
    /// Records read and not acknowledged, oldest first.
    pub(crate) marks: VecDeque<Mark>,
    /// Everything before has or had its mark.
    pub(crate) marked: Position,
    /// Highest segment whose header was compared with what was read before it.
    pub(crate) entered: u64,
    pub(crate) reader: Option<Reader<F>>,
    /// Where reading failed last, and how often in a row.
    pub(crate) refused: Option<(Position, u32)>,
    pub(crate) staged: VecDeque<Staged>,
    pub(crate) pending: u64,
    pub(crate) oldest: Oldest,
}

/// Time of the oldest record that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oldest {
    /// To be read from disk.
    Stale,
    Known(Option<u64>),
}

impl<F> Lane<F> {
    pub(crate) fn new(options: LaneOptions, dir: PathBuf) -> Self {
        Self {
            options,
            dir,
            streams: Vec::new(),
            segments: VecDeque::new(),
            active: None,
            newest: 0,
            end: Position::default(),
            cursor: Position::default(),
            doubt: None,
            marks: VecDeque::new(),
            marked: Position::default(),
            entered: 0,
            reader: None,
            refused: None,
            staged: VecDeque::new(),
            pending: 0,
            oldest: Oldest::Known(None),
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Index of a stream, by name.
    pub(crate) fn stream(&self, name: &str) -> Option<usize> {
        self.streams.iter().position(|stream| *stream.name == *name)
    }

    /// The first segment at or behind `number`.
    pub(crate) fn segment_from(&self, number: u64) -> Option<&Segment> {
        let index = self.segments.partition_point(|segment| segment.number < number);
        self.segments.get(index)
    }

    /// The oldest segment, if it lies wholly before the cursor. The newest one stays: it says where the streams stand.
    pub(crate) fn delivered_segment(&self) -> Option<u64> {
        let oldest = self.segments.front().filter(|_| self.segments.len() > 1)?;
        (oldest.number < self.cursor.segment).then_some(oldest.number)
    }

    /// The streams as a header made now lists them.
    pub(crate) fn table(&self) -> Vec<StreamAt> {
        let at = |(id, stream): (usize, &Stream)| StreamAt {
            id: u16::try_from(id).expect("a lane has at most 36 streams"),
            name: Arc::clone(&stream.name),
            next_seq: self.settled_seq(id),
            skipped: stream.skipped,
        };
        self.streams.iter().enumerate().map(at).collect()
    }

    /// Moves the cursor, and with it the streams' acknowledged sequences, to the last record that was read at
    /// or before `position`. Returns whether it moved.
    pub(crate) fn acknowledge(&mut self, position: Position) -> bool {
        let mut moved = false;
        while let Some(mark) = self.marks.front().copied().filter(|mark| mark.position <= position) {
            self.marks.pop_front();
            if let Some(stream) = self.streams.get_mut(usize::from(mark.stream)) {
                stream.acked = stream.acked.max(mark.seq + 1);
            }
            self.cursor = mark.position;
            self.pending = self.pending.saturating_sub(1);
            moved = true;
        }
        if moved {
            self.settle();
        }
        moved
    }

    /// Brings what depends on the cursor in line with it: a cursor at the end of a segment stands at the start of
    /// the next, and a drained lane has nothing pending.
    pub(crate) fn settle(&mut self) {
        while let Some(segment) = self.segment_from(self.cursor.segment).copied() {
            if segment.number > self.cursor.segment {
                self.cursor = Position { segment: segment.number, offset: FIRST_FRAME };
            }
            let is_last = self.segments.back().is_none_or(|last| last.number == segment.number);
            if is_last || self.cursor.offset < segment.end {
                break;
            }
            self.cursor = Position { segment: segment.number + 1, offset: FIRST_FRAME };
        }
        self.marked = self.marked.max(self.cursor);
        if self.cursor >= self.end {
            self.pending = 0;
        }
        self.oldest = match self.marks.front() {
            _ if self.pending == 0 => Oldest::Known(None),
            Some(mark) => Oldest::Known(Some(mark.ts_ms)),
            None => Oldest::Stale,
        };
    }

    /// Gives back the sequences of records that could not be written. None of their bytes will be read: the next
    /// segment's header says that the log left the previous one before them.
    pub(crate) fn unstage(&mut self) {
        for record in self.staged.drain(..).rev() {
            self.streams[usize::from(record.stream)].next_seq = record.seq;
        }
    }

    pub(crate) fn to_meta(&self) -> LaneMeta {
        let stream = |(index, stream): (usize, &Stream)| StreamMeta {
            name: Arc::clone(&stream.name),
            next_seq: self.settled_seq(index),
            reserved: stream.reserved,
            acked: stream.acked,
            lost: stream.lost,
            skipped: stream.skipped,
        };
        LaneMeta {
            name: self.options.name.clone(),
            sealed: self.active.is_none(),
            cursor: self.cursor,
            end: self.end,
            newest: self.newest,
            doubt: self.doubt,
            streams: self.streams.iter().enumerate().map(stream).collect(),
        }
    }

    /// The sequence behind the stream's last record on stable storage: what is staged does not count.
    fn settled_seq(&self, index: usize) -> u64 {
        let staged = self.staged.iter().find(|record| usize::from(record.stream) == index);
        staged.map_or(self.streams[index].next_seq, |record| record.seq)
    }

    pub(crate) fn restore(&mut self, meta: &LaneMeta) {
        (self.cursor, self.end, self.newest, self.doubt) = (meta.cursor, meta.end, meta.newest, meta.doubt);
        self.streams = meta
            .streams
            .iter()
            .map(|stream| Stream {
                name: Arc::clone(&stream.name),
                next_seq: stream.next_seq,
                reserved: stream.reserved,
                acked: stream.acked,
                // What a reader of the last process held is read, and compared, again.
                accounted: stream.acked,
                lost: stream.lost,
                skipped: stream.skipped,
            })
            .collect();
    }
}
