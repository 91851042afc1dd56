//! What `tidegate status` tells of traffic.

use std::{collections::BTreeMap, time::Instant};

use serde::Serialize;
use tidegate_abi::{Counter, row};

use super::{
    flow::Flow,
    report::{MAX_COMPLAINTS, micros},
    samples::Samples,
    sends::Sends,
    tally::{Tally, all_classes},
};
use crate::kernel::{AttachMode, Framing, InterfaceCounters, NotWatched, Readings, Unavailable};

/// Flows that [`TrafficStatus::top_flows`] holds.
const TOP_FLOWS: usize = 10;

/// Traffic, as it stood when it was last read.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TrafficStatus {
    /// Whether the interfaces that were there at the start are watched, or it is known why not.
    #[serde(skip)]
    pub settled: bool,
    /// How programs are attached; absent until the first was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attach: Option<AttachMode>,
    /// Why TCX links end with the daemon; absent where they are pinned, and without links.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_pinned: Option<String>,
    /// One in this many packets is sampled; 0: none.
    pub sample_rate: u32,
    /// How often telemetry is exported.
    pub export_interval_ms: u64,
    /// Flows that the kernel's table holds at most.
    pub flow_capacity: u32,
    /// Watched interfaces.
    pub interfaces: Vec<InterfaceStatus>,
    /// The gateway's traffic, each packet once.
    pub total: Flowing,
    /// Flows in the last export.
    pub flows: u64,
    /// The largest of them by bytes, largest first.
    pub top_flows: Vec<Flow>,
    /// What became of samples.
    pub samples: Samples,
    /// Time spent in `tcp_sendmsg`; absent where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_sendmsg: Option<Sends>,
    /// Why it is not known, where it is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_sendmsg_unavailable: Option<Unavailable>,
    /// Matching interfaces that are not watched: the first 32.
    pub not_watched: Vec<NotWatched>,
    /// How many there are.
    pub not_watched_count: usize,
    /// What this machine does not do.
    pub unavailable: Vec<Unavailable>,
    /// Telemetry records that the spool did not take, or not in time.
    pub dropped_records: u64,
    /// Why the counters could not be read, the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One interface.
#[derive(Clone, Debug, Serialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// What its packets start with.
    pub framing: Framing,
    /// From reading the message that told of it until both directions were attached; absent where it was there at the
    /// start, or is watched since the patterns changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attached_after_us: Option<u64>,
    /// Received.
    pub ingress: Flowing,
    /// Sent, forwarded packets included.
    pub egress: Flowing,
    /// Present where it has no counters of its own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub counted_as_other: bool,
}

/// An amount and how fast it grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Flowing {
    /// Packets (wire segments) since it has been watched.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Packets a second since the reading before.
    pub packets_per_second: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
}

impl Flowing {
    fn new(now: Counter, before: Option<Counter>, seconds: f64) -> Self {
        let rate = |now: u64, before: u64| {
            if seconds > 0.0 { (now.saturating_sub(before) as f64 / seconds).round() } else { 0.0 }
        };
        // What has just begun to be counted has no rate yet.
        let before = before.unwrap_or(now);
        Self {
            packets: now.packets,
            bytes: now.bytes,
            packets_per_second: rate(now.packets, before.packets),
            bytes_per_second: rate(now.bytes, before.bytes),
        }
    }
}

/// Remembers the reading before, to tell rates.
#[derive(Debug, Default)]
pub(super) struct Rates {
    at: Option<Instant>,
    interfaces: BTreeMap<u32, [Counter; 2]>,
    total: Option<Counter>,
}

