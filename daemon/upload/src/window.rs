//! When uploads may go on.

/// Times of the week.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows;
