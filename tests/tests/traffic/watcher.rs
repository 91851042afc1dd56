//! The kernel side inside a namespace, asked without `await`.

use std::{thread::JoinHandle, time::Duration};

use tidegate::{
    config::Attach,
    kernel::{Event, Kernel, OnStop, Options, Readings, Rows, Started, Watch},
};
use tidegate_abi::{Counter, FlowKey, FlowValue};
use tidegate_tests::{Netns, eventually};
use tidegate_values::Patterns;
use tokio::{runtime::Runtime, sync::mpsc};

/// Watches interfaces of a namespace. Detaches when dropped.
pub(crate) struct Watcher {
    pub(crate) kernel: Kernel,
    events: mpsc::Receiver<Event>,
    thread: Option<JoinHandle<()>>,
    runtime: Runtime,
}

impl Watcher {
    /// Watches what `patterns` match, and waits until `interfaces` of them are watched.
    #[track_caller]
    pub(crate) fn start(namespace: &Netns, patterns: &[&str], attach: Attach, interfaces: usize) -> Self {
        let watcher = Self::sized(namespace, Options::default());
        watcher.watch(patterns, attach);
        eventually(Duration::from_secs(10), "the interfaces are watched", || {
            let readings = watcher.read();
            if readings.interfaces.len() == interfaces { Ok(()) } else { Err(format!("{readings:?}")) }
        });
        watcher
    }

    /// Starts without watching anything yet.
    pub(crate) fn sized(namespace: &Netns, options: Options) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let Started { kernel, events, thread, .. } = namespace.enter(|| Kernel::start(options)).unwrap();
        runtime.block_on(kernel.enforce(None)).unwrap();
        Self { kernel, events, thread: Some(thread), runtime }
    }

    #[track_caller]
    pub(crate) fn watch(&self, patterns: &[&str], attach: Attach) {
        let watch = Watch { patterns: Patterns::parse(patterns).unwrap(), attach };
        self.runtime.block_on(self.kernel.watch(watch)).unwrap();
    }

    #[track_caller]
    pub(crate) fn sample(&self, rate: u32) {
        self.runtime.block_on(self.kernel.set_sample_rate(rate)).unwrap();
    }

    #[track_caller]
    pub(crate) fn read(&self) -> Readings {
        self.runtime.block_on(self.kernel.read()).unwrap()
    }

    /// Rows of a watched interface.
    #[track_caller]
    pub(crate) fn rows(&self, interface: &str) -> Rows {
        let readings = self.read();
        let found = readings.interfaces.iter().find(|watched| watched.name == interface);
        found.unwrap_or_else(|| panic!("{interface} is not watched: {readings:?}")).rows.expect("rows of its own")
    }

    /// One figure: interface, row and class.
    #[track_caller]
    pub(crate) fn count(&self, interface: &str, row: u32, class: u8) -> Counter {
        self.rows(interface).0[row as usize].classes[usize::from(class)]
    }

    /// Takes all flows out of the table.
    #[track_caller]
    pub(crate) fn drain(&self) -> Vec<(FlowKey, FlowValue)> {
        self.flows(true)
    }

    /// Looks at all flows.
    #[track_caller]
    pub(crate) fn peek(&self) -> Vec<(FlowKey, FlowValue)> {
        self.flows(false)
    }

    #[track_caller]
    fn flows(&self, take: bool) -> Vec<(FlowKey, FlowValue)> {
        let (mut flows, mut from) = (Vec::new(), None);
        loop {
            let chunk = self
                .runtime
                .block_on(async { if take { self.kernel.drain(from).await } else { self.kernel.peek(from).await } })
                .unwrap();
            flows.extend(chunk.flows);
            from = chunk.next;
            if from.is_none() {
                return flows;
            }
        }
    }

    /// Events so far.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }

    /// Has run times counted, or no longer; returns runs and nanoseconds of all programs so far.
    #[track_caller]
    pub(crate) fn run_times(&self, on: bool) -> (u64, u64) {
        self.runtime.block_on(self.kernel.count_run_times(on)).unwrap();
        let cost = self.runtime.block_on(self.kernel.cost()).unwrap();
        cost.programs.iter().fold((0, 0), |(runs, ns), program| (runs + program.runs, ns + program.run_ns))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.runtime.block_on(self.kernel.stop(OnStop::Open));
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