impl Rates {
    /// Writes a reading into the status.
    pub(super) fn tell(&mut self, now: Instant, readings: &Readings, tally: &Tally, status: &mut TrafficStatus) {
        let seconds = self.at.map_or(0.0, |before| now.duration_since(before).as_secs_f64());
        let mut seen = BTreeMap::new();
        status.interfaces = readings
            .interfaces
            .iter()
            .map(|interface| {
                let [ingress, egress] = both(interface);
                let before = self.interfaces.get(&interface.ifindex);
                seen.insert(interface.ifindex, [ingress, egress]);
                InterfaceStatus {
                    interface: interface.name.clone(),
                    ifindex: interface.ifindex,
                    framing: interface.framing,
                    attached_after_us: interface.attached_after.map(micros),
                    ingress: Flowing::new(ingress, before.map(|before| before[0]), seconds),
                    egress: Flowing::new(egress, before.map(|before| before[1]), seconds),
                    counted_as_other: interface.rows.is_none(),
                }
            })
            .collect();
        let total = all_classes(&tally.total());
        status.total = Flowing::new(total, self.total, seconds);
        status.attach = readings.attach;
        status.not_pinned.clone_from(&readings.not_pinned);
        status.flow_capacity = readings.flow_capacity;
        status.not_watched = readings.not_watched.iter().take(MAX_COMPLAINTS).cloned().collect();
        status.tcp_sendmsg = readings.sends.as_ref().and_then(|sends| sends.as_ref().ok()).map(Sends::new);
        status.tcp_sendmsg_unavailable = readings.sends.clone().and_then(Result::err);
        status.not_watched_count = readings.not_watched.len();
        status.unavailable.clone_from(&readings.unavailable);
        *self = Self { at: Some(now), interfaces: seen, total: Some(total) };
    }
}

fn both(interface: &InterfaceCounters) -> [Counter; 2] {
    let rows = interface.rows.unwrap_or_default();
    let row = |row: u32| all_classes(&rows.0[row as usize]);
    let (local, forwarded) = (row(row::EGRESS_LOCAL), row(row::EGRESS_FORWARDED));
    let egress = Counter { packets: local.packets + forwarded.packets, bytes: local.bytes + forwarded.bytes };
    [row(row::INGRESS), egress]
}

/// The largest flows of an export, while it streams by.
#[derive(Debug, Default)]
pub(super) struct Top {
    /// Largest first.
    flows: Vec<Flow>,
}

impl Top {
    /// Takes a flow in where it is among the largest.
    pub(super) fn offer(&mut self, flow: Flow) {
        let place = self.flows.partition_point(|larger| larger.bytes.estimate >= flow.bytes.estimate);
        if place < TOP_FLOWS {
            self.flows.truncate(TOP_FLOWS - 1);
            self.flows.insert(place, flow);
        }
    }

    /// Largest first.
    #[must_use]
    pub(super) fn into_flows(self) -> Vec<Flow> {
        self.flows
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_abi::{FlowKey, FlowValue, class};

    use super::*;
    use crate::{kernel::Rows, sources::traffic::flow::BootClock};

    fn readings(packets: u64) -> Readings {
        let mut rows = Rows::default();
        rows.0[row::INGRESS as usize].classes[usize::from(class::ARP)] = Counter { packets, bytes: packets * 60 };
        let interface = InterfaceCounters {
            name: "eth0".into(),
            ifindex: 2,
            framing: Framing::Ethernet,
            attached_after: None,
            rows: Some(rows),
        };
        Readings { interfaces: vec![interface], ..Readings::default() }
    }

    #[test]
    fn rates_are_over_the_time_between_two_readings() {
        let (mut rates, mut tally, mut status) = (Rates::default(), Tally::default(), TrafficStatus::default());
        let start = Instant::now();
        for (after, packets) in [(0, 1_000), (2, 1_500)] {
            let mut readings = readings(packets);
            tally.observe(&mut readings);
            rates.tell(start + Duration::from_secs(after), &readings, &tally, &mut status);
        }
        let expected = Flowing { packets: 1_500, bytes: 90_000, packets_per_second: 250.0, bytes_per_second: 15_000.0 };
        assert_eq!((status.interfaces[0].ingress, status.total), (expected, expected));
    }

    #[test]
    fn an_interface_that_has_just_appeared_has_no_rate() {
        let mut status = TrafficStatus::default();
        let mut rates = Rates { at: Some(Instant::now()), ..Rates::default() };
        rates.tell(Instant::now() + Duration::from_secs(1), &readings(9), &Tally::default(), &mut status);
        assert!(status.interfaces[0].ingress.packets_per_second < 1.0);
    }

    #[test]
    fn the_top_holds_the_largest_flows_in_order() {
        let mut top = Top::default();
        for bytes in [5, 1, 30, 12, 7, 9, 100, 3, 8, 2, 11, 4, 6, 10] {
            let value = FlowValue { bytes, weight_bytes: bytes, ..FlowValue::default() };
            top.offer(Flow::new(&FlowKey::default(), &value, None, &BootClock::now()));
        }
        let sizes: Vec<u64> = top.into_flows().iter().map(|flow| flow.bytes.estimate).collect();
        assert_eq!(sizes, [100, 30, 12, 11, 10, 9, 8, 7, 6, 5]);
    }
}
