//! The committed eBPF object in the real kernel, run by `BPF_PROG_TEST_RUN` on packets made here.
//!
//! Its limits (Linux 6.1 to 6.18): packets of 14 to about 3,500 bytes, linear, without a VLAN tag in the metadata;
//! where bytes 12 and 13 announce IP, newer kernels refuse packets too short for its header behind byte 14.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData, PerCpuArray, RingBuf},
    programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, tc},
};
use tidegate_abi::{
    CLASSES, Counter, FlowKey, FlowValue, SampleCounters, Settings, Slot, maps,
    policy::{Block, Dropped, GENERATION_FLAGS, Header, LARGE_BLOCKS, Limit, LimitPeer, Rule, SMALL_BLOCKS},
    programs,
    row::ROWS_PER_SLOT,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/probes/tidegate-probes.o");

/// Interface that packets are run on: loopback, as the kernel does by default.
pub const IFINDEX: u32 = 1;
/// Slot that it is given.
const SLOT: u32 = 7;

/// Makes aya take the types that the kernel and the daemon share.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Abi<T>(T);

// SAFETY: a transparent wrapper of a type without padding for which every bit pattern is a value.
unsafe impl<T: tidegate_abi::Pod> aya::Pod for Abi<T> {}

/// The loaded object: four programs and their maps, of its own.
#[derive(Debug)]
pub struct Probes {
    ebpf: Ebpf,
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug)]
pub enum Direction {
    /// To what the interface receives.
    Ingress,
    /// To what it sends.
    Egress,
}

/// What the kernel is told of a packet beside its bytes: fields of `struct __sk_buff`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// Interface that it is seen on, one of this thread's network namespace; 0 for loopback, which no policy is for.
    pub ifindex: u32,
    /// Interface that it came in on, where it is forwarded.
    pub ingress_ifindex: u32,
    /// Segments that it is cut into.
    pub gso_segs: u32,
    /// Bytes of each.
    pub gso_size: u32,
}

