//! IPv6 and its extension headers (RFC 8200).

use tidegate_abi::{FlowKey, class};

use super::{
    Headers, network,
    transport::{self, Classes},
};
use crate::packet::Packet;

/// Bytes of the header; what ends it are the addresses.
pub(super) const HEADER: u32 = 40;
/// Where the two addresses stand in it.
const ADDRESSES: u32 = 8;
/// Bytes of the shortest extension header.
const MIN_EXTENSION: u32 = 8;
/// Fragment offset within the fragment header's 16 bits.
const FRAGMENT_OFFSET: u16 = 0xFFF8;

// Protocol numbers of extension headers (IANA, "IPv6 Extension Header Types"). ESP ends the chain, as what follows
// is encrypted; those for experiments (253, 254) count as an unknown transport.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

const CLASSES: Classes = Classes {
    tcp: class::IPV6_TCP,
    udp: class::IPV6_UDP,
    icmp: class::IPV6_ICMP,
    icmp_protocol: 58,
    other: class::IPV6_OTHER,
};

/// Reads the header at `offset` and what follows; returns the packet's class.
#[inline(always)]
pub(super) fn read(headers: &mut Headers, packet: &Packet, offset: u32, start: &network::Start) -> u8 {
    // Version, class and label; payload length; next header.
    let [version_and_services, services, _, _, length_0, length_1, next, ..] = *start;
    if offset + HEADER > packet.len() || version_and_services >> 4 != 6 {
        return class::MALFORMED;
    }
    let mut end = offset + HEADER + u32::from(u16::from_be_bytes([length_0, length_1]));
    if end == offset + HEADER && (next == HOP_BY_HOP || packet.is_segmented()) {
        // The length is in a jumbo payload option (RFC 2675), or nowhere ("BIG TCP" within this machine).
        end = packet.len();
    }
    if end > packet.len() {
        return class::MALFORMED;
    }
    headers.dscp = u32::from((version_and_services & 0x0F) << 2 | services >> 6);
    headers.protocol = u32::from(next);
    headers.payload = offset + HEADER;
    let mut settled = UNSETTLED;
    let mut follow = |seen| extension(headers, packet, end, seen, &mut settled);
    // As many calls as there may be headers, not a loop: the verifier of Linux 6.1 refuses shapes that compilers
    // give to loops ("back-edge"), while it follows this once from end to end.
    let _over = follow(0) && follow(1) && follow(2) && follow(3) && follow(4) && follow(5);
    if settled != UNSETTLED {
        return settled;
    }
    if is_extension(headers.protocol as u8) {
        return class::TOO_DEEP;
    }
    transport::read(headers, packet, headers.payload, end, &CLASSES)
}

/// No class: the chain of extension headers has not settled it.
const UNSETTLED: u8 = u8::MAX;

const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS | MOBILITY | HOST_IDENTITY | SHIM6
    )
}

/// Reads the extension header that is next, `seen` others having been read. `false` where the chain is over: because
/// none is next, or because this one settles the packet's class.
#[inline(always)]
fn extension(headers: &mut Headers, packet: &Packet, end: u32, seen: u32, settled: &mut u8) -> bool {
    let this = headers.protocol as u8;
    let offset = headers.payload;
    if !is_extension(this) {
        return false;
    }
    // Next header; length; of a fragment header, its offset and flags.
    let mut bytes = [0; 4];
    // Hop-by-hop options stand first or nowhere (section 4.1).
    if (this == HOP_BY_HOP && seen != 0) || offset + MIN_EXTENSION > end || !packet.read(offset, &mut bytes) {
        *settled = class::MALFORMED;
        return false;
    }
    let [next, units, fragment_0, fragment_1] = bytes;
    let length = match this {
        FRAGMENT => MIN_EXTENSION,
        // In units of 4, less 2 (RFC 4302, section 2.2); the shortest has no integrity value.
        AUTHENTICATION => (u32::from(units) + 2) * 4,
        _ => (u32::from(units) + 1) * 8,
    };
    if offset + length > end {
        *settled = class::MALFORMED;
        return false;
    }
    headers.protocol = u32::from(next);
    headers.payload = offset + length;
    if this == FRAGMENT && u16::from_be_bytes([fragment_0, fragment_1]) & FRAGMENT_OFFSET != 0 {
        *settled = class::IPV6_FRAGMENT;
        return false;
    }
    true
}

/// Copies the addresses into the key; `false` where they cannot be read.
#[inline(always)]
pub(super) fn addresses(packet: &Packet, offset: u32, key: &mut FlowKey) -> bool {
    let mut both = [0; 32];
    let read = packet.read(offset + ADDRESSES, &mut both);
    put_addresses(&both, key);
    read
}

/// The same, with the ports right behind them.
#[inline(always)]
pub(super) fn addresses_and_ports(packet: &Packet, offset: u32, key: &mut FlowKey) -> bool {
    let mut bytes = [0; 32 + transport::PORTS];
    let read = packet.read(offset + ADDRESSES, &mut bytes);
    put_addresses(&bytes, key);
    let [.., s0, s1, d0, d1] = bytes;
    transport::put_ports([s0, s1, d0, d1], key);
    read
}

#[inline(always)]
fn put_addresses(bytes: &[u8], key: &mut FlowKey) {
    key.source.copy_from_slice(&bytes[..16]);
    key.destination.copy_from_slice(&bytes[16..32]);
}
