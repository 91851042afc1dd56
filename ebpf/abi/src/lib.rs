//! Types that the kernel and the daemon share: fixed width, `repr(C)`, no hidden padding, sizes asserted.
//!
//! A change of any layout here raises [`ABI_VERSION`]; the daemon refuses an object that was built with
//! another one. Multi-byte fields are in host order unless a field says otherwise.
#![no_std]

pub mod policy;

use core::ops::AddAssign;

/// Raised with every change of a layout or of the meaning of a field.
pub const ABI_VERSION: u32 = 3;

/// Names of the maps in the object. The loader sizes [`maps::FLOWS`]; the others have the size they are built with.
pub mod maps {
    /// `Array<u32>` that nothing reads: its `max_entries` is the [`ABI_VERSION`](super::ABI_VERSION) the object was
    /// built with. Map definitions are read before any program is, and a pinned map still tells its size.
    pub const ABI: &str = "TG_ABI";
    /// `PerCpuArray<Counters>`, index `slot * ROWS_PER_SLOT + row`: see [`row`](super::row).
    pub const COUNTERS: &str = "TG_COUNTERS";
    /// `Array<Slot>`, index `ifindex % SLOT_CACHE`: answers nearly every packet.
    pub const SLOT_CACHE: &str = "TG_SLOT_CACHE";
    /// `HashMap<u32, Slot>` by ifindex: asked where the cache holds another interface.
    pub const SLOT_HASH: &str = "TG_SLOT_HASH";
    /// `Array<Settings>` of one entry.
    pub const SETTINGS: &str = "TG_SETTINGS";
    /// `LruHashMap<FlowKey, FlowValue>`; capacity by the loader.
    pub const FLOWS: &str = "TG_FLOWS";
    /// `PerCpuArray<SampleCounters>` of one entry.
    pub const SAMPLES: &str = "TG_SAMPLES";
    /// `PerCpuArray<SendTimes>` of one entry.
    pub const SENDS: &str = "TG_SENDS";
    /// `LruHashMap<u64, u64>`: by thread (`bpf_get_current_pid_tgid`) when it entered `tcp_sendmsg`.
    pub const SENDING: &str = "TG_SENDING";
    /// `ArrayOfMaps<Array<Block, LARGE_BLOCKS>>` of one entry: the large generation that is enforced. Asked first.
    pub const POLICY_LARGE: &str = "TG_POLICY_LARGE";
    /// `ArrayOfMaps<Array<Block, SMALL_BLOCKS>>` of one entry: the small generation that is enforced, where there is no
    /// large one. Where neither is there, there is no policy.
    pub const POLICY_SMALL: &str = "TG_POLICY_SMALL";
    /// `LruHashMap<LimitPeer, u64>`: theoretical arrival time of each peer.
    pub const LIMIT_PEERS: &str = "TG_LIMIT_PEERS";
    /// `RingBuf` of [`policy::Dropped`](super::policy::Dropped).
    pub const DROPS: &str = "TG_DROPS";
    /// Bench only: `Array<[u8; 4]>` of IPv4 addresses that [`programs::BENCH_EMPTY`](super::programs::BENCH_EMPTY) draws
    /// from.
    pub const BENCH_SOURCES: &str = "TG_BENCH_SOURCES";
}

/// Names of the programs in the object, of type `SchedClassifier` where nothing else is said.
pub mod programs {
    /// Ingress of a link with Ethernet headers.
    pub const INGRESS: &str = "tidegate_ingress";
    /// Egress of a link with Ethernet headers.
    pub const EGRESS: &str = "tidegate_egress";
    /// Ingress of a link whose packets begin with the IP header (tun, wwan, ppp, wg).
    pub const IP_INGRESS: &str = "tidegate_ip_ingress";
    /// Egress of such a link.
    pub const IP_EGRESS: &str = "tidegate_ip_egress";
    /// `FEntry` of [`TCP_SENDMSG`].
    pub const SEND_ENTRY: &str = "tcp_sendmsg_entry";
    /// `FExit` of [`TCP_SENDMSG`].
    pub const SEND_EXIT: &str = "tcp_sendmsg_exit";
    /// The kernel's function that takes what a program sends over TCP: `send`, `write`, `sendmsg` and so on, IPv4 and
    /// IPv6.
    pub const TCP_SENDMSG: &str = "tcp_sendmsg";
    /// Bench only: draws the source of the packet at hand and does nothing else.
    pub const BENCH_EMPTY: &str = "bench_empty";
    /// Bench only: the same, then what [`INGRESS`] does.
    pub const BENCH_INGRESS: &str = "bench_ingress";
}

