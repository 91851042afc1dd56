//! Children of a test.

use std::{
    io::{self, BufRead as _, BufReader, Read},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    cleanup::{Guard, Leftover, Registry},
    eventually,
};

/// A running program. It is killed when dropped, and dies with the thread that started it. Its output is
/// kept, and printed where the test fails.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Mutex<Vec<String>>>,
    readers: Vec<thread::JoinHandle<()>>,
    _listed: Guard,
}

/// Lines that are printed of each process when its test fails.
const LINES_AT_FAILURE: usize = 60;
/// Most that a fork takes to its exec on a busy machine.
const SPAWNED_WITHIN: Duration = Duration::from_secs(10);

impl Process {
    /// Starts a command, without input.
    ///
    /// # Panics
    ///
    /// Where it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn start(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: the closure makes one system call, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let mut registry = Registry::hold();
        // A program that was just copied is busy while the child of another thread, forked before the copy was closed,
        // has not come to its exec.
        let spawned = eventually(SPAWNED_WITHIN, name, || match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => Err(error),
            spawned => Ok(spawned),
        });
        let mut child = spawned.unwrap_or_else(|error| panic!("start {name} ({command:?}): {error}"));
        let pid = child.id().cast_signed();
        let listed = registry.add(|| Leftover::Process(pid));
        drop(registry);

        let output = Arc::new(Mutex::new(Vec::new()));
        let readers = [
            child.stdout.take().map(|pipe| collect(pipe, &output)),
            child.stderr.take().map(|pipe| collect(pipe, &output)),
        ];
        Self { name: name.to_owned(), child, output, readers: readers.into_iter().flatten().collect(), _listed: listed }
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far to standard output and error, by lines.
    #[must_use]
    pub fn output(&self) -> Vec<String> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a line that holds `text` and returns it.
    ///
    /// # Panics
    ///
    /// Where none comes in time.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "waiting is the point, the line is extra")]
    pub fn wait_for_line(&self, text: &str, deadline: Duration) -> String {
        eventually(deadline, &format!("{} writes a line with {text:?}", self.name), || {
            self.output().into_iter().find(|line| line.contains(text))
        })
    }

    /// How it ended, where it has.
    ///
    /// # Panics
    ///
    /// Where the system cannot say.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        let _already_gone = self.child.kill();
        let _already_reaped = self.child.wait();
        for reader in self.readers.drain(..) {
            let _panicked = reader.join();
        }
    }

    /// SIGTERM; returns how it ended and how long that took.
    ///
    /// # Panics
    ///
    /// Where it has not ended by the deadline.
    #[track_caller]
    pub fn stop(&mut self, deadline: Duration) -> (ExitStatus, Duration) {
        let started = Instant::now();
        self.signal(Signal::TERM);
        let status = self.wait(deadline);
        (status, started.elapsed())
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// Where it has not ended by the deadline.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        let status = eventually(deadline, &what, || self.exited());
        for reader in self.readers.drain(..) {
            let _panicked = reader.join();
        }
        status
    }

    /// SIGSTOP: alive for the kernel, which goes on acknowledging TCP segments, dead for its peers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends a signal; that the process is gone already is no error.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid().cast_signed()) {
            let _already_gone = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.exited();
        self.kill();
        if thread::panicking() {
            let output = self.output();
            let skipped = output.len().saturating_sub(LINES_AT_FAILURE);
            let how = match ended {
                Some(status) if status.signal().is_some() => "killed",
                Some(_) => "ended",
                None => "ran",
            };
            eprintln!("--- {} ({how}), its last {} lines:", self.name, output.len() - skipped);
            for line in &output[skipped..] {
                eprintln!("    {line}");
            }
        }
    }
}

/// What a process has of memory, in KiB: a line of `/proc/PID/status` (proc(5)), such as `VmRSS` for what is resident.
///
/// # Panics
///
/// Where there is no such process, or no such line.
#[must_use]
#[track_caller]
pub fn memory_kib(pid: u32, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let found = status.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(':')).expect("proc(5) has the line");
    found.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A built program: where `variable` says, or beside the running test (`target/debug/deps/TEST` →
/// `target/debug/NAME`).
#[track_caller]
pub(crate) fn built(name: &str, variable: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let test = std::env::current_exe().expect("/proc is mounted");
    let found = test.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not built: `cargo build -p {name}`, or set {variable}"))
}

/// Whom programs run as that need no privileges: `nobody` and `nogroup`, the same number on every Debian.
const NOBODY: u32 = 65_534;

/// Makes `command` run as `nobody` where this process is root; else it runs as the caller.
///
/// Not by [`Command::uid`]: that comes before the closures that enter namespaces, which need root.
pub(crate) fn run_as_nobody(command: &mut Command) {
    if !need_to_drop() {
        return;
    }
    let drop_privileges = || {
        // SAFETY: an empty list of groups needs no pointer.
        check(unsafe { libc::setgroups(0, std::ptr::null()) })?;
        // SAFETY: no pointers are passed.
        check(unsafe { libc::setresgid(NOBODY, NOBODY, NOBODY) })?;
        // SAFETY: no pointers are passed.
        check(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) })
    };
    // SAFETY: the closure makes system calls only, which are async-signal-safe.
    unsafe { command.pre_exec(drop_privileges) };
}

/// Gives a folder and what is in it to `nobody` where this process is root.
#[track_caller]
pub(crate) fn give_to_nobody(folder: &Path) {
    if !need_to_drop() {
        return;
    }
    let give = |path: &Path| {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY))
            .unwrap_or_else(|error| panic!("give {} to nobody: {error}", path.display()));
    };
    give(folder);
    for entry in std::fs::read_dir(folder).expect("the folder is there").map_while(Result::ok) {
        give(&entry.path());
    }
}

fn need_to_drop() -> bool {
    rustix::process::geteuid().is_root()
}

fn check(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn collect(pipe: impl Read + Send + 'static, output: &Arc<Mutex<Vec<String>>>) -> thread::JoinHandle<()> {
    let output = Arc::clone(output);
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            output.lock().unwrap_or_else(PoisonError::into_inner).push(String::from_utf8_lossy(&line).into_owned());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Process {
        let mut command = Command::new("sleep");
        command.arg("600");
        Process::start("sleep", command)
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let process = sleeper();
        let proc = format!("/proc/{}", process.pid());
        assert!(Path::new(&proc).exists());
        drop(process);
        assert!(!Path::new(&proc).exists());
    }

    #[test]
    fn a_process_dies_with_the_thread_that_started_it() {
        let (pid, forgotten) = thread::spawn(|| {
            let process = sleeper();
            (process.pid(), std::mem::ManuallyDrop::new(process))
        })
        .join()
        .unwrap();
        eventually(Duration::from_secs(5), "the child is a zombie", || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.contains(") Z ").then_some(()).ok_or(stat)
        });
        drop(std::mem::ManuallyDrop::into_inner(forgotten));
    }

    #[test]
    fn output_is_kept_by_lines() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 7"]);
        let mut process = Process::start("sh", command);
        let status = process.wait(Duration::from_secs(5));
        assert_eq!(status.code(), Some(7));
        let mut output = process.output();
        output.sort();
        assert_eq!(output, ["err", "out"]);
    }
}
