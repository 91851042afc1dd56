//! Which packets the programs sample, what they weigh, and what bounds them: statistics and limits in the real kernel.
//!
//! A bound on a random figure is its mean ± 6 standard deviations, computed from the figure's distribution: by
//! Chebyshev's inequality alone it fails less than once in 36 runs, by the normal approximation, which holds for the
//! counts here, about once in 500 million.

use std::{
    sync::Barrier,
    time::{Duration, Instant},
};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tidegate_abi::{FlowValue, MAX_SAMPLE_RATE, SampleCounters, Settings, VARIANCE_BYTES_UNIT, class, programs, row};
use tidegate_tests::{
    need,
    probes::{Context, Probes},
    requires,
};

/// Standard deviations that a random figure may be off.
const SIGMAS: f64 = 6.0;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const FRAME: usize = 60;

const UNBOUNDED: Settings =
    Settings { sample_rate: 1, forced_per_second: u32::MAX, inserts_per_second: u32::MAX, reserved: 0 };

#[test]
fn one_in_n_packets_is_sampled_at_every_rate() {
    requires!(need::root());
    let mut probes = Probes::load();
    let frame = udp(1);
    for rate in [1, 2, 3, 10, 100, 1_000, MAX_SAMPLE_RATE] {
        probes.set(Settings { sample_rate: rate, ..UNBOUNDED });
        let packets = 200_000 * rate.min(10);
        let before = probes.samples().sampled;
        run(&probes, &frame, packets);
        let sampled = probes.samples().sampled - before;
        assert_binomial(sampled, packets, rate);
    }
}

/// A countdown would sample almost equally many in each block: its spread, too, must be that of independent draws.
#[test]
fn packets_are_drawn_independently_of_each_other() {
    const BLOCKS: u32 = 2_000;
    const BLOCK: u32 = 1_000;
    const RATE: u32 = 10;
    requires!(need::root());
    let mut probes = Probes::load();
    probes.set(Settings { sample_rate: RATE, ..UNBOUNDED });
    let frame = udp(1);
    let (mean, variance) = binomial(BLOCK, RATE);
    let mut before = 0;
    let mut squares = 0.0;
    for _ in 0..BLOCKS {
        run(&probes, &frame, BLOCK);
        let sampled = probes.samples().sampled;
        squares += ((sampled - before) as f64 - mean).powi(2) / variance;
        before = sampled;
    }
    // Chi-squared with as many degrees of freedom as blocks.
    let blocks = f64::from(BLOCKS);
    let bound = SIGMAS * (2.0 * blocks).sqrt();
    assert!((squares - blocks).abs() < bound, "sum of squares {squares}, wanted {blocks} ± {bound}");
}

#[test]
fn a_new_rate_takes_effect_without_a_reload() {
    requires!(need::root());
    let mut probes = Probes::load();
    let mut sampled = |rate| {
        probes.set(Settings { sample_rate: rate, ..UNBOUNDED });
        let before = probes.samples().sampled;
        run(&probes, &tcp(1, SYN), 10);
        run(&probes, &udp(1), 1_000);
        probes.samples().sampled - before
    };
    assert_eq!(sampled(0), 0, "off, for SYN as well");
    assert_eq!(sampled(1), 1_010);
    assert_eq!(sampled(0), 0);
    let ten = sampled(10) - 10;
    assert_binomial(ten, 1_000, 10);
}

#[test]
fn every_syn_fin_and_rst_is_sampled_once_and_others_are_drawn() {
    requires!(need::root());
    let mut probes = Probes::load();
    probes.set(Settings { sample_rate: MAX_SAMPLE_RATE, ..UNBOUNDED });
    for flags in [SYN, 0x01, 0x04, SYN | ACK, 0x11, 0x14] {
        let before = probes.samples();
        run(&probes, &tcp(1, flags), 50);
        let after = probes.samples();
        assert_eq!((after.sampled - before.sampled, after.forced - before.forced), (50, 50), "flags {flags:#04x}");
    }
    let before = probes.samples();
    run(&probes, &tcp(1, ACK), 1_000);
    assert_eq!(probes.samples().forced, before.forced);

    let flows = probes.take_flows();
    let [(_, flow)] = flows[..] else { panic!("{flows:?}") };
    assert!(flow.weight_packets >= 300 && flow.tcp_flags & 0x17 == 0x17, "{flow:?}");
}

