//! A durable, bounded log on disk for records of many streams. It knows bytes, nothing else.
//!
//! # Shape
//!
//! A spool has a few **lanes**, each a chain of segment files of its own with one cursor: what lies
//! before the cursor was delivered. A lane carries the records of one or more **streams**, interleaved
//! in the order in which they were appended; each stream counts its own sequence. Lanes differ in
//! importance: when the spool is full, the oldest segment of the least important lane goes first.
//!
//! # Operation
//!
//! One dedicated thread owns the files. [`Spool`] is a cheap handle that sends it batches; everything
//! that waits when the thread comes round is one commit: one write and one sync a lane, after which
//! every producer in it gets its answer. What is behind the thread is a [`tidegate_storage::Storage`]: `io_uring`, plain
//! system calls, or in tests a model disk that loses what was not synced.
//!
//! # Format
//!
//! `docs/spool-format.md` specifies every byte and the order in which files change; [`mod@format`] is its code, and
//! [`inspect`] looks at the files without opening the spool.

mod api;
mod engine;
mod fault;
pub mod format;
pub mod inspect;
mod open;
mod pool;
#[cfg(test)]
mod suite;

pub use api::{
    Append, AppendError, Entry, LaneId, LaneOptions, LaneStats, Loss, LossReason, OpenError, Options, Position,
    ReadError, ReadFrom, Recovery, Spool, Stats, StreamStats,
};
pub use tidegate_storage::IoPreference;
