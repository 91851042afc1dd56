//! The addresses of each family: which prefixes are around them, and the tree that finds what they come to.

use tidegate_abi::policy::{Single, Tree, address};

use super::{
    CompileError,
    candidates::Chain,
    classes::Classes,
    space::Space,
    subject::Subject,
    sweep::{Address, Entry, Part, Visit, sweep},
};
use crate::{Prefix, bundle::MAX_CANDIDATES, tables::words};

/// The tree by IPv4 address.
pub(super) fn v4(subject: &Subject<'_>, classes: &mut Classes<'_>, space: &mut Space) -> Result<Tree, CompileError> {
    let mut intervals = Intervals::default();
    family(subject, classes, space, &mut intervals)?;
    space.tree_v4(&intervals.greatest, &intervals.words)
}

/// The tree by the high half of an IPv6 address, and below it those by the low half.
pub(super) fn v6(subject: &Subject<'_>, classes: &mut Classes<'_>, space: &mut Space) -> Result<Tree, CompileError> {
    let mut halves = Halves::default();
    family(subject, classes, space, &mut halves)?;
    space.tree(&halves.high.greatest, &halves.high.words)
}

fn family<A: Address>(
    subject: &Subject<'_>,
    classes: &mut Classes<'_>,
    space: &mut Space,
    out: &mut impl Intake<A>,
) -> Result<(), CompileError> {
    let mut entries = Vec::new();
    for (number, rule) in subject.rules() {
        let part = subject.part(number, rule);
        let prefixes = subject.bundle.prefixes(rule).iter();
        entries.extend(
            prefixes.filter_map(|prefix| A::of(*prefix).map(|first| Entry { first, length: prefix.length(), part })),
        );
    }
    entries.sort_unstable();
    entries.dedup();
    out.reserve(entries.len() * 2 + 1);
    let mut nest = Nest {
        row: subject.row(),
        levels: vec![Level { from: 0, word: None }],
        candidates: Vec::new(),
        chains: vec![0; subject.row()],
        classes,
        space,
        out,
    };
    sweep(&entries, &mut nest)
}

/// The prefixes around an address, the outermost first; below them all level 0, which no rule is on.
struct Nest<'n, 'a, Out> {
    levels: Vec<Level>,
    /// Of all levels, one behind the other: which rules an address on it faces, in the order in which they are asked.
    candidates: Vec<Part>,
    /// Of all levels: a row of chains each.
    chains: Vec<Chain>,
    /// Chains of a level.
    row: usize,
    classes: &'n mut Classes<'a>,
    space: &'n mut Space,
    out: &'n mut Out,
}

struct Level {
    /// Where its candidates begin.
    from: usize,
    /// Its address word, once an interval asked for it.
    word: Option<u32>,
}

impl<A: Address, Out: Intake<A>> Visit<A> for Nest<'_, '_, Out> {
    type Error = CompileError;

    fn push(&mut self, prefix: &[Entry<A>]) -> Result<(), CompileError> {
        let from = self.candidates.len();
        let around = self.levels.last().map_or(from, |level| level.from)..from;
        self.candidates.extend(prefix.iter().map(|entry| entry.part));
        for outer in around {
            // A rule that has this prefix, too, has been asked before.
            let outer = self.candidates[outer];
            if prefix.iter().all(|entry| entry.part.rule != outer.rule) {
                self.candidates.push(outer);
            }
        }
        let found = self.candidates.len() - from;
        if found > MAX_CANDIDATES {
            return Err(CompileError::Candidates { prefix: prefix[0].prefix(), found });
        }
        let start = self.chains.len();
        self.chains.extend_from_within(start - self.row..);
        for entry in prefix.iter().rev() {
            self.classes.prepend(entry.part, &mut self.chains[start..])?;
        }
        self.levels.push(Level { from, word: None });
        Ok(())
    }

    fn pop(&mut self) {
        if let Some(level) = self.levels.pop() {
            self.candidates.truncate(level.from);
            self.chains.truncate(self.chains.len() - self.row);
        }
    }

