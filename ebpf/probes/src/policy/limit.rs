//! Rates: see `tidegate_abi::policy::Limit`.

use core::ptr::addr_of_mut;

use aya_ebpf::bindings::BPF_NOEXIST;
use tidegate_abi::{
    Counter,
    policy::{Limit, LimitPeer},
};

use crate::{atomic, maps::LIMIT_PEERS, sample::boot_ns};

/// Takes the packet's segments from the rate; `false` where they are over it, which is counted.
///
/// # Safety
///
/// `limit` must point to a limit of a generation that stays for as long as the program runs.
#[inline(always)]
pub(super) unsafe fn admits(limit: *mut Limit, size: Counter, peer: &[u8; 16], key: &mut LimitPeer) -> bool {
    // SAFETY: nobody changes these fields.
    let (interval_ns, burst_ns, id, per_peer) =
        unsafe { ((*limit).interval_ns, (*limit).burst_ns, (*limit).id, (*limit).per_peer) };
    let now_ns = boot_ns();
    let cost_ns = size.packets * interval_ns;
    // SAFETY: only the address is taken.
    let mut tat = unsafe { addr_of_mut!((*limit).tat_ns) };
    if per_peer != 0 {
        *key = LimitPeer { id, peer: *peer };
        let Some(known) = peer_tat(key, now_ns + cost_ns) else {
            return true;
        };
        tat = known;
    }
    // SAFETY: the entry of an LRU table stays allocated. One that is reused for another peer meanwhile makes that one's
    // rate a few packets off, once.
    if unsafe { take(tat, now_ns, cost_ns, burst_ns) } {
        return true;
    }
    // SAFETY: all CPUs change these fields so.
    unsafe {
        atomic::add(addr_of_mut!((*limit).dropped_packets), size.packets);
        atomic::add(addr_of_mut!((*limit).dropped_bytes), size.bytes);
    }
    false
}

/// The peer's theoretical arrival time. None where the peer is new: its packet found a full bucket and conforms, and
/// `first` stands there now.
#[inline(always)]
fn peer_tat(key: &LimitPeer, first: u64) -> Option<*mut u64> {
    if let Some(known) = LIMIT_PEERS.get_ptr_mut(key) {
        return Some(known);
    }
    if LIMIT_PEERS.insert(key, &first, u64::from(BPF_NOEXIST)).is_ok() {
        return None;
    }
    // Another CPU was faster.
    LIMIT_PEERS.get_ptr_mut(key)
}

/// The virtual scheduling algorithm of I.371 on a time that other CPUs change, too.
///
/// # Safety
///
/// As [`atomic::replace`].
#[inline(always)]
unsafe fn take(tat: *mut u64, now_ns: u64, cost_ns: u64, burst_ns: u64) -> bool {
    let mut taken = false;
    // Whether to try again.
    let mut attempt = || {
        // SAFETY: the caller's promise.
        let old = unsafe { tat.read_volatile() };
        let is_full = old <= now_ns;
        let new = if is_full { now_ns } else { old } + cost_ns;
        if !is_full && new - now_ns > burst_ns {
            return false;
        }
        // SAFETY: the caller's promise.
        taken = unsafe { atomic::replace(tat, old, new) };
        !taken
    };
    // Each failure is another CPU's packet that conformed in these few nanoseconds. After eight, this one is over.
    let _over = attempt() && attempt() && attempt() && attempt() && attempt() && attempt() && attempt() && attempt();
    taken
}
