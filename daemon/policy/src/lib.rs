//! Network policy: what a signed bundle says, what it means, and what the kernel makes of it.
//!
//! ```text
//!  envelope (DSSE) ── keys ──► payload ── read ──► Bundle ── compile ──► Tables ──► kernel: one slot write
//!                                                    └────── evaluate ──► the same judgement, in plain Rust
//! ```
//!
//! Everything here is pure: bytes and the time go in, values come out. `control` decides which bundle is to be enforced,
//! `kernel` enforces it.

pub mod bundle;
pub mod compile;
pub mod diff;
pub mod envelope;
pub mod evaluate;
pub mod keys;
pub mod read;
pub mod show;
pub mod tables;

pub use bundle::{Action, Bundle, DefaultAction, Directions, Prefix, Rule, Scope};
pub use compile::{CompileError, Options, compile};
pub use evaluate::{Fragments, Judgement, Packet, evaluate};
pub use read::{Refused, read};
pub use tables::Tables;
