//! The rules one by one, with the times and texts that the model does not look at.

use tidegate_values::Digest;

use super::*;

const WITHIN: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(5);
const ATTEMPTS: u32 = 4;

/// A protocol, its clock, and a disk and a link that work.
struct Bench {
    protocol: Protocol<u8>,
    up: Duration,
    /// What was applied, put back and told.
    done: Vec<Step>,
    disk: Result<(), String>,
    round_trips: bool,
    applied: Applied,
}

impl Bench {
    fn new() -> Self {
        Self::trying(ATTEMPTS)
    }

    fn trying(attempts: u32) -> Self {
        let mut bench = Self {
            protocol: Protocol::start(Memory::default(), attempts, WITHIN, Now::default()).0,
            up: Duration::ZERO,
            done: Vec::new(),
            disk: Ok(()),
            round_trips: true,
            applied: Applied::Whole,
        };
        bench.tell(Event::Linked(true));
        bench
    }

    fn tell(&mut self, event: Event<u8>) {
        let now = Now { up: self.up, ts_ms: u64::try_from(self.up.as_millis()).unwrap() };
        for step in self.protocol.handle(event, now) {
            match &step {
                Step::Persist(write) => self.tell(Event::Written { write: *write, result: self.disk.clone() }),
                Step::Apply(trial) => self.tell(Event::Applied(*trial, self.applied.clone())),
                Step::Probe(trial) if self.round_trips => {
                    self.up += SOON;
                    self.tell(Event::Probed(*trial));
                }
                _ => {}
            }
            self.done.push(step);
        }
    }

    fn offer(&mut self, version: u64, body: u8) {
        let stamp = Stamp { version, digest: Digest::of(&[body]) };
        self.tell(Event::Offered(Source::Device, stamp, Ok(body)));
    }

    /// Lets time pass until nothing is waited for, or `until`.
    fn wait(&mut self, until: Duration) {
        while let Some(wake) = self.protocol.wake().filter(|wake| *wake <= until) {
            self.up = self.up.max(wake);
            self.tell(Event::Tick);
        }
        self.up = self.up.max(until);
    }

    fn rest(&mut self) {
        self.wait(self.up + Duration::from_hours(1));
    }

    fn view(&self) -> View {
        self.protocol.view(&Source::Device)
    }

    fn runs(&self) -> Option<u8> {
        self.protocol.running().map(|(_, document)| document.body).next()
    }

    /// The process dies, and the next one begins with what is remembered.
    fn restart(&mut self) {
        let text = serde_json::to_string(&self.protocol.memory()).unwrap();
        let now = Now { up: self.up, ts_ms: u64::try_from(self.up.as_millis()).unwrap() };
        let (protocol, steps) =
            Protocol::start(serde_json::from_str(&text).unwrap(), self.protocol.attempts, WITHIN, now);
        self.protocol = protocol;
        for step in steps {
            match step {
                Step::Persist(write) => self.tell(Event::Written { write, result: Ok(()) }),
                Step::Tell(..) => self.done.push(step),
                _ => panic!("{step:?} before anything is written"),
            }
        }
    }
}

#[test]
fn a_document_is_confirmed_by_a_round_trip_that_begins_after_it_settled() {
    let mut bench = Bench::new();
    bench.offer(1, 7);
    assert_eq!((bench.view().state, bench.runs()), (State::Applied, Some(7)));
    assert_eq!(bench.protocol.wake(), Some(SETTLE));
    bench.rest();
    let view = bench.view();
    assert_eq!((view.state, view.version, view.since_ms), (State::Confirmed, Some(1), 2005));
    assert_eq!(view.confirmed.map(|stamp| stamp.version), Some(1));
}

#[test]
fn without_a_round_trip_it_is_put_back_and_tried_three_more_times_with_growing_pauses() {
    let mut bench = Bench::new();
    bench.offer(1, 7);
    bench.rest();
    bench.done.clear();
    bench.round_trips = false;
    bench.offer(2, 8);
    let begin = bench.up;
    let mut attempts = Vec::new();
    while let Some(wake) = bench.protocol.wake() {
        bench.wait(wake);
        if bench.view().state == State::RolledBack {
            attempts.push(bench.up.saturating_sub(begin).as_secs());
            assert_eq!(bench.runs(), Some(7));
        }
    }
    // Each takes 30 s, and there are 30, 60 and 120 s between them.
    assert_eq!(attempts, [30, 90, 180, 330]);
    assert_eq!(bench.done.iter().filter(|step| **step == Step::PutBack).count(), 4);
    let view = bench.view();
    assert_eq!((view.attempts, view.next_attempt), (Some(4), None));
    assert_eq!(view.reason.as_deref(), Some("no round trip with the broker within 30 s"));

    bench.offer(2, 8);
    bench.rest();
    assert_eq!(bench.view().state, State::RolledBack, "the same document again is nothing new");
    bench.round_trips = true;
    bench.tell(Event::Retry(None));
    bench.rest();
    assert_eq!((bench.view().state, bench.runs()), (State::Confirmed, Some(8)));
}

