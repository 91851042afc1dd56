//! Packets whose headers lie in pages, as network cards and guests hand them over: only the Ethernet header is linear.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd as _,
    time::Duration,
};

use tidegate_abi::{Settings, class, programs, row};
use tidegate_tests::{
    Netns, eventually, need,
    net::{Ip, PacketSocket, TcpFlags, ethernet, ipv4, ipv6, tcp_segment},
    probes::{Direction, Probes},
    requires,
};

/// More than a page, as the kernel puts all that is shorter into the linear part (`packet_alloc_skb` in
/// `net/packet/af_packet.c`).
const PAYLOAD: usize = 5_000;
/// `struct virtio_net_hdr` (`linux/virtio_net.h`): no segmentation, no checksum, and 14 bytes of header, which is what
/// the kernel then makes linear.
const VIRTIO_NET_HEADER: [u8; 10] = [0, 0, 14, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn headers_in_pages_are_read_like_those_in_the_linear_part() {
    requires!(need::root(), need::program("ip"));
    let (left, right) = (Netns::new("left"), Netns::new("right"));
    left.join("eth0", &right, "eth0");
    left.run("ip link set eth0 mtu 9000");
    right.run("ip link set eth0 mtu 9000");
    let mut probes = Probes::load();
    probes.set(Settings { sample_rate: 1, forced_per_second: 0, inserts_per_second: u32::MAX, reserved: 0 });
    left.enter(|| probes.attach(programs::EGRESS, "eth0", Direction::Egress));
    right.enter(|| probes.attach(programs::INGRESS, "eth0", Direction::Ingress));

    let socket = PacketSocket::open(&left, "eth0");
    expect_virtio_headers(&socket).unwrap();
    let payload = vec![0; PAYLOAD];
    let v4 = Ip { from: Ipv4Addr::new(192, 0, 2, 1), to: Ipv4Addr::new(192, 0, 2, 2) };
    let v6 = Ip { from: Ipv6Addr::from_bits(1), to: Ipv6Addr::from_bits(2) };
    let over_v4 = Ip { from: IpAddr::V4(v4.from), to: IpAddr::V4(v4.to) };
    let over_v6 = Ip { from: IpAddr::V6(v6.from), to: IpAddr::V6(v6.to) };
    // Record route: an option, so that TCP is not where it mostly is.
    let first = ipv4(v4, 6, &[7, 7, 4, 0, 0, 0, 0, 0], &tcp_segment(over_v4, 1000, 2000, TcpFlags::ACK, &payload));
    // Destination options in front.
    let segment = tcp_segment(over_v6, 3000, 4000, TcpFlags::SYN, &payload);
    let second = ipv6(v6, 60, &[&[6, 0, 1, 4, 0, 0, 0, 0][..], &segment].concat());
    let frames = [ethernet([2; 6], [3; 6], &[], 0x0800, &first), ethernet([2; 6], [3; 6], &[], 0x86DD, &second)];
    for frame in &frames {
        socket.send(&[&VIRTIO_NET_HEADER[..], frame].concat()).unwrap();
    }

    // Neither interface has a slot of its own.
    for row in [row::EGRESS_LOCAL, row::INGRESS] {
        eventually(Duration::from_secs(5), "both frames are counted as what they are", || {
            let counters = probes.counters_of(0, row);
            [class::IPV4_TCP, class::IPV6_TCP].iter().zip(&frames).all(|(class, frame)| {
                let counter = counters[usize::from(*class)];
                (counter.packets, counter.bytes) == (1, frame.len() as u64)
            })
        });
    }
    let mut ports: Vec<_> = probes
        .take_flows()
        .into_iter()
        .filter(|(key, _)| key.protocol == 6)
        .map(|(key, value)| (key.source_port, key.destination_port, value.tcp_flags))
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [(1000, 2000, 0x10), (1000, 2000, 0x10), (3000, 4000, 0x02), (3000, 4000, 0x02)]);
}

/// Each frame is sent behind a `struct virtio_net_hdr` from now on (packet(7), `PACKET_VNET_HDR`).
fn expect_virtio_headers(socket: &PacketSocket) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).expect("four");
    // SAFETY: the pointer is to a live integer of the length given.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, (&raw const on).cast(), length)
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
