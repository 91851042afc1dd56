//! Packets at random: mostly well-formed, with every header the programs know, then often spoilt.

use fastrand::Rng;

/// What `BPF_PROG_TEST_RUN` takes everywhere.
const MIN_BYTES: usize = 14;
const MAX_BYTES: usize = 3_500;

/// What packets shall be about: seven of eight draw from these, where there are any.
#[derive(Debug, Default)]
pub(crate) struct Aim {
    pub(crate) ether_types: Vec<u16>,
    pub(crate) v4: Vec<u32>,
    pub(crate) v6: Vec<u128>,
    pub(crate) protocols: Vec<u8>,
    pub(crate) ports: Vec<u16>,
    pub(crate) icmp_types: Vec<u8>,
}

/// An Ethernet frame.
pub(crate) fn frame(rng: &mut Rng, aim: &Aim) -> Vec<u8> {
    let mut frame = Vec::new();
    random(rng, &mut frame, 12);
    for _ in 0..*pick(rng, &[0, 0, 0, 0, 1, 1, 2, 2, 3, 4]) {
        frame.extend(pick(rng, &[0x8100_u16, 0x88A8]).to_be_bytes());
        random(rng, &mut frame, 2);
    }
    let tags_end = frame.len();
    let ether_type = *pick(rng, &[0x0800, 0x0800, 0x0800, 0x86DD, 0x86DD, 0x86DD, 0x0806, 0x9100, 0x0026, 0x8847]);
    let ether_type = aimed(rng, &aim.ether_types).unwrap_or(ether_type);
    frame.extend(u16::to_be_bytes(ether_type));
    match ether_type {
        0x0800 => ipv4(rng, aim, &mut frame),
        0x86DD => ipv6(rng, aim, &mut frame),
        _ => {
            let length = rng.usize(..200);
            random(rng, &mut frame, length);
        }
    }
    spoil(rng, &mut frame, tags_end);
    bound(rng, &mut frame);
    frame
}

/// A packet for a link without a header, and the EtherType that it goes by.
///
/// The kernel takes that from bytes 12 and 13, as if this were a frame: of IPv4 the start of the source address, of
/// IPv6 a part of it.
pub(crate) fn headerless(rng: &mut Rng, aim: &Aim) -> (Vec<u8>, u16) {
    let mut packet = Vec::new();
    let own: u16 = if rng.bool() {
        ipv4(rng, aim, &mut packet);
        0x0800
    } else {
        ipv6(rng, aim, &mut packet);
        0x86DD
    };
    spoil(rng, &mut packet, 0);
    let ether_type = if rng.u8(..20) == 0 { *pick(rng, &[0x0800, 0x86DD, 0x0806, 0x8847]) } else { own };
    let missing = MIN_BYTES.saturating_sub(packet.len());
    random(rng, &mut packet, missing);
    packet[12..14].copy_from_slice(&ether_type.to_be_bytes());
    bound(rng, &mut packet);
    (packet, ether_type)
}

fn ipv4(rng: &mut Rng, aim: &Aim, packet: &mut Vec<u8>) {
    let start = packet.len();
    let words = *pick(rng, &[5_u8, 5, 5, 6, 10, 15]);
    let protocol = *pick(rng, &[6, 6, 6, 17, 17, 1, 47, 50, 51, 58, 132]);
    let protocol = aimed(rng, &aim.protocols).unwrap_or(protocol);
    packet.push(0x40 | words);
    packet.push(rng.u8(..));
    packet.extend([0; 2]);
    random(rng, packet, 2);
    let fragment: u16 = *pick(rng, &[0, 0, 0, 0x4000, 0x4000, 0x2000, 0x2001, 0x00B9, 0x1FFF]);
    packet.extend(fragment.to_be_bytes());
    packet.push(64);
    packet.push(protocol);
    random(rng, packet, 2 + 8 + (usize::from(words) - 5) * 4);
    for at in [12, 16] {
        if let Some(address) = aimed(rng, &aim.v4) {
            packet[start + at..][..4].copy_from_slice(&address.to_be_bytes());
        }
    }
    transport(rng, aim, packet, protocol);
    let total = u16::try_from(packet.len() - start).unwrap();
    packet[start + 2..start + 4].copy_from_slice(&total.to_be_bytes());
}

