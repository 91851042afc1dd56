//! What the daemon does and what is wrong, composed from what each part publishes.
//!
//! Each part has a `watch` channel of its own and knows nothing of the others; the [`Board`] reads them all at the
//! moment someone asks.

mod problems;
mod spool;

use std::{collections::BTreeMap, process, sync::Arc, time::Instant};

use serde::Serialize;
use tidegate_spool::{Spool, Stats};
use tidegate_upload::status::UploadStatus;
use tokio::sync::watch;

pub use self::{
    problems::{Problem, Severity, problems},
    spool::SpoolStatus,
};
use crate::{
    config::{Config, Shown},
    control::{BundleStatus, ConfigStatus, commands::CommandsStatus},
    gather::Gather as _,
    kernel::{AttachMode, Kernel},
    record::{Clock, Uuid},
    sources::{host::HostStatus, ingest::IngestStatus, policy::PolicyStatus, traffic::TrafficStatus},
    uplink::{Feature, Features, UplinkStatus},
};

/// Everything at one moment: the answer to `{"get":"status"}`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// What is wrong, the worst first.
    pub problems: Vec<Problem>,
    /// Version of the daemon.
    pub version: &'static str,
    /// Gateway id.
    pub gateway: String,
    /// Boot id.
    pub boot: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the daemon started.
    pub up_s: u64,
    /// Wall clock now, milliseconds since 1970.
    pub ts_ms: u64,
    /// Whether the wall clock has been set.
    pub clock_synced: bool,
    /// The configuration that runs, against the files and what is desired.
    pub configuration: ConfigStatus,
    /// The broker.
    pub uplink: UplinkStatus,
    /// Records on disk.
    pub spool: SpoolStatus,
    /// Watching.
    pub traffic: TrafficStatus,
    /// Policies that are desired, and the one that is enforced.
    pub bundles: BundleStatus,
    /// Guarding.
    pub policy: PolicyStatus,
    /// The machine's own telemetry.
    pub host: HostStatus,
    /// Records from local programs.
    pub ingest: IngestStatus,
    /// Files on their way.
    pub upload: UploadStatus,
    /// Requests over MQTT.
    pub commands: CommandsStatus,
}

/// Where the parts publish, each through its own sender.
#[derive(Debug)]
pub struct Publishers {
    /// For the uplink.
    pub uplink: watch::Sender<UplinkStatus>,
    /// For the traffic source.
    pub traffic: watch::Sender<TrafficStatus>,
    /// For the policy source.
    pub policy: watch::Sender<PolicyStatus>,
    /// For the host source.
    pub host: watch::Sender<HostStatus>,
    /// For the ingest source.
    pub ingest: watch::Sender<IngestStatus>,
    /// For uploads.
    pub upload: watch::Sender<UploadStatus>,
    /// For the commands.
    pub commands: watch::Sender<CommandsStatus>,
    /// For control.
    pub configuration: watch::Sender<ConfigStatus>,
    /// For control, too: the policy.
    pub bundles: watch::Sender<BundleStatus>,
    /// For control, too: the keys.
    pub shown: watch::Sender<Shown>,
}

/// Reads what the parts publish.
#[derive(Clone, Debug)]
pub struct Board {
    started: Instant,
    clock: Clock,
    config: watch::Receiver<Arc<Config>>,
    configuration: watch::Receiver<ConfigStatus>,
    bundles: watch::Receiver<BundleStatus>,
    shown: watch::Receiver<Shown>,
    uplink: watch::Receiver<UplinkStatus>,
    spool: watch::Receiver<Stats>,
    traffic: watch::Receiver<TrafficStatus>,
    policy: watch::Receiver<PolicyStatus>,
    host: watch::Receiver<HostStatus>,
    ingest: watch::Receiver<IngestStatus>,
    upload: watch::Receiver<UploadStatus>,
    commands: watch::Receiver<CommandsStatus>,
    kernel: Kernel,
}

impl Board {
    /// A board, and the senders for the parts that it shows.
    #[must_use]
    pub fn new(
        config: watch::Receiver<Arc<Config>>,
        clock: Clock,
        spool: &Spool,
        kernel: Kernel,
    ) -> (Self, Publishers) {
        let (uplink_sender, uplink) = watch::channel(UplinkStatus::default());
        let (traffic_sender, traffic) = watch::channel(TrafficStatus::default());
        let (policy_sender, policy) = watch::channel(PolicyStatus::default());
        let (host_sender, host) = watch::channel(HostStatus::default());
        let (ingest_sender, ingest) = watch::channel(IngestStatus::default());
        let (upload_sender, upload) = watch::channel(UploadStatus::default());
        let (commands_sender, commands) = watch::channel(CommandsStatus::default());
        let (configuration_sender, configuration) = watch::channel(ConfigStatus::default());
        let (bundles_sender, bundles) = watch::channel(BundleStatus::default());
        let (shown_sender, shown) = watch::channel(Shown::default());
        let board = Self {
            started: Instant::now(),
            clock,
            config,
            configuration,
            bundles,
            shown,
            uplink,
            spool: spool.stats(),
            traffic,
            policy,
            host,
            ingest,
            upload,
            commands,
            kernel,
        };
        let publishers = Publishers {
            uplink: uplink_sender,
            traffic: traffic_sender,
            policy: policy_sender,
            host: host_sender,
            ingest: ingest_sender,
            upload: upload_sender,
            commands: commands_sender,
            configuration: configuration_sender,
            bundles: bundles_sender,
            shown: shown_sender,
        };
        (board, publishers)
    }

