//! From a chain of candidates to a decision: conditions become segments of ports and chains of interfaces.
//!
//! Ports cut the candidates into segments, in each of which the same candidates are left; each segment is cut by peer
//! ports in the same way, and what is left then depends on the interface alone. Equal decisions are one, so that they
//! can be told apart by their words.

use std::collections::HashMap;

use tidegate_abi::policy::decision;

use super::{
    CompileError, MAX_STEPS,
    candidates::{Chain, decided, first},
    index::{Index, hash},
    space::Space,
    subject::Subject,
    sweep::Part,
};
use crate::bundle::{Conditions, MAX_CANDIDATES, Ports};

// Candidates are told apart by the bits of a word.
const _: () = assert!(MAX_CANDIDATES <= u64::BITS as usize);

/// A decision that is not known yet.
const UNKNOWN: u32 = u32::MAX;

pub(super) struct Decisions<'a> {
    /// By link of the chains.
    known: Vec<u32>,
    /// Of [`MAX_STEPS`], those that are left.
    steps: u64,
    lists: Lists,
    subject: &'a Subject<'a>,
}

/// A rule that has not been ruled out.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    rule: u32,
    /// Number of its interface list, or [`decision::ANY_INTERFACE`].
    interfaces: u32,
    conditions: &'a Conditions,
}

/// By what segments are made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    /// Destination port or ICMP type: no protocol has both.
    Port,
    PeerPort,
}

impl<'a> Decisions<'a> {
    pub(super) fn new(subject: &'a Subject<'a>) -> Self {
        Self { known: Vec::new(), steps: MAX_STEPS, lists: Lists::new(), subject }
    }

    /// The decision that a chain comes to, which stands in a column of a row and was made of these candidates. What the
    /// decision needs is stored.
    pub(super) fn of(
        &mut self,
        chain: Chain,
        column: usize,
        candidates: &[Part],
        space: &mut Space,
    ) -> Result<u32, CompileError> {
        let number = match first(chain) {
            Err(decision) => return Ok(decision),
            Ok(number) => number,
        };
        if number >= self.known.len() {
            self.known.resize(number + 1, UNKNOWN);
        }
        if self.known[number] == UNKNOWN {
            let mut asked = Vec::new();
            for part in candidates.iter().filter(|part| part.columns >> column & 1 == 1) {
                let conditions = self.subject.conditions(part.rule);
                asked.push(Candidate { rule: part.rule, interfaces: part.interfaces.into(), conditions });
                if !part.is_open {
                    break;
                }
            }
            self.known[number] = self.by_port(&asked, space)?;
        }
        Ok(self.known[number])
    }

