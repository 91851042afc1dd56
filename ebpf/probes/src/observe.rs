//! The body of all entry points.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use tidegate_abi::{direction, row};

use crate::{
    count, flow,
    headers::{Headers, Link},
    maps::SCRATCH,
    packet::Packet,
    policy,
    sample::Sampler,
};

/// The tc hook that a program is attached to. The packet cannot tell: a forwarded one has an `ingress_ifindex` at
/// egress, too.
#[derive(Clone, Copy)]
pub(crate) enum Hook {
    Ingress,
    Egress,
}

impl Hook {
    /// Row of the packet's counters within its interface's.
    #[inline(always)]
    fn row(self, packet: &Packet) -> u32 {
        match self {
            Self::Ingress => row::INGRESS,
            Self::Egress if packet.came_in() => row::EGRESS_FORWARDED,
            Self::Egress => row::EGRESS_LOCAL,
        }
    }

    #[inline(always)]
    fn direction(self) -> u8 {
        match self {
            Self::Ingress => direction::INGRESS,
            Self::Egress => direction::EGRESS,
        }
    }
}

/// Counts the packet, judges it, samples it where it is drawn, and says whether it goes on.
#[inline(always)]
pub(crate) fn observe(context: &TcContext, link: Link, hook: Hook) -> i32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return TC_ACT_UNSPEC;
    };
    // SAFETY: the pointer came from the map, and no other program runs on this CPU before this one ends: see `count`.
    let scratch = unsafe { &mut *scratch };
    let packet = Packet::new(context.skb.skb);
    let headers = Headers::read(&packet, link, &mut scratch.headers);
    let size = packet.size(&headers);
    count::count(packet.ifindex(), hook.row(&packet), headers.class, size);
    let verdict = policy::judge(&packet, hook.direction(), size, scratch);
    let weight = if verdict == policy::SAMPLE { Sampler::force() } else { scratch.sampler.draw(&headers) };
    if weight != 0 {
        flow::add(&packet, hook.direction(), size, weight, verdict == policy::DROP, scratch);
    }
    if verdict == policy::DROP { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}
