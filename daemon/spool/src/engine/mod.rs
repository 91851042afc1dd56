//! The engine: one task on one thread that owns the files.
//!
//! Each round takes what waits in the channel: reads, acknowledgements and the like are answered at once, from
//! what is on stable storage; appends are gathered and become one commit.
//!
//! ```text
//!            ┌────────────── command or deadline ◄────────────┐
//!            ▼                                                │
//!   gather (reads answered, appends staged)                   │
//!            │                                                │
//!            ▼                   write or sync failed         │
//!   commit: write, sync a lane ───────────────────► anew, in a fresh segment
//!            │ ok                                             │ failed again
//!            ▼                                                ▼
//!   answer, release, publish ◄────────────────────── answer `Paused`, refuse intake,
//!                                                    try a fresh segment with back-off
//! ```

use std::{path::PathBuf, sync::Arc, time::Duration};

use tidegate_storage::{Pool, Storage};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};
use tracing::{error, info, warn};

use crate::{
    api::{Command, LaneId, Loss, LossReason, Position, Stats, StreamStats},
    fault::Fault,
    format::meta::LaneMeta,
};

mod checkpoint;
mod commit;
mod join;
mod lane;
mod ledger;
mod quarantine;
mod read;
mod recover;
mod segments;

use checkpoint::Checkpoint;
use commit::Waiting;
pub(crate) use commit::payload_limit;
use lane::{Lane, Oldest};
use ledger::Ledger;
use quarantine::Quarantine;

/// Ranges of loss kept until they are reported: more than there can be streams (8 lanes of 36), so that each
/// stream can always have one; 320 × 40 bytes in the meta slot.
pub(crate) const MAX_LOSSES: usize = 320;

/// Commands that may wait for the thread. One round drains them all, and a producer has one under way, so this
/// is the number of producers that one commit can serve; what they hold in memory is theirs to bound.
pub(crate) const MAX_COMMANDS: usize = 256;

/// A round stops gathering at this many bytes: large enough that the sync is amortised (64 to 128 KiB are, on
/// eMMC), small enough that the staged copy and the write buffer stay well inside the daemon's memory.
const MAX_COMMIT_BYTES: usize = 1 << 20;

/// Records that may be read ahead of the cursor: MQTT's largest Receive Maximum (65,535) in flight at once, at
/// 40 bytes each 2.5 MiB at worst.
pub(crate) const MAX_MARKS: usize = 65_536;

/// An acknowledged cursor is made durable this long after it moved. A crash in between delivers again what was
/// acknowledged in that time.
const CURSOR_DELAY: Duration = Duration::from_secs(1);

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Where randomness comes from: the system in production, a seed in tests.
#[derive(Clone, Debug)]
pub(crate) struct Entropy {
    /// Epoch for a spool that has none yet.
    pub(crate) epoch: [u8; 16],
    /// Salts of segments.
    pub(crate) salts: fastrand::Rng,
}

/// Intake is refused until a fresh segment can be made.
#[derive(Debug)]
struct Pause {
    reason: String,
    lane: usize,
    retry: Instant,
    delay: Duration,
}

/// Since start.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    appended: u64,
    commits: u64,
    damaged: u64,
}

/// Everything that is known about an open spool. In production its storage is [`tidegate_storage::Backend`], and this is
/// compiled once; tests have a model disk, too.
pub(crate) struct Engine<S: Storage> {
    storage: S,
    dir: PathBuf,
    max_size_bytes: u64,
    segment_size_bytes: u64,
    direct: bool,
    epoch: [u8; 16],
    salts: fastrand::Rng,
    pool: Pool,
    lanes: Vec<Lane<S::File>>,
    /// Lanes on disk that the options do not name: kept as they are.
    strangers: Vec<LaneMeta>,
    ledger: Ledger,
    checkpoint: Checkpoint<S::File>,
    quarantine: Quarantine,
    waiting: Vec<Waiting>,
    staged_bytes: usize,
    paused: Option<Pause>,
    /// When the cursors are to be made durable.
    cursor_due: Option<Instant>,
    counters: Counters,
    stats: watch::Sender<Stats>,
}

