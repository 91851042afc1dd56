//! What the engine is asked by whoever is at the gateway.

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::status::Active;

/// Questions on their way: more than that come from more people than look at one gateway.
pub const ASKS: usize = 4;
/// Files of an answer that wait to be read: 32 of at most some hundred bytes. Whoever reads slowly makes the answer wait, never an
/// upload.
pub const LISTED: usize = 32;
/// Files that arrived and are remembered, so that whoever waits for one hears of it: some 100 bytes each.
pub const FINISHED: usize = 64;

/// One question.
#[derive(Debug)]
pub enum Ask {
    /// All files that the outboxes hold, those under way first, and the last [`FINISHED`] that arrived.
    List {
        /// A file a message; the answer ends when this is dropped, and is given up when nobody reads it. Made with [`LISTED`].
        reply: mpsc::Sender<Listed>,
    },
    /// Whether it makes progress.
    Ping {
        /// Answered by the engine's loop.
        reply: oneshot::Sender<()>,
    },
}

/// One file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed {
    /// Its name in the outbox.
    pub name: String,
    /// The outbox.
    pub outbox: String,
    /// Its size.
    pub bytes: u64,
    /// `high`, `normal` or `low`.
    pub priority: &'static str,
    /// How it stands.
    pub state: Standing,
    /// Why it is parked, or cannot be taken; why its last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How far it is; present while it is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<Active>,
    /// When it arrived: milliseconds since boot (`CLOCK_BOOTTIME`), which nobody sets. A file of the same name that is handed in
    /// later is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_up_ms: Option<u64>,
    /// Where it is, as far as the server says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// How a file stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Under way, or between two attempts.
    Active,
    /// It waits for its turn.
    Waiting,
    /// A person must look at it.
    Parked,
    /// It cannot be taken: no file, or a name that has no place in a message.
    Unusable,
    /// It has arrived.
    Sent,
}
