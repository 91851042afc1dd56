//! One suite, several backends: `io_uring` and threads, buffered and direct, and the model disk run the same bodies.

use std::{future::Future, path::PathBuf, sync::Arc};

use bytes::Bytes;

use crate::{
    Append, AppendError, Entry, IoPreference, LaneId, LaneOptions, OpenError, Options, Position, ReadFrom, Recovery,
    Spool,
};

mod bodies;
mod damage;
mod disk;
mod faults;
mod modeled;
mod power;

pub(crate) const EVENT: LaneId = LaneId(0);
pub(crate) const TELEMETRY: LaneId = LaneId(1);
pub(crate) const SEGMENT: u64 = 64 * 1024;

/// A disk that a spool can be opened on, again and again.
pub(crate) trait Bench {
    fn options(&self) -> Options;

    fn open(&self, options: Options) -> impl Future<Output = Result<(Spool, Recovery), OpenError>>;
}

/// Two lanes, small segments.
pub(crate) fn small(dir: PathBuf) -> Options {
    let lane = |name: &str, importance, segments| LaneOptions {
        name: name.into(),
        importance,
        share_bytes: segments * SEGMENT,
    };
    Options {
        dir,
        lanes: vec![lane("event", 9, 4), lane("telemetry", 1, 2)],
        max_size_bytes: 16 * SEGMENT,
        segment_size_bytes: SEGMENT,
        io: IoPreference::Threads,
        direct: false,
    }
}

/// A folder on the machine's own file system.
struct Real {
    dir: tempfile::TempDir,
    io: IoPreference,
    direct: bool,
}

impl Real {
    fn new(io: IoPreference, direct: bool) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), io, direct }
    }
}

impl Bench for Real {
    fn options(&self) -> Options {
        Options { io: self.io, direct: self.direct, ..small(self.dir.path().join("spool")) }
    }

    async fn open(&self, options: Options) -> Result<(Spool, Recovery), OpenError> {
        Spool::open(options).await
    }
}

pub(crate) fn record(lane: LaneId, stream: &str, payload: impl Into<Bytes>) -> Append {
    Append { lane, stream: stream.into(), ts_ms: 1000, payload: payload.into() }
}

/// Appends one record and returns its sequence.
pub(crate) async fn put(
    spool: &Spool,
    lane: LaneId,
    stream: &str,
    payload: impl Into<Bytes>,
) -> Result<u64, AppendError> {
    spool.append(vec![record(lane, stream, payload)]).await.map(|seqs| seqs[0])
}

/// Reads everything from the cursor on.
pub(crate) async fn read_all(spool: &Spool, lane: LaneId) -> Vec<Entry> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let from = all.last().map_or(ReadFrom::Cursor, |entry| ReadFrom::After(entry.position));
        let some = spool.read(lane, from, 8192).await.unwrap();
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

pub(crate) fn seqs(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq).collect()
}

pub(crate) fn last_position(entries: &[Entry]) -> Position {
    entries.last().unwrap().position
}

fn on_real(io: IoPreference, direct: bool, body: impl AsyncFnOnce(&Real)) {
    if io == IoPreference::Uring
        && let Err(reason) = tidegate_storage::choose(io)
    {
        eprintln!("skipped: io_uring is not available here ({reason})");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(body(&Real::new(io, direct)));
}

fn on_model(body: impl AsyncFnOnce(&modeled::Modeled)) {
    modeled::block_on(body(&modeled::Modeled(disk::Model::new(1))));
}

macro_rules! on_every_backend {
    ($($body:ident),* $(,)?) => {
        mod uring {
            $(#[test] fn $body() { super::on_real(super::IoPreference::Uring, false, super::bodies::$body) })*
        }
        mod uring_direct {
            $(#[test] fn $body() { super::on_real(super::IoPreference::Uring, true, super::bodies::$body) })*
        }
        mod threads {
            $(#[test] fn $body() { super::on_real(super::IoPreference::Threads, false, super::bodies::$body) })*
        }
        mod model {
            $(#[test] fn $body() { super::on_model(super::bodies::$body) })*
        }
        mod threads_direct {
            $(#[test] fn $body() { super::on_real(super::IoPreference::Threads, true, super::bodies::$body) })*
        }
    };
}

on_every_backend!(
    what_was_appended_is_read_in_order,
    acknowledged_records_are_not_read_again_after_a_restart,
    unacknowledged_records_are_read_again_after_a_restart,
    sequences_go_on_after_a_restart,
    a_batch_larger_than_a_segment_is_stored,
    delivered_segments_are_removed,
    the_least_important_lane_gives_way_and_its_loss_is_counted,
    a_reader_whose_place_was_evicted_goes_on_at_the_oldest,
    records_that_cannot_be_stored_are_refused,
    many_producers_share_a_commit,
    figures_follow_what_happens,
);

#[test]
fn a_spool_is_opened_once_at_a_time() {
    on_real(IoPreference::Threads, false, async |bench: &Real| {
        let (spool, _) = bench.open(bench.options()).await.unwrap();
        let second = bench.open(bench.options()).await;
        assert!(matches!(second, Err(OpenError::Locked(_))), "{second:?}");
        spool.close().await;
        let (spool, _) = bench.open(bench.options()).await.unwrap();
        spool.close().await;
    });
}

fn arc(text: &str) -> Arc<str> {
    text.into()
}
