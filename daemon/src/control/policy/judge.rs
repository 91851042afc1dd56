//! What an envelope says, and what the kernel is to make of it. Takes tens of milliseconds and as many megabytes for the
//! largest, so it is done beside the loop, one at a time.
//!
//! ```text
//! size ─► signature ─► bundle ─► scope ─► sequence ─► not_after ─► keys ─► compile ─► on the shelf
//! ```
//!
//! What fails before the scope is known to be ours takes no place in the sequence: whoever may publish, but not sign, could
//! otherwise end it with the highest version there is, and so could a bundle that was signed for another gateway.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

use bytes::Bytes;
use tidegate_values::Digest;

use super::{
    Held,
    agent::{Facts, Wanted},
    shelf::Shelf,
    trust::{Changes, Trust},
};
use crate::{
    config::PublicKey,
    control::{
        link::Source,
        protocol::{Document, Stamp},
    },
    gather::Gather as _,
    kernel::Generation,
    policy::{Bundle, Options, Scope, compile, envelope, keys::Keyring, read},
    record,
};

/// Where an envelope comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A topic of the broker.
    Broker(Source),
    /// A technician.
    Stick {
        /// Who will vouch for it.
        offline: bool,
    },
}

/// An envelope, and all that it is judged by.
#[derive(Clone, Debug)]
pub(in crate::control) struct Task {
    pub(super) origin: Origin,
    pub(super) envelope: Bytes,
    pub(super) gateway: String,
    pub(super) sources: Vec<Source>,
    /// The highest version of each source.
    pub(super) marks: BTreeMap<Source, Stamp>,
    /// What each source wishes for.
    pub(super) wished: BTreeMap<Source, Document<Held>>,
    pub(super) public_keys: Vec<PublicKey>,
    pub(super) trust: Trust,
    pub(super) fragments_allow: bool,
    /// Of each source, rules that count no more.
    pub(super) expired: BTreeMap<Source, Arc<BTreeSet<Box<str>>>>,
    pub(super) now: record::Stamp,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct Judged {
    pub(super) origin: Origin,
    /// Whose sequence it belongs to; absent where that is nobody's here.
    pub(super) source: Option<Source>,
    pub(super) verdict: Verdict,
    /// Ids of the configured keys.
    pub(super) configured: BTreeSet<Digest>,
    /// It was wished for before, and its envelope had gone from the shelf.
    pub(super) restored: bool,
    /// It is to be judged again once the clock is set.
    pub(super) awaits_clock: bool,
}

/// What an envelope says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It can be enforced, and is on the shelf.
    Usable(Stamp, Held),
    /// It is for us, and cannot be enforced.
    Unusable(Stamp, String),
    /// It is not for us, or cannot be judged now.
    NotForNow(Stamp, String),
    /// Nobody knows what it says: whose signatures count did not sign it.
    Unreadable(String),
}

/// A policy as the kernel takes it.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) digest: Digest,
    pub(super) fragments_allow: bool,
    pub(super) expired: Arc<BTreeSet<Box<str>>>,
    pub(super) generation: Box<Generation>,
    pub(super) facts: Facts,
}

impl Ready {
    pub(super) fn is_for(&self, wanted: &Wanted) -> bool {
        (self.digest, self.fragments_allow, &self.expired)
            == (wanted.stamp.digest, wanted.fragments_allow, &wanted.expired)
    }

    /// Of an envelope that was judged before.
    pub(super) fn load(shelf: &Shelf, wanted: &Wanted) -> Result<Self, String> {
        let payload = envelope::look_into(&shelf.get(&wanted.stamp.digest)?).map_err(|error| error.to_string())?;
        let bundle = read(&payload).map_err(|error| error.to_string())?;
        Self::compile(&bundle, wanted.stamp.digest, wanted.fragments_allow, &wanted.expired)
    }

    fn compile(
        bundle: &Bundle,
        digest: Digest,
        fragments_allow: bool,
        expired: &Arc<BTreeSet<Box<str>>>,
    ) -> Result<Self, String> {
        let counts_no_more = |rule: usize| !expired.is_empty() && expired.contains(bundle.name(&bundle.rules[rule]));
        let options = Options { number: 0, fragments_allow, expired: &counts_no_more };
        let tables = compile(bundle, &options).map_err(|error| error.to_string())?;
        let timed = bundle.rules.iter().filter_map(|rule| Some((bundle.name(rule).into(), rule.ttl_s?.get())));
        let facts = Facts {
            rules: bundle.rules.len(),
            prefixes: bundle.prefix_count(),
            table_bytes: size_of_val(&tables.blocks[..]),
            timed: timed.collect(),
        };
        let generation = Generation::new(bundle, tables).map_err(|error| format!("interfaces: {error}"))?;
        let generation = Box::new(generation);
        Ok(Self { digest, fragments_allow, expired: Arc::clone(expired), generation, facts })
    }
}

/// The configured keys; what cannot be read of them is a line in the log, and the others count.
pub(super) fn configured(keys: &[PublicKey]) -> Keyring {
    let (ring, problems) = Keyring::configured(keys, |path| fs::read(path));
    for problem in problems {
        tracing::warn!(problem, "a configured policy key does not count");
    }
    ring
}

