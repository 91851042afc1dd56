//! Ethernet II and 802.3 frames with up to two VLAN tags (IEEE 802.3, 802.1Q).

use tidegate_abi::class;

use super::{Headers, network};
use crate::packet::Packet;

pub(super) const TYPE_IPV4: u16 = 0x0800;
pub(super) const TYPE_ARP: u16 = 0x0806;
pub(super) const TYPE_IPV6: u16 = 0x86DD;
/// Customer tag, 802.1Q.
const TYPE_C_TAG: u16 = 0x8100;
/// Service tag, 802.1ad.
const TYPE_S_TAG: u16 = 0x88A8;

/// Two addresses and a type.
const HEADER: u32 = 14;
/// Tag control information and the type of what follows.
const TAG: u32 = 4;

/// Reads from the start of the frame; returns the packet's class.
#[inline(always)]
pub(super) fn read(headers: &mut Headers, packet: &Packet) -> u8 {
    let mut start = Start::default();
    headers.payload = HEADER;
    if !start.read(packet, HEADER) {
        return class::MALFORMED;
    }
    let tag_in_metadata = packet.tag_in_metadata() != 0;
    if start.is_tag() {
        if !start.read(packet, HEADER + TAG) {
            return class::MALFORMED;
        }
        headers.payload = HEADER + TAG;
        if !tag_in_metadata {
            headers.outer_tag = TAG;
        }
        // With the one in the metadata, this was the second.
        if start.is_tag() && !tag_in_metadata {
            if !start.read(packet, HEADER + TAG + TAG) {
                return class::MALFORMED;
            }
            headers.payload = HEADER + TAG + TAG;
        }
        if start.is_tag() {
            return class::TOO_DEEP;
        }
    }
    network::read(headers, packet, start.ether_type(), headers.payload, &start.network)
}

/// An EtherType and the start of what it announces, read in one call.
#[repr(C)]
#[derive(Default)]
struct Start {
    ether_type: [u8; 2],
    network: network::Start,
}

impl Start {
    /// Reads the EtherType that ends at `offset`, and behind it what there is; `false` where the frame ends before
    /// it. Where it ends within the network header's start, that stays zero, which is no version of IP.
    #[inline(always)]
    fn read(&mut self, packet: &Packet, offset: u32) -> bool {
        let mut bytes = [0; 2 + network::START];
        let whole = packet.read(offset - 2, &mut bytes);
        let [type_0, type_1, network @ ..] = bytes;
        self.ether_type = [type_0, type_1];
        self.network = network;
        whole || packet.read(offset - 2, &mut self.ether_type)
    }

    #[inline(always)]
    fn ether_type(&self) -> u16 {
        u16::from_be_bytes(self.ether_type)
    }

    #[inline(always)]
    fn is_tag(&self) -> bool {
        matches!(self.ether_type(), TYPE_C_TAG | TYPE_S_TAG)
    }
}
