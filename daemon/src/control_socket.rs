//! The control socket: how the command line looks into a running daemon.
//!
//! `$RUNTIME_DIRECTORY/control.sock` (else `/run/tidegate/control.sock`), a Unix stream socket, mode 0660,
//! group `tidegate`: a technician needs no root to look.
//!
//! # Protocol
//!
//! A client sends one line and reads JSON lines until the daemon closes. What cannot be understood, or cannot be done, is
//! answered `{"error":"…"}`.
//!
//! | line | answer |
//! |---|---|
//! | `{"get":"status"}`, `{"get":"config"}`, `{"get":"policy"}` | one line |
//! | `{"get":"flows"}` | a line a flow |
//! | `{"get":"rules"}` | a line about the policy in force, then a line a rule |
//! | `{"get":"uploads"}` | a line about outboxes and endpoint, then a line a file: those under way, waiting, parked, and the last that arrived |
//! | `{"get":"bundle"}` | the envelope that is enforced, as it came; nothing where none is |
//! | `{"policy":{"apply":{"bytes":N,"offline":false}}}`, then N bytes of an envelope | `{"source":"device","version":7}`: it is wished for; `{"get":"policy"}` tells what becomes of it |
//! | `{"policy":{"vouch":{"source":"device","version":7}}}` | the same: it is confirmed |
//! | `{"policy":{"open":{"for_s":600}}}`, `{"policy":"close"}` | `{}` |
//! | `{"upload":{"pause":{"for_s":600}}}`, `{"upload":"resume"}` | `{}` |
//! | `{"upload":"retry"}` | `{"files":3}`: so many were parked, and are tried again |
//!
//! What is no `get` changes the daemon. Whoever may write to the socket is at the gateway, and is trusted with that; a
//! bundle counts by its signature, whoever brings it.
//!
//! # Bounds
//!
//! A request has at most 4 KiB and arrives within 5 s, a bundle behind it within 30 s, one at a time; at most 16 clients are served at once, and the next
//! one is closed at once; a client that does not read for 10 s is cut off. Flows, rules and files stream: the answer is never
//! built whole.

mod rules;
mod uploads;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tidegate_upload::{ask, order::Order};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, BufWriter, Take},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    control::{
        link::{MAX_POLICY_BYTES, Source},
        policy::{Ask, MAX_OPEN, Placed},
    },
    local_socket::{self, SocketError},
    paths,
    sources::traffic::{BootClock, Flow},
    status::Board,
    supervisor::Pulse,
    task,
};

pub use self::uploads::UploadRequest;

/// Name of the socket in the runtime directory.
pub const FILE_NAME: &str = "control.sock";

/// Group whose members may look.
const GROUP: &str = "tidegate";
const CLIENTS: usize = 16;
const REQUEST_BYTES: u64 = 4096;
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
const BUNDLE_DEADLINE: Duration = Duration::from_secs(30);

/// What a client may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Get {
    /// One [`crate::status::Status`].
    Status,
    /// The flows in the kernel's table now, one a line.
    Flows,
    /// One [`crate::config::Shown`].
    Config,
    /// One [`crate::control::BundleStatus`].
    Policy,
    /// The envelope that is enforced.
    Bundle,
    /// The policy in force, and its rules with their counters, one a line.
    Rules,
    /// Outboxes, and files on their way, one a line.
    Uploads,
}

/// What a client may do about the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyRequest {
    /// Have a bundle tried; its envelope follows the line.
    Apply {
        /// How long the envelope is.
        bytes: usize,
        /// Without a link: somebody will vouch for it.
        offline: bool,
    },
    /// Confirm what is on trial.
    Vouch {
        /// Whose.
        source: Source,
        /// Which version.
        version: u64,
    },
    /// Let everything pass for a time.
    Open {
        /// Seconds.
        for_s: u64,
    },
    /// No longer.
    Close,
}

/// The request line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Show something.
    Get(Get),
    /// Change the policy.
    Policy(PolicyRequest),
    /// Change what becomes of files.
    Upload(UploadRequest),
}

/// Who is asked for what the board does not show.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Control, about policies.
    pub policy: mpsc::Sender<Ask>,
    /// Uploads, about files.
    pub files: mpsc::Sender<ask::Ask>,
    /// Uploads, to be told what to do; of [`tidegate_upload::order::ORDERS`].
    pub orders: mpsc::Sender<Order>,
}

/// Where the socket is for a daemon that runs as we do.
#[must_use]
pub fn default_path() -> PathBuf {
    paths::runtime_dir().join(FILE_NAME)
}

/// Binds the socket, replacing one that a crashed daemon left behind; a runtime must be running.
///
/// # Errors
///
/// See [`SocketError`].
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    local_socket::listen(path, GROUP)
}

/// Serves clients until `shutdown`; then removes the socket.
pub async fn run(
    listener: UnixListener,
    path: PathBuf,
    board: Arc<Board>,
    parts: Parts,
    mut pulse: Pulse,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            () = pulse.asked() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "control socket: accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::debug!(clients = CLIENTS, "control socket: no place for another client");
            continue;
        };
        let (board, parts) = (Arc::clone(&board), parts.clone());
        task::spawn(async move {
            if let Err(error) = serve(stream, &board, &parts).await {
                tracing::debug!(%error, "control socket: client left early");
            }
            drop(place);
        });
    }
    let _gone = std::fs::remove_file(&path);
}

