//! The built daemon, with folders of its own.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    Mounts, Netns, Process, Scratch, eventually,
    faults::{Disk, MemoryGroup, Syscalls},
    process,
};

/// How a daemon is to run.
#[derive(Debug, Default)]
pub struct DaemonBuilder {
    config: String,
    mqtt: String,
    namespace: Option<Netns>,
    disk: Option<Disk>,
    mounts: Option<Mounts>,
    refused: Option<Syscalls>,
    memory: Option<MemoryGroup>,
    unprivileged: bool,
    nameless: bool,
    upload: Option<String>,
    log: Option<&'static str>,
    environment: Vec<(OsString, OsString)>,
}

impl DaemonBuilder {
    /// Tables of the configuration besides those that the builder writes: `[gateway]`, `[mqtt]` and `[log]`. The
    /// shipped file is below them.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// The broker, plain, on a port of the loopback that the daemon sees.
    #[must_use]
    pub fn broker(self, port: u16) -> Self {
        self.mqtt(&format!("url = \"mqtt://127.0.0.1:{port}\""))
    }

    /// Lines of `[mqtt]`.
    #[must_use]
    pub fn mqtt(mut self, lines: &str) -> Self {
        self.mqtt.push_str(lines);
        self.mqtt.push('\n');
        self
    }

    /// Lines of `[upload]` beside the outbox, which is a folder of its own, and without waits that only keep many
    /// gateways apart.
    #[must_use]
    pub fn upload(mut self, lines: &str) -> Self {
        self.upload = Some(lines.to_owned());
        self
    }

    /// Inside a network namespace.
    #[must_use]
    pub fn inside(mut self, namespace: &Netns) -> Self {
        self.namespace = Some(namespace.clone());
        self
    }

    /// With its state on a disk of its own.
    #[must_use]
    pub fn on(mut self, disk: &Disk) -> Self {
        self.disk = Some(disk.clone());
        self
    }

    /// With these mounts; not together with a disk, which brings its own.
    #[must_use]
    pub fn mounts(mut self, mounts: &Mounts) -> Self {
        self.mounts = Some(mounts.clone());
        self
    }

    /// Without some system calls.
    #[must_use]
    pub const fn refused(mut self, refused: Syscalls) -> Self {
        self.refused = Some(refused);
        self
    }

    /// With no more memory than this.
    #[must_use]
    pub fn within(mut self, memory: &MemoryGroup) -> Self {
        self.memory = Some(memory.clone());
        self
    }

    /// As `nobody`, where the test runs as root.
    #[must_use]
    pub const fn unprivileged(mut self) -> Self {
        self.unprivileged = true;
        self
    }

    /// Without a name in its configuration: something else names it.
    #[must_use]
    pub const fn nameless(mut self) -> Self {
        self.nameless = true;
        self
    }

    /// What it logs; `debug` where this is not called.
    #[must_use]
    pub const fn log(mut self, filter: &'static str) -> Self {
        self.log = Some(filter);
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// Starts it and waits until it answers on its control socket.
    ///
    /// # Panics
    ///
    /// Where it does not answer within 10 seconds, with its log.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Daemon {
        let mut daemon = self.prepare();
        daemon.start_again();
        daemon
    }

    /// Makes its folders and its configuration without starting it.
    ///
    /// # Panics
    ///
    /// Where it has not been built.
    #[must_use]
    #[track_caller]
    pub fn prepare(self) -> Daemon {
        let scratch = Scratch::new("daemon");
        let state = self.disk.as_ref().map_or_else(|| scratch.path().join("state"), |disk| disk.path().to_owned());
        let runtime = scratch.path().join("run");
        let outbox = scratch.path().join(OUTBOX);
        for folder in [&state, &runtime, &outbox] {
            std::fs::create_dir_all(folder).expect("the folder is ours");
            if self.unprivileged {
                process::give_to_nobody(folder);
            }
        }
        let mut program = process::built("tidegate", "TIDEGATE_BIN");
        if self.unprivileged {
            // Home folders are closed to others, so that `nobody` could not run it from where it was built.
            let copy = scratch.path().join("tidegate");
            std::fs::copy(&program, &copy).expect("room for a copy of the daemon");
            program = copy;
        }
        let config = scratch.write("tidegate.toml", SHIPPED);
        std::fs::create_dir(scratch.path().join("conf.d")).expect("the folder is ours");
        let daemon = Daemon { process: None, config, state, runtime, program, how: self, scratch };
        daemon.write_overrides();
        daemon
    }
}

