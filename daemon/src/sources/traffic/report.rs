//! The data of `telemetry/traffic`: what interfaces carried.

use std::time::Duration;

use serde::{Serialize, Serializer, ser::SerializeMap};
use tidegate_abi::{Counter, Counters, class, row};

use super::{
    samples::Samples,
    tally::{Export, InterfaceSum, Sum, all_classes},
};
use crate::kernel::{AttachMode, Framing, NotWatched, Rows, Unavailable};

/// Entries of a list of complaints; the rest is counted. A gateway has a handful, a broken one one for each container.
pub(super) const MAX_COMPLAINTS: usize = 32;

/// Stands in every part.
#[derive(Debug, Serialize)]
pub(super) struct Head {
    /// Time that deltas are over.
    pub interval_ms: u64,
    /// One in this many packets is sampled.
    pub sample_rate: u32,
    /// How programs are attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attach: Option<AttachMode>,
}

/// One interface of the list.
#[derive(Debug, Serialize)]
pub(super) struct Entry<'a> {
    interface: &'a str,
    ifindex: u32,
    framing: Framing,
    /// Absent where no message told of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    attached_after_us: Option<u64>,
    /// Present on an interface that is no longer watched: these are its last counters.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    gone: bool,
    /// Present on an interface that is counted under `other`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    counted_as_other: bool,
    #[serde(flatten)]
    rows: Directions<'a>,
}

impl<'a> Entry<'a> {
    /// As it stands in the list.
    #[must_use]
    pub(super) fn new(sum: &'a InterfaceSum) -> Self {
        Self {
            interface: &sum.interface.name,
            ifindex: sum.interface.ifindex,
            framing: sum.interface.framing,
            attached_after_us: sum.interface.attached_after.map(micros),
            gone: sum.gone,
            counted_as_other: sum.interface.rows.is_none(),
            rows: Directions::new(&sum.rows),
        }
    }
}

/// Of a duration, as it stands in telemetry.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Stands in the last part.
#[derive(Debug, Serialize)]
pub(super) struct Tail<'a> {
    /// Interfaces without counters of their own; absent where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<Directions<'a>>,
    /// The gateway's traffic, each packet once: what was received, and what it sent of its own.
    total: Direction<'a>,
    /// Of the total, packets of which no flow can be told.
    unparsed: Unparsed,
    samples: &'a Samples,
    not_watched: &'a [NotWatched],
    not_watched_count: usize,
    unavailable: &'a [Unavailable],
}

impl<'a> Tail<'a> {
    /// Sums up an export.
    #[must_use]
    pub(super) fn new(
        export: &'a Export,
        samples: &'a Samples,
        not_watched: &'a [NotWatched],
        unavailable: &'a [Unavailable],
    ) -> Self {
        Self {
            other: (export.other.total != Rows::default()).then(|| Directions::new(&export.other)),
            total: Direction::new(&export.total.total, &export.total.delta),
            unparsed: Unparsed::new(&export.total),
            samples,
            not_watched: &not_watched[..not_watched.len().min(MAX_COMPLAINTS)],
            not_watched_count: not_watched.len(),
            unavailable,
        }
    }
}

/// The rows of an interface.
#[derive(Debug, Serialize)]
struct Directions<'a> {
    ingress: Direction<'a>,
    /// Sent, made on this machine.
    egress_local: Direction<'a>,
    /// Sent, having come in on another interface.
    egress_forwarded: Direction<'a>,
}

impl<'a> Directions<'a> {
    fn new(sum: &'a Sum<Rows>) -> Self {
        let row = |row: u32| Direction::new(&sum.total.0[row as usize], &sum.delta.0[row as usize]);
        Self {
            ingress: row(row::INGRESS),
            egress_local: row(row::EGRESS_LOCAL),
            egress_forwarded: row(row::EGRESS_FORWARDED),
        }
    }
}

/// One row: in all, and by protocol class.
#[derive(Debug, Serialize)]
struct Direction<'a> {
    #[serde(flatten)]
    all: Amount,
    classes: Classes<'a>,
}

impl<'a> Direction<'a> {
    fn new(total: &'a Counters, delta: &'a Counters) -> Self {
        Self { all: Amount::new(all_classes(total), all_classes(delta)), classes: Classes { total, delta } }
    }
}

/// Classes that counted anything, by name.
#[derive(Debug)]
struct Classes<'a> {
    total: &'a Counters,
    delta: &'a Counters,
}

impl Serialize for Classes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for ((name, total), delta) in class::NAMES.iter().zip(&self.total.classes).zip(&self.delta.classes) {
            if total.packets != 0 {
                map.serialize_entry(name, &Amount::new(*total, *delta))?;
            }
        }
        map.end()
    }
}

/// Packets (wire segments) and bytes.
#[derive(Clone, Copy, Debug, Serialize)]
struct Amount {
    packets: u64,
    bytes: u64,
    packets_delta: u64,
    bytes_delta: u64,
}

impl Amount {
    const fn new(total: Counter, delta: Counter) -> Self {
        Self { packets: total.packets, bytes: total.bytes, packets_delta: delta.packets, bytes_delta: delta.bytes }
    }
}

#[derive(Debug, Serialize)]
struct Unparsed {
    non_ip: Amount,
    malformed: Amount,
    too_deep: Amount,
}

impl Unparsed {
    fn new(sum: &Sum<Counters>) -> Self {
        let of = |class: u8| Amount::new(sum.total.classes[usize::from(class)], sum.delta.classes[usize::from(class)]);
        Self { non_ip: of(class::NON_IP), malformed: of(class::MALFORMED), too_deep: of(class::TOO_DEEP) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kernel::InterfaceCounters;

    fn rows(packets: u64) -> Rows {
        let mut rows = Rows::default();
        rows.0[row::INGRESS as usize].classes[usize::from(class::IPV6_TCP)] = Counter { packets, bytes: packets * 100 };
        rows
    }

    #[test]
    fn an_interface_tells_only_classes_that_counted() {
        let sum = InterfaceSum {
            interface: InterfaceCounters {
                name: "eth0".into(),
                ifindex: 2,
                framing: Framing::Ethernet,
                attached_after: Some(Duration::from_micros(1_234)),
                rows: Some(rows(5)),
            },
            gone: false,
            rows: Sum { total: rows(5), delta: rows(3) },
        };
        let amount = json!({"packets": 5, "bytes": 500, "packets_delta": 3, "bytes_delta": 300});
        let nothing = json!({"packets": 0, "bytes": 0, "packets_delta": 0, "bytes_delta": 0, "classes": {}});
        let mut ingress = amount.clone();
        ingress["classes"] = json!({"ipv6_tcp": amount});
        assert_eq!(
            serde_json::to_value(Entry::new(&sum)).unwrap(),
            json!({
                "interface": "eth0", "ifindex": 2, "framing": "ethernet", "attached_after_us": 1_234,
                "ingress": ingress, "egress_local": nothing, "egress_forwarded": nothing,
            })
        );
    }
}