async fn serve(stream: UnixStream, board: &Board, parts: &Parts) -> io::Result<()> {
    let policy = &parts.policy;
    let (read, write) = stream.into_split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(REQUEST_BYTES));
    timeout(REQUEST_DEADLINE, read.read_line(&mut line)).await??;
    let mut out = BufWriter::new(write);
    match serde_json::from_str::<Request>(&line) {
        Ok(Request::Get(Get::Status)) => send(&mut out, &board.snapshot()).await?,
        Ok(Request::Get(Get::Flows)) => send_flows(&mut out, board).await?,
        Ok(Request::Get(Get::Config)) => send(&mut out, &board.configuration()).await?,
        Ok(Request::Get(Get::Policy)) => send(&mut out, &board.bundles()).await?,
        Ok(Request::Get(Get::Bundle)) => match asked(policy, |reply| Ask::Show { reply }).await {
            Ok(envelope) => {
                timeout(BUNDLE_DEADLINE, out.write_all(&envelope.unwrap_or_default())).await??;
            }
            Err(reason) => send(&mut out, &serde_json::json!({ "error": reason })).await?,
        },
        Ok(Request::Get(Get::Rules)) => rules::send_all(&mut out, board, policy).await?,
        Ok(Request::Get(Get::Uploads)) => uploads::send_all(&mut out, board, &parts.files).await?,
        Ok(Request::Upload(request)) => match uploads::order(request, &parts.orders).await {
            Ok(answer) => send(&mut out, &answer).await?,
            Err(reason) => send(&mut out, &serde_json::json!({ "error": reason })).await?,
        },
        Ok(Request::Policy(request)) => match change(request, &mut read, policy).await? {
            Ok(answer) => send(&mut out, &answer).await?,
            Err(reason) => send(&mut out, &serde_json::json!({ "error": reason })).await?,
        },
        Err(error) => {
            let answer = serde_json::json!({ "error": format!("{error}; a request is {{\"get\":WHAT}}, WHAT \"status\", \"flows\", \"config\", \"policy\", \"bundle\", \"rules\" or \"uploads\", or {{\"policy\":…}}, {{\"upload\":…}}") });
            send(&mut out, &answer).await?;
        }
    }
    timeout(WRITE_DEADLINE, out.shutdown()).await?
}

/// Does what a client asks about the policy; the inner error is for the client.
async fn change(
    request: PolicyRequest,
    read: &mut BufReader<Take<OwnedReadHalf>>,
    policy: &mpsc::Sender<Ask>,
) -> io::Result<Result<serde_json::Value, String>> {
    let placed = |placed: Option<Placed>| serde_json::json!(placed);
    Ok(match request {
        PolicyRequest::Apply { bytes, .. } if bytes > MAX_POLICY_BYTES => {
            Err(format!("too-large: {bytes} bytes, at most {MAX_POLICY_BYTES} are judged"))
        }
        PolicyRequest::Apply { bytes, offline } => {
            // One at a time: a few megabytes are held meanwhile.
            static PLACE: Semaphore = Semaphore::const_new(1);
            let Ok(_place) = PLACE.try_acquire() else {
                return Ok(Err("another bundle is being applied; try again".to_owned()));
            };
            read.get_mut().set_limit(bytes as u64);
            let mut envelope = vec![0; bytes];
            timeout(BUNDLE_DEADLINE, read.read_exact(&mut envelope)).await??;
            asked(policy, |reply| Ask::Apply { envelope: envelope.into(), offline, reply }).await.map(placed)
        }
        PolicyRequest::Vouch { source, version } => {
            asked(policy, |reply| Ask::Vouch { source, version, reply }).await.map(placed)
        }
        PolicyRequest::Open { for_s } if !(1..=MAX_OPEN.as_secs()).contains(&for_s) => {
            Err(format!("for_s: accepted is 1 to {}", MAX_OPEN.as_secs()))
        }
        PolicyRequest::Open { for_s } => {
            let time = Duration::from_secs(for_s);
            asked(policy, |reply| Ask::Open { time, reply }).await.map(|_| serde_json::json!({}))
        }
        PolicyRequest::Close => asked(policy, |reply| Ask::Close { reply }).await.map(|_| serde_json::json!({})),
    })
}

/// Asks control, and waits for its answer.
async fn asked<T>(
    policy: &mpsc::Sender<Ask>,
    ask: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Ask,
) -> Result<T, String> {
    let (reply, answer) = oneshot::channel();
    let stopping = || "the daemon is stopping".to_owned();
    policy.send(ask(reply)).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?
}

/// One line, within the deadline.
async fn send(out: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    timeout(WRITE_DEADLINE, out.write_all(&line)).await?
}

/// The flow table, a chunk at a time: what is in memory is one chunk, whatever the table holds.
async fn send_flows(out: &mut (impl AsyncWrite + Unpin), board: &Board) -> io::Result<()> {
    let names = board.interface_names();
    let clock = BootClock::now();
    let mut from = None;
    loop {
        match board.kernel().peek(from).await {
            Ok(chunk) => {
                for (key, value) in &chunk.flows {
                    let name = names.get(&key.ifindex).map(String::as_str);
                    send(out, &Flow::new(key, value, name, &clock)).await?;
                }
                match chunk.next {
                    Some(next) => from = Some(next),
                    None => return Ok(()),
                }
            }
            Err(error) => return send(out, &serde_json::json!({ "error": error.to_string() })).await,
        }
    }
}
