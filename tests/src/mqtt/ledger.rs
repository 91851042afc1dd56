//! Who checks that nothing is missing: records by their identity on the wire.

use std::collections::{BTreeMap, BTreeSet};

use super::Message;

/// What identifies a record for ever, with its data.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// Whole topic.
    pub topic: String,
    /// Identity of the spool.
    pub epoch: String,
    /// Stream.
    pub stream: String,
    /// Sequence in the stream.
    pub seq: u64,
    /// The `data` member.
    pub data: serde_json::Value,
}

impl Envelope {
    /// Reads a message that came from a spool; `None` for those that bypass it, such as `status`.
    #[must_use]
    pub fn of(message: &Message) -> Option<Self> {
        let mut json: serde_json::Value = serde_json::from_slice(&message.payload).ok()?;
        Some(Self {
            topic: message.topic.clone(),
            epoch: json["epoch"].as_str()?.to_owned(),
            stream: json["stream"].as_str()?.to_owned(),
            seq: json["seq"].as_u64()?,
            data: json["data"].take(),
        })
    }
}

/// All records of a list of messages, duplicates removed.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    streams: BTreeMap<(String, String), Vec<Envelope>>,
    /// Messages that repeated a record.
    pub duplicates: usize,
}

impl Ledger {
    /// Enters the messages in the order in which they came. Those that bypass the spool are left out.
    ///
    /// # Panics
    ///
    /// Where two messages claim one identity with different content: the wire contract is broken.
    #[must_use]
    #[track_caller]
    pub fn of<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Self {
        let mut ledger = Self::default();
        let mut seen: BTreeMap<(String, String, u64), serde_json::Value> = BTreeMap::new();
        for envelope in messages.into_iter().filter_map(Envelope::of) {
            let identity = (envelope.epoch.clone(), envelope.stream.clone(), envelope.seq);
            if let Some(first) = seen.get(&identity) {
                assert_eq!(*first, envelope.data, "{identity:?} stands for two records");
                ledger.duplicates += 1;
                continue;
            }
            seen.insert(identity, envelope.data.clone());
            ledger.streams.entry((envelope.epoch.clone(), envelope.stream.clone())).or_default().push(envelope);
        }
        ledger
    }

    /// The records of one stream, of all epochs, in the order of their first arrival.
    pub fn stream<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Envelope> {
        self.streams.iter().filter(move |((_, stream), _)| stream == name).flat_map(|(_, records)| records)
    }

    /// Number of records that the other does not have.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> usize {
        let identities = |ledger: &Self| -> BTreeSet<(String, String, u64)> {
            let records = ledger.streams.values().flatten();
            records.map(|record| (record.epoch.clone(), record.stream.clone(), record.seq)).collect()
        };
        identities(self).difference(&identities(other)).count()
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.streams.values().map(Vec::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// What speaks against a complete delivery in order: for each epoch and stream, the sequences between 1 and
    /// the last that never came and that no `event/loss` covers, and those that came before a smaller one.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let losses = self.losses();
        let mut faults = Vec::new();
        for ((epoch, stream), records) in &self.streams {
            for pair in records.windows(2) {
                if pair[1].seq < pair[0].seq {
                    faults.push(format!("{stream} (epoch {epoch}): {} came after {}", pair[1].seq, pair[0].seq));
                }
            }
            let present: BTreeSet<u64> = records.iter().map(|record| record.seq).collect();
            let last = present.last().copied().unwrap_or(0);
            let reported = |seq: &u64| losses.iter().any(|loss| loss.covers(epoch, stream, *seq));
            let missing: Vec<u64> = (1..=last).filter(|seq| !present.contains(seq) && !reported(seq)).collect();
            if let (Some(first), Some(end)) = (missing.first(), missing.last()) {
                faults.push(format!(
                    "{stream} (epoch {epoch}): {} of 1 to {last} never came, between {first} and {end}",
                    missing.len()
                ));
            }
        }
        faults
    }

    /// Fails where [`Self::faults`] finds any.
    ///
    /// # Panics
    ///
    /// With the faults.
    #[track_caller]
    pub fn assert_complete(&self) {
        let faults = self.faults();
        assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    }

    /// The ranges that `event/loss` messages report.
    #[must_use]
    pub fn losses(&self) -> Vec<ReportedLoss> {
        self.stream("event").filter(|event| event.topic.ends_with("/event/loss")).filter_map(ReportedLoss::of).collect()
    }
}

/// A range of records that the gateway says are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedLoss {
    epoch: String,
    /// Stream that lost them.
    pub stream: String,
    /// First.
    pub from_seq: u64,
    /// Last.
    pub to_seq: u64,
    /// Why.
    pub reason: String,
}

impl ReportedLoss {
    fn of(event: &Envelope) -> Option<Self> {
        Some(Self {
            epoch: event.data["epoch"].as_str().unwrap_or(&event.epoch).to_owned(),
            stream: event.data["stream"].as_str()?.to_owned(),
            from_seq: event.data["from_seq"].as_u64()?,
            to_seq: event.data["to_seq"].as_u64()?,
            reason: event.data["reason"].as_str().unwrap_or_default().to_owned(),
        })
    }

    fn covers(&self, epoch: &str, stream: &str, seq: u64) -> bool {
        self.epoch == epoch && self.stream == stream && (self.from_seq..=self.to_seq).contains(&seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str, stream: &str, seq: u64, data: &serde_json::Value) -> Message {
        let json = serde_json::json!({"v": 1, "epoch": "e", "stream": stream, "seq": seq, "data": data});
        Message { topic: format!("tidegate/v1/gw/{topic}"), payload: json.to_string().into(), retain: false }
    }

    fn meter(seq: u64) -> Message {
        message("ingest/meter", "ingest/meter", seq, &seq.into())
    }

    #[test]
    fn a_repeated_tail_is_no_fault() {
        let ledger = Ledger::of(&[meter(1), meter(2), meter(3), meter(2), meter(3), meter(4)]);
        assert_eq!((ledger.len(), ledger.duplicates), (4, 2));
        ledger.assert_complete();
    }

    #[test]
    fn gaps_and_swapped_records_are_found() {
        let faults = Ledger::of(&[meter(1), meter(4), meter(3)]).faults();
        assert_eq!(faults.len(), 2, "{faults:?}");
    }

    #[test]
    fn a_reported_loss_covers_a_gap() {
        let data = serde_json::json!({"stream": "ingest/meter", "from_seq": 2, "to_seq": 3, "reason": "evicted"});
        let ledger = Ledger::of(&[meter(1), message("event/loss", "event", 1, &data), meter(4)]);
        ledger.assert_complete();
        assert_eq!(ledger.losses()[0].reason, "evicted");
    }

    #[test]
    #[should_panic(expected = "stands for two records")]
    fn one_identity_for_two_records_is_found() {
        let _ledger = Ledger::of(&[meter(1), message("ingest/meter", "ingest/meter", 1, &9.into())]);
    }
}
