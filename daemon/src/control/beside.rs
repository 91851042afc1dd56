//! What is under way beside the loop of control, so that the loop waits for nothing: writes, round trips, judgements.

use std::{
    fmt,
    future::{Future, pending},
    pin::Pin,
};

use tokio::task::spawn_blocking;

/// At most one thing of a kind. What comes of it is taken with [`Self::done`].
pub(super) struct Beside<T>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T> fmt::Debug for Beside<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_idle() { "idle" } else { "under way" })
    }
}

impl<T> Default for Beside<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Beside<T> {
    pub(super) const fn is_idle(&self) -> bool {
        self.0.is_none()
    }

    /// Begins with this, in the place of what is under way.
    pub(super) fn begin(&mut self, future: impl Future<Output = T> + Send + 'static) {
        self.0 = Some(Box::pin(future));
    }

    /// Begins with this, which waits for the disk or computes for long. It runs to its end, whatever becomes of this.
    pub(super) fn work(&mut self, work: impl FnOnce() -> T + Send + 'static)
    where
        T: Send + 'static,
    {
        debug_assert!(self.is_idle(), "two works of a kind at a time");
        let working = spawn_blocking(work);
        self.begin(async move { working.await.expect("what control does beside its loop does not panic") });
    }

    /// What comes of it; never, where nothing is under way. Cancelling loses nothing.
    pub(super) async fn done(&mut self) -> T {
        let Some(future) = &mut self.0 else { return pending().await };
        let output = future.await;
        self.0 = None;
        output
    }

    /// Waits for what is under way, if anything is.
    pub(super) async fn end(self) {
        if let Some(future) = self.0 {
            future.await;
        }
    }
}
