//! Puts layers over each other, and checks what keys mean together.

use std::collections::BTreeMap;

use config::{Value, ValueKind};

use super::{
    Config,
    error::{ConfigError, Problem},
    keys::{KEYS, Key},
    local::Local,
    remote::Remote,
};

/// A valid configuration, and where each key comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    origins: BTreeMap<&'static str, String>,
}

impl Loaded {
    /// The layer that decides a key: `default`, a file with its line, a variable, or a remote layer's label.
    #[must_use]
    pub fn origin(&self, key: &Key) -> &str {
        self.origins.get(key.name).map_or("default", String::as_str)
    }
}

/// The local layers, and over them the remote ones, of which later ones win.
///
/// # Errors
///
/// Keys that are each accepted, but not beside each other; never without remote layers.
pub fn compose(local: &Local, remotes: &[&Remote]) -> Result<Loaded, Vec<ConfigError>> {
    let layers = local.layers().chain(remotes.iter().map(|remote| remote.layer()));
    let mut builder = config::Config::builder();
    for layer in layers {
        builder = builder.add_source(layer.clone());
    }
    let merged = builder
        .build()
        .map_err(|error| vec![ConfigError::with_layer(local.place(), Problem::Syntax(error.to_string()))])?;

    let mut config = local.defaults();
    let mut origins = BTreeMap::new();
    for key in KEYS {
        if let Some(value) = value_at(&merged.cache, key.name) {
            // Each layer was judged when it was read.
            if (key.set)(&mut config, value).is_ok() {
                origins.insert(key.name, value.origin().unwrap_or("default").to_owned());
            }
        }
    }
    local.complete(&mut config);
    let loaded = Loaded { config, origins };
    let errors = contradictions(&loaded);
    if errors.is_empty() { Ok(loaded) } else { Err(errors) }
}

fn value_at<'a>(root: &'a Value, name: &str) -> Option<&'a Value> {
    name.split('.').try_fold(root, |value, part| match &value.kind {
        ValueKind::Table(table) => table.get(part),
        _ => None,
    })
}

/// Keys that are each accepted, but not beside each other.
fn contradictions(loaded: &Loaded) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let mut report = |key: &'static str, problem: String| {
        let layer = loaded.origins.get(key).map_or("default", String::as_str).to_owned();
        errors.push(ConfigError::with_key(layer, key, Problem::Contradiction(problem)));
    };
    let mqtt = &loaded.config.mqtt;
    // A certificate without `key` is none: its key may be a credential of systemd, which only the service sees. Where
    // there is none, connecting says so.
    if mqtt.key.is_some() && mqtt.cert.is_none() {
        report("mqtt.key", "is set, but not its certificate; accepted is a private key with [mqtt] cert".into());
    }
    if mqtt.password_file.is_some() && mqtt.user.is_none() {
        report("mqtt.password_file", "is set, but no user; accepted is a password with [mqtt] user".into());
    }
    if let Some(broker) = mqtt.broker.as_ref().filter(|broker| !broker.tls) {
        for (name, file) in [("mqtt.ca", &mqtt.ca), ("mqtt.cert", &mqtt.cert)] {
            if file.is_some() {
                report(
                    name,
                    format!("is set, but {broker} is not encrypted; accepted is an mqtts:// url, or no certificates"),
                );
            }
        }
    }
    let upload = &loaded.config.upload;
    if upload.key.is_some() && upload.cert.is_none() {
        report("upload.key", "is set, but not its certificate; accepted is a private key with [upload] cert".into());
    }
    if let Some(endpoint) = upload.endpoint.as_ref().filter(|endpoint| !endpoint.tls) {
        for (name, file) in [("upload.ca", &upload.ca), ("upload.cert", &upload.cert)] {
            if file.is_some() {
                report(
                    name,
                    format!(
                        "is set, but {endpoint} is not encrypted; accepted is an https:// endpoint, or no certificates"
                    ),
                );
            }
        }
    }
    let shares = &loaded.config.spool.shares;
    let sum = u32::from(shares.event) + u32::from(shares.ingest) + u32::from(shares.telemetry);
    if sum > 100 {
        let named = ["spool.shares.telemetry", "spool.shares.ingest", "spool.shares.event"];
        let key = named.into_iter().find(|key| loaded.origins.contains_key(key)).unwrap_or(named[0]);
        report(
            key,
            format!(
                "event {}, ingest {} and telemetry {} are {sum} percent together, accepted is at most 100",
                shares.event, shares.ingest, shares.telemetry
            ),
        );
    }
    errors
}
