//! Which interface counts in which block of the counter array.
//!
//! There are [`SLOTS`] blocks. Slot 0 is "other": packets of interfaces that found no slot of their own, so
//! that they are counted, if not told apart. A slot that is given back goes to the end of the queue and is
//! cleared when it is taken again, not before: a program that was still running on another CPU while its
//! interface went away then adds to a block nobody reads, instead of to the next owner's.

use std::collections::{BTreeMap, VecDeque};

use tidegate_abi::SLOTS;

/// Slot of the interfaces that have none of their own.
pub(super) const OTHER: u32 = 0;

/// Slots by ifindex.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    taken: BTreeMap<u32, u32>,
    free: VecDeque<u32>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { taken: BTreeMap::new(), free: (OTHER + 1..SLOTS).collect() }
    }
}

impl Slots {
    /// Slot of an interface, a fresh one where it had none; `None` when all are taken and it counts as "other".
    pub(super) fn take(&mut self, ifindex: u32) -> Option<u32> {
        if let Some(&slot) = self.taken.get(&ifindex) {
            return Some(slot);
        }
        let slot = self.free.pop_front()?;
        self.taken.insert(ifindex, slot);
        Some(slot)
    }

    /// Takes the slot away from an interface.
    pub(super) fn give_back(&mut self, ifindex: u32) -> Option<u32> {
        let slot = self.taken.remove(&ifindex)?;
        self.free.push_back(slot);
        Some(slot)
    }

    /// Slot of an interface, where it has one.
    #[must_use]
    pub(super) fn get(&self, ifindex: u32) -> Option<u32> {
        self.taken.get(&ifindex).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_keeps_its_slot_and_other_is_never_given() {
        let mut slots = Slots::default();
        let first = slots.take(7).unwrap();
        assert_ne!(first, OTHER);
        assert_eq!(slots.take(7), Some(first));
        assert_ne!(slots.take(8), Some(first));
    }

    #[test]
    fn a_slot_given_back_is_the_last_to_be_taken_again() {
        let mut slots = Slots::default();
        let first = slots.take(1).unwrap();
        assert_eq!(slots.give_back(1), Some(first));
        assert_eq!(slots.get(1), None);
        let next: Vec<u32> = (2..SLOTS).map(|ifindex| slots.take(ifindex).unwrap()).collect();
        assert!(!next.contains(&first));
        assert_eq!(slots.take(SLOTS), Some(first));
    }

    #[test]
    fn interfaces_beyond_the_last_slot_count_as_other_until_one_is_free() {
        let mut slots = Slots::default();
        for ifindex in 1..SLOTS {
            assert!(slots.take(ifindex).is_some());
        }
        assert_eq!(slots.take(1000), None);
        let freed = slots.give_back(5);
        assert_eq!(slots.take(1000), freed);
    }

    #[test]
    fn ten_thousand_interfaces_come_and_go_without_using_slots_up() {
        let mut slots = Slots::default();
        for ifindex in 1..=10_000 {
            assert!(slots.take(ifindex).is_some());
            assert!(slots.give_back(ifindex).is_some());
        }
        assert_eq!(slots.free.len(), SLOTS as usize - 1);
    }
}
