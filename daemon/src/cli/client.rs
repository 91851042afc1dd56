//! Asks a running daemon over its control socket.

use std::{
    fmt,
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};

use super::table::printable;
use crate::{
    cli::NOT_RUNNING,
    control_socket::{self, Get, Request},
};

/// Where the daemon listens.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SocketArg {
    /// The daemon's control socket [default: `control.sock` in `$RUNTIME_DIRECTORY` or `/run/tidegate`]
    #[arg(long, value_name = "SOCKET")]
    socket: Option<PathBuf>,
}

impl SocketArg {
    /// Asks for something; the answer is read line by line.
    pub(super) fn ask(&self, get: Get) -> Result<impl Iterator<Item = io::Result<String>> + use<>, AskError> {
        self.send(&Request::Get(get), &[])
    }

    /// That asking failed, for this reason.
    pub(super) fn failed(&self, source: io::Error) -> AskError {
        AskError { path: self.path(), source }
    }

    fn path(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(control_socket::default_path)
    }

    /// Sends a request, and what belongs behind it.
    fn send(
        &self,
        request: &Request,
        behind: &[u8],
    ) -> Result<impl Iterator<Item = io::Result<String>> + use<>, AskError> {
        let failed = |source| self.failed(source);
        let mut stream = UnixStream::connect(self.path()).map_err(failed)?;
        let patience = Some(Duration::from_secs(10));
        stream.set_read_timeout(patience).and_then(|()| stream.set_write_timeout(patience)).map_err(failed)?;
        let request = serde_json::to_string(request).map_err(|error| failed(error.into()))?;
        writeln!(stream, "{request}").and_then(|()| stream.write_all(behind)).map_err(failed)?;
        Ok(BufReader::new(stream).lines())
    }

    /// Asks for something that is one line.
    pub(super) fn ask_one<T: DeserializeOwned>(&self, get: Get) -> Result<T, AskError> {
        self.change(&Request::Get(get), &[])
    }

    /// Sends a request that is answered with one line, and what belongs behind it.
    pub(super) fn change<T: DeserializeOwned>(&self, request: &Request, behind: &[u8]) -> Result<T, AskError> {
        let failed = |source| self.failed(source);
        let closed = || failed(io::Error::other("closed without an answer; too many clients are connected"));
        let line = self.send(request, behind)?.next().ok_or_else(closed)?.map_err(failed)?;
        if let Ok(Refusal { error }) = serde_json::from_str(&line) {
            return Err(failed(io::Error::other(printable(&error))));
        }
        serde_json::from_str(&line).map_err(|error| failed(error.into()))
    }
}

/// What the daemon answers to a request that it does not know: an older one, asked for something new.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// The daemon cannot be asked.
#[derive(Debug)]
pub(super) struct AskError {
    path: PathBuf,
    source: io::Error,
}

impl std::error::Error for AskError {}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        if self.is_not_running() {
            write!(f, "tidegate is not running: nothing answers on {path}")
        } else if self.source.kind() == io::ErrorKind::PermissionDenied {
            write!(f, "no permission to ask on {path}")
        } else {
            write!(f, "asking on {path}: {}", self.source)
        }
    }
}

impl AskError {
    /// Whether nobody listens.
    pub(super) fn is_not_running(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    }

    /// Whether we are not let in.
    pub(super) fn is_not_permitted(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }

    /// Says what to do, and gives the exit status.
    pub(super) fn report(&self) -> ExitCode {
        eprintln!("{self}");
        match self.source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                eprintln!("  start it: systemctl start tidegate (or tidegate run)");
                ExitCode::from(NOT_RUNNING)
            }
            io::ErrorKind::PermissionDenied => {
                eprintln!("  become a member of the group tidegate, or use sudo");
                ExitCode::FAILURE
            }
            _ => ExitCode::FAILURE,
        }
    }
}
