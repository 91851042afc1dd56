//! Opening a spool: the folder, the lock, the backend, the thread.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    thread,
};

use rustix::fs::{FlockOperation, flock};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::{
    api::{Command, IoPreference, LaneOptions, OpenError, Options, Recovery, Spool, Stats},
    engine::{Engine, Entropy, MAX_COMMANDS, payload_limit},
    fault::{At as _, Fault},
    format::{BLOCK_BYTES, MAX_LANE_NAME, MAX_LANES},
    storage::{
        Storage, probe_direct,
        threads::Threads,
        uring::{self, Uring},
    },
};

/// Stack of the spool's thread; what is large is on the heap.
const STACK_BYTES: usize = 256 * 1024;

type Opened = oneshot::Sender<Result<Recovery, OpenError>>;

impl Spool {
    /// Opens the spool in `options.dir`, or makes it, and starts its thread.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. Damaged files are no error: they are set aside, see [`Recovery`].
    pub async fn open(options: Options) -> Result<(Self, Recovery), OpenError> {
        check(&options)?;
        let (commands, queue) = mpsc::channel(MAX_COMMANDS);
        let (stats_sender, stats) = watch::channel(Stats::default());
        let (opened, answer) = oneshot::channel();
        let dir = options.dir.clone();
        thread::Builder::new()
            .name("spool".into())
            .stack_size(STACK_BYTES)
            .spawn(move || run(options, queue, stats_sender, opened))
            .at("spawn the thread of", &dir)?;
        // The thread answers unless it panicked.
        let ended = || Fault { call: "run the thread of", path: dir, source: io::ErrorKind::BrokenPipe.into() };
        let recovery = answer.await.map_err(|_| ended())??;
        Ok((Self { commands, stats }, recovery))
    }
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

/// The thread: lock, choose, serve.
fn run(mut options: Options, queue: mpsc::Receiver<Command>, stats: watch::Sender<Stats>, opened: Opened) {
    let prepared = prepare(&mut options, &stats);
    let (lock, backend) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let _caller_gone = opened.send(Err(error));
            return;
        }
    };
    let entropy = match entropy().at("read", Path::new("/dev/urandom")) {
        Ok(entropy) => entropy,
        Err(fault) => {
            let _caller_gone = opened.send(Err(fault.into()));
            return;
        }
    };
    let closing = match backend {
        Backend::Uring => {
            let mut ring = tokio_uring::builder();
            ring.entries(uring::ENTRIES);
            ring.start(serve(Uring, options, entropy, queue, stats, opened))
        }
        Backend::Threads => match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime.block_on(serve(Threads, options, entropy, queue, stats, opened)),
            Err(source) => {
                let fault = Fault { call: "start a runtime for", path: options.dir, source };
                let _caller_gone = opened.send(Err(fault.into()));
                None
            }
        },
    };
    drop(lock);
    if let Some(reply) = closing {
        let _caller_gone = reply.send(());
    }
}

/// Opens on a backend, says how that went, and serves. Returns whom to tell that it is over.
pub(crate) async fn serve<S: Storage>(
    storage: S,
    options: Options,
    entropy: Entropy,
    queue: mpsc::Receiver<Command>,
    stats: watch::Sender<Stats>,
    opened: Opened,
) -> Option<oneshot::Sender<()>> {
    match Engine::open(storage, options, entropy, stats).await {
        Ok((engine, recovery)) => {
            let _caller_gone = opened.send(Ok(recovery));
            // Without a caller there is no handle either, and this returns at once, in good order.
            engine.run(queue).await
        }
        Err(error) => {
            let _caller_gone = opened.send(Err(error));
            None
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Backend {
    Uring,
    Threads,
}

/// Folder, lock and choice of backend. The lock is held as long as the file is.
fn prepare(options: &mut Options, stats: &watch::Sender<Stats>) -> Result<(File, Backend), OpenError> {
    let dir = &options.dir;
    DirBuilder::new().recursive(true).mode(0o700).create(dir).at("mkdir", dir)?;
    let path = dir.join("lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).at("open", &path)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::Locked(dir.clone())),
        Err(error) => return Err(io::Error::from(error)).at("flock", &path).map_err(Into::into),
    }
    let mut reasons = Vec::new();
    let backend = match (options.io, uring_refusal(options.io)) {
        (IoPreference::Threads, _) => Backend::Threads,
        (_, None) => Backend::Uring,
        (IoPreference::Uring, Some(reason)) => return Err(OpenError::UringUnavailable(reason)),
        (IoPreference::Auto, Some(reason)) => {
            warn!(%reason, "io_uring is not available, the spool uses threads");
            reasons.push(format!("io_uring: {reason}"));
            Backend::Threads
        }
    };
    if options.direct
        && let Err(reason) = probe_direct(dir).at("open", dir)?
    {
        warn!(%reason, "the spool uses buffered files");
        reasons.push(reason);
        options.direct = false;
    }
    info!(?backend, direct = options.direct, dir = %dir.display(), "spool");
    if !reasons.is_empty() {
        stats.send_modify(|stats| stats.io_reason = Some(reasons.join("; ")));
    }
    Ok((lock, backend))
}

fn uring_refusal(preference: IoPreference) -> Option<String> {
    if preference == IoPreference::Threads {
        return None;
    }
    uring::probe().err().map(|error| error.to_string())
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
