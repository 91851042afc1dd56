//! Interfaces come, go and change their names.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use tidegate::{
    config::Attach,
    kernel::{Event, Framing, Readings},
};
use tidegate_abi::{class, row};
use tidegate_tests::{
    Gateway, Netns, Scratch, eventually,
    net::{self, Ip, UdpSender},
    requires,
};

use crate::{Watcher, needs};

fn names(readings: &Readings) -> Vec<&str> {
    let mut names: Vec<&str> = readings.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    names.sort_unstable();
    names
}

#[test]
fn interfaces_are_followed_as_they_appear_vanish_and_change_names() {
    requires!(needs());
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    let mut watcher = Watcher::start(&here, &["eth*", "!eth9"], Attach::Auto, 0);
    let wait = |wanted: &[&str]| {
        eventually(Duration::from_secs(5), "the interfaces are watched", || {
            let readings = watcher.read();
            if names(&readings) == wanted { Ok(()) } else { Err(format!("{readings:?}")) }
        });
    };
    here.join("eth0", &there, "p0");
    wait(&["eth0"]);
    here.join("lan0", &there, "p1");
    here.join("eth1", &there, "p2");
    wait(&["eth0", "eth1"]);
    // Into the patterns, within them, and out of them: an exclusion is a way out, too.
    here.run("ip link set lan0 name eth5");
    wait(&["eth0", "eth1", "eth5"]);
    here.run("ip link set eth5 name eth6");
    wait(&["eth0", "eth1", "eth6"]);
    here.run("ip link set eth6 name eth9");
    wait(&["eth0", "eth1"]);
    here.run("ip link del eth0");
    wait(&["eth1"]);
    watcher.watch(&[], Attach::Auto);
    assert_eq!(names(&watcher.read()), [""; 0]);
    let events = watcher.events();
    let appeared = |name: &str| Event::Watched { interface: name.into() };
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Watched { .. })).count(), 3, "{events:?}");
    assert!(events.contains(&appeared("eth5")) && !events.contains(&appeared("eth6")), "a rename is no new interface");
}

#[test]
fn the_time_to_attach_is_told_of_interfaces_that_a_message_told_of() {
    requires!(needs());
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    here.join("eth0", &there, "p0");
    here.join("lan0", &there, "p1");
    here.join("lan1", &there, "p2");
    let watcher = Watcher::start(&here, &["eth*"], Attach::Auto, 1);
    let attached_after = |wanted: &str| {
        eventually(Duration::from_secs(5), "it is watched", || {
            let readings = watcher.read();
            readings.interfaces.iter().find(|watched| watched.name == wanted).map(|watched| watched.attached_after)
        })
    };
    assert_eq!(attached_after("eth0"), None, "it was there before us");
    here.join("eth1", &there, "p3");
    // Attaching takes some microseconds; a busy machine may let us wait.
    let took = attached_after("eth1").expect("a message told of it");
    assert!(took > Duration::ZERO && took < Duration::from_secs(2), "{took:?}");
    println!("attached {took:?} after the message");
    here.run("ip link set lan0 down");
    here.run("ip link set lan0 name eth2");
    assert!(attached_after("eth2").is_some(), "a message told of its new name");
    watcher.watch(&["eth*", "lan*"], Attach::Auto);
    assert_eq!(attached_after("lan1"), None, "it was there before anybody wanted it");
    assert_eq!(attached_after("eth1"), Some(took), "it is told as it was");
}

#[test]
fn a_rename_keeps_counters_and_flows() {
    requires!(needs());
    let net = Gateway::new();
    let watcher = Watcher::start(&net.gateway, &["eth0", "wan*"], Attach::Auto, 1);
    watcher.sample(1);
    let sink = net::UdpSink::open(&net.gateway, Ipv4Addr::new(10, 77, 1, 1).into());
    let mut sender = UdpSender::connect(&net.left.host, sink.address());
    let counted = |name: &str| watcher.count(name, row::INGRESS, class::IPV4_UDP).packets;
    for _ in 0..10 {
        sender.send(b"x");
    }
    eventually(Duration::from_secs(5), "the datagrams arrived", || counted("eth0") == 10);
    // Up interfaces may be renamed since Linux 6.? only; take it down, as udev does.
    net.gateway.run("ip link set eth0 down");
    net.gateway.run("ip link set eth0 name wan7");
    net.gateway.run("ip link set wan7 up");
    eventually(Duration::from_secs(5), "the new name is known", || names(&watcher.read()) == ["wan7"]);
    for _ in 0..10 {
        sender.send(b"x");
    }
    eventually(Duration::from_secs(5), "the counters go on", || counted("wan7") == 20);
    let ifindex = net.gateway.ifindex("wan7");
    let flows = watcher.drain();
    let flow = flows.iter().find(|(key, _)| key.protocol == 17).unwrap();
    assert_eq!((flow.0.ifindex, flow.1.packets), (ifindex, 20));
}

