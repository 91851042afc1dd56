//! What is to stand at the broker, and what is still to be done for it. Pure.
//!
//! ```text
//!             published            acknowledged, or seen at the broker
//!   Due ──────────────────► Sent ──────────────────────────────────────► Held
//!    ▲                       │ connection lost                             │
//!    ├───────────────────────┘                                             │
//!    └── the broker came back without it ──────────────────────────────────┘
//!
//!   from each of them: Denied    the broker does not take it
//!                      Foreign   somebody else published something
//! ```
//!
//! Whatever the folder says is an intent, what stays as it is, too: a broker that comes back from an older backup, or
//! with nothing, gets the same documents under the same versions again.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tidegate_values::Digest;

use crate::{
    folder::Folder,
    plan::{Kind, Plan},
    seen::{Retained, Seen},
    target::Target,
};

/// How far one intent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// To be published.
    Due,
    /// Published, not yet acknowledged.
    Sent,
    /// The broker holds it.
    Held,
    /// The broker does not take it, and why.
    Denied(String),
    /// Somebody else published something for this target while it was applied: this version, where it is a document.
    Foreign(Option<u64>),
}

impl Progress {
    const fn is_final(&self) -> bool {
        matches!(self, Self::Denied(_) | Self::Foreign(_))
    }
}

#[derive(Clone, Debug)]
struct Intent {
    /// Version and digest of the payload; none where nothing is to stand there.
    wanted: Option<(u64, Digest)>,
    /// Highest version that the plan knew of.
    before: Option<u64>,
    progress: Progress,
}

/// All intents.
#[derive(Clone, Debug)]
pub struct Intents<'a> {
    folder: &'a Folder,
    all: BTreeMap<Target, Intent>,
    /// Those that are [`Progress::Due`].
    due: BTreeSet<Target>,
    /// How many are [`Progress::Sent`].
    sent: usize,
}

impl<'a> Intents<'a> {
    /// Of a plan.
    #[must_use]
    pub fn new(plan: &Plan, folder: &'a Folder) -> Self {
        let unchanged = plan.unchanged.iter().map(|(target, (version, digest))| {
            let intent = Intent { wanted: Some((*version, *digest)), before: Some(*version), progress: Progress::Held };
            (target.clone(), intent)
        });
        let changed = plan.changes.iter().map(|change| {
            let wanted = change.version.zip(folder.get(&change.target)).filter(|_| change.kind != Kind::Withdraw);
            let wanted = wanted.map(|(version, content)| (version, Digest::of(&content.payload(version))));
            (change.target.clone(), Intent { wanted, before: change.before, progress: Progress::Due })
        });
        let due = plan.changes.iter().map(|change| change.target.clone()).collect();
        Self { folder, all: unchanged.chain(changed).collect(), due, sent: 0 }
    }

    /// The next ones to be published, at most `count`; they are under way then. An empty payload withdraws.
    pub fn take_due(&mut self, count: usize) -> Vec<(Target, Bytes)> {
        let next: Vec<Target> = self.due.iter().take(count).cloned().collect();
        next.into_iter()
            .map(|target| {
                self.set(&target, Progress::Sent);
                let wanted = self.all.get(&target).and_then(|intent| intent.wanted);
                let payload = wanted.and_then(|(version, _)| Some(self.folder.get(&target)?.payload(version)));
                (target, payload.unwrap_or_default())
            })
            .collect()
    }

    /// The broker acknowledged it.
    pub fn acknowledged(&mut self, target: &Target) {
        self.answered(target, Progress::Held);
    }

    /// The broker does not take it.
    pub fn denied(&mut self, target: &Target, why: String) {
        self.answered(target, Progress::Denied(why));
    }

    fn answered(&mut self, target: &Target, progress: Progress) {
        if self.all.get(target).is_some_and(|intent| intent.progress == Progress::Sent) {
            self.set(target, progress);
        }
    }

    /// A message on the target's topic has come, and nobody but us should have sent it. Says whether somebody did.
    pub fn arrived(&mut self, target: &Target, retained: Option<&Retained>) -> bool {
        let nothing = Intent { wanted: None, before: None, progress: Progress::Held };
        let intent = self.all.entry(target.clone()).or_insert(nothing);
        if intent.progress.is_final() {
            return false;
        }
        let ours = intent.wanted.map(|(_, digest)| digest) == retained.map(|retained| retained.digest);
        let foreign = Progress::Foreign(retained.and_then(|retained| retained.version));
        self.set(target, if ours { Progress::Held } else { foreign });
        !ours
    }

    /// All that the broker retains has come on a new connection: what is not there is due again, unless somebody
    /// published something newer.
    pub fn read_again(&mut self, seen: &Seen) {
        for (target, retained) in seen.all_desired() {
            if !self.all.contains_key(target) {
                self.arrived(target, Some(retained));
            }
        }
        let found: Vec<(Target, Progress)> = self
            .all
            .iter()
            .filter(|(_, intent)| !intent.progress.is_final())
            .map(|(target, intent)| (target.clone(), self.found(target, intent, seen.desired(target))))
            .collect();
        for (target, progress) in found {
            self.set(&target, progress);
        }
    }

    fn found(&self, target: &Target, intent: &Intent, retained: Option<&Retained>) -> Progress {
        let newest = intent.wanted.map(|(version, _)| version).max(intent.before);
        match (intent.wanted, retained) {
            (None, None) => Progress::Held,
            (Some((_, digest)), Some(retained)) if retained.digest == digest => Progress::Held,
            (Some((version, _)), Some(retained)) if retained.version == Some(version) => {
                Progress::Foreign(Some(version))
            }
            (_, Some(retained)) if retained.version > newest => Progress::Foreign(retained.version),
            // Published by other hands once, and not to be had again byte by byte under its version.
            (Some((version, digest)), _)
                if self.folder.get(target).is_none_or(|content| Digest::of(&content.payload(version)) != digest) =>
            {
                Progress::Foreign(None)
            }
            _ => Progress::Due,
        }
    }

