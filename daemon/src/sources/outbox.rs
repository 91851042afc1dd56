//! Hands telemetry to the spool without ever waiting for it for long.
//!
//! While the spool is paused, closed or too slow, records of telemetry are dropped and counted: the table of flows
//! must go on being drained, or the kernel forgets flows without telling which.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::{record::Record, sources::Sink};

/// Records of one append: of at most 60 KiB each, so that a quarter of a megabyte waits for one sync.
const BATCH: usize = 4;

/// The records of one export.
#[derive(Debug)]
pub(super) struct Outbox<'a> {
    sink: &'a Sink,
    deadline: Instant,
    batch: Vec<Record>,
    /// Why nothing more is tried in this export.
    failed: Option<String>,
    dropped: u64,
}

impl<'a> Outbox<'a> {
    /// An outbox that gives up after `patience`, for the whole export.
    #[must_use]
    pub(super) fn new(sink: &'a Sink, patience: Duration) -> Self {
        Self { sink, deadline: Instant::now() + patience, batch: Vec::new(), failed: None, dropped: 0 }
    }

    /// Adds a record of `telemetry/WHAT`.
    pub(super) async fn telemetry(&mut self, what: &str, data: Bytes) {
        self.push(Record::telemetry(what, data)).await;
    }

    /// Adds a record.
    pub(super) async fn push(&mut self, record: Record) {
        self.batch.push(record);
        if self.batch.len() == BATCH {
            self.flush().await;
        }
    }

    async fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let count = batch.len() as u64;
        if self.failed.is_none() && count > 0 {
            self.failed = match timeout_at(self.deadline, self.sink.put(batch)).await {
                Ok(Ok(_sequences)) => return,
                Ok(Err(error)) => Some(error.to_string()),
                // It may still be written; nobody knows.
                Err(_elapsed) => Some("the spool does not answer in time".into()),
            };
        }
        self.dropped += count;
    }

    /// Sends what waits; returns how many records were dropped.
    pub(super) async fn finish(mut self) -> u64 {
        self.flush().await;
        if let Some(reason) = self.failed {
            tracing::error!(records = self.dropped, reason, "telemetry dropped");
        }
        self.dropped
    }
}