impl<S: Storage> Engine<S> {
    /// Serves commands until it is told to close or every handle is gone. Returns whom to tell that it is over, once
    /// the lock is released, too.
    pub(crate) async fn run(mut self, commands: &mut mpsc::Receiver<Command>) -> Option<oneshot::Sender<()>> {
        let mut closing = None;
        while closing.is_none() {
            let deadline = self.deadline();
            let mut next = match deadline {
                None => commands.recv().await,
                Some(deadline) => timeout_at(deadline, commands.recv()).await.unwrap_or_default(),
            };
            if next.is_none() && commands.is_closed() {
                break;
            }
            while let Some(command) = next {
                closing = self.serve(command).await;
                let full = self.staged_bytes >= MAX_COMMIT_BYTES || closing.is_some();
                next = if full { None } else { commands.try_recv().ok() };
            }
            let answers = self.commit().await;
            // Before the answers: who has one finds it in the figures.
            self.publish().await;
            answers.send();
            if self.tick().await {
                self.publish().await;
            }
        }
        // Senders learn now that nobody will take more.
        commands.close();
        self.close().await;
        closing
    }

    fn deadline(&self) -> Option<Instant> {
        let retry = self.paused.as_ref().map(|pause| pause.retry);
        [self.cursor_due, retry].into_iter().flatten().min()
    }

    /// Answers one command, or stages it. Returns the reply of a close.
    async fn serve(&mut self, command: Command) -> Option<oneshot::Sender<()>> {
        // Who no longer waits for an answer needs none: what `send` returns is of no interest here.
        match command {
            Command::Append { batch, reply } => self.stage(batch, reply),
            Command::Read { lane, from, max_bytes, reply } => {
                let answer = self.read(lane, from, max_bytes).await;
                let _sent = reply.send(answer.map_err(Into::into));
            }
            Command::Acknowledge { lane, position } => self.acknowledge(lane, position).await,
            Command::Losses { reply } => {
                let _sent = reply.send(self.losses());
            }
            Command::LossesReported { ids } => {
                if self.ledger.forget(&ids) {
                    self.cursor_moved();
                }
            }
            Command::Ping { reply } => {
                let _sent = reply.send(());
            }
            Command::Close { reply } => return Some(reply),
        }
        None
    }

    async fn acknowledge(&mut self, lane: LaneId, position: Position) {
        let index = usize::from(lane.0);
        if self.lanes.get_mut(index).is_some_and(|lane| lane.acknowledge(position)) {
            self.cursor_moved();
            if let Err(fault) = self.release(index).await {
                warn!(error = %fault, "cannot release delivered segments, trying again");
            }
        }
    }

    fn losses(&self) -> Vec<Loss> {
        let loss = |range: &ledger::Range| Loss {
            id: range.id,
            stream: Arc::clone(&self.lanes[range.lane].streams[range.stream].name),
            from_seq: range.from_seq,
            to_seq: range.to_seq,
            count: range.count,
            reason: range.reason,
        };
        self.ledger.ranges.iter().map(loss).collect()
    }

    /// Counts records of a stream as lost for good.
    fn lose(&mut self, lane: usize, stream: usize, reason: LossReason, from_seq: u64, to_seq: u64) -> u64 {
        let count = self.ledger.add(lane, stream, reason, from_seq, to_seq);
        let stream = &mut self.lanes[lane].streams[stream];
        stream.lost += count;
        if count > 0 {
            error!(stream = %stream.name, from_seq, to_seq, count, ?reason, "records are lost");
            self.cursor_moved();
        }
        count
    }

    fn cursor_moved(&mut self) {
        self.cursor_due.get_or_insert_with(|| Instant::now() + CURSOR_DELAY);
    }

