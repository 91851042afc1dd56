//! How threads beside a scenario learn that it is over.

use std::sync::atomic::{AtomicBool, Ordering};

/// Sets a flag when it is dropped: also where the scenario fails, so that a scope's threads who look at the flag end, and
/// the failure is told. Kept by the scope's closure.
#[derive(Debug)]
pub struct Over<'a>(&'a AtomicBool);

impl<'a> Over<'a> {
    /// Will set this flag.
    #[must_use]
    pub fn when_dropped(flag: &'a AtomicBool) -> Self {
        Self(flag)
    }
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
