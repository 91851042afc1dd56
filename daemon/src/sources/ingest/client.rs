//! One connection: read what is there, commit its whole lines together, answer them in order, again.
//!
//! While a commit is under way the client's next lines collect in the kernel's socket buffer; nothing is gained
//! by reading them earlier. A client that does not read its answers stops being read.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tidegate_spool::AppendError;
use tokio::{
    io::AsyncWriteExt as _,
    net::UnixStream,
    sync::{Notify, Semaphore, SemaphorePermit},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    MAX_UNANSWERED,
    lines::{Line, Lines},
    names::{MAX_NAMES, Names},
    protocol::{self, Kind, MAX_LINE_BYTES, Refusal, Request},
    status::Refused,
};
use crate::{
    record::{Record, Stream},
    sources::Sink,
};

/// What every connection may buffer.
const SMALL_BUFFER_BYTES: usize = 4 << 10;
/// Lines of one commit without a large buffer: the answer to an empty line is longer than the line, 64 of them are 8 KiB.
const SMALL_BATCH_LINES: usize = 64;
/// What a connection may buffer that has one of the large buffers: the longest line and the beginning of the next.
const LARGE_BUFFER_BYTES: usize = MAX_LINE_BYTES + SMALL_BUFFER_BYTES;
/// Large buffers, for long lines and for clients that send many short ones: 64 × 68 KiB are 4.25 MiB, as much
/// again as the small ones of 1,024 connections.
pub(super) const LARGE_BUFFERS: usize = 64;
/// How long a line may take from its first byte to its end. The longest line needs 2.2 KB/s.
const LINE_DEADLINE: Duration = Duration::from_secs(30);
/// How long a client may leave its answers unread.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// The same when the daemon stops, of the 5 s that it has for everything.
const LAST_ANSWER_DEADLINE: Duration = Duration::from_millis(500);

/// What all connections have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) sink: Sink,
    pub(super) large_buffers: Semaphore,
    pub(super) ledger: Mutex<Ledger>,
    /// Woken when the ledger changed.
    pub(super) changed: Notify,
}

/// What is counted.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) names: Names,
    pub(super) accepted: u64,
    pub(super) refused: Refused,
    pub(super) cut_off: u64,
}

