//! What addresses come to: a class is a row of decisions, one for each direction and protocol group.

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
    pub(super) fn prepend(&mut self, part: Part, row: &mut [Chain]) {
        let mut columns = part.columns;
        while columns != 0 {
            let chain = &mut row[columns.trailing_zeros() as usize];
            *chain = if part.is_open { self.chains.prepend(part.rule, *chain) } else { decided(part.rule) };
            columns &= columns - 1;
        }
    }

    /// The number of the class that a row of chains comes to, which were made of these candidates.
    pub(super) fn of(&mut self, row: &[Chain], candidates: &[Part], space: &mut Space) -> Result<u32, CompileError> {
        let start = self.rows.len();
        for (column, chain) in row.iter().enumerate() {
            self.rows.push(self.decisions.of(*chain, column, candidates, space)?);
        }
        let (known, new) = self.rows.split_at(start);
        let class = |number: u32| &known[number as usize * row.len()..][..row.len()];
        match self.index.find_or_add(hash(new), |number| class(number) == new, |number| hash(class(number))) {
            Some(number) => {
                self.rows.truncate(start);
                Ok(number)
            }
            None => Ok((start / row.len()) as u32),
        }
    }

    /// All rows.
    pub(super) fn into_words(self) -> Vec<u32> {
        self.rows
    }
}
