//! The way of requests from control, which waits for nobody.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::warn;

use super::CommandsStatus;
use crate::control::link::Request;

/// Between two lines about dropped requests: a flood of requests is not to become one of lines.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Takes requests as long as there is room, and counts the rest.
#[derive(Debug)]
pub struct Intake {
    requests: mpsc::Sender<Request>,
    status: watch::Sender<CommandsStatus>,
    told: Option<Instant>,
}

impl Intake {
    /// Into `requests`; what finds no room is counted in `status`.
    #[must_use]
    pub const fn new(requests: mpsc::Sender<Request>, status: watch::Sender<CommandsStatus>) -> Self {
        Self { requests, status, told: None }
    }

    /// Hands a request over, or drops it.
    pub fn offer(&mut self, request: Request) {
        if self.requests.try_send(request).is_ok() {
            return;
        }
        self.status.send_modify(|status| status.dropped += 1);
        let now = Instant::now();
        if self.told.is_none_or(|told| now >= told + TELL_EVERY) {
            self.told = Some(now);
            let dropped = self.status.borrow().dropped;
            warn!(dropped, "requests were dropped: too many wait to be answered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_room_is_counted() {
        let ((requests, mut taken), (status, counted)) = (mpsc::channel(2), watch::channel(CommandsStatus::default()));
        let mut intake = Intake::new(requests, status);
        for _ in 0..5 {
            intake.offer(Request::default());
        }
        assert_eq!(counted.borrow().dropped, 3);
        taken.recv().await.unwrap();
        intake.offer(Request::default());
        assert_eq!(counted.borrow().dropped, 3);
    }
}
