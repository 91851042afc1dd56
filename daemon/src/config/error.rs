//! What is wrong with a configuration: which key, in which layer, what stands there and what may.

use std::{fmt, io};

use crate::json;

/// One thing wrong with one layer.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError {
    /// Where: `default`, a file with its line (`/etc/tidegate/tidegate.toml:12`), a variable's name, or a remote layer
    /// (`remote device v7`).
    pub layer: String,
    /// The section, without brackets; empty where the trouble is with the layer or a key outside of sections.
    pub section: String,
    /// The key; empty where the trouble is with the section or the layer.
    pub key: String,
    /// What.
    #[source]
    pub problem: Problem,
}

/// Kinds of trouble. All are permanent until somebody edits the layer, but [`Problem::Unreadable`] and
/// [`Problem::NoMachineId`], which depend on the machine.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The system refused to give the file or folder.
    #[error("cannot be read: {0}; {helps}", helps = what_helps(.0))]
    Unreadable(#[source] io::Error),
    /// The file that was named is not there.
    #[error("cannot be read: {0}; name the file that is meant, or leave --config out")]
    Missing(#[source] io::Error),
    /// A pipe, a device or a folder.
    #[error("is not a regular file")]
    NotAFile,
    /// Over [`super::MAX_FILE_BYTES`].
    #[error("is over {limit_bytes} bytes, the most that is read; configuration files are a few kilobytes")]
    FileTooLarge {
        /// Wanted at most.
        limit_bytes: u64,
    },
    /// Over [`super::MAX_FILES`].
    #[error("holds {found} files, at most {limit} are read")]
    TooManyFiles {
        /// Found.
        found: usize,
        /// Wanted at most.
        limit: usize,
    },
    /// Bytes that are no text.
    #[error("is not UTF-8 text (first wrong byte at offset {offset})")]
    NotUtf8 {
        /// Offset of the first byte that is not UTF-8.
        offset: usize,
    },
    /// Not TOML.
    #[error("is not TOML: {0}")]
    Syntax(String),
    /// No section of that name.
    #[error("there is no such section{}; there are {accepted}", did_you_mean(suggestion.as_deref()))]
    UnknownSection {
        /// A section with nearly that name.
        suggestion: Option<String>,
        /// All sections.
        accepted: String,
    },
    /// The section has no key of that name.
    #[error("there is no such key{}; there are {accepted}", did_you_mean(suggestion.as_deref()))]
    UnknownKey {
        /// A key with nearly that name, or of that name in another section.
        suggestion: Option<String>,
        /// All keys of the section.
        accepted: String,
    },
    /// A wrong type, or a value out of range or badly formed.
    #[error("found {found}, accepted is {accepted}{}", because(reason.as_deref()))]
    NotAccepted {
        /// As it stands in the layer, shortened.
        found: String,
        /// What is accepted.
        accepted: String,
        /// What exactly is wrong, where that is not plain.
        reason: Option<String>,
    },
    /// A remote layer sets a key that is the gateway's own.
    #[error("can be set on the gateway only: {reason}; take it out of the remote configuration")]
    LocalOnly {
        /// Why.
        reason: &'static str,
    },
    /// A remote layer sets a key to what only a local one may.
    #[error("found {found}; a remote configuration may set {but}")]
    BeyondReach {
        /// As it stands in the layer, shortened.
        found: String,
        /// What it may set.
        but: &'static str,
    },
    /// A remote layer that is not JSON, or larger than any configuration is.
    #[error(transparent)]
    Json(json::Fault),
    /// A remote layer that is JSON, but no object.
    #[error("found {found}, accepted is an object of sections: {{\"host\":{{\"interval\":\"30s\"}}}}")]
    NotSections {
        /// As it stands there, shortened.
        found: String,
    },
    /// Fine by itself, but not beside another key.
    #[error("{0}")]
    Contradiction(String),
    /// The id is not set and cannot be derived.
    #[error(
        "is not set, and cannot be derived from {path}: {found}; set [gateway] id, or run systemd-machine-id-setup"
    )]
    NoMachineId {
        /// File that should hold it.
        path: String,
        /// What was found there.
        found: String,
    },
}

fn what_helps(error: &io::Error) -> &'static str {
    match error.kind() {
        // What was provisioned holds secrets, and its folder is closed to all but the service.
        io::ErrorKind::PermissionDenied => {
            "it must be readable to the daemon; people ask as root, or by tidegate config show"
        }
        _ => "it may be absent, but not unreadable",
    }
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map(|suggestion| format!(", did you mean {suggestion}?")).unwrap_or_default()
}

fn because(reason: Option<&str>) -> String {
    reason.map(|reason| format!(" ({reason})")).unwrap_or_default()
}

impl ConfigError {
    /// Trouble with a file or folder as a whole.
    pub(super) fn with_layer(layer: String, problem: Problem) -> Self {
        Self { layer, section: String::new(), key: String::new(), problem }
    }

    /// Trouble with a key that there is, by its dotted name.
    pub(super) fn with_key(layer: String, name: &str, problem: Problem) -> Self {
        let (section, key) = name.rsplit_once('.').unwrap_or(("", name));
        Self { layer, section: section.to_owned(), key: key.to_owned(), problem }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, section, key, problem } = self;
        match (section.as_str(), key.as_str()) {
            ("", "") => write!(f, "{layer}: {problem}"),
            ("", key) => write!(f, "{layer}: {key}: {problem}"),
            (section, "") => write!(f, "{layer}: [{section}]: {problem}"),
            (section, key) => write!(f, "{layer}: [{section}] {key}: {problem}"),
        }
    }
}