impl Context {
    /// `struct __sk_buff` of uapi/linux/bpf.h.
    fn bytes(self) -> [u8; 192] {
        let mut bytes = [0; 192];
        let fields = [(36, self.ingress_ifindex), (40, self.ifindex), (164, self.gso_segs), (176, self.gso_size)];
        for (offset, field) in fields {
            bytes[offset..offset + 4].copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
}

impl Probes {
    /// Loads the object and its programs for attaching.
    #[must_use]
    pub fn load() -> Self {
        let mut ebpf = EbpfLoader::new().load(OBJECT).expect("the committed object loads");
        for name in [programs::INGRESS, programs::EGRESS, programs::IP_INGRESS, programs::IP_EGRESS] {
            let program: &mut SchedClassifier =
                ebpf.program_mut(name).expect(name).try_into().expect("a tc classifier");
            program.load().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let mut probes = Self { ebpf };
        let mut slots: Array<_, Abi<Slot>> = probes.array(maps::SLOT_CACHE);
        slots.set(IFINDEX, Abi(Slot { ifindex: IFINDEX, slot: SLOT }), 0).unwrap();
        probes
    }

    /// The version of the ABI that the object was built with.
    #[must_use]
    pub fn abi_version(&self) -> u32 {
        Array::<_, u32>::try_from(self.ebpf.map(maps::ABI).unwrap()).unwrap().len()
    }

    /// Changes the settings.
    pub fn set(&mut self, settings: Settings) {
        let mut array: Array<_, Abi<Settings>> = self.array(maps::SETTINGS);
        array.set(0, Abi(settings), 0).unwrap();
    }

    /// Attaches a program to an interface of this thread's network namespace; it goes when this is dropped.
    pub fn attach(&mut self, program: &str, interface: &str, direction: Direction) {
        // Netlink attaches to what this makes; TCX does without.
        let _there_already = tc::qdisc_add_clsact(interface);
        let classifier: &mut SchedClassifier = self.ebpf.program_mut(program).unwrap().try_into().unwrap();
        let attached = classifier.attach(
            interface,
            match direction {
                Direction::Ingress => TcAttachType::Ingress,
                Direction::Egress => TcAttachType::Egress,
            },
        );
        attached.unwrap_or_else(|error| panic!("{program} on {interface}: {error}"));
    }

    /// Runs a program `repeat` times on a packet; its answer.
    #[must_use]
    pub fn run(&self, program: &str, packet: &[u8], context: Context, repeat: u32) -> i32 {
        let classifier: &SchedClassifier = self.ebpf.program(program).unwrap().try_into().unwrap();
        let context = context.bytes();
        let options =
            TestRunOptions { data_in: Some(packet), ctx_in: Some(&context), repeat, ..TestRunOptions::default() };
        classifier
            .test_run(options)
            .unwrap_or_else(|error| panic!("{program}: {} bytes {packet:02x?}: {error:?}", packet.len()))
            .return_value
            .cast_signed()
    }

    /// Counters of the interface in a row, over all CPUs.
    #[must_use]
    pub fn counters(&self, row: u32) -> [Counter; CLASSES] {
        self.counters_of(SLOT, row)
    }

    /// Counters of a slot in a row, over all CPUs.
    #[must_use]
    pub fn counters_of(&self, slot: u32, row: u32) -> [Counter; CLASSES] {
        let rows: PerCpuArray<_, Abi<tidegate_abi::Counters>> =
            self.ebpf.map(maps::COUNTERS).unwrap().try_into().unwrap();
        let mut sum = [Counter::default(); CLASSES];
        for Abi(counters) in rows.get(&(slot * ROWS_PER_SLOT + row), 0).unwrap().iter() {
            for (sum, counter) in sum.iter_mut().zip(counters.classes) {
                sum.packets += counter.packets;
                sum.bytes += counter.bytes;
            }
        }
        sum
    }

    /// What was counted about samples, over all CPUs.
    #[must_use]
    pub fn samples(&self) -> SampleCounters {
        let counters: PerCpuArray<_, Abi<SampleCounters>> = self.ebpf.map(maps::SAMPLES).unwrap().try_into().unwrap();
        let mut sum = SampleCounters::default();
        for Abi(cpu) in counters.get(&0, 0).unwrap().iter() {
            sum += *cpu;
        }
        sum
    }

    /// Takes all flows out of the table.
    pub fn take_flows(&mut self) -> Vec<(FlowKey, FlowValue)> {
        let mut table: HashMap<_, Abi<FlowKey>, Abi<FlowValue>> =
            self.ebpf.map_mut(maps::FLOWS).unwrap().try_into().unwrap();
        let keys: Vec<_> = table.keys().map(Result::unwrap).collect();
        keys.into_iter()
            .map(|key| {
                let Abi(value) = table.get(&key, 0).unwrap();
                table.remove(&key).unwrap();
                (key.0, value)
            })
            .collect()
    }

    /// Gives an interface its slot in the hash behind the cache.
    pub fn assign_behind_the_cache(&mut self, slot: Slot) {
        let mut table: HashMap<_, u32, Abi<Slot>> = self.ebpf.map_mut(maps::SLOT_HASH).unwrap().try_into().unwrap();
        table.insert(slot.ifindex, Abi(slot), 0).unwrap();
    }

    /// Puts `slot` where the cache looks for `ifindex`.
    pub fn cache(&mut self, ifindex: u32, slot: Slot) {
        let mut table: Array<_, Abi<Slot>> = self.array(maps::SLOT_CACHE);
        table.set(ifindex % tidegate_abi::SLOT_CACHE, Abi(slot), 0).unwrap();
    }

    /// Enforces a generation in place of the one before, or none.
    pub fn enforce(&mut self, generation: Option<&Generation>) {
        for size in [Size::Large, Size::Small] {
            match generation {
                Some(generation) if generation.size == size => {
                    let mut slot: ArrayOfMaps<_, Array<MapData, Block>> =
                        self.ebpf.map_mut(size.map()).unwrap().try_into().unwrap();
                    slot.set(0, &generation.map, 0).unwrap();
                }
                _ => self.empty(size),
            }
        }
    }

    /// aya does not delete from a map of maps.
    fn empty(&mut self, size: Size) {
        let Some(Map::ArrayOfMaps(slot)) = self.ebpf.map(size.map()) else { panic!("{size:?}") };
        let key = 0_u32;
        let fd = u64::from(slot.fd().as_fd().as_raw_fd().cast_unsigned());
        let attr: [u64; 4] = [fd, std::ptr::from_ref(&key) as u64, 0, 0];
        // SAFETY: the element member of `union bpf_attr` (uapi/linux/bpf.h): descriptor and padding, key, value, flags. The
        // kernel reads four bytes at the key.
        let deleted = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_DELETE_ELEM, attr.as_ptr(), size_of_val(&attr)) };
        let error = std::io::Error::last_os_error();
        assert!(deleted == 0 || error.raw_os_error() == Some(libc::ENOENT), "{size:?}: {error}");
    }

    /// Takes what was told of packets that were dropped.
    pub fn take_drops(&mut self) -> Vec<Dropped> {
        let mut ring: RingBuf<_> = self.ebpf.map_mut(maps::DROPS).unwrap().try_into().unwrap();
        let mut drops = Vec::new();
        while let Some(item) = ring.next() {
            assert_eq!(item.len(), size_of::<Dropped>());
            // SAFETY: as many bytes as the type has, for which every bit pattern is a value.
            drops.push(unsafe { item.as_ptr().cast::<Dropped>().read_unaligned() });
        }
        drops
    }

    /// Theoretical arrival time of a peer under a limit.
    #[must_use]
    pub fn peer_tat(&self, key: LimitPeer) -> Option<u64> {
        let table: HashMap<_, Abi<LimitPeer>, u64> = self.ebpf.map(maps::LIMIT_PEERS).unwrap().try_into().unwrap();
        table.get(&Abi(key), 0).ok()
    }

    fn array<T: aya::Pod>(&mut self, name: &str) -> Array<&mut MapData, T> {
        self.ebpf.map_mut(name).unwrap().try_into().unwrap()
    }
}

/// `enum bpf_cmd`
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;

/// Which of the two kinds of map a generation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// [`SMALL_BLOCKS`].
    Small,
    /// [`LARGE_BLOCKS`].
    Large,
}

