//! What a packet is, by the RFCs alone: the answer that the programs are held against.
//!
//! Written apart from the programs, on slices and without regard to cost. Sources: IEEE 802.3 and 802.1Q, RFC 791,
//! 792, 768, 9293, 8200, 4302, 4443, 2675; what the project adds to them stands in `tidegate_abi::class`.

use tidegate_abi::{Counter, class};

/// What the packet lies on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Link {
    Ethernet,
    /// A link without a header, and the EtherType that the kernel knows the packet by.
    Ip(u16),
}

/// All that the programs say about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) class: u8,
    pub(crate) size: Counter,
    pub(crate) flow: Option<Flow>,
    /// 4 or 6 where its type says so, be it malformed; else 0.
    pub(crate) ip_version: u8,
    /// What is known of a packet of class `TOO_DEEP` that has addresses.
    pub(crate) buried: Option<Flow>,
}

/// The parts of a flow's key and value that the packet itself tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) ip_version: u8,
    pub(crate) source: [u8; 16],
    pub(crate) destination: [u8; 16],
    pub(crate) protocol: u8,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) dscp: u8,
    pub(crate) tcp_flags: u8,
}

/// What reading came to: a class, how far the headers reach that a segment repeats, and the flow.
struct Reading {
    class: u8,
    headers: usize,
    flow: Option<Flow>,
    ip_version: u8,
    buried: Option<Flow>,
}

impl Reading {
    fn without_flow(class: u8, headers: usize) -> Self {
        Self { class, headers, flow: None, ip_version: 0, buried: None }
    }

    fn with_flow(class: u8, headers: usize, flow: Flow) -> Self {
        Self { flow: Some(flow), ..Self::without_flow(class, headers) }
    }
}

/// Judges a packet of `segments` segments (0: unsaid) of `segment_size` bytes each (0: it is not segmented).
pub(crate) fn judge(packet: &[u8], link: Link, segments: u32, segment_size: u32) -> Verdict {
    let segmented = segment_size != 0;
    let (reading, outer_tag) = match link {
        Link::Ethernet => ethernet(packet, segmented),
        Link::Ip(ether_type) => (network(ether_type, packet, segmented), 0),
    };
    let repeated = reading.headers as u64;
    let len = packet.len() as u64;
    let packets = match (segments, segment_size) {
        (0, 0) => 1,
        (0, size) => (len - repeated).div_ceil(u64::from(size)).max(1),
        (segments, _) => u64::from(segments),
    };
    let bytes = (len - outer_tag) + (packets - 1) * (repeated - outer_tag);
    let Reading { class, headers: _, flow, ip_version, buried } = reading;
    Verdict { class, size: Counter { packets, bytes }, flow, ip_version, buried }
}

/// Also says how many bytes the outer tag takes.
fn ethernet(frame: &[u8], segmented: bool) -> (Reading, u64) {
    let mut tags = 0;
    let mut rest = &frame[12..];
    loop {
        let at = frame.len() - rest.len() + 2;
        let outer_tag = if tags > 0 { 4 } else { 0 };
        let ether_type = u16::from_be_bytes([rest[0], rest[1]]);
        if !matches!(ether_type, 0x8100 | 0x88A8) {
            let mut reading = network(ether_type, &rest[2..], segmented);
            reading.headers += at;
            return (reading, outer_tag);
        }
        if tags == 2 {
            return (Reading::without_flow(class::TOO_DEEP, at), outer_tag);
        }
        // Two bytes of control information and the next type.
        if rest.len() < 6 {
            return (Reading::without_flow(class::MALFORMED, at), outer_tag);
        }
        rest = &rest[4..];
        tags += 1;
    }
}

fn network(ether_type: u16, bytes: &[u8], segmented: bool) -> Reading {
    match ether_type {
        0x0800 => Reading { ip_version: 4, ..ipv4(bytes, segmented) },
        0x86DD => Reading { ip_version: 6, ..ipv6(bytes, segmented) },
        0x0806 => Reading::without_flow(class::ARP, 0),
        _ => Reading::without_flow(class::NON_IP, 0),
    }
}

