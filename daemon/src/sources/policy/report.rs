//! `telemetry/policy`: see `docs/schema/telemetry-policy.json`.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::{Reading, status::InForceStatus};
use crate::{
    chunks::Chunks,
    kernel::{RuleAction, RuleCounts, Rules},
};

/// Bytes of one part: what a modem takes in one message without trouble.
const PART_BYTES: usize = 44 << 10;
/// Rules that one export tells: some 700 KB where it happens. The others are told by the following ones.
const MAX_RULES: u64 = 4096;

/// One export being written.
pub(super) struct Report {
    chunks: Chunks,
    told: u64,
    left_off: u64,
}

#[derive(Serialize)]
struct Head<'a> {
    interval_ms: u64,
    #[serde(flatten)]
    in_force: InForceStatus<'a>,
}

/// A rule with its counters.
#[derive(Debug, Serialize)]
pub struct Entry<'a> {
    /// Absent for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    action: RuleAction,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    packets: u64,
    bytes: u64,
    dropped_packets: u64,
    dropped_bytes: u64,
}

impl<'a> Entry<'a> {
    /// The rule of that number.
    #[must_use]
    pub fn new(rules: &'a Rules, rule: u32, counts: RuleCounts) -> Self {
        let RuleCounts { packets, bytes, dropped_packets, dropped_bytes } = counts;
        Self {
            rule: rules.name(rule),
            action: rules.action(rule),
            reason: rules.reason(rule),
            packets,
            bytes,
            dropped_packets,
            dropped_bytes,
        }
    }
}

#[derive(Serialize)]
struct Tail {
    /// All rules, those that are no more among them.
    dropped_packets: u64,
    dropped_bytes: u64,
    /// Rules that changed and that the following exports tell.
    left_off: u64,
    /// Dropped packets that were told of and that nobody took in time.
    drops_missed: u64,
}

impl Report {
    pub(super) fn new(reading: &Reading, interval: Duration) -> Self {
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        let head = Head { interval_ms, in_force: InForceStatus::of(&reading.in_force) };
        Self { chunks: Chunks::new(&head, "counters", PART_BYTES), told: 0, left_off: 0 }
    }

    /// Adds a rule; returns a part where it is full.
    pub(super) fn push(&mut self, rules: &Rules, rule: u32, counts: RuleCounts) -> Option<Bytes> {
        self.told += 1;
        self.chunks.push(&Entry::new(rules, rule, counts))
    }

    /// Whether nothing more should be added.
    pub(super) const fn is_full(&self) -> bool {
        self.told >= MAX_RULES
    }

    /// Counts a rule that is not added.
    pub(super) const fn leave_off(&mut self) {
        self.left_off += 1;
    }

    /// Rules that were not added.
    pub(super) const fn left_off(&self) -> u64 {
        self.left_off
    }

    /// The last part.
    pub(super) fn finish(self, reading: &Reading) -> Bytes {
        let sum = reading.sum();
        self.chunks.finish(&Tail {
            dropped_packets: sum.dropped_packets,
            dropped_bytes: sum.dropped_bytes,
            left_off: self.left_off,
            drops_missed: reading.drops_missed,
        })
    }
}

impl Reading {
    /// All rules together, those that are no more among them.
    pub(super) fn sum(&self) -> RuleCounts {
        let mut sum = self.departed;
        for (_, counts) in &self.counts {
            sum += *counts;
        }
        sum
    }
}
