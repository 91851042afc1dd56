//! What is told of the policies: to whoever asks, in `policy/reported`, and in `event/policy`.
//!
//! What is not in the kernel is nowhere called applied or confirmed.

use std::sync::Arc;

use serde_json::{Value, json};
use tracing::{error, info, warn};

use super::{Agent, Effect, REFUSALS_APART, up};
use crate::{
    control::{
        link::Source,
        policy::report::{Bringer, BundleStatus, Content, Enforced, MAX_NAMES, Provenance, Standing, TimeLeft},
        protocol::{Outcome, Stamp, State, View},
        report::statuses,
    },
    record::{self, Record},
};

impl Agent {
    /// For `tidegate status`, and whoever asks the daemon.
    #[must_use]
    pub(in crate::control::policy) fn status(&self) -> BundleStatus {
        BundleStatus {
            sources: statuses(&self.told.sources),
            enforced: self.told.enforced.clone(),
            open_until_ms: self.told.open_until_ms,
            expired_rules: self.told.expired_rules.clone(),
            keys: self.told.keys.clone(),
            not_enforced: self.failed.as_ref().map(|failed| failed.reason.clone()),
            memory: self.memory.clone(),
        }
    }

    /// How what the kernel judges by stands.
    #[must_use]
    pub(in crate::control::policy) fn standing(&self) -> Standing {
        let BundleStatus { sources, enforced, open_until_ms, keys, not_enforced, .. } = self.status();
        let in_force = |Enforced { source, version, digest, since_ms, .. }| {
            let mut ours = sources.iter().filter(|status| status.source == source);
            let latest = ours.find(|status| status.version == Some(version)).cloned();
            let mut running = self.protocol.running().filter(|(_, document)| document.stamp.digest == digest);
            let local = running.any(|(_, document)| document.body.local);
            Provenance {
                from: if local { Bringer::Stick } else { Bringer::Broker },
                // Of what is neither tried nor proven nothing is left in force.
                state: latest.as_ref().map_or(State::Confirmed, |status| status.state),
                wished: sources.iter().find(|status| status.source == source).filter(|_| latest.is_none()).cloned(),
                source,
                version,
                since_ms,
                digest,
            }
        };
        Standing { enforced: enforced.map(in_force), open_until_ms, not_enforced, keys }
    }

    /// What time rules of the policy in force have left: those of the given numbers and names that have a `ttl`.
    #[must_use]
    pub(in crate::control::policy) fn time_left<'a>(
        &self,
        rules: impl Iterator<Item = (u32, &'a str)>,
        now: &record::Stamp,
    ) -> Vec<TimeLeft> {
        let Some(wanted) = &self.in_kernel.wanted else { return Vec::new() };
        let left = |(rule, name)| {
            let left = self.ages.left(&wanted.source, name, up(now))?;
            Some(TimeLeft { rule, left, expired: wanted.expired.contains(name) })
        };
        rules.filter_map(left).collect()
    }

    pub(super) fn tell_all(&mut self, now: &record::Stamp, effects: &mut Vec<Effect>) {
        let sources =
            self.sources.clone().into_iter().map(|source| (source.clone(), self.view(&source, now))).collect();
        let enforced = self.in_kernel.wanted.as_ref();
        let expired_rules = enforced.map(|wanted| Arc::clone(&wanted.expired)).unwrap_or_default();
        for rule in expired_rules.difference(&self.expired_rules).take(MAX_NAMES) {
            info!(%rule, "the rule's time is over");
            effects.push(event(&json!({ "what": "rule-expired", "rule": rule })));
        }
        let content = Content {
            sources,
            enforced: enforced.map(|wanted| Enforced {
                source: wanted.source.clone(),
                version: wanted.stamp.version,
                digest: wanted.stamp.digest,
                rules: self.in_kernel.facts.rules,
                prefixes: self.in_kernel.facts.prefixes,
                bytes: self.in_kernel.facts.table_bytes,
                since_ms: self.in_kernel.since_ms,
            }),
            open_until_ms: self.opened.map(|opened| opened.until_ms),
            expired_rules: expired_rules.iter().take(MAX_NAMES).map(ToString::to_string).collect(),
            keys: self.trust.ids(&self.configured).into_iter().collect(),
        };
        self.expired_rules = expired_rules;
        if content != self.told {
            effects.push(Effect::Report(content.report(now)));
            self.told = content;
        }
    }

