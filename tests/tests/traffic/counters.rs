//! The counters are exact.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tidegate::config::Attach;
use tidegate_abi::{Counter, class, row};
use tidegate_tests::{
    Gateway, eventually,
    net::{self, Ip, PacketSocket, UdpSender, UdpSink, tcp_transfer},
    requires,
};

use crate::{Watcher, needs};

/// Ethernet header.
const ETHERNET: u64 = 14;
/// TCP header with timestamps, as every segment but SYNs has it where nothing was lost.
const TCP: u64 = 32;
/// A SYN's header is 8 bytes longer: maximum segment size, selective acknowledgements, window scale.
const SYN_EXTRA: u64 = 8;
/// UDP header.
const UDP: u64 = 8;

const fn ip_header(ipv6: bool) -> u64 {
    if ipv6 { 40 } else { 20 }
}

#[test]
fn tcp_packets_are_the_segments_that_the_hosts_sent() {
    requires!(needs());
    for (attach, offload, ipv6) in [
        (Attach::Tcx, true, false),
        (Attach::Tcx, true, true),
        (Attach::Tcx, false, false),
        (Attach::Netlink, true, false),
        (Attach::Netlink, false, true),
    ] {
        let net = Gateway::new();
        net.offload(offload);
        for side in [&net.left, &net.right] {
            // Segments that overtake each other on two CPUs would be answered with longer acknowledgements, by how
            // much nobody counts.
            side.host.sysctl("ipv4/tcp_sack", "0");
        }
        let watcher = Watcher::start(&net.gateway, &["eth*"], attach, 2);
        let transfer = tcp_transfer(&net.left.host, &net.right.host, net.right.address(ipv6), 30_000_000);
        let class = if ipv6 { class::IPV6_TCP } else { class::IPV4_TCP };
        let case = format!("{attach:?}, offload {offload}, IPv6 {ipv6}: {transfer:?}");

        let there = transfer.sender.segments_out;
        let back = transfer.receiver.segments_out + 1;
        for (interface, row, packets) in [
            ("eth0", row::INGRESS, there),
            ("eth1", row::EGRESS_FORWARDED, there),
            ("eth1", row::INGRESS, back),
            ("eth0", row::EGRESS_FORWARDED, back),
        ] {
            let counted = watcher.count(interface, row, class);
            assert_eq!(counted.packets, packets, "{interface} row {row}, {case}");
            // What a retransmission held is not told.
            if transfer.sender.retransmits == 0 {
                let payload = if packets == there { transfer.sender.bytes_sent } else { 0 };
                let headers = packets * (ETHERNET + ip_header(ipv6) + TCP) + SYN_EXTRA;
                assert_eq!(counted.bytes, payload + headers, "{interface} row {row}, {case}");
            }
        }
        for interface in ["eth0", "eth1"] {
            let local = watcher.count(interface, row::EGRESS_LOCAL, class);
            assert_eq!(local, Counter::default(), "the gateway has no connections of its own, {case}");
        }
    }
}

#[test]
fn udp_packets_are_the_datagrams_sent_also_where_a_buffer_holds_many() {
    requires!(needs());
    for (offload, ipv6) in [(true, false), (true, true), (false, false)] {
        let net = Gateway::new();
        net.offload(offload);
        let watcher = Watcher::start(&net.gateway, &["eth*"], Attach::Auto, 2);
        let sink = UdpSink::open(&net.right.host, net.right.address(ipv6));
        let mut sender = UdpSender::connect(&net.left.host, sink.address());
        for size in 1..=200 {
            sender.send(&vec![7; size]);
        }
        // 33 segments of 1,200 bytes and one of 400, and 20 of 10.
        sender.send_segmented(&vec![7; 40_000], 1_200);
        sender.send_segmented(&[7; 200], 10);
        let headers = ETHERNET + ip_header(ipv6) + UDP;
        let sent = Counter { packets: sender.datagrams, bytes: sender.payload_bytes + sender.datagrams * headers };
        assert_eq!(sent.packets, 200 + 34 + 20);
        let class = if ipv6 { class::IPV6_UDP } else { class::IPV4_UDP };
        eventually(Duration::from_secs(5), "all datagrams are through", || {
            watcher.count("eth1", row::EGRESS_FORWARDED, class).packets >= sent.packets
        });
        for (interface, row) in [("eth0", row::INGRESS), ("eth1", row::EGRESS_FORWARDED)] {
            let counted = watcher.count(interface, row, class);
            assert_eq!(counted, sent, "{interface}, offload {offload}, IPv6 {ipv6}");
        }
    }
}

#[test]
fn what_the_gateway_sends_of_its_own_is_told_from_what_it_forwards() {
    requires!(needs());
    let net = Gateway::new();
    let watcher = Watcher::start(&net.gateway, &["eth*"], Attach::Auto, 2);
    let sink = UdpSink::open(&net.right.host, net.right.address(false));
    let mut own = UdpSender::connect(&net.gateway, sink.address());
    let mut forwarded = UdpSender::connect(&net.left.host, sink.address());
    for _ in 0..30 {
        own.send(b"own");
    }
    for _ in 0..50 {
        forwarded.send(b"forwarded");
    }
    eventually(Duration::from_secs(5), "all datagrams are through", || {
        watcher.count("eth1", row::EGRESS_FORWARDED, class::IPV4_UDP).packets >= 50
    });
    assert_eq!(watcher.count("eth1", row::EGRESS_LOCAL, class::IPV4_UDP).packets, 30);
    assert_eq!(watcher.count("eth1", row::EGRESS_FORWARDED, class::IPV4_UDP).packets, 50);
    assert_eq!(watcher.count("eth0", row::INGRESS, class::IPV4_UDP).packets, 50);
}