#[test]
fn forced_samples_are_bounded_and_the_rest_is_drawn_and_counted() {
    const LIMIT: u32 = 100;
    const SYNS: u32 = 50_000;
    requires!(need::root());
    pin_to(first_cpus(1)[0]);
    let mut probes = Probes::load();
    probes.set(Settings { sample_rate: 10, forced_per_second: LIMIT, ..UNBOUNDED });
    let start = Instant::now();
    run(&probes, &tcp(1, SYN), SYNS);
    let windows = windows_in(start.elapsed());

    let SampleCounters { sampled, forced, forced_over_limit, .. } = probes.samples();
    assert_eq!(forced + forced_over_limit, u64::from(SYNS));
    assert!(forced >= u64::from(LIMIT) && forced <= u64::from(LIMIT) * windows, "{forced} in {windows} windows");
    assert_binomial(sampled - forced, u32::try_from(forced_over_limit).unwrap(), 10);
}

/// Forced and drawn samples of one flow together, beyond the bound: the estimate is the truth within its own error.
#[test]
fn estimates_of_packets_and_bytes_are_unbiased_and_know_their_error() {
    const RATE: u32 = 20;
    const ROUNDS: u32 = 200;
    requires!(need::root());
    pin_to(first_cpus(1)[0]);
    let mut probes = Probes::load();
    probes.set(Settings { sample_rate: RATE, forced_per_second: 500, ..UNBOUNDED });
    for _ in 0..ROUNDS {
        run(&probes, &tcp(1, SYN), 100);
        run(&probes, &tcp(1, ACK), 400);
    }
    let flows = probes.take_flows();
    let [(_, flow)] = flows[..] else { panic!("{flows:?}") };
    let SampleCounters { forced, .. } = probes.samples();

    let packets = u64::from(ROUNDS * 500);
    let drawn_from = (packets - forced) as f64;
    // Of a sum of N × (sample of probability 1/N): n × (N − 1); of bytes, times the square of a packet's.
    let variance = drawn_from * f64::from(RATE - 1);
    let bound = SIGMAS * variance.sqrt();
    let bytes = FRAME as f64;
    let FlowValue { weight_packets, weight_bytes, variance_packets, variance_bytes, samples, .. } = flow;
    assert!((weight_packets as f64 - packets as f64).abs() < bound, "{weight_packets}, wanted {packets} ± {bound}");
    assert_eq!(weight_bytes, weight_packets * FRAME as u64);

    // N (N − 1) for each drawn sample, exactly; and thereby the true variance within the error of their number.
    let drawn = u64::from(samples) - forced;
    let spread = u64::from(RATE * (RATE - 1));
    assert_eq!(variance_packets, drawn * spread);
    assert_eq!(variance_bytes, drawn * spread * (FRAME as u64 * FRAME as u64 / VARIANCE_BYTES_UNIT));
    let relative = SIGMAS * (f64::from(RATE) / drawn_from).sqrt();
    assert!((variance_packets as f64 / variance - 1.0).abs() < relative, "{variance_packets}, wanted {variance}");
    // The unit of bytes² rounds 3,600 / 256 down to 14.
    let found = variance_bytes as f64 * VARIANCE_BYTES_UNIT as f64;
    assert!((found / (variance * bytes * bytes) - 1.0).abs() < relative + 0.01, "{found}");
}

