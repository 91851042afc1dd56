//! Takes records from the lanes to the broker, and moves the cursors behind them.
//!
//! ```text
//!   lanes ──► ledger ──► broker ──► acknowledged ───────────────────────► cursor
//!                          │
//!                          ├─ refused for now ──► held, sent again after a back-off; its lane waits
//!                          └─ refused for good ─► event/loss is stored ──► cursor
//! ```
//!
//! Within a lane, records go in order and are pipelined. A record that the broker refuses for now holds its
//! lane, and what was already under way behind it may arrive before it: the one case in which consumers see a
//! stream out of order, short of duplicates.

use std::{collections::BTreeMap, mem, pin::Pin, sync::Arc, time::Duration};

use futures_util::stream::FuturesUnordered;
use tidegate_spool::{Entry, LaneId, Position, Spool, Stats};
use tokio::{sync::watch, time::Instant};
use tracing::{error, warn};

use super::{
    backoff::Backoff,
    caution::{Caution, Exposed, Suspect},
    client::{Connection, Granted, Message, NotSent, Outcome},
    inflight::{Ledger, Limits, Token},
    lanes::{LANES, Lanes},
    refusal::Refusal,
    session::Subscribed,
    status::{Delivered, UplinkStatus},
    topics::Topics,
};
use crate::{
    control::link::Subject,
    order::sort,
    record::Record,
    sources::{Sink, lane, loss::Report},
};

/// Records with the broker at a time, where it grants as many: at a round trip of 300 ms (LTE with loss) that is
/// 1,700 records a second. Brokers grant less by default (mosquitto 20).
pub(super) const MAX_IN_FLIGHT: u16 = 512;

/// Bytes of records with the broker at a time. Our own round trip waits behind them: over 64 kbit/s (EDGE) they take
/// 32 s, and with their envelopes still less than its patience of two keep-alives (60 s by default). With a round trip
/// of 100 ms they allow 2.5 MiB/s. Held twice at most, here and in the write buffer, they also bound the memory.
const MAX_IN_FLIGHT_BYTES: usize = 256 << 10;

/// What a lane may have in the ledger: twice what may be in flight, so that one late answer does not stop it.
const SPAN: usize = 2 * MAX_IN_FLIGHT as usize;

/// How a connection ended, as far as the records on it are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// We left.
    Left,
    /// The link broke, or fell silent.
    Broken,
    /// The broker ended it by an answer that may be about a record.
    Objection,
}

/// Records that go one by one after the broker objected to one of several: all of what was in flight then.
const ONE_BY_ONE: usize = MAX_IN_FLIGHT as usize;

/// Losses that one batch reports.
const REPORTS_AT_A_TIME: usize = 64;

/// Between a failed attempt to store reports and the next.
const REPORT_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// On each connection, before a record goes that an earlier one did not survive.
const OTHERS_FIRST: Duration = Duration::from_secs(1);

/// Answers of the broker that are awaited.
pub(super) type Answers = FuturesUnordered<Pin<Box<dyn Future<Output = (Sent, Outcome)> + Send>>>;

/// What an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// A record from the spool.
    Record(Token),
    /// The birth message.
    Birth,
    /// The subscription to our own echo, without which there is no session.
    EchoSubscription,
    /// Another subscription, or the end of one.
    Subscription(Subscribed),
    /// The nonce of a round trip.
    Echo,
    /// The nonce behind desired state.
    Barrier,
    /// What control reports.
    Report(Subject),
    /// The answer to a request.
    Reply,
    /// `offline`.
    Farewell,
}

/// Publishes, and remembers to wait for the answer.
pub(super) fn publish(
    link: &Connection,
    answers: &Answers,
    sent: Sent,
    message: Message,
    retain: bool,
) -> Result<(), NotSent> {
    let answer = link.publish(message, retain)?;
    answers.push(Box::pin(async move { (sent, answer.await) }));
    Ok(())
}

/// The delivery of one connection.
pub(super) struct Delivery {
    spool: Spool,
    sink: Sink,
    topics: Topics,
    /// For the epoch, which is known once the spool is open.
    stats: watch::Receiver<Stats>,
    max_packet_bytes: usize,
    lanes: Lanes,
    ledger: Ledger<Parcel>,
    caution: Caution,
    /// Records that still go one by one.
    one_by_one: usize,
    /// Records that may be with the broker at a time, when there is no reason for caution.
    window: usize,
    /// Cursors that moved since the spool was told.
    moved: [Option<Position>; LANES.len()],
    retries: Retries,
    losses: Losses,
    tally: Tally,
}

