//! What a rate must do with a packet, held against what it did.
//!
//! The kernel's clock is not stopped for this: all that depends on it is compared with the times before and after.

use std::net::IpAddr;

use rustix::time::{ClockId, clock_gettime};
use tidegate::policy::evaluate::Content;
use tidegate_abi::{
    Counter,
    policy::{Limit, LimitPeer, action},
};
use tidegate_tests::probes::{Generation, Probes};

/// A rate before a packet.
pub(super) struct Rate {
    number: u32,
    limit: Limit,
    peer: LimitPeer,
    /// None: a peer that is new.
    tat_ns: Option<u64>,
    cost_ns: u64,
    before_ns: u64,
}

impl Rate {
    /// That of the rule, where it has one.
    pub(super) fn of(
        generation: &Generation,
        probes: &Probes,
        rule: u32,
        content: Content,
        segments: u64,
    ) -> Option<Self> {
        let rule = generation.rule(rule);
        let Content::Ip { peer, .. } = content else { return None };
        if rule.action != action::LIMIT {
            return None;
        }
        let limit = generation.limit(rule.limit);
        let peer = match peer {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let peer = LimitPeer { id: limit.id, peer };
        let tat_ns = tat_ns(probes, &limit, peer);
        let cost_ns = segments * limit.interval_ns;
        Some(Self { number: rule.limit, limit, peer, tat_ns, cost_ns, before_ns: boot_ns() })
    }

    /// Asserts that the packet of this size was rightly let through, or rightly dropped and counted.
    pub(super) fn assert_kept(
        &self,
        generation: &Generation,
        probes: &Probes,
        dropped: bool,
        size: Counter,
        describe: &dyn Fn() -> String,
    ) {
        let Self { number, limit, peer, tat_ns: tat, cost_ns: cost, before_ns } = self;
        let now = *before_ns..=boot_ns();
        let after = generation.limit(*number);
        let found = tat_ns(probes, &after, *peer);
        let right = match (tat, dropped) {
            // Full: it starts from the packet's time.
            (tat, false) if found.is_some_and(|found| now.contains(&(found - cost)) && *tat <= Some(found - cost)) => {
                true
            }
            (Some(tat), false) => found == Some(tat + cost) && tat + cost <= limit.burst_ns + now.end(),
            (Some(tat), true) => found == Some(*tat) && tat > now.start() && tat + cost > limit.burst_ns + now.start(),
            (None, _) => false,
        };
        assert!(right, "dropped {dropped}, from {tat:?} to {found:?} within {now:?}, {limit:?}: {}", describe());
        let more = if dropped { size } else { Counter::default() };
        let counted = (after.dropped_packets - limit.dropped_packets, after.dropped_bytes - limit.dropped_bytes);
        assert_eq!(counted, (more.packets, more.bytes), "{}", describe());
    }
}

/// Theoretical arrival time of the next packet.
fn tat_ns(probes: &Probes, limit: &Limit, peer: LimitPeer) -> Option<u64> {
    if limit.per_peer == 0 { Some(limit.tat_ns) } else { probes.peer_tat(peer) }
}

/// The clock that the programs read.
pub(super) fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}
