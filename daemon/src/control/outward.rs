//! What all that is managed shares towards the rest of the daemon: the clock, round trips, reports, events.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tidegate_spool::AppendError;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tracing::warn;

use super::link::Subject;
use crate::{
    record::{Clock, Record},
    sources::Sink,
    task,
    uplink::Prober,
};

/// Events that wait for the spool. A change brings two or three; beyond, the report still tells how things stand.
const EVENTS: usize = 64;
/// Between a failed attempt to put an event into the spool and the next.
const EVENT_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The way out.
#[derive(Clone, Debug)]
pub(super) struct Outward {
    pub(super) clock: Clock,
    pub(super) prober: Prober,
    reports: watch::Sender<BTreeMap<Subject, Bytes>>,
    events: mpsc::Sender<Record>,
}

impl Outward {
    pub(super) fn new(
        clock: Clock,
        prober: Prober,
        reports: watch::Sender<BTreeMap<Subject, Bytes>>,
        sink: Sink,
    ) -> Self {
        let (events, stored) = mpsc::channel(EVENTS);
        task::spawn(store_events(stored, sink));
        Self { clock, prober, reports, events }
    }

    /// From now on this is what is reported.
    pub(super) fn report(&self, subject: Subject, report: Bytes) {
        self.reports.send_modify(|reports| {
            reports.insert(subject, report);
        });
    }

    /// Puts an event into the spool.
    pub(super) fn record(&self, event: Record) {
        if self.events.try_send(event).is_err() {
            warn!("an event about what is desired was dropped: too many wait for the spool");
        }
    }
}

/// Puts events into the spool, in order, each as soon as it takes them.
async fn store_events(mut events: mpsc::Receiver<Record>, sink: Sink) {
    while let Some(event) = events.recv().await {
        while let Err(error) = sink.put([event.clone()]).await {
            if matches!(error, AppendError::Closed) {
                return;
            }
            warn!(%error, "an event about what is desired waits for the spool");
            sleep(EVENT_AGAIN_AFTER).await;
        }
    }
}

/// Sends what is shown of a part, where it changed.
pub(super) fn show<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|old| {
        let changed = *old != value;
        *old = value;
        changed
    });
}
