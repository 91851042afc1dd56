//! How long rules have counted: for `ttl`, across restarts.
//!
//! There is one age, that of all policy: boot time while the daemon runs, or ran in the same boot. A rule has the age at
//! which it was first enforced, and expires a `ttl` later. So what is written each minute is one number; the rules' own are
//! written when rules come and go. A crash costs a minute of age at most, for which the rules count longer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    control::link::Source,
    gather::Gather as _,
    record::{self, Uuid},
};

/// Between two writes of the age.
const WRITE_EVERY: Duration = Duration::from_mins(1);
/// Between two looks at which rules have expired: each may compile the policy anew.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// `policy-age.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct KeptAge {
    boot: String,
    up_ms: u64,
    age_ms: u64,
}

/// `policy-ttl.json`.
pub(super) type KeptRules = BTreeMap<Source, BTreeMap<Box<str>, Timed>>;

/// A rule with a `ttl`, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timed {
    /// The age at which it was first enforced.
    since_ms: u64,
    ttl_s: u32,
}

impl Timed {
    const fn ends_ms(self) -> u64 {
        self.since_ms + 1000 * self.ttl_s as u64
    }
}

/// The age of all policy, and of its rules with a `ttl`.
#[derive(Debug)]
pub(super) struct Ages {
    /// The age when this boot's clock was at zero, as it were; may be negative.
    offset_ms: i64,
    rules: KeptRules,
    written: Duration,
    looked: Duration,
}

impl Ages {
    pub(super) fn new(age: &KeptAge, rules: KeptRules, now: &record::Stamp) -> Self {
        let boot = Uuid(&now.boot).to_string();
        // With the daemon stopped, boot time goes on.
        let counted_at = if age.boot == boot { age.up_ms } else { now.up_ms };
        let up = Duration::from_millis(now.up_ms);
        let difference = i128::from(age.age_ms) - i128::from(counted_at);
        Self { offset_ms: i64::try_from(difference).unwrap_or(0), rules, written: up, looked: up }
    }

    fn age_ms(&self, up: Duration) -> u64 {
        u64::try_from(up.as_millis()).unwrap_or(u64::MAX).saturating_add_signed(self.offset_ms)
    }

    /// These rules of the source are enforced; returns whether any of them is new.
    pub(super) fn note(&mut self, source: &Source, timed: &[(Box<str>, u32)], up: Duration) -> bool {
        if timed.is_empty() {
            return false;
        }
        let since_ms = self.age_ms(up);
        let known = self.rules.entry(source.clone()).or_default();
        let mut changed = false;
        for (name, ttl_s) in timed {
            let rule = known.entry(name.clone()).or_insert_with(|| {
                changed = true;
                Timed { since_ms, ttl_s: *ttl_s }
            });
            changed |= rule.ttl_s != *ttl_s;
            rule.ttl_s = *ttl_s;
        }
        changed
    }

    /// The source is confirmed to have these rules, and no others; returns whether any is forgotten.
    pub(super) fn keep_only(&mut self, source: &Source, timed: &[(Box<str>, u32)]) -> bool {
        let Some(known) = self.rules.get_mut(source) else { return false };
        let names: BTreeSet<&str> = timed.iter().map(|(name, _)| &**name).gather();
        let before = known.len();
        known.retain(|name, _| names.contains(&**name));
        let changed = known.len() != before;
        if known.is_empty() {
            self.rules.remove(source);
        }
        changed
    }

    /// Rules of the source that count no more.
    pub(super) fn expired(&self, source: &Source, up: Duration) -> Arc<BTreeSet<Box<str>>> {
        let age = self.age_ms(up);
        let rules = self.rules.get(source).into_iter().flatten();
        Arc::new(rules.filter(|(_, rule)| rule.ends_ms() <= age).map(|(name, _)| name.clone()).gather())
    }

    /// What time a rule of the source has left; `None` where it has no `ttl`.
    pub(super) fn left(&self, source: &Source, rule: &str, up: Duration) -> Option<Duration> {
        let rule = self.rules.get(source)?.get(rule)?;
        Some(Duration::from_millis(rule.ends_ms().saturating_sub(self.age_ms(up))))
    }

