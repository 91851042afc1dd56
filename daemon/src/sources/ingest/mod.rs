//! The ingest socket: local programs hand over records, and are told when each is on disk.
//!
//! `/run/tidegate/ingest.sock`, a Unix stream socket; the protocol is in `docs/ingest.md`.
//!
//! # Bounds
//!
//! The socket is open to every program of a group, so nothing that one of them does may cost the gateway more
//! than this, or disturb the others:
//!
//! - [`MAX_CONNECTIONS`] at a time, fewer where the limit on open files asks for it; the next is told `busy` and closed.
//! - An idle connection has no buffer. One that sends has 4 KiB, its records as much again, and their answers up to
//!   8 KiB: 1,024 × 16 KiB are 16 MiB at the very worst. Longer lines and bulk need one of 64 large buffers:
//!   64 × (2 × 68 + 32) KiB are 10.5 MiB. A client that wants one when none is free waits for it; those with short
//!   lines do not.
//! - At most 256 lines are one batch: one commit, one write of answers.
//! - A line must end within 30 s of its first byte, answers must be read within 30 s; silence between lines is free.
//! - 32 names, each a stream of the spool.

mod client;
mod lines;
mod names;
mod protocol;
mod status;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    client::{LARGE_BUFFERS, Shared},
    protocol::{Kind, Refusal},
};
use super::Sink;
use crate::{
    local_socket::{self, SocketError},
    paths,
    supervisor::Pulse,
    task,
};

pub use self::{
    names::NameCounts,
    protocol::{MAX_LINE_BYTES, is_name},
    status::{IngestStatus, Refused},
};

/// Group whose members may hand over records.
const GROUP: &str = "tidegate-ingest";
/// Lines that a client may send before it reads their answers, and lines of one commit.
pub const MAX_UNANSWERED: usize = 256;
/// Connections at a time. A gateway has a handful of programs; a thousand leaves room for one connection a record.
pub const MAX_CONNECTIONS: usize = 1_024;
/// Rest after a failed `accept`: out of file descriptors or memory, which passes when something closes.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Least time between two publications of the status.
const STATUS_REST: Duration = Duration::from_millis(250);
/// What connections have to end in when the daemon stops, of the 5 s that it has for everything.
const DRAIN_DEADLINE: Duration = Duration::from_secs(1);

/// `ingest.sock` in the daemon's runtime directory.
#[must_use]
pub fn default_path() -> PathBuf {
    paths::runtime_dir().join("ingest.sock")
}

/// The open socket.
#[derive(Debug)]
pub struct Ingest {
    listener: UnixListener,
    path: PathBuf,
    max_connections: usize,
}

/// Listens at `path`; a runtime must be running.
///
/// # Errors
///
/// [`SocketError`]; nothing was changed in the file system, but that a missing folder may have been made.
pub fn bind(path: &Path) -> Result<Ingest, SocketError> {
    Ok(Ingest {
        listener: local_socket::listen(path, GROUP)?,
        path: path.to_owned(),
        max_connections: connection_limit(),
    })
}

/// Serves until `shutdown`. Commits that are under way are finished and answered; lines that arrive later are
/// answered `busy`.
pub async fn run(
    ingest: Ingest,
    sink: Sink,
    status: watch::Sender<IngestStatus>,
    mut pulse: Pulse,
    shutdown: CancellationToken,
) {
    let shared = Arc::new(Shared {
        ledger: Mutex::default(),
        sink,
        large_buffers: Semaphore::new(LARGE_BUFFERS),
        changed: Notify::new(),
    });
    status.send_modify(|status| {
        status.socket = Some(ingest.path.display().to_string());
        status.max_connections = ingest.max_connections;
    });
    tokio::select! {
        () = publish(&shared, &status) => {}
        () = ingest.accept(&shared, &status, &mut pulse, &shutdown) => {}
    }
    shared.fill(&status);
    let _already_gone = std::fs::remove_file(&ingest.path);
}

impl Ingest {
    async fn accept(
        &self,
        shared: &Arc<Shared>,
        status: &watch::Sender<IngestStatus>,
        pulse: &mut Pulse,
        shutdown: &CancellationToken,
    ) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = pulse.asked() => continue,
                Some(_ended) = clients.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((socket, _)) if clients.len() >= self.max_connections => {
                        turn_away(socket, self.max_connections);
                        status.send_modify(|status| status.turned_away += 1);
                    }
                    Ok((socket, _)) => {
                        clients.spawn(task::boxed(client::serve(socket, Arc::clone(shared), shutdown.clone())));
                        status.send_modify(|status| status.connected += 1);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accepting an ingest connection failed; trying again");
                        sleep(ACCEPT_REST).await;
                    }
                }
            }
            status.send_if_modified(|status| {
                status.connections = clients.len();
                false
            });
            shared.changed.notify_one();
        }
        let drained = timeout(DRAIN_DEADLINE, async { while clients.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::debug!(connections = clients.len(), "ingest connections did not end in time");
            clients.shutdown().await;
        }
        status.send_modify(|status| status.connections = 0);
    }
}

/// Publishes what changed, a few times a second at most, and not at all while nothing happens.
async fn publish(shared: &Shared, status: &watch::Sender<IngestStatus>) {
    loop {
        shared.changed.notified().await;
        shared.fill(status);
        sleep(STATUS_REST).await;
    }
}

impl Shared {
    fn fill(&self, status: &watch::Sender<IngestStatus>) {
        status.send_modify(|status| {
            self.with_ledger(|ledger| {
                status.accepted = ledger.accepted;
                status.refused = ledger.refused;
                status.cut_off = ledger.cut_off;
                status.names = ledger.names.counts();
            });
        });
    }
}

/// Half of the files that the process may open, so that connections never keep the spool from its files. The
/// soft limit is raised for it: systemd leaves it at 1,024 for programs that use `select`, which this one does not.
fn connection_limit() -> usize {
    let limits = getrlimit(Resource::Nofile);
    let wanted = limits.maximum.unwrap_or(u64::MAX).min(2 * MAX_CONNECTIONS as u64);
    if limits.current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limits.maximum })
    {
        tracing::debug!(%error, wanted, "the limit on open files stays");
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files / 2).unwrap_or(usize::MAX).min(MAX_CONNECTIONS)
}

fn turn_away(socket: UnixStream, limit: usize) {
    let mut answer = String::new();
    protocol::answer_refusal(&mut answer, &Refusal::new(Kind::Busy, format!("{limit} connections are open"), None));
    // A new socket's buffer is empty, so this does not block, and a client that is gone misses nothing.
    let _gone: io::Result<()> = socket.into_std().and_then(|mut socket| socket.write_all(answer.as_bytes()));
}

#[cfg(test)]
mod tests;
