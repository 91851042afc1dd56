//! The daemon's life: build from configuration, start, run, drain. Read [`run`]; the rest is detail.

use std::{future::Future, io, sync::Arc, time::Duration};

use tidegate_spool::{LaneOptions, OpenError, Options, Spool};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    config::{Config, Effect, Environment, Loaded, MainFile, SEGMENT_SIZE_BYTES, changes, live},
    control_socket, kernel,
    local_socket::SocketError,
    logging::FilterHandle,
    record::Clock,
    sources::{self, Sink},
    status::{Board, Reload},
    uplink::{self, Uplink},
};

// The drain's budget, 5 s in all: a unit's TimeoutStopSec must not be what ends us.
const SOURCES_DRAIN: Duration = Duration::from_secs(2);
const KERNEL_STOP: Duration = Duration::from_millis(300);
const UPLINK_DRAIN: Duration = Duration::from_millis(1500);
const SPOOL_CLOSE: Duration = Duration::from_secs(1);
const CONTROL_CLOSE: Duration = Duration::from_millis(100);
const _: () = assert!(
    SOURCES_DRAIN.as_millis()
        + KERNEL_STOP.as_millis()
        + UPLINK_DRAIN.as_millis()
        + SPOOL_CLOSE.as_millis()
        + CONTROL_CLOSE.as_millis()
        < 5000
);

