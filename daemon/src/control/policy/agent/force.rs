//! What is in force: which document decides, what of it the kernel is to have, and what came of telling it.

use std::collections::BTreeMap;

use serde_json::json;
use tracing::{error, info, warn};

use super::{AGAIN_AFTER, Agent, Effect, Facts, Failed, Failure, InKernel, UnderWay, Wanted, told::event, up};
use crate::{
    control::{
        link::Source,
        policy::Held,
        protocol::{Applied, Document, Event},
        store,
    },
    gather::Gather as _,
    record,
};

impl Agent {
    pub(super) fn enforced_now(
        &mut self,
        result: Result<Facts, Failure>,
        now: &record::Stamp,
        effects: &mut Vec<Effect>,
    ) {
        let Some(UnderWay(wanted)) = self.under_way.take() else { return };
        match result {
            Ok(facts) => {
                let again = self.failed.take().is_some();
                let same = wanted.as_ref().map(|wanted| wanted.stamp)
                    == self.in_kernel.wanted.as_ref().map(|wanted| wanted.stamp);
                let since_ms = if same { self.in_kernel.since_ms } else { now.ts_ms };
                if let Some(wanted) = &wanted {
                    info!(source = %wanted.source, version = wanted.stamp.version, rules = facts.rules, "policy enforced");
                    let mut changed = self.ages.note(&wanted.source, &facts.timed, up(now));
                    if self.protocol.unproven().is_none() {
                        changed |= self.ages.keep_only(&wanted.source, &facts.timed);
                    }
                    if changed {
                        self.write_ages(true, now, effects);
                    }
                } else if !same {
                    info!("no policy is enforced");
                }
                self.in_kernel = InKernel { wanted, facts, since_ms };
                if again {
                    self.tell(Event::Refit, now, effects);
                }
            }
            Err(failure) => self.not_enforced(wanted, failure, now, effects),
        }
    }

    fn not_enforced(
        &mut self,
        wanted: Option<Wanted>,
        failure: Failure,
        now: &record::Stamp,
        effects: &mut Vec<Effect>,
    ) {
        let tried = self.protocol.trial().filter(|_| self.protocol.unproven().is_some()).map(|(source, _)| source);
        let on_trial = wanted.as_ref().is_none_or(|wanted| tried == Some(&wanted.source)) && self.applying.is_some();
        let (reason, bundle) = match failure {
            Failure::Bundle(reason) => (reason, true),
            Failure::Kernel(reason) => (reason, false),
        };
        error!(reason, "policy not enforced; what was enforced before still is");
        match (self.applying.take(), &wanted) {
            (Some(trial), _) if on_trial => {
                let reason = format!("cannot be enforced: {reason}");
                self.tell(Event::Applied(trial, Applied::Unfit(reason)), now, effects);
            }
            (applying, Some(wanted)) if bundle => {
                self.applying = applying;
                self.tell(Event::SetAside(wanted.source.clone(), reason), now, effects);
            }
            (applying, _) => {
                self.applying = applying;
                self.failed = Some(Failed { wanted, reason, again: up(now) + AGAIN_AFTER });
            }
        }
    }

    /// Which documents' time is over.
    pub(super) fn expire(&mut self, now: &record::Stamp, effects: &mut Vec<Effect>) {
        let over = |document: &Document<Held>| {
            now.synced && document.body.not_after_ms.is_some_and(|not_after_ms| not_after_ms <= now.ts_ms)
        };
        let expired: BTreeMap<_, _> =
            self.protocol.running().filter(|(_, it)| over(it)).map(|(of, it)| (of.clone(), it.stamp)).gather();
        for (source, stamp) in expired.iter().filter(|(source, _)| !self.expired.contains(*source)) {
            warn!(%source, version = stamp.version, "the policy's time is over; it is no longer enforced");
            effects.push(event(&json!({ "what": "expired", "source": source, "version": stamp.version })));
        }
        self.expired = expired.into_keys().gather();
    }

    /// The document that decides.
    fn effective(&self) -> Option<(&Source, &Document<Held>)> {
        let running: BTreeMap<_, _> = self.protocol.running().gather();
        let in_time = self.sources.iter().rev().filter(|source| !self.expired.contains(*source));
        in_time.filter_map(|source| running.get_key_value(source)).map(|(of, it)| (*of, *it)).next()
    }

    fn wanted(&self, now: &record::Stamp) -> Option<Wanted> {
        if self.opened.is_some() {
            return None;
        }
        let (source, document) = self.effective()?;
        Some(Wanted {
            source: source.clone(),
            stamp: document.stamp,
            fragments_allow: self.settings.fragments_allow,
            expired: self.ages.expired(source, up(now)),
        })
    }

    /// What would not take effect is not tried.
    pub(super) fn hold(&mut self, now: &record::Stamp, effects: &mut Vec<Effect>) {
        let held: BTreeMap<_, _> = if self.opened.is_some() {
            let reason = "opened by hand: nothing is enforced until that ends".to_owned();
            self.sources.iter().map(|source| (source.clone(), reason.clone())).gather()
        } else if let Some((effective, _)) = self.effective() {
            let hidden = self.sources.iter().take_while(|source| *source != effective);
            let reason = format!("replaced by the policy of {effective}");
            hidden.map(|source| (source.clone(), reason.clone())).gather()
        } else {
            BTreeMap::new()
        };
        let before = std::mem::replace(&mut self.held, held);
        for source in self.sources.clone() {
            let reason = self.held.get(&source).cloned();
            if before.get(&source) != reason.as_ref() {
                self.tell(Event::Held(source, reason), now, effects);
            }
        }
        // What is on trial is not in force then, and proves nothing.
        let tried = self.protocol.trial().map(|(source, _)| source.clone());
        if let (Some(trial), Some(reason)) =
            (self.protocol.unproven(), tried.and_then(|source| self.held.get(&source).cloned()))
        {
            self.applying = None;
            self.tell(Event::Applied(trial, Applied::Unfit(reason)), now, effects);
        }
    }

    /// Compares what is wanted with what is in the kernel; returns whether that told the protocol something.
    pub(super) fn reconcile(&mut self, now: &record::Stamp, effects: &mut Vec<Effect>) -> bool {
        if self.under_way.is_some() {
            return false;
        }
        let wanted = self.wanted(now);
        if wanted == self.in_kernel.wanted {
            self.failed = None;
            let Some(trial) = self.applying.take() else { return false };
            self.tell(Event::Applied(trial, Applied::Whole), now, effects);
            return true;
        }
        let barred = self.failed.as_ref().is_some_and(|failed| failed.wanted == wanted && up(now) < failed.again);
        if !barred {
            self.under_way = Some(UnderWay(wanted.clone()));
            effects.push(Effect::Enforce(wanted));
        }
        false
    }

    /// Nothing of the source is in force any more. What had its time there has it anew when it comes again, as a rule has that a
    /// version in between lacks.
    pub(super) fn forget_ages(&mut self, source: &Source, now: &record::Stamp, effects: &mut Vec<Effect>) {
        if self.ages.keep_only(source, &[]) {
            self.write_ages(true, now, effects);
        }
    }

    pub(super) fn write_ages(&mut self, changed: bool, now: &record::Stamp, effects: &mut Vec<Effect>) {
        if let Some(age) = self.ages.due(changed, now) {
            let rules = changed.then(|| store::encode(self.ages.rules()));
            effects.push(Effect::KeepAges(store::encode(&age), rules));
        }
    }
}
