//! The exact counters: which rows belong to which interface, and reading them.

use std::ops::AddAssign;

use aya::{
    Pod,
    maps::{MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use tidegate_abi::{CLASSES, Counters, SLOT_CACHE, SampleCounters, SendTimes, Slot, row};

use super::{
    object::{Abi, Object},
    slots::{OTHER, Slots},
};

const ROWS: usize = row::ROWS_PER_SLOT as usize;

/// Rows of one interface, summed over all CPUs; the index is one of [`row`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows(pub [Counters; ROWS]);

impl AddAssign for Rows {
    fn add_assign(&mut self, other: Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            add(sum, &more);
        }
    }
}

fn add(sum: &mut Counters, more: &Counters) {
    for class in 0..CLASSES {
        sum.classes[class].packets += more.classes[class].packets;
        sum.classes[class].bytes += more.classes[class].bytes;
    }
}

/// The rows that interfaces count in.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    slots: Slots,
}

impl Ledger {
    /// Gives an interface rows of its own, all zero; whether there were any left. Call before attaching, so that
    /// its first packet finds them.
    ///
    /// # Errors
    ///
    /// The system's; the interface counts as "other" then.
    pub(super) fn open(&mut self, object: &mut Object, ifindex: u32) -> Result<bool, MapError> {
        let Some(slot) = self.slots.take(ifindex) else { return Ok(false) };
        let opened = clear(object, slot).and_then(|()| {
            let entry = Abi(Slot { ifindex, slot });
            object.slot_hash.insert(ifindex, entry, 0)?;
            object.slot_cache.set(ifindex % SLOT_CACHE, entry, 0)
        });
        if opened.is_err() {
            self.slots.give_back(ifindex);
        }
        opened.map(|()| true)
    }

    /// Takes the rows away from an interface and returns what they hold. Call after detaching.
    ///
    /// # Errors
    ///
    /// The system's; the rows are given back all the same.
    pub(super) fn close(&mut self, object: &mut Object, ifindex: u32) -> Result<Rows, MapError> {
        let Some(slot) = self.slots.give_back(ifindex) else { return Ok(Rows::default()) };
        let last = read(object, slot);
        // The cache may hold another interface with the same low bits by now.
        let index = ifindex % SLOT_CACHE;
        if object.slot_cache.get(&index, 0).is_ok_and(|Abi(entry)| entry.ifindex == ifindex) {
            object.slot_cache.set(index, Abi(Slot::default()), 0)?;
        }
        match object.slot_hash.remove(&ifindex) {
            Ok(()) | Err(MapError::KeyNotFound) => last,
            Err(error) => Err(error),
        }
    }

    /// The slot whose rows are an interface's own; `None` where it has none.
    #[must_use]
    pub(super) fn slot(&self, ifindex: u32) -> Option<u32> {
        self.slots.get(ifindex)
    }

    /// What an interface has counted since [`Self::open`]; `None` where it has no rows of its own.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(super) fn read(&self, object: &Object, ifindex: u32) -> Result<Option<Rows>, MapError> {
        self.slots.get(ifindex).map(|slot| read(object, slot)).transpose()
    }
}

/// What the interfaces without rows of their own have counted since the object was loaded.
///
/// # Errors
///
/// The system's.
pub(super) fn read_other(object: &Object) -> Result<Rows, MapError> {
    read(object, OTHER)
}

/// What all CPUs counted about samples since the object was loaded.
///
/// # Errors
///
/// The system's.
pub(super) fn read_samples(object: &Object) -> Result<SampleCounters, MapError> {
    sum(&object.samples)
}

/// What all CPUs counted of `tcp_sendmsg` since the object was loaded.
///
/// # Errors
///
/// The system's.
pub(super) fn read_sends(object: &Object) -> Result<SendTimes, MapError> {
    sum(&object.sends)
}

/// The one entry of an array, over all CPUs.
fn sum<T>(array: &PerCpuArray<MapData, Abi<T>>) -> Result<T, MapError>
where
    T: Default + AddAssign + Copy,
    Abi<T>: Pod,
{
    let mut sum = T::default();
    for Abi(cpu) in array.get(&0, 0)?.iter() {
        sum += *cpu;
    }
    Ok(sum)
}

fn read(object: &Object, slot: u32) -> Result<Rows, MapError> {
    let mut rows = Rows::default();
    for (row, sum) in (0..).zip(&mut rows.0) {
        for Abi(cpu) in object.counters.get(&(slot * row::ROWS_PER_SLOT + row), 0)?.iter() {
            add(sum, cpu);
        }
    }
    Ok(rows)
}

fn clear(object: &mut Object, slot: u32) -> Result<(), MapError> {
    let cpus = nr_cpus().map_err(|(_, error)| error)?;
    for row in 0..row::ROWS_PER_SLOT {
        let zeros = PerCpuValues::try_from(vec![Abi(Counters::default()); cpus])?;
        object.counters.set(slot * row::ROWS_PER_SLOT + row, zeros, 0)?;
    }
    Ok(())
}
