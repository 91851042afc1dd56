//! How far an upload is, for whoever looks.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

use crate::status::Step;

/// Written by the upload, read by the engine on the same thread.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) step: Cell<Step>,
    pub(crate) encoding: Cell<&'static str>,
    /// Bytes of content that the server has.
    pub(crate) confirmed: Cell<u64>,
    /// Bytes of content that were made ready to be sent.
    pub(crate) sent: Cell<u64>,
    /// Bytes of content that the server had when sending began, and when that was.
    pub(crate) from: Cell<Option<(u64, Instant)>>,
}

impl Progress {
    pub(crate) const fn new() -> Self {
        Self {
            step: Cell::new(Step::Asking),
            encoding: Cell::new("identity"),
            confirmed: Cell::new(0),
            sent: Cell::new(0),
            from: Cell::new(None),
        }
    }

    /// Sending begins at this byte of the content.
    pub(crate) fn sending(&self, from: u64) {
        self.step.set(Step::Sending);
        self.sent.set(from);
        if self.from.get().is_none() {
            self.from.set(Some((from, Instant::now())));
        }
    }

    /// Bytes of content a second since sending began.
    pub(crate) fn rate(&self) -> u64 {
        let Some((from, at)) = self.from.get() else { return 0 };
        per_second(self.sent.get().saturating_sub(from), at.elapsed())
    }
}

/// So many bytes a second.
pub(crate) fn per_second(bytes: u64, time: Duration) -> u64 {
    let ns = time.as_nanos().max(1_000_000);
    u64::try_from(u128::from(bytes) * 1_000_000_000 / ns).unwrap_or(u64::MAX)
}
