//! Opening a spool: the folder, the lock, the backend, the thread.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read as _},
    ops::ControlFlow,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    thread,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use tidegate_storage::{Backend, block_on, choose, probe_direct};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};
use tracing::{error, info, warn};

use crate::{
    api::{AppendError, Command, LaneOptions, OpenError, Options, Recovery, Spool, Stats},
    engine::{Engine, Entropy, MAX_COMMANDS, payload_limit},
    fault::{At as _, Fault},
    format::{BLOCK_BYTES, MAX_LANE_NAME, MAX_LANES},
};

/// Stack of the spool's thread; what is large is on the heap.
const STACK_BYTES: usize = 256 * 1024;

type Opened = oneshot::Sender<Result<Recovery, OpenError>>;

/// Between two attempts to open a spool that was not to be had: soon, then ever less often.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

impl Spool {
    /// Opens the spool in `options.dir`, or makes it, and starts its thread.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. Damaged files are no error: they are set aside, see [`Recovery`].
    pub async fn open(options: Options) -> Result<(Self, Recovery), OpenError> {
        let (spool, opened) = Self::spawn(options, false).await?;
        opened.map(|recovery| (spool, recovery))
    }

    /// The same for a daemon that must not end because of its disk: where the system refuses the folder now, the
    /// handle comes all the same, appends are answered [`AppendError::Paused`] with the reason (it is in
    /// [`Stats::paused`], too), and it is tried again until it opens.
    ///
    /// # Errors
    ///
    /// What waiting does not mend: every [`OpenError`] but [`OpenError::Io`].
    pub async fn start(options: Options) -> Result<Self, OpenError> {
        match Self::spawn(options, true).await? {
            (spool, Ok(_) | Err(OpenError::Io { .. })) => Ok(spool),
            (_, Err(error)) => Err(error),
        }
    }

    async fn spawn(options: Options, patient: bool) -> Result<(Self, Result<Recovery, OpenError>), OpenError> {
        check(&options)?;
        let (commands, queue) = mpsc::channel(MAX_COMMANDS);
        let (stats_sender, stats) = watch::channel(Stats::default());
        let (opened, answer) = oneshot::channel();
        let dir = options.dir.clone();
        let desk = Desk { queue, stats: stats_sender, opened: Some(opened), patient };
        thread::Builder::new()
            .name("spool".into())
            .stack_size(STACK_BYTES)
            .spawn(move || run(&options, desk))
            .at("spawn the thread of", &dir)?;
        // The thread answers unless it panicked.
        let ended = || Fault { call: "run the thread of", path: dir, source: io::ErrorKind::BrokenPipe.into() };
        let opened = answer.await.map_err(|_| ended())?;
        Ok((Self { commands, stats }, opened))
    }
}

/// What the thread and its callers share, from one attempt to open to the next.
struct Desk {
    queue: mpsc::Receiver<Command>,
    stats: watch::Sender<Stats>,
    /// Who waits for the first attempt.
    opened: Option<Opened>,
    /// Whether a refusal of the system is waited out.
    patient: bool,
}

/// Whether the options can be served.
fn check(options: &Options) -> Result<(), OpenError> {
    let refuse = |reason: String| Err(OpenError::Options(reason));
    let name_ok = |lane: &LaneOptions| {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        (1..=MAX_LANE_NAME).contains(&lane.name.len()) && lane.name.bytes().all(allowed) && lane.name != "quarantine"
    };
    if options.lanes.is_empty() || options.lanes.len() > MAX_LANES {
        return refuse(format!("{} lanes, a spool has 1 to {MAX_LANES}", options.lanes.len()));
    }
    if let Some(lane) = options.lanes.iter().find(|lane| !name_ok(lane)) {
        return refuse(format!("lane name {:?}, wanted [a-z0-9_-]{{1,{MAX_LANE_NAME}}} and not quarantine", lane.name));
    }
    let mut names: Vec<&str> = options.lanes.iter().map(|lane| lane.name.as_str()).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    if names.len() < count {
        return refuse("two lanes have the same name".into());
    }
    let size = options.segment_size_bytes;
    if !size.is_multiple_of(BLOCK_BYTES) || payload_limit(size) == 0 || size > u64::from(u32::MAX) {
        return refuse(format!("segments of {size} bytes, wanted 20 KiB to 4 GiB in whole blocks of 4 KiB"));
    }
    // With every lane writing one segment there must be one more to turn over.
    let least = size.saturating_mul(options.lanes.len() as u64 + 1);
    if options.max_size_bytes < least {
        return refuse(format!(
            "max_size is {} bytes, {} lanes with segments of {size} bytes need {least} at least",
            options.max_size_bytes,
            options.lanes.len(),
        ));
    }
    Ok(())
}

