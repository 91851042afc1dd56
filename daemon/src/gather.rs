//! Maps and sets made of an iterator by code that is small.
//!
//! `collect` sorts what goes into a `BTreeMap` or a `BTreeSet` before it builds it: fastest where there are many entries, and
//! 3 to 6 KB of code for each type of entry. The daemon has dozens of types, and few entries of each.

/// What iterators can do here, too.
pub(crate) trait Gather: Iterator + Sized {
    /// As `collect`, by putting in one entry after the other.
    fn gather<C: Default + Extend<Self::Item>>(self) -> C {
        let mut all = C::default();
        all.extend(self);
        all
    }
}

impl<I: Iterator> Gather for I {}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn what_is_gathered_is_what_is_collected() {
        let entries = [(2, 'b'), (1, 'a'), (2, 'c'), (0, 'd')];
        assert_eq!(entries.into_iter().gather::<BTreeMap<_, _>>(), entries.into_iter().collect());
        assert_eq!(entries.into_iter().gather::<BTreeSet<_>>(), entries.into_iter().collect());
    }
}
