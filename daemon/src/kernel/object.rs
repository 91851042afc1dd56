//! The eBPF object: built for an ABI, sized for the machine, loaded once.

use std::{
    io::Read as _,
    os::fd::{AsFd, BorrowedFd},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, Pod,
    maps::{Array, HashMap, IterableMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::{ProgramError, SchedClassifier},
};
use tidegate_abi::{
    ABI_VERSION, Counters, FlowKey, FlowValue, SampleCounters, SendTimes, Settings, Slot,
    maps::{
        ABI, COUNTERS, DROPS, FLOWS, LIMIT_PEERS, POLICY_LARGE, POLICY_SMALL, SAMPLES, SENDING, SENDS, SETTINGS,
        SLOT_CACHE, SLOT_HASH,
    },
    policy::LimitPeer,
    programs::{EGRESS, INGRESS, IP_EGRESS, IP_INGRESS, SEND_ENTRY, SEND_EXIT},
};

use super::{
    Cost, Unavailable, cost,
    policy::{Policy, Ring, Slots},
};

/// The committed object, as build.rs deflated it (RFC 1950).
static DEFLATED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tidegate-probes.o.zlib"));

/// Programs that are attached to interfaces.
pub(super) const PROGRAMS: [&str; 4] = [INGRESS, EGRESS, IP_INGRESS, IP_EGRESS];

/// Makes aya take the types that the kernel and the daemon share.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Abi<T>(pub T);

// SAFETY: a transparent wrapper of a type without padding for which every bit pattern is a value.
unsafe impl<T: tidegate_abi::Pod> Pod for Abi<T> {}

/// What loading yields: the programs, and the maps taken out of the object.
pub(super) struct Object {
    /// Holds the programs and the maps' file descriptors.
    pub ebpf: Ebpf,
    /// One row of protocol classes by slot and direction.
    pub counters: PerCpuArray<MapData, Abi<Counters>>,
    /// ifindex → slot, by its low bits.
    pub slot_cache: Array<MapData, Abi<Slot>>,
    /// ifindex → slot, for those that meet in the cache.
    pub slot_hash: HashMap<MapData, u32, Abi<Slot>>,
    /// Settings at run time.
    pub settings: Array<MapData, Abi<Settings>>,
    /// What each CPU counted about samples.
    pub samples: PerCpuArray<MapData, Abi<SampleCounters>>,
    /// The flow table.
    pub flows: HashMap<MapData, Abi<FlowKey>, Abi<FlowValue>>,
    /// Time spent in `tcp_sendmsg`.
    pub sends: PerCpuArray<MapData, Abi<SendTimes>>,
    /// Calls of it under way, by thread; only its cost is of interest here.
    sending: HashMap<MapData, u64, u64>,
    /// Rates by peer; only its cost is of interest here.
    limit_peers: HashMap<MapData, Abi<LimitPeer>, u64>,
    /// What packets are judged by.
    pub policy: Policy,
    /// Packets that it drops.
    pub drops: Ring,
    /// Entries that the flow table was made with.
    pub flow_capacity: u32,
}

/// Why the object could not be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// The object could not be read, or its maps not be made.
    #[error("loading the eBPF object: {0}")]
    Object(#[from] EbpfError),
    /// A program was refused.
    #[error("loading program {name}: {source}")]
    Program {
        /// Which.
        name: &'static str,
        /// Why.
        source: ProgramError,
    },
    /// A map that the ABI names is of another type or size.
    #[error("map {name}: {source}")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        source: MapError,
    },
    /// A map's descriptor cannot be waited for.
    #[error("descriptor of map {name}: {source}")]
    Descriptor {
        /// Which.
        name: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The object lacks a map or program.
    #[error("the eBPF object has no {name}; rebuild it with `cargo xtask ebpf`")]
    Missing {
        /// Which.
        name: &'static str,
    },
    /// The object was built for another ABI.
    #[error("the eBPF object has ABI {found}, this daemon ABI {ABI_VERSION}; rebuild it with `cargo xtask ebpf`")]
    Version {
        /// What it was built for.
        found: u32,
    },
}

impl LoadError {
    /// What an operator is told.
    #[must_use]
    pub(super) fn unavailable(&self) -> Unavailable {
        let fix = match self.errno() {
            Some(libc::EPERM | libc::EACCES) => "grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or run as root",
            Some(libc::ENOMEM) => "lower [traffic] flow_capacity, or give the service more memory",
            Some(libc::ENOSYS) => "use a kernel with CONFIG_BPF_SYSCALL, Linux 6.1 or newer",
            _ => "use Linux 6.1 or newer; if it is, report this message",
        };
        Unavailable { what: "traffic".into(), why: one_line(&describe(self)), fix: fix.into() }
    }

    /// The system's answer, where it gave one.
    pub(super) fn errno(&self) -> Option<i32> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return io.raw_os_error();
            }
            cause = error.source();
        }
        None
    }
}