    fn by_port(&mut self, candidates: &[Candidate<'_>], space: &mut Space) -> Result<u32, CompileError> {
        // Where no port is known, rules that ask for one do not match.
        let mut portless = candidates.to_vec();
        portless.retain(|candidate| [Field::Port, Field::PeerPort].into_iter().all(|field| !field.asked(candidate)));
        let unknown = self.by_interface(&portless, space)?;
        self.segments(Field::Port, candidates, unknown, space)
    }

    /// Cuts by one field, then by those behind it. `unknown` is the decision where no port is known.
    fn segments(
        &mut self,
        field: Field,
        candidates: &[Candidate<'_>],
        unknown: u32,
        space: &mut Space,
    ) -> Result<u32, CompileError> {
        if !candidates.iter().any(|candidate| field.asked(candidate)) {
            return self.behind(field, candidates, unknown, space);
        }
        let mut starts = vec![0];
        for candidate in candidates {
            field.ranges(candidate, |range| starts.extend([u32::from(range.first), u32::from(range.last) + 1]));
        }
        starts.sort_unstable();
        starts.dedup();
        starts.retain(|start| u16::try_from(*start).is_ok());
        let steps = (starts.len() * candidates.len()) as u64;
        self.steps = self.steps.checked_sub(steps).ok_or(CompileError::Steps)?;
        let ends = starts[1..].iter().map(|start| start - 1).chain([u32::from(u16::MAX)]);
        let mut segments = Segments { unknown, greatest: Vec::new(), decisions: Vec::new() };
        // By which candidates are left, as bits: far fewer than there are segments, where ranges are many.
        let mut known: HashMap<u64, u32> = HashMap::new();
        for (start, end) in starts.iter().zip(ends) {
            let holds = |candidate| field.holds(candidate, *start as u16);
            let bits = candidates.iter().enumerate().fold(0, |bits, (place, it)| bits | u64::from(holds(it)) << place);
            let decision = if let Some(decision) = known.get(&bits) {
                *decision
            } else {
                let left: Vec<_> = candidates.iter().filter(|candidate| holds(candidate)).copied().collect();
                let decision = self.behind(field, &left, unknown, space)?;
                known.insert(bits, decision);
                decision
            };
            segments.push(end, decision);
        }
        if segments.decisions == [unknown] {
            return Ok(unknown);
        }
        self.lists.segments(field, &segments, space)
    }

    fn behind(
        &mut self,
        field: Field,
        candidates: &[Candidate<'_>],
        unknown: u32,
        space: &mut Space,
    ) -> Result<u32, CompileError> {
        match field {
            Field::Port => self.segments(Field::PeerPort, candidates, unknown, space),
            Field::PeerPort => self.by_interface(candidates, space),
        }
    }

    /// Of each interface list the first rule, up to the first rule for all interfaces.
    fn by_interface(&mut self, candidates: &[Candidate<'_>], space: &mut Space) -> Result<u32, CompileError> {
        // Nearly always.
        match candidates.first() {
            None => return Ok(decision::NONE),
            Some(first) if first.interfaces == decision::ANY_INTERFACE => return Ok(decided(first.rule)),
            Some(_) => {}
        }
        let mut chain = Vec::new();
        let mut seen = 0_u32;
        for candidate in candidates {
            let list = candidate.interfaces;
            if list == decision::ANY_INTERFACE {
                chain.push((list, decided(candidate.rule)));
                break;
            }
            if seen >> list & 1 == 0 {
                seen |= 1 << list;
                chain.push((list, decided(candidate.rule)));
            }
        }
        if chain.last().is_none_or(|(list, _)| *list != decision::ANY_INTERFACE) {
            chain.push((decision::ANY_INTERFACE, decision::NONE));
        }
        self.lists.chain(&chain, space)
    }
}

impl Field {
    fn asked(self, candidate: &Candidate<'_>) -> bool {
        let conditions = candidate.conditions;
        match self {
            Self::Port => !conditions.ports.is_empty() || !conditions.icmp_types.is_empty(),
            Self::PeerPort => !conditions.peer_ports.is_empty(),
        }
    }

    fn ranges(self, candidate: &Candidate<'_>, mut each: impl FnMut(Ports)) {
        let conditions = candidate.conditions;
        match self {
            Self::Port => {
                conditions.ports.iter().copied().for_each(&mut each);
                conditions
                    .icmp_types
                    .iter()
                    .map(|&kind| Ports { first: kind.into(), last: kind.into() })
                    .for_each(each);
            }
            Self::PeerPort => conditions.peer_ports.iter().copied().for_each(each),
        }
    }

    /// Whether the rule matches this port, as far as this field goes.
    fn holds(self, candidate: &Candidate<'_>, port: u16) -> bool {
        let within = |ranges: &[Ports]| {
            let behind = ranges.partition_point(|range| range.last < port);
            ranges.get(behind).is_some_and(|range| range.first <= port)
        };
        let conditions = candidate.conditions;
        match self {
            _ if !self.asked(candidate) => true,
            Self::Port if conditions.ports.is_empty() => {
                u8::try_from(port).is_ok_and(|kind| conditions.icmp_types.binary_search(&kind).is_ok())
            }
            Self::Port => within(&conditions.ports),
            Self::PeerPort => within(&conditions.peer_ports),
        }
    }
}

/// Decisions by port, no two neighbours equal.
struct Segments {
    unknown: u32,
    greatest: Vec<u64>,
    decisions: Vec<u32>,
}

impl Segments {
    fn push(&mut self, greatest: u32, decision: u32) {
        if self.decisions.last() == Some(&decision) {
            self.greatest.pop();
        } else {
            self.decisions.push(decision);
        }
        self.greatest.push(greatest.into());
    }
}

/// Lists that are stored, each once.
struct Lists {
    /// What they say, one behind the other, to compare with: a tree is not easily read back.
    content: Vec<u32>,
    /// Where each begins in `content`, and its decision.
    known: Vec<(u32, u32)>,
    index: Index,
}

impl Lists {
    fn new() -> Self {
        Self { content: Vec::new(), known: Vec::new(), index: Index::new() }
    }

    fn segments(&mut self, field: Field, segments: &Segments, space: &mut Space) -> Result<u32, CompileError> {
        let kind = match field {
            Field::Port => decision::PORT,
            Field::PeerPort => decision::PEER_PORT,
        };
        let pairs = segments.greatest.iter().zip(&segments.decisions);
        let content = [kind, segments.unknown].into_iter().chain(pairs.flat_map(|(end, word)| [*end as u32, *word]));
        self.find_or_store(content, || {
            let tree = space.tree(&segments.greatest, &segments.decisions)?;
            let at = space.put(&[segments.unknown, tree.pack()])?;
            Ok(kind << decision::KIND_SHIFT | at as u32)
        })
    }

    fn chain(&mut self, chain: &[(u32, u32)], space: &mut Space) -> Result<u32, CompileError> {
        let content = [decision::INTERFACE].into_iter().chain(chain.iter().flat_map(|(list, word)| [*list, *word]));
        self.find_or_store(content, || {
            let first = space.words(chain.len() * 2, 2)?;
            for (index, (list, word)) in chain.iter().enumerate() {
                space.set_pair(first + index * 2, u64::from(*word) << 32 | u64::from(*list));
            }
            Ok((decision::INTERFACE << decision::KIND_SHIFT) | (first as u32 / 2))
        })
    }

    fn find_or_store(
        &mut self,
        content: impl Iterator<Item = u32>,
        store: impl FnOnce() -> Result<u32, CompileError>,
    ) -> Result<u32, CompileError> {
        let start = self.content.len();
        self.content.extend(content);
        let (said, new) = self.content.split_at(start);
        let known = &self.known;
        let list = |number: u32| {
            let end = known.get(number as usize + 1).map_or(said.len(), |(start, _)| *start as usize);
            &said[known[number as usize].0 as usize..end]
        };
        let found = self.index.find_or_add(hash(new), |number| list(number) == new, |number| hash(list(number)));
        if let Some(number) = found {
            self.content.truncate(start);
            return Ok(self.known[number as usize].1);
        }
        let decision = store()?;
        self.known.push((start as u32, decision));
        Ok(decision)
    }
}