/// The thread: lock, choose, serve; where that is not to be had, wait and try again.
fn run(options: &Options, mut desk: Desk) {
    let mut retry = FIRST_RETRY;
    loop {
        let error = match attempt(options.clone(), &mut desk) {
            Ok(Some(reply)) => {
                let _caller_gone = reply.send(());
                return;
            }
            Ok(None) => return,
            Err(error) => error,
        };
        let reason = error.to_string();
        let waits = desk.patient && matches!(error, OpenError::Io { .. } | OpenError::Locked(_));
        match desk.opened.take() {
            // The first attempt: another process that has the lock will not go away by itself.
            Some(opened) => {
                let waits = waits && !matches!(error, OpenError::Locked(_));
                let caller_gone = opened.send(Err(error)).is_err();
                if !waits || caller_gone {
                    return;
                }
                error!(%reason, "the spool cannot be opened; nothing is accepted until it can");
            }
            None if !waits => return,
            None => {}
        }
        desk.stats.send_modify(|stats| {
            stats.paused = Some(reason.clone());
            stats.max_size_bytes = options.max_size_bytes;
        });
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
        if runtime.block_on(refuse_for(retry, &mut desk.queue, &reason)).is_break() {
            return;
        }
        retry = (retry * 2).min(LAST_RETRY);
    }
}

/// Answers what comes while there is no spool.
async fn refuse_for(time: Duration, queue: &mut mpsc::Receiver<Command>, reason: &str) -> ControlFlow<()> {
    let until = Instant::now() + time;
    loop {
        // Who no longer waits for an answer needs none.
        match timeout_at(until, queue.recv()).await {
            Err(_elapsed) => return ControlFlow::Continue(()),
            Ok(None) => return ControlFlow::Break(()),
            Ok(Some(Command::Append { reply, .. })) => {
                let _ = reply.send(Err(AppendError::Paused(reason.to_owned())));
            }
            Ok(Some(Command::Read { reply, .. })) => {
                let _ = reply.send(Ok(Vec::new()));
            }
            Ok(Some(Command::Losses { reply })) => {
                let _ = reply.send(Vec::new());
            }
            Ok(Some(Command::Acknowledge { .. } | Command::LossesReported { .. })) => {}
            Ok(Some(Command::Ping { reply })) => {
                let _ = reply.send(());
            }
            Ok(Some(Command::Close { reply })) => {
                let _ = reply.send(());
                return ControlFlow::Break(());
            }
        }
    }
}

/// One attempt to open and, where it succeeds, the whole service. Returns whom to tell that it is over.
fn attempt(mut options: Options, desk: &mut Desk) -> Result<Option<oneshot::Sender<()>>, OpenError> {
    // Held until the service is over.
    let (_lock, backend) = prepare(&mut options, &desk.stats)?;
    let entropy = entropy().at("read", Path::new("/dev/urandom"))?;
    let dir = options.dir.clone();
    block_on(backend, serve(backend, options, entropy, desk)).at("start a runtime for", &dir)?
}

/// Opens on a backend, says how that went, and serves.
async fn serve(
    backend: Backend,
    options: Options,
    entropy: Entropy,
    desk: &mut Desk,
) -> Result<Option<oneshot::Sender<()>>, OpenError> {
    let (engine, recovery) = Engine::open(backend, options, entropy, desk.stats.clone()).await?;
    if let Some(opened) = desk.opened.take() {
        let _caller_gone = opened.send(Ok(recovery));
    } else {
        info!(pending_records = recovery.pending_records, "the spool is open now");
    }
    // Without a handle this returns at once, in good order.
    Ok(engine.run(&mut desk.queue).await)
}

/// Folder, lock and choice of backend. The lock is held as long as the file is.
fn prepare(options: &mut Options, stats: &watch::Sender<Stats>) -> Result<(File, Backend), OpenError> {
    let dir = &options.dir;
    if !dir.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).at("mkdir", dir)?;
        // The spool's own name has to survive a power cut, too.
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).at("fsync", parent)?;
    }
    let path = dir.join("lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).at("open", &path)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::Locked(dir.clone())),
        Err(error) => return Err(io::Error::from(error)).at("flock", &path).map_err(Into::into),
    }
    let mut reasons = Vec::new();
    let chosen = choose(options.io).map_err(|reason| OpenError::UringUnavailable(reason.to_string()))?;
    if let Some(reason) = chosen.reason {
        warn!(%reason, "io_uring is not available, the spool uses threads");
        reasons.push(format!("io_uring: {reason}"));
    }
    if options.direct
        && let Err(reason) = probe_direct(dir).at("open", dir)?
    {
        warn!(%reason, "the spool uses buffered files");
        reasons.push(reason);
        options.direct = false;
    }
    let backend = chosen.backend;
    info!(?backend, direct = options.direct, dir = %dir.display(), "spool");
    if !reasons.is_empty() {
        stats.send_modify(|stats| stats.io_reason = Some(reasons.join("; ")));
    }
    Ok((lock, backend))
}

/// Epoch and salts from the kernel. `/dev/urandom` never blocks: at an early boot without saved entropy, waiting
/// would cost more than a salt that is easier to guess.
fn entropy() -> io::Result<Entropy> {
    let mut epoch = [0; 16];
    let mut seed = [0; 8];
    let mut source = File::open("/dev/urandom")?;
    source.read_exact(&mut epoch)?;
    source.read_exact(&mut seed)?;
    // Version 4, variant 1 (RFC 9562, section 5.4).
    epoch[6] = epoch[6] & 0x0f | 0x40;
    epoch[8] = epoch[8] & 0x3f | 0x80;
    Ok(Entropy { epoch, salts: fastrand::Rng::with_seed(u64::from_le_bytes(seed)) })
}
