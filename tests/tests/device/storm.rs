//! Power cuts while records flow, and who keeps count of them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use tidegate_tests::{Ingest, Tap, eventually, mqtt::Ledger, vm::Machine};

use crate::LONG_WAIT;

/// Size of a state disk: a copy of it is made at each power-on.
pub(super) const DISK_MIB: u64 = 96;

/// Local programs that hand over records at once, each some records ahead of the answers.
const PRODUCERS: usize = 2;
const AHEAD: u64 = 8;

/// Producers on the host, connected with the machine's ingest socket. Whatever they were answered is known here when
/// the power goes.
#[derive(Default)]
pub(super) struct Producers {
    shared: Arc<Shared>,
    running: Mutex<Vec<thread::JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    next: AtomicU64,
    /// Number of the record behind each sequence that was answered.
    accepted: Mutex<BTreeMap<u64, u64>>,
    stop: AtomicBool,
}

impl Producers {
    pub(super) fn accepted(&self) -> BTreeMap<u64, u64> {
        self.shared.accepted.lock().unwrap().clone()
    }

    /// Counts in what another program was answered.
    pub(super) fn also_accepted(&self, more: BTreeMap<u64, u64>) {
        self.shared.accepted.lock().unwrap().extend(more);
    }

    pub(super) fn count(&self) -> usize {
        self.shared.accepted.lock().unwrap().len()
    }

    /// They hand over records until they are stopped, or the machine is.
    pub(super) fn feed(&self, machine: &Machine) {
        self.shared.stop.store(false, Ordering::Relaxed);
        for _producer in 0..PRODUCERS {
            let (ingest, shared) = (machine.ingest(), Arc::clone(&self.shared));
            self.running.lock().unwrap().push(thread::spawn(move || shared.produce(ingest)));
        }
    }

    /// They wait for the answers that are due, and end.
    #[track_caller]
    pub(super) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join();
    }

    /// Waits for those whose machine has lost its power; what they found wrong is the test's failure.
    #[track_caller]
    fn join(&self) {
        for producer in self.running.lock().unwrap().drain(..) {
            producer.join().expect("each answer is in order");
        }
    }
}

impl Shared {
    fn produce(&self, mut ingest: Ingest) {
        let mut ahead = 0;
        while !self.stop.load(Ordering::Relaxed) || ahead > 0 {
            while ahead < AHEAD && !self.stop.load(Ordering::Relaxed) {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                if ingest.send("meter", &reading(number), Some(number)).is_err() {
                    return;
                }
                ahead += 1;
            }
            // The power has gone: what was not answered may be on disk or not, nobody promised anything.
            let Ok(answer) = ingest.answer() else { return };
            ahead -= 1;
            assert_eq!(answer["ok"], true, "{answer}");
            let (seq, number) = (answer["seq"].as_u64().unwrap(), answer["id"].as_u64().unwrap());
            let twice = self.accepted.lock().unwrap().insert(seq, number);
            assert_eq!(twice, None, "sequence {seq} was given to two records");
        }
    }
}

fn reading(number: u64) -> serde_json::Value {
    json!({"number": number, "text": "x".repeat(160)})
}

/// Cuts the power again and again while records flow, and powers the machine on again. Returns how many writes the
/// disk's cache lost, and how many it held.
pub(super) fn storm(
    machine: &mut Machine,
    cuts: usize,
    producers: &Producers,
    start: impl Fn(&Machine),
) -> (usize, usize) {
    let (begun, mut cache) = (Instant::now(), (0, 0));
    for cut in 1..=cuts {
        let before = producers.count();
        producers.feed(machine);
        eventually(LONG_WAIT, &format!("records are accepted before cut {cut}"), || producers.count() > before);
        // At random, so that the cuts fall into every phase of a commit.
        thread::sleep(Duration::from_micros(fastrand::u64(..800_000)));
        let (lost, held) = machine.cut_power();
        producers.join();
        cache = (cache.0 + lost, cache.1 + held);
        println!("cut {cut} at {:?}: {} records answered so far", begun.elapsed(), producers.count());
        machine.boot_again();
        start(machine);
    }
    cache
}

/// Each record that was answered arrived, with its own number; nothing else is wrong either.
#[track_caller]
pub(super) fn all_arrive(tap: &Tap, accepted: &BTreeMap<u64, u64>) -> Ledger {
    let ledger = eventually(LONG_WAIT, &format!("all {} answered records arrive", accepted.len()), || {
        let ledger = Ledger::of(&tap.acknowledged());
        let there = meter(&ledger);
        let missing: Vec<_> = accepted.iter().filter(|(seq, number)| there.get(seq) != Some(number)).collect();
        if missing.is_empty() { Ok(ledger) } else { Err(format!("{} miss, such as {:?}", missing.len(), missing[0])) }
    });
    // A loss may be reported behind the records that follow it.
    eventually(LONG_WAIT, "the delivery is complete and in order", || {
        let faults = Ledger::of(&tap.acknowledged()).faults();
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    });
    // Whatever went out under one identity, acknowledged or not, is one record.
    let _unique = Ledger::of(&tap.published());
    ledger
}

/// Number by sequence of what arrived on `ingest/meter`.
fn meter(ledger: &Ledger) -> BTreeMap<u64, u64> {
    ledger.stream("ingest/meter").map(|record| (record.seq, record.data["number"].as_u64().unwrap())).collect()
}

pub(super) fn report(cuts: usize, cache: (usize, usize), producers: &Producers, ledger: &Ledger) {
    println!(
        "{cuts} cuts: {} of {} cached writes lost, {} records answered, {} arrived, {} sent twice, {} losses reported",
        cache.0,
        cache.1,
        producers.count(),
        meter(ledger).len(),
        ledger.duplicates,
        ledger.losses().len(),
    );
}
