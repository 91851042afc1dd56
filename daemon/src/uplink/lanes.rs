//! Reads ahead in each lane of the spool, and says which lane goes next.
//!
//! One task a lane reads; the session takes. A task reads from the lane's cursor when it starts, and each
//! connection starts new ones: that is how everything that was not acknowledged is delivered again, with the
//! sequence it had.

use std::{collections::VecDeque, future::poll_fn, task::Poll, time::Duration};

use tidegate_spool::{Entry, LaneId, ReadError, ReadFrom, Spool};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::{sources::lane, task};

/// All lanes, in the order of the spool's options.
pub(super) const LANES: [LaneId; 3] = [lane::EVENT, lane::INGEST, lane::TELEMETRY];

/// Payload of one read. A lane has one batch in use, one in its channel and one being read: three lanes hold at
/// most nine of these, 576 KiB.
const READ_BYTES: usize = 64 << 10;

/// Between two reads that the system refuses.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The lanes as the session sees them.
#[derive(Debug)]
pub(super) struct Lanes {
    feeds: Vec<Feed>,
    /// Which of the lanes below `event` went last.
    last: LaneId,
}

#[derive(Debug)]
struct Feed {
    ready: VecDeque<Entry>,
    batches: mpsc::Receiver<Vec<Entry>>,
    _reader: AbortOnDropHandle<()>,
}

impl Lanes {
    /// Starts reading at the cursors.
    pub(super) fn open(spool: &Spool) -> Self {
        let feeds = LANES
            .into_iter()
            .map(|lane| {
                let (batches, receiver) = mpsc::channel(1);
                let reader = AbortOnDropHandle::new(task::spawn(read(spool.clone(), lane, batches)));
                Feed { ready: VecDeque::new(), batches: receiver, _reader: reader }
            })
            .collect();
        Self { feeds, last: lane::TELEMETRY }
    }

    /// Waits until a lane that had nothing has something. Cancelling loses nothing.
    pub(super) async fn filled(&mut self) {
        poll_fn(|context| {
            let mut filled = Poll::Pending;
            for feed in self.feeds.iter_mut().filter(|feed| feed.ready.is_empty()) {
                if let Poll::Ready(Some(batch)) = feed.batches.poll_recv(context) {
                    feed.ready.extend(batch);
                    filled = Poll::Ready(());
                }
            }
            filled
        })
        .await;
    }

    /// The lane that goes next among those that are `open`, and the bytes of its next record.
    pub(super) fn next(&self, open: impl Fn(LaneId) -> bool) -> Option<(LaneId, usize)> {
        let lane = choose(self.last, |lane| open(lane) && !self.feed(lane).ready.is_empty())?;
        Some((lane, self.feed(lane).ready.front()?.payload.len()))
    }

    /// Takes the next record of a lane.
    pub(super) fn take(&mut self, lane: LaneId) -> Option<Entry> {
        if lane != lane::EVENT {
            self.last = lane;
        }
        self.feeds[usize::from(lane.0)].ready.pop_front()
    }

    fn feed(&self, lane: LaneId) -> &Feed {
        &self.feeds[usize::from(lane.0)]
    }
}

/// Events before all else; the other lanes in turn, so that a flood in one does not starve the other.
fn choose(last: LaneId, has_next: impl Fn(LaneId) -> bool) -> Option<LaneId> {
    let in_turn = if last == lane::INGEST { [lane::TELEMETRY, lane::INGEST] } else { [lane::INGEST, lane::TELEMETRY] };
    [lane::EVENT].into_iter().chain(in_turn).find(|lane| has_next(*lane))
}

async fn read(spool: Spool, lane: LaneId, batches: mpsc::Sender<Vec<Entry>>) {
    let mut stats = spool.stats();
    let mut from = ReadFrom::Cursor;
    loop {
        // Room first: what is read is wanted.
        let Ok(room) = batches.reserve().await else { return };
        // The end before the read: what is appended during it is seen by the wait below.
        let end = stats.borrow_and_update().lanes.get(usize::from(lane.0)).and_then(|lane| lane.end);
        match spool.read(lane, from, READ_BYTES).await {
            Ok(entries) if entries.is_empty() => {
                drop(room);
                let grown =
                    stats.wait_for(|stats| stats.lanes.get(usize::from(lane.0)).and_then(|lane| lane.end) != end);
                if grown.await.is_err() {
                    return;
                }
            }
            Ok(entries) => {
                from = entries.last().map_or(from, |last| ReadFrom::After(last.position));
                room.send(entries);
            }
            Err(ReadError::Closed) => return,
            Err(error @ ReadError::Io { .. }) => {
                warn!(lane = lane.0, %error, "the spool cannot be read; trying again");
                sleep(READ_AGAIN_AFTER).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_go_before_all_else() {
        assert_eq!(choose(lane::INGEST, |_| true), Some(lane::EVENT));
    }

    #[test]
    fn the_other_lanes_take_turns_and_neither_waits_for_an_empty_one() {
        let without_events = |lane| lane != lane::EVENT;
        assert_eq!(choose(lane::INGEST, without_events), Some(lane::TELEMETRY));
        assert_eq!(choose(lane::TELEMETRY, without_events), Some(lane::INGEST));
        assert_eq!(choose(lane::INGEST, |lane| lane == lane::INGEST), Some(lane::INGEST));
        assert_eq!(choose(lane::INGEST, |_| false), None);
    }
}
