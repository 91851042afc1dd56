//! What passes between the uplink and control: by message, and bounded.
//!
//! ```text
//!            ┌─ Inbox: the latest of each desired document, requests ──►┐
//!   uplink ──┤                                                          ├── control
//!            └◄─ reports (retained), answers, probes of the round trip ─┘
//! ```
//!
//! The uplink never waits for control: it must go on acknowledging and pinging while control applies a change.
//! What comes faster than control takes it is superseded (documents, of which only the latest counts) or dropped and
//! counted (requests).

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Longest configuration that is judged (design, MQTT); a longer one is answered `too-large`.
pub const MAX_CONFIG_BYTES: usize = 4 << 20;
/// Longest envelope of a policy that is judged: a bundle of 4 MiB in base64, and its signatures.
pub const MAX_POLICY_BYTES: usize = crate::policy::envelope::MAX_ENVELOPE_BYTES;
/// Longest payload of a request.
pub const MAX_REQUEST_BYTES: usize = 16 << 10;

/// What is managed: the first level of the topics `SUBJECT/desired` and `SUBJECT/reported`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// `config`
    Config,
    /// `policy`
    Policy,
}

impl Subject {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Config, Self::Policy];

    /// As it stands in topics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Policy => "policy",
        }
    }

    /// Longest document that is judged.
    #[must_use]
    pub const fn max_document_bytes(self) -> usize {
        match self {
            Self::Config => MAX_CONFIG_BYTES,
            Self::Policy => MAX_POLICY_BYTES,
        }
    }
}

/// Who a desired document is for; each source has its own sequence of versions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Source {
    /// All members of a group: `ROOT/@GROUP/SUBJECT/desired`.
    Group(Arc<str>),
    /// This gateway: `ROOT/ID/SUBJECT/desired`. Greater than all groups: it applies last.
    Device,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(group) => write!(f, "@{group}"),
            Self::Device => f.write_str("device"),
        }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

impl From<String> for Source {
    fn from(name: String) -> Self {
        name.strip_prefix('@').map_or(Self::Device, |group| Self::Group(group.into()))
    }
}

/// What stood in a message on a topic `…/desired`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A document of at most [`Subject::max_document_bytes`], not looked at yet.
    Document(Bytes),
    /// Nothing: the sender withdraws what was desired.
    Empty,
    /// Larger than that; its bytes were not kept.
    TooLarge {
        /// How many there were.
        bytes: usize,
    },
}

/// What the broker has for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The latest message of one topic.
    Desired {
        /// What it is about.
        subject: Subject,
        /// Who it is for.
        source: Source,
        /// What it says.
        payload: Payload,
    },
    /// All that the broker retains for us has come since the connection was made (or since it was asked for again):
    /// a source that did not come has no retained document.
    ReadInFull {
        /// The sources that came.
        present: Vec<(Subject, Source)>,
        /// Our own last report of each subject, as the broker retains it. Where it is absent, the broker has lost
        /// its memory rather than the document alone.
        witness: BTreeMap<Subject, Bytes>,
    },
    /// A message to `ROOT/ID/cmd/NAME`.
    Request(Request),
}

/// A request to the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The last level of the topic: whatever stood there.
    pub name: String,
    /// The payload; `None` where it is over [`MAX_REQUEST_BYTES`].
    pub payload: Option<Bytes>,
    /// MQTT 5 response topic; without one nobody wants an answer.
    pub response_topic: Option<String>,
    /// MQTT 5 correlation data, which the answer carries back.
    pub correlation_data: Option<Bytes>,
    /// Who asks: the value of the user property `user`.
    pub user: Option<String>,
    /// Whether the broker had kept it: nobody asks now, and it is not performed.
    pub retained: bool,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Where it goes: the request's response topic.
    pub topic: String,
    /// The request's correlation data.
    pub correlation_data: Option<Bytes>,
    /// JSON.
    pub payload: Bytes,
}
