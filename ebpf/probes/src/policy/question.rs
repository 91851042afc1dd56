//! What is asked of a generation.

use tidegate_abi::{FlowKey, class, direction};

use crate::headers::Headers;

/// No rule names it, and no block of groups is its.
const NO_PROTOCOL: u32 = u32::MAX;

/// The packet as rules see it.
///
/// It stands in a map, so that the verifier knows nothing of it and goes through a generation once: see
/// `Headers::read`. The answer stands there for the same reason.
#[repr(C)]
pub(crate) struct Question {
    /// Address that rules go by, as in the flow's key.
    pub(super) peer: [u8; 16],
    /// High half of the peer as a number; of IPv4 the address.
    pub(super) first: u64,
    /// Low half.
    pub(super) low: u64,
    /// 0 where the packet is malformed: no rule is for it.
    pub(super) has_addresses: u32,
    /// Not 0 for IPv4.
    pub(super) is_v4: u32,
    /// See [`direction`].
    pub(super) direction: u32,
    pub(super) protocol: u32,
    /// Not 0 where [`Self::port`] and [`Self::peer_port`] are known.
    pub(super) has_ports: u32,
    /// Not 0 where there may be ports that are not known.
    pub(super) hides_ports: u32,
    /// Destination port, or ICMP type.
    pub(super) port: u32,
    /// The peer's port.
    pub(super) peer_port: u32,
    pub(super) ifindex: u32,
    /// Answer: number of the rule, 0 for none.
    pub(super) rule: u32,
}

impl Question {
    /// Asks about the packet that `key` and `headers` are of. [`Self::has_addresses`] is the caller's.
    #[inline(always)]
    pub(super) fn put(&mut self, headers: &Headers, key: &FlowKey, direction: u8) {
        let received = direction == direction::INGRESS;
        self.peer = if received { key.source } else { key.destination };
        let [a, b, c, d, e, f, g, h, low @ ..] = self.peer;
        self.low = u64::from_be_bytes(low);
        self.is_v4 = u32::from(headers.ip_version == 4);
        self.first = if headers.ip_version == 4 {
            self.low & u64::from(u32::MAX)
        } else {
            u64::from_be_bytes([a, b, c, d, e, f, g, h])
        };
        self.direction = u32::from(direction);
        // Behind too many extension headers stands one more of them.
        self.protocol = if headers.class as u8 == class::TOO_DEEP { NO_PROTOCOL } else { headers.protocol };
        self.has_ports = u32::from(headers.has_ports());
        self.hides_ports = u32::from(headers.hides_ports());
        self.port = u32::from(key.destination_port);
        if headers.is_icmp() {
            self.port >>= 8;
        }
        self.peer_port = u32::from(if received { key.source_port } else { key.destination_port });
        self.ifindex = key.ifindex;
        self.rule = 0;
    }
}
