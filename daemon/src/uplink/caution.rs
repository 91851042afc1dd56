//! Finds the record that makes the broker end the connection.
//!
//! A broker says that it does not take a record by a PUBACK with a reason. Some do not: they close the connection, or
//! answer with what MQTT 5 does not allow (mosquitto 2.0 beyond its `message_size_limit`). Sent again at each
//! connect, such a record would stop the gateway for ever. Pure:
//!
//! ```text
//!             objection with records in flight               objection, one in flight: it is suspected
//!   Trusting ──────────────────────────────────► one by one ─────────────────────────────────► Condemned
//!      ▲                                           │    ▲  │      (the third time in a row)       │
//!      └───────── a window's worth passed ─────────┘    └──┘ another objection                    │
//!      ▲                                                                                          │
//!      └── it is reported as lost, the next one goes, and none is condemned until one passed ◄────┘
//! ```
//!
//! Only an answer of the broker is an objection, and only one that can be about a packet. Silence and a broken link
//! never are, nor is a broker that shuts down: what may be the network's fault must not cost a record. But a broker that
//! closes while more is on the way resets the connection, and the reset can overtake its answer: where connections
//! break twice in a row before anything passed, records go one by one, too, which costs time and no record, and lets
//! the answer be read.

use std::sync::Arc;

/// Objections to one record alone, in a row, until it is given up.
const STRIKES: u32 = 3;

/// Connections in a row that broke with records in flight and none passed, until records go one by one.
const BREAKS: u32 = 2;

/// A record by its place in its stream.
pub(super) type Suspect = (Arc<str>, u64);

/// What was with the broker when the connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exposed {
    /// No record: it is not about one.
    Nothing,
    /// This one alone.
    One(Suspect),
    /// Some.
    Many,
}

/// What is remembered from connection to connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Caution {
    one_by_one: bool,
    suspect: Option<Suspect>,
    strikes: u32,
    breaks: u32,
    /// A record was given up and none has passed since: perhaps it is not about records at all.
    unproven: bool,
}

impl Caution {
    /// Whether only one record may be with the broker at a time.
    pub(super) fn is_one_by_one(&self) -> bool {
        self.one_by_one
    }

    /// The broker ended the connection by an answer that was no acknowledgement.
    pub(super) fn objected(&mut self, exposed: Exposed) {
        match exposed {
            Exposed::Nothing => {}
            Exposed::Many => self.one_by_one = true,
            Exposed::One(record) => {
                self.one_by_one = true;
                let again = self.suspect.as_ref() == Some(&record);
                self.strikes = if again { self.strikes + 1 } else { 1 };
                self.suspect = Some(record);
            }
        }
    }

    /// The connection broke with several records in flight, and nobody said why.
    pub(super) fn broke(&mut self) {
        self.breaks += 1;
        self.one_by_one |= self.breaks >= BREAKS;
    }

    /// A record passed.
    pub(super) fn passed(&mut self) {
        self.breaks = 0;
        self.unproven = false;
    }

    /// Whether this record is to be given up instead of sent.
    pub(super) fn condemns(&self, stream: &str, seq: u64) -> bool {
        !self.unproven
            && self.strikes >= STRIKES
            && self.suspect.as_ref().is_some_and(|(suspect, number)| (&**suspect, *number) == (stream, seq))
    }

    /// A window's worth of records passed one by one: no more suspicion.
    pub(super) fn trust(&mut self) {
        *self = Self::default();
    }

    /// The culprit was given up: no more suspicion, but the next one is given up only after another record passed. A
    /// broker that objects to whatever comes must not eat what it is sent, record by record.
    pub(super) fn convicted(&mut self) {
        *self = Self { unproven: true, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(seq: u64) -> Exposed {
        Exposed::One(("telemetry".into(), seq))
    }

    #[test]
    fn a_record_is_given_up_after_three_objections_to_it_alone() {
        let mut caution = Caution::default();
        caution.objected(Exposed::Many);
        assert!(caution.is_one_by_one());
        for _ in 0..2 {
            caution.objected(one(7));
            assert!(!caution.condemns("telemetry", 7));
        }
        caution.objected(one(7));
        assert!(caution.condemns("telemetry", 7));
        assert!(!caution.condemns("telemetry", 8) && !caution.condemns("event", 7));
    }

    #[test]
    fn objections_to_different_records_are_about_none_of_them() {
        let mut caution = Caution::default();
        for seq in 1..10 {
            caution.objected(one(seq));
            assert!(!caution.condemns("telemetry", seq));
        }
    }

    #[test]
    fn a_broker_that_objects_before_any_record_condemns_none() {
        let mut caution = Caution::default();
        for _ in 0..10 {
            caution.objected(Exposed::Nothing);
        }
        assert_eq!(caution, Caution::default());
    }

    #[test]
    fn records_go_one_by_one_where_nothing_passes_before_the_connection_breaks_again() {
        let mut caution = Caution::default();
        caution.broke();
        caution.passed();
        caution.broke();
        assert!(!caution.is_one_by_one(), "a link that carries something is only a bad link");
        caution.broke();
        assert!(caution.is_one_by_one());
        for _ in 0..10 {
            caution.broke();
        }
        assert!(!caution.condemns("telemetry", 1), "a broken link condemns nothing");
    }

    #[test]
    fn a_broker_that_objects_to_everything_costs_one_record_not_all() {
        let mut caution = Caution::default();
        for seq in [1, 2] {
            for _ in 0..STRIKES {
                caution.objected(one(seq));
            }
            assert_eq!(caution.condemns("telemetry", seq), seq == 1);
            if seq == 1 {
                caution.convicted();
            }
        }
        caution.passed();
        assert!(caution.condemns("telemetry", 2));
    }

    #[test]
    fn trust_returns() {
        let mut caution = Caution::default();
        caution.objected(Exposed::Many);
        caution.objected(one(1));
        caution.trust();
        assert_eq!(caution, Caution::default());
    }
}
