//! The way from a packet to its rule, as the programs in the kernel go it.

#![expect(clippy::cast_possible_truncation, reason = "words are halves of what stands in a block, and meant to be cut")]

use std::{net::IpAddr, sync::Arc};

use tidegate_abi::{
    direction,
    policy::{
        Block, Header, INTERFACES, LARGE_BLOCKS, MAX_DEPTH, MAX_INTERFACE_LISTS, PROTOCOL_GROUPS, Single, Tree,
        address, decision,
    },
};
use tidegate_values::Patterns;

use super::read;
use crate::evaluate::{Content, Direction, Packet, Upper};

/// What of a packet and its interface a judgement depends on.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// [`direction::INGRESS`] or [`direction::EGRESS`].
    pub direction: u8,
    /// Source at ingress, destination at egress.
    pub peer: IpAddr,
    /// `None` where the header chain is too long.
    pub protocol: Option<u8>,
    /// Destination port, or the type of an ICMP or ICMPv6 message; `None` for all others and for later fragments.
    pub port: Option<u16>,
    /// The peer's port; `None` for all but TCP and UDP and for later fragments.
    pub peer_port: Option<u16>,
    /// Bit n: the interface is in interface list n.
    pub interfaces: u64,
}

impl Key {
    /// Of a packet on an interface. `None` where no rule can match: its headers are not well-formed, or it is not IP.
    #[must_use]
    pub fn of(packet: &Packet<'_>, interface_lists: &[Arc<[String]>]) -> Option<Self> {
        let Content::Ip { peer, upper } = packet.content else { return None };
        let direction = match packet.direction {
            Direction::Ingress => direction::INGRESS,
            Direction::Egress => direction::EGRESS,
        };
        let (port, peer_port) = match upper {
            Upper::Tcp { source, destination } | Upper::Udp { source, destination } => {
                let peer_port = if direction == direction::INGRESS { source } else { destination };
                (Some(destination), Some(peer_port))
            }
            Upper::Icmp { kind } => (Some(kind.into()), None),
            Upper::Other { .. } | Upper::Fragment { .. } | Upper::TooDeep => (None, None),
        };
        let holds = |list: &[String]| Patterns::parse(list).is_ok_and(|patterns| patterns.matches(packet.interface));
        let masks = interface_lists.iter().enumerate().map(|(number, list)| u64::from(holds(list)) << number);
        Some(Self { direction, peer, protocol: packet.protocol(), port, peer_port, interfaces: masks.sum() })
    }
}

/// Number of the rule that decides, 0 where none does; `None` where the blocks are none that the compiler makes.
#[must_use]
pub fn walk(blocks: &[Block], key: &Key) -> Option<u32> {
    let header: Header = read(blocks.first()?);
    let word = match key.peer {
        IpAddr::V4(peer) => search_v4(blocks, header.v4, peer.to_bits())?,
        IpAddr::V6(peer) => {
            let (high, low) = ((peer.to_bits() >> 64) as u64, peer.to_bits() as u64);
            within(blocks, search(blocks, header.v6, high)?, low)?
        }
    };
    let argument = word & address::ARGUMENT;
    match word >> address::KIND_SHIFT {
        address::RULE => return Some(argument).filter(|rule| *rule < header.rule_count),
        address::CLASS => {}
        _ => return None,
    }
    // Without a protocol only rules for all protocols count: those of the group that no rule names.
    let group = key.protocol.map_or(Some(0), |protocol| {
        let (block, byte) = (PROTOCOL_GROUPS as usize + usize::from(protocol) / 64, usize::from(protocol) % 64);
        Some((blocks.get(block)?[byte / 8] >> (byte % 8 * 8)) as u32 & 0xFF)
    })?;
    if group >= header.groups || key.direction > direction::EGRESS {
        return None;
    }
    let row = argument.checked_mul(2 * header.groups)? + u32::from(key.direction) * header.groups + group;
    let mut decision = word_at(blocks, header.classes.checked_add(row)?)?;
    for (kind, port) in [(decision::PORT, key.port), (decision::PEER_PORT, key.peer_port)] {
        if decision >> decision::KIND_SHIFT == kind {
            let at = decision & decision::ARGUMENT;
            decision = match port {
                None => word_at(blocks, at)?,
                Some(port) => search(blocks, word_at(blocks, at + 1)?, port.into())?,
            };
        }
    }
    if decision >> decision::KIND_SHIFT == decision::INTERFACE {
        decision = by_interface(blocks, decision & decision::ARGUMENT, key.interfaces)?;
    }
    match decision >> decision::KIND_SHIFT {
        decision::NONE => (decision == 0).then_some(0),
        decision::RULE => Some(decision & decision::ARGUMENT).filter(|rule| *rule < header.rule_count),
        _ => None,
    }
}

/// Goes on by the low half of an IPv6 address where its high half does not decide.
fn within(blocks: &[Block], word: u32, low: u64) -> Option<u32> {
    let argument = word & address::ARGUMENT;
    match word >> address::KIND_SHIFT {
        address::LOW => search(blocks, argument, low),
        address::SINGLE => {
            let block = blocks.get(argument as usize / 4)?;
            let single: Single = read(&block[argument as usize % 4 * 2..]);
            Some(if single.low == low { single.word } else { single.others })
        }
        _ => Some(word),
    }
}

fn search(blocks: &[Block], tree: u32, key: u64) -> Option<u32> {
    let Tree { root, depth } = Tree::unpack(tree);
    let at = descend(blocks, root, (1..=MAX_DEPTH).contains(&depth).then_some(depth)?, key)?;
    word_at(blocks, at)
}

fn search_v4(blocks: &[Block], tree: u32, address: u32) -> Option<u32> {
    let Tree { root, depth } = Tree::unpack(tree);
    let above = depth.checked_sub(1).filter(|above| *above < MAX_DEPTH)?;
    let leaf = descend(blocks, root, above, address.into())? * 16;
    let keys = (0..7).map(|half| word_at(blocks, leaf + half)).collect::<Option<Vec<_>>>()?;
    let child = keys.iter().filter(|greatest| **greatest < address).count() as u32;
    word_at(blocks, leaf + 8 + child)
}

/// What the nodes of a tree refer to so many levels below its root.
fn descend(blocks: &[Block], root: u32, levels: u32, key: u64) -> Option<u32> {
    let mut at = root;
    for _ in 0..levels {
        let node = blocks.get(at as usize)?;
        let child = node[..7].iter().filter(|greatest| **greatest < key).count() as u32;
        at = u32::try_from(node[7]).ok()?.checked_add(child)?;
    }
    Some(at)
}

fn by_interface(blocks: &[Block], chain: u32, interfaces: u64) -> Option<u32> {
    for entry in chain..=chain + MAX_INTERFACE_LISTS {
        let entry = blocks.get(entry as usize / 8)?[entry as usize % 8];
        let (decision, list) = ((entry >> 32) as u32, entry as u32);
        if list == decision::ANY_INTERFACE || interfaces >> (list % 64) & 1 == 1 {
            return Some(decision);
        }
    }
    None
}

fn word_at(blocks: &[Block], index: u32) -> Option<u32> {
    let pair = blocks.get(index as usize / 16)?[index as usize / 2 % 8];
    Some((pair >> (index % 2 * 32)) as u32)
}

const _: () = assert!(INTERFACES == PROTOCOL_GROUPS + 4 && LARGE_BLOCKS * 16 <= decision::ARGUMENT);
