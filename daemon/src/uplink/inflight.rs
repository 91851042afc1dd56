//! Which records are with the broker, and how far each lane's cursor may move.
//!
//! A broker may acknowledge out of order; a cursor may not. So every record that leaves a lane stands here, in
//! the lane's order, until it and all before it are settled. Pure: no clock, no network, no spool.
//!
//! ```text
//!            admit            settle (acknowledged, or reported as lost)
//!   (lane) ────────► InFlight ───────────────────────────────► Settled ──► cursor moves past the settled front
//!                     │    ▲                                      ▲
//!               hold  ▼    │ resend                               │
//!                     Held ┴──────────────────────────────────────┘
//! ```
//!
//! Held is a record that the broker refused for now: it waits, and it holds its lane's cursor.

use std::collections::VecDeque;

use tidegate_spool::{LaneId, Position};

/// One record in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Token {
    /// Its lane.
    pub(super) lane: LaneId,
    /// How many were admitted before it in the lane.
    number: u64,
}

/// How far a cursor may move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Advance {
    /// Everything up to here is settled.
    pub(super) position: Position,
    /// Records passed.
    pub(super) records: u64,
}

/// Bounds on what is unsettled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Records with the broker at a time.
    pub(super) records: usize,
    /// Their bytes; one record may exceed it alone.
    pub(super) bytes: usize,
    /// Records that a lane may have in the ledger, the settled ones behind an unsettled front included: what a
    /// single refused record can hold up is bounded too.
    pub(super) span: usize,
}

/// The ledger of one connection.
#[derive(Debug)]
pub(super) struct Ledger<T> {
    lanes: Vec<Lane<T>>,
    limits: Limits,
    records: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Lane<T> {
    /// Number of the front entry.
    front: u64,
    entries: VecDeque<Entry<T>>,
    held: usize,
}

#[derive(Debug)]
struct Entry<T> {
    position: Position,
    bytes: usize,
    state: State,
    /// What would have to be sent again; gone once settled.
    item: Option<T>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InFlight,
    Held,
    Settled,
}

impl<T> Ledger<T> {
    /// An empty ledger for lanes `0..lanes`.
    pub(super) fn new(lanes: usize, limits: Limits) -> Self {
        let lanes = (0..lanes).map(|_| Lane { front: 0, entries: VecDeque::new(), held: 0 }).collect();
        Self { lanes, limits, records: 0, bytes: 0 }
    }

    /// Whether this lane may send more, as far as its own records are concerned: none is refused for now, and the
    /// span is not used up.
    pub(super) fn is_open(&self, lane: LaneId) -> bool {
        let lane = &self.lanes[usize::from(lane.0)];
        lane.held == 0 && lane.entries.len() < self.limits.span
    }

    /// Whether one more record of `bytes` may be with the broker.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.records == 0 || (self.records < self.limits.records && self.bytes + bytes <= self.limits.bytes)
    }

    /// Allows another number of records with the broker at a time.
    pub(super) fn allow(&mut self, records: usize) {
        self.limits.records = records;
    }

    /// What is with the broker, in the order of lanes.
    pub(super) fn exposed(&self) -> impl Iterator<Item = &T> {
        let entries = self.lanes.iter().flat_map(|lane| &lane.entries);
        entries.filter(|entry| entry.state == State::InFlight).filter_map(|entry| entry.item.as_ref())
    }

    /// Records with the broker.
    pub(super) fn in_flight(&self) -> usize {
        self.records
    }

    /// Records that wait because the broker refused them.
    pub(super) fn held(&self) -> usize {
        self.lanes.iter().map(|lane| lane.held).sum()
    }

    /// What stands behind an unsettled token.
    pub(super) fn get(&self, token: Token) -> Option<&T> {
        let lane = &self.lanes[usize::from(token.lane.0)];
        let index = usize::try_from(token.number.checked_sub(lane.front)?).ok()?;
        lane.entries.get(index)?.item.as_ref()
    }

