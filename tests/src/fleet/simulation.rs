//! Gateways by the thousand, in one process, each with a connection of its own.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tidegate::config::{Environment, MainFile};
use tokio::{runtime::Runtime, sync::watch};

use super::{
    control::{Control, Flaw, Running},
    gateway::{self, Order},
};
use crate::{Broker, eventually};

/// Root of all topics: the daemon's default.
const ROOT: &str = "tidegate/v1";

/// A running fleet. It goes when it is dropped.
#[derive(Debug)]
pub struct Simulation {
    shared: Arc<Shared>,
    orders: Vec<watch::Sender<Order>>,
    runtime: Option<Runtime>,
}

/// The id of a gateway.
pub(super) fn id(index: usize) -> String {
    format!("gw-{index:05}")
}

/// What all gateways share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) port: u16,
    pub(super) root: &'static str,
    /// Over which their first connections are spread.
    pub(super) spread: Duration,
    controls: Vec<Mutex<Control>>,
}

impl Shared {
    pub(super) fn with<T>(&self, index: usize, work: impl FnOnce(&mut Control) -> T) -> T {
        work(&mut self.controls[index].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Simulation {
    /// Starts `count` gateways, members of `groups`, of which `flaw` tells what is wrong with each. They connect at once.
    ///
    /// # Panics
    ///
    /// Where the system gives no threads.
    #[must_use]
    #[track_caller]
    pub fn start(broker: &Broker, count: usize, groups: &[&str], flaw: impl Fn(usize) -> Flaw) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("two threads");
        // Controls read the runtime's clock.
        let entered = runtime.enter();
        // All have the same local layers; who they are shows in their topics only.
        let groups = groups.join(",");
        let variables = [("TIDEGATE__GATEWAY__ID", "simulated"), ("TIDEGATE__GATEWAY__GROUPS", &groups)];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let environment = Environment { variables: variables.into(), machine_id_file: "/nonexistent".into() };
        let none = MainFile { path: "/nonexistent/tidegate.toml".into(), required: false };
        let local = Arc::new(none.read(&environment).expect("defaults are valid"));
        let controls = (0..count).map(|index| Mutex::new(Control::new(Arc::clone(&local), flaw(index))));
        let shared = Arc::new(Shared {
            port: broker.port(),
            root: ROOT,
            // Two thousand a second: a listening socket has a queue of 128 or so.
            spread: Duration::from_millis(count as u64 / 2),
            controls: controls.collect(),
        });
        let orders = (0..count)
            .map(|index| {
                let (sender, orders) = watch::channel(Order { online: true, life: 0 });
                runtime.spawn(gateway::run(Arc::clone(&shared), index, orders));
                sender
            })
            .collect();
        drop(entered);
        Self { shared, orders, runtime: Some(runtime) }
    }

    /// The id of a gateway.
    #[must_use]
    pub fn id(&self, index: usize) -> String {
        id(index)
    }

    /// Switches gateways off, as a modem goes: without a farewell.
    pub fn switch_off(&self, range: Range<usize>) {
        self.order(range, |order| order.online = false);
    }

    /// Switches them on again.
    pub fn switch_on(&self, range: Range<usize>) {
        self.order(range, |order| order.online = true);
    }

    fn order(&self, range: Range<usize>, change: impl Fn(&mut Order)) {
        for sender in &self.orders[range] {
            sender.send_modify(&change);
        }
    }

    /// Kills the daemons of gateways and starts them again: what they had written is all that they know.
    pub fn crash(&self, range: Range<usize>) {
        for index in range.clone() {
            self.shared.with(index, Control::crash);
        }
        self.order(range, |order| order.life += 1);
    }

    /// What a gateway runs, seen from inside.
    #[must_use]
    pub fn running(&self, index: usize) -> Running {
        self.shared.with(index, |control| control.running())
    }

    /// Waits until gateways satisfy a condition.
    ///
    /// # Panics
    ///
    /// Where some do not in time.
    #[track_caller]
    pub fn wait_for(&self, what: &str, deadline: Duration, range: Range<usize>, wanted: impl Fn(&Running) -> bool) {
        eventually(deadline, what, || {
            let bad: Vec<usize> = range.clone().filter(|index| !wanted(&self.running(*index))).collect();
            match bad.first() {
                None => Ok(()),
                Some(first) => Err(format!(
                    "{} gateways are not, the first {}: {:?}",
                    bad.len(),
                    self.id(*first),
                    self.running(*first).documents
                )),
            }
        });
    }

    /// How many gateways run which documents.
    #[must_use]
    pub fn census(&self) -> BTreeMap<String, usize> {
        let mut census = BTreeMap::new();
        for index in 0..self.orders.len() {
            let documents: Vec<String> = self
                .running(index)
                .documents
                .iter()
                .map(|(source, (version, _))| format!("{source} {version}"))
                .collect();
            *census.entry(documents.join(", ")).or_default() += 1;
        }
        census
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
