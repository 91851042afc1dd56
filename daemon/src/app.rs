//! The daemon's life: build from configuration, start, run, drain. Read [`run`]; the rest is detail.

use std::{collections::BTreeMap, future::Future, io, sync::Arc, time::Duration};

use tidegate_spool::{LaneOptions, OpenError, Options, Spool};
use tidegate_upload::{
    ask::{ASKS, Ask},
    event::EVENTS,
    order::ORDERS,
    ports::Ports,
};
use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::{Config, Environment, Local, MainFile, SEGMENT_SIZE_BYTES},
    control::{
        self, Control,
        commands::{self, Commands},
    },
    control_socket,
    kernel::{self, Kernel},
    local_socket::SocketError,
    logging::FilterHandle,
    paths, provision,
    record::Clock,
    sources::{self, Sink},
    status::Board,
    supervisor::{self, GUARDED_WITHIN, Pulse, Supervisor},
    task,
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

/// Why the daemon ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to: SIGTERM or SIGINT.
    Stopped,
    /// It was asked to start anew (`cmd/restart`), which is the supervisor's part.
    ToRestart,
}

/// Runs the daemon until SIGTERM or SIGINT, or until it is asked to start anew.
///
/// # Errors
///
/// See [`StartError`]; nothing is left running then.
#[expect(clippy::too_many_lines, reason = "the daemon's life reads in one function")]
pub async fn run(config_file: &MainFile, local: Local, log: FilterHandle) -> Result<Ended, StartError> {
    let mut signals = Signals::new().map_err(StartError::Signals)?;
    let clock = Clock::of_this_boot();
    // What was desired last applies before anything runs: a start needs no network.
    let mut begun = control::begin(&Environment::of_process().state_dir(), local, &clock);
    let (config_sender, config) = watch::channel(Arc::clone(begun.running()));
    let mut supervisor = Supervisor::of_process();

    // The spool first: what the sources make has somewhere to go.
    let spool = Spool::start(spool_options(&config.borrow().clone())).await?;
    let sink = Sink::new(spool.clone(), clock);
    let options =
        kernel::Options { flow_capacity: config.borrow().traffic.flow_capacity, pins: Some(paths::pins_dir()) };
    let kernel::Started { kernel, events: kernel_events, drops, thread: _ends_with_us } =
        Kernel::start(options).map_err(StartError::Runtime)?;

    // The confirmed policy before any interface is attached: no packet meets the programs without it.
    begun.enforce(&kernel, &clock).await;

    let (board, publish) = Board::new(config.clone(), clock, &spool, kernel.clone());
    let board = Arc::new(board);

    // Listening sockets before anything runs: their failure is the one that ends us.
    let control_path = control_socket::default_path();
    let control = control_socket::bind(&control_path)?;
    let ingest = sources::ingest::bind(&sources::ingest::default_path())?;

    let draining = CancellationToken::new();
    let mut sources = JoinSet::new();
    sources.spawn(task::boxed(sources::traffic::run(
        kernel.clone(),
        kernel_events,
        config.clone(),
        sink.clone(),
        publish.traffic,
        supervisor.pulse("traffic"),
        draining.clone(),
    )));
    sources.spawn(task::boxed(sources::policy::run(
        kernel.clone(),
        drops,
        config.clone(),
        sink.clone(),
        publish.policy,
        supervisor.pulse("policy"),
        draining.clone(),
    )));
    sources.spawn(task::boxed(sources::host::run(
        config.clone(),
        sink.clone(),
        publish.host,
        supervisor.patient_pulse("host"),
        draining.clone(),
    )));
    sources.spawn(task::boxed(sources::ingest::run(
        ingest,
        sink.clone(),
        publish.ingest,
        supervisor.pulse("ingest"),
        draining.clone(),
    )));
    sources.spawn(task::boxed(sources::loss::run(spool.clone(), sink.clone(), draining.clone())));
    task::spawn(provision::report(Environment::of_process().state_dir(), sink.clone()));
    sources.spawn(task::boxed(sources::spool::run(spool.clone(), config.clone(), sink.clone(), draining.clone())));

    // Files go beside the records: what comes back from there is what became of them.
    let (orders, ordered) = mpsc::channel(ORDERS);
    let (files, asked_uploads) = mpsc::channel(ASKS);
    let (tell, told) = mpsc::channel(EVENTS);
    let figures = publish.upload.subscribe();
    sources.spawn(task::boxed(sources::upload::run(figures, told, config.clone(), sink.clone(), draining.clone())));
    let engine = Ports {
        settings: uplink::uploads::follow(config.clone(), Environment::of_process().state_dir()),
        orders: ordered,
        asks: asked_uploads,
        status: publish.upload,
        events: tell,
        first: uplink::precedence::watch(publish.uplink.subscribe(), spool.stats()),
        shutdown: draining.clone(),
    };
    let io = config.borrow().spool.io;
    let _ends_with_its_shutdown = tidegate_upload::engine::start(engine, io).map_err(StartError::Runtime)?;

    let leaving = CancellationToken::new();
    let (features_sender, features) = watch::channel(uplink::Features::default());
    task::spawn(Board::clone(&board).announce(features_sender));
    let (inbox, arrived) = control::inbox::inbox();
    let (prober, asked) = uplink::probes();
    let (reports_sender, reports) = watch::channel(BTreeMap::new());
    let (answers_in, answers) = mpsc::channel(commands::ANSWERS);
    let (requests_in, requests) = mpsc::channel(commands::REQUESTS);
    let (retry, retries) = mpsc::channel(1);
    let (reload, reloads) = mpsc::channel(1);
    let (ask, asks) = mpsc::channel(1);
    task::spawn(
        Control {
            begun,
            main_file: config_file.clone(),
            config: config_sender,
            shown: publish.shown,
            status: publish.configuration,
            bundles: publish.bundles,
            kernel: kernel.clone(),
            asks,
            log: log.clone(),
            sink: sink.clone(),
            clock,
            inbox: arrived,
            requests: commands::Intake::new(requests_in, publish.commands.clone()),
            retries,
            reloads,
            prober: prober.clone(),
            reports: reports_sender,
            uplink: publish.uplink.subscribe(),
            pulse: supervisor.pulse("control"),
            shutdown: draining.clone(),
        }
        .run(),
    );
    let uplink = task::spawn(
        Uplink {
            spool: spool.clone(),
            sink,
            clock,
            features,
            config: config.clone(),
            status: publish.uplink,
            inbox,
            reports,
            answers,
            probes: asked,
            pulse: supervisor.pulse("uplink"),
            shutdown: leaving.clone(),
        }
        .run(),
    );
    let restart = CancellationToken::new();
    task::spawn(
        Commands {
            requests,
            answers: answers_in,
            config: config.clone(),
            main_file: config_file.clone(),
            board: Arc::clone(&board),
            prober,
            clock,
            log,
            retry,
            uploads: orders.clone(),
            restart: restart.clone(),
            status: publish.commands,
            pulse: supervisor.pulse("commands"),
            shutdown: draining.clone(),
        }
        .run(),
    );
    let closed = CancellationToken::new();
    let pulse = supervisor.pulse("control socket");
    let parts = control_socket::Parts { policy: ask, files: files.clone(), orders };
    let control =
        task::spawn(control_socket::run(control, control_path, Arc::clone(&board), parts, pulse, closed.clone()));
    let mut pulse = supervisor.pulse("main");
    let supervision = task::spawn(supervise(supervisor, board, kernel.clone(), spool.clone(), files.clone()));

    let ended = loop {
        let event = select! {
            event = signals.next(&mut pulse) => event,
            () = restart.cancelled() => break Ended::ToRestart,
        };
        match event {
            Event::Stop => break Ended::Stopped,
            Event::Reload => {
                supervisor::reloading();
                let (done, reloaded) = oneshot::channel();
                if reload.send(done).await.is_ok() {
                    let _ended = pulse.during(reloaded).await;
                }
                supervisor::reloaded();
            }
        }
    };

    // The parts that end now would be found silent.
    supervision.abort();
    supervisor::stopping();
    info!(?ended, "stopping: sources, spool, uplink");
    draining.cancel();
    within("sources", SOURCES_DRAIN, async { while sources.join_next().await.is_some() {} }).await;
    let on_stop = config.borrow().policy.on_stop;
    within("kernel", KERNEL_STOP, kernel.stop(on_stop)).await;
    leaving.cancel();
    within("uplink", UPLINK_DRAIN, uplink).await;
    within("spool", SPOOL_CLOSE, spool.close()).await;
    closed.cancel();
    within("control socket", CONTROL_CLOSE, control).await;
    info!("stopped");
    Ok(ended)
}

