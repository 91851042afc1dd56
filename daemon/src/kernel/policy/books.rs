//! What rules have counted over all generations, by name.
//!
//! A generation's counters begin at zero. What a rule of the same name counted before is kept here by the number that it
//! has now, and only where there was anything: most rules of a long list never meet a packet.

use std::{
    collections::{BTreeMap, HashMap},
    ops::{AddAssign, Sub},
};

use super::{Rules, rules::DEFAULT_RULE};

/// What a rule decided. Of the default only what it dropped is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCounts {
    /// Wire segments that it decided, the dropped ones among them.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Wire segments that it dropped.
    pub dropped_packets: u64,
    /// Their bytes.
    pub dropped_bytes: u64,
}

impl AddAssign for RuleCounts {
    fn add_assign(&mut self, more: Self) {
        self.packets += more.packets;
        self.bytes += more.bytes;
        self.dropped_packets += more.dropped_packets;
        self.dropped_bytes += more.dropped_bytes;
    }
}

impl Sub for RuleCounts {
    type Output = Self;

    /// Counters only grow; what was read in a moment of trouble must not become a number near 2^64.
    fn sub(self, less: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(less.packets),
            bytes: self.bytes.saturating_sub(less.bytes),
            dropped_packets: self.dropped_packets.saturating_sub(less.dropped_packets),
            dropped_bytes: self.dropped_bytes.saturating_sub(less.dropped_bytes),
        }
    }
}

/// Counters by rule.
pub(super) type Counts = BTreeMap<u32, RuleCounts>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// By the numbers of the policy that is enforced.
    before: Counts,
    /// What rules counted that are no more.
    departed: RuleCounts,
}

impl Books {
    /// What a rule counted in generations before this one.
    #[must_use]
    pub(super) fn before(&self, rule: u32) -> RuleCounts {
        self.before.get(&rule).copied().unwrap_or_default()
    }

    /// Rules from `from` on that counted anything in generations before this one.
    pub(super) fn from(&self, from: u32) -> impl Iterator<Item = u32> {
        self.before.range(from..).map(|(&rule, _)| rule)
    }

    /// What rules counted that are no more.
    #[must_use]
    pub(super) const fn departed(&self) -> RuleCounts {
        self.departed
    }

    /// Another policy is enforced: what was kept by the old numbers, and what the old generation counted itself, is kept by
    /// the new ones.
    pub(super) fn turn(&mut self, old: &Rules, counted: &Counts, new: Option<&Rules>) {
        let mut sums = std::mem::take(&mut self.before);
        for (&rule, &counts) in counted {
            *sums.entry(rule).or_default() += counts;
        }
        self.add(old, &sums, new);
    }

    /// Keeps what a generation that is no more counted, by the numbers of the new one.
    pub(super) fn add(&mut self, old: &Rules, counted: &Counts, new: Option<&Rules>) {
        if counted.is_empty() {
            return;
        }
        let mut by_name: HashMap<&str, RuleCounts> = HashMap::new();
        for (&rule, &counts) in counted {
            match old.name(rule) {
                Some(name) => *by_name.entry(name).or_default() += counts,
                None if rule == DEFAULT_RULE && new.is_some() => {
                    *self.before.entry(DEFAULT_RULE).or_default() += counts;
                }
                None => self.departed += counts,
            }
        }
        for (rule, name) in new.into_iter().flat_map(Rules::names) {
            if by_name.is_empty() {
                break;
            }
            if let Some(counts) = by_name.remove(name) {
                *self.before.entry(rule).or_default() += counts;
            }
        }
        for counts in by_name.into_values() {
            self.departed += counts;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        Action, Bundle, DefaultAction, Directions, Scope,
        bundle::{Conditions, NewRule},
    };

    fn rules(names: &[&str]) -> Rules {
        let mut bundle = Bundle::new(1, Scope::Group("g".into()), DefaultAction::Drop);
        for name in names {
            bundle.push(NewRule {
                name,
                reason: "",
                prefixes: &[],
                protocol: None,
                directions: Directions::Both,
                action: Action::Drop,
                ttl_s: None,
                conditions: Conditions::default(),
            });
        }
        Rules::of(&bundle)
    }

    fn counts(list: &[(u32, u64)]) -> Counts {
        list.iter().map(|&(rule, packets)| (rule, RuleCounts { packets, ..RuleCounts::default() })).collect()
    }

    #[test]
    fn counters_follow_a_rules_name_whatever_its_number() {
        let (first, second, third) = (rules(&["a", "b", "c"]), rules(&["c", "x", "a"]), rules(&["b", "c"]));
        let mut books = Books::default();
        books.turn(&first, &counts(&[(0, 5), (1, 10), (2, 20), (3, 30)]), Some(&second));
        assert_eq!((books.before(0).packets, books.before(1).packets, books.before(3).packets), (5, 30, 10));
        assert_eq!((books.before(2).packets, books.departed().packets), (0, 20), "b is gone, x is new");
        // What was counted while the switch was under way.
        books.add(&first, &counts(&[(3, 1)]), Some(&second));
        assert_eq!(books.before(1).packets, 31);
        books.turn(&second, &counts(&[(1, 100)]), Some(&third));
        assert_eq!((books.before(0).packets, books.before(1).packets, books.before(2).packets), (5, 0, 131));
        assert_eq!(books.departed().packets, 30);
    }

    #[test]
    fn what_was_counted_stays_in_the_sum_when_no_policy_follows() {
        let mut books = Books::default();
        books.turn(&rules(&["a"]), &counts(&[(0, 1), (1, 2)]), None);
        assert_eq!((books.departed().packets, books.from(0).count()), (3, 0));
    }
}
