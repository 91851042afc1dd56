//! Files that commands read: bundles as they are written, or in their envelopes.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, de::IgnoredAny};

use crate::policy::{
    Bundle, Options, Tables, compile,
    envelope::{self, MAX_ENVELOPE_BYTES},
    read,
};

/// A bundle or an envelope around one.
#[derive(Clone, Debug)]
pub(super) struct Input {
    path: PathBuf,
}

impl std::str::FromStr for Input {
    type Err = std::convert::Infallible;

    fn from_str(path: &str) -> Result<Self, Self::Err> {
        Ok(Self { path: path.into() })
    }
}

/// A bundle, and the bytes that would be signed, or were.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) payload: Vec<u8>,
    pub(super) bundle: Bundle,
    /// Whether it came in an envelope.
    pub(super) is_signed: bool,
}

impl Input {
    /// What stands for it in messages.
    pub(super) fn name(&self) -> String {
        if self.is_stdin() { "standard input".to_owned() } else { self.path.display().to_string() }
    }

    pub(super) fn is_stdin(&self) -> bool {
        self.path == Path::new("-")
    }

    /// What went wrong with it.
    pub(super) fn complaint(&self, what: &str) -> String {
        format!("{}: {what}", self.name())
    }

    /// Its bytes; of more than an envelope may have, one more.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, String> {
        let limit = MAX_ENVELOPE_BYTES as u64 + 1;
        let mut bytes = Vec::new();
        let read = if self.is_stdin() {
            io::stdin().lock().take(limit).read_to_end(&mut bytes)
        } else {
            File::open(&self.path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
        };
        read.map(|_| bytes).map_err(|error| self.complaint(&error.to_string()))
    }

    /// What it holds, whoever signed it or did not.
    pub(super) fn document(&self) -> Result<Document, String> {
        let bytes = self.bytes()?;
        let is_signed = is_envelope(&bytes);
        let payload = if is_signed {
            envelope::look_into(&bytes).map_err(|refused| self.complaint(&refused.to_string()))?
        } else {
            bytes
        };
        let bundle = read(&payload).map_err(|refused| self.complaint(&refused.to_string()))?;
        Ok(Document { payload, bundle, is_signed })
    }
}

/// Whether it has a member that envelopes have and bundles have not. What is no JSON counts as a bundle.
fn is_envelope(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Members {
        payload: Option<IgnoredAny>,
        #[serde(rename = "payloadType")]
        payload_type: Option<IgnoredAny>,
    }
    let members = serde_json::from_slice::<Members>(bytes);
    members.is_ok_and(|members| members.payload.is_some() || members.payload_type.is_some())
}

/// The tables that a gateway would make of it, all rules counting.
pub(super) fn tables(bundle: &Bundle) -> Result<Tables, String> {
    let options = Options { number: 1, fragments_allow: false, expired: &|_| false };
    compile(bundle, &options).map_err(|error| error.to_string())
}

/// Milliseconds since 1970, by this machine.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// That the time up to which it counts is over.
pub(super) fn expired(bundle: &Bundle) -> Option<String> {
    let until = bundle.not_after_ms.filter(|until| *until <= now_ms())?;
    Some(format!("expired: not_after is {}; gateways refuse it", tidegate_values::calendar::format(until)))
}
