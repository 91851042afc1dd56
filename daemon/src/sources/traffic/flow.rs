//! A flow as telemetry and `tidegate flows` tell it.

use std::net::{IpAddr, Ipv6Addr};

use serde::Serialize;
use tidegate_abi::{FlowKey, FlowValue, direction, verdict};

use super::estimate::Estimate;

/// One flow: who spoke with whom, over which interface, and how much.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flow {
    /// Interface; absent where it went away meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its index.
    pub ifindex: u32,
    /// `ingress` or `egress`, as the interface sees it.
    pub direction: &'static str,
    /// IP protocol number.
    pub protocol: u8,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port; absent where the protocol has none, or a later fragment does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Destination port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// ICMP type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// TCP flags seen, as the letters C E U A P R S F.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<String>,
    /// Differentiated services code point of the last sample.
    pub dscp: u8,
    /// Samples (buffers) behind this.
    pub samples: u32,
    /// Packets (wire segments).
    pub packets: Estimate,
    /// Bytes.
    pub bytes: Estimate,
    /// First sample, milliseconds since 1970.
    pub first_ts_ms: u64,
    /// Last sample, milliseconds since 1970.
    pub last_ts_ms: u64,
    /// What became of the packets.
    pub verdict: &'static str,
}

/// `IPPROTO_*`
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

impl Flow {
    /// A flow of the kernel's table. `clock` turns its times into wall-clock ones.
    #[must_use]
    pub fn new(key: &FlowKey, value: &FlowValue, interface: Option<&str>, clock: &BootClock) -> Self {
        let ports = matches!(key.protocol, TCP | UDP) && (key.source_port, key.destination_port) != (0, 0);
        let icmp = matches!(key.protocol, ICMP | ICMPV6);
        let [icmp_type, icmp_code] = key.destination_port.to_be_bytes();
        Self {
            interface: interface.map(str::to_owned),
            ifindex: key.ifindex,
            direction: if key.direction == direction::EGRESS { "egress" } else { "ingress" },
            protocol: key.protocol,
            source: address(key.source, key.ip_version),
            destination: address(key.destination, key.ip_version),
            source_port: ports.then_some(key.source_port),
            destination_port: ports.then_some(key.destination_port),
            icmp_type: icmp.then_some(icmp_type),
            icmp_code: icmp.then_some(icmp_code),
            tcp_flags: (key.protocol == TCP).then(|| tcp_flags(value.tcp_flags)),
            dscp: value.dscp,
            samples: value.samples,
            packets: Estimate::packets(value),
            bytes: Estimate::bytes(value),
            first_ts_ms: clock.ts_ms(value.first_ns),
            last_ts_ms: clock.ts_ms(value.last_ns),
            verdict: match value.verdict {
                verdict::ALLOW => "allow",
                verdict::DROP => "drop",
                _ => "unknown",
            },
        }
    }
}

fn address(octets: [u8; 16], ip_version: u8) -> IpAddr {
    let address = Ipv6Addr::from(octets);
    // An IPv6 packet may hold a mapped address; only the version says what it was.
    match address.to_ipv4_mapped() {
        Some(ipv4) if ip_version == 4 => ipv4.into(),
        _ => address.into(),
    }
}

fn tcp_flags(flags: u8) -> String {
    (0..8).rev().filter(|bit| flags & 1 << bit != 0).map(|bit| char::from(b"FSRPAUEC"[bit])).collect()
}

/// Turns times since boot into times of day, as the two clocks stand now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootClock {
    boot_ts_ms: u64,
}

impl BootClock {
    /// Reads both clocks.
    #[must_use]
    pub fn now() -> Self {
        use rustix::time::{ClockId, clock_gettime};
        let ms = |clock| {
            let time = clock_gettime(clock);
            u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
        };
        Self { boot_ts_ms: ms(ClockId::Realtime).saturating_sub(ms(ClockId::Boottime)) }
    }

    /// Milliseconds since 1970 of a time in nanoseconds since boot.
    #[must_use]
    pub const fn ts_ms(&self, boot_ns: u64) -> u64 {
        self.boot_ts_ms + boot_ns / 1_000_000
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(key: &FlowKey, value: &FlowValue) -> Value {
        serde_json::to_value(Flow::new(key, value, Some("eth0"), &BootClock { boot_ts_ms: 1_000_000 })).unwrap()
    }

    fn mapped(octets: [u8; 4]) -> [u8; 16] {
        std::net::Ipv4Addr::from(octets).to_ipv6_mapped().octets()
    }

    #[test]
    fn a_tcp_flow_has_ports_and_flags() {
        let key = FlowKey {
            source: mapped([10, 0, 0, 1]),
            destination: mapped([10, 0, 0, 2]),
            ifindex: 3,
            source_port: 40_000,
            destination_port: 443,
            protocol: TCP,
            direction: direction::EGRESS,
            ip_version: 4,
            reserved: 0,
        };
        let value = FlowValue {
            packets: 1,
            bytes: 60,
            weight_packets: 1,
            weight_bytes: 60,
            first_ns: 5_000_000,
            last_ns: 7_900_000,
            samples: 1,
            tcp_flags: 0x12,
            dscp: 46,
            ..FlowValue::default()
        };
        let estimate = |sampled: u64| json!({"sampled": sampled, "estimate": sampled, "standard_error": 0, "low": sampled, "high": sampled});
        assert_eq!(
            told(&key, &value),
            json!({
                "interface": "eth0", "ifindex": 3, "direction": "egress", "protocol": 6,
                "source": "10.0.0.1", "destination": "10.0.0.2", "source_port": 40_000, "destination_port": 443,
                "tcp_flags": "AS", "dscp": 46, "samples": 1, "packets": estimate(1), "bytes": estimate(60),
                "first_ts_ms": 1_000_005, "last_ts_ms": 1_000_007, "verdict": "allow",
            })
        );
    }

    #[test]
    fn icmp_has_type_and_code_and_fragments_have_no_ports() {
        let icmp = FlowKey { protocol: ICMPV6, destination_port: 0x8000, ip_version: 6, ..FlowKey::default() };
        let flow = told(&icmp, &FlowValue::default());
        assert_eq!((&flow["icmp_type"], &flow["icmp_code"], flow.get("source_port")), (&json!(128), &json!(0), None));
        let fragment = FlowKey { protocol: UDP, ip_version: 6, ..FlowKey::default() };
        assert_eq!(told(&fragment, &FlowValue::default()).get("destination_port"), None);
    }

    #[test]
    fn a_mapped_address_in_an_ipv6_packet_stays_one() {
        assert_eq!(address(mapped([1, 2, 3, 4]), 4).to_string(), "1.2.3.4");
        assert_eq!(address(mapped([1, 2, 3, 4]), 6).to_string(), "::ffff:1.2.3.4");
    }
}
