//! Types that the kernel and the daemon share: fixed width, `repr(C)`, no hidden padding, sizes asserted.
//!
//! A change of any layout here raises [`ABI_VERSION`]; the daemon refuses an object that was built with
//! another one. Multi-byte fields are in host order unless a field says otherwise.
#![no_std]

/// Raised with every change of a layout or of the meaning of a field.
pub const ABI_VERSION: u32 = 1;

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

/// Values of [`FlowValue::verdict`]. Without a policy every packet is allowed.
pub mod verdict {
    /// The packet went on.
    pub const ALLOW: u8 = 0;
}

/// Interfaces that have counters of their own; slot 0 is "other".
pub const SLOTS: u32 = 256;
/// Protocol classes of a counter row.
pub const CLASSES: usize = 16;

/// Protocol class of a packet: the index into [`Counters::classes`].
pub mod class {
    /// ARP.
    pub const ARP: u8 = 0;
    /// Any other EtherType that is neither IPv4 nor IPv6.
    pub const NON_IP: u8 = 1;
    /// TCP over IPv4.
    pub const IPV4_TCP: u8 = 2;
    /// UDP over IPv4.
    pub const IPV4_UDP: u8 = 3;
    /// ICMP.
    pub const IPV4_ICMP: u8 = 4;
    /// IPv4 with another protocol.
    pub const IPV4_OTHER: u8 = 5;
    /// An IPv4 fragment behind the first: it has no ports.
    pub const IPV4_FRAGMENT: u8 = 6;
    /// TCP over IPv6.
    pub const IPV6_TCP: u8 = 7;
    /// UDP over IPv6.
    pub const IPV6_UDP: u8 = 8;
    /// ICMPv6.
    pub const IPV6_ICMP: u8 = 9;
    /// IPv6 with another protocol, or No Next Header.
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

/// Settings that change while the programs run: the one entry of an `Array` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// One of this many packets is sampled at random; 0 turns sampling off.
    pub sample_rate: u32,
    /// Forced samples (SYN, FIN, RST) a second and CPU.
    pub forced_per_second: u32,
    /// New flows a second and CPU that may enter the flow table.
    pub inserts_per_second: u32,
    /// Grows with each change, so that a CPU sees that its countdown is of another rate.
    pub generation: u32,
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
    /// Source port, host order; 0 where the protocol has none or the packet is a later fragment.
    pub source_port: u16,
    /// Destination port, host order; for ICMP type * 256 + code.
    pub destination_port: u16,
    /// IP protocol number of the innermost header read.
    pub protocol: u8,
    /// See [`direction`].
    pub direction: u8,
    /// 4 or 6.
    pub ip_version: u8,
    /// Zero.
    pub reserved: u8,
}

/// Value of the flow table: sums over the *sampled* packets.
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
    /// Sum of (weight² − weight) × bytes²/2^16, rounded down per sample: the variance of `weight_bytes`.
    pub variance_bytes: u64,
    /// Sum of weight² − weight over samples × segments²: the variance of `weight_packets`.
    pub variance_packets: u64,
    /// `bpf_ktime_get_boot_ns` of the first sample.
    pub first_ns: u64,
    /// The same of the last.
    pub last_ns: u64,
    /// Samples (buffers) that made this entry.
    pub samples: u32,
    /// TCP flags seen, ored.
    pub tcp_flags: u8,
    /// DSCP of the last sample.
    pub dscp: u8,
    /// See [`verdict`].
    pub verdict: u8,
    /// Zero.
    pub reserved: u8,
}

/// What a CPU counted beside the interfaces: the one entry of a per-CPU array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleCounters {
    /// Packets (buffers) that were drawn at random or forced, and handed to the flow table.
    pub sampled: u64,
    /// Of them the forced ones.
    pub forced: u64,
    /// SYN, FIN or RST beyond the bound: left to the random draw.
    pub forced_over_limit: u64,
    /// Samples whose flow was new while the bound on inserts was reached: not in the table.
    pub inserts_over_limit: u64,
    /// Samples that the table refused for another reason.
    pub insert_failed: u64,
    /// Samples without an IP header, which the flow table does not hold.
    pub not_ip: u64,
    /// Events that found the ring full.
    pub events_lost: u64,
    /// Zero.
    pub reserved: u64,
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
    SampleCounters = 64,
}