    /// When the next rule expires, or the age is to be written.
    pub(super) fn wake(&self, up: Duration) -> Option<Duration> {
        if self.rules.is_empty() {
            return None;
        }
        let age = self.age_ms(up);
        let ends = self.rules.values().flatten().map(|(_, rule)| rule.ends_ms()).filter(|ends| *ends > age).min();
        let ends = ends.map(|ends| (up + Duration::from_millis(ends - age)).max(self.looked + LOOK_EVERY));
        ends.into_iter().chain([self.written + WRITE_EVERY]).min()
    }

    /// The age, if it is time to write it, or if asked for.
    pub(super) fn due(&mut self, changed: bool, now: &record::Stamp) -> Option<KeptAge> {
        let up = Duration::from_millis(now.up_ms);
        self.looked = up;
        let due = !self.rules.is_empty() && self.written + WRITE_EVERY <= up;
        if !changed && !due {
            return None;
        }
        self.written = up;
        Some(KeptAge { boot: Uuid(&now.boot).to_string(), up_ms: now.up_ms, age_ms: self.age_ms(up) })
    }

    pub(super) const fn rules(&self) -> &KeptRules {
        &self.rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(boot: u8, up_s: u64) -> record::Stamp {
        record::Stamp { boot: [boot; 16], ts_ms: 0, up_ms: 1000 * up_s, synced: false }
    }

    fn names(ages: &Ages, up_s: u64) -> Vec<String> {
        ages.expired(&Source::Device, Duration::from_secs(up_s)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rule_expires_a_ttl_after_it_was_first_enforced_whatever_became_of_the_daemon() {
        let mut ages = Ages::new(&KeptAge::default(), KeptRules::new(), &now(1, 100));
        let up = Duration::from_secs;
        assert!(ages.note(&Source::Device, &[("a".into(), 60), ("b".into(), 600)], up(100)));
        // Another version has it, too.
        assert!(!ages.note(&Source::Device, &[("a".into(), 60), ("b".into(), 600)], up(150)));
        let left = |rule, up_s| ages.left(&Source::Device, rule, up(up_s));
        assert_eq!((left("a", 150), left("b", 150)), (Some(up(10)), Some(up(550))));
        assert_eq!((left("a", 161), left("c", 161)), (Some(Duration::ZERO), None));
        assert_eq!(names(&ages, 159), [""; 0]);
        assert_eq!(names(&ages, 160), ["a"]);
        let (age, rules) = (ages.due(true, &now(1, 150)).unwrap(), ages.rules().clone());

        // Stopped for a while in the same boot.
        assert_eq!(names(&Ages::new(&age, rules.clone(), &now(1, 170)), 170), ["a"]);
        // Without power for a while: what was counted is known.
        let mut ages = Ages::new(&age, rules, &now(2, 5));
        assert_eq!(names(&ages, 5), [""; 0]);
        assert_eq!(names(&ages, 15), ["a"]);
        assert_eq!(names(&ages, 4 + 550), ["a"]);
        assert_eq!(names(&ages, 5 + 550), ["a", "b"]);
        assert!(ages.keep_only(&Source::Device, &[("b".into(), 600)]));
        assert_eq!(names(&ages, 15), [""; 0]);
    }

    #[test]
    fn the_age_is_written_each_minute_and_rules_that_expire_together_are_looked_at_together() {
        let mut ages = Ages::new(&KeptAge::default(), KeptRules::new(), &now(1, 0));
        assert_eq!(ages.wake(Duration::ZERO), None);
        ages.note(&Source::Device, &[("a".into(), 10), ("b".into(), 100)], Duration::ZERO);
        assert_eq!(ages.wake(Duration::ZERO), Some(Duration::from_secs(10)));
        assert_eq!(ages.wake(Duration::from_secs(10)), Some(Duration::from_mins(1)));
        assert!(ages.due(false, &now(1, 59)).is_none());
        assert!(ages.due(false, &now(1, 60)).is_some());
    }
}
