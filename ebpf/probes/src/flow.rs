//! The flow table: sums over the sampled packets of a flow.

use core::ptr::addr_of_mut;

use aya_ebpf::bindings::BPF_NOEXIST;
use tidegate_abi::{Counter, FlowKey, FlowValue, VARIANCE_BYTES_UNIT, verdict};

use crate::{
    atomic,
    headers::Headers,
    maps::{FLOWS, Scratch},
    packet::Packet,
    sample::{boot_ns, tally},
};

/// Adds a sampled packet to its flow.
///
/// A flow that is new on two CPUs at once is inserted by one of them; the other finds it on its second look.
#[inline(always)]
pub(crate) fn add(packet: &Packet, direction: u8, size: Counter, weight: u32, dropped: bool, scratch: &mut Scratch) {
    let Scratch { headers, key, sampler, .. } = scratch;
    if !headers.recall().has_flow() || !headers.identify(packet, direction, key) {
        tally(|samples| samples.no_flow += 1);
        return;
    }
    let verdict = if dropped { verdict::DROP } else { verdict::ALLOW };
    let sample = sample(&headers.recall(), size, u64::from(weight), verdict);
    if merge(key, &sample) {
        return;
    }
    if !sampler.admits_insert(sample.last_ns) {
        tally(|samples| samples.inserts_over_limit += 1);
        return;
    }
    if FLOWS.insert(&*key, &sample, u64::from(BPF_NOEXIST)).is_ok() {
        tally(|samples| samples.inserted += 1);
    } else if !merge(key, &sample) {
        tally(|samples| samples.insert_failed += 1);
    }
}

/// The entry of a flow of which this packet is all that was seen.
#[inline(always)]
fn sample(headers: &Headers, size: Counter, weight: u64, verdict: u8) -> FlowValue {
    let Counter { packets, bytes } = size;
    let spread = weight * (weight - 1);
    let now_ns = boot_ns();
    FlowValue {
        packets,
        bytes,
        weight_packets: weight * packets,
        weight_bytes: weight * bytes,
        variance_packets: spread * (packets * packets),
        variance_bytes: spread * (bytes * bytes / VARIANCE_BYTES_UNIT),
        first_ns: now_ns,
        last_ns: now_ns,
        samples: 1,
        tcp_flags: headers.tcp_flags as u8,
        dscp: headers.dscp as u8,
        verdict,
        reserved: 0,
    }
}

/// Adds `sample` to the flow's entry; `false` where the table has none.
#[inline(always)]
fn merge(key: &FlowKey, sample: &FlowValue) -> bool {
    let Some(flow) = FLOWS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: the table's entries stay allocated for as long as the table lives; other CPUs add to them as is done
    // here, and the daemon only reads and removes. An entry removed between look-up and addition loses this sample,
    // which the daemon's account of samples shows.
    unsafe {
        atomic::add(addr_of_mut!((*flow).packets), sample.packets);
        atomic::add(addr_of_mut!((*flow).bytes), sample.bytes);
        atomic::add(addr_of_mut!((*flow).weight_packets), sample.weight_packets);
        atomic::add(addr_of_mut!((*flow).weight_bytes), sample.weight_bytes);
        atomic::add(addr_of_mut!((*flow).variance_packets), sample.variance_packets);
        atomic::add(addr_of_mut!((*flow).variance_bytes), sample.variance_bytes);
        atomic::add_u32(addr_of_mut!((*flow).samples), 1);
        // Little-endian: the flags are the low byte of their word, the rest of which stays as it is.
        atomic::or_u32(addr_of_mut!((*flow).tcp_flags).cast(), u32::from(sample.tcp_flags));
        (*flow).last_ns = sample.last_ns;
        (*flow).dscp = sample.dscp;
        (*flow).verdict = sample.verdict;
    }
    true
}
