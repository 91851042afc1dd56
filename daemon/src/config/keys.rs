//! Every key there is: its name, default, what it accepts, and when a change of it takes effect.
//!
//! This table is the one place to add a key: reading, validation, suggestions, `config show`, the differences
//! between two configurations, the shipped `tidegate.toml` and `docs/configuration.md` all follow it (the last
//! two by tests that compare them).

use std::{path::PathBuf, time::Duration};

use config::{Value, ValueKind};
use http::Uri;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_abi::MAX_SAMPLE_RATE;
use tidegate_upload::{
    settings::{After, HttpVersion, Protocol, Verify},
    window::{MAX_WINDOWS, Windows},
};
use tidegate_values::{Patterns, PublicKey, Size, Span};
use tracing::Level;
use tracing_subscriber::filter::Targets;

use super::{
    Attach, Config, SEGMENT_SIZE_BYTES, SpoolIo,
    broker::Broker,
    endpoint::{self, Endpoint},
};
use crate::{control::commands::Name, kernel::OnStop, policy::Fragments};

const _: () = assert!(MAX_WINDOWS == 32, "the text of upload.window says so");
const _: () = assert!(MAX_SAMPLE_RATE == 65_536, "the text of traffic.sample_rate says so");

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A whole number.
    Integer,
    /// A whole number, or a word in quotes.
    IntegerOrText,
    /// `true` or `false`.
    Boolean,
    /// A list of strings.
    List,
}

/// When a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// At once, while the daemon runs.
    Live,
    /// With the next start; until then it is reported as pending.
    Restart,
}

/// Which layers may set a key.
#[derive(Clone, Copy, Debug)]
pub enum Reach {
    /// All.
    Remote,
    /// All, but remote ones within narrower bounds.
    RemoteIf {
        /// What a remote layer may set, and why no more.
        but: &'static str,
        /// Whether a configuration in which a remote layer has set the key is within them.
        within: fn(&Config) -> bool,
    },
    /// Those of the gateway itself, for this reason.
    Local(&'static str),
}

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// What it is for, one sentence.
    pub about: &'static str,
    /// The default as TOML.
    pub default: &'static str,
    /// What may stand there.
    pub accepted: &'static str,
    /// When a change takes effect.
    pub effect: Effect,
    /// Which layers may set it.
    pub reach: Reach,
    /// How it is written.
    pub kind: Kind,
    pub(super) set: fn(&mut Config, &Value) -> Result<(), Refused>,
    get: fn(&Config) -> serde_json::Value,
}

impl Key {
    /// The value in `config`, as JSON; strings are in the notation of the file ("30s", "256MiB").
    #[must_use]
    pub fn get(&self, config: &Config) -> serde_json::Value {
        (self.get)(config)
    }

    /// The value as it is shown to whoever is not at the gateway: of a secret, or of a path that leads to one, only
    /// whether it is set; long texts are cut.
    #[must_use]
    pub fn shown(&self, value: serde_json::Value) -> serde_json::Value {
        use serde_json::Value as Json;
        match value {
            Json::String(text) if self.is_secret() => json!(if text.is_empty() { "" } else { "set" }),
            Json::String(text) => json!(cut(text)),
            Json::Array(items) => items.into_iter().map(|item| self.shown(item)).collect(),
            other => other,
        }
    }

    /// Whether the value, or the file that it names, opens something.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        SECRETS.contains(&self.name)
    }

    /// The section, and the key's name in it.
    #[must_use]
    pub fn split(&self) -> (&'static str, &'static str) {
        self.name.rsplit_once('.').unwrap_or(("", self.name))
    }

    /// The environment variable that sets it: `TIDEGATE__SPOOL__MAX_SIZE`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{}{}", super::VARIABLE_PREFIX, self.name.replace('.', "__").to_uppercase())
    }
}

/// The key of that name.
#[must_use]
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The sections, in the order of the table.
#[must_use]
pub(super) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<_> = KEYS.iter().map(|key| key.split().0).collect();
    sections.dedup();
    sections
}

/// A value that is not accepted, with the reason where [`Key::accepted`] does not make it plain.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Refused(pub(super) Option<String>);

impl From<&str> for Refused {
    fn from(reason: &str) -> Self {
        Self(Some(reason.to_owned()))
    }
}

/// Keys whose values are shown to nobody afar.
const SECRETS: [&str; 5] = ["mqtt.user", "mqtt.key", "mqtt.password_file", "upload.key", "upload.token_file"];
/// Characters of a text that are shown: a log filter may be as long as its file.
const MAX_SHOWN_CHARS: usize = 256;

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_SHOWN_CHARS) {
        text.truncate(end);
        text.push('…');
    }
    text
}

