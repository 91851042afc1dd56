//! A local program that hands over a record every few milliseconds and remembers what was answered `ok`.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::json;
use tidegate_tests::{Ingest, Refused};

/// Stream of its records.
pub(crate) const STREAM: &str = "ingest/demo";

/// Runs until it is finished or dropped.
#[derive(Debug)]
pub(crate) struct Feeder {
    stop: Arc<AtomicBool>,
    accepted: Arc<Mutex<Vec<u64>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Feeder {
    /// Starts to feed the socket.
    pub(crate) fn start(socket: PathBuf) -> Self {
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let thread = thread::spawn({
            let (stop, accepted) = (Arc::clone(&stop), Arc::clone(&accepted));
            move || feed(&socket, &stop, &accepted)
        });
        Self { stop, accepted, thread: Some(thread) }
    }

    /// Records answered `ok` so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Ends it; returns the sequences of the records that were answered `ok`.
    pub(crate) fn finish(mut self) -> Vec<u64> {
        self.join();
        std::mem::take(&mut self.accepted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.join();
    }
}

fn feed(socket: &Path, stop: &AtomicBool, accepted: &Mutex<Vec<u64>>) {
    let mut connection: Option<Ingest> = None;
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(10));
        let Some(ingest) = connection.as_mut() else {
            connection = Ingest::try_connect(socket).ok();
            continue;
        };
        let reading =
            json!({"number": number, "celsius": 20.0 + f64::from(u32::try_from(number % 50).unwrap_or(0)) / 10.0});
        match ingest.put("demo", &reading) {
            Ok(seq) => {
                accepted.lock().unwrap_or_else(PoisonError::into_inner).push(seq);
                number += 1;
            }
            // Full or busy: the same record again.
            Err(Refused::Error(_)) => thread::sleep(Duration::from_millis(100)),
            Err(Refused::Gone(_)) => connection = None,
        }
    }
}
