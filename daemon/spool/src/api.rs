//! The handle through which the daemon speaks to the spool's thread, and the types that cross over.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use tidegate_storage::IoPreference;
use tokio::sync::{mpsc, oneshot, watch};

/// Index of a lane in [`Options::lanes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u8);

/// What a lane is called and how it fares when space is short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneOptions {
    /// Name of the lane's folder below the spool's, `[a-z0-9_-]{1,32}`.
    pub name: String,
    /// A lane of lower importance gives up its oldest segment first.
    pub importance: u8,
    /// Bytes that the lane may always hold; beyond them it borrows what the others leave free.
    pub share_bytes: u64,
}

/// How to open a spool.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the spool; made (0700) where it is absent.
    pub dir: PathBuf,
    /// The lanes, most of a handful. A lane on disk that is not named here is left alone and reported.
    pub lanes: Vec<LaneOptions>,
    /// Cap on the bytes of all segment files together.
    pub max_size_bytes: u64,
    /// Size of one segment file, 8 to 16 MiB (smaller in tests).
    pub segment_size_bytes: u64,
    /// Backend.
    pub io: IoPreference,
    /// `O_DIRECT` for segment files.
    pub direct: bool,
}

/// One record to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Lane that carries the stream.
    pub lane: LaneId,
    /// Stream name, 1 to 96 bytes.
    pub stream: Arc<str>,
    /// Wall-clock time of the record, milliseconds since 1970.
    pub ts_ms: u64,
    /// The record's bytes, at most [`Spool::MAX_PAYLOAD_BYTES`].
    pub payload: Bytes,
}

/// A place in a lane: just behind one record. Ordered as the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Number of the segment, growing by one.
    pub segment: u64,
    /// Byte offset behind the record in that segment.
    pub offset: u64,
}

/// Where a read starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// At the lane's cursor: the oldest record that is not acknowledged.
    Cursor,
    /// Behind a record that an earlier read returned.
    After(Position),
}

/// One record as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Place behind this record: hand it to [`Spool::acknowledge`] or [`ReadFrom::After`].
    pub position: Position,
    /// Stream of the record.
    pub stream: Arc<str>,
    /// Sequence in the stream, from 1, growing by one.
    pub seq: u64,
    /// Time given at append.
    pub ts_ms: u64,
    /// The record's bytes.
    pub payload: Bytes,
}

/// Why records are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LossReason {
    /// The spool was full and these were the oldest of the least important lane.
    Evicted,
    /// The bytes on disk no longer match their checksum; the segment's copy is in quarantine.
    Damaged,
    /// Sequence numbers that were set aside and never used, or whose use is unknown after damage.
    Unknown,
}

/// A range of one stream that will never be delivered. Kept on disk until [`Spool::losses_reported`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Identifies the report to [`Spool::losses_reported`].
    pub id: u64,
    /// Stream that lost records.
    pub stream: Arc<str>,
    /// First sequence lost.
    pub from_seq: u64,
    /// Last sequence lost, inclusive.
    pub to_seq: u64,
    /// Records lost in the range: all of it, unless ranges had to be merged because nobody reported them.
    pub count: u64,
    /// Why.
    pub reason: LossReason,
}

/// What opening found and mended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records that wait for delivery.
    pub pending_records: u64,
    /// Bytes cut off behind the last whole commit.
    pub torn_bytes: u64,
    /// Files set aside because they were not readable as segments of this spool.
    pub quarantined_files: u64,
    /// How long it took.
    pub took: Duration,
}

/// Figures of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Stream name.
    pub stream: Arc<str>,
    /// Sequence that the next record gets.
    pub next_seq: u64,
    /// Records lost for good since the spool was made.
    pub lost: u64,
}

/// Figures of one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Lane name.
    pub name: String,
    /// Bytes of its segment files.
    pub bytes: u64,
    /// Records behind the cursor.
    pub pending_records: u64,
    /// Time of the oldest record that waits, milliseconds since 1970.
    pub oldest_ts_ms: Option<u64>,
    /// Number of segment files.
    pub segments: u64,
    /// End of the log: changes with every commit.
    pub end: Option<Position>,
    /// Streams seen on it.
    pub streams: Vec<StreamStats>,
}

/// Figures of the whole spool, published after every commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Identity of this spool, a random UUID (big-endian bytes) made with it.
    pub epoch: [u8; 16],
    /// `"uring"` or `"threads"`.
    pub io: &'static str,
    /// Why the backend is not the preferred one.
    pub io_reason: Option<String>,
    /// Whether segment files are open with `O_DIRECT`.
    pub direct: bool,
    /// Why appends are refused at the moment (no space, I/O error).
    pub paused: Option<String>,
    /// Records appended since start.
    pub appended: u64,
    /// Commits since start: appended / commits is the group size.
    pub commits: u64,
    /// Damaged records skipped since start.
    pub damaged: u64,
    /// Bytes of all segment files.
    pub bytes: u64,
    /// Cap.
    pub max_size_bytes: u64,
    /// Losses that wait to be reported.
    pub losses_pending: usize,
    /// By lane, in the order of [`Options::lanes`].
    pub lanes: Vec<LaneStats>,
}

