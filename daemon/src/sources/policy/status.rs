//! What `tidegate status` tells of the policy in force.

use serde::Serialize;

use super::Reading;
use crate::{
    kernel::{InForce, RuleAction, RuleCounts},
    policy::Scope,
};

/// Rules that [`PolicyStatus::top_rules`] holds.
const TOP_RULES: usize = 5;

/// The policy, as it stood when its counters were last read.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PolicyStatus {
    /// Which one is in force; absent where none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<InForceStatus<'static>>,
    /// Packets (wire segments) that it dropped since the daemon started, and the policies before it.
    pub dropped_packets: u64,
    /// Their bytes.
    pub dropped_bytes: u64,
    /// The rules of the one in force that dropped most, the first first.
    pub top_rules: Vec<RuleStatus>,
    /// Dropped packets that were told of and that nobody took in time: their rules' counters have them.
    pub drops_missed: u64,
    /// Records that the spool did not take, or not in time.
    pub dropped_records: u64,
}

/// A policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InForceStatus<'a> {
    /// Its version.
    pub version: u64,
    /// Whom it is for: a gateway or a group.
    pub scope: std::borrow::Cow<'a, Scope>,
    /// What becomes of packets that no rule decides.
    pub default: RuleAction,
    /// How many rules it has.
    pub rules: usize,
    /// How many prefixes they have.
    pub prefixes: usize,
    /// Bytes of its tables.
    pub table_bytes: u64,
}

/// What a rule dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleStatus {
    /// Its name; absent for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What it does.
    pub action: RuleAction,
    /// Why it is there; absent where nobody said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Packets that it dropped.
    pub dropped_packets: u64,
}

impl<'a> InForceStatus<'a> {
    /// Of what the kernel has.
    #[must_use]
    pub fn of(in_force: &'a InForce) -> Self {
        let rules = &in_force.rules;
        Self {
            version: rules.version(),
            scope: std::borrow::Cow::Borrowed(rules.scope()),
            default: rules.action(crate::kernel::DEFAULT_RULE),
            rules: rules.len(),
            prefixes: rules.prefixes(),
            table_bytes: in_force.table_bytes,
        }
    }

    fn into_owned(self) -> InForceStatus<'static> {
        InForceStatus { scope: std::borrow::Cow::Owned(self.scope.into_owned()), ..self }
    }
}

impl PolicyStatus {
    /// Takes in what was read, or that nothing is in force.
    pub(super) fn tell(&mut self, reading: Option<&Reading>) {
        let Some(reading) = reading else {
            self.in_force = None;
            self.top_rules.clear();
            return;
        };
        let RuleCounts { dropped_packets, dropped_bytes, .. } = reading.sum();
        let mut top: Vec<(u32, u64)> = Vec::with_capacity(TOP_RULES + 1);
        for (rule, counts) in reading.counts.iter().filter(|(_, counts)| counts.dropped_packets > 0) {
            let place = top.partition_point(|(_, more)| *more >= counts.dropped_packets);
            if place < TOP_RULES {
                top.insert(place, (*rule, counts.dropped_packets));
                top.truncate(TOP_RULES);
            }
        }
        let rules = &reading.in_force.rules;
        let status = |(rule, dropped_packets)| RuleStatus {
            rule: rules.name(rule).map(str::to_owned),
            action: rules.action(rule),
            reason: rules.reason(rule).to_owned(),
            dropped_packets,
        };
        self.in_force = Some(InForceStatus::of(&reading.in_force).into_owned());
        self.top_rules = top.into_iter().map(status).collect();
        self.dropped_packets = dropped_packets;
        self.dropped_bytes = dropped_bytes;
        self.drops_missed = reading.drops_missed;
    }
}
