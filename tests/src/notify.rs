//! The side of systemd in `sd_notify(3)`: a socket that keeps what a daemon says.

use std::{
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{Scratch, eventually};

/// A socket for `$NOTIFY_SOCKET`.
#[derive(Debug)]
pub struct NotifySocket {
    path: PathBuf,
    told: Arc<Mutex<Vec<Told>>>,
    _scratch: Scratch,
}

/// One message.
#[derive(Clone, Debug)]
pub struct Told {
    /// When it came.
    pub at: Instant,
    /// Its assignments, `NAME=value`.
    pub lines: Vec<String>,
}

impl Told {
    /// The value of an assignment.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
}

impl NotifySocket {
    /// Listens.
    #[must_use]
    pub fn open() -> Self {
        let scratch = Scratch::new("notify");
        let path = scratch.path().join("notify.sock");
        let socket = UnixDatagram::bind(&path).expect("the folder is ours");
        let told = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&told);
        // It ends with the test's process; without senders it sleeps.
        thread::spawn(move || {
            let mut message = vec![0; 64 << 10];
            while let Ok(length) = socket.recv(&mut message) {
                let text = String::from_utf8_lossy(&message[..length]);
                let lines = text.lines().map(str::to_owned).collect();
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(Told { at: Instant::now(), lines });
            }
        });
        Self { path, told, _scratch: scratch }
    }

    /// For `$NOTIFY_SOCKET`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All messages so far.
    #[must_use]
    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Messages with this line that came after `from`.
    #[must_use]
    pub fn since(&self, from: Instant, line: &str) -> Vec<Told> {
        self.told().into_iter().filter(|told| told.at > from && told.lines.iter().any(|found| found == line)).collect()
    }

    /// Waits for a message with this line that came after `from`.
    ///
    /// # Panics
    ///
    /// Where none comes in time.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "waiting is the point, the message is extra")]
    pub fn wait_for(&self, from: Instant, line: &str, deadline: Duration) -> Told {
        eventually(deadline, &format!("the daemon says {line}"), || {
            self.since(from, line).into_iter().next().ok_or_else(|| format!("{:?}", self.told()))
        })
    }
}