/// Which way a packet goes, as the interface sees it, and for egress where it came from.
///
/// The rows of one interface in the counter array: `slot * ROWS_PER_SLOT + row`.
pub mod row {
    /// Received on the interface.
    pub const INGRESS: u32 = 0;
    /// Sent, made on this machine.
    pub const EGRESS_LOCAL: u32 = 1;
    /// Sent, having come in on another interface: counted there already, so totals leave it out.
    pub const EGRESS_FORWARDED: u32 = 2;
    /// Rows of one interface.
    pub const ROWS_PER_SLOT: u32 = 3;
}

/// Values of [`FlowKey::direction`].
pub mod direction {
    /// Received.
    pub const INGRESS: u8 = 0;
    /// Sent.
    pub const EGRESS: u8 = 1;
}

/// Values of [`FlowValue::verdict`], the last sample's. Without a policy every packet is allowed.
pub mod verdict {
    /// The packet went on.
    pub const ALLOW: u8 = 0;
    /// The policy dropped it.
    pub const DROP: u8 = 1;
}

/// Interfaces that have counters of their own. Slot 0 is "other": an interface that has none, which the daemon
/// notices by counters that grow there.
pub const SLOTS: u32 = 256;
/// Entries of [`maps::SLOT_CACHE`]. Interfaces are numbered in the order in which they appear, so that two that live
/// at the same time rarely meet in one entry; where they do, the later one is in [`maps::SLOT_HASH`] alone.
pub const SLOT_CACHE: u32 = 4096;
/// Entries of [`maps::FLOWS`] where the loader does not say.
pub const FLOWS: u32 = 16_384;
/// The largest [`Settings::sample_rate`]: with it the variances of [`FlowValue`] hold 1 TB of one flow between two
/// drains.
pub const MAX_SAMPLE_RATE: u32 = 65_536;
/// Protocol classes of a counter row.
pub const CLASSES: usize = 16;

/// Protocol class of a packet: the index into [`Counters::classes`].
pub mod class {
    /// ARP, whatever stands in it.
    pub const ARP: u8 = 0;
    /// Any other EtherType that is neither IPv4 nor IPv6.
    pub const NON_IP: u8 = 1;
    /// TCP over IPv4: a first or only fragment.
    pub const IPV4_TCP: u8 = 2;
    /// UDP over IPv4.
    pub const IPV4_UDP: u8 = 3;
    /// ICMP.
    pub const IPV4_ICMP: u8 = 4;
    /// IPv4 with another protocol, AH and ESP among them.
    pub const IPV4_OTHER: u8 = 5;
    /// An IPv4 fragment behind the first: it has no ports.
    pub const IPV4_FRAGMENT: u8 = 6;
    /// TCP over IPv6.
    pub const IPV6_TCP: u8 = 7;
    /// UDP over IPv6.
    pub const IPV6_UDP: u8 = 8;
    /// ICMPv6.
    pub const IPV6_ICMP: u8 = 9;
    /// IPv6 with another protocol, ESP among them, or No Next Header.
    pub const IPV6_OTHER: u8 = 10;
    /// An IPv6 fragment behind the first.
    pub const IPV6_FRAGMENT: u8 = 11;
    /// A header is cut short or contradicts itself: nothing behind it was read.
    pub const MALFORMED: u8 = 12;
    /// More than six IPv6 extension headers, or more than two VLAN tags.
    pub const TOO_DEEP: u8 = 13;
    /// Names, as they stand in telemetry.
    pub const NAMES: [&str; 16] = [
        "arp",
        "non_ip",
        "ipv4_tcp",
        "ipv4_udp",
        "ipv4_icmp",
        "ipv4_other",
        "ipv4_fragment",
        "ipv6_tcp",
        "ipv6_udp",
        "ipv6_icmp",
        "ipv6_other",
        "ipv6_fragment",
        "malformed",
        "too_deep",
        "reserved14",
        "reserved15",
    ];
}