/// A hundred interfaces, one after the other, are made, carry traffic, change their names and go. Everything that
/// they counted is told, and nothing is left over.
#[test]
fn interfaces_that_come_and_go_a_hundred_times_leak_nothing() {
    requires!(needs());
    for (attach, rounds) in [(Attach::Tcx, 100), (Attach::Netlink, 25)] {
        let (here, there) = (Netns::new("here"), Netns::new("there"));
        let watcher = Watcher::start(&here, &["eth*", "wan*"], attach, 0);
        here.join("eth9", &there, "p9");
        eventually(Duration::from_secs(5), "eth9 is watched", || watcher.read().interfaces.len() == 1);
        let (mut gone, mut received) = (0, 0);
        let mut collect = |readings: &Readings| {
            for interface in &readings.gone {
                gone += 1;
                let rows = interface.rows.expect("slots are given back, so that each interface has its own");
                received += rows.0[row::INGRESS as usize].classes[usize::from(class::IPV4_UDP)].packets;
            }
        };
        for round in 0..rounds {
            here.join("eth0", &there, "p0");
            there.run("ip addr add 10.9.0.2/24 dev p0");
            // No answer is needed: the neighbour is stated.
            there.run("ip neigh add 10.9.0.1 lladdr 02:00:00:00:00:09 dev p0");
            eventually(Duration::from_secs(5), "eth0 is watched", || {
                let readings = watcher.read();
                collect(&readings);
                if names(&readings) == ["eth0", "eth9"] { Ok(()) } else { Err(format!("{readings:?}")) }
            });
            let mut sender = UdpSender::connect(&there, (Ipv4Addr::new(10, 9, 0, 1), 9).into());
            for _ in 0..5 {
                sender.send(b"x");
            }
            if round % 2 == 0 {
                here.run("ip link set eth0 down");
                here.run("ip link set eth0 name wan0");
                here.run("ip link del wan0");
            } else {
                here.run("ip link del eth0");
            }
        }
        eventually(Duration::from_secs(5), "all are gone", || {
            let readings = watcher.read();
            collect(&readings);
            if readings.interfaces.len() == 1 { Ok(()) } else { Err(format!("{readings:?}")) }
        });
        assert_eq!((gone, received), (rounds, rounds * 5), "{attach:?}");
        eventually(Duration::from_secs(5), "no link is left over", || {
            let left = links_without_interface();
            if left == 0 { Ok(()) } else { Err(format!("{left} links of interfaces that are gone")) }
        });
    }
}

/// 260 interfaces at once: more than there are counters, and more changes than the socket's buffer holds while the
/// thread is busy attaching.
#[test]
fn more_interfaces_than_counters_are_counted_together_and_reported() {
    const INTERFACES: usize = 260;
    requires!(needs());
    let (here, scratch) = (Netns::new("here"), Scratch::new("batch"));
    let mut watcher = Watcher::start(&here, &["eth*"], Attach::Auto, 0);
    let lines: Vec<String> =
        (0..INTERFACES).map(|number| format!("link add eth{number} type veth peer name p{number}")).collect();
    here.run(&format!("ip -batch {}", scratch.write("links", lines.join("\n")).display()));
    let readings = eventually(Duration::from_secs(30), "all are watched", || {
        let readings = watcher.read();
        if readings.interfaces.len() == INTERFACES { Ok(readings) } else { Err(readings.interfaces.len().to_string()) }
    });
    let together: Vec<_> = readings.interfaces.iter().filter(|interface| interface.rows.is_none()).collect();
    assert_eq!(together.len(), INTERFACES - 255);
    // Events that nobody takes are dropped and counted; each says what the readings say, too.
    let told = watcher.events().len() as u64;
    assert_eq!(told + readings.events_dropped, (INTERFACES + together.len()) as u64);

    let name = &together[0].name;
    let peer = name.replace("eth", "p");
    here.run(&format!("ip link set {name} up"));
    here.run(&format!("ip link set {peer} up"));
    let (from, to) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let ip = Ip { from: from.into(), to: to.into() };
    let packet = net::ipv4(Ip { from, to }, 17, &[], &net::udp_datagram(ip, 1000, 2000, &[7; 72]));
    let socket = net::PacketSocket::open(&here, &peer);
    for _ in 0..7 {
        socket.send(&net::ethernet([2; 6], [4; 6], &[], 0x0800, &packet)).unwrap();
    }
    eventually(Duration::from_secs(5), "its packets are counted with the others'", || {
        let other = watcher.read().other;
        other.0[row::INGRESS as usize].classes[usize::from(class::IPV4_UDP)].packets == 7
    });
}

