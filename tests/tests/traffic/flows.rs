//! Sampled flows: what they estimate, what they never miss, and what happens when there are too many.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use tidegate::{
    config::Attach,
    kernel::{Options, Readings},
    sources::traffic::{Estimate, Samples},
};
use tidegate_abi::{FlowKey, FlowValue, class, direction, row};
use tidegate_tests::{
    Gateway, eventually,
    net::{self, Ip, Mac, PacketSocket, TcpFlags, UdpSender, UdpSink},
    requires,
};

use crate::{Watcher, needs};

const SYN: u8 = 0x02;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;

/// UDP flows of one direction, by the sender's port.
fn udp_by_port(flows: &[(FlowKey, FlowValue)]) -> BTreeMap<u16, FlowValue> {
    flows.iter().filter(|(key, _)| key.protocol == 17).map(|(key, value)| (key.source_port, *value)).collect()
}

/// Ten flows of 2,000 to 20,000 packets, sampled 1 in 50. Packets are drawn on their own, so that an estimate
/// has the variance (N − 1) Σ size² over all packets of the flow, known here in full. Within five standard
/// errors lie all but 6 of 10 million estimates.
#[test]
fn ten_flows_are_estimated_within_the_bound_that_sampling_allows() {
    const RATE: u32 = 50;
    requires!(needs());
    let net = Gateway::new();
    let watcher = Watcher::start(&net.gateway, &["eth0"], Attach::Auto, 1);
    watcher.sample(RATE);
    watcher.drain();
    let sink = UdpSink::open(&net.right.host, net.right.address(false));
    let mut truth = BTreeMap::new();
    for flow in 1..=10_u64 {
        let mut sender = UdpSender::connect(&net.left.host, sink.address());
        let (mut bytes, mut squares) = (0, 0);
        for index in 0..flow * 2_000 {
            let payload = if index % 3 == 0 { 1_000 } else { 50 };
            sender.send(&[7; 1_000][..payload]);
            let size = payload as u64 + 42;
            bytes += size;
            squares += size * size;
        }
        truth.insert(sender.local().port(), (sender.datagrams, bytes, squares));
    }
    let sent: u64 = truth.values().map(|(packets, ..)| packets).sum();
    eventually(Duration::from_secs(10), "all datagrams are counted", || {
        watcher.count("eth0", row::INGRESS, class::IPV4_UDP).packets == sent
    });
    let flows = udp_by_port(&watcher.drain());
    assert_eq!(flows.len(), 10);
    let unseen = f64::from(RATE - 1);
    let mut within = 0;
    for (port, (packets, bytes, squares)) in truth {
        let flow = &flows[&port];
        for (what, estimate, truth, deviation) in [
            ("packets", Estimate::packets(flow), packets, (unseen * packets as f64).sqrt()),
            ("bytes", Estimate::bytes(flow), bytes, (unseen * squares as f64).sqrt()),
        ] {
            let off = estimate.estimate.abs_diff(truth) as f64;
            assert!(off <= 5.0 * deviation, "{what}: {truth} sent, {estimate:?}, off by {off}, deviation {deviation}");
            // The error that telemetry states is the true one, as far as one sample of it can tell.
            let stated = estimate.standard_error as f64 / deviation;
            assert!((0.5..2.0).contains(&stated), "{what}: stated {estimate:?}, true deviation {deviation}");
            within += u32::from((estimate.low..=estimate.high).contains(&truth));
        }
    }
    // Of 20 intervals of 95 %, fewer than 14 would hold the truth once in 100,000 runs.
    assert!(within >= 14, "{within} of 20 intervals hold the truth");
}

#[test]
fn one_in_one_misses_nothing_and_errs_nothing() {
    requires!(needs());
    let net = Gateway::new();
    let watcher = Watcher::start(&net.gateway, &["eth0"], Attach::Auto, 1);
    let sink = UdpSink::open(&net.right.host, net.right.address(true));
    let mut sender = UdpSender::connect(&net.left.host, sink.address());
    let port = sender.local().port();
    sender.send(b"before sampling is on");
    watcher.sample(1);
    for _ in 0..500 {
        sender.send(&[7; 100]);
    }
    eventually(Duration::from_secs(5), "all datagrams are counted", || {
        watcher.count("eth0", row::INGRESS, class::IPV6_UDP).packets == 501
    });
    let flow = udp_by_port(&watcher.peek())[&port];
    let bytes = 500 * (14 + 40 + 8 + 100);
    for (estimate, truth) in [(Estimate::packets(&flow), 500), (Estimate::bytes(&flow), bytes)] {
        assert_eq!((estimate.sampled, estimate.estimate, estimate.standard_error), (truth, truth, 0));
    }
    assert_eq!(udp_by_port(&watcher.drain())[&port], flow, "looking takes nothing away");
    assert_eq!(watcher.peek().iter().filter(|(key, _)| key.protocol == 17).count(), 0, "draining does");
}

