//! Bundles as they are written: `{"version":42,"scope":{…},"default":"allow","rules":[…]}`.
//!
//! The parser's events go straight into a [`Bundle`], without a tree of JSON values between: a hostile bundle of 4 MiB
//! takes at most [`MAX_MEMORY_BYTES`] while it is read. Reading stops at the first thing that is wrong, and says what, where,
//! and what would be accepted. What nobody knows, and what stands twice, is wrong: a rule that reads otherwise to whoever wrote
//! it than to whoever enforces it protects nobody.
//!
//! [`values`] reads single values, [`rule`] a rule, [`head`] what stands around the rules.
//!
//! All of it is pure: the same bytes always give the same answer, and no bytes make it panic.

mod head;
mod prefix;
mod rule;
#[cfg(test)]
mod tests;
mod values;

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use serde::de::{self, DeserializeSeed as _};
use tidegate_values::{
    excerpt,
    json::{self, NoText},
};

pub use self::prefix::{Unreadable, parse as parse_prefix};
use super::bundle::{
    Bundle, DefaultAction, MAX_BUNDLE_BYTES, MAX_INTERFACE_LISTS, MAX_PREFIXES, MAX_RULES, Prefix, Scope,
};

/// What reading takes at most beside the bytes, for a moment.
pub const MAX_MEMORY_BYTES: usize = 16 << 20;

/// Longest text with escapes: the parser builds it before anybody sees how long it is. What a bundle may have is shorter.
const MAX_ESCAPED_BYTES: usize = 4 << 10;

/// A bundle that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// Its version, where the bytes are JSON and have one.
    pub version: Option<u64>,
    /// Why; all are permanent.
    #[source]
    pub reason: Reason,
}

/// Why a bundle cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Over [`MAX_BUNDLE_BYTES`].
    #[error(
        "too-large: a bundle of {bytes} bytes, at most {MAX_BUNDLE_BYTES} are accepted; use shorter prefixes or reasons"
    )]
    TooLarge {
        /// How many there are.
        bytes: usize,
    },
    /// Bytes that no parser is to see.
    #[error(transparent)]
    NoText(#[from] NoText),
    /// Text that is not JSON, in the words of the parser.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// A member that is not as it should be.
    #[error("{place}{fault}")]
    Member {
        /// Which.
        place: Box<Place>,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// Where something stands in a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Number of the rule, from 1 on.
    pub rule: Option<usize>,
    /// Its name, where that stands before.
    pub name: String,
    /// Of the bundle or the rule; empty where all of it is meant.
    pub member: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule {
            Some(rule) if self.name.is_empty() => write!(f, "rule {rule}: ")?,
            Some(rule) => write!(f, "rule {rule} ({}): ", self.name)?,
            None => {}
        }
        if self.member.is_empty() { Ok(()) } else { write!(f, "{}: ", self.member) }
    }
}

/// What is wrong with a member.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A value that is not accepted.
    #[error("found {found}, accepted is {accepted}")]
    NotAccepted {
        /// What stands there, shortened.
        found: String,
        /// What may.
        accepted: &'static str,
    },
    /// A member that nobody knows.
    #[error("unknown member {name}{}; accepted are {accepted}", Suggestion(*.meant))]
    Unknown {
        /// Its name, shortened.
        name: String,
        /// What was probably meant.
        meant: Option<&'static str>,
        /// All there are.
        accepted: String,
    },
    /// Which of the two counts would be the reader's choice.
    #[error("stands twice")]
    Twice,
    /// A member that is needed.
    #[error("is missing; accepted is {accepted}")]
    Missing {
        /// What belongs there.
        accepted: &'static str,
    },
    /// The rule's name is another's, too.
    #[error("rule {first} has this name, too; names tell rules apart across versions")]
    NameTaken {
        /// Number of the other rule, from 1 on.
        first: usize,
    },
    /// An address where a prefix should stand.
    #[error("{found} has bits behind its length; was {meant} meant?")]
    HostBits {
        /// As it stands there.
        found: String,
        /// The prefix of that length that it is in.
        meant: Prefix,
    },
    /// What stands in a list twice.
    #[error("{found} stands there twice")]
    Repeated {
        /// What.
        found: String,
    },
    /// More than there may be.
    #[error("more than {limit} {what}")]
    TooMany {
        /// At most.
        limit: usize,
        /// Of what.
        what: &'static str,
    },
    /// Members that do not go together.
    #[error("{0}")]
    Apart(&'static str),
}

struct Suggestion(Option<&'static str>);

impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |meant| write!(f, ", was {meant} meant?"))
    }
}

