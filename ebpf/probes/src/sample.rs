//! Which packets are sampled, and what each of them weighs.
//!
//! Every packet is drawn on its own with probability 1/N, so that no pattern of the traffic can fall in step with the
//! sampling, a new N takes effect with the next packet, and the variance of an estimate is known. TCP's SYN, FIN and
//! RST are taken without a draw, up to a bound; they weigh 1. Whether a packet is forced is settled before and
//! independently of the draw, which keeps the estimates unbiased: see `tidegate_abi::FlowValue`.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_boot_ns};
use tidegate_abi::{SampleCounters, Settings};

use crate::{
    headers::Headers,
    maps::{SAMPLES, SETTINGS},
};

/// One second: the window in which forced samples and new flows are bounded.
const WINDOW_NS: u64 = 1_000_000_000;

/// A CPU's state.
#[repr(C)]
pub(crate) struct Sampler {
    /// Of xorshift64*; 0 before the first draw.
    random: u64,
    /// When the window at hand began; the first packet that needs one after its end begins the next.
    window_ns: u64,
    /// Forced samples in the window.
    forced: u32,
    /// New flows in the window.
    inserts: u32,
}

impl Sampler {
    /// Weight of the packet where it is sampled, else 0.
    #[inline(always)]
    pub(crate) fn draw(&mut self, headers: &Headers) -> u32 {
        let Some(&Settings { sample_rate, forced_per_second, .. }) = SETTINGS.get(0) else {
            return 0;
        };
        if sample_rate == 0 {
            return 0;
        }
        if headers.opens_or_closes() {
            self.turn_window(boot_ns());
            if self.forced < forced_per_second {
                self.forced += 1;
                tally(|samples| {
                    samples.sampled += 1;
                    samples.forced += 1;
                });
                return 1;
            }
            tally(|samples| samples.forced_over_limit += 1);
        }
        // True for ceil(2^32 / N) of 2^32 values: 1/N within N/2^32 of itself, and for N = 1 always.
        if (self.next() * u64::from(sample_rate)) >> 32 != 0 {
            return 0;
        }
        tally(|samples| samples.sampled += 1);
        sample_rate
    }

    /// The weight of a packet that a rule wants sampled: 1, or 0 where sampling is off.
    #[inline(always)]
    pub(crate) fn force() -> u32 {
        if !SETTINGS.get(0).is_some_and(|settings| settings.sample_rate != 0) {
            return 0;
        }
        tally(|samples| {
            samples.sampled += 1;
            samples.forced += 1;
        });
        1
    }

    /// Whether one more flow may enter the table in this second.
    #[inline(always)]
    pub(crate) fn admits_insert(&mut self, now_ns: u64) -> bool {
        let Some(settings) = SETTINGS.get(0) else {
            return false;
        };
        self.turn_window(now_ns);
        if self.inserts >= settings.inserts_per_second {
            return false;
        }
        self.inserts += 1;
        true
    }

    /// Ends the window at hand where its time is over.
    #[inline(always)]
    fn turn_window(&mut self, now_ns: u64) {
        if now_ns - self.window_ns >= WINDOW_NS {
            self.window_ns = now_ns;
            self.forced = 0;
            self.inserts = 0;
        }
    }

    /// 32 random bits by xorshift64* (Vigna 2016), a tenth of the price of the kernel's generator, which seeds it.
    #[inline(always)]
    fn next(&mut self) -> u64 {
        let mut random = self.random;
        if random == 0 {
            // SAFETY: the helper has no preconditions. The lowest bit keeps the state from being 0, its fixed point.
            random = unsafe { (u64::from(bpf_get_prandom_u32()) << 32) | u64::from(bpf_get_prandom_u32()) | 1 };
        }
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        self.random = random;
        random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32
    }
}

/// Changes this CPU's counters.
#[inline(always)]
pub(crate) fn tally(change: impl FnOnce(&mut SampleCounters)) {
    if let Some(samples) = SAMPLES.get_ptr_mut(0) {
        // SAFETY: the pointer came from the map, and nothing else on this CPU holds a reference to its entry.
        change(unsafe { &mut *samples });
    }
}

/// Time since boot, suspend included: what a flow's times are in.
#[inline(always)]
pub(crate) fn boot_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_boot_ns() }
}