#[test]
fn a_flood_of_new_flows_enters_the_table_at_the_bounded_rate_and_the_rest_is_counted() {
    const LIMIT: u32 = 50;
    const FLOWS: u16 = 2_000;
    requires!(need::root());
    pin_to(first_cpus(1)[0]);
    let mut probes = Probes::load();
    probes.set(Settings { inserts_per_second: LIMIT, ..UNBOUNDED });
    let start = Instant::now();
    for flow in 0..FLOWS {
        run(&probes, &udp(flow), 1);
    }
    let windows = windows_in(start.elapsed());
    let counted = probes.samples();
    let flows = probes.take_flows().len() as u64;
    assert_eq!(counted.sampled, u64::from(FLOWS));
    assert_eq!(counted.inserted + counted.inserts_over_limit, u64::from(FLOWS), "{counted:?}");
    assert_eq!((counted.inserted, counted.insert_failed), (flows, 0));
    assert!(flows >= u64::from(LIMIT) && flows <= u64::from(LIMIT) * windows, "{flows} in {windows} windows");
    // A flow in the table is no new one.
    let known = counted.inserted;
    probes.set(UNBOUNDED);
    run(&probes, &udp(1), 100);
    probes.set(Settings { inserts_per_second: 0, ..UNBOUNDED });
    run(&probes, &udp(1), 100);
    assert_eq!(probes.samples().inserted, known + 1);
    assert_eq!(probes.take_flows()[0].1.packets, 200);
}

/// Plain additions lost up to 14 % here.
#[test]
fn two_cpus_that_add_to_one_flow_lose_nothing() {
    const EACH: u32 = 300_000;
    requires!(need::root());
    let cpus = first_cpus(2);
    if cpus.len() < 2 {
        tidegate_tests::skip!("needs two CPUs");
    }
    let mut probes = Probes::load();
    probes.set(UNBOUNDED);
    let start = Barrier::new(cpus.len());
    std::thread::scope(|scope| {
        for (cpu, flags) in cpus.iter().zip([ACK, ACK | 0x20]) {
            let (probes, start) = (&probes, &start);
            scope.spawn(move || {
                pin_to(*cpu);
                start.wait();
                run(probes, &tcp(1, flags), EACH);
            });
        }
    });
    let flows = probes.take_flows();
    let [(_, flow)] = flows[..] else { panic!("{flows:?}") };
    let packets = 2 * u64::from(EACH);
    assert_eq!((flow.packets, u64::from(flow.samples), flow.tcp_flags), (packets, packets, ACK | 0x20));
    assert_eq!((flow.bytes, flow.weight_bytes), (packets * FRAME as u64, packets * FRAME as u64));
    assert_eq!(probes.counters(row::INGRESS)[usize::from(class::IPV4_TCP)].packets, packets);
}

fn run(probes: &Probes, frame: &[u8], repeat: u32) {
    assert_eq!(probes.run(programs::INGRESS, frame, Context::default(), repeat), -1);
}

/// An IPv4 packet in a frame of 60 bytes; `flow` is its source port.
fn ipv4(protocol: u8, flow: u16) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14] = 0x45;
    frame[17] = 46;
    frame[23] = protocol;
    frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    frame[34..36].copy_from_slice(&flow.to_be_bytes());
    frame
}

fn udp(flow: u16) -> [u8; FRAME] {
    ipv4(17, flow)
}

fn tcp(flow: u16, flags: u8) -> [u8; FRAME] {
    let mut frame = ipv4(6, flow);
    frame[46..48].copy_from_slice(&[0x50, flags]);
    frame
}

/// Mean and variance of the number sampled among `packets`.
fn binomial(packets: u32, rate: u32) -> (f64, f64) {
    let p = 1.0 / f64::from(rate);
    (f64::from(packets) * p, f64::from(packets) * p * (1.0 - p))
}

fn assert_binomial(sampled: u64, packets: u32, rate: u32) {
    let (mean, variance) = binomial(packets, rate);
    let bound = SIGMAS * variance.sqrt();
    assert!(
        (sampled as f64 - mean).abs() <= bound,
        "1 in {rate} of {packets}: {sampled} sampled, wanted {mean:.1} ± {bound:.1}"
    );
}

/// Windows of a second that packets in this time can have met.
fn windows_in(time: Duration) -> u64 {
    time.as_secs() + 1
}

/// The first CPUs that this process may run on.
fn first_cpus(count: usize) -> Vec<usize> {
    let allowed = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).take(count).collect()
}

/// Keeps this thread on one CPU, as bounds are a CPU's.
fn pin_to(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).unwrap();
}
