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

use aya_ebpf::bindings::__sk_buff;
use tidegate_abi::{FlowKey, class};

use crate::packet::Packet;

/// What packets of the interface begin with.
#[derive(Clone, Copy)]
pub(crate) enum Link {
    Ethernet,
    Ip,
}

/// What the headers say. Offsets are those in the buffer. Each field is 32 bits wide, for [`Self::recall`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Headers {
    /// Protocol class: `tidegate_abi::class`.
    pub(crate) class: u32,
    /// 4 or 6 where the link says that this is IP, be it malformed; else 0.
    pub(crate) ip_version: u32,
    /// IP protocol number behind all extension headers that were read.
    pub(crate) protocol: u32,
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
    /// Not 0 where [`Self::identify`] found addresses.
    has_addresses: u32,
}

impl Headers {
    /// Reads those of a packet into `memory`, and gives them back from there.
    ///
    /// In functions of their own, for two reasons. All programs share them, which keeps the object small. And the verifier
    /// forgets on which of the many ways through the headers it came: their stack is gone, and what a map holds it takes for
    /// unknown. It goes on once from here instead of once for each way.
    #[inline(always)]
    pub(crate) fn read(packet: &Packet, link: Link, memory: &mut Self) -> Self {
        match link {
            Link::Ethernet => read_ethernet(packet.context(), memory),
            Link::Ip => read_ip(packet.context(), memory),
        }
        memory.recall()
    }

    /// The same as they stand in a map, after they were read.
    ///
    /// Fields of one width are read as they were written, which processors forward.
    #[inline(always)]
    pub(crate) fn recall(&self) -> Self {
        // SAFETY: a reference is valid for reads. Volatile, as the verifier would know what the compiler kept elsewhere.
        unsafe { ptr::read_volatile(self) }
    }

    /// Whether this is a TCP packet with SYN, FIN or RST.
    #[inline(always)]
    pub(crate) fn opens_or_closes(&self) -> bool {
        self.tcp_flags & (transport::TCP_SYN | transport::TCP_FIN | transport::TCP_RST) != 0
    }

    /// Whether packets like this one are added up to flows. Others may have addresses, but no known end of their headers.
    #[inline(always)]
    pub(crate) fn has_flow(&self) -> bool {
        matches!(self.class as u8, class::IPV4_TCP..=class::IPV6_FRAGMENT)
    }

    /// Whether the transport header was read: it is TCP's, UDP's, ICMP's or ICMPv6's, and no later fragment's.
    #[inline(always)]
    pub(crate) fn has_ports(&self) -> bool {
        matches!(
            self.class as u8,
            class::IPV4_TCP | class::IPV4_UDP | class::IPV4_ICMP | class::IPV6_TCP | class::IPV6_UDP | class::IPV6_ICMP
        )
    }

    /// Whether a type stands where others have a port.
    #[inline(always)]
    pub(crate) fn is_icmp(&self) -> bool {
        matches!(self.class as u8, class::IPV4_ICMP | class::IPV6_ICMP)
    }

    /// Whether there may be a transport header that was not read: elsewhere, or behind too many others.
    #[inline(always)]
    pub(crate) fn hides_ports(&self) -> bool {
        matches!(self.class as u8, class::IPV4_FRAGMENT | class::IPV6_FRAGMENT | class::TOO_DEEP)
    }

    /// Fills in a flow's key, of which a packet without a flow has parts, too; `false` where it has no addresses.
    ///
    /// `self` is what [`Self::read`] left in memory.
    #[inline(always)]
    pub(crate) fn identify(&mut self, packet: &Packet, direction: u8, key: &mut FlowKey) -> bool {
        key.ifindex = packet.ifindex();
        key.direction = direction;
        identify(packet.context(), self, key);
        self.recall().has_addresses != 0
    }
}

#[inline(never)]
fn read_ethernet(context: *mut __sk_buff, memory: &mut Headers) {
    let packet = Packet::new(context);
    let mut headers = Headers::default();
    headers.class = u32::from(ethernet::read(&mut headers, &packet));
    *memory = headers;
}

#[inline(never)]
fn read_ip(context: *mut __sk_buff, memory: &mut Headers) {
    let packet = Packet::new(context);
    let mut headers = Headers::default();
    let mut start = network::Start::default();
    // Where the packet is shorter, the start is no version of IP.
    let _whole = packet.read(0, &mut start);
    // The sender or the driver has looked already; a nibble could not tell IP from, say, MPLS over PPP.
    let ether_type = u16::from_be(packet.protocol() as u16);
    headers.class = u32::from(network::read(&mut headers, &packet, ether_type, 0, &start));
    *memory = headers;
}

#[inline(never)]
fn identify(context: *mut __sk_buff, headers: &mut Headers, key: &mut FlowKey) {
    let packet = Packet::new(context);
    key.source_port = 0;
    key.destination_port = 0;
    key.ip_version = headers.ip_version as u8;
    key.protocol = headers.protocol as u8;
    let class = headers.class as u8;
    if class == class::MALFORMED {
        // Not those of the packet before.
        key.source = [0; 16];
        key.destination = [0; 16];
        key.protocol = 0;
        headers.has_addresses = 0;
        return;
    }
    let behind = headers.transport - headers.network;
    let found = match headers.ip_version {
        // Both in one call, where no options and no other headers stand between them: nearly always.
        4 if headers.has_ports() && behind == ipv4::MIN_HEADER => {
            ipv4::addresses_and_ports(&packet, headers.network, key)
        }
        6 if headers.has_ports() && behind == ipv6::HEADER => ipv6::addresses_and_ports(&packet, headers.network, key),
        4 => ipv4::addresses(&packet, headers.network, key) && transport::ports(&packet, headers, key),
        6 => ipv6::addresses(&packet, headers.network, key) && transport::ports(&packet, headers, key),
        _ => false,
    };
    if headers.is_icmp() {
        // What was read there are type and code.
        key.destination_port = key.source_port;
        key.source_port = 0;
    }
    headers.has_addresses = u32::from(found);
}