// Why a remote layer may not set a key.
const IDENTITY: &str = "it decides whose configuration the gateway listens to";
const LINK: &str = "a mistake would cut the gateway off from whoever could mend it";
const DISK: &str = "it decides what becomes of records that wait for delivery";
const FILES: &str = "it decides which files leave the gateway, for where, and by which credentials";
const TRUST: &str = "it decides whose policies and requests the gateway obeys";

/// A level for everything is for a person who watches: left on from afar, it fills the journal and wears the flash.
const NOT_ALL_OF_DEBUG: Reach = Reach::RemoteIf {
    but: "debug and trace only for modules that are named, since all of it floods the journal; for a while there is \
          cmd/log-level",
    within: |config| {
        let filter = config.log.filter.parse::<Targets>();
        // No module's name begins so: what lets it through names none.
        filter.is_ok_and(|filter| !filter.would_enable("\0", &Level::DEBUG))
    },
};

/// Segments of each lane that must fit for the spool to work at all: the one being written and one that is read.
const MIN_SEGMENTS: u64 = 2 * 3;
const MIN_SPOOL_BYTES: u64 = MIN_SEGMENTS * SEGMENT_SIZE_BYTES;
const MAX_SPOOL_BYTES: u64 = 1 << 40;
const _: () = assert!(MIN_SPOOL_BYTES == 48 << 20, "the text of spool.max_size says 48MiB");

