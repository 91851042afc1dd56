//! Builds frames from the inside out: `ethernet(…, &ipv4(…, &udp_datagram(…)))`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ethernet address.
pub type Mac = [u8; 6];

/// A VLAN tag in the data: tag protocol (0x8100 or 0x88a8) and VLAN id.
pub type VlanTag = (u16, u16);

/// Source and destination of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip<A> {
    /// Source.
    pub from: A,
    /// Destination.
    pub to: A,
}

/// TCP flags (RFC 9293, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// FIN.
    pub const FIN: Self = Self(0x01);
    /// SYN.
    pub const SYN: Self = Self(0x02);
    /// RST.
    pub const RST: Self = Self(0x04);
    /// ACK.
    pub const ACK: Self = Self(0x10);
}

/// An Ethernet frame with its tags, the outer first. `protocol` is the EtherType of the payload.
#[must_use]
pub fn ethernet(to: Mac, from: Mac, tags: &[VlanTag], protocol: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    for (tag, id) in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend(id.to_be_bytes());
    }
    frame.extend(protocol.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet with `options` (a multiple of four bytes, 40 at most), unfragmented.
///
/// # Panics
///
/// Where it does not fit a packet.
#[must_use]
pub fn ipv4(ip: Ip<Ipv4Addr>, protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    ipv4_part(ip, protocol, options, 0, payload)
}

/// The same payload in fragments of at most `size` bytes (rounded down to a multiple of eight).
///
/// # Panics
///
/// Where `size` is under eight, or the payload over 65,535 bytes.
#[must_use]
pub fn ipv4_fragments(ip: Ip<Ipv4Addr>, protocol: u8, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    const MORE: u16 = 0x2000;
    let size = size & !7;
    let count = payload.len().div_ceil(size);
    payload
        .chunks(size)
        .enumerate()
        .map(|(index, part)| {
            let offset = u16::try_from(index * size / 8).expect("a payload that fits IPv4");
            let more = if index + 1 < count { MORE } else { 0 };
            ipv4_part(ip, protocol, &[], offset | more, part)
        })
        .collect()
}

fn ipv4_part(ip: Ip<Ipv4Addr>, protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    assert!(options.len().is_multiple_of(4) && header <= 60, "options are whole words, 40 bytes at most");
    let total = u16::try_from(header + payload.len()).expect("a payload that fits IPv4");
    let words = u8::try_from(header / 4).expect("15 at most");
    let mut packet = vec![0x40 | words, 0];
    packet.extend(total.to_be_bytes());
    packet.extend(0x7d61_u16.to_be_bytes()); // identification: the same for all fragments of a payload
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(ip.from.octets());
    packet.extend(ip.to.octets());
    packet.extend(options);
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet. `next` is the protocol of the payload's first header: extension headers are payload.
///
/// # Panics
///
/// Where the payload is over 65,535 bytes.
#[must_use]
pub fn ipv6(ip: Ip<Ipv6Addr>, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a payload that fits IPv6");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(ip.from.octets());
    packet.extend(ip.to.octets());
    packet.extend(payload);
    packet
}

/// A UDP datagram with its checksum (RFC 768; RFC 8200, section 8.1).
///
/// # Panics
///
/// Where it is over 65,535 bytes, or the addresses are of two families.
#[must_use]
pub fn udp_datagram(ip: Ip<IpAddr>, from_port: u16, to_port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a payload that fits UDP");
    let mut datagram = Vec::with_capacity(8 + payload.len());
    for field in [from_port, to_port, length, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(payload);
    let sum = match transport_checksum(ip, 17, &datagram) {
        0 => u16::MAX, // zero stands for "no checksum"
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// A TCP segment without options.
///
/// # Panics
///
/// Where the addresses are of two families.
#[must_use]
pub fn tcp_segment(ip: Ip<IpAddr>, from_port: u16, to_port: u16, flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::with_capacity(20 + payload.len());
    segment.extend(from_port.to_be_bytes());
    segment.extend(to_port.to_be_bytes());
    segment.extend([0; 8]); // sequence, acknowledgement
    segment.extend([5 << 4, flags.0, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    let sum = transport_checksum(ip, 6, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// An ICMPv6 echo request (RFC 4443, section 4.1).
#[must_use]
pub fn icmpv6_echo(ip: Ip<Ipv6Addr>, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![128, 0, 0, 0, 0, 1, 0, 1];
    message.extend(payload);
    let sum = transport_checksum(Ip { from: ip.from.into(), to: ip.to.into() }, 58, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

fn transport_checksum(ip: Ip<IpAddr>, protocol: u8, segment: &[u8]) -> u16 {
    let length = u32::try_from(segment.len()).expect("a segment fits").to_be_bytes();
    let tail = [length[0], length[1], length[2], length[3], 0, 0, 0, protocol];
    match (ip.from, ip.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => checksum(&[&from.octets(), &to.octets(), &tail, segment]),
        (IpAddr::V6(from), IpAddr::V6(to)) => checksum(&[&from.octets(), &to.octets(), &tail, segment]),
        (from, to) => panic!("{from} and {to} are of two families"),
    }
}

/// The Internet checksum (RFC 1071) over parts, of which all but the last are of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        // Section 3's example: the sum of these is ddf2.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    }

    #[test]
    fn fragments_carry_the_payload_once() {
        let ip = Ip { from: Ipv4Addr::new(10, 0, 0, 1), to: Ipv4Addr::new(10, 0, 0, 2) };
        let payload: Vec<u8> = (0..100).collect();
        let fragments = ipv4_fragments(ip, 17, &payload, 33);
        assert_eq!(fragments.len(), 4);
        assert_eq!(fragments.iter().flat_map(|packet| packet[20..].to_vec()).collect::<Vec<_>>(), payload);
        let fields: Vec<u16> = fragments.iter().map(|packet| u16::from_be_bytes([packet[6], packet[7]])).collect();
        assert_eq!(fields, [0x2000, 0x2004, 0x2008, 0x000c]);
    }
}