#[test]
fn fragments_behind_the_first_are_a_class_of_their_own() {
    requires!(needs());
    let net = Gateway::new();
    let watcher = Watcher::start(&net.gateway, &["eth0"], Attach::Auto, 1);
    for ipv6 in [false, true] {
        let sink = UdpSink::open(&net.right.host, net.right.address(ipv6));
        let mut sender = UdpSender::connect(&net.left.host, sink.address());
        for _ in 0..20 {
            // Over an MTU of 1,500 in three fragments, of which the first has the ports.
            sender.send(&[7; 4_000]);
        }
        let (whole, fragment) =
            if ipv6 { (class::IPV6_UDP, class::IPV6_FRAGMENT) } else { (class::IPV4_UDP, class::IPV4_FRAGMENT) };
        eventually(Duration::from_secs(5), "all fragments are through", || {
            watcher.count("eth0", row::INGRESS, fragment).packets >= 40
        });
        let (first, rest) = (watcher.count("eth0", row::INGRESS, whole), watcher.count("eth0", row::INGRESS, fragment));
        assert_eq!((first.packets, rest.packets), (20, 40), "IPv6 {ipv6}");
        let fragment_header = if ipv6 { 8 } else { 0 };
        let headers = 20 * (UDP + 3 * (ETHERNET + ip_header(ipv6) + fragment_header));
        assert_eq!(first.bytes + rest.bytes, sender.payload_bytes + headers, "IPv6 {ipv6}");
    }
}

#[test]
fn tagged_and_malformed_frames_are_counted_as_what_they_are() {
    const IPV4: u16 = 0x0800;
    const PROFINET: u16 = 0x8892;
    requires!(needs());
    let net = Gateway::new();
    let watcher = Watcher::start(&net.gateway, &["eth0"], Attach::Auto, 1);
    let socket = PacketSocket::open(&net.left.host, "eth0");
    let addresses = Ip { from: net.left.ipv4, to: net.right.ipv4 };
    let any = Ip { from: IpAddr::from(addresses.from), to: IpAddr::from(addresses.to) };
    let packet = net::ipv4(addresses, 17, &[], &net::udp_datagram(any, 1000, 2000, &[7; 100]));
    // Addressed to nobody, so that the gateway counts and then drops them.
    let (to, from) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let frame = |tags: &[net::VlanTag], protocol, payload: &[u8]| net::ethernet(to, from, tags, protocol, payload);
    let frames = [
        (10, frame(&[], IPV4, &packet)),
        // The receiving kernel takes the outer tag out of the data.
        (20, frame(&[(0x8100, 100)], IPV4, &packet)),
        (30, frame(&[(0x88a8, 7), (0x8100, 100)], IPV4, &packet)),
        (40, frame(&[], PROFINET, &[0; 50])),
        // An IPv4 header that claims more than there is.
        (50, frame(&[], IPV4, &packet[..18])),
        (60, frame(&[(0x88a8, 1), (0x8100, 2), (0x8100, 3)], IPV4, &packet)),
    ];
    for (count, frame) in &frames {
        for _ in 0..*count {
            socket.send(frame).unwrap();
        }
    }
    let counted = |class| watcher.count("eth0", row::INGRESS, class);
    eventually(Duration::from_secs(5), "all frames arrived", || counted(class::TOO_DEEP).packets >= 60);
    let bytes = packet.len() as u64 + ETHERNET;
    assert_eq!(
        counted(class::IPV4_UDP),
        // Of the outer tag nothing is counted, of the inner one its four bytes.
        Counter { packets: 10 + 20 + 30, bytes: (10 + 20) * bytes + 30 * (bytes + 4) }
    );
    assert_eq!(counted(class::NON_IP).packets, 40);
    assert_eq!(counted(class::MALFORMED).packets, 50);
    assert_eq!(counted(class::TOO_DEEP).packets, 60);
}

#[test]
fn counters_survive_a_change_of_the_way_programs_are_attached() {
    requires!(needs());
    let net = Gateway::new();
    let watcher = Watcher::start(&net.gateway, &["eth0"], Attach::Tcx, 1);
    let sink = UdpSink::open(&net.right.host, net.right.address(false));
    let mut sender =
        UdpSender::connect(&net.left.host, SocketAddr::new(net.right.address(false), sink.address().port()));
    for (attach, sent) in [(Attach::Netlink, 10), (Attach::Tcx, 20), (Attach::Auto, 30)] {
        for _ in 0..10 {
            sender.send(b"x");
        }
        eventually(Duration::from_secs(5), "the datagrams arrived", || {
            watcher.count("eth0", row::INGRESS, class::IPV4_UDP).packets == sent
        });
        watcher.watch(&["eth0"], attach);
        let filters = net.gateway.run("tc filter show dev eth0 ingress");
        assert_eq!(filters.contains("tidegate"), attach == Attach::Netlink, "{attach:?}: {filters}");
    }
}
