//! Losses that nobody has reported yet: a bounded list of ranges.

use crate::{api::LossReason, engine::MAX_LOSSES};

/// A range of one stream of one lane that will never be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) id: u64,
    pub(crate) lane: usize,
    pub(crate) stream: usize,
    pub(crate) reason: LossReason,
    pub(crate) from_seq: u64,
    pub(crate) to_seq: u64,
    pub(crate) count: u64,
}

/// The list. Ids grow and are never reused, so that a report that races with a new loss in the same
/// range forgets only what it has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) next_id: u64,
    pub(crate) ranges: Vec<Range>,
}

impl Ledger {
    /// Notes the loss of `from_seq..=to_seq`, and returns how many of them were not noted already.
    pub(crate) fn add(&mut self, lane: usize, stream: usize, reason: LossReason, from_seq: u64, to_seq: u64) -> u64 {
        let mut added = 0;
        let mut from = from_seq;
        while from <= to_seq {
            // The parts of the range that no other range holds, one after the other.
            // A merged range does not say which of its numbers it means: it holds none for certain.
            let same = self.ranges.iter().filter(|range| {
                (range.lane, range.stream) == (lane, stream) && range.count == range.to_seq - range.from_seq + 1
            });
            let holder = same.clone().find(|range| (range.from_seq..=range.to_seq).contains(&from));
            if let Some(holder) = holder {
                from = holder.to_seq + 1;
                continue;
            }
            let to = same.filter(|range| range.from_seq > from).map(|range| range.from_seq - 1).min();
            let to = to.map_or(to_seq, |to| to.min(to_seq));
            self.insert(lane, stream, reason, from, to);
            added += to - from + 1;
            from = to + 1;
        }
        added
    }

    fn insert(&mut self, lane: usize, stream: usize, reason: LossReason, from_seq: u64, to_seq: u64) {
        let (id, count) = (self.next_id, to_seq - from_seq + 1);
        self.next_id += 1;
        let adjacent = self.ranges.iter_mut().find(|range| {
            (range.lane, range.stream, range.reason, range.to_seq + 1) == (lane, stream, reason, from_seq)
        });
        if let Some(range) = adjacent {
            *range = Range { id, to_seq, count: range.count + count, ..*range };
            return;
        }
        self.ranges.push(Range { id, lane, stream, reason, from_seq, to_seq, count });
        if self.ranges.len() > MAX_LOSSES {
            self.merge_nearest();
        }
    }

    /// Makes room: the two neighbours of one stream with the least between them become one range, whose
    /// count stays exact. Streams are fewer than entries, so there always are two.
    fn merge_nearest(&mut self) {
        self.ranges.sort_by_key(|range| (range.lane, range.stream, range.from_seq));
        let distance = |pair: &[Range]| match pair {
            [left, right] if (left.lane, left.stream) == (right.lane, right.stream) => {
                Some(right.from_seq - left.to_seq)
            }
            _ => None,
        };
        let nearest =
            self.ranges.windows(2).enumerate().filter_map(|(index, pair)| Some((distance(pair)?, index))).min();
        if let Some((_, index)) = nearest {
            let right = self.ranges.remove(index + 1);
            let left = &mut self.ranges[index];
            left.to_seq = right.to_seq;
            left.count += right.count;
            left.id = self.next_id;
            // Of two reasons the graver one stands: damage points at the hardware.
            left.reason = left.reason.max(right.reason);
            self.next_id += 1;
        }
    }

    /// Forgets reported ranges; returns whether there were any.
    pub(crate) fn forget(&mut self, ids: &[u64]) -> bool {
        let before = self.ranges.len();
        self.ranges.retain(|range| !ids.contains(&range.id));
        self.ranges.len() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::MAX_STREAMS;

    fn spans(ledger: &Ledger) -> Vec<(u64, u64, u64)> {
        ledger.ranges.iter().map(|range| (range.from_seq, range.to_seq, range.count)).collect()
    }

    #[test]
    fn neighbours_become_one_range_with_a_new_id() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.add(0, 0, LossReason::Evicted, 1, 10), 10);
        let first = ledger.ranges[0].id;
        assert_eq!(ledger.add(0, 0, LossReason::Evicted, 11, 20), 10);
        assert_eq!(spans(&ledger), [(1, 20, 20)]);
        assert!(!ledger.forget(&[first]), "a report of the shorter range must not forget the longer");
        assert!(ledger.forget(&[ledger.ranges[0].id]));
    }

    #[test]
    fn a_record_is_counted_once() {
        let mut ledger = Ledger::default();
        ledger.add(0, 0, LossReason::Damaged, 5, 6);
        assert_eq!(ledger.add(0, 0, LossReason::Evicted, 1, 10), 8);
        assert_eq!(ledger.add(0, 0, LossReason::Evicted, 1, 10), 0);
        assert_eq!(ledger.ranges.iter().map(|range| range.count).sum::<u64>(), 10);
        assert_eq!(ledger.add(0, 1, LossReason::Evicted, 1, 10), 10, "another stream");
    }

    #[test]
    fn a_full_ledger_merges_and_stays_exact() {
        let mut ledger = Ledger::default();
        let mut lost = 0;
        for round in 0..1000 {
            for stream in 0..MAX_STREAMS {
                lost += ledger.add(0, stream, LossReason::Damaged, round * 3 + 1, round * 3 + 1);
            }
        }
        assert!(ledger.ranges.len() <= MAX_LOSSES);
        assert_eq!(ledger.ranges.iter().map(|range| range.count).sum::<u64>(), lost);
    }
}