/// A record in the ledger.
#[derive(Debug)]
struct Parcel {
    stream: Arc<str>,
    seq: u64,
    /// `None` where the stored bytes are no record.
    message: Option<Message>,
}

/// What one connection's delivery leaves to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    caution: Caution,
    retries: Retries,
}

/// Records that the broker refused for now. Their wait outlasts the connection: some brokers close it when they
/// refuse (mosquitto 2.0 without an in-flight limit), and the other lanes shall get their turn in between.
#[derive(Debug, Default)]
struct Retries {
    tokens: Vec<Token>,
    /// Those that an earlier connection left, still to be read from the spool again.
    left: Vec<Suspect>,
    at: Option<Instant>,
    /// What was waited for the last time.
    wait: Duration,
    backoff: Backoff,
    last_round: Option<Instant>,
    /// The last refusal, also a permanent one.
    reason: Option<Refusal>,
}

/// Records that will never be delivered, until that is on disk.
#[derive(Default)]
struct Losses {
    waiting: Vec<Lost>,
    at: Option<Instant>,
    reporting: Option<Reporting>,
}

type Reporting = Pin<Box<dyn Future<Output = (Vec<Lost>, Result<(), String>)> + Send>>;

#[derive(Clone, Debug)]
struct Lost {
    token: Token,
    stream: Arc<str>,
    seq: u64,
    cause: Cause,
    /// A lost `event/loss` is not reported by another one: a broker that takes none would have us write them for ever.
    is_report: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Refused(Refusal),
    Damaged,
}

/// Counts since they were last added to the status.
#[derive(Debug, Default)]
struct Tally {
    acknowledged: Delivered,
    refused: BTreeMap<Refusal, u64>,
    given_up: u64,
    damaged: u64,
}

impl Delivery {
    /// Starts at the cursors: whatever an earlier connection left without an answer goes again.
    pub(super) fn new(
        spool: &Spool,
        sink: Sink,
        topics: Topics,
        granted: &Granted,
        memory: Memory,
        now: Instant,
    ) -> Self {
        let Memory { caution, mut retries } = memory;
        retries.connected(now);
        let window = usize::from(granted.receive_maximum.min(MAX_IN_FLIGHT));
        let (records, one_by_one) = if caution.is_one_by_one() { (1, ONE_BY_ONE) } else { (window, 0) };
        let limits = Limits { records, bytes: MAX_IN_FLIGHT_BYTES, span: SPAN };
        Self {
            spool: spool.clone(),
            sink,
            topics,
            stats: spool.stats(),
            max_packet_bytes: granted.max_packet_bytes,
            lanes: Lanes::open(spool),
            ledger: Ledger::new(LANES.len(), limits),
            caution,
            one_by_one,
            window,
            moved: [None; LANES.len()],
            retries,
            losses: Losses::default(),
            tally: Tally::default(),
        }
    }

    /// Sends what is due and what there is room for.
    ///
    /// # Errors
    ///
    /// [`NotSent::Closed`]: the connection is over.
    pub(super) fn advance(&mut self, link: &Connection, answers: &Answers, now: Instant) -> Result<(), NotSent> {
        if self.retries.at.is_some_and(|at| at <= now) {
            self.send_again(link, answers, now)?;
        }
        if self.losses.reporting.is_none() && self.losses.at.is_none_or(|at| at <= now) {
            self.report_losses();
        }
        while let Some((lane, bytes)) = self.lanes.next(|lane| self.ledger.is_open(lane)) {
            // Not even a smaller record of another lane goes first: it would keep the room from ever coming.
            if !self.ledger.has_room(bytes) {
                break;
            }
            let Some(entry) = self.lanes.take(lane) else { break };
            self.send(link, answers, lane, &entry, now)?;
        }
        Ok(())
    }

