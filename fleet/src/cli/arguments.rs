//! What all commands are told: the folder, the broker.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::ValueHint;
use tidegate::config::Broker;

use super::Failure;
use crate::{
    broker::{LinkError, Options},
    credentials::Files,
    folder::Folder,
    observer::Observer,
    plan::{self, Plan},
    target::{Topics, is_identifier},
};

/// Where the folder and the broker are.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct FleetArgs {
    /// The folder with `groups/` and `gateways/`
    #[arg(value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    dir: PathBuf,
    /// For programs: one JSON object a line (docs/fleet.md describes them)
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    broker: BrokerArgs,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Broker")]
struct BrokerArgs {
    /// `mqtt://HOST[:PORT]` or `mqtts://HOST[:PORT]`
    #[arg(long, env = "TIDEGATE_FLEET_URL", hide_env_values = true, value_parser = url)]
    url: Broker,
    /// Certificates (PEM) of the authorities to trust, instead of the system's
    #[arg(long, env = "TIDEGATE_FLEET_CA", hide_env_values = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    ca: Option<PathBuf>,
    /// Your own certificate and chain (PEM)
    #[arg(long, env = "TIDEGATE_FLEET_CERT", hide_env_values = true, value_name = "FILE", requires = "key", value_hint = ValueHint::FilePath)]
    cert: Option<PathBuf>,
    /// The private key (PEM) of --cert
    #[arg(long, env = "TIDEGATE_FLEET_KEY", hide_env_values = true, value_name = "FILE", requires = "cert", value_hint = ValueHint::FilePath)]
    key: Option<PathBuf>,
    /// Your user name at the broker
    #[arg(long, env = "TIDEGATE_FLEET_USER", hide_env_values = true)]
    user: Option<String>,
    /// File whose first line is the password
    #[arg(
        long,
        env = "TIDEGATE_FLEET_PASSWORD_FILE",
        hide_env_values = true,
        value_name = "FILE",
        requires = "user",
        value_hint = ValueHint::FilePath
    )]
    password_file: Option<PathBuf>,
    /// What all topics begin with: `[mqtt] root` of the gateways
    #[arg(long, env = "TIDEGATE_FLEET_ROOT", hide_env_values = true, default_value = "tidegate/v1", value_parser = root)]
    root: String,
}

fn url(text: &str) -> Result<Broker, &'static str> {
    Broker::parse(text)
}

/// Roots that the daemon accepts; a `+` would make all filters mean something else.
fn root(text: &str) -> Result<String, &'static str> {
    let well = text.len() <= 128 && text.split('/').all(is_identifier);
    if well { Ok(text.to_owned()) } else { Err("levels of A-Z a-z 0-9 _ . - joined by /") }
}

/// A fleet that can be looked at: the folder, read and judged, and where the broker is.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) folder: Folder,
    topics: Topics,
    options: Options,
}

impl FleetArgs {
    /// Reads the folder first: what is wrong with it is told without a broker.
    pub(super) fn open(&self) -> Result<Fleet, Failure> {
        let folder = Folder::read(&self.dir).map_err(Failure::Folder)?;
        let BrokerArgs { url, ca, cert, key, user, password_file, root } = self.broker.clone();
        let files = Files { ca, cert, key, user, password_file };
        let options = Options { credentials: files.read(url.tls)?, broker: url };
        Ok(Fleet { folder, topics: Topics::below(&root), options })
    }
}

impl Fleet {
    /// Reads what the broker has.
    pub(super) async fn observe(&self) -> Result<Observer<'_>, Failure> {
        let mut observer = Observer::new(self.options.clone(), &self.topics, &self.folder);
        observer.read().await.map_err(|error| self.failed(error))?;
        Ok(observer)
    }

    /// What is to be published.
    pub(super) fn plan(&self, observer: &Observer<'_>, withdraw_all: bool) -> Result<Plan, Failure> {
        let now_s = SystemTime::UNIX_EPOCH.elapsed().as_ref().map_or(0, Duration::as_secs);
        Ok(plan::plan(&self.folder, observer.seen(), plan::Options { now_s, withdraw_all })?)
    }

    /// The connection failed, in words that name the broker.
    pub(super) fn failed(&self, error: LinkError) -> Failure {
        Failure::Broker { url: self.options.broker.to_string(), error }
    }
}

/// Runs what waits for the network. One thread is enough: there is one connection.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
