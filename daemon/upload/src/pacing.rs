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
    /// `None`: no limit.
    bucket: RefCell<Option<Bucket>>,
    /// Whether what goes first has something to send.
    first: watch::Receiver<bool>,
}

impl Pacing {
    pub(crate) const fn new(first: watch::Receiver<bool>) -> Self {
        Self { bucket: RefCell::new(None), first }
    }

    /// From now on so many bytes a second.
    pub(crate) fn limit(&self, rate: Option<u64>) {
        let mut bucket = self.bucket.borrow_mut();
        match (&mut *bucket, rate) {
            (Some(bucket), Some(rate)) => bucket.set_rate(Instant::now().into_std(), rate),
            (bucket, rate) => *bucket = rate.map(|rate| Bucket::new(Instant::now().into_std(), rate)),
        }
    }

    /// Waits until `bytes` may go.
    pub(crate) async fn may_send(&self, bytes: usize, hold: &Hold) {
        if *self.first.borrow() {
            let mut first = self.first.clone();
            let _either = hold.during(timeout(TRICKLE, first.wait_for(|busy| !busy))).await;
        }
        let now = Instant::now();
        let wait = self
            .bucket
            .borrow_mut()
            .as_mut()
            .map_or(Duration::ZERO, |bucket| bucket.take(now.into_std(), bytes as u64));
        if !wait.is_zero() {
            hold.during(sleep(wait)).await;
        }
    }
}
