//! What the engine says about itself.

use std::collections::BTreeMap;

use serde::Serialize;

/// How uploads are, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UploadStatus {
    /// What is being done as a whole.
    pub state: State,
    /// Why, where the state alone does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When that may change, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Files that wait in the outboxes, those under way included; parked and kept ones not.
    pub waiting_files: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Files under way, at most as many as may be at once.
    pub active: Vec<Active>,
    /// Files that a person must look at, as they lie in the outboxes now.
    pub parked_files: u64,
    /// The first few of them.
    pub parked: Vec<Parked>,
    /// Files that the outboxes hold and that cannot be taken, with the reason; the first few.
    pub unusable: Vec<Parked>,
    /// Since the daemon started.
    pub counters: Counters,
}

/// What is being done as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No endpoint is configured.
    #[default]
    Off,
    /// Nothing to do.
    Idle,
    /// Files are under way.
    Sending,
    /// Between two attempts: the last one failed.
    BackingOff,
    /// Many attempts in a row failed: the endpoint is tried now and then.
    Broken,
    /// Outside of `window`.
    Closed,
    /// By `cmd/upload-pause`.
    Paused,
    /// The endpoint is only reached over an interface that is metered.
    Metered,
    /// Put off after a start or when a window opened, so that not all gateways begin at once.
    Splayed,
    /// The folder of journals cannot be written.
    Blocked,
}

/// A file under way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Active {
    /// Its name in the outbox.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Bytes of its content that the server has confirmed.
    pub confirmed_bytes: u64,
    /// Bytes of its content that were handed to the connection.
    pub sent_bytes: u64,
    /// What is being done.
    pub step: Step,
    /// How it is encoded: `identity`, `zstd`, `gzip`.
    pub encoding: &'static str,
    /// Attempts so far, this one included.
    pub attempts: u32,
    /// Bytes of content a second, of this attempt.
    pub rate_bytes_s: u64,
    /// Seconds until it is through at that rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_s: Option<u64>,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// What is being done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Its SHA-256 is computed.
    Digesting,
    /// The server is asked how far it is, or to make room.
    Asking,
    /// Its content goes out.
    Sending,
    /// The content is read back.
    Verifying,
    /// Between two attempts.
    Waiting,
}

/// A file that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parked {
    /// Its name in the outbox.
    pub name: String,
    /// Why.
    pub reason: String,
    /// Which outbox it lies in, by its place in the configuration.
    #[serde(skip)]
    pub folder: usize,
    /// Its size.
    #[serde(skip)]
    pub bytes: u64,
}

/// What has happened since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Files that arrived whole.
    pub files: u64,
    /// Bytes of their content.
    pub content_bytes: u64,
    /// Bytes of bodies handed to connections, those sent again included.
    pub sent_bytes: u64,
    /// Bytes that the server did not have although they were sent: sent again.
    pub resent_bytes: u64,
    /// Attempts that failed and were or will be repeated.
    pub retries: u64,
    /// Uploads that began anew from their first byte, by why.
    pub restarts: BTreeMap<&'static str, u64>,
    /// Files that were parked, by why.
    pub parked: BTreeMap<&'static str, u64>,
    /// What servers and links did, by name: see [`crate::trouble::Trouble`].
    pub troubles: BTreeMap<&'static str, u64>,
}
