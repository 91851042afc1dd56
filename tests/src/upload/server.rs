//! What the servers have in common: a process with a port and a folder of its own, which can be killed, started again,
//! and robbed of what it kept.

use std::{
    collections::BTreeMap,
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::{Process, Scratch, eventually};

/// How one kind of server is run.
pub trait Setup {
    /// Its name in messages.
    const NAME: &'static str;
    /// Part of a line that it writes when it listens.
    const READY: &'static str;

    /// Writes what it reads at its start, and says how it is started. It keeps what it receives in `folder`.
    fn command(&self, folder: &Path, ports: &[u16]) -> Command;

    /// How many ports it listens on.
    fn ports(&self) -> usize {
        1
    }
}

/// A server on ports of the loopback that stay the same across its restarts, with what it received in a folder.
#[derive(Debug)]
pub struct Server<S: Setup> {
    // Dropped before the folder that it writes to.
    process: Option<Process>,
    scratch: Scratch,
    ports: Vec<u16>,
    pub(super) setup: S,
}

/// An upload that the server has not all of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The last part of its URL.
    pub id: String,
    /// Bytes that the server has.
    pub offset: u64,
    /// Bytes that it is to have, where the client has told.
    pub size: Option<u64>,
}

/// Most that a server takes to listen on a busy machine.
const LISTENS_WITHIN: Duration = Duration::from_secs(20);
/// How often a port is chosen anew because another program took it between our look and the server's start.
const PORTS_TRIED: usize = 5;

impl<S: Setup> Server<S> {
    /// Starts it on free ports.
    #[track_caller]
    pub(super) fn launch(setup: S) -> Self {
        let scratch = Scratch::new(S::NAME);
        let mut server = Self { process: None, scratch, ports: Vec::new(), setup };
        fs::create_dir(server.folder()).expect("the folder is ours");
        for _try in 1..PORTS_TRIED {
            server.ports = free_ports(server.setup.ports());
            match server.try_start() {
                Err(said) if said.to_lowercase().contains("address already in use") => {}
                started => return started.map_or_else(|said| panic!("{} ended: {said}", S::NAME), |()| server),
            }
        }
        server.ports = free_ports(server.setup.ports());
        server.start_again();
        server
    }

    /// Starts it again on its ports, with what it has on disk.
    ///
    /// # Panics
    ///
    /// Where it does not listen within 20 seconds.
    #[track_caller]
    pub fn start_again(&mut self) {
        if let Err(said) = self.try_start() {
            panic!("{} ended: {said}", S::NAME);
        }
    }

    /// `Err` has what it wrote before it ended.
    #[track_caller]
    fn try_start(&mut self) -> Result<(), String> {
        let mut process = Process::start(S::NAME, self.setup.command(self.scratch.path(), &self.ports));
        let listens = eventually(LISTENS_WITHIN, &format!("{} listens", S::NAME), || {
            // In this order: one that listened and ended has ended.
            let listens = process.output().iter().any(|line| line.contains(S::READY));
            let ended = process.exited().map(|status| format!("{status}: {}", process.output().join("\n")));
            ended.map(Err).or(listens.then_some(Ok(())))
        });
        self.process = Some(process);
        listens
    }

    /// Its first port on the loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    pub(super) fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// The folder where what it received lies, in its own manner.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        files(self.scratch.path())
    }

    pub(super) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// SIGKILL: what it received and had not written is gone.
    pub fn kill(&mut self) {
        self.process.take();
    }

    /// Makes it forget all that it received, as one does that was restored from nothing. Killed and started again, where
    /// it runs.
    ///
    /// # Panics
    ///
    /// Where its folder cannot be emptied.
    #[track_caller]
    pub fn wipe(&mut self) {
        let runs = self.process.take().is_some();
        let emptied = self.empty();
        emptied.unwrap_or_else(|error| panic!("empty {}: {error}", self.scratch.path().display()));
        if runs {
            self.start_again();
        }
    }

    fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.scratch.path())? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        fs::create_dir(self.folder())
    }

    /// SIGSTOP: connections stay open, nothing is answered.
    ///
    /// # Panics
    ///
    /// Where it does not run.
    #[track_caller]
    pub fn freeze(&self) {
        self.running().freeze();
    }

    /// SIGCONT.
    ///
    /// # Panics
    ///
    /// Where it does not run.
    #[track_caller]
    pub fn thaw(&self) {
        self.running().thaw();
    }

    #[track_caller]
    fn running(&self) -> &Process {
        self.process.as_ref().unwrap_or_else(|| panic!("{} runs", S::NAME))
    }

    /// Process id.
    ///
    /// # Panics
    ///
    /// Where it does not run.
    #[must_use]
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// What it wrote since it was last started, by lines.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.process.as_ref().map(Process::output).unwrap_or_default()
    }
}

/// Where a server with this folder keeps what it receives.
pub(super) fn files(scratch: &Path) -> PathBuf {
    scratch.join("files")
}

/// Different ports on which nobody listens.
fn free_ports(count: usize) -> Vec<u16> {
    // All of them held until the last is found, so that they differ.
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a free port")).collect();
    held.iter().map(|listener| listener.local_addr().expect("a bound socket has an address").port()).collect()
}

/// Where a tus server that is reached at this port of the loopback creates uploads.
pub(super) fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/files")
}

/// Keys with their values; one without a value has an empty one.
pub(super) fn metadata(json: &Value) -> BTreeMap<String, String> {
    let pairs = json.as_object().into_iter().flatten();
    pairs.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}
