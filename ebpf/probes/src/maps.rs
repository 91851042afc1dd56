//! The maps. Names and meaning are `tidegate_abi::maps`'.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use tidegate_abi::{
    ABI_VERSION, Counters, FLOWS as FLOW_CAPACITY, FlowKey, FlowValue, SENDING as SENDING_CAPACITY,
    SLOT_CACHE as SLOT_CACHE_SIZE, SLOTS, SampleCounters, SendTimes, Settings, Slot,
    policy::{
        Block, DROPS_BYTES, Dropped, GENERATION_FLAGS, LARGE_BLOCKS, LIMIT_PEERS as LIMIT_PEER_CAPACITY, LimitPeer,
        SMALL_BLOCKS,
    },
    row,
};

use crate::{
    headers::Headers,
    policy::{Question, Teller},
    sample::Sampler,
};

#[btf_map(name = "TG_ABI")]
static ABI: Array<u32, { ABI_VERSION as usize }> = Array::new();

#[btf_map(name = "TG_COUNTERS")]
pub(crate) static COUNTERS: PerCpuArray<Counters, { (SLOTS * row::ROWS_PER_SLOT) as usize }> = PerCpuArray::new();

#[btf_map(name = "TG_SLOT_CACHE")]
pub(crate) static SLOT_CACHE: Array<Slot, { SLOT_CACHE_SIZE as usize }> = Array::new();

#[btf_map(name = "TG_SLOT_HASH")]
pub(crate) static SLOT_HASH: HashMap<u32, Slot, { SLOTS as usize }> = HashMap::new();

#[btf_map(name = "TG_SETTINGS")]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map(name = "TG_FLOWS")]
pub(crate) static FLOWS: LruHashMap<FlowKey, FlowValue, { FLOW_CAPACITY as usize }> = LruHashMap::new();

#[btf_map(name = "TG_SAMPLES")]
pub(crate) static SAMPLES: PerCpuArray<SampleCounters, 1> = PerCpuArray::new();

#[btf_map(name = "TG_SENDS")]
pub(crate) static SENDS: PerCpuArray<SendTimes, 1> = PerCpuArray::new();

#[btf_map(name = "TG_SENDING")]
pub(crate) static SENDING: LruHashMap<u64, u64, { SENDING_CAPACITY as usize }> = LruHashMap::new();

/// A compiled policy of `N` blocks.
pub(crate) type Generation<const N: usize> = Array<Block, N, { GENERATION_FLAGS as usize }>;

#[btf_map(name = "TG_POLICY_LARGE")]
pub(crate) static POLICY_LARGE: ArrayOfMaps<Generation<{ LARGE_BLOCKS as usize }>, 1> = ArrayOfMaps::new();

#[btf_map(name = "TG_POLICY_SMALL")]
pub(crate) static POLICY_SMALL: ArrayOfMaps<Generation<{ SMALL_BLOCKS as usize }>, 1> = ArrayOfMaps::new();

#[btf_map(name = "TG_LIMIT_PEERS")]
pub(crate) static LIMIT_PEERS: LruHashMap<LimitPeer, u64, { LIMIT_PEER_CAPACITY as usize }> = LruHashMap::new();

#[btf_map(name = "TG_DROPS")]
pub(crate) static DROPS: RingBuf<Dropped, { DROPS_BYTES as usize }> = RingBuf::new();

/// The programs' own, and no part of the ABI.
#[btf_map(name = "TG_SCRATCH")]
pub(crate) static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// What a CPU keeps.
#[repr(C)]
pub(crate) struct Scratch {
    /// From packet to packet.
    pub(crate) sampler: Sampler,
    /// From packet to packet.
    pub(crate) teller: Teller,
    /// Of the packet at hand, where it is over to a rate.
    pub(crate) limit_peer: LimitPeer,
    /// Of the packet at hand, where it is judged.
    pub(crate) question: Question,
    /// Of the packet at hand.
    pub(crate) headers: Headers,
    /// Of the packet at hand, where it is judged or sampled.
    pub(crate) key: FlowKey,
}