/// Reads a bundle: the payload of an envelope.
///
/// What it takes to judge by it is checked by `compile`.
///
/// # Errors
///
/// The first thing that is wrong; the version is told in any case where there is one.
pub fn read(payload: &[u8]) -> Result<Bundle, Refused> {
    let text = match text(payload) {
        Ok(text) => text,
        Err(reason) => return Err(Refused { version: None, reason }),
    };
    let mut reading = Reading::new(payload.len());
    let mut parser = serde_json::Deserializer::from_str(text);
    let read = head::Whole(&mut reading).deserialize(&mut parser).and_then(|()| parser.end());
    match (read, reading.reason.take()) {
        (Ok(()), None) => reading.finish().map_err(|reason| Refused { version: head::version(text), reason }),
        (_, Some(reason)) => Err(Refused { version: head::version(text), reason }),
        (Err(error), None) => Err(Refused { version: None, reason: Reason::NotJson(error.to_string()) }),
    }
}

fn text(payload: &[u8]) -> Result<&str, Reason> {
    if payload.len() > MAX_BUNDLE_BYTES {
        return Err(Reason::TooLarge { bytes: payload.len() });
    }
    Ok(json::text(payload, MAX_ESCAPED_BYTES)?)
}

/// What was read so far, and where the reader is.
struct Reading {
    bundle: Bundle,
    place: Place,
    /// Why reading ended; the parser's own error says nothing then.
    reason: Option<Reason>,
    /// A hash of each rule's name, and its index.
    names: Vec<(u64, u32)>,
    hasher: RandomState,
    interface_lists: Vec<Arc<[String]>>,
    /// Prefixes of the rule that is being read.
    prefixes: Vec<Prefix>,
}

impl Reading {
    fn new(bytes: usize) -> Self {
        let scope = Scope::Gateway(String::new());
        let mut bundle = Bundle::new(0, scope, DefaultAction::Allow);
        // A rule has at least 40 bytes: a guess that seldom is too small, and bounded by what was sent.
        bundle.rules.reserve((bytes / 128).min(MAX_RULES));
        Self {
            bundle,
            place: Place::default(),
            reason: None,
            names: Vec::new(),
            hasher: RandomState::new(),
            interface_lists: Vec::new(),
            prefixes: Vec::new(),
        }
    }

    /// Ends the parser's work.
    fn stop<E: de::Error>(&mut self, fault: Fault) -> E {
        self.reason = Some(Reason::Member { place: Box::new(self.place.clone()), fault });
        E::custom("")
    }

    /// Goes to a member, or to one of a member.
    fn at(&mut self, of: &str, member: &str) {
        let path = &mut self.place.member;
        of.clone_into(path);
        if !of.is_empty() && !member.is_empty() {
            path.push('.');
        }
        path.push_str(member);
    }

    fn not_accepted<E: de::Error>(&mut self, found: &str, accepted: &'static str) -> E {
        self.stop(Fault::NotAccepted { found: excerpt(found), accepted })
    }

    /// The list itself, or the equal one that a rule before has.
    fn share(&mut self, list: Vec<String>) -> Result<Arc<[String]>, Fault> {
        if let Some(known) = self.interface_lists.iter().find(|known| known[..] == list[..]) {
            return Ok(Arc::clone(known));
        }
        if self.interface_lists.len() == MAX_INTERFACE_LISTS {
            return Err(Fault::TooMany {
                limit: MAX_INTERFACE_LISTS,
                what: "different lists of interfaces in a bundle",
            });
        }
        let list: Arc<[String]> = list.into();
        self.interface_lists.push(Arc::clone(&list));
        Ok(list)
    }

    fn note_name(&mut self, name: &str) {
        let index = u32::try_from(self.names.len()).expect("at most 65,536 rules are read");
        self.names.push((self.hasher.hash_one(name), index));
    }

    /// The bundle, if no two rules have one name.
    fn finish(mut self) -> Result<Bundle, Reason> {
        self.names.sort_unstable();
        let name = |index: u32| self.bundle.name(&self.bundle.rules[index as usize]);
        let twice = self.names.chunk_by(|left, right| left.0 == right.0).find_map(|alike| {
            // Nearly always one; more are equal names, or a coincidence of hashes.
            let pairs = alike
                .iter()
                .enumerate()
                .flat_map(|(at, first)| alike[at + 1..].iter().map(move |other| (first, other)));
            pairs.map(|(first, other)| (first.1, other.1)).find(|(first, other)| name(*first) == name(*other))
        });
        if let Some((first, second)) = twice {
            let place =
                Place { rule: Some(second as usize + 1), name: name(second).to_owned(), member: "name".to_owned() };
            return Err(Reason::Member {
                place: Box::new(place),
                fault: Fault::NameTaken { first: first as usize + 1 },
            });
        }
        self.bundle.shrink();
        Ok(self.bundle)
    }

    fn room_for_prefix(&self) -> Result<(), Fault> {
        if self.bundle.prefix_count() + self.prefixes.len() < MAX_PREFIXES {
            return Ok(());
        }
        Err(Fault::TooMany {
            limit: MAX_PREFIXES,
            what: "prefixes in a bundle, each counted for each rule that has it",
        })
    }
}