#[test]
fn with_one_try_it_waits_for_a_request_whatever_comes_and_goes() {
    let mut bench = Bench::trying(1);
    bench.round_trips = false;
    bench.offer(1, 7);
    bench.wait(bench.up + WITHIN);
    bench.round_trips = true;
    for _ in 0..2 {
        assert_eq!((bench.view().state, bench.view().next_attempt, bench.runs()), (State::RolledBack, None, None));
        bench.tell(Event::Linked(false));
        bench.tell(Event::Linked(true));
        bench.tell(Event::Refit);
        bench.offer(1, 7);
        bench.tell(Event::Retry(Some(Source::Group("plant".into()))));
        bench.rest();
        assert_eq!((bench.view().state, bench.view().attempts, bench.runs()), (State::RolledBack, Some(1), None));
        bench.restart();
        bench.tell(Event::Linked(true));
    }
    bench.tell(Event::Retry(Some(Source::Device)));
    bench.rest();
    assert_eq!((bench.view().state, bench.runs()), (State::Confirmed, Some(7)));
    bench.round_trips = false;
    bench.offer(2, 8);
    bench.wait(bench.up + WITHIN);
    bench.round_trips = true;
    bench.offer(3, 9);
    bench.rest();
    assert_eq!((bench.view().state, bench.runs()), (State::Confirmed, Some(9)), "a higher version needs no request");
}

#[test]
fn nothing_is_tried_again_before_there_is_a_link() {
    let mut bench = Bench::new();
    bench.round_trips = false;
    bench.offer(1, 7);
    bench.tell(Event::Linked(false));
    bench.rest();
    assert_eq!((bench.view().state, bench.view().attempts), (State::RolledBack, Some(1)));
    bench.round_trips = true;
    bench.tell(Event::Linked(true));
    bench.rest();
    assert_eq!(bench.view().state, State::Confirmed);
}

#[test]
fn a_trial_that_the_process_did_not_survive_is_rolled_back() {
    let mut bench = Bench::new();
    bench.offer(1, 7);
    bench.rest();
    bench.offer(2, 8);
    assert_eq!(bench.view().state, State::Applied);
    bench.done.clear();
    bench.up += SETTLE;
    bench.restart();
    let view = bench.view();
    assert_eq!((view.state, view.version, view.attempts, bench.runs()), (State::RolledBack, Some(2), Some(1), Some(7)));
    assert_eq!(view.reason.as_deref(), Some("interrupted: the daemon ended during the trial"));
    assert_eq!(u128::from(view.since_ms), bench.up.as_millis());
    let told = |step: &Step| matches!(step, Step::Tell(_, Outcome::RolledBack(Some(_), _, 1)));
    assert_eq!(bench.done.iter().filter(|step| told(step)).count(), 1);
}

#[test]
fn lower_and_conflicting_versions_are_refused_with_the_reason_and_forgotten_with_the_next_good_one() {
    let mut bench = Bench::new();
    bench.offer(5, 7);
    bench.rest();
    for (version, body, reason) in [
        (4, 1, "stale: version 4 is lower than 5, the highest so far"),
        (5, 8, "conflict: version 5 was another document before; publish this one with a higher version"),
    ] {
        bench.offer(version, body);
        let view = bench.view();
        assert_eq!((view.state, view.version, view.reason.as_deref()), (State::Refused, Some(version), Some(reason)));
        assert_eq!((view.confirmed.map(|stamp| stamp.version), bench.runs()), (Some(5), Some(7)));
    }
    bench.tell(Event::Unreadable(Source::Device, "not JSON".to_owned()));
    assert_eq!((bench.view().state, bench.view().version), (State::Refused, None));
    bench.offer(5, 7);
    assert_eq!((bench.view().state, bench.view().reason), (State::Confirmed, None));
}