    /// Does what is due: makes the cursors durable, tries to leave a pause. Says whether there was anything.
    async fn tick(&mut self) -> bool {
        let now = Instant::now();
        let due = self.cursor_due.is_some_and(|due| due <= now);
        if due && let Err(fault) = self.settle_cursors().await {
            warn!(error = %fault, "cannot make the cursors durable, trying again");
            self.cursor_due = Some(now + CURSOR_DELAY);
        }
        let Some(pause) = self.paused.take_if(|pause| pause.retry <= now) else { return due };
        match self.roll(pause.lane).await {
            Ok(()) => info!(lane = %self.lanes[pause.lane].options.name, "the spool takes records again"),
            Err(fault) => {
                let delay = (pause.delay * 2).min(LAST_RETRY);
                let reason = fault.to_string();
                self.paused = Some(Pause { reason, delay, retry: now + delay, ..pause });
            }
        }
        true
    }

    /// Refuses intake from now on, because `lane` cannot be written.
    fn pause(&mut self, lane: usize, fault: &Fault) -> String {
        let reason = fault.to_string();
        if self.paused.is_none() {
            error!(error = %fault, lane = %self.lanes[lane].options.name, "cannot store records, intake is paused");
        }
        let retry = Instant::now() + FIRST_RETRY;
        self.paused = Some(Pause { reason: reason.clone(), lane, retry, delay: FIRST_RETRY });
        reason
    }

    async fn settle_cursors(&mut self) -> Result<(), Fault> {
        for index in 0..self.lanes.len() {
            self.release(index).await?;
        }
        if self.cursor_due.is_some() {
            self.persist().await?;
        }
        Ok(())
    }

    /// Writes down where everything ends, so that the next start need not look.
    async fn close(mut self) {
        for index in 0..self.lanes.len() {
            self.seal(index).await;
            if let Some(reader) = self.lanes[index].reader.take() {
                self.storage.close(reader.file).await;
            }
        }
        if let Err(fault) = self.persist().await {
            // Nothing is lost: the next start scans the newest segments and delivers some records again.
            warn!(error = %fault, "cannot write the final state of the spool");
        }
        self.publish().await;
        self.checkpoint.close(&self.storage).await;
    }

    /// Brings the published figures up to date, in place: readers that compare nothing pay nothing.
    async fn publish(&mut self) {
        for index in 0..self.lanes.len() {
            if self.lanes[index].oldest == Oldest::Stale {
                let ts_ms = self.peek_oldest(index).await;
                self.lanes[index].oldest = Oldest::Known(ts_ms);
            }
        }
        let (lanes, ledger, paused) = (&self.lanes, &self.ledger, &self.paused);
        let counters = self.counters;
        self.stats.send_modify(|stats| {
            stats.paused = paused.as_ref().map(|pause| pause.reason.clone());
            stats.appended = counters.appended;
            stats.commits = counters.commits;
            stats.damaged = counters.damaged;
            stats.losses_pending = ledger.ranges.len();
            stats.bytes = 0;
            for (lane, stats_of_lane) in lanes.iter().zip(&mut stats.lanes) {
                stats_of_lane.bytes = lane.bytes();
                stats.bytes += stats_of_lane.bytes;
                stats_of_lane.pending_records = lane.pending;
                stats_of_lane.oldest_ts_ms = match lane.oldest {
                    Oldest::Known(ts_ms) => ts_ms,
                    Oldest::Stale => None,
                };
                stats_of_lane.segments = lane.segments.len() as u64;
                stats_of_lane.end = (lane.end.segment > 0).then_some(lane.end);
                for stream in &lane.streams[stats_of_lane.streams.len()..] {
                    stats_of_lane.streams.push(StreamStats { stream: Arc::clone(&stream.name), next_seq: 0, lost: 0 });
                }
                for (stream, figures) in lane.streams.iter().zip(&mut stats_of_lane.streams) {
                    figures.next_seq = stream.next_seq;
                    figures.lost = stream.lost;
                }
            }
        });
    }
}

impl<S: Storage> std::fmt::Debug for Engine<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("dir", &self.dir).field("storage", &self.storage.name()).finish_non_exhaustive()
    }
}
