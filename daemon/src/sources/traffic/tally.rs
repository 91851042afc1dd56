//! Keeps the books of the counters between readings: what each interface and the whole gateway carried, in all
//! and since the last export.
//!
//! A forwarded packet is counted by two interfaces. The total takes each packet once: what was received, and what
//! this machine sent of its own.

use std::collections::BTreeMap;

use tidegate_abi::{Counter, Counters, row};

use crate::{
    gather::Gather as _,
    kernel::{InterfaceCounters, Readings, Rows},
};

/// Interfaces that went away and are told one by one in the next export: 3 KB each. The traffic of further ones
/// is in the totals.
const MAX_GONE: usize = 256;

/// A sum since the start, and the part of it since the last export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum<T> {
    /// Since the start, or since the interface has been watched.
    pub total: T,
    /// Since the last export.
    pub delta: T,
}

/// One interface in an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InterfaceSum {
    /// As it was last read.
    pub interface: InterfaceCounters,
    /// Whether it is no longer watched.
    pub gone: bool,
    /// Its rows.
    pub rows: Sum<Rows>,
}

/// What an export tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Export {
    /// Interfaces with counters of their own or without, those that went away first.
    pub interfaces: Vec<InterfaceSum>,
    /// Interfaces without counters of their own, together.
    pub other: Sum<Rows>,
    /// The whole gateway, each packet once.
    pub total: Sum<Counters>,
}

/// The books.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    current: Vec<InterfaceCounters>,
    gone: Vec<InterfaceCounters>,
    /// Sum over all interfaces that went away.
    departed: Rows,
    other: Rows,
    exported: BTreeMap<u32, Rows>,
    exported_other: Rows,
    exported_total: Counters,
}

impl Tally {
    /// Takes in what was read.
    pub(super) fn observe(&mut self, readings: &mut Readings) {
        for gone in readings.gone.drain(..) {
            self.departed += gone.rows.unwrap_or_default();
            if self.gone.len() < MAX_GONE {
                self.gone.push(gone);
            } else {
                // Another interface may get this index: its counters start from zero.
                self.exported.remove(&gone.ifindex);
            }
        }
        self.other = readings.other;
        self.current.clone_from(&readings.interfaces);
    }

    /// Names by index, of interfaces that are watched or were since the last export.
    #[must_use]
    pub(super) fn names(&self) -> BTreeMap<u32, String> {
        let known = self.gone.iter().chain(&self.current);
        known.map(|interface| (interface.ifindex, interface.name.clone())).gather()
    }

    /// Everything since the start, each packet once.
    #[must_use]
    pub(super) fn total(&self) -> Counters {
        let mut rows = self.departed;
        rows += self.other;
        for interface in &self.current {
            rows += interface.rows.unwrap_or_default();
        }
        once(&rows)
    }

    /// What is to be told now; deltas start anew.
    pub(super) fn export(&mut self) -> Export {
        let mut interfaces = Vec::with_capacity(self.gone.len() + self.current.len());
        for interface in std::mem::take(&mut self.gone) {
            let before = self.exported.remove(&interface.ifindex);
            interfaces.push(sum(interface, before.as_ref(), true));
        }
        let mut exported = BTreeMap::new();
        for interface in &self.current {
            let before = self.exported.remove(&interface.ifindex);
            exported.insert(interface.ifindex, interface.rows.unwrap_or_default());
            interfaces.push(sum(interface.clone(), before.as_ref(), false));
        }
        let total = self.total();
        let export = Export {
            interfaces,
            other: Sum { total: self.other, delta: difference(&self.other, &self.exported_other) },
            total: Sum { total, delta: counters_difference(&total, &self.exported_total) },
        };
        self.exported = exported;
        self.exported_other = self.other;
        self.exported_total = total;
        export
    }
}

fn sum(interface: InterfaceCounters, before: Option<&Rows>, gone: bool) -> InterfaceSum {
    let total = interface.rows.unwrap_or_default();
    let delta = difference(&total, before.unwrap_or(&Rows::default()));
    InterfaceSum { interface, gone, rows: Sum { total, delta } }
}

/// Received, and sent of this machine's own.
fn once(rows: &Rows) -> Counters {
    let mut sum = rows.0[row::INGRESS as usize];
    for (sum, more) in sum.classes.iter_mut().zip(rows.0[row::EGRESS_LOCAL as usize].classes) {
        sum.packets += more.packets;
        sum.bytes += more.bytes;
    }
    sum
}

fn difference(now: &Rows, before: &Rows) -> Rows {
    Rows(std::array::from_fn(|row| counters_difference(&now.0[row], &before.0[row])))
}