    fn set(&mut self, target: &Target, progress: Progress) {
        let Some(intent) = self.all.get_mut(target) else { return };
        let was = std::mem::replace(&mut intent.progress, progress);
        self.sent -= usize::from(was == Progress::Sent);
        self.sent += usize::from(intent.progress == Progress::Sent);
        if intent.progress == Progress::Due {
            self.due.insert(target.clone());
        } else {
            self.due.remove(target);
        }
    }

    /// How many are still to be published or acknowledged.
    #[must_use]
    pub fn open(&self) -> usize {
        self.due.len() + self.sent
    }

    /// Those that will not come about, and why.
    pub fn failed(&self) -> impl Iterator<Item = (&Target, &Progress)> {
        self.all
            .iter()
            .filter(|(_, intent)| intent.progress.is_final())
            .map(|(target, intent)| (target, &intent.progress))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        document::Content,
        plan::{Options, plan},
        target::Topic,
    };

    fn plant() -> Target {
        Target::Group("plant".into())
    }

    fn content(interval: &str) -> Content {
        Content::new(&json!({"host": {"interval": interval}}))
    }

    fn folder() -> Folder {
        [(plant(), content("10s"))].into_iter().collect()
    }

    fn broker(folder: &Folder, payload: &[u8]) -> Seen {
        let mut seen = Seen::default();
        seen.take(&Topic::Desired(plant()), payload, folder);
        seen
    }

    fn intents<'a>(folder: &'a Folder, seen: &Seen) -> Intents<'a> {
        let options = Options { now_s: 100, withdraw_all: true };
        Intents::new(&plan(folder, seen, options).unwrap(), folder)
    }

    fn failed(intents: &Intents<'_>) -> Vec<Progress> {
        intents.failed().map(|(_, progress)| progress.clone()).collect()
    }

    #[test]
    fn each_document_is_published_once_and_held_when_acknowledged() {
        let folder = folder();
        let mut intents = intents(&folder, &broker(&folder, &content("1m").payload(6)));
        assert_eq!(intents.open(), 1);
        assert_eq!(intents.take_due(9), [(plant(), content("10s").payload(7))]);
        assert_eq!((intents.take_due(9), intents.open()), (vec![], 1));
        intents.acknowledged(&plant());
        assert_eq!((intents.open(), failed(&intents)), (0, vec![]));
    }

    #[test]
    fn a_withdrawal_is_an_empty_message() {
        let folder = Folder::default();
        let mut intents = intents(&folder, &broker(&folder, &content("1m").payload(6)));
        assert_eq!(intents.take_due(9), [(plant(), Bytes::new())]);
        assert!(!intents.arrived(&plant(), None), "our own");
        assert_eq!(intents.open(), 0);
    }

    #[test]
    fn a_broker_that_comes_back_without_it_gets_it_again() {
        let folder = folder();
        for forgotten in [&b""[..], &content("1m").payload(6), b"garbage"] {
            let mut intents = intents(&folder, &broker(&folder, &content("1m").payload(6)));
            intents.take_due(9);
            intents.acknowledged(&plant());
            intents.read_again(&broker(&folder, forgotten));
            assert_eq!(intents.take_due(9), [(plant(), content("10s").payload(7))]);
        }
    }

    #[test]
    fn what_was_under_way_when_the_connection_broke_is_looked_up() {
        let folder = folder();
        let mut intents = intents(&folder, &broker(&folder, &content("1m").payload(6)));
        intents.take_due(9);
        intents.read_again(&broker(&folder, &content("10s").payload(7)));
        assert_eq!((intents.open(), failed(&intents)), (0, vec![]));
    }

    #[test]
    fn a_second_publisher_is_noticed_at_once_and_after_a_reconnect() {
        let folder = folder();
        let before = broker(&folder, &content("1m").payload(6));
        let foreign = broker(&folder, &content("5m").payload(7));
        let mut live = intents(&folder, &before);
        live.take_due(9);
        assert!(live.arrived(&plant(), foreign.desired(&plant())));
        assert!(!live.arrived(&plant(), foreign.desired(&plant())), "told once");
        let mut later = intents(&folder, &before);
        later.take_due(9);
        later.read_again(&foreign);
        for mut intents in [live, later] {
            assert_eq!(failed(&intents), [Progress::Foreign(Some(7))]);
            intents.acknowledged(&plant());
            assert_eq!((intents.open(), failed(&intents).len()), (0, 1));
        }
    }

    #[test]
    fn what_nobody_wants_is_noticed_too() {
        let folder = Folder::default();
        let mut intents = intents(&folder, &Seen::default());
        assert!(intents.arrived(&plant(), broker(&folder, &content("5m").payload(1)).desired(&plant())));
        assert_eq!(failed(&intents), [Progress::Foreign(Some(1))]);
    }

    #[test]
    fn what_other_hands_published_is_not_published_again_in_other_bytes_under_its_number() {
        let folder = folder();
        let by_hand = br#"{ "version": 3, "config": { "host": { "interval": "10s" } } }"#;
        let mut intents = intents(&folder, &broker(&folder, by_hand));
        assert_eq!(intents.open(), 0);
        intents.read_again(&Seen::default());
        assert_eq!(failed(&intents), [Progress::Foreign(None)]);
    }
}