/// All keys, by section.
pub static KEYS: &[Key] = &[
    Key {
        name: "gateway.id",
        about: "Who this gateway is, to the broker and in every record. Empty: derived from the machine id.",
        default: r#""""#,
        accepted: "1 to 64 of A-Z a-z 0-9 _ . -",
        effect: Effect::Restart,
        reach: Reach::Local(IDENTITY),
        kind: Kind::Text,
        set: |config, value| {
            config.gateway.id = match optional(value)? {
                Some(id) => identifier(id)?,
                None => String::new(),
            };
            Ok(())
        },
        get: |config| json!(config.gateway.id),
    },
    Key {
        name: "gateway.groups",
        about: "Groups that the gateway belongs to, in the order in which their remote configuration applies.",
        default: "[]",
        accepted: "a list of at most 16 different names, each 1 to 64 of A-Z a-z 0-9 _ . -",
        effect: Effect::Restart,
        reach: Reach::Local(IDENTITY),
        kind: Kind::List,
        set: |config, value| {
            config.gateway.groups = list(value, 16)?.into_iter().map(identifier).collect::<Result<_, _>>()?;
            Ok(())
        },
        get: |config| json!(config.gateway.groups),
    },
    Key {
        name: "mqtt.url",
        about: "The broker. Empty: not provisioned; the gateway watches and spools, and delivers once this is set.",
        default: r#""""#,
        accepted: r#""mqtt://HOST[:PORT]" or "mqtts://HOST[:PORT]", HOST a name, an IPv4 address or an IPv6 address in brackets"#,
        effect: Effect::Live,
        reach: Reach::Local(LINK),
        kind: Kind::Text,
        set: |config, value| {
            config.mqtt.broker = optional(value)?.map(Broker::parse).transpose()?;
            Ok(())
        },
        get: |config| json!(config.mqtt.broker.as_ref().map_or_else(String::new, ToString::to_string)),
    },
    Key {
        name: "mqtt.ca",
        about: "Certificates (PEM) of the authorities to trust. Empty: those of the system.",
        default: r#""""#,
        accepted: "an absolute path, with an mqtts:// url",
        effect: Effect::Live,
        reach: Reach::Local(LINK),
        kind: Kind::Text,
        set: |config, value| path(value).map(|path| config.mqtt.ca = path),
        get: |config| path_json(config.mqtt.ca.as_ref()),
    },
    Key {
        name: "mqtt.cert",
        about: "The gateway's own certificate and chain (PEM), shown to the broker.",
        default: r#""""#,
        accepted: "an absolute path, with an mqtts:// url",
        effect: Effect::Live,
        reach: Reach::Local(LINK),
        kind: Kind::Text,
        set: |config, value| path(value).map(|path| config.mqtt.cert = path),
        get: |config| path_json(config.mqtt.cert.as_ref()),
    },
    Key {
        name: "mqtt.key",
        about: "The private key (PEM) of mqtt.cert. Empty: systemd's credential tidegate.mqtt-key.",
        default: r#""""#,
        accepted: "an absolute path, together with mqtt.cert and an mqtts:// url",
        effect: Effect::Live,
        reach: Reach::Local(LINK),
        kind: Kind::Text,
        set: |config, value| path(value).map(|path| config.mqtt.key = path),
        get: |config| path_json(config.mqtt.key.as_ref()),
    },
    Key {
        name: "mqtt.user",
        about: "User name at the broker.",
        default: r#""""#,
        accepted: "1 to 256 bytes of text without control characters",
        effect: Effect::Live,
        reach: Reach::Local(LINK),
        kind: Kind::Text,
        set: |config, value| {
            config.mqtt.user = match optional(value)? {
                Some(user) if user.len() <= 256 && !user.chars().any(char::is_control) => Some(user.to_owned()),
                Some(_) => return Err(Refused::default()),
                None => None,
            };
            Ok(())
        },
        get: |config| json!(config.mqtt.user.as_deref().unwrap_or_default()),
    },
    Key {
        name: "mqtt.password_file",
        about: "File whose first line is the password of mqtt.user. Empty: systemd's credential tidegate.mqtt-password, if there is one.",
        default: r#""""#,
        accepted: "an absolute path, together with mqtt.user",
        effect: Effect::Live,
        reach: Reach::Local(LINK),
        kind: Kind::Text,
        set: |config, value| path(value).map(|path| config.mqtt.password_file = path),
        get: |config| path_json(config.mqtt.password_file.as_ref()),
    },
    Key {
        name: "mqtt.keep_alive",
        about: "Longest silence on the connection before either side asks whether the other is there.",
        default: r#""30s""#,
        accepted: r#"a duration of whole seconds from "1s" to "65535s""#,
        effect: Effect::Live,
        reach: Reach::Local(LINK),
        kind: Kind::Text,
        set: |config, value| whole_seconds(value, 1, 65_535).map(|span| config.mqtt.keep_alive = span),
        get: |config| span_json(config.mqtt.keep_alive),
    },
    Key {
        name: "mqtt.session_expiry",
        about: "How long the broker keeps the session of a gateway that is away.",
        default: r#""7d""#,
        accepted: r#"a duration of whole seconds from "0s" to "365d""#,
        effect: Effect::Live,
        reach: Reach::Local(LINK),
        kind: Kind::Text,
        set: |config, value| whole_seconds(value, 0, 365 * 86_400).map(|span| config.mqtt.session_expiry = span),
        get: |config| span_json(config.mqtt.session_expiry),
    },
    Key {
        name: "mqtt.root",
        about: "What all topics begin with; the gateway's id follows.",
        default: r#""tidegate/v1""#,
        accepted: "1 to 128 bytes: levels that are not empty, joined by /, without + # and control characters, and no $ in front",
        effect: Effect::Live,
        reach: Reach::Local(LINK),
        kind: Kind::Text,
        set: |config, value| {
            let root = text(value)?;
            let level =
                |level: &str| !level.is_empty() && !level.contains(['+', '#']) && !level.chars().any(char::is_control);
            // Quotes and backslashes would have to be escaped wherever a topic stands in JSON.
            if root.len() > 128 || root.starts_with('$') || !root.split('/').all(level) || root.contains(['"', '\\']) {
                return Err(Refused::default());
            }
            root.clone_into(&mut config.mqtt.root);
            Ok(())
        },
        get: |config| json!(config.mqtt.root),
    },
    Key {
        name: "traffic.interfaces",
        about: "Interfaces to watch, by name or glob; \"!\" in front excludes. [] watches nothing.",
        default: r#"["en*", "eth*", "wl*", "ww*", "ppp*", "usb*", "!*.*"]"#,
        accepted: "a list of at most 64 names or globs (*, ?, [abc], [a-z]), each at most 64 bytes without spaces and /",
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::List,
        set: |config, value| {
            config.traffic.interfaces =
                Patterns::parse(&list(value, 64)?).map_err(|error| Refused(Some(error.to_string())))?;
            Ok(())
        },
        get: |config| json!(config.traffic.interfaces.as_list()),
    },
    Key {
        name: "traffic.attach",
        about: "How programs are attached: TCX needs Linux 6.6, netlink is for older ones.",
        default: r#""auto""#,
        accepted: r#""auto", "tcx" or "netlink""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| {
            config.traffic.attach = match text(value)? {
                "auto" => Attach::Auto,
                "tcx" => Attach::Tcx,
                "netlink" => Attach::Netlink,
                _ => return Err(Refused::default()),
            };
            Ok(())
        },
        get: |config| match config.traffic.attach {
            Attach::Auto => json!("auto"),
            Attach::Tcx => json!("tcx"),
            Attach::Netlink => json!("netlink"),
        },
    },
    Key {
        name: "traffic.sample_rate",
        about: "One of this many packets is sampled at random for the flows; 0 turns sampling off.",
        default: "1000",
        accepted: "a whole number from 0 to 65536",
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Integer,
        set: |config, value| integer(value, 0, MAX_SAMPLE_RATE).map(|rate| config.traffic.sample_rate = rate),
        get: |config| json!(config.traffic.sample_rate),
    },
    Key {
        name: "traffic.flow_capacity",
        about: "Flows that the kernel's table holds between two exports; \"auto\" follows the machine's memory.",
        default: r#""auto""#,
        accepted: r#""auto" or a whole number from 256 to 1048576"#,
        effect: Effect::Restart,
        reach: Reach::Remote,
        kind: Kind::IntegerOrText,
        set: |config, value| {
            config.traffic.flow_capacity = match &value.kind {
                ValueKind::String(word) if word == "auto" => None,
                _ => Some(integer(value, 256, 1 << 20)?),
            };
            Ok(())
        },
        get: |config| config.traffic.flow_capacity.map_or_else(|| json!("auto"), |capacity| json!(capacity)),
    },
    Key {
        name: "traffic.export_interval",
        about: "How often flows are drained and counters published.",
        default: r#""1m""#,
        accepted: r#"a duration from "1s" to "1h""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| span(value, 1, 3_600).map(|span| config.traffic.export_interval = span),
        get: |config| span_json(config.traffic.export_interval),
    },
    Key {
        name: "traffic.time_tcp_sendmsg",
        about: "Times each call of the kernel's tcp_sendmsg, for telemetry/ebpf; costs four table operations a call.",
        default: "true",
        accepted: "true or false",
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Boolean,
        set: |config, value| {
            let ValueKind::Boolean(on) = value.kind else { return Err(Refused::default()) };
            config.traffic.time_tcp_sendmsg = on;
            Ok(())
        },
        get: |config| json!(config.traffic.time_tcp_sendmsg),
    },
    Key {
        name: "policy.public_keys",
        about: "Keys whose signatures on network policies count.",
        default: "[]",
        accepted: r#"a list of at most 16 different keys, each the absolute path of a PEM file or "ed25519:BASE64" of the 32 bytes"#,
        effect: Effect::Restart,
        reach: Reach::Local(TRUST),
        kind: Kind::List,
        set: |config, value| {
            config.policy.public_keys = list(value, 16)?.into_iter().map(PublicKey::parse).collect::<Result<_, _>>()?;
            Ok(())
        },
        get: |config| json!(config.policy.public_keys.iter().map(ToString::to_string).collect::<Vec<_>>()),
    },
    Key {
        name: "policy.confirm_within",
        about: "How long the broker may be out of reach after a change from afar before the change is undone.",
        default: r#""30s""#,
        accepted: r#"a duration from "5s" to "10m""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| span(value, 5, 600).map(|span| config.policy.confirm_within = span),
        get: |config| span_json(config.policy.confirm_within),
    },
    Key {
        name: "policy.fragments",
        about: "What becomes of later fragments and of other packets whose ports cannot be known, where a policy drops by default.",
        default: r#""drop""#,
        accepted: r#""drop" or "allow""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| {
            config.policy.fragments = match text(value)? {
                "drop" => Fragments::Drop,
                "allow" => Fragments::Allow,
                _ => return Err(Refused::default()),
            };
            Ok(())
        },
        get: |config| match config.policy.fragments {
            Fragments::Drop => json!("drop"),
            Fragments::Allow => json!("allow"),
        },
    },
    Key {
        name: "policy.on_stop",
        about: "Whether the policy stays in force when the daemon stops in order. After a crash it always does.",
        default: r#""keep""#,
        accepted: r#""keep" or "open""#,
        effect: Effect::Live,
        reach: Reach::Local("it decides how safe the gateway is while nobody manages it"),
        kind: Kind::Text,
        set: |config, value| {
            config.policy.on_stop = match text(value)? {
                "keep" => OnStop::Keep,
                "open" => OnStop::Open,
                _ => return Err(Refused::default()),
            };
            Ok(())
        },
        get: |config| json!(config.policy.on_stop),
    },
    Key {
        name: "commands.enabled",
        about: "Commands that the gateway obeys over MQTT. [] obeys none and does not listen for them.",
        default: r#"["status", "flows", "retry", "log-level", "upload-pause", "restart"]"#,
        accepted: r#"a list of "status", "flows", "retry", "log-level", "upload-pause" and "restart""#,
        effect: Effect::Live,
        reach: Reach::Local(TRUST),
        kind: Kind::List,
        set: |config, value| {
            let known = |name: &str| Name::find(name).ok_or_else(Refused::default);
            config.commands.enabled = list(value, Name::ALL.len())?.into_iter().map(known).collect::<Result<_, _>>()?;
            Ok(())
        },
        get: |config| config.commands.enabled.iter().map(|name| name.name()).collect(),
    },
    Key {
        name: "spool.dir",
        about: "Folder of the spool. Empty: spool in $STATE_DIRECTORY, which systemd sets, else in /var/lib/tidegate.",
        default: r#""""#,
        accepted: "an absolute path",
        effect: Effect::Restart,
        reach: Reach::Local(DISK),
        kind: Kind::Text,
        set: |config, value| {
            if let Some(dir) = path(value)? {
                config.spool.dir = dir;
            }
            Ok(())
        },
        get: |config| json!(config.spool.dir),
    },
    Key {
        name: "spool.io",
        about: "How the spool is written: \"auto\" takes io_uring where the kernel grants it, else threads.",
        default: r#""auto""#,
        accepted: r#""auto", "uring" or "threads""#,
        effect: Effect::Restart,
        reach: Reach::Local(DISK),
        kind: Kind::Text,
        set: |config, value| {
            config.spool.io = match text(value)? {
                "auto" => SpoolIo::Auto,
                "uring" => SpoolIo::Uring,
                "threads" => SpoolIo::Threads,
                _ => return Err(Refused::default()),
            };
            Ok(())
        },
        get: |config| match config.spool.io {
            SpoolIo::Auto => json!("auto"),
            SpoolIo::Uring => json!("uring"),
            SpoolIo::Threads => json!("threads"),
        },
    },
    Key {
        name: "spool.direct",
        about: "Write past the page cache (O_DIRECT).",
        default: "false",
        accepted: "true or false",
        effect: Effect::Restart,
        reach: Reach::Local(DISK),
        kind: Kind::Boolean,
        set: |config, value| {
            let ValueKind::Boolean(direct) = value.kind else { return Err(Refused::default()) };
            config.spool.direct = direct;
            Ok(())
        },
        get: |config| json!(config.spool.direct),
    },
    Key {
        name: "spool.max_size",
        about: "Most that the spool may take on disk; when it is full the oldest of the least important goes first.",
        default: r#""256MiB""#,
        accepted: r#"a size from "48MiB" (two segments of 8MiB for each of three streams) to "1TiB""#,
        effect: Effect::Restart,
        reach: Reach::Local(DISK),
        kind: Kind::Text,
        set: |config, value| {
            size(text(value)?, MIN_SPOOL_BYTES, MAX_SPOOL_BYTES).map(|bytes| config.spool.max_size_bytes = bytes)
        },
        get: |config| json!(Size(config.spool.max_size_bytes).to_string()),
    },
    Key {
        name: "spool.shares.event",
        about: "Percent of max_size that events may always hold.",
        default: "10",
        accepted: "a whole number from 1 to 98; the three shares together at most 100",
        effect: Effect::Restart,
        reach: Reach::Local(DISK),
        kind: Kind::Integer,
        set: |config, value| percent(value).map(|share| config.spool.shares.event = share),
        get: |config| json!(config.spool.shares.event),
    },
    Key {
        name: "spool.shares.ingest",
        about: "The same for what local programs handed over.",
        default: "60",
        accepted: "a whole number from 1 to 98; the three shares together at most 100",
        effect: Effect::Restart,
        reach: Reach::Local(DISK),
        kind: Kind::Integer,
        set: |config, value| percent(value).map(|share| config.spool.shares.ingest = share),
        get: |config| json!(config.spool.shares.ingest),
    },
    Key {
        name: "spool.shares.telemetry",
        about: "The same for measurements.",
        default: "30",
        accepted: "a whole number from 1 to 98; the three shares together at most 100",
        effect: Effect::Restart,
        reach: Reach::Local(DISK),
        kind: Kind::Integer,
        set: |config, value| percent(value).map(|share| config.spool.shares.telemetry = share),
        get: |config| json!(config.spool.shares.telemetry),
    },
    Key {
        name: "upload.endpoint",
        about: "Where files go; {gateway} in the path stands for the gateway's id. Empty: nowhere yet, they wait in the outbox.",
        default: r#""""#,
        accepted: r#""http://HOST[:PORT][/PATH]" or "https://HOST[:PORT][/PATH]" without user, password and query, HOST a name, an IPv4 address or an IPv6 address in brackets"#,
        effect: Effect::Live,
        reach: Reach::Local(FILES),
        kind: Kind::Text,
        set: |config, value| {
            config.upload.endpoint = optional(value)?.map(Endpoint::parse).transpose()?;
            Ok(())
        },
        get: |config| json!(config.upload.endpoint.as_ref().map_or_else(String::new, ToString::to_string)),
    },
    Key {
        name: "upload.outbox",
        about: "Folders whose files are sent once they are renamed in, or written and left alone. The first is that of tidegate put.",
        default: r#"["/var/spool/tidegate"]"#,
        accepted: "a list of at most 8 absolute paths of folders, none of them in another",
        effect: Effect::Live,
        reach: Reach::Local(FILES),
        kind: Kind::List,
        set: |config, value| folders(value, 8).map(|folders| config.upload.outboxes = folders),
        get: |config| json!(config.upload.outboxes),
    },
    Key {
        name: "upload.protocol",
        about: r#"How files are handed over: "tus" resumes where it was cut, "http" (PUT) begins anew."#,
        default: r#""tus""#,
        accepted: r#""tus" or "http""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| {
            config.upload.protocol = match text(value)? {
                "tus" => Protocol::Tus,
                "http" => Protocol::Http,
                _ => return Err(Refused::default()),
            };
            Ok(())
        },
        get: |config| match config.upload.protocol {
            Protocol::Tus => json!("tus"),
            Protocol::Http => json!("http"),
        },
    },
    Key {
        name: "upload.http_version",
        about: r#"Which HTTP: "auto" is what TLS agrees on, and 1.1 without TLS."#,
        default: r#""auto""#,
        accepted: r#""auto", "1.1" or "2""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| {
            config.upload.http = match text(value)? {
                "auto" => HttpVersion::Auto,
                "1.1" => HttpVersion::Http1,
                "2" => HttpVersion::Http2,
                _ => return Err(Refused::default()),
            };
            Ok(())
        },
        get: |config| match config.upload.http {
            HttpVersion::Auto => json!("auto"),
            HttpVersion::Http1 => json!("1.1"),
            HttpVersion::Http2 => json!("2"),
        },
    },
    Key {
        name: "upload.part_size",
        about: "Most bytes of one request with tus; over slow links there are fewer.",
        default: r#""64MiB""#,
        accepted: r#"a size from "256KiB" to "1GiB""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| size(text(value)?, 256 << 10, 1 << 30).map(|bytes| config.upload.part_size_bytes = bytes),
        get: |config| json!(Size(config.upload.part_size_bytes).to_string()),
    },
    Key {
        name: "upload.compression",
        about: "How content is encoded on the way, where that makes it smaller.",
        default: r#""zstd""#,
        accepted: r#""zstd", "gzip", "none", or "zstd:N" with a level N from 1 (which is meant without it) to 3, or "gzip:N" with one to 9"#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| {
            config.upload.compression = text(value)?.parse().map_err(|_| Refused::default())?;
            Ok(())
        },
        get: |config| json!(config.upload.compression.to_string()),
    },
    Key {
        name: "upload.rate_limit",
        about: "Most bytes a second, for all uploads together. Empty: as the link gives.",
        default: r#""""#,
        accepted: r#"a size for each second from "1KiB" to "1TiB""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| {
            let limit = optional(value)?.map(|text| size(text, 1 << 10, 1 << 40)).transpose()?;
            config.upload.rate_limit = limit;
            Ok(())
        },
        get: |config| json!(config.upload.rate_limit.map_or_else(String::new, |bytes| Size(bytes).to_string())),
    },
    Key {
        name: "upload.window",
        about: "When uploads may go on, by the gateway's own time zone: each day, or on those that are named. []: always.",
        default: "[]",
        accepted: r#"a list of at most 32 times such as "01:00-05:00", "Mon-Fri 22:00-06:00" and "Sat,Sun 00:00-24:00""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::List,
        set: |config, value| {
            config.upload.windows = Windows::parse(&list(value, MAX_WINDOWS)?).map_err(|error| Refused(Some(error)))?;
            Ok(())
        },
        get: |config| json!(config.upload.windows.as_list()),
    },
    Key {
        name: "upload.concurrency",
        about: "Files under way at once.",
        default: "1",
        accepted: "a whole number from 1 to 4",
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Integer,
        set: |config, value| integer(value, 1, 4).map(|files| config.upload.concurrency = files as usize),
        get: |config| json!(config.upload.concurrency),
    },
    Key {
        name: "upload.metered",
        about: r#"Interfaces, by name or glob, over which nothing is uploaded; "!" in front excludes."#,
        default: "[]",
        accepted: "a list of at most 64 names or globs (*, ?, [abc], [a-z]), each at most 64 bytes without spaces and /",
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::List,
        set: |config, value| {
            let patterns = Patterns::parse(&list(value, 64)?).map_err(|error| Refused(Some(error.to_string())))?;
            config.upload.metered = patterns;
            Ok(())
        },
        get: |config| json!(config.upload.metered.as_list()),
    },
    Key {
        name: "upload.splay",
        about: "Most that a gateway waits, each its own time, after its start and when a window opens, so that not all begin at once.",
        default: r#""1m""#,
        accepted: r#"a duration from "0s" to "1h""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| span(value, 0, 3600).map(|span| config.upload.splay = span),
        get: |config| span_json(config.upload.splay),
    },
    Key {
        name: "upload.settle",
        about: "How long a file that was not renamed in must lie unchanged before it is taken.",
        default: r#""5s""#,
        accepted: r#"a duration from "1s" to "1h""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| span(value, 1, 3600).map(|span| config.upload.settle = span),
        get: |config| span_json(config.upload.settle),
    },
    Key {
        name: "upload.after",
        about: "What becomes of a file that was sent: it is removed, kept and not sent again, or moved into the folder sent of its outbox.",
        default: r#""remove""#,
        accepted: r#""remove", "keep" or "move""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| {
            config.upload.after = match text(value)? {
                "remove" => After::Remove,
                "keep" => After::Keep,
                "move" => After::Move,
                _ => return Err(Refused::default()),
            };
            Ok(())
        },
        get: |config| match config.upload.after {
            After::Remove => json!("remove"),
            After::Keep => json!("keep"),
            After::Move => json!("move"),
        },
    },
    Key {
        name: "upload.verify",
        about: r#"Whether what arrived is fetched and compared: "read-back" costs the link the same once more."#,
        default: r#""no""#,
        accepted: r#""no" or "read-back""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| {
            config.upload.verify = match text(value)? {
                "no" => Verify::No,
                "read-back" => Verify::ReadBack,
                _ => return Err(Refused::default()),
            };
            Ok(())
        },
        get: |config| match config.upload.verify {
            Verify::No => json!("no"),
            Verify::ReadBack => json!("read-back"),
        },
    },
    Key {
        name: "upload.proxy",
        about: "An HTTP proxy, which tunnels https (CONNECT). Empty: none; variables such as https_proxy are not looked at.",
        default: r#""""#,
        accepted: r#""http://HOST:PORT", HOST a name, an IPv4 address or an IPv6 address in brackets"#,
        effect: Effect::Live,
        reach: Reach::Local(FILES),
        kind: Kind::Text,
        set: |config, value| {
            config.upload.proxy = optional(value)?.map(endpoint::proxy).transpose()?;
            Ok(())
        },
        get: |config| json!(config.upload.proxy.as_ref().map_or_else(String::new, shown_proxy)),
    },
    Key {
        name: "upload.ca",
        about: "Certificates (PEM) of the authorities to trust. Empty: those of the system.",
        default: r#""""#,
        accepted: "an absolute path, with an https:// endpoint",
        effect: Effect::Live,
        reach: Reach::Local(FILES),
        kind: Kind::Text,
        set: |config, value| path(value).map(|path| config.upload.ca = path),
        get: |config| path_json(config.upload.ca.as_ref()),
    },
    Key {
        name: "upload.cert",
        about: "The gateway's own certificate and chain (PEM), shown to the server.",
        default: r#""""#,
        accepted: "an absolute path, with an https:// endpoint",
        effect: Effect::Live,
        reach: Reach::Local(FILES),
        kind: Kind::Text,
        set: |config, value| path(value).map(|path| config.upload.cert = path),
        get: |config| path_json(config.upload.cert.as_ref()),
    },
    Key {
        name: "upload.key",
        about: "The private key (PEM) of upload.cert. Empty: systemd's credential tidegate.upload-key.",
        default: r#""""#,
        accepted: "an absolute path, together with upload.cert and an https:// endpoint",
        effect: Effect::Live,
        reach: Reach::Local(FILES),
        kind: Kind::Text,
        set: |config, value| path(value).map(|path| config.upload.key = path),
        get: |config| path_json(config.upload.key.as_ref()),
    },
    Key {
        name: "upload.token_file",
        about: "File whose first line is a bearer token for the server. Empty: systemd's credential tidegate.upload-token, if there is one.",
        default: r#""""#,
        accepted: "an absolute path",
        effect: Effect::Live,
        reach: Reach::Local(FILES),
        kind: Kind::Text,
        set: |config, value| path(value).map(|path| config.upload.token_file = path),
        get: |config| path_json(config.upload.token_file.as_ref()),
    },
    Key {
        name: "upload.connect_within",
        about: "Within which a connection must stand, TLS included.",
        default: r#""30s""#,
        accepted: r#"a duration from "1s" to "10m""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| span(value, 1, 600).map(|span| config.upload.connect_within = span),
        get: |config| span_json(config.upload.connect_within),
    },
    Key {
        name: "upload.progress_within",
        about: "Within which something must move on a connection.",
        default: r#""1m""#,
        accepted: r#"a duration from "1s" to "1h""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| span(value, 1, 3600).map(|span| config.upload.progress_within = span),
        get: |config| span_json(config.upload.progress_within),
    },
    Key {
        name: "upload.total_within",
        about: "Within which a request must be over; time that rate_limit or telemetry holds it back does not count.",
        default: r#""24h""#,
        accepted: r#"a duration from "1s" to "30d""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| span(value, 1, 30 * 86_400).map(|span| config.upload.total_within = span),
        get: |config| span_json(config.upload.total_within),
    },
    Key {
        name: "host.interval",
        about: "How often the machine's own load, memory, disks and links are published.",
        default: r#""1m""#,
        accepted: r#"a duration from "1s" to "1h""#,
        effect: Effect::Live,
        reach: Reach::Remote,
        kind: Kind::Text,
        set: |config, value| span(value, 1, 3_600).map(|span| config.host.interval = span),
        get: |config| span_json(config.host.interval),
    },
    Key {
        name: "log.filter",
        about: "What is logged: a level, or levels by module (\"info,tidegate::uplink=debug\").",
        default: r#""info""#,
        accepted: r#"a level (error, warn, info, debug, trace, off) or directives such as "info,tidegate::uplink=debug""#,
        effect: Effect::Live,
        reach: NOT_ALL_OF_DEBUG,
        kind: Kind::Text,
        set: |config, value| {
            let filter = text(value)?;
            filter.parse::<Targets>().map_err(|error| Refused(Some(error.to_string())))?;
            filter.clone_into(&mut config.log.filter);
            Ok(())
        },
        get: |config| json!(config.log.filter),
    },
];

