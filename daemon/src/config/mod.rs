//! What the daemon is told: layers, validation, what changed.
//!
//! Layers, later ones win: built-in defaults → what the gateway was provisioned with → `tidegate.toml` →
//! `conf.d/*.toml` beside it in name order → environment `TIDEGATE__SECTION__KEY` → remote layers, those of the groups
//! before that of the device. Every error names the key, the layer, the value and what is accepted.
//!
//! Operation: every layer is read and judged by itself, the local ones by [`MainFile::read`], each remote one by
//! [`Remote::read`]; [`compose()`] lets the `config` crate put them over each other, then checks what keys mean together.
//! [`KEYS`] is the table of all keys that everything else follows; [`changes()`] says what differs between two
//! configurations and what of it needs a restart, [`drift()`] where layers and what runs are apart.

mod address;
mod broker;
mod changes;
mod complaints;
mod compose;
mod drift;
mod endpoint;
mod error;
mod identity;
mod judge;
mod keys;
mod layers;
mod local;
mod remote;
mod shown;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use http::Uri;
use tidegate_upload::{
    settings::{After, Compression, HttpVersion, Protocol, Verify},
    window::Windows,
};
use tidegate_values::Patterns;

pub use broker::Broker;
pub use changes::{changes, live};
pub use compose::{Loaded, compose};
pub use drift::{Drift, DriftKind, MAX_DRIFTING_KEYS, drift};
pub use endpoint::Endpoint;
pub use error::{ConfigError, Problem};
pub use judge::judge;
pub use keys::{Effect, KEYS, Key, Kind, Reach};
pub use local::{Environment, Local, MainFile};
pub use remote::Remote;
pub use shown::{Shown, ShownKey};
pub use tidegate_values::{PublicKey, Size, Span};

use crate::{control::commands::Name, kernel::OnStop, policy::Fragments};

/// Where the daemon looks when it is not told otherwise.
pub const DEFAULT_PATH: &str = "/etc/tidegate/tidegate.toml";
/// Environment variables that begin so are configuration.
pub const VARIABLE_PREFIX: &str = "TIDEGATE__";
/// Where files are handed over for upload unless `[upload] outbox` says otherwise.
pub const DEFAULT_OUTBOX: &str = "/var/spool/tidegate";
/// Most that is read of one file: a thousand times what one has, and little for the smallest gateway.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most files in `conf.d`.
pub const MAX_FILES: usize = 256;
/// Size of the spool's segment files; the smallest that the format has, so that a full spool gives up little at a time.
pub const SEGMENT_SIZE_BYTES: u64 = 8 << 20;
/// Where state is kept unless systemd says otherwise.
const DEFAULT_STATE_DIR: &str = "/var/lib/tidegate";

/// The whole configuration, validated: code that holds one need not check it again.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[gateway]`
    pub gateway: Gateway,
    /// `[mqtt]`; without a url the daemon watches, guards and spools, and says `not provisioned`.
    pub mqtt: Mqtt,
    /// `[traffic]`
    pub traffic: Traffic,
    /// `[policy]`
    pub policy: Policy,
    /// `[commands]`
    pub commands: Commands,
    /// `[spool]`
    pub spool: Spool,
    /// `[upload]`; without an endpoint files wait in the outboxes.
    pub upload: Upload,
    /// `[host]`
    pub host: Host,
    /// `[log]`
    pub log: Log,
}

/// `[gateway]`: who this is.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// `[A-Za-z0-9_.-]{1,64}`; default: `tg-` and 12 hex digits derived from the machine id.
    pub id: String,
    /// Groups, in the order in which their remote layers apply.
    pub groups: Vec<String>,
}

/// `[mqtt]`: how the broker is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Mqtt {
    /// Broker, from `mqtt://host:1883` or `mqtts://host:8883`.
    pub broker: Option<Broker>,
    /// CA certificates (PEM) to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Client certificate chain (PEM).
    pub cert: Option<PathBuf>,
    /// Its key (PEM).
    pub key: Option<PathBuf>,
    /// User name.
    pub user: Option<String>,
    /// File whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// Keep-alive.
    pub keep_alive: Duration,
    /// Session expiry interval asked of the broker.
    pub session_expiry: Duration,
    /// Root of all topics, `tidegate/v1`.
    pub root: String,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// TCX where the kernel has it (6.6), else netlink.
    #[default]
    Auto,
    /// TCX links.
    Tcx,
    /// clsact filters by netlink.
    Netlink,
}

/// `[traffic]`: what is watched.
#[derive(Clone, Debug, PartialEq)]
pub struct Traffic {
    /// Interface names and globs (`*`, `?`, `[…]`); `!` in front excludes; empty: watch nothing.
    pub interfaces: Patterns,
    /// Attachment.
    pub attach: Attach,
    /// 1 in N packets is sampled; 0 turns sampling off.
    pub sample_rate: u32,
    /// Entries of the flow table; default by the machine's memory.
    pub flow_capacity: Option<u32>,
    /// How often flows are drained and counters published.
    pub export_interval: Duration,
    /// Whether the kernel's `tcp_sendmsg` is timed.
    pub time_tcp_sendmsg: bool,
}

