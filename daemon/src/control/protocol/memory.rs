//! What is remembered of each source, across restarts.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use tidegate_values::Digest;

use crate::{control::link::Source, gather::Gather as _};

/// All sources of one subject: what is written to disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Memory<D>(pub BTreeMap<Source, Slot<D>>);

/// Groups that the gateway is not in whose place in their sequence is kept: it may come back to them. As many as there
/// may be in four times the longest `gateway.groups`.
const FOREIGN_GROUPS: usize = 64;

impl<D> Memory<D> {
    /// All documents that it refers to.
    pub fn documents(&self) -> impl Iterator<Item = &Document<D>> {
        self.0.values().flat_map(|slot| {
            let candidates = slot.partly.iter().chain(&slot.candidate).filter_map(|candidate| candidate.wish.as_ref());
            slot.confirmed.iter().chain(candidates)
        })
    }

    /// What is kept of these sources; and of others, which is written again as it was found, and is of no effect.
    #[must_use]
    pub fn part(self, sources: &[Source]) -> (Self, Self) {
        let (ours, foreign): (BTreeMap<_, _>, BTreeMap<_, _>) =
            self.0.into_iter().partition(|(source, _)| sources.contains(source));
        (Self(ours), Self(foreign.into_iter().take(FOREIGN_GROUPS).gather()))
    }
}

impl<D> Default for Memory<D> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// A place in a source's sequence, and the digest of the document that stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Version.
    pub version: u64,
    /// Of the whole document, as it was published.
    pub digest: Digest,
}

/// A document that is usable by itself; whether it fits to what is beside it shows when it is applied.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Document<D> {
    /// Which it is.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// What it says.
    pub body: D,
}

/// What a source asks for: that this document be in force, or none.
pub type Wish<D> = Option<Document<D>>;

/// One source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slot<D> {
    /// The highest version that was ever seen. It never falls.
    pub(super) mark: Option<Mark>,
    /// What was proven whole: the daemon runs it after any crash.
    pub(super) confirmed: Wish<D>,
    /// What was proven as far as it takes effect without a restart; it hides `confirmed` until this process ends.
    pub(super) partly: Option<Candidate<D>>,
    /// What is asked for and not proven.
    pub(super) candidate: Option<Candidate<D>>,
    /// Since when the state is as it is.
    pub(super) since_ms: u64,
    /// Why the last message was refused. Not kept: where the document still stands, it is read and refused again.
    #[serde(skip)]
    pub(super) refusal: Option<Refusal>,
    /// The broker has lost the document, and its memory of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) forgotten: bool,
    /// Why nothing of it may be tried for now. Not kept: whoever holds it says so again after a start.
    #[serde(skip)]
    pub(super) held: Option<String>,
}

impl<D> Default for Slot<D> {
    fn default() -> Self {
        Self {
            mark: None,
            confirmed: None,
            partly: None,
            candidate: None,
            since_ms: 0,
            refusal: None,
            forgotten: false,
            held: None,
        }
    }
}

/// The highest version of a source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Mark {
    #[serde(flatten)]
    pub(super) stamp: Stamp,
    /// Why it cannot be used, so that the same document is refused again without being judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
}

/// A message that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Refusal {
    /// Absent where no version could be read.
    pub(super) stamp: Option<Stamp>,
    pub(super) reason: String,
}

/// A change that is not proven.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Candidate<D> {
    pub(super) wish: Wish<D>,
    /// Trials so far, the present one included.
    pub(super) attempts: u32,
    pub(super) standing: Standing,
    /// Somebody on site will vouch for it: its next trial needs no link. Not kept: they are there now.
    #[serde(skip)]
    pub(super) urged: bool,
}

/// How a candidate stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub(super) enum Standing {
    /// For its turn, for the link or for the disk.
    Waiting {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Its trial is under way. Found on disk at the start: the process died in it.
    Trying,
    RolledBack {
        reason: String,
        /// When it is tried again, on the monotonic clock; absent: by request only.
        #[serde(skip)]
        next: Option<Duration>,
    },
    /// It does not fit to what is beside it, such as the local files.
    Unfit { reason: String },
}

impl<D> Candidate<D> {
    pub(super) const fn waiting(wish: Wish<D>) -> Self {
        Self { wish, attempts: 0, standing: Standing::Waiting { reason: None }, urged: false }
    }
}

impl<D> Slot<D> {
    /// What runs of this source where it is not on trial.
    pub(super) fn settled(&self) -> Option<&Document<D>> {
        self.partly.as_ref().map_or(self.confirmed.as_ref(), |partly| partly.wish.as_ref())
    }

    /// What is asked for, as far as it could be used.
    pub(super) fn wished(&self) -> Option<&Document<D>> {
        self.candidate.as_ref().map_or_else(|| self.settled(), |candidate| candidate.wish.as_ref())
    }

    /// Whether the candidate, if any, is what is on trial: another may have taken its place meanwhile.
    pub(super) fn on_trial(&mut self) -> Option<&mut Candidate<D>> {
        self.candidate.as_mut().filter(|candidate| candidate.standing == Standing::Trying)
    }
}

/// The stamp of a wish; absent where nothing is wished for.
pub(super) fn stamp<D>(wish: Option<&Document<D>>) -> Option<Stamp> {
    wish.map(|document| document.stamp)
}
