//! Tells the daemon of packets that were dropped: a few of them, as all are counted.

use core::ptr::addr_of_mut;

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use tidegate_abi::{
    FlowKey,
    policy::{Dropped, TELL_EVERY_NS, TELLS_PER_SECOND},
};

use super::Answer;
use crate::{atomic, maps::DROPS, sample::boot_ns};

/// One second.
const WINDOW_NS: u64 = 1_000_000_000;

/// What a CPU has told.
#[repr(C)]
pub(crate) struct Teller {
    /// When the window at hand began; the first packet after its end begins the next.
    window_ns: u64,
    /// Told in the window.
    told: u64,
}

impl Teller {
    /// Tells of the packet, where its rule and this CPU may tell again.
    ///
    /// # Safety
    ///
    /// The answer's rule must be one of a generation that stays for as long as the program runs.
    #[inline(always)]
    pub(super) unsafe fn tell(&mut self, answer: &Answer, key: &FlowKey, peer: &[u8; 16], limited: bool) {
        let now_ns = coarse_ns();
        // SAFETY: only the address is taken.
        let told_ns = unsafe { addr_of_mut!((*answer.rule).told_ns) };
        // SAFETY: all CPUs change this field by `replace`.
        let last_ns = unsafe { told_ns.read_volatile() };
        if last_ns != 0 && now_ns < last_ns + TELL_EVERY_NS {
            return;
        }
        if now_ns - self.window_ns >= WINDOW_NS {
            self.window_ns = now_ns;
            self.told = 0;
        }
        // SAFETY: as above.
        if self.told >= u64::from(TELLS_PER_SECOND) || !unsafe { atomic::replace(told_ns, last_ns, now_ns) } {
            return;
        }
        self.told += 1;
        let dropped = Dropped {
            boot_ns: boot_ns(),
            generation: answer.generation,
            rule: answer.number,
            ifindex: key.ifindex,
            source_port: key.source_port,
            destination_port: key.destination_port,
            peer: *peer,
            protocol: key.protocol,
            direction: key.direction,
            ip_version: key.ip_version,
            limited: u8::from(limited),
            reserved: 0,
        };
        // Where the daemon does not keep up, it is not told; the counters tell all the same.
        let _full = DROPS.output(&dropped, 0);
    }
}

/// Time since boot as of the last timer tick, without times of suspend: good for seconds, at a tenth of the exact time's price.
#[inline(always)]
fn coarse_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}