/// The configuration that users get.
const SHIPPED: &str = include_str!("../../daemon/tidegate.toml");

/// Folder for what is to be uploaded.
const OUTBOX: &str = "outbox";
/// Most that the daemon takes to answer one line on its control socket.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Gateway id of every daemon under test.
const GATEWAY: &str = "gw-test";

/// A daemon under test. Killed when dropped; its log is printed where the test fails.
#[derive(Debug)]
pub struct Daemon {
    // Dropped before the folders that it writes to.
    process: Option<Process>,
    config: PathBuf,
    state: PathBuf,
    runtime: PathBuf,
    program: PathBuf,
    how: DaemonBuilder,
    scratch: Scratch,
}

impl Daemon {
    /// One that is to be described.
    #[must_use]
    pub fn builder() -> DaemonBuilder {
        DaemonBuilder::default()
    }

    /// Its gateway id.
    #[must_use]
    pub const fn id(&self) -> &'static str {
        GATEWAY
    }

    /// Its topic `ROOT/ID/BELOW`.
    #[must_use]
    pub fn topic(&self, below: &str) -> String {
        format!("tidegate/v1/{GATEWAY}/{below}")
    }

    /// Configuration file.
    #[must_use]
    pub fn config_file(&self) -> &Path {
        &self.config
    }

    /// Delivers to another port of the loopback from its next start on.
    pub fn deliver_to(&mut self, port: u16) {
        self.how.mqtt = format!("url = \"mqtt://127.0.0.1:{port}\"\n");
        self.write_overrides();
    }

    fn write_overrides(&self) {
        let DaemonBuilder { mqtt, config, log, nameless, upload, .. } = &self.how;
        let log = log.unwrap_or("debug");
        let name = if *nameless { String::new() } else { format!("[gateway]\nid = \"{GATEWAY}\"\n\n") };
        let outbox = self.outbox();
        let upload = upload.as_ref().map_or_else(String::new, |lines| {
            format!("[upload]\noutbox = [\"{}\"]\nsplay = \"0s\"\nsettle = \"1s\"\n{lines}\n\n", outbox.display())
        });
        let overrides = format!("{name}[mqtt]\n{mqtt}\n[log]\nfilter = \"{log}\"\n\n{upload}{config}");
        self.scratch.write("conf.d/test.toml", overrides);
    }

    /// A folder for the test's own files beside the daemon's.
    #[must_use]
    pub const fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// `$STATE_DIRECTORY`, inside the daemon's mounts.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Where files are put that are to be uploaded.
    #[must_use]
    pub fn outbox(&self) -> PathBuf {
        self.scratch.path().join(OUTBOX)
    }

    /// Writes a file of `conf.d` that comes after the others, in the place of what was written so before, and has all of
    /// them read.
    ///
    /// # Panics
    ///
    /// Where it does not run.
    #[track_caller]
    pub fn reconfigure(&mut self, toml: &str) {
        self.scratch.write("conf.d/zz.toml", toml);
        self.running().signal(Signal::HUP);
    }

    /// Asks on the control socket; the first line of the answer.
    ///
    /// # Panics
    ///
    /// Where it is not running, or answers no JSON within 10 seconds.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "some requests are made for their effect")]
    pub fn ask(&self, request: &Value) -> Value {
        let mut stream = UnixStream::connect(self.runtime.join("control.sock")).expect("the daemon listens");
        stream.set_read_timeout(Some(ANSWERS_WITHIN)).expect("a socket can be given a time");
        writeln!(stream, "{request}").expect("the daemon reads");
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).expect("the daemon answers");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }

    /// The spool's folder.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.state.join("spool")
    }

    /// Ingest socket.
    #[must_use]
    pub fn ingest_socket(&self) -> PathBuf {
        self.runtime.join("ingest.sock")
    }

    /// Starts it, also after it was killed or stopped, and waits until it answers on its control socket.
    ///
    /// # Panics
    ///
    /// Where it does not answer within 10 seconds, with its log.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.start_only();
        let what = "the daemon answers on its control socket";
        eventually(Duration::from_secs(10), what, || {
            if let Some(status) = self.running().exited() {
                panic!("the daemon ended at its start: {status}");
            }
            self.try_status()
        });
    }

    /// Starts it without waiting for anything.
    #[track_caller]
    pub fn start_only(&mut self) {
        let mut command = self.command(&["run"]);
        command.arg("--config").arg(&self.config);
        if let Some(namespace) = &self.how.namespace {
            namespace.confine(&mut command);
        }
        if let Some(disk) = &self.how.disk {
            disk.confine(&mut command);
        }
        if let Some(mounts) = &self.how.mounts {
            mounts.confine(&mut command);
        }
        if let Some(memory) = &self.how.memory {
            memory.confine(&mut command);
        }
        if self.how.unprivileged {
            process::run_as_nobody(&mut command);
        }
        if let Some(refused) = self.how.refused {
            refused.refuse(&mut command);
        }
        self.process = Some(Process::start("tidegate", command));
    }

    /// A command of its program, with its folders: `daemon.command(&["status"])`.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env_remove("NOTIFY_SOCKET")
            .env("STATE_DIRECTORY", &self.state)
            .env("RUNTIME_DIRECTORY", &self.runtime)
            .envs(self.how.environment.iter().map(|(key, value)| (key, value)));
        command
    }

    /// `tidegate status --json`.
    ///
    /// # Panics
    ///
    /// Where it is not running, or answers no JSON.
    #[must_use]
    #[track_caller]
    pub fn status(&self) -> Value {
        self.try_status().unwrap_or_else(|error| panic!("tidegate status: {error}"))
    }

    /// Waits until its own messages come back from the broker, and it has read what is desired: a request before that may
    /// find no subscriber.
    ///
    /// # Panics
    ///
    /// Where that takes more than 30 seconds.
    #[track_caller]
    pub fn until_connected(&self) {
        eventually(Duration::from_secs(30), "the daemon is connected", || {
            let uplink = &self.status()["uplink"];
            let listens = uplink["state"] == "connected" && uplink["desired_read"] == true;
            if listens { Ok(()) } else { Err(uplink.to_string()) }
        });
    }

    fn try_status(&self) -> Result<Value, String> {
        let output = self.command(&["status", "--json"]).output().map_err(|error| error.to_string())?;
        // 1 is "degraded": an answer all the same.
        if !matches!(output.status.code(), Some(0 | 1)) {
            return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("{error} in {:?}", String::from_utf8_lossy(&output.stdout)))
    }

    /// What it logged since it was last started.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.process.as_ref().map(Process::output).unwrap_or_default()
    }

    /// Waits for a line of its log that holds `text`.
    ///
    /// # Panics
    ///
    /// Where none comes in time.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str, deadline: Duration) {
        let _line = self.process.as_ref().expect("the daemon runs").wait_for_line(text, deadline);
    }

    /// The running process.
    ///
    /// # Panics
    ///
    /// Where it was not started.
    #[track_caller]
    pub fn running(&mut self) -> &mut Process {
        self.process.as_mut().expect("the daemon runs")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.take();
    }

    /// SIGTERM; returns how it ended and how long that took. The log stays readable.
    ///
    /// # Panics
    ///
    /// Where it has not ended by the deadline.
    #[track_caller]
    pub fn stop(&mut self, deadline: Duration) -> (ExitStatus, Duration) {
        self.running().stop(deadline)
    }
}