    /// The lane's next record, read at `position`, goes to the broker.
    pub(super) fn admit(&mut self, lane: LaneId, position: Position, bytes: usize, item: T) -> Token {
        self.records += 1;
        self.bytes += bytes;
        let Lane { front, entries, .. } = &mut self.lanes[usize::from(lane.0)];
        entries.push_back(Entry { position, bytes, state: State::InFlight, item: Some(item) });
        Token { lane, number: *front + entries.len() as u64 - 1 }
    }

    /// The broker refused it for now. False where it is not in flight.
    pub(super) fn hold(&mut self, token: Token) -> bool {
        self.transit(token, State::Held).is_some()
    }

    /// It goes to the broker again. False where it does not wait, or where there is no room.
    pub(super) fn resend(&mut self, token: Token) -> bool {
        let Some(bytes) = self.entry(token).filter(|entry| entry.state == State::Held).map(|entry| entry.bytes) else {
            return false;
        };
        self.has_room(bytes) && self.transit(token, State::InFlight).is_some()
    }

    /// It is delivered, or reported as lost. Where that settles the front of its lane, how far the cursor may move.
    pub(super) fn settle(&mut self, token: Token) -> Option<Advance> {
        self.transit(token, State::Settled)?;
        let lane = &mut self.lanes[usize::from(token.lane.0)];
        let mut advance: Option<Advance> = None;
        while let Some(entry) = lane.entries.pop_front_if(|entry| entry.state == State::Settled) {
            lane.front += 1;
            advance =
                Some(Advance { position: entry.position, records: advance.map_or(0, |so_far| so_far.records) + 1 });
        }
        advance
    }

    fn entry(&mut self, token: Token) -> Option<&mut Entry<T>> {
        let lane = &mut self.lanes[usize::from(token.lane.0)];
        let index = usize::try_from(token.number.checked_sub(lane.front)?).ok()?;
        lane.entries.get_mut(index)
    }

