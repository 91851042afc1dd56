//! Group commit: everything that waits becomes one write and one sync a lane.

use std::sync::Arc;

use tidegate_storage::{Buffer, Storage};
use tokio::sync::oneshot;
use tracing::warn;

use super::{
    Engine,
    join::join_all,
    lane::{Oldest, Staged, Stream},
};
use crate::{
    api::{Append, AppendError, Spool},
    fault::{At as _, Fault},
    format::{
        BLOCK, BLOCK_BYTES, FIRST_FRAME, MAX_STREAM_NAME, MAX_STREAMS,
        frame::{self, Head, frame_bytes},
    },
};

type Reply = oneshot::Sender<Result<Vec<u64>, AppendError>>;

/// A producer whose batch is part of the commit.
#[derive(Debug)]
pub(super) struct Waiting {
    reply: Reply,
    seqs: Vec<u64>,
    /// Lanes of its records, one bit each.
    lanes: u8,
}

/// What the producers in a commit are to be told.
#[derive(Debug, Default)]
pub(super) struct Answers {
    waiting: Vec<Waiting>,
    /// By lane, why it failed.
    failed: Vec<Option<String>>,
}

impl Answers {
    pub(super) fn send(self) {
        for waiting in self.waiting {
            let mut failed = self.failed.iter().enumerate().filter(|(lane, _)| waiting.lanes & (1 << lane) != 0);
            let answer = match failed.find_map(|(_, reason)| reason.clone()) {
                None => Ok(waiting.seqs),
                Some(reason) => Err(AppendError::Paused(reason)),
            };
            // Who no longer waits for an answer needs none.
            let _sent = waiting.reply.send(answer);
        }
    }
}

/// What one write puts into one lane's segment.
struct Job {
    lane: usize,
    buffer: Buffer,
    offset: u64,
    /// How many staged records it holds.
    records: usize,
    /// How many of the lane's streams are named in the segment then.
    named: usize,
}

/// A segment must take the largest record with the name of its stream, and padding.
const ROOM_FOR_OTHERS: u64 = FIRST_FRAME + frame_bytes(MAX_STREAM_NAME) as u64 + 2 * BLOCK_BYTES;

/// Largest payload that fits in a segment of this size.
pub(crate) fn payload_limit(segment_size_bytes: u64) -> usize {
    let room = usize::try_from(segment_size_bytes.saturating_sub(ROOM_FOR_OTHERS)).unwrap_or(usize::MAX);
    room.min(Spool::MAX_PAYLOAD_BYTES)
}

/// Where a commit that holds `length` bytes and starts at `offset` ends, with its padding under `O_DIRECT`.
const fn padded_end(offset: u64, length: usize, direct: bool) -> u64 {
    let end = offset + length as u64;
    if !direct || end.is_multiple_of(BLOCK_BYTES) {
        return end;
    }
    // A padding frame needs room for its header.
    (end + frame::HEADER as u64).next_multiple_of(BLOCK_BYTES)
}

impl<S: Storage> Engine<S> {
    /// Takes a batch into the commit that is being gathered, or refuses it whole.
    pub(super) fn stage(&mut self, batch: Vec<Append>, reply: Reply) {
        let refused = match &self.paused {
            Some(pause) => Err(AppendError::Paused(pause.reason.clone())),
            None => self.check(&batch),
        };
        if let Err(error) = refused {
            let _caller_gone = reply.send(Err(error));
            return;
        }
        let mut waiting = Waiting { reply, seqs: Vec::with_capacity(batch.len()), lanes: 0 };
        for append in batch {
            let lane = &mut self.lanes[usize::from(append.lane.0)];
            let index = lane.stream(&append.stream).expect("`check` has added the stream");
            let stream = &mut lane.streams[index];
            let seq = stream.next_seq;
            stream.next_seq += 1;
            waiting.seqs.push(seq);
            waiting.lanes |= 1 << append.lane.0;
            self.staged_bytes += frame_bytes(append.payload.len());
            let stream = u16::try_from(index).expect("a lane has at most 36 streams");
            lane.staged.push_back(Staged { stream, seq, ts_ms: append.ts_ms, payload: append.payload });
        }
        self.waiting.push(waiting);
    }

    /// Whether the whole batch can be taken. Streams that are new get their place.
    fn check(&mut self, batch: &[Append]) -> Result<(), AppendError> {
        let limit = payload_limit(self.segment_size_bytes);
        for append in batch {
            let known_lane = usize::from(append.lane.0) < self.lanes.len();
            if !known_lane || !(1..=MAX_STREAM_NAME).contains(&append.stream.len()) {
                return Err(AppendError::BadStream);
            }
            let size = append.payload.len();
            if size > limit {
                return Err(AppendError::TooLarge { size, limit });
            }
        }
        for append in batch {
            let lane = &mut self.lanes[usize::from(append.lane.0)];
            if lane.stream(&append.stream).is_none() {
                if lane.streams.len() == MAX_STREAMS {
                    return Err(AppendError::TooManyStreams { limit: MAX_STREAMS });
                }
                lane.streams.push(Stream::starting_at(Arc::clone(&append.stream), 1));
            }
        }
        Ok(())
    }