/// Says that the daemon is ready once it guards what is there, and from then on how it is.
async fn supervise(
    mut supervisor: Supervisor,
    board: Arc<Board>,
    kernel: Kernel,
    spool: Spool,
    uploads: mpsc::Sender<Ask>,
) {
    task::spawn(supervisor.patient_pulse("upload").relay(move || {
        let uploads = uploads.clone();
        async move {
            let (reply, answer) = oneshot::channel();
            uploads.send(Ask::Ping { reply }).await.is_ok() && answer.await.is_ok()
        }
    }));
    task::spawn(supervisor.pulse("kernel").relay(move || {
        let kernel = kernel.clone();
        async move { kernel.ping().await }
    }));
    task::spawn(supervisor.patient_pulse("spool").relay(move || {
        let spool = spool.clone();
        async move { spool.ping().await }
    }));
    if timeout(GUARDED_WITHIN, board.settled()).await.is_err() {
        warn!(waited_s = GUARDED_WITHIN.as_secs(), "ready, though the eBPF programs are not attached yet");
    }
    info!(gateway = %board.gateway(), version = env!("CARGO_PKG_VERSION"), "ready");
    supervisor.run(move || board.snapshot()).await;
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

    async fn next(&mut self, pulse: &mut Pulse) -> Event {
        loop {
            select! {
                _ = self.hangup.recv() => return Event::Reload,
                _ = self.terminate.recv() => return Event::Stop,
                _ = self.interrupt.recv() => return Event::Stop,
                () = pulse.asked() => {}
            }
        }
    }
}