    /// What there is to say of a source. What is not in the kernel is not called applied or confirmed.
    fn view(&mut self, source: &Source, now: &record::Stamp) -> View {
        let view = self.protocol.view(source);
        let decided = matches!(view.state, State::Applied | State::Confirmed);
        let runs = self.protocol.running().find(|(of, _)| *of == source).map(|(_, document)| document.stamp);
        let otherwise = match runs {
            Some(stamp) if decided => self.otherwise(source, stamp),
            _ => None,
        };
        let Some((state, reason)) = otherwise else {
            self.said.remove(source);
            return view;
        };
        let said = self.said.entry(source.clone()).or_insert((state, now.ts_ms));
        if said.0 != state {
            *said = (state, now.ts_ms);
        }
        View { state, reason: Some(reason), since_ms: said.1, ..view }
    }

    /// Why a document that is to run is not in force, if it is not.
    fn otherwise(&self, source: &Source, stamp: Stamp) -> Option<(State, String)> {
        if self.expired.contains(source) {
            return Some((State::Expired, "its not_after is over".to_owned()));
        }
        if let Some(reason) = self.held.get(source) {
            return Some((State::Pending, reason.clone()));
        }
        let enforced = self.in_kernel.wanted.as_ref().is_some_and(|wanted| wanted.stamp == stamp);
        match &self.failed {
            _ if enforced => None,
            Some(failed) => Some((State::Refused, format!("not enforced: {}", failed.reason))),
            None => Some((State::Pending, "it is being enforced".to_owned())),
        }
    }

    pub(super) fn record(
        &mut self,
        source: &Source,
        outcome: &Outcome,
        now: &record::Stamp,
        effects: &mut Vec<Effect>,
    ) {
        let about = |what: &str, stamp: &Option<Stamp>| {
            json!({
                "what": what, "source": source, "version": stamp.map(|stamp| stamp.version),
                "digest": stamp.map(|stamp| stamp.digest.to_string()),
            })
        };
        let version = |stamp: &Option<Stamp>| stamp.map(|stamp| stamp.version);
        let with = |mut data: Value, more: &[(&str, Value)]| {
            for (name, value) in more {
                data[*name] = value.clone();
            }
            data
        };
        let data = match outcome {
            Outcome::Confirmed(None) => {
                info!(%source, "policy withdrawn");
                self.forget_ages(source, now, effects);
                json!({ "what": "withdrawn", "source": source })
            }
            Outcome::Confirmed(stamp) => {
                info!(%source, version = version(stamp), "policy confirmed");
                let timed = self.in_kernel.facts.timed.clone();
                if self.in_kernel.wanted.as_ref().is_some_and(|wanted| wanted.source == *source)
                    && self.ages.keep_only(source, &timed)
                {
                    self.write_ages(true, now, effects);
                }
                about("confirmed", stamp)
            }
            Outcome::RolledBack(stamp, reason, attempts) => {
                warn!(%source, version = version(stamp), reason, attempts, "policy rolled back");
                if self.protocol.settled(source).is_none() {
                    self.forget_ages(source, now, effects);
                }
                with(about("rolled-back", stamp), &[("reason", json!(reason)), ("attempts", json!(attempts))])
            }
            Outcome::Refused(stamp, reason) => {
                if self.refusals.get(source).is_some_and(|last| up(now) < *last + REFUSALS_APART) {
                    return;
                }
                self.refusals.insert(source.clone(), up(now));
                warn!(%source, version = version(stamp), reason, "policy refused");
                with(about("refused", stamp), &[("reason", json!(reason))])
            }
            Outcome::SetAside(stamp, reason) => {
                error!(%source, version = version(stamp), reason, "policy set aside");
                if stamp.is_none() {
                    return;
                }
                with(about("set-aside", stamp), &[("reason", json!(reason))])
            }
        };
        effects.push(event(&data));
    }
}

/// As `event/policy`.
pub(super) fn event(data: &Value) -> Effect {
    Effect::Record(Record::event("policy", data))
}
