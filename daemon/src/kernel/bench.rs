//! What the programs cost a packet: `BPF_PROG_TEST_RUN` on entry points that only this loads.
//!
//! They draw the packet's source at random first, so that each packet meets another flow and another rule: one packet
//! repeated would find everything in the processor's cache. What the draw itself and the run cost, `bench_empty` tells.

use std::fs;

use aya::{
    maps::{Array, MapData},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use tidegate_abi::{
    BENCH_SOURCES, MAX_SAMPLE_RATE, SLOT_CACHE, Settings, Slot,
    maps::{BENCH_SOURCES as BENCH_SOURCES_NAME, SETTINGS, SLOT_CACHE as SLOT_CACHE_NAME},
    programs::{BENCH_EMPTY, BENCH_INGRESS},
};

use tokio::{
    runtime::{self, Runtime},
    sync::oneshot,
};

use super::{
    Unavailable,
    object::{self, Abi, LoadError, Object},
    policy::Generation,
};
use crate::policy::{
    Action, Bundle, DefaultAction, Directions, Options, Prefix, Scope,
    bundle::{Conditions, NewRule},
    compile,
};

/// Rounds of all cases. What else runs on the machine only adds to a round, so that the lowest one counts.
pub const ROUNDS: u32 = 200;
/// Packets of a case and round: 1 to 8 ms, so that some rounds are left alone even on a busy machine, and more than
/// twice as many as there are flows. The first rounds also fill the flow table.
pub const PACKETS: u32 = 20_000;
/// Prefixes of the policy, each with a rule of its own.
pub const PREFIXES: u32 = 65_536;

/// Flows: half of what the flow table holds by default.
const FLOWS: u32 = 8_192;
/// Slot of the interface that packets are run on.
const SLOT: u32 = 1;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// A program that does nothing but draw the packet's source.
    Empty,
    /// The packet is read and counted, and drawn for sampling at the lowest rate there is.
    Unsampled,
    /// Every packet is added to its flow, too.
    Sampled,
    /// The packet is judged by a policy of [`PREFIXES`] prefixes, of which every second one is in one.
    Policy,
}

impl Case {
    /// All cases, the reference first.
    pub const ALL: [Self; 4] = [Self::Empty, Self::Unsampled, Self::Sampled, Self::Policy];

    const fn program(self) -> &'static str {
        match self {
            Self::Empty => BENCH_EMPTY,
            Self::Unsampled | Self::Sampled | Self::Policy => BENCH_INGRESS,
        }
    }

    const fn sample_rate(self) -> u32 {
        match self {
            Self::Empty | Self::Unsampled | Self::Policy => MAX_SAMPLE_RATE,
            Self::Sampled => 1,
        }
    }
}

/// Nanoseconds that a policy of [`PREFIXES`] prefixes adds to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookups {
    /// One that is in a prefix.
    pub hit_ns: u64,
    /// One that is in none.
    pub miss_ns: u64,
}

/// Measures all cases, in turns: nanoseconds a packet, in the order of [`Case::ALL`].
///
/// # Errors
///
/// Where the programs cannot be loaded or run.
pub fn measure() -> Result<[u64; 4], Unavailable> {
    let mut free = Stand::new(flow)?;
    let mut guarded = Stand::new(|index| if index % 2 == 0 { hit(index) } else { miss(index) })?;
    guarded.enforce()?;
    let mut lowest = [u64::MAX; 4];
    for _ in 0..ROUNDS {
        for (lowest, case) in lowest.iter_mut().zip(Case::ALL) {
            let stand = if case == Case::Policy { &mut guarded } else { &mut free };
            *lowest = (*lowest).min(stand.round(case)?);
        }
    }
    Ok(lowest)
}

/// Measures what looking a packet up in a large policy costs: with it, less without it, on the same addresses.
///
/// # Errors
///
/// Where the programs cannot be loaded or run.
pub fn lookups() -> Result<Lookups, Unavailable> {
    Ok(Lookups { hit_ns: lookup(hit)?, miss_ns: lookup(miss)? })
}

fn lookup(source: fn(u32) -> u32) -> Result<u64, Unavailable> {
    let (mut free, mut guarded) = (Stand::new(source)?, Stand::new(source)?);
    guarded.enforce()?;
    let (mut without, mut with) = (u64::MAX, u64::MAX);
    for _ in 0..ROUNDS {
        without = without.min(free.round(Case::Unsampled)?);
        with = with.min(guarded.round(Case::Policy)?);
    }
    Ok(with.saturating_sub(without))
}

/// The programs, and what they draw sources from.
struct Stand {
    object: Object,
    ifindex: u32,
    /// The object waits for events; dropped behind it.
    runtime: Runtime,
}

impl Stand {
    /// `source` says which address stands where in the table.
    fn new(source: impl Fn(u32) -> u32) -> Result<Self, Unavailable> {
        let ifindex = interface()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(|error| Unavailable {
            what: "bench probes".into(),
            why: error.to_string(),
            fix: "allow more open files".into(),
        })?;
        let entered = runtime.enter();
        let mut object = object::load(None).map_err(unavailable)?;
        drop(entered);
        for name in [BENCH_EMPTY, BENCH_INGRESS] {
            object::program(&mut object.ebpf, name)
                .and_then(|program| program.load().map_err(|source| LoadError::Program { name, source }))
                .map_err(unavailable)?;
        }
        // As an interface that is watched: without a slot in the cache, each packet would ask the hash behind it.
        object
            .slot_cache
            .set(ifindex % SLOT_CACHE, Abi(Slot { ifindex, slot: SLOT }), 0)
            .map_err(|source| unavailable(LoadError::Map { name: SLOT_CACHE_NAME, source }))?;
        let name = BENCH_SOURCES_NAME;
        let failed = |source| unavailable(LoadError::Map { name, source });
        let mut sources: Array<MapData, [u8; 4]> = object::taken(&mut object.ebpf, name).map_err(unavailable)?;
        for index in 0..BENCH_SOURCES {
            sources.set(index, source(index).to_be_bytes(), 0).map_err(failed)?;
        }
        Ok(Self { object, ifindex, runtime })
    }

