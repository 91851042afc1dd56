//! Counters by interface, direction and protocol class.

use tidegate_abi::{CLASSES, Counter, SLOT_CACHE as SLOT_CACHE_SIZE, Slot, row};

use crate::maps::{COUNTERS, SLOT_CACHE, SLOT_HASH};

/// Slot of an interface that has none of its own.
const OTHER: u32 = 0;

/// Adds `size` to the counters of the interface.
///
/// Plain additions: the row is this CPU's, and no program of ours interrupts another on one CPU, as tc runs with
/// bottom halves off.
#[inline(always)]
pub(crate) fn count(ifindex: u32, row: u32, class: u32, size: Counter) {
    let Some(counters) = COUNTERS.get_ptr_mut(slot(ifindex) * row::ROWS_PER_SLOT + row) else {
        return;
    };
    // SAFETY: the pointer came from the map; no other reference to this CPU's row is alive.
    let counter = unsafe { &mut (*counters).classes[class as usize % CLASSES] };
    counter.packets += size.packets;
    counter.bytes += size.bytes;
}

/// Where the interface counts. The cache answers in a few instructions; the hash costs ten times that.
#[inline(always)]
pub(crate) fn slot(ifindex: u32) -> u32 {
    if let Some(&Slot { ifindex: cached, slot }) = SLOT_CACHE.get(ifindex % SLOT_CACHE_SIZE)
        && cached == ifindex
    {
        return slot;
    }
    // SAFETY: entries are plain integers; one that the daemon replaces meanwhile is read as the old or the new one.
    if let Some(&Slot { slot, .. }) = unsafe { SLOT_HASH.get(ifindex) } {
        return slot;
    }
    OTHER
}