    /// Writes and syncs what was staged.
    pub(super) async fn commit(&mut self) -> Answers {
        if self.waiting.is_empty() {
            return Answers::default();
        }
        // The reason for which a lane failed; and whether it may still try a fresh segment.
        let mut failed: Vec<Option<String>> = vec![None; self.lanes.len()];
        let mut tried_anew = vec![false; self.lanes.len()];
        loop {
            let mut jobs = Vec::with_capacity(self.lanes.len());
            for (lane, failure) in failed.iter_mut().enumerate() {
                if self.lanes[lane].staged.is_empty() {
                    continue;
                }
                match self.prepare(lane).await {
                    Ok(job) => jobs.push(job),
                    Err(fault) => *failure = Some(self.give_up(lane, &fault)),
                }
            }
            if jobs.is_empty() {
                break;
            }
            for (job, done) in self.run_jobs(jobs).await {
                match done {
                    Ok(()) => self.committed(&job),
                    Err(fault) => {
                        // The pages of a failed sync are clean in the kernel's eyes and may never reach the
                        // disk: nothing may be added behind them, and syncing again would only claim success.
                        self.abandon(job.lane).await;
                        if std::mem::replace(&mut tried_anew[job.lane], true) {
                            failed[job.lane] = Some(self.give_up(job.lane, &fault));
                        } else {
                            warn!(error = %fault, "write failed, writing anew into a fresh segment");
                        }
                    }
                }
            }
            self.counters.commits += 1;
        }
        self.staged_bytes = 0;
        Answers { waiting: std::mem::take(&mut self.waiting), failed }
    }

    fn give_up(&mut self, lane: usize, fault: &Fault) -> String {
        self.lanes[lane].unstage();
        self.pause(lane, fault)
    }

    /// Encodes as many staged records as the segment, or one write, takes; goes to a new segment if none fits.
    async fn prepare(&mut self, index: usize) -> Result<Job, Fault> {
        if self.lanes[index].active.is_none() || self.fitting(index).0 == 0 {
            self.roll(index).await?;
        }
        let lane = &self.lanes[index];
        if lane.staged.iter().any(|record| record.seq >= lane.streams[usize::from(record.stream)].reserved) {
            self.reserve(index).await?;
        }
        let (records, length, named) = self.fitting(index);
        let lane = &self.lanes[index];
        let offset = lane.end.offset;
        let salt = lane.segments.back().expect("the active segment is in the list").salt;
        let already_named = lane.active.as_ref().expect("rolled above").named;
        let end = padded_end(offset, length, self.direct);
        let capacity = usize::try_from(end - offset).expect("at most a segment");
        let mut buffer = self.pool.take(capacity);
        for (id, stream) in lane.streams.iter().enumerate().take(named).skip(already_named) {
            let head = Head::stream_name(u16::try_from(id).expect("a lane has at most 36 streams"));
            frame::put(&mut buffer, offset, salt, head, stream.name.as_bytes());
        }
        let mut last = 0;
        for record in lane.staged.iter().take(records) {
            last = buffer.len();
            let head = Head::record(record.stream, record.seq, record.ts_ms);
            frame::put(&mut buffer, offset, salt, head, &record.payload);
        }
        if buffer.len() < capacity {
            last = buffer.len();
            let zeros = [0; 2 * BLOCK];
            frame::put(&mut buffer, offset, salt, Head::padding(), &zeros[..capacity - last - frame::HEADER]);
        }
        frame::mark_last(&mut buffer, last, offset, salt);
        Ok(Job { lane: index, buffer, offset, records, named })
    }

    /// How many staged records go into the next write, their bytes, and how many streams are named then.
    fn fitting(&self, index: usize) -> (usize, usize, usize) {
        let lane = &self.lanes[index];
        let (Some(active), Some(segment)) = (&lane.active, lane.segments.back()) else { return (0, 0, 0) };
        let (mut records, mut length, mut named) = (0, 0, active.named);
        for record in &lane.staged {
            let stream = usize::from(record.stream);
            let unnamed = lane.streams.iter().take(stream + 1).skip(named);
            let added =
                unnamed.map(|stream| frame_bytes(stream.name.len())).sum::<usize>() + frame_bytes(record.payload.len());
            let fits = padded_end(lane.end.offset, length + added, self.direct) <= segment.size;
            if !fits || (records > 0 && length + added > super::MAX_COMMIT_BYTES) {
                break;
            }
            records += 1;
            length += added;
            named = named.max(stream + 1);
        }
        (records, length, named)
    }

    /// Writes and syncs, all lanes at once where the backend can.
    async fn run_jobs(&self, jobs: Vec<Job>) -> Vec<(Job, Result<(), Fault>)> {
        let run = |mut job: Job| async move {
            let lane = &self.lanes[job.lane];
            let file = &lane.active.as_ref().expect("prepared").file;
            let path = self.segment_path(job.lane, lane.end.segment);
            let length = job.buffer.len() as u64;
            let (written, buffer) = self.storage.write(file, job.buffer, job.offset).await;
            job.buffer = buffer;
            let done = match written.at("write", &path) {
                Ok(()) => self.storage.sync(file).await.at("fdatasync", &path),
                refused => refused,
            };
            debug_assert_eq!(job.buffer.len() as u64, length, "backends give the buffer back as it was");
            (job, done)
        };
        join_all(jobs.into_iter().map(run)).await
    }

    /// The job's bytes are on stable storage.
    fn committed(&mut self, job: &Job) {
        let lane = &mut self.lanes[job.lane];
        lane.end.offset = job.offset + job.buffer.len() as u64;
        if let (Some(active), Some(segment)) = (&mut lane.active, lane.segments.back_mut()) {
            active.named = job.named;
            segment.end = lane.end.offset;
        }
        if lane.pending == 0 {
            lane.oldest = Oldest::Known(lane.staged.front().map(|record| record.ts_ms));
        }
        lane.staged.drain(..job.records);
        lane.pending += job.records as u64;
        self.counters.appended += job.records as u64;
    }
}
