//! What became of a file: the data of `event/upload` (docs/schema/event-upload.json).

use serde::Serialize;
use tidegate_values::Digest;
use tokio::sync::oneshot;

/// Events that wait for the spool; when it takes none, the engine waits, and no file is let go of.
pub const EVENTS: usize = 16;

/// An event on its way to the spool.
#[derive(Debug)]
pub struct Told {
    /// What is told.
    pub event: Event,
    /// Answered once it is on stable storage, or never will be: only then the file is let go of. Dropped without an answer, it
    /// is told again.
    pub stored: oneshot::Sender<()>,
}

/// One file, when it has arrived, when it is given up, and when it begins anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Its name in the outbox.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Of its content; absent where it could not be read so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// What became of it.
    pub state: Outcome,
    /// Why it was parked, or begins anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How it was encoded: `identity`, `zstd`, `gzip`.
    pub encoding: &'static str,
    /// Bytes of bodies handed to connections, those sent again included.
    pub sent_bytes: u64,
    /// Since its first attempt of this run of the daemon.
    pub duration_ms: u64,
    /// Its size over that time.
    pub rate_bytes_s: u64,
    /// Attempts beyond the first.
    pub retries: u32,
    /// Where it is, as far as the server says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The server has all of it.
    Sent,
    /// A person must look at it.
    Parked,
    /// It begins anew from its first byte.
    Restarted,
}
