//! Packets of every shape through the programs in the real kernel, each held against a plain reading of the RFCs.

mod generate;
mod paged;
mod policy;
mod reference;

use fastrand::Rng;
use generate::Aim;
use reference::{Link, Verdict, judge};
use tidegate_abi::{
    ABI_VERSION, CLASSES, Counter, FlowKey, FlowValue, Settings, Slot, class, direction, programs, row,
};
use tidegate_tests::{
    need,
    probes::{Context, IFINDEX, Probes},
    requires,
};

/// Seeds of the packets. One that ever failed stays here.
const SEEDS: [u64; 8] = [1, 2, 3, 4, 5, 0x7469_6465, 0x6761_7465, 2026];
/// Packets of a seed for each kind of link: 20,000 in all.
const PACKETS: usize = 1_250;

/// Every packet is sampled, so that its flow can be looked at.
const ALL: Settings =
    Settings { sample_rate: 1, forced_per_second: u32::MAX, inserts_per_second: u32::MAX, reserved: 0 };

/// What a program returns so that the packet goes on to the next one.
const TC_ACT_UNSPEC: i32 = -1;

/// A program, and where its counts go.
struct Hook {
    program: &'static str,
    row: u32,
    direction: u8,
    forwarded: bool,
}

const ETHERNET: [Hook; 3] = [
    Hook { program: programs::INGRESS, row: row::INGRESS, direction: direction::INGRESS, forwarded: false },
    Hook { program: programs::EGRESS, row: row::EGRESS_LOCAL, direction: direction::EGRESS, forwarded: false },
    Hook { program: programs::EGRESS, row: row::EGRESS_FORWARDED, direction: direction::EGRESS, forwarded: true },
];

const IP: [Hook; 3] = [
    Hook { program: programs::IP_INGRESS, row: row::INGRESS, direction: direction::INGRESS, forwarded: false },
    Hook { program: programs::IP_EGRESS, row: row::EGRESS_LOCAL, direction: direction::EGRESS, forwarded: false },
    Hook { program: programs::IP_EGRESS, row: row::EGRESS_FORWARDED, direction: direction::EGRESS, forwarded: true },
];

#[test]
fn the_object_is_of_the_abi_that_the_daemon_is_built_with() {
    requires!(need::root());
    assert_eq!(Probes::load().abi_version(), ABI_VERSION);
}

#[test]
fn ten_thousand_random_frames_are_classed_as_the_rfcs_say() {
    requires!(need::root());
    let mut bench = Bench::new();
    for seed in SEEDS {
        let mut rng = Rng::with_seed(seed);
        for number in 0..PACKETS {
            let packet = generate::frame(&mut rng, &Aim::default());
            bench.compare(&mut rng, &ETHERNET, &packet, Link::Ethernet, &format!("frame {number} of seed {seed}"));
        }
    }
    bench.assert_all_classes_seen();
}

#[test]
fn ten_thousand_random_packets_without_a_link_header_are_classed_as_the_rfcs_say() {
    requires!(need::root());
    let mut bench = Bench::new();
    for seed in SEEDS {
        let mut rng = Rng::with_seed(seed);
        for number in 0..PACKETS {
            let (packet, ether_type) = generate::headerless(&mut rng, &Aim::default());
            bench.compare(&mut rng, &IP, &packet, Link::Ip(ether_type), &format!("packet {number} of seed {seed}"));
        }
    }
    bench.assert_all_classes_seen();
}

#[test]
fn an_interface_that_misses_the_cache_is_found_in_the_hash_and_one_in_neither_counts_as_other() {
    requires!(need::root());
    let mut probes = Probes::load();
    let frame = [0; 60];
    let run = |probes: &Probes| {
        assert_eq!(probes.run(programs::INGRESS, &frame, Context::default(), 1), TC_ACT_UNSPEC);
    };
    // The cache's entry belongs to another interface with the same low bits.
    let other = IFINDEX + tidegate_abi::SLOT_CACHE;
    probes.cache(IFINDEX, Slot { ifindex: other, slot: 9 });
    run(&probes);
    probes.assign_behind_the_cache(Slot { ifindex: IFINDEX, slot: 8 });
    run(&probes);
    let packets = |slot| probes.counters_of(slot, row::INGRESS)[usize::from(class::NON_IP)].packets;
    assert_eq!([packets(0), packets(7), packets(8), packets(9)], [1, 0, 1, 0]);
}