    fn enforce(&mut self) -> Result<(), Unavailable> {
        let (reply, answer) = oneshot::channel();
        self.object.policy.enforce(Some(generation()), std::iter::empty(), reply);
        if !self.object.policy.is_idle() {
            self.runtime.block_on(self.object.policy.progress());
        }
        let enforced = answer.blocking_recv().expect("a switch that has ended is answered");
        enforced.map(|_times| ()).map_err(|error| Unavailable {
            what: "bench probes".into(),
            why: error.to_string(),
            fix: "free some memory".into(),
        })
    }

    /// Nanoseconds a packet, on average over one round.
    fn round(&mut self, case: Case) -> Result<u64, Unavailable> {
        self.try_round(case).map_err(unavailable)
    }

    fn try_round(&mut self, case: Case) -> Result<u64, LoadError> {
        let settings = Settings {
            sample_rate: case.sample_rate(),
            forced_per_second: 0,
            // The sampled case is about flows that the table has: it must be full of them at once.
            inserts_per_second: u32::MAX,
            reserved: 0,
        };
        let failed = |source| LoadError::Map { name: SETTINGS, source };
        self.object.settings.set(0, Abi(settings), 0).map_err(failed)?;
        let name = case.program();
        let program: &SchedClassifier = object::program(&mut self.object.ebpf, name)?;
        let (packet, context) = (udp_packet(), context(self.ifindex));
        let options = TestRunOptions {
            data_in: Some(&packet),
            ctx_in: Some(&context),
            repeat: PACKETS,
            ..TestRunOptions::default()
        };
        let run = program.test_run(options).map_err(|source| LoadError::Program { name, source })?;
        Ok(u64::try_from(run.duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err hands it over")]
fn unavailable(error: LoadError) -> Unavailable {
    Unavailable { what: "bench probes".into(), ..error.unavailable() }
}

/// An interface that policies are for, which loopback is not. Nothing crosses it: packets are run on its name only.
fn interface() -> Result<u32, Unavailable> {
    const LOOPBACK: u32 = 1;
    let all = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut indices =
        all.filter_map(|entry| fs::read_to_string(entry.path().join("ifindex")).ok()?.trim().parse().ok());
    indices.find(|index| *index != LOOPBACK).ok_or_else(|| Unavailable {
        what: "bench probes".into(),
        why: "there is no network interface besides lo, which no policy is for".into(),
        fix: "add one: ip link add bench0 type veth".into(),
    })
}

/// The source of a flow.
const fn flow(index: u32) -> u32 {
    (10 << 24) + index % FLOWS
}

/// A network that a rule is for: each in another /24 of 11.0.0.0 to 126.255.255.255, in no order (Knuth's multiplicative
/// hash; these are 116 × 2^16, to which its factor is coprime).
fn network(index: u32) -> (u32, u8) {
    let place = u64::from(index) * 2_654_435_761 % (116 << 16);
    let place = u32::try_from(place).expect("less than 2^23");
    ((11 << 24) + (place << 8), 25 + u8::try_from(index % 8).expect("less than 8"))
}

/// The last address of a network.
fn hit(index: u32) -> u32 {
    let (first, length) = network(index);
    first | u32::MAX.checked_shr(length.into()).unwrap_or(0)
}

/// An address right behind a network.
fn miss(index: u32) -> u32 {
    hit(index) + 1
}

/// A rule for each network.
fn generation() -> Generation {
    let mut bundle = Bundle::new(1, Scope::Gateway("bench".into()), DefaultAction::Allow);
    for index in 0..PREFIXES {
        let (address, length) = network(index);
        let prefix = Prefix::new(std::net::Ipv4Addr::from(address).into(), length).expect("bits behind it are zero");
        bundle.push(NewRule {
            name: &index.to_string(),
            reason: "",
            prefixes: &[prefix],
            protocol: None,
            directions: Directions::Both,
            action: Action::Drop,
            ttl_s: None,
            conditions: Conditions::default(),
        });
    }
    let options = Options { number: 1, fragments_allow: false, expired: &|_| false };
    let tables = compile(&bundle, &options).expect("within all bounds");
    Generation::new(&bundle, tables).expect("without lists of interfaces")
}

/// A frame of 64 bytes with a UDP packet over IPv4, whose source is drawn by the programs.
fn udp_packet() -> [u8; 64] {
    let mut frame = [0; 64];
    frame[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&50_u16.to_be_bytes());
    frame[23] = 17;
    frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    frame
}

/// `struct __sk_buff` (uapi/linux/bpf.h) of a packet on this interface.
fn context(ifindex: u32) -> [u8; 192] {
    let mut context = [0; 192];
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    context
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn networks_are_apart_and_what_is_to_miss_them_does() {
        let networks: HashSet<u32> = (0..PREFIXES).map(|index| network(index).0).collect();
        assert_eq!(networks.len(), PREFIXES as usize);
        for index in 0..PREFIXES {
            assert!(networks.contains(&(hit(index) & !0xFF)), "{index}");
            let (first, length) = network(index);
            let behind = miss(index);
            assert!(!networks.contains(&(behind & !0xFF)) || behind - first >= 1 << (32 - length), "{index}");
        }
    }
}