    fn interval(&mut self, last: A) -> Result<(), CompileError> {
        let level = self.levels.last_mut().expect("level 0 is never popped");
        let word = if let Some(word) = level.word {
            word
        } else {
            let row = &self.chains[self.chains.len() - self.row..];
            self.classes.of(row, &self.candidates[level.from..], self.space)?
        };
        level.word = Some(word);
        self.out.take(last, word, self.space)
    }
}

/// Takes the intervals of a family, one after the other.
trait Intake<A> {
    /// At most so many will come.
    fn reserve(&mut self, count: usize);
    /// All addresses up to this one, from where the last interval ended, have this word: a rule or a class.
    fn take(&mut self, last: A, word: u32, space: &mut Space) -> Result<(), CompileError>;
}

/// What a tree is made of: for each interval its greatest key and its word; neighbours differ.
#[derive(Default)]
struct Intervals {
    greatest: Vec<u64>,
    words: Vec<u32>,
}

impl Intervals {
    fn push(&mut self, greatest: u64, word: u32) {
        if self.words.last() == Some(&word) {
            self.greatest.pop();
        } else {
            self.words.push(word);
        }
        self.greatest.push(greatest);
    }

    fn clear(&mut self) {
        self.greatest.clear();
        self.words.clear();
    }
}

impl Intake<u32> for Intervals {
    fn reserve(&mut self, count: usize) {
        self.greatest.reserve_exact(count);
        self.words.reserve_exact(count);
    }

    fn take(&mut self, last: u32, word: u32, _: &mut Space) -> Result<(), CompileError> {
        self.push(last.into(), word);
        Ok(())
    }
}

/// Intervals of whole high halves, and those within the high half that the last address ended in.
#[derive(Default)]
struct Halves {
    high: Intervals,
    low: Intervals,
    /// The high half that follows the last whole one.
    next: u64,
}

impl Intake<u128> for Halves {
    fn reserve(&mut self, count: usize) {
        self.high.greatest.reserve_exact(count);
        self.high.words.reserve_exact(count);
    }

    fn take(&mut self, last: u128, word: u32, space: &mut Space) -> Result<(), CompileError> {
        let (high, low) = ((last >> 64) as u64, last as u64);
        // What is left of the high half that was begun.
        if !self.low.words.is_empty() {
            self.low.push(if high > self.next { u64::MAX } else { low }, word);
            if high == self.next && low != u64::MAX {
                return Ok(());
            }
            self.end_half(space)?;
        }
        // Whole ones, then the beginning of another.
        if low == u64::MAX {
            if self.high.greatest.last() != Some(&high) {
                self.high.push(high, word);
                self.next = high.wrapping_add(1);
            }
        } else {
            if high > self.next {
                self.high.push(high - 1, word);
                self.next = high;
            }
            self.low.push(low, word);
        }
        Ok(())
    }
}

impl Halves {
    /// All of high half `next` is known.
    fn end_half(&mut self, space: &mut Space) -> Result<(), CompileError> {
        let word = if let [word] = self.low.words[..] {
            word
        } else if let Some(single) = self.low.single() {
            let at = space.words(4, 4)?;
            let [low, both] = words(&single);
            space.set_pair(at, low);
            space.set_pair(at + 2, both);
            (address::SINGLE << address::KIND_SHIFT) | (at as u32 / 4)
        } else {
            let tree = space.tree(&self.low.greatest, &self.low.words)?;
            address::LOW << address::KIND_SHIFT | tree.pack()
        };
        self.high.push(self.next, word);
        self.next = self.next.wrapping_add(1);
        self.low.clear();
        Ok(())
    }
}

impl Intervals {
    /// Where one key alone differs from all others.
    fn single(&self) -> Option<Single> {
        let (low, one, others) = match (&self.words[..], &self.greatest[..]) {
            (&[one, others], &[0, _]) => (0, one, others),
            (&[others, one], &[before, _]) if before == u64::MAX - 1 => (u64::MAX, one, others),
            (&[others, one, behind], &[before, low, _]) if others == behind && before + 1 == low => (low, one, others),
            _ => return None,
        };
        Some(Single { low, word: one, others })
    }
}

impl<A: Address> Entry<A> {
    fn prefix(&self) -> Prefix {
        self.first.prefix(self.length)
    }
}
