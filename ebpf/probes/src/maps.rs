//! The maps. Names and meaning are `tidegate_abi::maps`'.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use tidegate_abi::{
    ABI_VERSION, Counters, FLOWS as FLOW_CAPACITY, FlowKey, FlowValue, SLOT_CACHE as SLOT_CACHE_SIZE, SLOTS,
    SampleCounters, Settings, Slot, row,
};

use crate::{headers::Headers, sample::Sampler};

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

/// The programs' own, and no part of the ABI.
#[btf_map(name = "TG_SCRATCH")]
pub(crate) static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// What a CPU keeps.
#[repr(C)]
pub(crate) struct Scratch {
    /// Of the packet at hand.
    pub(crate) headers: Headers,
    /// From packet to packet.
    pub(crate) sampler: Sampler,
}
