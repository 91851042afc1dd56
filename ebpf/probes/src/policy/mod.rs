//! Judges packets by the policy that is enforced, of which `tidegate_abi::policy` tells the layout.
//!
//! The daemon writes a whole generation and puts it into the one entry of `POLICY_LARGE` or `POLICY_SMALL`. A packet asks
//! these once and is judged by what it found, so that it sees one policy from end to end. Array maps of a fixed size are
//! read in a few instructions without a call, hence two sizes with the same code for both ([`generation`]); what follows
//! from the rule that they name is there once.

mod generation;
mod limit;
mod question;
mod tell;

use core::ptr::{self, addr_of_mut};

use tidegate_abi::{
    Counter, class,
    policy::{Limit, Rule, action},
};

use crate::{
    atomic,
    headers::Headers,
    maps::{POLICY_LARGE, POLICY_SMALL, Scratch},
    packet::Packet,
};
pub(crate) use {question::Question, tell::Teller};

/// The packet goes on.
pub(crate) const PASS: u32 = 0;
/// It ends here.
pub(crate) const DROP: u32 = 1;
/// It goes on and is sampled.
pub(crate) const SAMPLE: u32 = 2;

/// Always the same in each network namespace (`LOOPBACK_IFINDEX` in `net/flow.h`).
const LOOPBACK: u32 = 1;

/// What a generation says: the rule at work, or the default where that is counted.
struct Answer {
    /// Null: the packet passes, and nothing counts it.
    rule: *mut Rule,
    /// Null where the rule has none.
    limit: *mut Limit,
    action: u32,
    number: u32,
    generation: u32,
}

/// [`PASS`], [`DROP`] or [`SAMPLE`].
#[inline(always)]
pub(crate) fn judge(packet: &Packet, direction: u8, size: Counter, scratch: &mut Scratch) -> u32 {
    let large = POLICY_LARGE.get(0);
    let small = if large.is_none() { POLICY_SMALL.get(0) } else { None };
    let Scratch { headers, key, question, teller, limit_peer, .. } = scratch;
    if (large.is_none() && small.is_none()) || headers.recall().ip_version == 0 || packet.ifindex() == LOOPBACK {
        return PASS;
    }
    question.has_addresses = u32::from(headers.identify(packet, direction, key));
    let headers = headers.recall();
    if is_exempt(&headers, key.source_port, key.destination_port) {
        return PASS;
    }
    question.put(&headers, key, direction);

    let mut answer =
        Answer { rule: ptr::null_mut(), limit: ptr::null_mut(), action: action::ALLOW, number: 0, generation: 0 };
    if let Some(large) = large {
        generation::find_large(large, question);
        generation::answer(large, question, &mut answer);
    } else if let Some(small) = small {
        generation::find_small(small, question);
        generation::answer(small, question, &mut answer);
    }
    let Answer { rule, limit, action, .. } = answer;
    if rule.is_null() {
        return PASS;
    }
    // SAFETY: the pointers came from the generation's map, whose rules and limits other CPUs change as is done here, and
    // which the kernel keeps for as long as a program that found it runs.
    unsafe {
        atomic::add(addr_of_mut!((*rule).packets), size.packets);
        atomic::add(addr_of_mut!((*rule).bytes), size.bytes);
    }
    let mut limited = false;
    match action {
        action::DROP => {}
        action::LIMIT if !limit.is_null() => {
            // SAFETY: as above.
            if unsafe { limit::admits(limit, size, &question.peer, limit_peer) } {
                return PASS;
            }
            limited = true;
        }
        action::SAMPLE => return SAMPLE,
        _ => return PASS,
    }
    // SAFETY: as above.
    unsafe { teller.tell(&answer, key, &question.peer, limited) };
    DROP
}

/// Whether the packet passes whatever the rules say: without neighbour discovery (RFC 4861: router and neighbour
/// solicitations and advertisements, redirects) and DHCP (RFC 2131, 8415) there is no network to guard.
#[inline(always)]
fn is_exempt(headers: &Headers, source_port: u16, destination_port: u16) -> bool {
    let both = |low, high| {
        let is_one = |port| port == low || port == high;
        is_one(source_port) && is_one(destination_port)
    };
    match headers.class as u8 {
        class::IPV6_ICMP => matches!(destination_port >> 8, 133..=137),
        class::IPV4_UDP => both(67, 68),
        class::IPV6_UDP => both(546, 547),
        _ => false,
    }
}
