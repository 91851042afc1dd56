//! Mount namespaces without names: what is mounted in one goes with the last process in there, whatever happens, and
//! nobody outside sees it.

use std::{
    fs,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::Command,
    sync::Arc,
    thread,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::need;

/// A mount namespace; clones are the same one.
#[derive(Clone, Debug)]
pub struct Mounts(Arc<OwnedFd>);

impl Mounts {
    /// Makes one that begins as this process's, and has `prepare` mount things in it.
    ///
    /// # Errors
    ///
    /// The test is not root, or `prepare` fails: a reason to skip.
    pub fn new(prepare: impl FnOnce() -> Result<(), String> + Send) -> Result<Self, String> {
        need::root()?;
        let namespace = thread::scope(|scope| {
            // A thread of its own, because only a thread's end undoes its move.
            let made = scope.spawn(|| -> Result<OwnedFd, String> {
                // SAFETY: this thread holds nothing that depends on its mounts or on the root folder shared with others.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
                    .map_err(|error| format!("make a mount namespace: {error}"))?;
                run(Command::new("mount").args(["--make-rprivate", "/"]))?;
                prepare()?;
                Ok(fs::File::open("/proc/thread-self/ns/mnt").map_err(|error| error.to_string())?.into())
            });
            made.join().expect("nothing in it panics")
        })?;
        Ok(Self(Arc::new(namespace)))
    }

    /// One with an empty BPF file system at `/run/tidegate-bpf`, as the service has it. The rest of `/run` is empty.
    ///
    /// # Errors
    ///
    /// This machine has no BPF file system, or the test is not root: a reason to skip.
    pub fn with_bpffs() -> Result<Self, String> {
        const FOLDER: &str = "/run/tidegate-bpf";
        Self::new(|| {
            // The machine's own /run gets no folder of ours.
            run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
            fs::create_dir(FOLDER).map_err(|error| format!("{FOLDER}: {error}"))?;
            run(Command::new("mount").args(["-t", "bpf", "bpf", FOLDER]))
        })
    }

    /// Does something in there.
    ///
    /// # Panics
    ///
    /// Where it cannot be entered, or with the closure's panic.
    #[track_caller]
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let result = thread::scope(|scope| {
            scope
                .spawn(|| {
                    // A thread shares its root folder with the others until it says otherwise.
                    // SAFETY: this thread holds nothing that depends on the shared root folder.
                    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }
                        .and_then(|()| move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Mount)))
                        .unwrap_or_else(|error| panic!("enter a mount namespace: {error}"));
                    inside()
                })
                .join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Makes `command` run in there.
    pub(crate) fn confine(&self, command: &mut Command) {
        let namespace = Arc::clone(&self.0);
        // SAFETY: the closure makes one system call, which is async-signal-safe, on a descriptor that it owns.
        unsafe {
            command.pre_exec(move || Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?));
        }
    }
}

/// Runs a command for its effect.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}
