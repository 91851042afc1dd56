//! `tidegate run` as a whole: it starts, whatever it finds, delivers what it accepted, and stops in order.

mod damage;
mod disk;
mod io;
mod kills;
mod privileges;
mod stop;
mod supervised;

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use tidegate_tests::{Daemon, Ingest, Tap, eventually, mqtt::Ledger};

/// Most that a delivery may take on a busy machine, the back-off after an outage included.
const SOON: Duration = Duration::from_mins(1);

/// Hands over `count` records, numbered from `from`, and returns the number behind each sequence that was answered.
fn put(daemon: &Daemon, from: u64, count: u64) -> BTreeMap<u64, u64> {
    let mut ingest = Ingest::connect(daemon);
    (from..from + count)
        .map(|number| (ingest.put("meter", &reading(number)).expect("the record is taken"), number))
        .collect()
}

/// A record's data: about 200 bytes.
fn reading(number: u64) -> Value {
    json!({"number": number, "text": "x".repeat(160)})
}

/// Waits until the broker acknowledged each of `accepted`, with the number that was handed over under its sequence.
#[track_caller]
fn all_arrive(tap: &Tap, accepted: &BTreeMap<u64, u64>) -> Ledger {
    let what = format!("{} accepted records are acknowledged", accepted.len());
    let ledger = eventually(SOON, &what, || {
        let ledger = Ledger::of(&tap.acknowledged());
        let missing = missing(&ledger, accepted);
        if missing.is_empty() {
            Ok(ledger)
        } else {
            Err(format!("{} miss, such as {:?}", missing.len(), missing.first()))
        }
    });
    ledger.assert_complete();
    ledger
}

/// Sequences that were answered `ok` and are not in the ledger with their number.
fn missing(ledger: &Ledger, accepted: &BTreeMap<u64, u64>) -> Vec<u64> {
    let there: BTreeMap<u64, u64> = meter(ledger);
    accepted.iter().filter(|(seq, number)| there.get(*seq) != Some(*number)).map(|(seq, _)| *seq).collect()
}

/// Number by sequence of what arrived on `ingest/meter`.
fn meter(ledger: &Ledger) -> BTreeMap<u64, u64> {
    ledger
        .stream("ingest/meter")
        .map(|record| (record.seq, record.data["number"].as_u64().expect("every reading has a number")))
        .collect()
}