/// 150 connections that end in FINs and 50 that end in a RST, at 1 in 1,000: every flag is in a flow.
#[test]
fn every_syn_fin_and_rst_is_in_a_flow() {
    requires!(needs());
    let net = Gateway::new();
    let watcher = Watcher::start(&net.gateway, &["eth0"], Attach::Auto, 1);
    watcher.sample(1_000);
    let listener = net.right.host.enter(|| TcpListener::bind((net.right.ipv4, 0))).unwrap();
    let server = listener.local_addr().unwrap();
    let mut expected = BTreeMap::new();
    for number in 0..200 {
        let stream = net.left.host.enter(|| TcpStream::connect(server)).unwrap();
        let (mut accepted, client) = listener.accept().unwrap();
        (&stream).write_all(b"question").unwrap();
        accepted.read_exact(&mut [0; 8]).unwrap();
        if number % 4 == 3 {
            reset(&accepted);
            drop(accepted);
            expected.insert(client.port(), (SYN, SYN | RST));
            // Keeps the client from answering before the RST is there.
            let _reset = (&stream).read(&mut [0]);
        } else {
            drop(stream);
            accepted.read_to_end(&mut Vec::new()).unwrap();
            drop(accepted);
            expected.insert(client.port(), (SYN | FIN, SYN | FIN));
        }
    }
    let flags = |readings: &[(FlowKey, FlowValue)]| {
        let mut seen: BTreeMap<u16, (u8, u8)> = BTreeMap::new();
        for (key, value) in readings.iter().filter(|(key, _)| key.protocol == 6) {
            if key.direction == direction::INGRESS {
                seen.entry(key.source_port).or_default().0 |= value.tcp_flags & (SYN | FIN | RST);
            } else {
                seen.entry(key.destination_port).or_default().1 |= value.tcp_flags & (SYN | FIN | RST);
            }
        }
        seen
    };
    eventually(Duration::from_secs(5), "the last segments passed", || {
        let seen = flags(&watcher.peek());
        if seen == expected { Ok(()) } else { Err(format!("{seen:?} instead of {expected:?}")) }
    });
    assert_eq!(watcher.read().samples.forced_over_limit, 0);
}

/// Has `stream` end in a RST instead of a FIN.
fn reset(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
}

/// Sends frames to the gateway's `eth0` that it counts and then has no use for.
struct Flood {
    socket: PacketSocket,
    to: Mac,
    from: Mac,
}

impl Flood {
    fn new(net: &Gateway) -> Self {
        Self { socket: PacketSocket::open(&net.left.host, "eth0"), to: [2, 0, 0, 0, 0, 1], from: [2, 0, 0, 0, 0, 2] }
    }

    /// One packet of a flow of its own, for every number another one.
    fn send(&self, number: u32, flags: Option<TcpFlags>) {
        let source = Ipv4Addr::from(0x0a00_0000 | (number >> 8));
        let ip = Ip { from: source, to: Ipv4Addr::new(192, 0, 2, 1) };
        let any = Ip { from: IpAddr::from(ip.from), to: IpAddr::from(ip.to) };
        let port = 1024 + u16::try_from(number & 0xff).unwrap();
        let packet = match flags {
            Some(flags) => net::ipv4(ip, 6, &[], &net::tcp_segment(any, port, 80, flags, &[])),
            None => net::ipv4(ip, 17, &[], &net::udp_datagram(any, port, 53, b"query")),
        };
        self.socket.send(&net::ethernet(self.to, self.from, &[], 0x0800, &packet)).unwrap();
    }
}

fn samples_of(flows: &[(FlowKey, FlowValue)]) -> u64 {
    flows.iter().map(|(_, value)| u64::from(value.samples)).sum()
}

/// Drains in the order in which the traffic source does, and returns the flows.
fn drain(watcher: &Watcher, samples: &mut Samples) -> (Readings, Vec<(FlowKey, FlowValue)>) {
    let readings = watcher.read();
    let flows = watcher.drain();
    samples.drained(&readings.samples, samples_of(&flows));
    (readings, flows)
}