fn ipv4(bytes: &[u8], segmented: bool) -> Reading {
    let malformed = Reading::without_flow(class::MALFORMED, 0);
    if bytes.len() < 20 || bytes[0] >> 4 != 4 {
        return malformed;
    }
    let header = usize::from(bytes[0] & 15) * 4;
    let stated = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    let total = if stated == 0 && segmented { bytes.len() } else { stated };
    if header < 20 || total < header || total > bytes.len() {
        return malformed;
    }
    let flow = Flow {
        ip_version: 4,
        source: mapped(&bytes[12..16]),
        destination: mapped(&bytes[16..20]),
        protocol: bytes[9],
        source_port: 0,
        destination_port: 0,
        dscp: bytes[1] >> 2,
        tcp_flags: 0,
    };
    let fragment_offset = u16::from_be_bytes([bytes[6], bytes[7]]) & 0x1FFF;
    if fragment_offset > 0 {
        return Reading::with_flow(class::IPV4_FRAGMENT, header, flow);
    }
    let classes = [class::IPV4_TCP, class::IPV4_UDP, class::IPV4_ICMP, class::IPV4_OTHER];
    transport(&bytes[header..total], header, flow, 1, classes)
}

fn mapped(address: &[u8]) -> [u8; 16] {
    let address: [u8; 4] = address.try_into().unwrap();
    std::net::Ipv4Addr::from(address).to_ipv6_mapped().octets()
}

fn ipv6(bytes: &[u8], segmented: bool) -> Reading {
    if bytes.len() < 40 || bytes[0] >> 4 != 6 {
        return Reading::without_flow(class::MALFORMED, 0);
    }
    let mut next = bytes[6];
    let stated = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    let unstated = stated == 0 && (next == 0 || segmented);
    let end = if unstated { bytes.len() } else { 40 + stated };
    if end > bytes.len() {
        return Reading::without_flow(class::MALFORMED, 0);
    }
    let mut flow = Flow {
        ip_version: 6,
        source: bytes[8..24].try_into().unwrap(),
        destination: bytes[24..40].try_into().unwrap(),
        protocol: next,
        source_port: 0,
        destination_port: 0,
        dscp: (bytes[0] << 4 | bytes[1] >> 4) >> 2,
        tcp_flags: 0,
    };
    let mut at = 40;
    let mut extensions = 0;
    loop {
        let rest = &bytes[at..end];
        flow.protocol = next;
        // Hop-by-hop, routing, fragment, authentication, destination options, mobility, host identity, shim6.
        if ![0, 43, 44, 51, 60, 135, 139, 140].contains(&next) {
            let classes = [class::IPV6_TCP, class::IPV6_UDP, class::IPV6_ICMP, class::IPV6_OTHER];
            return transport(rest, at, flow, 58, classes);
        }
        if extensions == 6 {
            return Reading { buried: Some(flow), ..Reading::without_flow(class::TOO_DEEP, at) };
        }
        if rest.len() < 8 || (next == 0 && extensions > 0) {
            return Reading::without_flow(class::MALFORMED, at);
        }
        let length = match next {
            44 => 8,
            51 => 4 * (usize::from(rest[1]) + 2),
            _ => 8 * (usize::from(rest[1]) + 1),
        };
        if length > rest.len() {
            return Reading::without_flow(class::MALFORMED, at);
        }
        at += length;
        let fragment_offset = u16::from_be_bytes([rest[2], rest[3]]) >> 3;
        if next == 44 && fragment_offset > 0 {
            flow.protocol = rest[0];
            return Reading::with_flow(class::IPV6_FRAGMENT, at, flow);
        }
        next = rest[0];
        extensions += 1;
    }
}

/// `classes`: TCP, UDP, ICMP, other.
fn transport(bytes: &[u8], at: usize, mut flow: Flow, icmp: u8, classes: [u8; 4]) -> Reading {
    let malformed = Reading::without_flow(class::MALFORMED, at);
    let (class, header) = match flow.protocol {
        6 => {
            if bytes.len() < 20 {
                return malformed;
            }
            let header = usize::from(bytes[12] >> 4) * 4;
            if header < 20 || header > bytes.len() {
                return malformed;
            }
            flow.tcp_flags = bytes[13];
            (classes[0], header)
        }
        17 if bytes.len() < 8 => return malformed,
        17 => (classes[1], 8),
        protocol if protocol == icmp => {
            if bytes.len() < 8 {
                return malformed;
            }
            flow.destination_port = u16::from(bytes[0]) * 256 + u16::from(bytes[1]);
            (classes[2], 0)
        }
        _ => (classes[3], 0),
    };
    if matches!(flow.protocol, 6 | 17) {
        flow.source_port = u16::from_be_bytes([bytes[0], bytes[1]]);
        flow.destination_port = u16::from_be_bytes([bytes[2], bytes[3]]);
    }
    Reading::with_flow(class, at + header, flow)
}
