//! What the programs cost a packet: `BPF_PROG_TEST_RUN` on entry points that only this loads.
//!
//! They draw the packet's source at random first, so that each packet meets another flow: one packet repeated would
//! find everything in the processor's cache. What the draw itself and the run cost, `bench_empty` tells.

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use tidegate_abi::{
    MAX_SAMPLE_RATE, SLOT_CACHE, Settings, Slot,
    maps::{SETTINGS, SLOT_CACHE as SLOT_CACHE_NAME},
    programs::{BENCH_EMPTY, BENCH_INGRESS},
};

use super::{
    Unavailable,
    object::{self, Abi, LoadError, Object},
};

/// Rounds of all cases. What else runs on the machine only adds to a round, so that the lowest one counts.
pub const ROUNDS: u32 = 200;
/// Packets of a case and round: 1 to 8 ms, so that some rounds are left alone even on a busy machine, and more than
/// twice as many as there are flows. The first rounds also fill the flow table.
pub const PACKETS: u32 = 20_000;

/// Loopback, which the kernel runs test packets on.
const IFINDEX: u32 = 1;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// A program that does nothing but draw the packet's source.
    Empty,
    /// The packet is read and counted, and drawn for sampling at the lowest rate there is.
    Unsampled,
    /// Every packet is added to its flow, too.
    Sampled,
}

impl Case {
    /// All cases, the reference first.
    pub const ALL: [Self; 3] = [Self::Empty, Self::Unsampled, Self::Sampled];

    const fn program(self) -> &'static str {
        match self {
            Self::Empty => BENCH_EMPTY,
            Self::Unsampled | Self::Sampled => BENCH_INGRESS,
        }
    }

    const fn sample_rate(self) -> u32 {
        match self {
            Self::Empty | Self::Unsampled => MAX_SAMPLE_RATE,
            Self::Sampled => 1,
        }
    }
}

/// Measures all cases, in turns: nanoseconds a packet, in the order of [`Case::ALL`].
///
/// # Errors
///
/// Where the programs cannot be loaded or run.
pub fn measure() -> Result<[u64; 3], Unavailable> {
    let unavailable = |error: LoadError| Unavailable { what: "bench probes".into(), ..error.unavailable() };
    let mut object = object::load(None).map_err(unavailable)?;
    for name in [BENCH_EMPTY, BENCH_INGRESS] {
        object::program(&mut object.ebpf, name)
            .and_then(|program| program.load().map_err(|source| LoadError::Program { name, source }))
            .map_err(unavailable)?;
    }
    // As an interface that is watched: without a slot in the cache, each packet would ask the hash behind it.
    object
        .slot_cache
        .set(IFINDEX % SLOT_CACHE, Abi(Slot { ifindex: IFINDEX, slot: 1 }), 0)
        .map_err(|source| unavailable(LoadError::Map { name: SLOT_CACHE_NAME, source }))?;
    let mut lowest = [u64::MAX; 3];
    for _ in 0..ROUNDS {
        for (lowest, case) in lowest.iter_mut().zip(Case::ALL) {
            *lowest = (*lowest).min(round(&mut object, case).map_err(unavailable)?);
        }
    }
    Ok(lowest)
}

/// Nanoseconds a packet, on average over one round.
fn round(object: &mut Object, case: Case) -> Result<u64, LoadError> {
    let settings = Settings {
        sample_rate: case.sample_rate(),
        forced_per_second: 0,
        // The sampled case is about flows that the table has: it must be full of them at once.
        inserts_per_second: u32::MAX,
        reserved: 0,
    };
    object.settings.set(0, Abi(settings), 0).map_err(|source| LoadError::Map { name: SETTINGS, source })?;
    let name = case.program();
    let failed = |source| LoadError::Program { name, source };
    let program: &SchedClassifier = object::program(&mut object.ebpf, name)?;
    let packet = udp_packet();
    let options = TestRunOptions { data_in: Some(&packet), repeat: PACKETS, ..TestRunOptions::default() };
    let run = program.test_run(options).map_err(failed)?;
    Ok(u64::try_from(run.duration.as_nanos()).unwrap_or(u64::MAX))
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