/// An error with its causes, each once.
pub(super) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// The verifier's log has thousands of lines; its last ones say why. One that is empty is not announced.
pub(super) fn one_line(text: &str) -> String {
    const KEPT: usize = 400;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.trim_end_matches(". Verifier output:").to_owned();
    if line.len() <= 2 * KEPT {
        return line;
    }
    format!("{} … {}", &line[..line.floor_char_boundary(KEPT)], &line[line.ceil_char_boundary(line.len() - KEPT)..])
}

/// Entries of the flow table by the machine's memory, or by its share of it in a cgroup: about 1 % of it at most,
/// at some 170 bytes an entry (measured: 16,384 entries are 2.7 MB).
///
/// | memory up to | entries | kernel memory |
/// |---|---|---|
/// | 128 MiB | 4,096 | 0.7 MB |
/// | 320 MiB | 8,192 | 1.4 MB |
/// | 1.5 GiB | 16,384 | 2.7 MB |
/// | 3 GiB | 32,768 | 5.4 MB |
/// | more | 65,536 | 10.8 MB |
#[must_use]
pub const fn default_flow_capacity(memory_bytes: u64) -> u32 {
    const MIB: u64 = 1 << 20;
    match memory_bytes.div_ceil(MIB) {
        0..=128 => 4_096,
        129..=320 => 8_192,
        321..=1_536 => 16_384,
        1_537..=3_072 => 32_768,
        _ => 65_536,
    }
}

/// Memory that the daemon may reckon with: the machine's, or its cgroup's where that is less. Maps are charged to
/// the cgroup.
fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    let machine = info.totalram.saturating_mul(u64::from(info.mem_unit));
    std::fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned)))
        .and_then(|path| std::fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.max")).ok())
        .and_then(|limit| limit.trim().parse::<u64>().ok())
        .map_or(machine, |limit| limit.min(machine))
}

/// The committed object. aya wants it aligned as an ELF header is, which what is allocated is.
fn inflated() -> Vec<u8> {
    let mut object = Vec::with_capacity(128 << 10);
    let inflated = flate2::read::ZlibDecoder::new(DEFLATED).read_to_end(&mut object);
    inflated.expect("build.rs deflated it");
    object
}

/// Loads the object with a flow table of `flow_capacity` entries, or of the machine's default.
///
/// # Errors
///
/// [`LoadError`]; nothing is left in the kernel then.
pub(super) fn load(flow_capacity: Option<u32>) -> Result<Object, LoadError> {
    let flow_capacity = flow_capacity.unwrap_or_else(|| default_flow_capacity(memory_bytes()));
    let mut ebpf = EbpfLoader::new()
        // The programs have no relocations, so the kernel's BTF (some 10 MB parsed) is not needed.
        .btf(None)
        .map_max_entries(FLOWS, flow_capacity)
        .load(&inflated())?;
    let abi: Array<_, u32> = taken(&mut ebpf, ABI)?;
    if abi.len() != ABI_VERSION {
        return Err(LoadError::Version { found: abi.len() });
    }
    let slots = Slots::new(slot(&mut ebpf, POLICY_SMALL)?, slot(&mut ebpf, POLICY_LARGE)?);
    let ring: RingBuf<_> = taken(&mut ebpf, DROPS)?;
    let mut object = Object {
        counters: taken(&mut ebpf, COUNTERS)?,
        slot_cache: taken(&mut ebpf, SLOT_CACHE)?,
        slot_hash: taken(&mut ebpf, SLOT_HASH)?,
        settings: taken(&mut ebpf, SETTINGS)?,
        samples: taken(&mut ebpf, SAMPLES)?,
        flows: taken(&mut ebpf, FLOWS)?,
        sends: taken(&mut ebpf, SENDS)?,
        sending: taken(&mut ebpf, SENDING)?,
        limit_peers: taken(&mut ebpf, LIMIT_PEERS)?,
        policy: Policy::new(slots),
        drops: Ring::new(ring).map_err(|source| LoadError::Descriptor { name: DROPS, source })?,
        flow_capacity,
        ebpf,
    };
    for name in [INGRESS, EGRESS] {
        loaded(&mut object.ebpf, name)?;
    }
    Ok(object)
}