fn text(value: &Value) -> Result<&str, Refused> {
    match &value.kind {
        ValueKind::String(text) if !text.is_empty() => Ok(text),
        _ => Err(Refused::default()),
    }
}

/// An empty string is as if the key were absent, so that a later layer can take an earlier one's value back.
fn optional(value: &Value) -> Result<Option<&str>, Refused> {
    match &value.kind {
        ValueKind::String(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        _ => Err(Refused::default()),
    }
}

fn identifier(text: &str) -> Result<String, Refused> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if matches!(text.len(), 1..=64) && text.bytes().all(valid) { Ok(text.to_owned()) } else { Err(Refused::default()) }
}

fn path(value: &Value) -> Result<Option<PathBuf>, Refused> {
    optional(value)?.map(absolute).transpose()
}

fn absolute(path: &str) -> Result<PathBuf, Refused> {
    match path {
        path if path.contains('\0') => Err("a path holds no NUL".into()),
        path if path.starts_with('/') => Ok(path.into()),
        _ => Err("the path is relative".into()),
    }
}

/// Absolute paths of folders. One within the other would have its files taken twice.
fn folders(value: &Value, most: usize) -> Result<Vec<PathBuf>, Refused> {
    let folders: Vec<PathBuf> = list(value, most)?.into_iter().map(absolute).collect::<Result<_, _>>()?;
    for (index, folder) in folders.iter().enumerate() {
        if folders[..index].iter().any(|other| other.starts_with(folder) || folder.starts_with(other)) {
            return Err(Refused(Some(format!("{} is, holds or lies in another of them", folder.display()))));
        }
    }
    Ok(folders)
}

