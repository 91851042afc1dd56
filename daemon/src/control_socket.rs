//! The control socket: how the command line looks into a running daemon.
//!
//! `$RUNTIME_DIRECTORY/control.sock` (else `/run/tidegate/control.sock`), a Unix stream socket, mode 0660,
//! group `tidegate`: a technician needs no root to look.
//!
//! # Protocol
//!
//! A client sends one line, `{"get":"status"}` or `{"get":"flows"}`, and reads JSON lines until the daemon
//! closes. A request that cannot be understood is answered `{"error":"…"}`. Nothing here changes the daemon.
//!
//! # Bounds
//!
//! A request has at most 4 KiB and arrives within 5 s; at most 16 clients are served at once, and the next
//! one is closed at once; a client that does not read for 10 s is cut off. Flows stream: the answer is never
//! built whole.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, BufWriter},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    local_socket::{self, SocketError},
    paths,
    sources::traffic::{BootClock, Flow},
    status::Board,
};

/// Name of the socket in the runtime directory.
pub const FILE_NAME: &str = "control.sock";

/// Group whose members may look.
const GROUP: &str = "tidegate";
const CLIENTS: usize = 16;
const REQUEST_BYTES: u64 = 4096;
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// What a client may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Get {
    /// One [`crate::status::Status`].
    Status,
    /// The flows in the kernel's table now, one a line.
    Flows,
}

/// The request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What to show.
    pub get: Get,
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
pub async fn run(listener: UnixListener, path: PathBuf, board: Arc<Board>, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
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
        let board = Arc::clone(&board);
        tokio::spawn(async move {
            if let Err(error) = serve(stream, &board).await {
                tracing::debug!(%error, "control socket: client left early");
            }
            drop(place);
        });
    }
    let _gone = std::fs::remove_file(&path);
}

async fn serve(stream: UnixStream, board: &Board) -> io::Result<()> {
    let (read, write) = stream.into_split();
    let mut line = String::new();
    timeout(REQUEST_DEADLINE, BufReader::new(read.take(REQUEST_BYTES)).read_line(&mut line)).await??;
    let mut out = BufWriter::new(write);
    match serde_json::from_str::<Request>(&line) {
        Ok(Request { get: Get::Status }) => send(&mut out, &board.snapshot()).await?,
        Ok(Request { get: Get::Flows }) => send_flows(&mut out, board).await?,
        Err(error) => {
            let answer = serde_json::json!({ "error": format!("{error}; a request is {{\"get\":\"status\"}} or {{\"get\":\"flows\"}}") });
            send(&mut out, &answer).await?;
        }
    }
    timeout(WRITE_DEADLINE, out.shutdown()).await?
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