    /// Moves an entry to `to`; `None` where that is no transition of the drawing above.
    fn transit(&mut self, token: Token, to: State) -> Option<()> {
        let entry = self.entry(token)?;
        let (from, bytes) = (entry.state, entry.bytes);
        match (from, to) {
            (State::InFlight, State::Held | State::Settled) | (State::Held, State::InFlight | State::Settled) => {}
            _ => return None,
        }
        entry.state = to;
        if to == State::Settled {
            entry.item = None;
        }
        if from == State::InFlight {
            self.records -= 1;
            self.bytes -= bytes;
        }
        if to == State::InFlight {
            self.records += 1;
            self.bytes += bytes;
        }
        let held = &mut self.lanes[usize::from(token.lane.0)].held;
        if from == State::Held {
            *held -= 1;
        }
        if to == State::Held {
            *held += 1;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LANE: LaneId = LaneId(0);
    const LIMITS: Limits = Limits { records: 4, bytes: 100, span: 6 };

    fn at(offset: u64) -> Position {
        Position { segment: 1, offset }
    }

    fn ledger() -> Ledger<u64> {
        Ledger::new(2, LIMITS)
    }

    #[test]
    fn cursor_waits_for_the_oldest_record() {
        let mut ledger = ledger();
        let tokens: Vec<_> = (1..=3).map(|n| ledger.admit(LANE, at(n), 1, n)).collect();
        assert_eq!(ledger.settle(tokens[2]), None);
        assert_eq!(ledger.settle(tokens[1]), None);
        assert_eq!(ledger.settle(tokens[0]), Some(Advance { position: at(3), records: 3 }));
        assert_eq!(ledger.in_flight(), 0);
    }

    #[test]
    fn lanes_do_not_wait_for_each_other() {
        let mut ledger = ledger();
        ledger.admit(LANE, at(1), 1, 1);
        let other = ledger.admit(LaneId(1), at(9), 1, 9);
        assert_eq!(ledger.settle(other), Some(Advance { position: at(9), records: 1 }));
    }

    #[test]
    fn a_second_acknowledgement_of_the_same_record_changes_nothing() {
        let mut ledger = ledger();
        let first = ledger.admit(LANE, at(1), 1, 1);
        let second = ledger.admit(LANE, at(2), 1, 2);
        assert!(ledger.settle(first).is_some());
        assert_eq!(ledger.settle(first), None);
        assert_eq!(ledger.in_flight(), 1);
        assert!(ledger.settle(second).is_some());
    }

    #[test]
    fn records_and_bytes_in_flight_are_bounded_but_one_large_record_always_fits() {
        let mut ledger = ledger();
        assert!(ledger.has_room(1000), "alone, it may exceed the bound");
        ledger.admit(LANE, at(1), 60, 1);
        assert!(ledger.has_room(40));
        assert!(!ledger.has_room(41));
        for n in 2..=4 {
            ledger.admit(LANE, at(n), 1, n);
        }
        assert!(!ledger.has_room(1));
    }

    #[test]
    fn a_held_record_closes_its_lane_and_no_other() {
        let mut ledger = ledger();
        let first = ledger.admit(LANE, at(1), 1, 1);
        let second = ledger.admit(LANE, at(2), 1, 2);
        assert!(ledger.hold(first));
        assert!(!ledger.is_open(LANE) && ledger.is_open(LaneId(1)));
        assert_eq!((ledger.in_flight(), ledger.held()), (1, 1));
        assert_eq!(ledger.exposed().collect::<Vec<_>>(), [&2]);
        assert_eq!(ledger.settle(second), None);
        assert_eq!(ledger.get(first), Some(&1), "it can be sent again");
        assert_eq!(ledger.get(second), None, "it need not be sent again");
        assert!(ledger.resend(first));
        assert!(ledger.is_open(LANE));
        assert_eq!(ledger.settle(first), Some(Advance { position: at(2), records: 2 }));
    }

    #[test]
    fn what_passes_an_unanswered_record_is_bounded() {
        let mut ledger = ledger();
        let first = ledger.admit(LANE, at(1), 1, 1);
        for n in 2..=6 {
            assert!(ledger.is_open(LANE));
            let token = ledger.admit(LANE, at(n), 1, n);
            assert_eq!(ledger.settle(token), None);
        }
        assert!(!ledger.is_open(LANE), "the span is full");
        assert!(ledger.is_open(LaneId(1)) && ledger.has_room(1), "the other lane goes on");
        assert_eq!(ledger.settle(first), Some(Advance { position: at(6), records: 6 }));
        assert!(ledger.is_open(LANE));
    }

    #[test]
    fn a_held_record_can_be_given_up() {
        let mut ledger = ledger();
        let token = ledger.admit(LANE, at(1), 1, 1);
        assert!(ledger.hold(token) && !ledger.hold(token));
        assert_eq!(ledger.settle(token), Some(Advance { position: at(1), records: 1 }));
        assert!(!ledger.resend(token));
    }

    proptest! {
        /// Whatever the order of acknowledgements and refusals: the cursor passes every record once, in order, and
        /// never one that is not settled.
        #[test]
        fn cursor_only_passes_settled_records(order in Just((0..40_u64).collect::<Vec<_>>()).prop_shuffle(), held in prop::collection::vec(any::<bool>(), 40)) {
            let mut ledger = Ledger::new(1, Limits { records: 100, bytes: usize::MAX, span: 100 });
            let tokens: Vec<_> = (0..40).map(|n| ledger.admit(LANE, at(n), 10, ())).collect();
            let mut settled = [false; 40];
            let mut cursor = 0;
            for n in order {
                let index = usize::try_from(n).unwrap();
                if held[index] {
                    prop_assert!(ledger.hold(tokens[index]));
                    prop_assert!(ledger.resend(tokens[index]));
                }
                settled[index] = true;
                if let Some(advance) = ledger.settle(tokens[index]) {
                    cursor += advance.records;
                    prop_assert_eq!(advance.position, at(cursor - 1));
                }
                let expected = settled.iter().take_while(|settled| **settled).count();
                prop_assert_eq!(usize::try_from(cursor).unwrap(), expected);
            }
            prop_assert_eq!((ledger.in_flight(), ledger.bytes, ledger.held()), (0, 0, 0));
        }
    }
}
