//! A compiled policy: what one *generation* holds, the inner map that the kernel judges by.
//!
//! A generation is an array of 64-byte [`Block`]s, so that a node of a tree is one cache line and one look-up. It is
//! written whole by the daemon before the kernel sees it; afterwards the kernel changes [`Rule`] and [`Limit`] entries,
//! and the daemon the [`Header::interfaces`] masks, each by one aligned word.
//!
//! ```text
//!  block 0        Header
//!        1..5     protocol groups: a byte for each protocol number, group 0 for those that no rule names
//!        5..37    interface masks: a u64 for each of the `SLOTS`; bit n: the interface is in interface list n
//!        37..     trees, values, classes, lists, rules, limits, in any order: whatever stands in them is found from the
//!                 header
//! ```
//!
//! # Trees
//!
//! A [`Tree`] maps each `u64` key to a word. It cuts the keys into intervals; a node has seven of their greatest keys and
//! where its children begin. All leaves stand on one level.
//!
//! ```text
//!  node   words 0..7   greatest key of child 0, 1 … 6, ascending; unused ones are u64::MAX
//!         word 7       inner node: block of child 0. Leaf: word index of child 0. The others follow it.
//!  child  i = how many of the seven keys are less than the key that is looked for
//! ```
//!
//! The tree by IPv4 address, the one that most packets go through, has leaves with their words in them, which spares the
//! look-up of a cache line. In halves:
//!
//! ```text
//!  leaf   half 0..7    greatest key of child 0, 1 … 6, as above; unused ones are u32::MAX
//!         half 7       zero
//!         half 8..16   word of child 0, 1 … 7
//! ```
//!
//! A *word* is a `u32`; word index `w` stands in block `w / 16`, in the low half of its `u64` where `w` is even.
//!
//! # From an address to a rule
//!
//! ```text
//!  IPv4   tree v4, key: address               ─► address word ─► rule, or class
//!  IPv6   tree v6, key: the high 64 bits      ─► address word ─► rule, class, or by the low 64 bits ─► address word
//!  class  word  classes + class * 2 * groups + direction * groups + group  ─► decision
//!  decision  none │ rule │ by destination port or ICMP type │ by peer port │ by interface
//! ```
//!
//! An address word is told apart by its two high bits, see [`address`]; a decision by its three, see [`decision`].
//! Decisions lead on in that order only: ports, then peer ports, then interfaces, then a rule.

/// Eight words of 64 bits: one entry of a generation.
pub type Block = [u64; 8];

/// Entries of a small generation: 2 MiB.
pub const SMALL_BLOCKS: u32 = 32_768;
/// Entries of a large generation: 8 MiB, and the most that a policy may take.
pub const LARGE_BLOCKS: u32 = 131_072;
/// Flags of a generation's map, `BPF_F_MMAPABLE`: the kernel takes an inner map with the flags of its template only.
pub const GENERATION_FLAGS: u32 = 1 << 10;
/// Levels of the deepest tree: 8^6 intervals.
pub const MAX_DEPTH: u32 = 6;
/// Protocol groups at most, group 0 included.
pub const MAX_GROUPS: u32 = 16;
/// Different interface lists of one policy at most; a chain by interface is one longer.
pub const MAX_INTERFACE_LISTS: u32 = 16;

/// Block of the protocol groups.
pub const PROTOCOL_GROUPS: u32 = 1;
/// Block of the interface masks.
pub const INTERFACES: u32 = 5;
/// First block whose use the compiler decides.
pub const FREE: u32 = INTERFACES + super::SLOTS / 8;

/// Block 0 of a generation.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Number of the generation: tells two of them apart in [`Dropped`].
    pub number: u32,
    /// See [`flags`].
    pub flags: u32,
    /// See [`Tree`]: by IPv4 address.
    pub v4: u32,
    /// See [`Tree`]: by the high half of an IPv6 address.
    pub v6: u32,
    /// Word index of class 0.
    pub classes: u32,
    /// Protocol groups, 1 to [`MAX_GROUPS`].
    pub groups: u32,
    /// Block of rule 0, which is the default; two rules a block.
    pub rules: u32,
    /// How many rules there are, the default included.
    pub rule_count: u32,
    /// Block of limit 0, one a block.
    pub limits: u32,
    /// How many limits there are.
    pub limit_count: u32,
    /// Blocks in use.
    pub blocks: u32,
    /// Zero.
    pub reserved: [u32; 5],
}

/// Bits of [`Header::flags`].
pub mod flags {
    /// What no rule decides is dropped.
    pub const DEFAULT_DROP: u32 = 1;
    /// But what has no known port is allowed: later fragments, header chains that are too long.
    pub const FRAGMENTS_ALLOW: u32 = 2;
}

/// Reference to a tree: block of its root and how many levels it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Block of the root.
    pub root: u32,
    /// Levels, 1 to [`MAX_DEPTH`].
    pub depth: u32,
}

impl Tree {
    /// As one word.
    #[must_use]
    #[inline]
    pub const fn pack(self) -> u32 {
        self.root << 3 | self.depth
    }

    /// From one word.
    #[must_use]
    #[inline]
    pub const fn unpack(word: u32) -> Self {
        Self { root: word >> 3, depth: word & 7 }
    }
}

/// Address words.
pub mod address {
    /// Where the kind stands.
    pub const KIND_SHIFT: u32 = 30;
    /// All below the kind.
    pub const ARGUMENT: u32 = (1 << KIND_SHIFT) - 1;
    /// Argument: number of a class.
    pub const CLASS: u32 = 0;
    /// Argument: [`Tree`](super::Tree), by the low half of the IPv6 address.
    pub const LOW: u32 = 1;
    /// Argument: index in units of 16 bytes of a [`Single`](super::Single): nothing but one address differs.
    pub const SINGLE: u32 = 2;
    /// Argument: number of the rule that decides all packets of these addresses, whatever else they are; 0 where none
    /// does. Most addresses of long lists have one of these: it spares the way through a class.
    pub const RULE: u32 = 3;
}