impl Size {
    const fn map(self) -> &'static str {
        match self {
            Self::Small => maps::POLICY_SMALL,
            Self::Large => maps::POLICY_LARGE,
        }
    }
}

/// A compiled policy in a map of the kernel.
pub struct Generation {
    map: Array<MapData, Block>,
    size: Size,
    header: Header,
}

impl Generation {
    /// Makes one that begins with these blocks; the others are zero.
    #[must_use]
    pub fn new(size: Size, blocks: &[Block]) -> Self {
        let entries = match size {
            Size::Small => SMALL_BLOCKS,
            Size::Large => LARGE_BLOCKS,
        };
        let mut map = Array::create(entries, GENERATION_FLAGS).expect("an array that can be mapped");
        for (number, block) in (0..).zip(blocks) {
            map.set(number, block, 0).unwrap();
        }
        Self { map, size, header: from_words(&blocks[0]) }
    }

    /// Block 0.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// A rule by its number.
    #[must_use]
    pub fn rule(&self, number: u32) -> Rule {
        let block = self.map.get(&(self.header.rules + number / 2), 0).unwrap();
        from_words(&block[number as usize % 2 * 4..][..4])
    }

    /// A limit by its number.
    #[must_use]
    pub fn limit(&self, number: u32) -> Limit {
        from_words(&self.map.get(&(self.header.limits + number), 0).unwrap())
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { map: _, size, header } = self;
        f.debug_struct("Generation").field("size", size).field("header", header).finish_non_exhaustive()
    }
}

/// What stands in these words.
fn from_words<T: tidegate_abi::Pod>(words: &[u64]) -> T {
    assert_eq!(size_of_val(words), size_of::<T>());
    // SAFETY: as many bytes as the type has, for which every bit pattern is a value.
    unsafe { words.as_ptr().cast::<T>().read_unaligned() }
}
