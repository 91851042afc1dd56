//! The topology that most scenarios share: two hosts, and the gateway between them.
//!
//! ```text
//!   left ── eth0 ── gateway ── eth1 ── right
//!   10.77.1.2    .1         .1    10.77.2.2
//!   fd77:1::2    ::1        ::1   fd77:2::2
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Netns;

/// One host and the gateway's interface towards it.
#[derive(Clone, Debug)]
pub struct Side {
    /// Namespace of the host; its interface is `eth0`.
    pub host: Netns,
    /// The gateway's interface on this side: `eth0` to the left, `eth1` to the right.
    pub interface: &'static str,
    /// Host's IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Host's IPv6 address.
    pub ipv6: Ipv6Addr,
}

impl Side {
    /// The host's address of either family.
    #[must_use]
    pub fn address(&self, ipv6: bool) -> IpAddr {
        if ipv6 { self.ipv6.into() } else { self.ipv4.into() }
    }
}

/// Two hosts joined through a gateway that forwards both families.
#[derive(Debug)]
pub struct Gateway {
    /// The gateway itself: where the daemon runs.
    pub gateway: Netns,
    /// One host.
    pub left: Side,
    /// The other.
    pub right: Side,
}

impl Gateway {
    /// Makes the three namespaces, their links, addresses and routes.
    ///
    /// # Panics
    ///
    /// Without root or iproute2; see [`crate::need`].
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        let gateway = Netns::new("gateway");
        let left = side(&gateway, "left", "eth0", 1);
        let right = side(&gateway, "right", "eth1", 2);
        gateway.sysctl("ipv4/ip_forward", "1");
        gateway.sysctl("ipv6/conf/all/forwarding", "1");
        Self { gateway, left, right }
    }

    /// Turns the offloads of all four interfaces on or off.
    #[track_caller]
    pub fn offload(&self, on: bool) {
        for side in [&self.left, &self.right] {
            self.gateway.offload(side.interface, on);
            side.host.offload("eth0", on);
        }
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self::new()
    }
}

fn side(gateway: &Netns, name: &str, interface: &'static str, net: u8) -> Side {
    let host = Netns::new(name);
    gateway.join(interface, &host, "eth0");
    gateway.run(&format!("ip addr add 10.77.{net}.1/24 dev {interface}"));
    gateway.run(&format!("ip addr add fd77:{net}::1/64 dev {interface} nodad"));
    host.run(&format!("ip addr add 10.77.{net}.2/24 dev eth0"));
    host.run(&format!("ip addr add fd77:{net}::2/64 dev eth0 nodad"));
    host.run(&format!("ip route add default via 10.77.{net}.1"));
    host.run(&format!("ip route add default via fd77:{net}::1"));
    Side {
        host,
        interface,
        ipv4: Ipv4Addr::new(10, 77, net, 2),
        ipv6: Ipv6Addr::new(0xfd77, net.into(), 0, 0, 0, 0, 0, 2),
    }
}