    fn send(
        &mut self,
        link: &Connection,
        answers: &Answers,
        lane: LaneId,
        entry: &Entry,
        now: Instant,
    ) -> Result<(), NotSent> {
        let message = self.topics.message(&self.stats.borrow().epoch, entry);
        let parcel = Parcel { stream: Arc::clone(&entry.stream), seq: entry.seq, message: message.clone() };
        let token = self.ledger.admit(lane, entry.position, entry.payload.len(), parcel);
        match message {
            None => self.give_up(token, Cause::Damaged),
            Some(_) if self.caution.condemns(&entry.stream, entry.seq) => {
                self.refused(token, Refusal::EndsConnection, now);
                self.caution.convicted();
                self.pipeline();
            }
            Some(_) if self.retries.still_wait_for(&entry.stream, entry.seq) => {
                if self.ledger.hold(token) {
                    self.retries.tokens.push(token);
                }
            }
            Some(message) if message.packet_bytes() > self.max_packet_bytes => {
                self.refused(token, Refusal::TooLarge, now);
            }
            Some(message) => match publish(link, answers, Sent::Record(token), message, false) {
                Ok(()) => {}
                Err(NotSent::BadTopic) => self.refused(token, Refusal::TopicNameInvalid, now),
                Err(NotSent::Closed) => return Err(NotSent::Closed),
            },
        }
        Ok(())
    }

