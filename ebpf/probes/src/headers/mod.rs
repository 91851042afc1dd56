//! Reads a packet's headers, from the link's to the transport's.
//!
//! Every length that a header states is held against what is there before anything behind it is read; where they
//! contradict each other, the packet is [`class::MALFORMED`] and has no flow. A transport header must be there whole
//! in a first fragment, too (RFC 1858). What nothing here depends on, such as checksums, UDP's length and the body of
//! ARP, is not judged.

mod ethernet;
mod ipv4;
mod ipv6;
mod network;
mod transport;

use core::ptr;

use tidegate_abi::{FlowKey, class};

use crate::packet::Packet;

/// What packets of the interface begin with.
#[derive(Clone, Copy)]
pub(crate) enum Link {
    Ethernet,
    Ip,
}

/// What the headers say. Offsets are those in the buffer. Each field is 32 bits wide, for [`Self::forget_the_way`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Headers {
    /// Protocol class: `tidegate_abi::class`.
    pub(crate) class: u32,
    /// 4 or 6; 0 without an IP header.
    ip_version: u32,
    /// IP protocol number behind all extension headers that were read.
    protocol: u32,
    /// Differentiated services code point (RFC 2474).
    pub(crate) dscp: u32,
    /// Flags of the TCP header, else 0.
    pub(crate) tcp_flags: u32,
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
    pub(crate) fn read(packet: &Packet, link: Link) -> Self {
        let mut headers = Self::default();
        let class = match link {
            Link::Ethernet => ethernet::read(&mut headers, packet),
            Link::Ip => {
                let mut start = network::Start::default();
                // Where the packet is shorter, the start is no version of IP.
                let _whole = packet.read(0, &mut start);
                // The sender or the driver has looked already; a nibble could not tell IP from, say, MPLS over PPP.
                network::read(&mut headers, packet, u16::from_be(packet.protocol() as u16), 0, &start)
            }
        };
        headers.class = u32::from(class);
        headers
    }

    /// The same, by way of `memory` in a map.
    ///
    /// The verifier takes a map's content for unknown. It thereby forgets on which of the many ways through the
    /// headers it came, and goes on once from here instead of once for each. Fields of one width are read as they
    /// were written, which processors forward.
    #[inline(always)]
    pub(crate) fn forget_the_way(self, memory: &mut Self) -> Self {
        // SAFETY: a reference is valid for writes and reads. Volatile, as the compiler would know better than to read
        // again what it has just written.
        unsafe {
            ptr::write_volatile(memory, self);
            ptr::read_volatile(memory)
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
        let class = self.class as u8;
        let addresses = match class {
            class::IPV4_TCP | class::IPV4_UDP | class::IPV4_ICMP | class::IPV4_OTHER | class::IPV4_FRAGMENT => {
                ipv4::addresses(packet, self.network, key)
            }
            class::IPV6_TCP | class::IPV6_UDP | class::IPV6_ICMP | class::IPV6_OTHER | class::IPV6_FRAGMENT => {
                ipv6::addresses(packet, self.network, key)
            }
            _ => false,
        };
        key.ip_version = self.ip_version as u8;
        key.protocol = self.protocol as u8;
        addresses && transport::ports(packet, class, self.transport, key)
    }
}
