//! What the engine is told: validated by the daemon's configuration, carried as it is from there.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

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
    /// Within which something must move on a connection.
    pub progress_within: Duration,
    /// Within which a request must be over.
    pub total_within: Duration,
    /// Reads the certificates, keys and the token anew: they may have been replaced.
    pub credentials: Arc<dyn Credentials>,
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
    /// zstd (RFC 8878), level 1 to 9.
    Zstd(u8),
    /// gzip (RFC 1952), level 1 to 9.
    Gzip(u8),
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