    /// The broker answered.
    pub(super) fn answered(&mut self, token: Token, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Acknowledged => {
                let delivered = &mut self.tally.acknowledged;
                *match token.lane {
                    lane::EVENT => &mut delivered.event,
                    lane::INGEST => &mut delivered.ingest,
                    _ => &mut delivered.telemetry,
                } += 1;
                self.settle(token);
                self.caution.passed();
                if self.one_by_one == 1 {
                    self.trust();
                }
                self.one_by_one = self.one_by_one.saturating_sub(1);
            }
            Outcome::Refused(refusal) => self.refused(token, refusal, now),
            // The connection is ending; the next one begins at the cursor.
            Outcome::Unknown => {}
        }
    }

    fn trust(&mut self) {
        self.caution.trust();
        self.pipeline();
    }

    fn pipeline(&mut self) {
        self.one_by_one = 0;
        self.ledger.allow(self.window);
    }

    /// Ends the delivery: what the next one has to know.
    pub(super) fn finish(mut self, ending: Ending) -> Memory {
        let mut exposed = self.ledger.exposed();
        let exposed = match (exposed.next(), exposed.next()) {
            (None, _) => Exposed::Nothing,
            (Some(one), None) => Exposed::One((Arc::clone(&one.stream), one.seq)),
            (Some(_), Some(_)) => Exposed::Many,
        };
        match ending {
            Ending::Objection => self.caution.objected(exposed),
            Ending::Broken if exposed == Exposed::Many => self.caution.broke(),
            Ending::Broken | Ending::Left => {}
        }
        let held = mem::take(&mut self.retries.tokens).into_iter().filter_map(|token| self.ledger.get(token));
        self.retries.left.extend(held.map(|parcel| (Arc::clone(&parcel.stream), parcel.seq)));
        Memory { caution: self.caution, retries: self.retries }
    }

    fn settle(&mut self, token: Token) {
        if let Some(advance) = self.ledger.settle(token) {
            self.moved[usize::from(token.lane.0)] = Some(advance.position);
        }
    }

    fn refused(&mut self, token: Token, refusal: Refusal, now: Instant) {
        *self.tally.refused.entry(refusal).or_default() += 1;
        self.retries.reason = Some(refusal);
        if refusal.is_permanent() {
            self.give_up(token, Cause::Refused(refusal));
        } else if self.ledger.hold(token) {
            self.retries.hold(token, refusal, now);
        }
    }

    fn give_up(&mut self, token: Token, cause: Cause) {
        let Some(parcel) = self.ledger.get(token) else { return };
        let is_report = parcel.message.as_ref().is_some_and(|message| message.topic.ends_with("/event/loss"));
        let lost = Lost { token, stream: Arc::clone(&parcel.stream), seq: parcel.seq, cause, is_report };
        match cause {
            Cause::Refused(_) => self.tally.given_up += 1,
            Cause::Damaged => self.tally.damaged += 1,
        }
        error!(stream = %lost.stream, seq = lost.seq, ?cause, "a record will never be delivered");
        if self.ledger.hold(token) {
            self.losses.waiting.push(lost);
        }
    }

    fn send_again(&mut self, link: &Connection, answers: &Answers, now: Instant) -> Result<(), NotSent> {
        self.retries.at = None;
        self.retries.left.clear();
        self.retries.last_round = Some(now);
        // In the lanes' order, which is also each stream's.
        let mut tokens = mem::take(&mut self.retries.tokens);
        sort(&mut tokens);
        for token in tokens {
            let Some(message) = self.ledger.get(token).and_then(|parcel| parcel.message.clone()) else { continue };
            if self.ledger.resend(token) {
                publish(link, answers, Sent::Record(token), message, false)?;
            } else {
                self.retries.tokens.push(token);
                self.retries.at = Some(now + Duration::from_secs(1));
            }
        }
        Ok(())
    }

    /// Stores what is lost, away from here: the disk may take its time.
    fn report_losses(&mut self) {
        self.losses.at = None;
        let count = self.losses.waiting.len().min(REPORTS_AT_A_TIME);
        if count == 0 {
            return;
        }
        let batch: Vec<_> = self.losses.waiting.drain(..count).collect();
        let records = reports(&batch, &self.stats.borrow().epoch);
        let sink = self.sink.clone();
        self.losses.reporting = Some(Box::pin(async move {
            let stored = if records.is_empty() { Ok(()) } else { sink.put(records).await.map(drop) };
            (batch, stored.map_err(|error| error.to_string()))
        }));
    }

    fn reported(&mut self, batch: Vec<Lost>, stored: Result<(), String>, now: Instant) {
        match stored {
            Ok(()) => batch.iter().for_each(|lost| self.settle(lost.token)),
            Err(error) => {
                warn!(error, "losses cannot be reported yet; trying again");
                self.losses.at = Some(now + REPORT_AGAIN_AFTER);
                self.losses.waiting.splice(0..0, batch);
            }
        }
    }

    /// Waits for new records or for a report to be stored. Cancelling loses nothing.
    pub(super) async fn ready(&mut self) {
        let Self { lanes, losses, .. } = self;
        let (batch, stored) = tokio::select! {
            () = lanes.filled() => return,
            done = async { losses.reporting.as_mut().expect("the branch is guarded").await }, if losses.reporting.is_some() => done,
        };
        self.losses.reporting = None;
        self.reported(batch, stored, Instant::now());
    }

    /// When [`Self::advance`] has something to do even if nothing happens.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        let report_at = self.losses.at.filter(|_| self.losses.reporting.is_none());
        [self.retries.at, report_at].into_iter().flatten().min()
    }

    /// Tells the spool how far its cursors may move. Cancelled, it tells it at the next call.
    pub(super) async fn move_cursors(&mut self) {
        for (lane, moved) in LANES.into_iter().zip(&mut self.moved) {
            if let Some(position) = *moved {
                self.spool.acknowledge(lane, position).await;
                *moved = None;
            }
        }
    }

    /// Adds what happened since the last call. False where nothing did.
    pub(super) fn account(&mut self, status: &mut UplinkStatus) -> bool {
        let before = (status.in_flight, status.held);
        (status.in_flight, status.held) = (self.ledger.in_flight(), self.ledger.held());
        let tally = mem::take(&mut self.tally);
        let Delivered { event, ingest, telemetry } = tally.acknowledged;
        status.acknowledged.event += event;
        status.acknowledged.ingest += ingest;
        status.acknowledged.telemetry += telemetry;
        status.given_up += tally.given_up;
        status.damaged += tally.damaged;
        for (refusal, count) in &tally.refused {
            *status.refused.entry(*refusal).or_default() += count;
        }
        let reason = self.retries.reason.filter(|_| status.held > 0);
        status.held_reason = reason.map(|refusal| refusal.to_string());
        event + ingest + telemetry + tally.given_up + tally.damaged > 0
            || !tally.refused.is_empty()
            || before != (status.in_flight, status.held)
    }
}

impl Retries {
    /// Whether an earlier connection left this record to wait, and the wait is not over.
    fn still_wait_for(&self, stream: &str, seq: u64) -> bool {
        self.at.is_some() && self.left.iter().any(|(left, number)| (&**left, *number) == (stream, seq))
    }