/// Why the daemon cannot start. What can be mended while it runs (a full disk, a missing privilege, a broker
/// that is away) is none of these.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No threads, or no event queue.
    #[error("the system gives no threads: {0}")]
    Runtime(io::Error),
    /// The spool's options contradict each other, or another daemon has it.
    #[error("[spool] {0}")]
    Spool(#[from] OpenError),
    /// The control or the ingest socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Signals cannot be received.
    #[error("signal handlers: {0}")]
    Signals(io::Error),
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
///
/// See [`StartError`]; nothing is left running then.
pub async fn run(config_file: &MainFile, loaded: Loaded, log: FilterHandle) -> Result<(), StartError> {
    let mut signals = Signals::new().map_err(StartError::Signals)?;
    let (config_sender, config) = watch::channel(Arc::new(loaded.config));
    let clock = Clock::of_this_boot();

    // The spool first: what the sources make has somewhere to go.
    let spool = Spool::start(spool_options(&config.borrow().clone())).await?;
    let sink = Sink::new(spool.clone(), clock);
    let (kernel, kernel_events, _thread) =
        kernel::Kernel::start(kernel::Options { flow_capacity: config.borrow().traffic.flow_capacity })
            .map_err(StartError::Runtime)?;

    let (board, publish) = Board::new(config.clone(), clock, &spool, kernel.clone());
    let board = Arc::new(board);

    // Listening sockets before anything runs: their failure is the one that ends us.
    let control_path = control_socket::default_path();
    let control = control_socket::bind(&control_path)?;
    let ingest = sources::ingest::bind(&sources::ingest::default_path())?;

    let draining = CancellationToken::new();
    let mut sources = JoinSet::new();
    sources.spawn(sources::traffic::run(
        kernel.clone(),
        kernel_events,
        config.clone(),
        sink.clone(),
        publish.traffic,
        draining.clone(),
    ));
    sources.spawn(sources::host::run(config.clone(), sink.clone(), publish.host, draining.clone()));
    sources.spawn(sources::ingest::run(ingest, sink.clone(), publish.ingest, draining.clone()));
    sources.spawn(sources::loss::run(spool.clone(), sink.clone(), draining.clone()));
    sources.spawn(sources::spool::run(spool.clone(), config.clone(), sink.clone(), draining.clone()));

    let leaving = CancellationToken::new();
    let (features_sender, features) = watch::channel(uplink::Features::default());
    tokio::spawn(Board::clone(&board).announce(features_sender));
    let uplink = tokio::spawn(
        Uplink {
            spool: spool.clone(),
            sink,
            clock,
            features,
            config: config.clone(),
            status: publish.uplink,
            shutdown: leaving.clone(),
        }
        .run(),
    );
    let closed = CancellationToken::new();
    let control = tokio::spawn(control_socket::run(control, control_path, board, closed.clone()));
    info!(gateway = %config.borrow().gateway.id, version = env!("CARGO_PKG_VERSION"), "ready");

    let started = config_sender.borrow().clone();
    while let Event::Reload = signals.next().await {
        publish.reload.send_replace(reload(config_file, &started, &config_sender, &log));
    }

    info!("stopping: sources, spool, uplink");
    draining.cancel();
    within("sources", SOURCES_DRAIN, async { while sources.join_next().await.is_some() {} }).await;
    // Taken off by the traffic source as it ends; again, in case it was left behind.
    within("kernel", KERNEL_STOP, kernel.stop()).await;
    leaving.cancel();
    within("uplink", UPLINK_DRAIN, uplink).await;
    within("spool", SPOOL_CLOSE, spool.close()).await;
    closed.cancel();
    within("control socket", CONTROL_CLOSE, control).await;
    info!("stopped");
    Ok(())
}

/// Waits for a part to end; one that hangs is left behind, so that the next one gets its turn.
async fn within<T>(part: &'static str, budget: Duration, ending: impl Future<Output = T>) {
    if timeout(budget, ending).await.is_err() {
        warn!(
            part,
            budget_ms = u64::try_from(budget.as_millis()).unwrap_or(u64::MAX),
            "did not end in time; going on without it"
        );
    }
}

fn spool_options(config: &Config) -> Options {
    let spool = &config.spool;
    let lane = |name: &str, importance, percent: u8| LaneOptions {
        name: name.to_owned(),
        importance,
        share_bytes: spool.max_size_bytes / 100 * u64::from(percent),
    };
    Options {
        dir: spool.dir.clone(),
        // In the order of `sources::lane`.
        lanes: vec![
            lane("event", 2, spool.shares.event),
            lane("ingest", 1, spool.shares.ingest),
            lane("telemetry", 0, spool.shares.telemetry),
        ],
        max_size_bytes: spool.max_size_bytes,
        segment_size_bytes: SEGMENT_SIZE_BYTES,
        io: spool.io,
        direct: spool.direct,
    }
}

/// Reads the local layers again. What can change while the daemon runs does; a configuration that is wrong
/// changes nothing.
///
/// What needs a restart is told by comparing with the configuration that the daemon `started` with: it stays
/// pending however often the files are read again, until they say what runs.
fn reload(file: &MainFile, started: &Config, config: &watch::Sender<Arc<Config>>, log: &FilterHandle) -> Reload {
    let new = match file.load(&Environment::of_process()) {
        Ok(loaded) => loaded.config,
        Err(errors) => {
            for error in &errors {
                error!(%error, "configuration refused; the running one stays");
            }
            return Reload::Refused { errors: errors.iter().map(ToString::to_string).collect() };
        }
    };
    let changed = changes(&config.borrow().clone(), &new);
    let since_start = changes(started, &new);
    let pending: Vec<_> = since_start.iter().filter(|key| key.effect == Effect::Restart).map(|key| key.name).collect();
    let applied: Vec<_> = changed.iter().filter(|key| key.effect == Effect::Live).map(|key| key.name).collect();
    if let Err(error) = log.set(&new.log.filter) {
        warn!(%error, "log filter refused");
    }
    info!(?applied, ?pending, "configuration read again");
    config.send_replace(Arc::new(live(started, &new)));
    Reload::Running { pending_restart: pending }
}

enum Event {
    Reload,
    Stop,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.hangup.recv() => Event::Reload,
            _ = self.terminate.recv() => Event::Stop,
            _ = self.interrupt.recv() => Event::Stop,
        }
    }
}