    /// Everything at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Status {
        let now = self.clock.now();
        let mut status = Status {
            ok: false,
            problems: Vec::new(),
            version: env!("CARGO_PKG_VERSION"),
            gateway: self.config.borrow().gateway.id.clone(),
            boot: Uuid(self.clock.boot()).to_string(),
            pid: process::id(),
            up_s: self.started.elapsed().as_secs(),
            ts_ms: now.ts_ms,
            clock_synced: now.synced,
            configuration: self.configuration.borrow().clone(),
            bundles: self.bundles.borrow().clone(),
            uplink: self.uplink.borrow().clone(),
            spool: SpoolStatus::from(&*self.spool.borrow()),
            traffic: self.traffic.borrow().clone(),
            policy: self.policy.borrow().clone(),
            host: self.host.borrow().clone(),
            ingest: self.ingest.borrow().clone(),
            upload: self.upload.borrow().clone(),
            commands: self.commands.borrow().clone(),
        };
        status.problems = problems(&status);
        status.ok = status.problems.is_empty();
        status
    }

    /// The configuration that runs.
    #[must_use]
    pub fn running(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// How uploads are.
    #[must_use]
    pub fn uploads(&self) -> UploadStatus {
        self.upload.borrow().clone()
    }

    /// The configuration that runs, and where each key comes from.
    #[must_use]
    pub fn configuration(&self) -> Shown {
        self.shown.borrow().clone()
    }

    /// Which policies are desired, and which one is enforced.
    #[must_use]
    pub fn bundles(&self) -> BundleStatus {
        self.bundles.borrow().clone()
    }

    /// Waits until the interfaces that were there at the start are watched, or it is known why not.
    pub async fn settled(&self) {
        // An error says that the source has ended, which it says itself.
        let mut traffic = self.traffic.clone();
        let _settled = traffic.wait_for(|traffic| traffic.settled).await;
    }

    /// Names of the watched interfaces, by index.
    #[must_use]
    pub fn interface_names(&self) -> BTreeMap<u32, String> {
        let traffic = self.traffic.borrow();
        traffic.interfaces.iter().map(|interface| (interface.ifindex, interface.interface.clone())).gather()
    }

    /// Gateway id.
    #[must_use]
    pub fn gateway(&self) -> String {
        self.config.borrow().gateway.id.clone()
    }

    /// The kernel side, for what is streamed rather than published.
    #[must_use]
    pub const fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Keeps the features of the birth message up to date: what works, and in which way or why not.
    pub async fn announce(mut self, features: watch::Sender<Features>) {
        loop {
            let now = self.features();
            features.send_if_modified(|old| {
                let changed = *old != now;
                *old = now;
                changed
            });
            let changed = tokio::select! {
                changed = self.traffic.changed() => changed.is_ok(),
                changed = self.spool.changed() => changed.is_ok(),
            };
            if !changed {
                return;
            }
        }
    }

    fn features(&mut self) -> Features {
        let traffic = self.traffic.borrow_and_update();
        let watching = match traffic.unavailable.first() {
            Some(missing) => Feature { available: false, reason: Some(format!("{}: {}", missing.what, missing.why)) },
            None => Feature {
                available: traffic.attach.is_some(),
                reason: Some(traffic.attach.map_or("no interface is watched yet", AttachMode::name).to_owned()),
            },
        };
        let pinning = (traffic.attach == Some(AttachMode::Tcx))
            .then(|| Feature { available: traffic.not_pinned.is_none(), reason: traffic.not_pinned.clone() });
        let timing = match (&traffic.tcp_sendmsg, &traffic.tcp_sendmsg_unavailable) {
            (Some(_), _) => Some(Feature { available: true, reason: None }),
            (None, Some(missing)) => Some(Feature { available: false, reason: Some(missing.why.clone()) }),
            (None, None) => None,
        };
        drop(traffic);
        let spool = self.spool.borrow_and_update();
        let storing = Feature {
            available: spool.paused.is_none(),
            reason: spool.paused.clone().or_else(|| {
                let io = spool.io.to_owned();
                Some(spool.io_reason.as_ref().map_or(io.clone(), |reason| format!("{io}: {reason}")))
            }),
        };
        let mut features = Features::from([("traffic".into(), watching), ("spool".into(), storing)]);
        features.extend(pinning.map(|pinning| ("pinned_links".into(), pinning)));
        features.extend(timing.map(|timing| ("tcp_sendmsg".into(), timing)));
        features
    }
}