impl Object {
    /// The flow table, for reading in batches.
    pub(super) fn flows_fd(&self) -> BorrowedFd<'_> {
        self.flows.map().fd().as_fd()
    }

    /// What programs and maps cost.
    pub(super) fn cost(&self) -> Cost {
        let programs = PROGRAMS.into_iter().chain([SEND_ENTRY, SEND_EXIT]).filter_map(|name| {
            let fd = self.ebpf.program(name)?.fd().ok()?;
            Some(cost::program(name, fd.as_fd()))
        });
        let maps = vec![
            cost::map(COUNTERS, self.counters.map().fd()),
            cost::map(SLOT_CACHE, self.slot_cache.map().fd()),
            cost::map(SLOT_HASH, self.slot_hash.map().fd()),
            cost::map(SETTINGS, self.settings.map().fd()),
            cost::map(SAMPLES, self.samples.map().fd()),
            cost::map(FLOWS, self.flows.map().fd()),
            cost::map(SENDS, self.sends.map().fd()),
            cost::map(SENDING, self.sending.map().fd()),
            cost::map(LIMIT_PEERS, self.limit_peers.map().fd()),
        ];
        Cost { programs: programs.collect(), maps, run_times_unavailable: None }
    }
}

/// One of the object's programs, loaded now where it was not. Those for links without Ethernet wait for the first
/// such link: the verifier walks through tens of thousands of instructions for each.
pub(super) fn loaded<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, LoadError> {
    let program = program(ebpf, name)?;
    if program.fd().is_err() {
        program.load().map_err(|source| LoadError::Program { name, source })?;
    }
    Ok(program)
}

/// One of the object's programs.
pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, LoadError> {
    ebpf.program_mut(name)
        .ok_or(LoadError::Missing { name })?
        .try_into()
        .map_err(|source| LoadError::Program { name, source })
}

pub(super) fn taken<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, LoadError> {
    let map = ebpf.take_map(name).ok_or(LoadError::Missing { name })?;
    M::try_from(map).map_err(|source| LoadError::Map { name, source })
}

/// A map of maps, as the policy writes it.
fn slot(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, LoadError> {
    match ebpf.take_map(name).ok_or(LoadError::Missing { name })? {
        Map::ArrayOfMaps(map) => Ok(map),
        _ => Err(LoadError::Missing { name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_loaded_is_the_committed_object() {
        let committed = include_bytes!("../../../ebpf/probes/tidegate-probes.o");
        assert!(inflated() == committed, "another object");
        assert!(DEFLATED.len() < committed.len() / 5);
    }

    #[test]
    fn the_flow_table_follows_the_machine() {
        let mib = |mib: u64| default_flow_capacity(mib << 20);
        assert_eq!([mib(64), mib(256), mib(512), mib(2048), mib(8192)], [4_096, 8_192, 16_384, 32_768, 65_536]);
    }

    #[test]
    fn a_long_verifier_log_keeps_its_beginning_and_its_end() {
        let line = one_line(&format!("begin\n{}\nend", "ä instruction\n".repeat(1000)));
        assert_eq!(one_line("refused (os error 1). Verifier output: \n"), "refused (os error 1)");
        assert!(line.starts_with("begin ä") && line.ends_with("end") && line.len() < 1000, "{line}");
    }
}