/// One IPv6 address that differs from all others with its high half.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Single {
    /// Low half of the address, as a number.
    pub low: u64,
    /// Its address word: a rule or a class.
    pub word: u32,
    /// That of the others.
    pub others: u32,
}

/// Decision words.
pub mod decision {
    /// Where the kind stands.
    pub const KIND_SHIFT: u32 = 29;
    /// All below the kind.
    pub const ARGUMENT: u32 = (1 << KIND_SHIFT) - 1;
    /// No rule: the default. The whole word is zero.
    pub const NONE: u32 = 0;
    /// Argument: number of the rule.
    pub const RULE: u32 = 1;
    /// Argument: word index of two words, the decision where no port is known and a [`Tree`](super::Tree) by
    /// destination port, or by ICMP type where the packet is ICMP or ICMPv6.
    pub const PORT: u32 = 2;
    /// The same by the peer's port: source at ingress, destination at egress.
    pub const PEER_PORT: u32 = 3;
    /// Argument: index of a `u64` where a chain begins, at most [`MAX_INTERFACE_LISTS`](super::MAX_INTERFACE_LISTS) + 1
    /// long. An entry has the decision in its high half and in its low half the number of the interface list that it is
    /// for, or [`ANY_INTERFACE`], which is the last. The first that the packet's interface is in decides.
    pub const INTERFACE: u32 = 4;
    /// In a chain: whatever the interface.
    pub const ANY_INTERFACE: u32 = 0xFF;
}

/// A rule at work. Counters begin at zero with the generation; the daemon adds up over generations.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Wire segments that it decided. Of rule 0 only those that it dropped.
    pub packets: u64,
    /// Their bytes, see [`Counter`](super::Counter).
    pub bytes: u64,
    /// `bpf_ktime_get_coarse_ns` of the last [`Dropped`] that was told of it.
    pub told_ns: u64,
    /// See [`action`].
    pub action: u32,
    /// Number of its limit, where the action is [`action::LIMIT`].
    pub limit: u32,
}

/// Values of [`Rule::action`].
pub mod action {
    /// The packet goes on.
    pub const ALLOW: u32 = 0;
    /// The packet ends here.
    pub const DROP: u32 = 1;
    /// It goes on within a rate.
    pub const LIMIT: u32 = 2;
    /// It goes on, and is sampled.
    pub const SAMPLE: u32 = 3;
}

/// A rate: GCRA (ITU-T I.371, the virtual scheduling algorithm) in nanoseconds of boot time, by wire segments.
///
/// A buffer of n segments at time t conforms where `max(tat, t) + n * interval - t <= burst * interval`, or where the
/// bucket is full (`tat <= t`): one buffer of more segments than the burst must be able to pass. `tat` grows by
/// `n * interval` then.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Theoretical arrival time, where the rate is the rule's.
    pub tat_ns: u64,
    /// Nanoseconds a segment.
    pub interval_ns: u64,
    /// `burst * interval`.
    pub burst_ns: u64,
    /// Tells the rule's peers in [`maps::LIMIT_PEERS`](super::maps::LIMIT_PEERS): the same across generations, as long as
    /// the rate is.
    pub id: u64,
    /// Wire segments over the rate.
    pub dropped_packets: u64,
    /// Their bytes.
    pub dropped_bytes: u64,
    /// 1: a rate for each peer; 0: one for the rule.
    pub per_peer: u32,
    /// Zero.
    pub reserved: [u32; 3],
}

/// Key of [`maps::LIMIT_PEERS`](super::maps::LIMIT_PEERS).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LimitPeer {
    /// [`Limit::id`].
    pub id: u64,
    /// Address as in [`FlowKey`](super::FlowKey).
    pub peer: [u8; 16],
}

/// Entries of [`maps::LIMIT_PEERS`](super::maps::LIMIT_PEERS).
pub const LIMIT_PEERS: u32 = 8_192;
/// Bytes of [`maps::DROPS`](super::maps::DROPS).
pub const DROPS_BYTES: u32 = 65_536;
/// Between two [`Dropped`]s that are told of one rule.
pub const TELL_EVERY_NS: u64 = 1_000_000_000;
/// [`Dropped`]s that a CPU tells in a second: a sweep over 65,536 rules costs no more.
pub const TELLS_PER_SECOND: u32 = 100;

/// A packet that was dropped: one a second and rule, within [`TELLS_PER_SECOND`]. Entry of the ring buffer
/// [`maps::DROPS`](super::maps::DROPS).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// `bpf_ktime_get_boot_ns`.
    pub boot_ns: u64,
    /// [`Header::number`].
    pub generation: u32,
    /// Number of the rule.
    pub rule: u32,
    /// Interface.
    pub ifindex: u32,
    /// As in [`FlowKey`](super::FlowKey).
    pub source_port: u16,
    /// As in [`FlowKey`](super::FlowKey).
    pub destination_port: u16,
    /// Peer: source at ingress, destination at egress; as in [`FlowKey`](super::FlowKey). Zero, as ports and protocol are,
    /// where the packet is malformed.
    pub peer: [u8; 16],
    /// As in [`FlowKey`](super::FlowKey).
    pub protocol: u8,
    /// See [`direction`](super::direction).
    pub direction: u8,
    /// 4 or 6.
    pub ip_version: u8,
    /// 1 where the packet was over a rate.
    pub limited: u8,
    /// Zero.
    pub reserved: u32,
}