/// Packets and bytes. A packet is one wire segment; bytes are those of the Ethernet frames without FCS and
/// outer VLAN tag (IP bytes where the link has no Ethernet header).
///
/// A buffer that the kernel or the card cuts into segments (GSO, GRO) counts as those segments, each with its own
/// copy of the headers up to the end of TCP's or UDP's. Headers of a tunnel that is segmented as a whole (VXLAN, GRE
/// offload) are counted once: the buffer does not say how long the inner ones are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Wire segments.
    pub packets: u64,
    /// Bytes of all segments.
    pub bytes: u64,
}

/// One row of the per-CPU counter array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By protocol class.
    pub classes: [Counter; CLASSES],
}

/// Answer of the ifindex → slot cache and of the hash behind it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Interface that the slot belongs to.
    pub ifindex: u32,
    /// Row block in the counter array.
    pub slot: u32,
}

/// Settings that change while the programs run: the one entry of an `Array` map, effective with the next packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// One of this many packets is sampled at random, at most [`MAX_SAMPLE_RATE`]; 0 turns sampling off, forced
    /// samples included.
    pub sample_rate: u32,
    /// Forced samples (SYN, FIN, RST) a second and CPU.
    pub forced_per_second: u32,
    /// New flows a second and CPU that may enter the flow table.
    pub inserts_per_second: u32,
    /// Zero.
    pub reserved: u32,
}

/// Key of the flow table. IPv4 addresses stand as `::ffff:a.b.c.d`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address, network order.
    pub source: [u8; 16],
    /// Destination address, network order.
    pub destination: [u8; 16],
    /// Interface.
    pub ifindex: u32,
    /// Source port, host order; 0 for a later fragment and for all but TCP and UDP.
    pub source_port: u16,
    /// Destination port, host order; for ICMP type * 256 + code.
    pub destination_port: u16,
    /// IP protocol number behind the extension headers; of a later fragment what its fragment header names.
    pub protocol: u8,
    /// See [`direction`].
    pub direction: u8,
    /// 4 or 6.
    pub ip_version: u8,
    /// Zero.
    pub reserved: u8,
}

/// Value of the flow table: sums over the *sampled* packets.
///
/// The estimate is that of Horvitz and Thompson: a packet that is sampled with probability p counts 1/p times.
/// Drawn packets (p = 1 / `sample_rate`) weigh `sample_rate`, forced ones (p = 1) weigh 1, and whether a packet is
/// forced never depends on the draw; so the expected value of the sums is the true volume. As each packet is
/// drawn on its own, the variance of a sum is estimated without bias by Σ (weight² − weight) × size².
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowValue {
    /// Wire segments of the samples.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Sum of weight × segments: the estimate of the flow's packets.
    pub weight_packets: u64,
    /// Sum of weight × bytes: the estimate of the flow's bytes.
    pub weight_bytes: u64,
    /// Variance of `weight_packets`: sum of (weight² − weight) × segments².
    pub variance_packets: u64,
    /// Variance of `weight_bytes` / [`VARIANCE_BYTES_UNIT`]: sum of (weight² − weight) × (bytes² / 256, rounded down).
    pub variance_bytes: u64,
    /// `bpf_ktime_get_boot_ns` of the first sample.
    pub first_ns: u64,
    /// The same of the last.
    pub last_ns: u64,
    /// Samples (buffers) that made this entry.
    pub samples: u32,
    /// TCP flags seen, ored: the low byte of an aligned 32-bit word, as the kernel has no narrower atomic.
    pub tcp_flags: u8,
    /// DSCP of the last sample.
    pub dscp: u8,
    /// See [`verdict`].
    pub verdict: u8,
    /// Zero.
    pub reserved: u8,
}

