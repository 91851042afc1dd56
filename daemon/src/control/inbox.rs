//! What the uplink has for control, until control takes it: in order, bounded, and never waited for.
//!
//! A document supersedes the one of the same topic that still waits: only the latest counts. Where it finds no room, it is
//! dropped and its topic is noted; once control has caught up, the uplink asks the broker for that topic again, which
//! retains what is desired. So desired state may come late, and is never lost. A request that finds no room is dropped
//! for good, and the offer says so.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::link::{Incoming, MAX_CONFIG_BYTES, MAX_POLICY_BYTES, MAX_REQUEST_BYTES, Payload, Source, Subject};

/// Bytes of documents that wait: two of the longest configurations, the one that is being published and the one that a
/// group had; or the longest policy with a configuration of any likely length. A second policy of that length is asked for again.
pub const MAX_WAITING_BYTES: usize = 2 * MAX_CONFIG_BYTES;
const _: () = assert!(MAX_POLICY_BYTES + (1 << 20) <= MAX_WAITING_BYTES);

/// Requests that wait. With the longest payloads they are 256 KiB; an operator's script sends a handful.
pub const MAX_WAITING_REQUESTS: usize = 16;
const _: () = assert!(MAX_WAITING_REQUESTS * MAX_REQUEST_BYTES <= 256 << 10);

/// Makes both ends.
#[must_use]
pub fn inbox() -> (Inbox, InboxReceiver) {
    let shared = Arc::new(Shared::default());
    (Inbox(Arc::clone(&shared)), InboxReceiver(shared))
}

/// The uplink's end.
#[derive(Clone, Debug)]
pub struct Inbox(Arc<Shared>);

/// Control's end.
#[derive(Debug)]
pub struct InboxReceiver(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    filled: Notify,
    caught_up: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// One a topic, one reading, and the requests: few enough to be searched.
    queue: VecDeque<Incoming>,
    /// Topics whose latest document was dropped.
    missed: BTreeSet<(Subject, Source)>,
    /// Control has ended.
    closed: bool,
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It waits for control.
    Taken,
    /// A document found no room; [`Inbox::missed`] will name its topic.
    Missed,
    /// A request found no room, or control has ended: it is lost.
    Dropped,
}

impl Inbox {
    /// Puts something in, without waiting.
    pub fn offer(&self, incoming: Incoming) -> Offered {
        let offered = self.0.waiting().offer(incoming);
        if offered == Offered::Taken {
            self.0.filled.notify_one();
        }
        offered
    }

    /// The next topic whose document was dropped, once control has taken all documents that waited. Each is named once
    /// for each time that it was missed. Cancelling loses nothing.
    pub async fn missed(&self) -> (Subject, Source) {
        loop {
            let caught_up = self.0.caught_up.notified();
            if let Some(missed) = self.0.waiting().next_missed() {
                return missed;
            }
            caught_up.await;
        }
    }
}

impl InboxReceiver {
    /// The next thing, in the order in which topics first came. Cancelling loses nothing.
    pub async fn next(&mut self) -> Incoming {
        loop {
            let filled = self.0.filled.notified();
            let taken = self.0.waiting().queue.pop_front();
            if let Some(incoming) = taken {
                self.0.caught_up.notify_one();
                return incoming;
            }
            filled.await;
        }
    }
}

