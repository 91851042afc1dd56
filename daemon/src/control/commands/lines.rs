//! The log of requests: who asked what, and what became of it.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{field, info, warn};

use super::{
    Name,
    bucket::Bucket,
    refusal::{Refusal, excerpt},
};
use crate::control::link::Request;

/// Requests that change nothing are logged so often in the long run, …
const PERIOD: Duration = Duration::from_millis(500);
/// … after so many at once: ten a second for ever would push everything else out of a journal that limits rates.
const BURST: u32 = 20;

/// Writes the log of requests.
#[derive(Debug)]
pub(super) struct Lines {
    bucket: Bucket,
    /// Requests since the last line that have none.
    left_out: u64,
}

impl Default for Lines {
    fn default() -> Self {
        Self { bucket: Bucket::new(PERIOD, BURST), left_out: 0 }
    }
}

impl Lines {
    /// Logs a command that was performed; one that changed something always.
    pub(super) fn performed(&mut self, now: Instant, request: &Request, command: Name, changed: bool) {
        let Some(left_out) = self.next(now, changed) else { return };
        let asked_by = asked_by(request);
        let left_out = Some(left_out).filter(|count| *count > 0);
        info!(%command, asked_by = asked_by.as_ref().map(field::display), left_out, "request performed");
    }

    /// Logs a request that was refused.
    pub(super) fn refused(&mut self, now: Instant, request: &Request, refusal: &Refusal) {
        let Some(left_out) = self.next(now, false) else { return };
        let left_out = Some(left_out).filter(|count| *count > 0);
        let (asked_by, command) = (asked_by(request), excerpt(&request.name));
        warn!(
            command,
            asked_by = asked_by.as_ref().map(field::display),
            code = refusal.code.name(),
            reason = refusal.reason,
            left_out,
            "request refused"
        );
    }

    /// Whether this one gets a line, and how many before it had none.
    fn next(&mut self, now: Instant, always: bool) -> Option<u64> {
        if self.bucket.take(now) || always {
            Some(std::mem::take(&mut self.left_out))
        } else {
            self.left_out += 1;
            None
        }
    }
}

fn asked_by(request: &Request) -> Option<String> {
    request.user.as_deref().map(excerpt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_has_no_line_is_counted_in_the_next_and_changes_always_have_one() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let with_line = (0..100).filter(|_| lines.next(now, false).is_some()).count();
        assert_eq!(with_line, 20);
        assert_eq!(lines.next(now, true), Some(80));
        assert_eq!(lines.next(now, true), Some(0));
    }
}