    /// On a new connection they wait again: where the wait for the connection was the longer one, they would end this one,
    /// too, before anything else has passed.
    fn connected(&mut self, now: Instant) {
        if !self.left.is_empty() {
            self.at = self.at.max(Some(now + self.wait.max(OTHERS_FIRST)));
        }
    }

    fn hold(&mut self, token: Token, refusal: Refusal, now: Instant) {
        self.tokens.push(token);
        if self.at.is_some() {
            return;
        }
        // A refusal comes a round trip after its attempt. One that comes much later is a new trouble.
        if let Some(last_round) = self.last_round {
            self.backoff.worked_for(now - last_round);
        }
        let wait = self.backoff.failed(fastrand::f64);
        (self.at, self.wait) = (Some(now + wait), wait);
        warn!(%refusal, wait_ms = wait.as_millis(), "the broker refuses records; they wait and go again");
    }
}

/// One record for each run of sequences that were lost for the same cause.
fn reports(lost: &[Lost], epoch: &[u8; 16]) -> Vec<Record> {
    let mut runs: Vec<(Report<'_>, Cause)> = Vec::new();
    for Lost { stream, seq, cause, .. } in lost.iter().filter(|lost| !lost.is_report) {
        if let Some((run, run_cause)) = runs.last_mut()
            && (run.stream, run.to_seq + 1, *run_cause) == (&**stream, *seq, *cause)
        {
            run.to_seq = *seq;
            run.count += 1;
            continue;
        }
        let (reason, detail) = match cause {
            Cause::Refused(refusal) => ("refused", Some(refusal.to_string())),
            Cause::Damaged => ("damaged", Some("the stored bytes are no record of this version".to_owned())),
        };
        runs.push((Report { stream, from_seq: *seq, to_seq: *seq, count: 1, reason, detail }, *cause));
    }
    runs.iter().map(|(report, _)| report.record(epoch)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::inflight::Advance;

    fn lost(seq: u64, stream: &str, cause: Cause, is_report: bool) -> Lost {
        let mut ledger = Ledger::new(1, Limits { records: 9, bytes: 9, span: 9 });
        let token = ledger.admit(LaneId(0), Position { segment: 1, offset: seq }, 1, ());
        assert!(matches!(ledger.settle(token), Some(Advance { records: 1, .. })));
        Lost { token, stream: stream.into(), seq, cause, is_report }
    }

    #[test]
    fn neighbouring_losses_of_one_cause_make_one_report() {
        let large = Cause::Refused(Refusal::TooLarge);
        let batch = [
            lost(3, "telemetry", large, false),
            lost(4, "telemetry", large, false),
            lost(5, "telemetry", Cause::Damaged, false),
            lost(6, "ingest/a", Cause::Damaged, false),
            lost(8, "ingest/a", Cause::Damaged, false),
        ];
        let ranges: Vec<_> = reports(&batch, &[0; 16])
            .iter()
            .map(|record| {
                let data: serde_json::Value = serde_json::from_slice(&record.data).unwrap();
                (
                    data["from_seq"].as_u64().unwrap(),
                    data["to_seq"].as_u64().unwrap(),
                    data["reason"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        let expected = [(3, 4, "refused"), (5, 5, "damaged"), (6, 6, "damaged"), (8, 8, "damaged")];
        assert_eq!(ranges, expected.map(|(from, to, reason)| (from, to, reason.to_owned())));
    }

    #[test]
    fn a_lost_report_is_not_reported() {
        assert!(reports(&[lost(1, "event", Cause::Refused(Refusal::TooLarge), true)], &[0; 16]).is_empty());
    }

    #[test]
    fn on_a_new_connection_others_go_before_what_ended_the_last_one() {
        let now = Instant::now();
        let held = |left: Vec<Suspect>| Retries { at: Some(now), left, ..Retries::default() };
        let mut retries = held(vec![("ingest/a".into(), 7)]);
        retries.connected(now + Duration::from_secs(9));
        assert_eq!(retries.at, Some(now + Duration::from_secs(9) + OTHERS_FIRST));
        retries.wait = Duration::from_mins(1);
        retries.connected(now);
        assert_eq!(retries.at, Some(now + Duration::from_mins(1)));
        let mut none_left = held(Vec::new());
        none_left.connected(now);
        assert_eq!(none_left.at, Some(now));
    }
}