/// What comes after control has ended is not kept.
impl Drop for InboxReceiver {
    fn drop(&mut self) {
        *self.0.waiting() = Waiting { closed: true, ..Waiting::default() };
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn offer(&mut self, incoming: Incoming) -> Offered {
        if self.closed {
            return Offered::Dropped;
        }
        match &incoming {
            Incoming::Desired { subject, source, payload } => {
                let topic = (*subject, source.clone());
                let earlier = self.queue.iter().position(|waiting| is_of(waiting, &topic));
                let superseded = earlier.map_or(0, |place| bytes_of(&self.queue[place]));
                let others = self.queue.iter().map(bytes_of).sum::<usize>() - superseded;
                if others + bytes(payload) > MAX_WAITING_BYTES {
                    // What waited is no longer what is desired.
                    earlier.map(|place| self.queue.remove(place));
                    self.missed.insert(topic);
                    return Offered::Missed;
                }
                self.missed.remove(&topic);
                // In the earlier one's place: whatever came in between said that the topic has something.
                match earlier {
                    Some(place) => self.queue[place] = incoming,
                    None => self.queue.push_back(incoming),
                }
            }
            Incoming::ReadInFull { .. } => {
                // The later reading says all that the earlier one did.
                self.queue.retain(|waiting| !matches!(waiting, Incoming::ReadInFull { .. }));
                self.queue.push_back(incoming);
            }
            Incoming::Request(_) => {
                let requests = self.queue.iter().filter(|waiting| matches!(waiting, Incoming::Request(_))).count();
                if requests >= MAX_WAITING_REQUESTS {
                    return Offered::Dropped;
                }
                self.queue.push_back(incoming);
            }
        }
        Offered::Taken
    }

    fn next_missed(&mut self) -> Option<(Subject, Source)> {
        let documents_wait = self.queue.iter().any(|waiting| matches!(waiting, Incoming::Desired { .. }));
        if documents_wait { None } else { self.missed.pop_first() }
    }
}

fn is_of(incoming: &Incoming, topic: &(Subject, Source)) -> bool {
    matches!(incoming, Incoming::Desired { subject, source, .. } if (*subject, source) == (topic.0, &topic.1))
}

fn bytes_of(incoming: &Incoming) -> usize {
    match incoming {
        Incoming::Desired { payload, .. } => bytes(payload),
        Incoming::ReadInFull { .. } | Incoming::Request(_) => 0,
    }
}

const fn bytes(payload: &Payload) -> usize {
    match payload {
        Payload::Document(document) => document.len(),
        Payload::Empty | Payload::TooLarge { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use bytes::Bytes;
    use tokio::time::timeout;

    use super::*;
    use crate::control::link::Request;

    fn group(name: &str) -> Source {
        Source::Group(name.into())
    }

    fn desired(source: Source, document: impl Into<Bytes>) -> Incoming {
        Incoming::Desired { subject: Subject::Config, source, payload: Payload::Document(document.into()) }
    }

    fn large() -> Bytes {
        vec![b' '; MAX_CONFIG_BYTES].into()
    }

    fn request(name: &str) -> Incoming {
        Incoming::Request(Request { name: name.to_owned(), ..Request::default() })
    }

    fn read_in_full(present: &[Source]) -> Incoming {
        let present = present.iter().map(|source| (Subject::Config, source.clone())).collect();
        Incoming::ReadInFull { present, witness: BTreeMap::new() }
    }

    async fn all(receiver: &mut InboxReceiver) -> Vec<Incoming> {
        let mut taken = Vec::new();
        while let Ok(incoming) = timeout(Duration::from_millis(1), receiver.next()).await {
            taken.push(incoming);
        }
        taken
    }

    async fn missed(inbox: &Inbox) -> Option<Source> {
        timeout(Duration::from_millis(1), inbox.missed()).await.ok().map(|(_, source)| source)
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_supersedes_the_one_of_its_topic_that_waits_and_no_other() {
        let (inbox, mut receiver) = inbox();
        inbox.offer(desired(Source::Device, "1"));
        inbox.offer(desired(group("plant"), "1"));
        inbox.offer(read_in_full(&[group("plant"), Source::Device]));
        inbox.offer(desired(Source::Device, "2"));
        inbox.offer(request("status"));
        let expected = [
            desired(Source::Device, "2"),
            desired(group("plant"), "1"),
            read_in_full(&[group("plant"), Source::Device]),
            request("status"),
        ];
        assert_eq!(all(&mut receiver).await, expected);
        inbox.offer(desired(Source::Device, "3"));
        assert_eq!(all(&mut receiver).await, [desired(Source::Device, "3")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_that_comes_after_a_reading_stays_after_it() {
        let (inbox, mut receiver) = inbox();
        inbox.offer(read_in_full(&[]));
        inbox.offer(desired(Source::Device, "1"));
        inbox.offer(read_in_full(&[Source::Device]));
        assert_eq!(all(&mut receiver).await, [desired(Source::Device, "1"), read_in_full(&[Source::Device])]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_without_room_is_asked_for_again_once_control_has_caught_up() {
        let (inbox, mut receiver) = inbox();
        assert_eq!(inbox.offer(desired(group("a"), large())), Offered::Taken);
        assert_eq!(inbox.offer(desired(group("b"), large())), Offered::Taken);
        assert_eq!(inbox.offer(desired(Source::Device, "{}")), Offered::Missed);
        assert_eq!(inbox.offer(desired(group("b"), large())), Offered::Taken, "it takes the place of the earlier one");
        receiver.next().await;
        assert_eq!(missed(&inbox).await, None, "control has not caught up");
        receiver.next().await;
        assert_eq!(missed(&inbox).await, Some(Source::Device));
        assert_eq!(missed(&inbox).await, None, "it is named once");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outdated_document_does_not_wait_in_the_stead_of_the_one_that_was_dropped() {
        let (inbox, mut receiver) = inbox();
        inbox.offer(desired(group("a"), large()));
        inbox.offer(desired(group("b"), vec![b' '; MAX_CONFIG_BYTES - 10]));
        inbox.offer(desired(Source::Device, "old"));
        assert_eq!(inbox.offer(desired(Source::Device, "new, and longer")), Offered::Missed);
        assert_eq!(all(&mut receiver).await.len(), 2);
        assert_eq!(missed(&inbox).await, Some(Source::Device));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_anyhow_is_not_asked_for_again() {
        let (inbox, mut receiver) = inbox();
        inbox.offer(desired(group("a"), large()));
        inbox.offer(desired(group("b"), large()));
        inbox.offer(desired(Source::Device, "{}"));
        all(&mut receiver).await;
        inbox.offer(desired(Source::Device, "{}"));
        all(&mut receiver).await;
        assert_eq!(missed(&inbox).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_beyond_the_bound_are_dropped_and_documents_still_pass() {
        let (inbox, mut receiver) = inbox();
        for _ in 0..MAX_WAITING_REQUESTS {
            assert_eq!(inbox.offer(request("status")), Offered::Taken);
        }
        assert_eq!(inbox.offer(request("status")), Offered::Dropped);
        assert_eq!(inbox.offer(desired(Source::Device, "{}")), Offered::Taken);
        assert_eq!(all(&mut receiver).await.len(), MAX_WAITING_REQUESTS + 1);
        assert_eq!(inbox.offer(request("status")), Offered::Taken);
    }

    #[test]
    fn nothing_is_kept_for_control_that_has_ended() {
        let (inbox, receiver) = inbox();
        inbox.offer(desired(Source::Device, large()));
        drop(receiver);
        assert!(inbox.0.waiting().queue.is_empty());
        assert_eq!(inbox.offer(desired(Source::Device, large())), Offered::Dropped);
    }

    #[tokio::test]
    async fn whoever_waits_is_woken() {
        let (inbox, mut receiver) = inbox();
        let waiter = tokio::spawn(async move { receiver.next().await });
        tokio::task::yield_now().await;
        inbox.offer(request("status"));
        assert_eq!(timeout(Duration::from_secs(5), waiter).await.unwrap().unwrap(), request("status"));
    }
}
