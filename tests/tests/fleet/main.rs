//! The operator's side: the built `tidegate-fleet`, with a real broker.

mod by_hand;
mod large;
mod thousand;