fn counters_difference(now: &Counters, before: &Counters) -> Counters {
    // Counters only grow; what was read in a moment of trouble must not become a number near 2^64.
    let classes = std::array::from_fn(|class| Counter {
        packets: now.classes[class].packets.saturating_sub(before.classes[class].packets),
        bytes: now.classes[class].bytes.saturating_sub(before.classes[class].bytes),
    });
    Counters { classes }
}

/// Packets and bytes of all classes.
#[must_use]
pub(super) fn all_classes(counters: &Counters) -> Counter {
    counters.classes.iter().fold(Counter::default(), |sum, class| Counter {
        packets: sum.packets + class.packets,
        bytes: sum.bytes + class.bytes,
    })
}

#[cfg(test)]
mod tests {
    use tidegate_abi::class;

    use super::*;
    use crate::kernel::Framing;

    fn rows(ingress: u64, local: u64, forwarded: u64) -> Rows {
        let mut rows = Rows::default();
        for (row, packets) in rows.0.iter_mut().zip([ingress, local, forwarded]) {
            row.classes[usize::from(class::IPV4_UDP)] = Counter { packets, bytes: packets * 100 };
        }
        rows
    }

    fn interface(ifindex: u32, rows: &Rows) -> InterfaceCounters {
        InterfaceCounters {
            name: format!("eth{ifindex}"),
            ifindex,
            framing: Framing::Ethernet,
            attached_after: None,
            rows: Some(*rows),
        }
    }

    fn readings(interfaces: &[(u32, Rows)], gone: &[(u32, Rows)]) -> Readings {
        let list = |list: &[(u32, Rows)]| list.iter().map(|(ifindex, rows)| interface(*ifindex, rows)).collect();
        Readings { interfaces: list(interfaces), gone: list(gone), ..Readings::default() }
    }

    fn packets(counters: &Sum<Counters>) -> (u64, u64) {
        (all_classes(&counters.total).packets, all_classes(&counters.delta).packets)
    }

    fn told(export: &Export) -> Vec<(u32, bool, u64, u64)> {
        let ingress = |rows: &Rows| all_classes(&rows.0[0]).packets;
        let each =
            |sum: &InterfaceSum| (sum.interface.ifindex, sum.gone, ingress(&sum.rows.total), ingress(&sum.rows.delta));
        export.interfaces.iter().map(each).collect()
    }

    #[test]
    fn forwarded_packets_are_totalled_once() {
        let mut tally = Tally::default();
        // 10 came in at 1 and were forwarded to 2, which also sent 3 of our own.
        tally.observe(&mut readings(&[(1, rows(10, 0, 0)), (2, rows(0, 3, 10))], &[]));
        assert_eq!(packets(&tally.export().total), (13, 13));
    }

    #[test]
    fn deltas_are_since_the_last_export_however_often_was_read() {
        let mut tally = Tally::default();
        for count in [1, 4, 9] {
            tally.observe(&mut readings(&[(1, rows(count, 0, 0))], &[]));
        }
        assert_eq!(told(&tally.export()), [(1, false, 9, 9)]);
        tally.observe(&mut readings(&[(1, rows(11, 0, 0))], &[]));
        assert_eq!(told(&tally.export()), [(1, false, 11, 2)]);
    }

    #[test]
    fn an_interface_that_went_away_is_told_once_and_stays_in_the_total() {
        let mut tally = Tally::default();
        tally.observe(&mut readings(&[(1, rows(5, 0, 0))], &[]));
        tally.export();
        tally.observe(&mut readings(&[], &[(1, rows(8, 0, 0))]));
        tally.observe(&mut readings(&[], &[]));
        let export = tally.export();
        assert_eq!((told(&export), packets(&export.total)), (vec![(1, true, 8, 3)], (8, 3)));
        let export = tally.export();
        assert_eq!((told(&export), packets(&export.total)), (vec![], (8, 0)));
    }

    #[test]
    fn an_index_that_comes_back_counts_from_zero() {
        let mut tally = Tally::default();
        tally.observe(&mut readings(&[(1, rows(5, 0, 0))], &[]));
        tally.export();
        tally.observe(&mut readings(&[(1, rows(2, 0, 0))], &[(1, rows(6, 0, 0))]));
        let export = tally.export();
        assert_eq!(told(&export), [(1, true, 6, 1), (1, false, 2, 2)]);
        assert_eq!(packets(&export.total), (8, 3));
    }

    #[test]
    fn a_thousand_interfaces_that_went_away_are_in_the_total_and_not_in_memory() {
        let mut tally = Tally::default();
        let gone: Vec<_> = (1..=1000).map(|ifindex| (ifindex, rows(1, 0, 0))).collect();
        tally.observe(&mut readings(&[], &gone));
        let export = tally.export();
        assert_eq!((export.interfaces.len(), packets(&export.total)), (MAX_GONE, (1000, 1000)));
    }
}
