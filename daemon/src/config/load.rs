//! Puts the layers over each other, checks what keys mean together, and fills in what the machine decides.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use config::{Value, ValueKind};

use super::{
    Config,
    error::{ConfigError, Problem},
    identity::derived_id,
    keys::{KEYS, Key},
    layers::{Layer, fragments},
};

/// What the daemon finds around it besides the files: given, so that tests give their own.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Environment variables.
    pub variables: BTreeMap<OsString, OsString>,
    /// File with the machine id, `/etc/machine-id`.
    pub machine_id_file: PathBuf,
}

impl Environment {
    /// The one that this process runs in.
    #[must_use]
    pub fn of_process() -> Self {
        Self { variables: std::env::vars_os().collect(), machine_id_file: "/etc/machine-id".into() }
    }
}

/// The main file, and whether somebody asked for that very one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MainFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it has to be there: a file that was named and is absent is a mistyped name, not a wish for defaults.
    pub required: bool,
}

impl MainFile {
    /// [`load`], with this file.
    ///
    /// # Errors
    ///
    /// Those of [`load`], and that a required file is absent.
    pub fn load(&self, environment: &Environment) -> Result<Loaded, Vec<ConfigError>> {
        if self.required
            && let Err(error) = std::fs::metadata(&self.path)
        {
            return Err(vec![ConfigError::with_layer(self.path.display().to_string(), Problem::Missing(error))]);
        }
        load(&self.path, environment)
    }
}

/// A valid configuration, and where each key comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    origins: BTreeMap<&'static str, String>,
}

impl Loaded {
    /// The layer that decides a key: `default`, a file with its line, or a variable.
    #[must_use]
    pub fn origin(&self, key: &Key) -> &str {
        self.origins.get(key.name).map_or("default", String::as_str)
    }
}

/// Reads all local layers: `path` (absent: defaults), `conf.d/*.toml` beside it, the environment.
///
/// # Errors
///
/// Everything that is wrong, in the order of the layers; at least one.
pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Vec<ConfigError>> {
    let mut errors = Vec::new();
    let mut builder = config::Config::builder();
    let conf_d = path.parent().unwrap_or(Path::new("")).join("conf.d");
    let files = std::iter::once(path.to_owned()).chain(fragments(&conf_d, &mut errors));
    for file in files {
        if let Some(layer) = Layer::of_file(&file, &mut errors) {
            builder = builder.add_source(layer);
        }
    }
    builder = builder.add_source(Layer::of_environment(&environment.variables, &mut errors));
    let merged = builder.build().map_err(|error| {
        vec![ConfigError::with_layer(path.display().to_string(), Problem::Syntax(error.to_string()))]
    })?;

    let mut config = Config::defaults("");
    config.spool.dir = default_spool_dir(environment);
    let mut origins = BTreeMap::new();
    for key in KEYS {
        if let Some(value) = value_at(&merged.cache, key.name) {
            // Each layer was judged when it was read.
            if (key.set)(&mut config, value).is_ok() {
                origins.insert(key.name, value.origin().unwrap_or("default").to_owned());
            }
        }
    }
    let mut loaded = Loaded { config, origins };
    contradictions(&loaded, &mut errors);
    if loaded.config.gateway.id.is_empty() {
        match derived_id(&environment.machine_id_file) {
            Ok(id) => loaded.config.gateway.id = id,
            Err(problem) => errors.push(ConfigError::with_key("default".into(), "gateway.id", problem)),
        }
    }
    if errors.is_empty() { Ok(loaded) } else { Err(errors) }
}

/// `$STATE_DIRECTORY` is what systemd made for the unit (several are joined by colons: ours is the first).
fn default_spool_dir(environment: &Environment) -> PathBuf {
    environment
        .variables
        .get(&OsString::from("STATE_DIRECTORY"))
        .and_then(|folders| folders.to_str()?.split(':').next())
        .filter(|folder| folder.starts_with('/'))
        .map_or_else(|| PathBuf::from(super::DEFAULT_SPOOL_DIR), |folder| Path::new(folder).join("spool"))
}

fn value_at<'a>(root: &'a Value, name: &str) -> Option<&'a Value> {
    name.split('.').try_fold(root, |value, part| match &value.kind {
        ValueKind::Table(table) => table.get(part),
        _ => None,
    })
}

/// Keys that are each accepted, but not beside each other.
fn contradictions(loaded: &Loaded, errors: &mut Vec<ConfigError>) {
    let mut report = |key: &'static str, problem: String| {
        let layer = loaded.origins.get(key).map_or("default", String::as_str).to_owned();
        errors.push(ConfigError::with_key(layer, key, Problem::Contradiction(problem)));
    };
    let mqtt = &loaded.config.mqtt;
    if mqtt.cert.is_some() && mqtt.key.is_none() {
        report("mqtt.cert", "is set, but not its private key; accepted is both [mqtt] cert and key, or neither".into());
    }
    if mqtt.key.is_some() && mqtt.cert.is_none() {
        report("mqtt.key", "is set, but not its certificate; accepted is both [mqtt] cert and key, or neither".into());
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
}