fn ipv6(rng: &mut Rng, aim: &Aim, packet: &mut Vec<u8>) {
    let start = packet.len();
    let transport_protocol = *pick(rng, &[6, 6, 6, 17, 17, 58, 1, 50, 59, 89, 253]);
    let transport_protocol = aimed(rng, &aim.protocols).unwrap_or(transport_protocol);
    let chain = chain(rng);
    let following = |index: usize| chain.get(index).copied().unwrap_or(transport_protocol);
    packet.extend([0x60 | rng.u8(..16), rng.u8(..), rng.u8(..), rng.u8(..)]);
    packet.extend([0, 0, following(0), 64]);
    random(rng, packet, 32);
    for at in [8, 24] {
        if let Some(address) = aimed(rng, &aim.v6) {
            packet[start + at..][..16].copy_from_slice(&address.to_be_bytes());
        }
    }
    for (index, header) in chain.iter().enumerate() {
        packet.push(following(index + 1));
        match header {
            44 => {
                packet.push(0);
                let offset: u16 = *pick(rng, &[0, 0, 1, 0x0006, 0x0008, 0xFFF9]);
                packet.extend(offset.to_be_bytes());
                random(rng, packet, 4);
            }
            51 => {
                let units = rng.u8(..12);
                packet.push(units);
                random(rng, packet, (usize::from(units) + 2) * 4 - 2);
            }
            _ => {
                let units = *pick(rng, &[0, 0, 0, 1, 2, 31]);
                packet.push(units);
                random(rng, packet, (usize::from(units) + 1) * 8 - 2);
            }
        }
    }
    transport(rng, aim, packet, transport_protocol);
    // A jumbogram states no length; its option is not judged.
    let jumbo = chain.first() == Some(&0) && rng.u8(..10) == 0;
    let length = if jumbo { 0 } else { u16::try_from(packet.len() - start - 40).unwrap() };
    packet[start + 4..start + 6].copy_from_slice(&length.to_be_bytes());
}

/// Protocol numbers of extension headers, up to two more than are read.
fn chain(rng: &mut Rng) -> Vec<u8> {
    let length = *pick(rng, &[0, 0, 0, 1, 1, 2, 3, 5, 6, 7, 8]);
    let mut chain: Vec<u8> = (0..length).map(|_| *pick(rng, &[43, 44, 51, 60, 60, 135, 139, 140])).collect();
    if let Some(first) = chain.first_mut()
        && rng.bool()
    {
        *first = 0;
    }
    if let Some(last) = chain.last_mut()
        && rng.u8(..10) == 0
    {
        *last = 0;
    }
    chain
}

fn transport(rng: &mut Rng, aim: &Aim, packet: &mut Vec<u8>, protocol: u8) {
    let start = packet.len();
    match protocol {
        6 => {
            random(rng, packet, 12);
            let words = *pick(rng, &[5_u8, 5, 8, 10, 15]);
            packet.push(words << 4 | rng.u8(..16));
            packet.push(*pick(rng, &[0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0xFF, 0x00]));
            random(rng, packet, 6 + (usize::from(words) - 5) * 4);
        }
        17 => {
            random(rng, packet, 4);
            let length = rng.u16(..);
            packet.extend(length.to_be_bytes());
            random(rng, packet, 2);
        }
        1 | 58 => random(rng, packet, 8),
        _ => {}
    }
    match protocol {
        6 | 17 => {
            for at in [0, 2] {
                if let Some(port) = aimed(rng, &aim.ports) {
                    packet[start + at..][..2].copy_from_slice(&port.to_be_bytes());
                }
            }
        }
        1 | 58 => {
            if let Some(kind) = aimed(rng, &aim.icmp_types) {
                packet[start] = kind;
            }
        }
        _ => {}
    }
    let payload = *pick(rng, &[0, 0, 1, 20, 500, 1_400, 2_800]);
    let payload = if payload == 0 { 0 } else { rng.usize(..payload) };
    random(rng, packet, payload);
}

/// Leaves half of the packets as they are; shortens, lengthens or overwrites the others behind `from`.
fn spoil(rng: &mut Rng, packet: &mut Vec<u8>, from: usize) {
    match rng.u8(..8) {
        0 => packet.truncate(rng.usize(from..=packet.len())),
        1 => {
            let head = packet.len().min(from + 90);
            packet.truncate(rng.usize(from..=head));
        }
        2 => {
            let more = rng.usize(..64);
            random(rng, packet, more);
        }
        3 => {
            let head = packet.len().min(from + 120);
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(from..head);
                packet[at] = rng.u8(..);
            }
        }
        _ => {}
    }
}

/// Brings the packet to a length that `BPF_PROG_TEST_RUN` takes. A header of IP cut short is left to tagged frames.
fn bound(rng: &mut Rng, packet: &mut Vec<u8>) {
    packet.truncate(MAX_BYTES);
    let missing = MIN_BYTES.saturating_sub(packet.len());
    random(rng, packet, missing);
    let least = match packet[12..14] {
        [0x08, 0x00] => 14 + 20,
        [0x86, 0xDD] => 14 + 40,
        _ => MIN_BYTES,
    };
    let missing = least.saturating_sub(packet.len());
    random(rng, packet, missing);
}

fn random(rng: &mut Rng, packet: &mut Vec<u8>, count: usize) {
    packet.extend(std::iter::repeat_with(|| rng.u8(..)).take(count));
}

/// One of what packets shall be about. Draws nothing where that is nothing, so that seeds without an aim keep their packets.
fn aimed<T: Copy>(rng: &mut Rng, choices: &[T]) -> Option<T> {
    (!choices.is_empty() && rng.u8(..8) != 0).then(|| *pick(rng, choices))
}

pub(crate) fn pick<'a, T>(rng: &mut Rng, choices: &'a [T]) -> &'a T {
    &choices[rng.usize(..choices.len())]
}
