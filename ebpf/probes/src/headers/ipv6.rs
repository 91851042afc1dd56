//! IPv6 and its extension headers (RFC 8200).

use tidegate_abi::{FlowKey, class};

use super::{
    Headers,
    transport::{self, Classes},
};
use crate::packet::Packet;

/// Bytes of the header.
const HEADER: u32 = 40;
/// Where the two addresses stand in it.
const SOURCE: u32 = 8;
const DESTINATION: u32 = 24;
/// A chain with more is not read to its end.
const MAX_EXTENSIONS: u32 = 6;
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
pub(super) fn read(headers: &mut Headers, packet: &Packet, offset: u32) -> u8 {
    // Version, class and label; payload length; next header.
    let mut bytes = [0; 7];
    if offset + HEADER > packet.len() || !packet.read(offset, &mut bytes) {
        return class::MALFORMED;
    }
    let [version_and_services, services, _, _, length_0, length_1, next] = bytes;
    if version_and_services >> 4 != 6 {
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
    headers.ip_version = 6;
    headers.dscp = (version_and_services & 0x0F) << 2 | services >> 6;
    match extensions(headers, packet, next, offset + HEADER, end) {
        CHAIN_ENDS => transport::read(headers, packet, headers.payload, end, &CLASSES),
        class => class,
    }
}

/// What [`extensions`] answers instead of a class: a transport header, or none, is next.
const CHAIN_ENDS: u8 = u8::MAX;

/// Walks the chain of extension headers. Returns the packet's class where the chain settles it, else [`CHAIN_ENDS`].
#[inline(always)]
fn extensions(headers: &mut Headers, packet: &Packet, first: u8, start: u32, end: u32) -> u8 {
    let mut next = first;
    let mut offset = start;
    // One round more than there may be headers: the last one finds the end of the chain, or the header too many.
    for seen in 0..=MAX_EXTENSIONS {
        headers.protocol = next;
        headers.payload = offset;
        if !matches!(
            next,
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS | MOBILITY | HOST_IDENTITY | SHIM6
        ) {
            return CHAIN_ENDS;
        }
        if seen == MAX_EXTENSIONS {
            break;
        }
        // Hop-by-hop options stand first or nowhere (section 4.1).
        if next == HOP_BY_HOP && seen != 0 {
            return class::MALFORMED;
        }
        // Next header; length; of a fragment header, its offset and flags.
        let mut bytes = [0; 4];
        if offset + MIN_EXTENSION > end || !packet.read(offset, &mut bytes) {
            return class::MALFORMED;
        }
        let [following, units, fragment_0, fragment_1] = bytes;
        offset += match next {
            FRAGMENT => MIN_EXTENSION,
            // In units of 4, less 2 (RFC 4302, section 2.2); the shortest has no integrity value.
            AUTHENTICATION => (u32::from(units) + 2) * 4,
            _ => (u32::from(units) + 1) * 8,
        };
        if offset > end {
            return class::MALFORMED;
        }
        if next == FRAGMENT && u16::from_be_bytes([fragment_0, fragment_1]) & FRAGMENT_OFFSET != 0 {
            headers.protocol = following;
            headers.payload = offset;
            return class::IPV6_FRAGMENT;
        }
        next = following;
    }
    class::TOO_DEEP
}

/// Copies the addresses into the key.
#[inline(always)]
pub(super) fn addresses(packet: &Packet, offset: u32, key: &mut FlowKey) -> bool {
    packet.copy(offset + SOURCE, &mut key.source) && packet.copy(offset + DESTINATION, &mut key.destination)
}