pub(super) fn ids(ring: &Keyring) -> BTreeSet<Digest> {
    ring.keys().iter().map(|key| key.id).gather()
}

/// Judges an envelope; what can be enforced is on the shelf then. Blocks on the disk.
pub(super) fn judge(task: &Task, shelf: &Shelf) -> (Judged, Option<Ready>) {
    let ring = configured(&task.public_keys);
    let mut judged = Judged {
        origin: task.origin.clone(),
        source: match &task.origin {
            Origin::Broker(source) => Some(source.clone()),
            Origin::Stick { .. } => None,
        },
        verdict: Verdict::Unreadable(String::new()),
        configured: ids(&ring),
        restored: false,
        awaits_clock: false,
    };
    let digest = Digest::of(&task.envelope);
    // Desired state is read again with each connect: what is in use needs no second look.
    if let Some(document) = judged.source.as_ref().and_then(|source| task.wished.get(source))
        && document.stamp.digest == digest
    {
        let kept = if shelf.get(&digest).is_ok() {
            Ok(())
        } else {
            judged.restored = true;
            shelf.put(&digest, &task.envelope)
        };
        judged.verdict = match kept {
            Ok(()) => Verdict::Usable(document.stamp, document.body.clone()),
            Err(error) => Verdict::NotForNow(document.stamp, format!("it cannot be kept: {error}")),
        };
        return (judged, None);
    }
    let ready = match look(task, shelf, &task.trust.ring(ring), digest, &mut judged) {
        Ok((verdict, ready)) => {
            judged.verdict = verdict;
            Some(ready)
        }
        Err(verdict) => {
            judged.verdict = verdict;
            None
        }
    };
    (judged, ready)
}

fn look(
    task: &Task,
    shelf: &Shelf,
    ring: &Keyring,
    digest: Digest,
    judged: &mut Judged,
) -> Result<(Verdict, Ready), Verdict> {
    let now_ms = task.now.synced.then_some(task.now.ts_ms);
    let opened = envelope::open(&task.envelope, ring, now_ms).map_err(|error| {
        judged.awaits_clock = error.is_for_want_of_time();
        Verdict::Unreadable(error.to_string())
    })?;
    let bundle = read(opened.payload()).map_err(|refused| {
        let reason = refused.reason.to_string();
        match refused.version {
            Some(version) => Verdict::NotForNow(Stamp { version, digest }, reason),
            None => Verdict::Unreadable(reason),
        }
    })?;
    // Its text is the bundle's by now.
    drop(opened);
    let stamp = Stamp { version: bundle.version, digest };
    let source = whose(task, &bundle.scope).map_err(|reason| Verdict::NotForNow(stamp, reason))?;
    judged.source = Some(source.clone());
    let unusable = |reason| Verdict::Unusable(stamp, reason);
    let mark = task.marks.get(&source);
    let replayed =
        |mark: &Stamp| stamp.version < mark.version || (stamp.version == mark.version && stamp.digest != mark.digest);
    if mark.is_some_and(replayed) {
        // The protocol has the words for that.
        return Err(unusable(String::new()));
    }
    match (bundle.not_after_ms, now_ms) {
        (Some(not_after), Some(now)) if not_after <= now => {
            return Err(unusable("expired: its not_after is over; sign it anew with a higher version".to_owned()));
        }
        (Some(_), None) => {
            judged.awaits_clock = true;
            let reason =
                "the clock is not set, and the bundle has a not_after; it is judged again once the clock is set";
            return Err(Verdict::NotForNow(stamp, reason.to_owned()));
        }
        _ => {}
    }
    let keys = Changes::of(&bundle.keys);
    task.trust.after(&keys, &judged.configured).map_err(unusable)?;
    let expired = task.expired.get(&source).cloned().unwrap_or_default();
    let ready = Ready::compile(&bundle, digest, task.fragments_allow, &expired).map_err(unusable)?;
    let held = Held {
        bytes: task.envelope.len(),
        not_after_ms: bundle.not_after_ms,
        keys,
        local: matches!(task.origin, Origin::Stick { .. }),
    };
    drop(bundle);
    shelf
        .put(&digest, &task.envelope)
        .map_err(|error| Verdict::NotForNow(stamp, format!("it cannot be kept: {error}")))?;
    Ok((Verdict::Usable(stamp, held), ready))
}

/// Whose sequence a bundle of this scope belongs to, if it may come from where it came.
fn whose(task: &Task, scope: &Scope) -> Result<Source, String> {
    let (source, found) = match scope {
        Scope::Gateway(id) => ((*id == task.gateway).then_some(Source::Device), format!("gateway {id}")),
        Scope::Group(group) => {
            let source = Source::Group(group.as_str().into());
            (task.sources.contains(&source).then_some(source), format!("group {group}"))
        }
    };
    match (source, &task.origin) {
        (Some(source), Origin::Stick { .. }) => Ok(source),
        (Some(source), Origin::Broker(topic)) if source == *topic => Ok(source),
        (Some(_), Origin::Broker(topic)) => {
            Err(format!("scope: it is for {found}, and was published to the topic of {topic}"))
        }
        (None, _) => Err(format!("scope: it is for {found}, and this is gateway {} of other groups", task.gateway)),
    }
}
