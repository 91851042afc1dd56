//! Removes what a Ctrl-C would leave behind.
//!
//! Drop does the work in every other case. SIGINT, SIGTERM and SIGHUP end a process without it, so the first
//! [`Guard`] installs a handler that ends the registered children, then removes the registered folders, and
//! exits with status 130. While it works it holds the registry, so that no thread can start anything new.

use std::{
    path::PathBuf,
    process::exit,
    sync::{Mutex, MutexGuard, Once, PoisonError},
    thread::sleep,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// What is to go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// A child process.
    Process(i32),
    /// A folder with all that is in it.
    Folder(PathBuf),
}

static REGISTRY: Mutex<Vec<Leftover>> = Mutex::new(Vec::new());
static HANDLER: Once = Once::new();

/// The registry, held: nothing is cleaned up, and nothing else registered, while this lives.
#[derive(Debug)]
pub(crate) struct Registry(MutexGuard<'static, Vec<Leftover>>);

impl Registry {
    /// Waits for the registry; for ever where the process is being ended.
    pub(crate) fn hold() -> Self {
        HANDLER.call_once(|| {
            // An error means that the program has a handler of its own, which then calls `everything`.
            let _own_handler = ctrlc::set_handler(|| {
                everything();
                exit(130);
            });
        });
        Self(REGISTRY.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Registers one; it stays so until the guard is dropped.
    pub(crate) fn add(&mut self, make: impl Fn() -> Leftover) -> Guard {
        self.0.push(make());
        Guard(make())
    }
}

/// Takes its leftover off the list when dropped.
#[derive(Debug)]
pub(crate) struct Guard(Leftover);

impl Drop for Guard {
    fn drop(&mut self) {
        Registry::hold().0.retain(|leftover| *leftover != self.0);
    }
}

/// Ends all children and removes all folders of this process's helpers. Only for a program that is about to
/// exit: nothing can be started afterwards.
pub fn everything() {
    let registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    for leftover in &*registry {
        if let Leftover::Process(pid) = leftover
            && let Some(pid) = Pid::from_raw(*pid)
        {
            let _already_gone = kill_process(pid, Signal::CONT).and_then(|()| kill_process(pid, Signal::KILL));
        }
    }
    for leftover in &*registry {
        if let Leftover::Folder(folder) = leftover {
            // A child that is just dying may still add a file.
            for _attempt in 0..50 {
                if std::fs::remove_dir_all(folder).is_ok() || !folder.exists() {
                    break;
                }
                sleep(Duration::from_millis(10));
            }
        }
    }
    std::mem::forget(registry);
}