impl Shared {
    /// Works on the ledger. A panic elsewhere leaves counters that are still counters.
    pub(super) fn with_ledger<T>(&self, work: impl FnOnce(&mut Ledger) -> T) -> T {
        work(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the client closed it")]
    ByClient,
    #[error("the daemon stops")]
    Stopping,
    #[error("a line was not finished within 30 s")]
    UnfinishedLine,
    #[error("answers were not read within 30 s")]
    UnreadAnswers,
    #[error("no buffer for a long line became free within 30 s")]
    NoBuffer,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Serves one client until it goes, is cut off, or the daemon stops.
pub(super) async fn serve(socket: UnixStream, shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut client =
        Client { socket, shared: &shared, lines: Lines::new(MAX_LINE_BYTES), large: None, line_since: None };
    let ended = client.run(&shutdown).await;
    if matches!(ended, Ended::UnfinishedLine | Ended::UnreadAnswers | Ended::NoBuffer) {
        shared.with_ledger(|ledger| ledger.cut_off += 1);
        shared.changed.notify_one();
    }
    tracing::debug!(reason = %ended, "ingest connection ended");
}

struct Client<'a> {
    socket: UnixStream,
    shared: &'a Shared,
    lines: Lines,
    large: Option<SemaphorePermit<'a>>,
    /// When the line began that is not finished.
    line_since: Option<Instant>,
}

impl Client<'_> {
    async fn run(&mut self, shutdown: &CancellationToken) -> Ended {
        match self.serve_until(shutdown).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn serve_until(&mut self, shutdown: &CancellationToken) -> Result<std::convert::Infallible, Ended> {
        loop {
            let most = if self.large.is_some() { MAX_UNANSWERED } else { SMALL_BATCH_LINES };
            let mut batch = Vec::new();
            while batch.len() < most
                && let Some(line) = self.lines.next()
            {
                batch.push(read_line(line));
            }
            if !batch.is_empty() {
                self.line_since = None;
                let answers = self.shared.commit(batch).await;
                self.write(&answers, ANSWER_DEADLINE).await?;
                continue;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Err(self.stop().await),
                read = fill(&self.socket, self.shared, &mut self.lines, &mut self.large, &mut self.line_since) => match read {
                    Ok(0) => {
                        if let Some(line) = self.lines.last() {
                            let answers = self.shared.commit(vec![read_line(line)]).await;
                            self.write(&answers, ANSWER_DEADLINE).await?;
                        }
                        return Err(Ended::ByClient);
                    }
                    Ok(_) => {}
                    Err(Ended::NoBuffer) => {
                        self.refuse_all(vec![Err(Refusal::new(Kind::Busy, "too many long lines at once", None))]).await?;
                        return Err(Ended::NoBuffer);
                    }
                    Err(ended) => return Err(ended),
                }
            }
        }
    }

    /// Answers what has arrived with `busy`, so that its sender knows that it is not on disk.
    async fn stop(&mut self) -> Ended {
        self.lines.buffer().reserve(SMALL_BUFFER_BYTES);
        let _nothing_more = self.socket.try_read_buf(self.lines.buffer());
        let mut lines = Vec::new();
        while lines.len() < MAX_UNANSWERED
            && let Some(line) = self.lines.next()
        {
            let id = read_line(line).map_or_else(|refusal| refusal.id, |request| request.id);
            lines.push(Err(Refusal::new(Kind::Busy, "tidegate is stopping", id)));
        }
        match self.refuse_all(lines).await {
            Ok(()) => Ended::Stopping,
            Err(ended) => ended,
        }
    }

    async fn refuse_all(&mut self, lines: Vec<Result<Request, Refusal>>) -> Result<(), Ended> {
        let answers = self.shared.commit(lines).await;
        self.write(&answers, LAST_ANSWER_DEADLINE).await
    }

    async fn write(&mut self, answers: &str, deadline: Duration) -> Result<(), Ended> {
        timeout(deadline, self.socket.write_all(answers.as_bytes())).await.map_err(|_| Ended::UnreadAnswers)??;
        Ok(())
    }
}

/// Reads what is there, or waits for it; 0 is the end of the stream.
async fn fill<'a>(
    socket: &UnixStream,
    shared: &'a Shared,
    lines: &mut Lines,
    large: &mut Option<SemaphorePermit<'a>>,
    line_since: &mut Option<Instant>,
) -> Result<usize, Ended> {
    if lines.is_inside() {
        line_since.get_or_insert_with(Instant::now);
    } else {
        *line_since = None;
        // An idle connection costs no buffer.
        lines.release();
    }
    if lines.waiting() < SMALL_BUFFER_BYTES {
        *large = None;
    } else if large.is_none() {
        let deadline = line_since.unwrap_or_else(Instant::now) + LINE_DEADLINE;
        let permit = timeout_at(deadline, shared.large_buffers.acquire()).await.map_err(|_| Ended::NoBuffer)?;
        *large = permit.ok();
    }
    loop {
        let ready = socket.readable();
        match line_since {
            Some(since) => timeout_at(*since + LINE_DEADLINE, ready).await.map_err(|_| Ended::UnfinishedLine)?,
            None => ready.await,
        }?;
        // Whoever sends much at once may do so in large pieces, as long as buffers are free.
        if large.is_none() {
            *large = shared.large_buffers.try_acquire().ok();
        }
        let room = if large.is_some() { LARGE_BUFFER_BYTES } else { SMALL_BUFFER_BYTES };
        let waiting = lines.waiting();
        lines.buffer().reserve(room.saturating_sub(waiting).max(1));
        match socket.try_read_buf(lines.buffer()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return Ok(read?),
        }
    }
}

fn read_line(line: Line) -> Result<Request, Refusal> {
    match line {
        Line::Whole(line) => protocol::parse(&line),
        Line::TooLong => Err(Refusal::too_large()),
    }
}

/// A line of a batch on its way.
enum Outcome {
    /// Goes into the spool.
    Pending {
        stream: Arc<str>,
        bytes: usize,
        id: Option<Bytes>,
    },
    Refused(Refusal),
}

impl Shared {
    /// Puts a batch on disk, and gives the answers to all its lines, in order.
    async fn commit(&self, batch: Vec<Result<Request, Refusal>>) -> String {
        let mut records = Vec::with_capacity(batch.len());
        let outcomes: Vec<Outcome> = self.with_ledger(|ledger| {
            let mut place = |request: Request| {
                let Some(stream) = ledger.names.stream(&request.name, || self.sink.ingest_streams()) else {
                    let reason = format!("{MAX_NAMES} names are in use already");
                    return Outcome::Refused(Refusal::new(Kind::BadName, reason, request.id));
                };
                let bytes = request.data.len();
                records.push(Record {
                    stream: Stream::Ingest(Arc::clone(&stream)),
                    topic: Arc::clone(&stream),
                    data: request.data,
                });
                Outcome::Pending { stream, bytes, id: request.id }
            };
            batch.into_iter().map(|line| line.map_or_else(Outcome::Refused, &mut place)).collect()
        });
        let stored = if records.is_empty() { Ok(Vec::new()) } else { self.sink.put(records).await };
        let answers = self.with_ledger(|ledger| ledger.settle(outcomes, stored));
        self.changed.notify_one();
        answers
    }
}

impl Ledger {
    /// Counts a batch that was put, and writes its answers.
    fn settle(&mut self, outcomes: Vec<Outcome>, stored: Result<Vec<u64>, AppendError>) -> String {
        let mut answers = String::with_capacity(outcomes.len() * 48);
        let (mut seqs, error) = match stored {
            Ok(seqs) => (seqs.into_iter(), None),
            Err(error) => (Vec::new().into_iter(), Some(error)),
        };
        for outcome in outcomes {
            let refusal = match outcome {
                Outcome::Pending { stream, bytes, id } => match seqs.next() {
                    Some(seq) => {
                        self.accepted += 1;
                        self.names.count(&stream, bytes);
                        protocol::answer_ok(&mut answers, seq, id.as_ref());
                        continue;
                    }
                    None => refusal_of(error.as_ref(), id),
                },
                Outcome::Refused(refusal) => refusal,
            };
            self.refused.count(refusal.kind);
            protocol::answer_refusal(&mut answers, &refusal);
        }
        answers
    }
}

fn refusal_of(error: Option<&AppendError>, id: Option<Bytes>) -> Refusal {
    let kind = match error {
        Some(AppendError::TooLarge { .. }) => Kind::TooLarge,
        Some(AppendError::BadStream | AppendError::TooManyStreams { .. }) => Kind::BadName,
        Some(AppendError::Paused(_)) => Kind::Full,
        Some(AppendError::Closed) | None => Kind::Busy,
    };
    Refusal::new(kind, error.map_or_else(|| "no answer from the spool".to_owned(), ToString::to_string), id)
}
