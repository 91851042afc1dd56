//! TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792) and ICMPv6 (RFC 4443).

use tidegate_abi::{FlowKey, class};

use super::Headers;
use crate::packet::Packet;

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

pub(super) const TCP_FIN: u32 = 0x01;
pub(super) const TCP_SYN: u32 = 0x02;
pub(super) const TCP_RST: u32 = 0x04;

/// Bytes of the header without options.
const TCP_MIN_HEADER: u32 = 20;
/// Where the header's length and the flags stand.
const TCP_LENGTH: u32 = 12;
const UDP_HEADER: u32 = 8;
/// No message of ICMP or ICMPv6 is shorter.
const ICMP_MIN: u32 = 8;

/// Bytes of both ports.
pub(super) const PORTS: usize = 4;

/// The classes of one IP version.
pub(super) struct Classes {
    pub(super) tcp: u8,
    pub(super) udp: u8,
    pub(super) icmp: u8,
    pub(super) icmp_protocol: u8,
    pub(super) other: u8,
}

/// Reads the header at `offset` of an IP packet that ends at `end`; returns the packet's class.
#[inline(always)]
pub(super) fn read(headers: &mut Headers, packet: &Packet, offset: u32, end: u32, classes: &Classes) -> u8 {
    headers.transport = offset;
    let protocol = headers.protocol as u8;
    if protocol == PROTOCOL_TCP {
        let mut bytes = [0; 2];
        if offset + TCP_MIN_HEADER > end || !packet.read(offset + TCP_LENGTH, &mut bytes) {
            return class::MALFORMED;
        }
        let [length, flags] = bytes;
        let header = u32::from(length >> 4) * 4;
        if header < TCP_MIN_HEADER || offset + header > end {
            return class::MALFORMED;
        }
        headers.tcp_flags = u32::from(flags);
        headers.payload = offset + header;
        classes.tcp
    } else if protocol == PROTOCOL_UDP {
        if offset + UDP_HEADER > end {
            return class::MALFORMED;
        }
        headers.payload = offset + UDP_HEADER;
        classes.udp
    } else if protocol == classes.icmp_protocol {
        if offset + ICMP_MIN > end { class::MALFORMED } else { classes.icmp }
    } else {
        classes.other
    }
}

/// Fills in the ports, where there are some; `false` where they cannot be read.
#[inline(always)]
pub(super) fn ports(packet: &Packet, headers: &Headers, key: &mut FlowKey) -> bool {
    if !headers.has_ports() {
        return true;
    }
    let mut bytes = [0; PORTS];
    let read = packet.read(headers.transport, &mut bytes);
    put_ports(bytes, key);
    read
}

/// The first bytes of a transport header as ports.
#[inline(always)]
pub(super) fn put_ports([s0, s1, d0, d1]: [u8; PORTS], key: &mut FlowKey) {
    key.source_port = u16::from_be_bytes([s0, s1]);
    key.destination_port = u16::from_be_bytes([d0, d1]);
}
