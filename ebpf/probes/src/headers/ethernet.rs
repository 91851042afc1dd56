//! Ethernet II and 802.3 frames with up to two VLAN tags (IEEE 802.3, 802.1Q).

use tidegate_abi::class;

use super::Headers;
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
/// The type within it.
const TYPE: u32 = 12;
/// Tag control information and the type of what follows.
const TAG: u32 = 4;
const MAX_TAGS: u32 = 2;

/// Reads from the start of the frame; returns the packet's class.
#[inline(always)]
pub(super) fn read(headers: &mut Headers, packet: &Packet) -> u8 {
    let mut ether_type = [0; 2];
    if !packet.read(TYPE, &mut ether_type) {
        return class::MALFORMED;
    }
    let outer_in_metadata = packet.tag_in_metadata() != 0;
    let mut tags = u32::from(outer_in_metadata);
    let mut offset = HEADER;
    // One round more than there may be tags: the last one finds the tag too many.
    for _ in 0..=MAX_TAGS {
        headers.payload = offset;
        let (TYPE_C_TAG | TYPE_S_TAG) = u16::from_be_bytes(ether_type) else {
            break;
        };
        if tags == MAX_TAGS {
            return class::TOO_DEEP;
        }
        if !packet.read(offset + 2, &mut ether_type) {
            return class::MALFORMED;
        }
        if tags == 0 {
            headers.outer_tag = TAG;
        }
        tags += 1;
        offset += TAG;
    }
    headers.read_network(packet, u16::from_be_bytes(ether_type), offset)
}
