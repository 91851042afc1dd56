//! Reads a packet's headers, from the link's to the transport's.
//!
//! Every length that a header states is held against what is there before anything behind it is read; where they
//! contradict each other, the packet is [`class::MALFORMED`] and has no flow. A transport header must be there whole
//! in a first fragment, too (RFC 1858). What nothing here depends on, such as checksums, UDP's length and the body of
//! ARP, is not judged.

mod ethernet;
mod ipv4;
mod ipv6;
mod transport;

use tidegate_abi::{FlowKey, class};

use crate::packet::Packet;

/// What packets of the interface begin with.
#[derive(Clone, Copy)]
pub(crate) enum Link {
    Ethernet,
    Ip,
}

/// What the headers say. Offsets are those in the buffer.
#[derive(Default)]
pub(crate) struct Headers {
    /// Protocol class: `tidegate_abi::class`.
    pub(crate) class: u8,
    /// 4 or 6; 0 without an IP header.
    ip_version: u8,
    /// IP protocol number behind all extension headers that were read.
    protocol: u8,
    /// Differentiated services code point (RFC 2474).
    pub(crate) dscp: u8,
    /// Flags of the TCP header, else 0.
    pub(crate) tcp_flags: u8,
    /// Bytes of the outer VLAN tag in the data: 0 where it is in the metadata, or there is none.
    pub(crate) outer_tag: u32,
    /// Where the IP header begins.
    network: u32,
    /// Where the transport header begins.
    transport: u32,
    /// Where that begins which segments do not repeat: behind the last header read.
    pub(crate) payload: u32,
}

impl Headers {
    /// Reads them all.
    #[inline(always)]
    pub(crate) fn read(&mut self, packet: &Packet, link: Link) {
        self.class = match link {
            Link::Ethernet => ethernet::read(self, packet),
            // The sender or the driver has looked already; a nibble could not tell IP from, say, MPLS over PPP.
            Link::Ip => self.read_network(packet, u16::from_be(packet.protocol() as u16), 0),
        };
    }

    /// Reads what an EtherType announces at `offset`; returns its class.
    #[inline(always)]
    fn read_network(&mut self, packet: &Packet, ether_type: u16, offset: u32) -> u8 {
        self.network = offset;
        self.payload = offset;
        match ether_type {
            ethernet::TYPE_IPV4 => ipv4::read(self, packet, offset),
            ethernet::TYPE_IPV6 => ipv6::read(self, packet, offset),
            ethernet::TYPE_ARP => class::ARP,
            _ => class::NON_IP,
        }
    }

    /// Whether this is a TCP packet with SYN, FIN or RST.
    #[inline(always)]
    pub(crate) fn opens_or_closes(&self) -> bool {
        self.tcp_flags & (transport::TCP_SYN | transport::TCP_FIN | transport::TCP_RST) != 0
    }

    /// Fills in the parts of a flow's key that the headers tell; `false` where the packet has no flow.
    #[inline(always)]
    pub(crate) fn flow(&self, packet: &Packet, key: &mut FlowKey) -> bool {
        let addresses = match self.class {
            class::IPV4_TCP | class::IPV4_UDP | class::IPV4_ICMP | class::IPV4_OTHER | class::IPV4_FRAGMENT => {
                ipv4::addresses(packet, self.network, key)
            }
            class::IPV6_TCP | class::IPV6_UDP | class::IPV6_ICMP | class::IPV6_OTHER | class::IPV6_FRAGMENT => {
                ipv6::addresses(packet, self.network, key)
            }
            _ => false,
        };
        key.ip_version = self.ip_version;
        key.protocol = self.protocol;
        addresses && transport::ports(packet, self.class, self.transport, key)
    }
}
