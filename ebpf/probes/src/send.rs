//! Time spent in the kernel's `tcp_sendmsg`, as a histogram: a pair of programs of type TRACING.
//!
//! A call may sleep and wake up on another CPU, so its beginning is kept by thread. The table is an LRU: the kernel skips
//! a tracing program that is preempted by another call of it on the same CPU, and an end that is skipped leaves its entry
//! behind, for good where the thread ends. A plain table would be full of them some day.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};
use tidegate_abi::{SEND_BUCKETS, SEND_FIRST_LOG2};

use crate::maps::{SENDING, SENDS};

/// Remembers when the thread went in.
#[fentry(function = "tcp_sendmsg")]
fn tcp_sendmsg_entry(_context: FEntryContext) -> i32 {
    // Where it is refused, the end will miss it.
    let _refused = SENDING.insert(&bpf_get_current_pid_tgid(), &now_ns(), 0);
    0
}

/// Counts the call by the time it took.
#[fexit(function = "tcp_sendmsg")]
fn tcp_sendmsg_exit(_context: FExitContext) -> i32 {
    let Some(sends) = SENDS.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the pointer came from the map. Nothing else on this CPU writes the entry: the kernel does not let this
    // program run while it runs there.
    let sends = unsafe { &mut *sends };
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: only this thread writes its entry.
    let Some(&began_ns) = (unsafe { SENDING.get(&thread) }) else {
        sends.missed += 1;
        return 0;
    };
    let took_ns = now_ns().saturating_sub(began_ns);
    let _evicted = SENDING.remove(&thread);
    sends.sum_ns += took_ns;
    sends.buckets[bucket(took_ns)] += 1;
    0
}

/// The smallest bucket whose bound is not exceeded.
#[inline(always)]
fn bucket(took_ns: u64) -> usize {
    let log2 = u64::BITS - took_ns.saturating_sub(1).leading_zeros();
    (log2.saturating_sub(SEND_FIRST_LOG2) as usize).min(SEND_BUCKETS - 1)
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}