/// `[policy]`: whom the gateway obeys, and how far.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Keys whose signatures on network policies count.
    pub public_keys: Vec<PublicKey>,
    /// After a change from afar, how long a round trip with the broker may take before the change is undone.
    pub confirm_within: Duration,
    /// What becomes of packets whose ports are not known, where the default is to drop.
    pub fragments: Fragments,
    /// What becomes of the policy when the daemon stops in order.
    pub on_stop: OnStop,
}

/// `[commands]`: what may be asked for over MQTT.
#[derive(Clone, Debug, PartialEq)]
pub struct Commands {
    /// None: requests are not even subscribed to.
    pub enabled: Vec<Name>,
}

/// `[spool] io`.
pub type SpoolIo = tidegate_spool::IoPreference;

/// `[spool]`: where records wait.
#[derive(Clone, Debug, PartialEq)]
pub struct Spool {
    /// Folder; default `$STATE_DIRECTORY/spool`, else `/var/lib/tidegate/spool`.
    pub dir: PathBuf,
    /// Backend.
    pub io: SpoolIo,
    /// `O_DIRECT`.
    pub direct: bool,
    /// Cap on all segment files.
    pub max_size_bytes: u64,
    /// Percent of `max_size` that each lane may always hold.
    pub shares: Shares,
}

/// `[spool.shares]`, in percent; together at most 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Stream `event`.
    pub event: u8,
    /// Streams `ingest/NAME`.
    pub ingest: u8,
    /// Stream `telemetry`.
    pub telemetry: u8,
}

/// `[upload]`: which files are sent, where and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Upload {
    /// Where they go.
    pub endpoint: Option<Endpoint>,
    /// Folders that they are renamed into.
    pub outboxes: Vec<PathBuf>,
    /// How they are handed over.
    pub protocol: Protocol,
    /// Which HTTP.
    pub http: HttpVersion,
    /// Most bytes of one request.
    pub part_size_bytes: u64,
    /// How content is encoded on the way.
    pub compression: Compression,
    /// Bytes a second for all uploads together.
    pub rate_limit: Option<u64>,
    /// When uploads may go on.
    pub windows: Windows,
    /// Files under way at once.
    pub concurrency: usize,
    /// Interfaces that uploads leave alone.
    pub metered: Patterns,
    /// Most that the first attempt is put off.
    pub splay: Duration,
    /// How long a file must lie unchanged that was not renamed in.
    pub settle: Duration,
    /// What becomes of a file that was sent.
    pub after: After,
    /// Whether it is read back.
    pub verify: Verify,
    /// `http://HOST:PORT`.
    pub proxy: Option<Uri>,
    /// CA certificates (PEM) to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Client certificate chain (PEM).
    pub cert: Option<PathBuf>,
    /// Its key (PEM).
    pub key: Option<PathBuf>,
    /// File whose first line is a bearer token.
    pub token_file: Option<PathBuf>,
    /// Within which a connection must stand.
    pub connect_within: Duration,
    /// Within which something must move on it.
    pub progress_within: Duration,
    /// Within which a request must be over.
    pub total_within: Duration,
}

/// `[host]`: the machine's own telemetry.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// How often `telemetry/host` is published.
    pub interval: Duration,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// `tracing` filter directives, `info` by default.
    pub filter: String,
}

impl Config {
    /// The built-in defaults of a gateway called `id`, as far as they do not depend on the machine.
    #[must_use]
    pub fn defaults(id: &str) -> Self {
        Self {
            gateway: Gateway { id: id.to_owned(), groups: Vec::new() },
            mqtt: Mqtt {
                broker: None,
                ca: None,
                cert: None,
                key: None,
                user: None,
                password_file: None,
                keep_alive: Duration::from_secs(30),
                session_expiry: Duration::from_hours(7 * 24),
                root: "tidegate/v1".to_owned(),
            },
            traffic: Traffic {
                interfaces: Patterns::ports(),
                attach: Attach::Auto,
                sample_rate: 1000,
                flow_capacity: None,
                export_interval: Duration::from_mins(1),
                time_tcp_sendmsg: true,
            },
            policy: Policy {
                public_keys: Vec::new(),
                confirm_within: Duration::from_secs(30),
                fragments: Fragments::Drop,
                on_stop: OnStop::Keep,
            },
            commands: Commands { enabled: Name::ALL.to_vec() },
            spool: Spool {
                dir: Path::new(DEFAULT_STATE_DIR).join("spool"),
                io: SpoolIo::Auto,
                direct: false,
                max_size_bytes: 256 << 20,
                shares: Shares { event: 10, ingest: 60, telemetry: 30 },
            },
            upload: Upload {
                endpoint: None,
                outboxes: vec![DEFAULT_OUTBOX.into()],
                protocol: Protocol::Tus,
                http: HttpVersion::Auto,
                part_size_bytes: 64 << 20,
                compression: Compression::Zstd(1),
                rate_limit: None,
                windows: Windows::default(),
                concurrency: 1,
                metered: Patterns::default(),
                splay: Duration::from_mins(1),
                settle: Duration::from_secs(5),
                after: After::Remove,
                verify: Verify::No,
                proxy: None,
                ca: None,
                cert: None,
                key: None,
                token_file: None,
                connect_within: Duration::from_secs(30),
                progress_within: Duration::from_mins(1),
                total_within: Duration::from_hours(24),
            },
            host: Host { interval: Duration::from_mins(1) },
            log: Log { filter: "info".to_owned() },
        }
    }
}

#[cfg(test)]
mod tests;
