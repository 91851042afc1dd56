//! The kernel side inside a namespace, told what to enforce without `await`.

use std::{collections::BTreeMap, thread::JoinHandle, time::Duration};

use serde_json::json;
use tidegate::{
    config::Attach,
    kernel::{
        DroppedPacket, Enforced, Generation, Kernel, OnStop, Options, PolicyCounts, Readings, RuleCounts, Started,
        Watch,
    },
    policy,
};
use tidegate_abi::policy::SMALL_BLOCKS;
use tidegate_tests::{
    Netns, eventually,
    net::{UdpSender, UdpSink},
    policy::Policy,
};
use tidegate_values::Patterns;
use tokio::{runtime::Runtime, sync::mpsc};

/// Enforces policies on a namespace's interfaces. Takes everything off when dropped.
pub(crate) struct Guard {
    pub(crate) kernel: Kernel,
    drops: mpsc::Receiver<DroppedPacket>,
    thread: Option<JoinHandle<()>>,
    runtime: Runtime,
}

impl Guard {
    /// Starts, without saying what is to be enforced.
    pub(crate) fn start(namespace: &Netns, options: Options) -> Self {
        namespace.enter(|| Self::here(options))
    }

    /// The same in the namespace of whoever calls.
    pub(crate) fn here(options: Options) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let Started { kernel, drops, thread, .. } = Kernel::start(options).unwrap();
        Self { kernel, drops, thread: Some(thread), runtime }
    }

    /// Starts with a policy, and watches `eth*`.
    #[track_caller]
    pub(crate) fn with(namespace: &Netns, attach: Attach, generation: Option<Generation>) -> Self {
        let guard = Self::start(namespace, Options::default());
        guard.enforce(generation);
        guard.watch(&["eth*"], attach);
        eventually(Duration::from_secs(10), "both interfaces are watched", || {
            let readings = guard.readings();
            if readings.interfaces.len() == 2 { Ok(()) } else { Err(format!("{readings:?}")) }
        });
        guard
    }

    #[track_caller]
    pub(crate) fn watch(&self, patterns: &[&str], attach: Attach) {
        let watch = Watch { patterns: Patterns::parse(patterns).unwrap(), attach };
        self.runtime.block_on(self.kernel.watch(watch)).unwrap();
    }

    /// Reads all that is small; what could not be attached is tried again before.
    #[track_caller]
    pub(crate) fn readings(&self) -> Readings {
        self.runtime.block_on(self.kernel.read()).unwrap()
    }

    #[track_caller]
    pub(crate) fn enforce(&self, generation: Option<Generation>) -> Enforced {
        self.runtime.block_on(self.kernel.enforce(generation.map(Box::new))).unwrap()
    }

    /// Counters of all rules by name; those of the default by the empty one.
    #[track_caller]
    pub(crate) fn counts(&self) -> BTreeMap<String, RuleCounts> {
        let (mut counts, mut from) = (BTreeMap::new(), 0);
        loop {
            let part: PolicyCounts = self.runtime.block_on(self.kernel.policy_counts(from)).unwrap();
            let Some(in_force) = part.in_force else { return counts };
            for (rule, counted) in part.counts {
                counts.insert(in_force.rules.name(rule).unwrap_or_default().to_owned(), counted);
            }
            match part.next {
                Some(next) => from = next,
                None => return counts,
            }
        }
    }

    /// Dropped packets that were told of so far.
    pub(crate) fn drops(&mut self) -> Vec<DroppedPacket> {
        std::iter::from_fn(|| self.drops.try_recv().ok()).collect()
    }

    /// Stops in order.
    pub(crate) fn stop(mut self, on_stop: OnStop) {
        self.runtime.block_on(self.kernel.stop(on_stop));
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.runtime.block_on(self.kernel.stop(OnStop::Open));
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Compiles a policy.
pub(crate) fn generation(policy: &Policy) -> Generation {
    let bundle = policy::read(&policy.payload()).unwrap();
    let options = policy::Options { number: 0, fragments_allow: false, expired: &|_| false };
    let tables = policy::compile(&bundle, &options).unwrap();
    Generation::new(&bundle, tables).unwrap()
}

/// The same, for the large map.
pub(crate) fn large(mut generation: Generation) -> Generation {
    let blocks = generation.blocks.len().max(SMALL_BLOCKS as usize + 1);
    generation.blocks.resize(blocks, [0; 8]);
    generation
}

/// A policy of one rule that decides all packets, in a small map or a large one.
pub(crate) fn everything(version: u64, action: &str, of_large_map: bool) -> Generation {
    let rule = json!({ "name": "all", "cidrs": ["0.0.0.0/0", "::/0"], "action": action });
    let generation = generation(&Policy::new(version).rule(rule));
    if of_large_map { large(generation) } else { generation }
}

/// Whether a datagram from left to right arrives.
pub(crate) fn passes(sender: &mut UdpSender, sink: &UdpSink) -> bool {
    let before = sink.received();
    sender.send(b"x");
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(5));
        if sink.received() > before {
            return true;
        }
    }
    false
}