/// What one unit of [`FlowValue::variance_bytes`] stands for, in bytes²: keeps 64 bits enough.
pub const VARIANCE_BYTES_UNIT: u64 = 256;

/// What a CPU counted beside the interfaces: the one entry of a per-CPU array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleCounters {
    /// Packets (buffers) that were drawn at random or forced. Those that reached no flow are counted below; what is
    /// still missing in the table and in what was drained from it, the table evicted.
    pub sampled: u64,
    /// Of them the forced ones.
    pub forced: u64,
    /// SYN, FIN or RST beyond the bound: left to the random draw.
    pub forced_over_limit: u64,
    /// Samples that made a flow in the table.
    pub inserted: u64,
    /// Samples whose flow was new while the bound on inserts was reached: not in the table.
    pub inserts_over_limit: u64,
    /// Samples that the table refused for another reason.
    pub insert_failed: u64,
    /// Samples that have no flow: ARP, whatever else is not IP, malformed and too deep packets.
    pub no_flow: u64,
}

impl AddAssign for SampleCounters {
    fn add_assign(&mut self, more: Self) {
        self.sampled += more.sampled;
        self.forced += more.forced;
        self.forced_over_limit += more.forced_over_limit;
        self.inserted += more.inserted;
        self.inserts_over_limit += more.inserts_over_limit;
        self.insert_failed += more.insert_failed;
        self.no_flow += more.no_flow;
    }
}

/// Entries of [`maps::BENCH_SOURCES`].
pub const BENCH_SOURCES: u32 = 65_536;

/// Calls that [`maps::SENDING`] has room for, about: threads inside `tcp_sendmsg` at one time, most of which wait there
/// for their peer.
pub const SENDING: u32 = 1024;
/// Buckets of [`SendTimes`].
pub const SEND_BUCKETS: usize = 26;
/// The first bucket holds calls of up to two to this power nanoseconds, 512; each further one those of up to twice as
/// much, the last but one 8.6 s; the last all others.
pub const SEND_FIRST_LOG2: u32 = 9;

/// Time spent in `tcp_sendmsg`, as one CPU saw calls end: the one entry of a per-CPU array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendTimes {
    /// Calls by their duration: see [`SEND_FIRST_LOG2`].
    pub buckets: [u64; SEND_BUCKETS],
    /// Nanoseconds of all.
    pub sum_ns: u64,
    /// Calls that ended and whose beginning was not known.
    pub missed: u64,
}

impl AddAssign for SendTimes {
    fn add_assign(&mut self, more: Self) {
        for (sum, more) in self.buckets.iter_mut().zip(more.buckets) {
            *sum += more;
        }
        self.sum_ns += more.sum_ns;
        self.missed += more.missed;
    }
}

/// Types without padding, which may be read from and written to kernel maps as bytes.
///
/// # Safety
///
/// Every bit pattern must be a value of the type, and the type must have no padding.
pub unsafe trait Pod: Copy + 'static {}

macro_rules! layout {
    ($($type:ty = $size:literal),* $(,)?) => {$(
        const _: () = assert!(size_of::<$type>() == $size && align_of::<$type>() <= 8);
        // SAFETY: integers only, and the size asserted above is the sum of the fields', so there is no padding.
        unsafe impl Pod for $type {}
    )*};
}

layout! {
    Counter = 16,
    Counters = 256,
    Slot = 8,
    Settings = 16,
    FlowKey = 44,
    FlowValue = 72,
    SampleCounters = 56,
    SendTimes = 224,
    policy::Header = 64,
    policy::Single = 16,
    policy::Rule = 32,
    policy::Limit = 64,
    policy::LimitPeer = 24,
    policy::Dropped = 48,
}

const _: () = assert!(core::mem::offset_of!(FlowValue, tcp_flags) % 4 == 0);
