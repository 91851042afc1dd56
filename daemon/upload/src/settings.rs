//! What the engine is told: validated by the daemon's configuration, carried as it is from there.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use http::Uri;
use rustls::ClientConfig;
use tidegate_values::Patterns;

use crate::window::Windows;

/// Everything that uploading depends on. A change takes effect with the next attempt.
#[derive(Clone)]
pub struct Settings {
    /// The gateway's id: in metadata, and what splays its attempts.
    pub gateway: String,
    /// Folders that files are renamed into.
    pub outboxes: Vec<PathBuf>,
    /// Where journals and the ledger are kept.
    pub state_dir: PathBuf,
    /// Where files go; `None`: nowhere yet.
    pub endpoint: Option<Uri>,
    /// How.
    pub protocol: Protocol,
    /// Which HTTP.
    pub http: HttpVersion,
    /// Most bytes of one request; with `http` a file is one request whatever this says.
    pub part_size_bytes: u64,
    /// How content is encoded on the way.
    pub compression: Compression,
    /// Bytes a second for all uploads together; `None`: as the link gives.
    pub rate_limit: Option<u64>,
    /// When uploads may go on.
    pub windows: Windows,
    /// Files under way at once.
    pub concurrency: usize,
    /// Interfaces that uploads leave alone.
    pub metered: Patterns,
    /// Most that the first attempt after a start, and after a window opens, is put off.
    pub splay: Duration,
    /// How long a file that was not renamed in must lie unchanged.
    pub settle: Duration,
    /// What becomes of a file that was sent.
    pub after: After,
    /// Whether the received content is read back.
    pub verify: Verify,
    /// An HTTP proxy (`CONNECT` for https), as `http://HOST:PORT`.
    pub proxy: Option<Uri>,
    /// Within which a connection must stand, TLS included.
    pub connect_within: Duration,
    /// Within which something of a file must move on a connection, and the answer come after it.
    pub progress_within: Duration,
    /// Within which a request must be over; how long it was held back (`rate_limit`, what goes first) does not count.
    pub total_within: Duration,
    /// Reads the certificates, keys and the token: anew where they may have been replaced.
    pub credentials: Arc<dyn Credentials>,
}

impl Settings {
    /// Whether what is under way may go on with the others: they lead to the same place in the same way.
    #[must_use]
    pub fn goes_the_same_way(&self, other: &Self) -> bool {
        let way = |settings: &Self| {
            (
                settings.endpoint.clone(),
                settings.protocol,
                settings.http,
                settings.proxy.clone(),
                settings.state_dir.clone(),
            )
        };
        way(self) == way(other) && self.outboxes == other.outboxes && self.metered == other.metered
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// What proves to the server who we are, and to us who the server is.
pub trait Credentials: Send + Sync {
    /// For `https`. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// What a person must mend.
    fn tls(&self) -> Result<ClientConfig, String>;

    /// The files that [`Self::tls`] reads: what it gave is used again as long as they are the same. None, and it is asked each time.
    fn tls_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// What `Authorization` holds, if anything. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// What a person must mend.
    fn authorization(&self) -> Result<Option<http::HeaderValue>, String>;

    /// Says what a failed handshake means for the one who must mend it.
    fn explain(&self, error: &rustls::Error) -> String;
}

/// How files are handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// tus 1.0.0: resumable.
    #[default]
    Tus,
    /// HTTP `PUT`: begins anew when it is cut.
    Http,
}

/// Which HTTP is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpVersion {
    /// What TLS agrees on (ALPN, RFC 7301); without TLS HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1 (RFC 9112).
    Http1,
    /// HTTP/2 (RFC 9113), without TLS by prior knowledge.
    Http2,
}

/// How content is encoded on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not.
    None,
    /// zstd (RFC 8878), level 1 to [`MOST_ZSTD_LEVEL`].
    Zstd(u8),
    /// gzip (RFC 1952), level 1 to 9.
    Gzip(u8),
}

/// The level where none is said: what a small processor does while the link takes the rest.
const DEFAULT_LEVEL: u8 = 1;

/// The highest level of zstd.
pub const MOST_ZSTD_LEVEL: u8 = 3;

/// The text names no compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither none, nor zstd with a level from 1 to 3, nor gzip with one from 1 to 9")]
pub struct NotACompression;

impl FromStr for Compression {
    type Err = NotACompression;

    /// Reads `none`, `zstd`, `zstd:3`, `gzip`, `gzip:6`.
    fn from_str(text: &str) -> Result<Self, NotACompression> {
        let (name, level) = match text.split_once(':') {
            None => (text, DEFAULT_LEVEL),
            // One digit and nothing else: "+3" and "03" are no levels.
            Some((name, level)) => match level.as_bytes() {
                [digit @ b'1'..=b'9'] if name != "none" => (name, digit - b'0'),
                _ => return Err(NotACompression),
            },
        };
        match name {
            "none" => Ok(Self::None),
            // The library is built without what higher levels need: see .cargo/config.toml.
            "zstd" if level <= MOST_ZSTD_LEVEL => Ok(Self::Zstd(level)),
            "gzip" => Ok(Self::Gzip(level)),
            _ => Err(NotACompression),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, level) = match *self {
            Self::None => return f.write_str("none"),
            Self::Zstd(level) => ("zstd", level),
            Self::Gzip(level) => ("gzip", level),
        };
        if level == DEFAULT_LEVEL { f.write_str(name) } else { write!(f, "{name}:{level}") }
    }
}

/// What becomes of a file that was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum After {
    /// It is removed.
    #[default]
    Remove,
    /// It stays where it is, and is not sent again.
    Keep,
    /// It is moved into the folder `sent` of its outbox.
    Move,
}

/// Whether the received content is read back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// The server's word is taken for it.
    #[default]
    No,
    /// The whole content is fetched and its SHA-256 compared.
    ReadBack,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compression_is_written_as_it_is_read() {
        for (text, compression) in [
            ("none", Compression::None),
            ("zstd", Compression::Zstd(1)),
            ("zstd:3", Compression::Zstd(3)),
            ("gzip", Compression::Gzip(1)),
            ("gzip:6", Compression::Gzip(6)),
        ] {
            assert_eq!(text.parse(), Ok(compression));
            assert_eq!(compression.to_string(), text);
        }
        assert_eq!("zstd:1".parse(), Ok(Compression::Zstd(1)));
        for text in ["", "zstd:", "zstd:0", "zstd:4", "zstd:10", "zstd:+3", "zstd:3:3", "ZSTD", "none:1", "brotli"] {
            assert_eq!(text.parse::<Compression>(), Err(NotACompression), "{text}");
        }
    }
}