#[test]
fn an_unusable_document_raises_the_mark_and_is_judged_anew_only_after_a_retry() {
    let mut bench = Bench::new();
    let stamp = Stamp { version: 3, digest: Digest::of(b"x") };
    let unusable = || Event::Offered(Source::Device, stamp, Err("host.interval: found 0".to_owned()));
    bench.tell(unusable());
    bench.offer(2, 7);
    assert!(bench.view().reason.unwrap().starts_with("stale"));
    bench.tell(Event::Offered(Source::Device, stamp, Ok(9)));
    assert_eq!(bench.view().reason.as_deref(), Some("host.interval: found 0"));
    bench.tell(Event::Retry(None));
    bench.tell(Event::Offered(Source::Device, stamp, Ok(9)));
    bench.rest();
    assert_eq!((bench.view().state, bench.runs()), (State::Confirmed, Some(9)));
    let writes = bench.protocol.writes;
    bench.tell(Event::Retry(None));
    assert_eq!(bench.protocol.writes, writes, "there was nothing to retry");
}

#[test]
fn with_a_full_disk_nothing_is_tried_until_it_takes_writes_again() {
    let mut bench = Bench::new();
    bench.disk = Err("no space left on device".to_owned());
    bench.offer(1, 7);
    let view = bench.view();
    assert_eq!((view.state, view.attempts, bench.runs()), (State::Pending, None, None));
    assert_eq!(view.reason.as_deref(), Some("cannot be recorded: no space left on device"));
    bench.wait(Duration::from_mins(1));
    assert_eq!((bench.view().state, bench.runs()), (State::Pending, None));
    bench.disk = Ok(());
    bench.rest();
    assert_eq!((bench.view().state, bench.view().attempts), (State::Confirmed, None));
}

#[test]
fn what_is_proven_is_not_told_to_be_confirmed_before_it_is_on_disk() {
    let mut bench = Bench::new();
    bench.offer(1, 7);
    bench.rest();
    bench.offer(2, 8);
    bench.disk = Err("no space left on device".to_owned());
    bench.wait(bench.up + 2 * SETTLE);
    let view = bench.view();
    assert_eq!((view.state, view.version, bench.runs()), (State::Applied, Some(2), Some(8)));
    assert_eq!(view.reason.as_deref(), Some("proven, but cannot be recorded yet"));
    assert_eq!(view.confirmed.map(|stamp| stamp.version), Some(1), "which a crash brings back");
    bench.disk = Ok(());
    bench.rest();
    let view = bench.view();
    assert_eq!((view.state, view.confirmed.map(|stamp| stamp.version)), (State::Confirmed, Some(2)));
}

/// The numbers of the writes that `offers` cause, one every 20 ms, on a disk that takes a second for each.
fn writes_on_a_slow_disk(offers: impl Iterator<Item = Event<u8>>) -> Vec<u64> {
    let (mut protocol, _) = Protocol::start(Memory::default(), ATTEMPTS, WITHIN, Now::default());
    let mut writes = Vec::new();
    let mut under_way: Option<(u64, Duration)> = None;
    for (offer, up) in offers.zip((0..).map(|count| Duration::from_millis(20 * count))) {
        let now = Now { up, ts_ms: 0 };
        let mut steps = protocol.handle(offer, now);
        if let Some((write, _)) = under_way.take_if(|(_, done)| *done <= up) {
            steps.extend(protocol.handle(Event::Written { write, result: Ok(()) }, now));
        }
        for step in steps {
            let Step::Persist(write) = step else { continue };
            assert_eq!(under_way, None, "one at a time");
            under_way = Some((write, up + Duration::from_secs(1)));
            writes.push(write);
        }
    }
    writes
}

#[test]
fn however_many_documents_come_one_write_is_under_way_and_refused_ones_hardly_cause_any() {
    let offer = |version: u64, judged| {
        let stamp = Stamp { version, digest: Digest::of(&version.to_be_bytes()) };
        Event::Offered(Source::Device, stamp, judged)
    };
    // A minute.
    let usable = writes_on_a_slow_disk((1..=3000).map(|version| offer(version, Ok(1))));
    assert_eq!(usable.len(), 60);
    let refused = writes_on_a_slow_disk((1..=3000).map(|version| offer(version, Err("no".to_owned()))));
    assert_eq!(refused.len(), 5);
}

#[test]
fn what_needs_a_restart_is_proven_in_part_and_tried_whole_at_the_next_start() {
    let mut bench = Bench::new();
    bench.offer(1, 7);
    bench.rest();
    bench.applied = Applied::Partly;
    bench.offer(2, 8);
    bench.rest();
    let view = bench.view();
    assert_eq!((view.state, view.version, bench.runs()), (State::PendingRestart, Some(2), Some(8)));
    assert_eq!(view.confirmed.map(|stamp| stamp.version), Some(1));

    bench.applied = Applied::Whole;
    bench.restart();
    assert_eq!((bench.view().state, bench.runs()), (State::Applied, Some(8)));
    bench.restart();
    assert_eq!((bench.view().state, bench.runs()), (State::RolledBack, Some(7)), "it died of it");
    bench.tell(Event::Linked(true));
    bench.rest();
    assert_eq!((bench.view().state, bench.runs()), (State::Confirmed, Some(8)));
}

