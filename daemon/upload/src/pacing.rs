//! What a piece waits for before it may go: what is more important, and its share of the link.

use std::{cell::RefCell, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{http::Hold, pace::Bucket};

/// While something more important wants the link, one piece goes in this time, so that servers do not give the connection up.
const TRICKLE: Duration = Duration::from_secs(5);

/// For all uploads together.
pub(crate) struct Pacing {
    bucket: RefCell<Bucket>,
    /// Whether what goes first has something to send.
    first: watch::Receiver<bool>,
}

impl Pacing {
    pub(crate) fn new(first: watch::Receiver<bool>, rate: Option<u64>) -> Self {
        Self { bucket: RefCell::new(Bucket::new(rate, Instant::now().into_std())), first }
    }

    /// From now on so many bytes a second; `None`: as many as the link gives.
    pub(crate) fn limit(&self, rate: Option<u64>) {
        self.bucket.borrow_mut().set_rate(rate, Instant::now().into_std());
    }

    /// Waits until some of `bytes` may go, and says how many.
    pub(crate) async fn may_send(&self, bytes: usize, hold: &Hold) -> usize {
        if *self.first.borrow() {
            let mut first = self.first.clone();
            let _either = hold.during(timeout(TRICKLE, first.wait_for(|busy| !busy))).await;
        }
        loop {
            let taken = self.bucket.borrow_mut().take(Instant::now().into_std(), bytes as u64);
            match taken {
                Ok(some) => return usize::try_from(some).unwrap_or(bytes).min(bytes),
                Err(wait) => hold.during(sleep(wait)).await,
            }
        }
    }
}
