//! IPv4 (RFC 791).

use tidegate_abi::{FlowKey, class};

use super::{
    Headers, network,
    transport::{self, Classes},
};
use crate::packet::Packet;

/// Bytes of the header without options; what ends it are the addresses.
pub(super) const MIN_HEADER: u32 = 20;
/// Where the two addresses stand in it.
const ADDRESSES: u32 = 12;
/// Fragment offset within the flags' 16 bits.
const FRAGMENT_OFFSET: u16 = 0x1FFF;

const CLASSES: Classes = Classes {
    tcp: class::IPV4_TCP,
    udp: class::IPV4_UDP,
    icmp: class::IPV4_ICMP,
    icmp_protocol: 1,
    other: class::IPV4_OTHER,
};

/// Reads the header at `offset` and what follows; returns the packet's class.
#[inline(always)]
pub(super) fn read(headers: &mut Headers, packet: &Packet, offset: u32, start: &network::Start) -> u8 {
    // Version and length, services, total length, identification, flags and fragment offset, time to live, protocol.
    let [version_and_length, services, total_0, total_1, _, _, fragment_0, fragment_1, _, protocol] = *start;
    if offset + MIN_HEADER > packet.len() {
        return class::MALFORMED;
    }
    let header = u32::from(version_and_length & 0x0F) * 4;
    if version_and_length >> 4 != 4 || header < MIN_HEADER {
        return class::MALFORMED;
    }
    let mut total = u32::from(u16::from_be_bytes([total_0, total_1]));
    if total == 0 && packet.is_segmented() {
        // More than 16 bits can say, within this machine only: "BIG TCP".
        total = packet.len() - offset;
    }
    let end = offset + total;
    if total < header || end > packet.len() {
        return class::MALFORMED;
    }
    headers.protocol = u32::from(protocol);
    headers.dscp = u32::from(services >> 2);
    headers.payload = offset + header;
    if u16::from_be_bytes([fragment_0, fragment_1]) & FRAGMENT_OFFSET != 0 {
        return class::IPV4_FRAGMENT;
    }
    transport::read(headers, packet, offset + header, end, &CLASSES)
}

/// Copies the addresses into the key, `false` where they cannot be read.
#[inline(always)]
pub(super) fn addresses(packet: &Packet, offset: u32, key: &mut FlowKey) -> bool {
    let mut both = [0; 8];
    let read = packet.read(offset + ADDRESSES, &mut both);
    put_addresses(both, key);
    read
}

/// The same, with the ports right behind them.
#[inline(always)]
pub(super) fn addresses_and_ports(packet: &Packet, offset: u32, key: &mut FlowKey) -> bool {
    let mut bytes = [0; 8 + transport::PORTS];
    let read = packet.read(offset + ADDRESSES, &mut bytes);
    let [a, b, c, d, e, f, g, h, ports @ ..] = bytes;
    put_addresses([a, b, c, d, e, f, g, h], key);
    transport::put_ports(ports, key);
    read
}

/// Each as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
#[inline(always)]
fn put_addresses([s0, s1, s2, s3, d0, d1, d2, d3]: [u8; 8], key: &mut FlowKey) {
    key.source = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, s0, s1, s2, s3];
    key.destination = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, d0, d1, d2, d3];
}
