//! The committed eBPF object in the real kernel, run by `BPF_PROG_TEST_RUN` on packets made here.
//!
//! Its limits (Linux 6.1 to 6.18): packets of 14 to about 3,500 bytes, linear, without a VLAN tag in the metadata;
//! where bytes 12 and 13 announce IP, newer kernels refuse packets too short for its header behind byte 14.

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, tc},
};
use tidegate_abi::{
    CLASSES, Counter, FlowKey, FlowValue, SampleCounters, Settings, Slot, maps, programs, row::ROWS_PER_SLOT,
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
        for (offset, field) in [(36, self.ingress_ifindex), (164, self.gso_segs), (176, self.gso_size)] {
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
            sum.sampled += cpu.sampled;
            sum.forced += cpu.forced;
            sum.forced_over_limit += cpu.forced_over_limit;
            sum.inserted += cpu.inserted;
            sum.inserts_over_limit += cpu.inserts_over_limit;
            sum.insert_failed += cpu.insert_failed;
            sum.no_flow += cpu.no_flow;
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

    fn array<T: aya::Pod>(&mut self, name: &str) -> Array<&mut MapData, T> {
        self.ebpf.map_mut(name).unwrap().try_into().unwrap()
    }
}