fn integer(value: &Value, min: u32, max: u32) -> Result<u32, Refused> {
    let ValueKind::I64(number) = value.kind else { return Err(Refused::default()) };
    u32::try_from(number).ok().filter(|number| (min..=max).contains(number)).ok_or_else(Refused::default)
}

fn percent(value: &Value) -> Result<u8, Refused> {
    integer(value, 1, 98).and_then(|share| u8::try_from(share).map_err(|_| Refused::default()))
}

fn span(value: &Value, min_s: u64, max_s: u64) -> Result<Duration, Refused> {
    let Span(span) = text(value)?.parse().map_err(|_| Refused::default())?;
    let accepted = Duration::from_secs(min_s)..=Duration::from_secs(max_s);
    if accepted.contains(&span) { Ok(span) } else { Err(Refused::default()) }
}

/// MQTT carries these as whole seconds.
fn whole_seconds(value: &Value, min_s: u64, max_s: u64) -> Result<Duration, Refused> {
    let span = span(value, min_s, max_s)?;
    if span.subsec_nanos() == 0 { Ok(span) } else { Err(Refused::default()) }
}

fn size(text: &str, min: u64, max: u64) -> Result<u64, Refused> {
    let Size(bytes) = text.parse().map_err(|_| Refused::default())?;
    if (min..=max).contains(&bytes) { Ok(bytes) } else { Err(Refused::default()) }
}

fn list(value: &Value, most: usize) -> Result<Vec<&str>, Refused> {
    let ValueKind::Array(items) = &value.kind else { return Err(Refused::default()) };
    let items: Vec<&str> = items.iter().map(text).collect::<Result<_, _>>()?;
    if items.len() > most {
        return Err(Refused(Some(format!("it has {} entries", items.len()))));
    }
    for (index, item) in items.iter().enumerate() {
        if items[..index].contains(item) {
            return Err(Refused(Some(format!("{item} stands there twice"))));
        }
    }
    Ok(items)
}

/// As it is written: without the path that a URI has at its end.
fn shown_proxy(proxy: &Uri) -> String {
    proxy.to_string().trim_end_matches('/').to_owned()
}

fn path_json(path: Option<&PathBuf>) -> serde_json::Value {
    json!(path.map(|path| path.to_string_lossy()).unwrap_or_default())
}

fn span_json(span: Duration) -> serde_json::Value {
    json!(Span(span).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_grouped_by_section() {
        let mut names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());
        let mut unique = sections();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), sections().len());
    }

    #[test]
    fn every_secret_is_a_key() {
        for name in SECRETS {
            assert!(find(name).is_some_and(Key::is_secret), "{name}");
        }
    }
}
