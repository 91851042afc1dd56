//! The network header: what of it is read at once, and who reads on.

use tidegate_abi::class;

use super::{Headers, ethernet, ipv4, ipv6};
use crate::packet::Packet;

/// Bytes that both versions of IP are recognised and measured by: up to IPv4's protocol, beyond IPv6's next header.
pub(super) const START: usize = 10;

/// The first bytes of a network header; zero where the packet ends within them.
pub(super) type Start = [u8; START];

/// Reads what an EtherType announces at `offset`, where `start` stands; returns its class.
#[inline(always)]
pub(super) fn read(headers: &mut Headers, packet: &Packet, ether_type: u16, offset: u32, start: &Start) -> u8 {
    headers.network = offset;
    headers.payload = offset;
    match ether_type {
        ethernet::TYPE_IPV4 => {
            headers.ip_version = 4;
            ipv4::read(headers, packet, offset, start)
        }
        ethernet::TYPE_IPV6 => {
            headers.ip_version = 6;
            ipv6::read(headers, packet, offset, start)
        }
        ethernet::TYPE_ARP => class::ARP,
        _ => class::NON_IP,
    }
}
