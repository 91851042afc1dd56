//! Atomic updates of map values that several CPUs write.
//!
//! `core::sync::atomic` leaves out `fetch_add`, `fetch_or` and `compare_exchange` on this target, as it has no compare-and-swap below
//! instruction set v3; the intrinsics below them are there and become one locked instruction each. Relaxed order
//! suffices: sums, flags and times say nothing about other memory.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_or, atomic_xadd};

/// `*target += value`.
///
/// # Safety
///
/// `target` must be valid, aligned to 8, and written by other CPUs atomically only.
#[inline(always)]
pub(crate) unsafe fn add(target: *mut u64, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(target, value) };
}

/// `*target += value`.
///
/// # Safety
///
/// `target` must be valid, aligned to 4, and written by other CPUs atomically only.
#[inline(always)]
pub(crate) unsafe fn add_u32(target: *mut u32, value: u32) {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(target, value) };
}

/// `*target |= value`.
///
/// # Safety
///
/// `target` must be valid and aligned to 4. Other CPUs may write single bytes of it that `value` leaves alone.
#[inline(always)]
pub(crate) unsafe fn or_u32(target: *mut u32, value: u32) {
    // SAFETY: the caller's promise.
    unsafe { atomic_or::<u32, u32, { AtomicOrdering::Relaxed }>(target, value) };
}

/// `*target = new` where `*target == old`; whether it was.
///
/// # Safety
///
/// `target` must be valid, aligned to 8, and written by other CPUs atomically only.
#[inline(always)]
pub(crate) unsafe fn replace(target: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller's promise.
    unsafe { atomic_cxchg::<u64, { AtomicOrdering::Relaxed }, { AtomicOrdering::Relaxed }>(target, old, new).1 }
}