/// Descriptors of TCX links whose interface is gone: `ifindex` is 0 in their fdinfo.
fn links_without_interface() -> usize {
    let infos = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    // A descriptor that another test closes meanwhile reads as nothing.
    let texts = infos.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
    texts.filter(|text| text.contains("link_type:\ttcx") && text.contains("ifindex:\t0\n")).count()
}

/// `struct ifreq` as far as `TUNSETIFF` reads it.
#[repr(C)]
struct TunRequest {
    name: [u8; 16],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// A tun device and its other end, where packets without any Ethernet header go in and out.
fn tun(namespace: &Netns, name: &str) -> io::Result<OwnedFd> {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    namespace.enter(|| {
        let device: OwnedFd = std::fs::File::options().read(true).write(true).open("/dev/net/tun")?.into();
        let flags = libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).expect("two small flags");
        let mut request = TunRequest { name: [0; 16], flags, rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: the request is a live structure of the size that this ioctl reads and writes.
        let made = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) };
        if made < 0 { Err(io::Error::last_os_error()) } else { Ok(device) }
    })
}

#[test]
fn packets_of_a_tun_device_are_read_from_their_ip_header_on() {
    requires!(needs());
    let host = Netns::new("host");
    let device = match tun(&host, "tun0") {
        Ok(device) => device,
        Err(error) => tidegate_tests::skip!("/dev/net/tun: {error}"),
    };
    let watcher = Watcher::start(&host, &["tun*"], Attach::Auto, 1);
    assert_eq!(watcher.read().interfaces[0].framing, Framing::Network);
    host.run("ip addr add 10.8.0.1/24 dev tun0");
    host.run("ip addr add fd08::1/64 dev tun0 nodad");
    host.run("ip link set tun0 up");
    let (peer, own) = (Ipv4Addr::new(10, 8, 0, 2), Ipv4Addr::new(10, 8, 0, 1));
    let ip = Ip { from: peer.into(), to: own.into() };
    let packet = net::ipv4(Ip { from: peer, to: own }, 17, &[], &net::udp_datagram(ip, 1000, 2000, &[7; 72]));
    for _ in 0..100 {
        rustix::io::write(&device, &packet).unwrap();
    }
    let mut sender = UdpSender::connect(&host, (peer, 9).into());
    for _ in 0..50 {
        sender.send(&[7; 172]);
    }
    let received = watcher.count("tun0", row::INGRESS, class::IPV4_UDP);
    assert_eq!((received.packets, received.bytes), (100, 100 * 100), "IP bytes, no Ethernet header");
    let sent = watcher.count("tun0", row::EGRESS_LOCAL, class::IPV4_UDP);
    assert_eq!((sent.packets, sent.bytes), (50, 50 * 200));
}

#[test]
fn an_interface_whose_link_type_changes_is_let_go_and_taken_up_again() {
    /// Sets the link type of a tun device that is down.
    const TUNSETLINK: libc::c_ulong = 0x4004_54cd;
    requires!(needs());
    let host = Netns::new("host");
    let device = match tun(&host, "tun0") {
        Ok(device) => device,
        Err(error) => tidegate_tests::skip!("/dev/net/tun: {error}"),
    };
    let watcher = Watcher::start(&host, &["tun*"], Attach::Auto, 1);
    for (link_type, watched) in [(libc::ARPHRD_CAN, false), (libc::ARPHRD_NONE, true), (libc::ARPHRD_INFINIBAND, false)]
    {
        // SAFETY: this ioctl takes an integer, no pointer.
        let set = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETLINK, libc::c_ulong::from(link_type)) };
        assert_eq!(set, 0, "TUNSETLINK: {}", io::Error::last_os_error());
        eventually(Duration::from_secs(5), "the new link type is known", || {
            let readings = watcher.read();
            let as_wanted = if watched {
                readings.interfaces.len() == 1 && readings.not_watched.is_empty()
            } else {
                let reason = readings.not_watched.first().map(|refused| refused.reason.clone()).unwrap_or_default();
                readings.interfaces.is_empty() && reason.contains(&format!("link type {link_type} "))
            };
            if as_wanted { Ok(()) } else { Err(format!("{readings:?}")) }
        });
    }
}
