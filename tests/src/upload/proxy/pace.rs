//! How fast bytes pass.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A token bucket: so many bytes a second, whoever asks.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_s: u64,
    /// When all that was granted so far has passed.
    free_at: Mutex<Instant>,
}

/// What may pass at once after a pause: little enough that a second's bytes are not far above the rate.
const BURST: Duration = Duration::from_millis(50);

impl Pace {
    pub(super) fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1), free_at: Mutex::new(Instant::now()) }
    }

    /// Bytes that are best asked for at a time, so that they flow and do not jump.
    pub(super) fn portion(&self) -> usize {
        usize::try_from(self.bytes_per_s / 20).unwrap_or(usize::MAX).max(1)
    }

    /// When so many more will have passed.
    pub(super) fn grant(&self, bytes: usize) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = Instant::now().checked_sub(BURST).unwrap_or(*free_at);
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        *free_at = earliest.max(*free_at) + takes;
        *free_at
    }
}