#[test]
fn a_flood_of_new_flows_is_bounded_and_every_sample_is_accounted_for() {
    const PACKETS: u32 = 100_000;
    const CAPACITY: u32 = 2_048;
    requires!(needs());
    let net = Gateway::new();
    let watcher = Watcher::sized(&net.gateway, Options { flow_capacity: Some(CAPACITY), ..Options::default() });
    watcher.sample(1);
    watcher.watch(&["eth0"], Attach::Auto);
    eventually(Duration::from_secs(5), "eth0 is watched", || watcher.read().interfaces.len() == 1);
    let mut samples = Samples::default();
    drain(&watcher, &mut samples);

    let flood = Flood::new(&net);
    let before = watcher.run_times(true);
    let started = Instant::now();
    for number in 0..PACKETS {
        flood.send(number, None);
    }
    let took = started.elapsed();
    let after = watcher.run_times(false);
    let (readings, flows) = drain(&watcher, &mut samples);

    let counted = watcher.count("eth0", row::INGRESS, class::IPV4_UDP).packets;
    assert_eq!(counted, u64::from(PACKETS), "the counters miss nothing");
    assert!(flows.len() <= CAPACITY as usize, "{} flows", flows.len());
    assert!(samples.lost > 0, "the table was too small: {samples:?}");
    let told = samples.drained + samples.no_flow + samples.over_limit + samples.refused + samples.lost;
    assert_eq!(told, samples.taken, "{samples:?}");
    assert!(samples.taken >= u64::from(PACKETS), "{samples:?}");

    // 10,000 new flows a second and CPU, for each second that began.
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    let bound = (took.as_secs() + 2) * cpus * 10_000;
    assert!(readings.samples.inserted <= bound, "{} inserts in {took:?}, at most {bound}", readings.samples.inserted);
    assert!(samples.over_limit > 0 || took > Duration::from_secs(5), "{samples:?} in {took:?}");
    let (runs, ns) = (after.0 - before.0, after.1 - before.1);
    println!("a flood of {PACKETS} flows in {took:?}: {} ns a packet, {samples:?}", ns / runs.max(1));

    // What was lost is lost; what comes with the next second is not.
    let sink = UdpSink::open(&net.right.host, net.right.address(false));
    let mut sender = UdpSender::connect(&net.left.host, sink.address());
    eventually(Duration::from_secs(5), "the table takes new flows again", || {
        sender.send(b"after the flood");
        watcher.peek().iter().any(|(key, _)| key.source_port == sender.local().port())
    });
}

#[test]
fn a_flood_of_syns_is_sampled_up_to_its_bound_and_the_rest_is_left_to_the_draw() {
    const PACKETS: u32 = 60_000;
    requires!(needs());
    let net = Gateway::new();
    let watcher = Watcher::start(&net.gateway, &["eth0"], Attach::Auto, 1);
    watcher.sample(1_000);
    let flood = Flood::new(&net);
    let started = Instant::now();
    for number in 0..PACKETS {
        flood.send(number, Some(TcpFlags::SYN));
    }
    let took = started.elapsed();
    let samples = watcher.read().samples;
    assert_eq!(samples.forced + samples.forced_over_limit, u64::from(PACKETS), "{samples:?}");
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    let bound = (took.as_secs() + 2) * cpus * 2_000;
    assert!(samples.forced <= bound, "{samples:?} in {took:?}, at most {bound}");
    assert!(samples.forced >= 2_000, "{samples:?}");
    // Those over the bound are drawn as any packet is: 1 in 1,000, within six standard deviations.
    let drawn = (samples.sampled - samples.forced) as f64;
    let expected = samples.forced_over_limit as f64 / 1_000.0;
    assert!((drawn - expected).abs() <= 6.0 * expected.sqrt() + 6.0, "{drawn} drawn, {expected} expected");
}

#[test]
fn a_new_rate_holds_from_the_next_packet_and_zero_samples_nothing() {
    requires!(needs());
    let net = Gateway::new();
    let watcher = Watcher::start(&net.gateway, &["eth0"], Attach::Auto, 1);
    let sink = UdpSink::open(&net.right.host, net.right.address(false));
    let mut sender =
        UdpSender::connect(&net.left.host, SocketAddr::new(net.right.address(false), sink.address().port()));
    let mut sent = 0;
    let mut sampled = |rate: u32, packets: u64| {
        watcher.sample(rate);
        let before = watcher.read().samples.sampled;
        for _ in 0..packets {
            sender.send(b"x");
        }
        sent += packets;
        eventually(Duration::from_secs(5), "the datagrams are counted", || {
            watcher.count("eth0", row::INGRESS, class::IPV4_UDP).packets == sent
        });
        watcher.read().samples.sampled - before
    };
    assert_eq!(sampled(0, 1_000), 0);
    assert!(sampled(1, 1_000) >= 1_000);
    let one_in_ten = sampled(10, 10_000);
    // 1,000 expected, standard deviation 30.
    assert!((800..1_200).contains(&one_in_ten), "{one_in_ten} of 10,000 at 1 in 10");
    assert_eq!(sampled(0, 1_000), 0);
}