/// The programs, with what they counted so far.
struct Bench {
    probes: Probes,
    counted: [[Counter; CLASSES]; 3],
    seen: [bool; CLASSES],
}

impl Bench {
    fn new() -> Self {
        let mut probes = Probes::load();
        probes.set(ALL);
        Self { probes, counted: [[Counter::default(); CLASSES]; 3], seen: [false; CLASSES] }
    }

    /// Runs one of the hooks' programs on a packet and compares all that it did.
    fn compare(&mut self, rng: &mut Rng, hooks: &[Hook; 3], packet: &[u8], link: Link, name: &str) {
        let hook = &hooks[rng.usize(..3)];
        let (gso_segs, gso_size) = match rng.u8(..8) {
            0 => (rng.u32(1..45), rng.u32(1..1_500)),
            1 => (0, rng.u32(1..1_500)),
            2 => (1, 0),
            _ => (0, 0),
        };
        let ingress_ifindex = if hook.forwarded { 2 } else { 0 };
        let context = Context { ifindex: 0, ingress_ifindex, gso_segs, gso_size };
        let wanted = judge(packet, link, gso_segs, gso_size);
        self.seen[usize::from(wanted.class)] = true;

        let before = self.counted;
        let no_flow_before = self.probes.samples().no_flow;
        let answer = self.probes.run(hook.program, packet, context, 1);
        let describe = || format!("{name}, {}, {context:?}, wanted {wanted:?}: {packet:02x?}", hook.program);
        assert_eq!(answer, TC_ACT_UNSPEC, "{}", describe());

        for (row, counted) in (0..).zip(&mut self.counted) {
            *counted = self.probes.counters(row);
        }
        let mut counters = before;
        let counter = &mut counters[hook.row as usize][usize::from(wanted.class)];
        counter.packets += wanted.size.packets;
        counter.bytes += wanted.size.bytes;
        assert_eq!(self.counted, counters, "counters: {}", describe());

        let flows = self.probes.take_flows();
        let no_flow = self.probes.samples().no_flow - no_flow_before;
        match expected_flow(&wanted, hook.direction) {
            None => assert_eq!((flows.len(), no_flow), (0, 1), "{}", describe()),
            Some((key, value)) => {
                let [(found_key, found)] = flows[..] else {
                    panic!("{} flows: {}", flows.len(), describe());
                };
                assert_eq!((found_key, no_flow), (key, 0), "key: {}", describe());
                assert!(found.first_ns != 0 && found.first_ns == found.last_ns, "times: {}", describe());
                assert_eq!(FlowValue { first_ns: 0, last_ns: 0, ..found }, value, "value: {}", describe());
            }
        }
    }

    /// A generator that no longer makes some class would prove nothing about it.
    fn assert_all_classes_seen(&self) {
        for (class, name) in class::NAMES.iter().enumerate().take(usize::from(class::TOO_DEEP) + 1) {
            assert!(self.seen[class], "no packet of class {name}");
        }
    }
}

/// Each packet is sampled with weight 1, which has no variance.
fn expected_flow(wanted: &Verdict, direction: u8) -> Option<(FlowKey, FlowValue)> {
    let flow = wanted.flow.as_ref()?;
    let Counter { packets, bytes } = wanted.size;
    let key = FlowKey {
        source: flow.source,
        destination: flow.destination,
        ifindex: IFINDEX,
        source_port: flow.source_port,
        destination_port: flow.destination_port,
        protocol: flow.protocol,
        direction,
        ip_version: flow.ip_version,
        reserved: 0,
    };
    let value = FlowValue {
        packets,
        bytes,
        weight_packets: packets,
        weight_bytes: bytes,
        samples: 1,
        tcp_flags: flow.tcp_flags,
        dscp: flow.dscp,
        ..FlowValue::default()
    };
    Some((key, value))
}
