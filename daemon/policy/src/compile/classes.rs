//! What addresses come to: a rule that decides whatever else the packet is, or a class. A class is a row of decisions, one for
//! each direction and protocol group.

use tidegate_abi::policy::{address, decision};

use super::{
    CompileError,
    candidates::{Chain, Chains, decided},
    decide::Decisions,
    index::{Index, hash},
    space::Space,
    subject::Subject,
    sweep::Part,
};

/// Classes, each once, and what they are made of.
pub(super) struct Classes<'a> {
    chains: Chains,
    decisions: Decisions<'a>,
    /// Rows, one behind the other.
    rows: Vec<u32>,
    index: Index,
}

impl<'a> Classes<'a> {
    pub(super) fn new(subject: &'a Subject<'a>) -> Self {
        let (chains, decisions) = (Chains::new(), Decisions::new(subject));
        Self { chains, decisions, rows: Vec::new(), index: Index::new() }
    }

    /// Puts a rule in front of the chains of a row that it has a part in.
    pub(super) fn prepend(&mut self, part: Part, row: &mut [Chain]) -> Result<(), CompileError> {
        let mut columns = part.columns;
        while columns != 0 {
            let chain = &mut row[columns.trailing_zeros() as usize];
            *chain = if part.is_open { self.chains.prepend(part.rule, *chain)? } else { decided(part.rule) };
            columns &= columns - 1;
        }
        Ok(())
    }

    /// The address word for a row of chains, which were made of these candidates.
    pub(super) fn of(&mut self, row: &[Chain], candidates: &[Part], space: &mut Space) -> Result<u32, CompileError> {
        let start = self.rows.len();
        for (column, chain) in row.iter().enumerate() {
            self.rows.push(self.decisions.of(*chain, column, candidates, space)?);
        }
        let (known, new) = self.rows.split_at(start);
        if let Some(rule) = decided_by_one(new) {
            self.rows.truncate(start);
            return Ok(address::RULE << address::KIND_SHIFT | rule);
        }
        let class = |number: u32| &known[number as usize * row.len()..][..row.len()];
        match self.index.find_or_add(hash(new), |number| class(number) == new, |number| hash(class(number))) {
            Some(number) => {
                self.rows.truncate(start);
                Ok(address::CLASS << address::KIND_SHIFT | number)
            }
            None => Ok(address::CLASS << address::KIND_SHIFT | (start / row.len()) as u32),
        }
    }

    /// All rows.
    pub(super) fn into_words(self) -> Vec<u32> {
        self.rows
    }
}

/// The number of the rule, or 0 for none, that all decisions of a row are.
fn decided_by_one(row: &[u32]) -> Option<u32> {
    let first = *row.first()?;
    let kind = first >> decision::KIND_SHIFT;
    let is_plain = kind == decision::RULE || first == decision::NONE;
    (is_plain && row.iter().all(|decision| *decision == first)).then_some(first & decision::ARGUMENT)
}