/// Why a batch was not appended. Nothing of it is acknowledged; parts of it may still be delivered.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The payload is over the limit. Permanent.
    #[error("record of {size} bytes, at most {limit} fit")]
    TooLarge {
        /// Found.
        size: usize,
        /// Wanted at most.
        limit: usize,
    },
    /// The stream's name is empty or over 96 bytes, or the lane does not exist. Permanent.
    #[error("no such lane or a stream name that is not 1 to 96 bytes")]
    BadStream,
    /// The lane has as many streams as it can carry. Permanent.
    #[error("the lane carries {limit} streams already")]
    TooManyStreams {
        /// Wanted at most.
        limit: usize,
    },
    /// No space or an I/O error; intake is paused and tried again. Passes.
    #[error("the spool is paused: {0}")]
    Paused(String),
    /// The spool has been closed. Permanent.
    #[error("the spool is closed")]
    Closed,
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused; a later read may succeed.
    #[error("{call} on {path}: {source}")]
    Io {
        /// System call.
        call: &'static str,
        /// File.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
    /// The spool has been closed.
    #[error("the spool is closed")]
    Closed,
}

/// Why a spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
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
    /// `io_uring` was demanded and is refused.
    #[error("io_uring is not available ({0}); set [spool] io = \"auto\" or \"threads\"")]
    UringUnavailable(String),
    /// Another process holds the spool.
    #[error("{0} is in use by another process (lock held)")]
    Locked(PathBuf),
    /// The options contradict themselves.
    #[error("{0}")]
    Options(String),
}

/// What the handle asks of the thread.
#[derive(Debug)]
pub(crate) enum Command {
    Append { batch: Vec<Append>, reply: oneshot::Sender<Result<Vec<u64>, AppendError>> },
    Read { lane: LaneId, from: ReadFrom, max_bytes: usize, reply: oneshot::Sender<Result<Vec<Entry>, ReadError>> },
    Acknowledge { lane: LaneId, position: Position },
    Losses { reply: oneshot::Sender<Vec<Loss>> },
    LossesReported { ids: Vec<u64> },
    Ping { reply: oneshot::Sender<()> },
    Close { reply: oneshot::Sender<()> },
}

/// Handle to an open spool. Clones share the one thread.
#[derive(Clone, Debug)]
pub struct Spool {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) stats: watch::Receiver<Stats>,
}

impl Spool {
    /// Largest payload of one record: 1 MiB.
    pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;

    /// Appends a batch and returns the sequence of each record, in order, once all are on stable storage.
    ///
    /// # Errors
    ///
    /// See [`AppendError`]; nothing is acknowledged then.
    pub async fn append(&self, batch: Vec<Append>) -> Result<Vec<u64>, AppendError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Append { batch, reply }).await.map_err(|_| AppendError::Closed)?;
        answer.await.map_err(|_| AppendError::Closed)?
    }

    /// Reads records of a lane in order, up to about `max_bytes` of payload, at least one where one waits.
    /// Damaged records are skipped (and counted, and become a [`Loss`]). Empty means: none waits, or that
    /// 65,536 were read ahead of the cursor and have to be acknowledged first.
    ///
    /// Payloads are slices of one buffer: holding one of them holds about `max_bytes`.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; the position is unchanged, so the caller may try again.
    pub async fn read(&self, lane: LaneId, from: ReadFrom, max_bytes: usize) -> Result<Vec<Entry>, ReadError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Read { lane, from, max_bytes, reply }).await.map_err(|_| ReadError::Closed)?;
        answer.await.map_err(|_| ReadError::Closed)?
    }

    /// Everything in the lane up to `position` was delivered. The cursor moves at once in memory and is
    /// made durable soon after; a crash in between delivers some records again, with the same sequence.
    pub async fn acknowledge(&self, lane: LaneId, position: Position) {
        let _closed = self.commands.send(Command::Acknowledge { lane, position }).await;
    }

    /// The losses that nobody has reported yet, at most a bounded number of merged ranges.
    pub async fn losses(&self) -> Vec<Loss> {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Losses { reply }).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    /// These losses now stand in a durable record of their own: forget them.
    pub async fn losses_reported(&self, ids: Vec<u64>) {
        let _closed = self.commands.send(Command::LossesReported { ids }).await;
    }

    /// Current figures; the receiver also wakes readers that wait for new records.
    #[must_use]
    pub fn stats(&self) -> watch::Receiver<Stats> {
        self.stats.clone()
    }

    /// Asks whether the thread still serves: true once it answers, which it does between two commits and not while it
    /// waits for the disk; false where it has ended.
    pub async fn ping(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Ping { reply }).await.is_ok() && answer.await.is_ok()
    }

    /// Writes out what waits, makes the cursors durable and ends the thread.
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Close { reply }).await.is_ok() {
            let _ended = answer.await;
        }
    }
}
