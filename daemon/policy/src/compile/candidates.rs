//! Names for what a packet may face, so that what is decided once is known by its name.
//!
//! The rules on an address's innermost prefix come first, then those on the prefix around it, and so on: the chain of a
//! prefix is its own rules in front of the chain of the prefix around it, and equal chains are one chain. Nothing stands
//! behind a rule without further conditions, so that most chains are but that rule, which needs no memory at all.
//!
//! A rule with several nested prefixes stands in a chain several times. Chains are compared, never gone through.

use tidegate_abi::policy::decision;

use super::{
    CompileError, MAX_LINKS,
    index::{Index, hash},
};

/// A decision word where no condition is left to look at, [`OPEN`] with the number of a link where one is.
pub(super) type Chain = u32;

/// Kind of a chain that begins with a link; not among the kinds of the ABI, and never in a table.
const OPEN: u32 = 7;

/// A rule with conditions, and what follows where they do not hold.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Link {
    rule: u32,
    next: Chain,
}

pub(super) struct Chains {
    links: Vec<Link>,
    index: Index,
}

impl Chains {
    pub(super) fn new() -> Self {
        Self { links: Vec::new(), index: Index::new() }
    }

    /// The chain with one more rule with conditions in front.
    pub(super) fn prepend(&mut self, rule: u32, next: Chain) -> Result<Chain, CompileError> {
        let links = &self.links;
        let hash_of = |link: Link| hash(&[link.rule, link.next]);
        let link = Link { rule, next };
        let found = self.index.find_or_add(
            hash_of(link),
            |number| links[number as usize] == link,
            |number| hash_of(links[number as usize]),
        );
        let number = if let Some(number) = found {
            number
        } else if self.links.len() < MAX_LINKS {
            self.links.push(link);
            self.links.len() as u32 - 1
        } else {
            return Err(CompileError::Meetings);
        };
        Ok(OPEN << decision::KIND_SHIFT | number)
    }
}

/// The number of its first link, or the decision that the chain is. Numbers are given from 0 on.
pub(super) const fn first(chain: Chain) -> Result<usize, u32> {
    if chain >> decision::KIND_SHIFT == OPEN { Ok((chain & decision::ARGUMENT) as usize) } else { Err(chain) }
}

/// The decision for a rule.
pub(super) const fn decided(rule: u32) -> u32 {
    decision::RULE << decision::KIND_SHIFT | rule
}
