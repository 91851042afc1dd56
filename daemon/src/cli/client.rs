//! Asks a running daemon over its control socket.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

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
    /// Sends a request; the answer is read line by line.
    pub(super) fn ask(&self, get: Get) -> Result<impl Iterator<Item = io::Result<String>> + use<>, AskError> {
        let path = self.socket.clone().unwrap_or_else(control_socket::default_path);
        let failed = |source| AskError { path: path.clone(), source };
        let mut stream = UnixStream::connect(&path).map_err(failed)?;
        let patience = Some(Duration::from_secs(10));
        stream.set_read_timeout(patience).and_then(|()| stream.set_write_timeout(patience)).map_err(failed)?;
        let request = serde_json::to_string(&Request { get }).map_err(|error| failed(error.into()))?;
        writeln!(stream, "{request}").map_err(failed)?;
        Ok(BufReader::new(stream).lines())
    }
}

/// The daemon cannot be asked.
#[derive(Debug)]
pub(super) struct AskError {
    path: PathBuf,
    source: io::Error,
}

impl AskError {
    /// Says what to do, and gives the exit status.
    pub(super) fn report(&self) -> ExitCode {
        let path = self.path.display();
        match self.source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                eprintln!(
                    "tidegate is not running: nothing answers on {path}\n  \
                     start it: tidegate run"
                );
                ExitCode::from(NOT_RUNNING)
            }
            io::ErrorKind::PermissionDenied => {
                eprintln!("no permission to ask on {path}\n  become a member of the group tidegate, or use sudo");
                ExitCode::FAILURE
            }
            _ => {
                eprintln!("asking on {path}: {}", self.source);
                ExitCode::FAILURE
            }
        }
    }
}