#[test]
fn what_is_tried_at_a_start_has_its_time_from_the_first_link_on() {
    for (dials_in, held) in [(Duration::from_mins(2), true), (Duration::from_mins(11), false)] {
        let mut bench = Bench::new();
        bench.applied = Applied::Partly;
        bench.offer(1, 7);
        bench.rest();
        (bench.applied, bench.round_trips) = (Applied::Whole, false);
        bench.restart();
        bench.wait(bench.up + dials_in);
        assert_eq!(bench.view().state == State::Applied, held);
        bench.tell(Event::Linked(true));
        bench.wait(bench.up + WITHIN);
        let within = if held {
            "no round trip with the broker within 30 s"
        } else {
            "no link to the broker within 600 s of the start"
        };
        let reason = format!("{within}; its keys that need a restart still run until the next start");
        let told = bench
            .done
            .iter()
            .filter(|step| matches!(step, Step::Tell(_, Outcome::RolledBack(_, told, _)) if *told == reason));
        assert_eq!(told.count(), 1);
    }
}

#[test]
fn what_the_broker_forgot_stays_and_what_was_withdrawn_goes_by_a_trial() {
    let mut bench = Bench::new();
    bench.offer(1, 7);
    bench.rest();
    let absent = |remembered| Event::Absent { source: Source::Device, remembered };
    // The second time it remembers what we reported ourselves, even to the next process.
    for remembered in [false, true, true] {
        bench.tell(absent(remembered));
        bench.rest();
        assert_eq!((bench.view().state, bench.runs()), (State::Confirmed, Some(7)));
        assert!(bench.view().reason.unwrap().contains("lost its memory"));
        bench.restart();
        bench.tell(Event::Linked(true));
    }
    bench.offer(1, 7);
    bench.tell(absent(true));
    bench.rest();
    assert_eq!((bench.view().state, bench.runs()), (State::Confirmed, None));
    bench.offer(2, 7);
    bench.rest();
    bench.tell(Event::Withdrawn(Source::Device));
    bench.rest();
    let view = bench.view();
    assert_eq!((view.state, view.version, view.confirmed, bench.runs()), (State::Confirmed, None, None, None));
    bench.offer(2, 7);
    bench.rest();
    assert_eq!((bench.view().state, bench.runs()), (State::Confirmed, Some(7)), "asked for again");
}

#[test]
fn what_other_layers_made_unfit_is_set_aside_until_they_change_again() {
    let mut bench = Bench::new();
    bench.offer(1, 7);
    bench.rest();
    bench.tell(Event::SetAside(Source::Device, "does not fit".to_owned()));
    assert_eq!((bench.view().state, bench.runs()), (State::Refused, None));
    bench.tell(Event::Refit);
    bench.rest();
    assert_eq!((bench.view().state, bench.runs()), (State::Confirmed, Some(7)));
    bench.applied = Applied::Unfit("shares are over 100 percent".to_owned());
    bench.offer(2, 8);
    bench.rest();
    assert_eq!((bench.view().state, bench.runs()), (State::Refused, Some(7)));
}

/// What stands on disks in the field.
#[test]
fn memory_is_written_as_it_always_was() {
    let mut bench = Bench::new();
    bench.offer(1, 7);
    bench.rest();
    bench.round_trips = false;
    bench.tell(Event::Withdrawn(Source::Device));
    bench.wait(bench.up + WITHIN);
    let group = Stamp { version: 4, digest: Digest([0xab; 32]) };
    bench.tell(Event::Offered(Source::Group("plant".into()), group, Err("no".to_owned())));
    let one = Digest::of(&[7]);
    let golden = format!(
        concat!(
            r#"{{"@plant":{{"mark":{{"version":4,"digest":"{}","refused":"no"}},"confirmed":null,"partly":null,"#,
            r#""candidate":null,"since_ms":3630000}},"#,
            r#""device":{{"mark":{{"version":1,"digest":"{}"}},"confirmed":{{"version":1,"digest":"{}","body":7}},"#,
            r#""partly":null,"candidate":{{"wish":null,"attempts":1,"#,
            r#""standing":{{"is":"rolled-back","reason":"no round trip with the broker within 30 s"}}}},"#,
            r#""since_ms":3630000}}}}"#
        ),
        group.digest, one, one
    );
    let written = serde_json::to_string(&bench.protocol.memory()).unwrap();
    assert_eq!(written, golden);
    assert_eq!(serde_json::from_str::<Memory<u8>>(&golden).unwrap().0.len(), 2);
}
