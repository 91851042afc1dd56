//! The thread behind [`Kernel`](super::Kernel): its state, and what each request does to it.

use std::{collections::BTreeMap, ops::ControlFlow, time::Duration};

use aya::maps::MapError;
use tidegate_abi::{MAX_SAMPLE_RATE, Settings};
use tokio::{sync::mpsc, time::sleep};

use super::{
    CHUNK_ENTRIES, Chunk, Cost, Cursor, Event, InterfaceCounters, KernelError, MAX_GONE, NotWatched, Options, Readings,
    Reply, Request, Unavailable, Watch,
    attach::{AttachError, AttachMode, Attacher, Attachment, detach},
    batch,
    cost::RunTimes,
    counters::{Ledger, Rows, read_other, read_samples},
    interfaces::{Interfaces, Link},
    object::{self, Abi, Object, describe},
    patterns::Patterns,
    plan::{Current, Framing, Step, plan},
};
use crate::config::Attach;

/// Forced samples (SYN, FIN, RST) a second and CPU: at some 300 ns each 0.06 % of it.
const FORCED_PER_SECOND: u32 = 2_000;
/// New flows a second and CPU: at 375 ns for an insert that evicts, 0.4 % of it. A flood of new flows costs no more.
const INSERTS_PER_SECOND: u32 = 10_000;
/// Pause before netlink is opened again after it failed.
const REOPEN: Duration = Duration::from_secs(1);

/// Runs until stopped.
pub(super) async fn run(options: &Options, mut requests: mpsc::Receiver<Request>, events: mpsc::Sender<Event>) {
    let mut actor = Actor::new(options, events);
    let asked = loop {
        tokio::select! {
            // Requests first: a machine that renames interfaces all day must not keep us from answering.
            biased;
            request = requests.recv() => {
                let Some(request) = request else { break None };
                if let ControlFlow::Break(reply) = actor.answer(request) {
                    break Some(reply);
                }
            }
            () = actor.interfaces_changed() => actor.reconcile(),
        }
    };
    actor.stop();
    drop(actor);
    if let Some(reply) = asked {
        let _gone = reply.send(Ok(()));
    }
}

/// An interface that is watched.
struct Watched {
    /// As telemetry knows it.
    current: Current,
    attachment: Attachment,
}

struct Actor {
    object: Result<Object, Unavailable>,
    interfaces: Option<Interfaces>,
    /// Why there are no interfaces.
    netlink: Option<Unavailable>,
    /// What is to be watched; `None` until somebody said so.
    patterns: Option<Patterns>,
    attacher: Attacher,
    watched: BTreeMap<u32, Watched>,
    refused: BTreeMap<u32, NotWatched>,
    ledger: Ledger,
    gone: Vec<InterfaceCounters>,
    /// Last counters of interfaces that [`Self::gone`] had no room for.
    overflow: Rows,
    /// Whether the interfaces were searched for what a killed daemon left.
    swept: bool,
    run_times: Option<RunTimes>,
    events: mpsc::Sender<Event>,
    events_dropped: u64,
}

impl Actor {
    fn new(options: &Options, events: mpsc::Sender<Event>) -> Self {
        let object = object::load(options.flow_capacity).map_err(|error| error.unavailable());
        give_back_freed_memory();
        match &object {
            Ok(object) => tracing::info!(flow_capacity = object.flow_capacity, "eBPF programs loaded"),
            Err(Unavailable { why, fix, .. }) => tracing::error!(reason = why, fix, "traffic is not watched"),
        }
        Self {
            object,
            interfaces: None,
            netlink: None,
            patterns: None,
            attacher: Attacher::new(Attach::Auto),
            watched: BTreeMap::new(),
            refused: BTreeMap::new(),
            ledger: Ledger::default(),
            gone: Vec::new(),
            overflow: Rows::default(),
            swept: false,
            run_times: None,
            events,
            events_dropped: 0,
        }
    }

    /// Does what is asked; breaks with whom to answer when the thread has ended.
    fn answer(&mut self, request: Request) -> ControlFlow<Reply<()>> {
        // Whoever asked may have gone meanwhile; what was done stands.
        match request {
            Request::Watch { watch, reply } => {
                self.watch(watch);
                let _gone = reply.send(Ok(()));
            }
            Request::SampleRate { rate, reply } => {
                let _gone = reply.send(self.set_sample_rate(rate));
            }
            Request::Read { reply } => {
                // Attaching what failed is tried again with each reading.
                self.reconcile();
                let _gone = reply.send(self.read());
            }
            Request::Flows { from, take, reply } => {
                let _gone = reply.send(self.flows(from, take));
            }
            Request::Cost { reply } => {
                let _gone = reply.send(self.cost());
            }
            Request::CountRunTimes { on, reply } => {
                let _gone = reply.send(self.count_run_times(on));
            }
            Request::Stop { reply } => return ControlFlow::Break(reply),
        }
        ControlFlow::Continue(())
    }

    /// Waits for a change of the interfaces; safe to cancel. Without netlink, for the next try.
    async fn interfaces_changed(&mut self) {
        loop {
            let failure = match &mut self.interfaces {
                Some(interfaces) => match interfaces.changed().await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                None => match Interfaces::open() {
                    Ok(interfaces) => {
                        self.interfaces = Some(interfaces);
                        self.netlink = None;
                        continue;
                    }
                    Err(error) => error,
                },
            };
            tracing::warn!(error = %failure, "cannot follow interfaces; opening netlink again");
            self.interfaces = None;
            self.netlink = Some(Unavailable {
                what: "interface changes".into(),
                why: format!("rtnetlink: {failure}"),
                fix: "allow AF_NETLINK sockets (RestrictAddressFamilies=)".into(),
            });
            sleep(REOPEN).await;
        }
    }

    fn watch(&mut self, Watch { patterns, attach }: Watch) {
        self.patterns = Some(patterns);
        if attach != self.attacher.wanted() {
            self.attacher = Attacher::new(attach);
            self.attach_anew();
        }
        self.reconcile();
    }

    /// Attaches what is attached in the way that is wanted now. Counters go on; packets of the moment in between
    /// are not seen.
    fn attach_anew(&mut self) {
        let Ok(object) = &mut self.object else { return };
        let mut failed = Vec::new();
        for (ifindex, Watched { current, attachment }) in std::mem::take(&mut self.watched) {
            detach(&mut object.ebpf, attachment);
            match self.attacher.attach(&mut object.ebpf, &current.name, current.framing) {
                Ok(attachment) => {
                    self.watched.insert(ifindex, Watched { current, attachment });
                }
                Err(_) => failed.push((ifindex, current)),
            }
        }
        for (ifindex, current) in failed {
            self.retire(ifindex, current);
        }
    }

    /// Carries out what the interfaces there are ask for.
    fn reconcile(&mut self) {
        let Some(links) = self.interfaces.as_ref().and_then(Interfaces::links) else { return };
        let Some(patterns) = &self.patterns else { return };
        let current = self.watched.iter().map(|(&ifindex, watched)| (ifindex, watched.current.clone())).collect();
        let steps = plan(&current, links, patterns);
        let unparsed = unparsed(links, patterns);
        let leftovers = if self.swept { Vec::new() } else { names(links) };
        let before = std::mem::replace(&mut self.refused, unparsed);
        for step in steps {
            match step {
                Step::Detach { ifindex } => self.detach(ifindex),
                Step::Rename { ifindex, name } => self.rename(ifindex, name),
                Step::Attach { ifindex, name, framing } => self.attach(ifindex, name, framing, &before),
            }
        }
        self.sweep(&leftovers);
    }

    fn attach(&mut self, ifindex: u32, name: String, framing: Framing, before: &BTreeMap<u32, NotWatched>) {
        let reason = match self.try_attach(ifindex, &name, framing) {
            Ok(Some(attachment)) => {
                tracing::info!(interface = name, ifindex, mode = ?self.attacher.mode(), "watching");
                self.tell(Event::Watched { interface: name.clone() });
                self.watched.insert(ifindex, Watched { current: Current { name, framing }, attachment });
                return;
            }
            Ok(None) => {
                tracing::debug!(interface = name, ifindex, "gone or renamed before it could be watched");
                return;
            }
            Err(reason) => reason,
        };
        let refused = NotWatched { interface: name, reason };
        if before.get(&ifindex) != Some(&refused) && self.object.is_ok() {
            tracing::warn!(interface = refused.interface, ifindex, reason = refused.reason, "cannot watch");
        }
        self.refused.insert(ifindex, refused);
    }

    /// `None` where the interface has moved on; another change will say so.
    fn try_attach(&mut self, ifindex: u32, name: &str, framing: Framing) -> Result<Option<Attachment>, String> {
        let object = self.object.as_mut().map_err(|unavailable| unavailable.why.clone())?;
        let own = self.ledger.open(object, ifindex).map_err(|error| format!("counters: {}", describe(&error)))?;
        let attached = self.attacher.attach(&mut object.ebpf, name, framing);
        // aya attaches by name. Where the name has moved to another interface meanwhile, so have the programs.
        let stayed = self.interfaces.as_ref().is_some_and(|interfaces| interfaces.index_of(name) == Some(ifindex));
        let failure = match attached {
            Ok(attachment) if stayed => {
                if !own {
                    tracing::warn!(
                        interface = name,
                        "more than 255 interfaces are watched; this one counts as \"other\""
                    );
                    self.tell(Event::SlotsExhausted { interface: name.to_owned() });
                }
                return Ok(Some(attachment));
            }
            Ok(attachment) => {
                detach(&mut object.ebpf, attachment);
                None
            }
            Err(AttachError::Moved) => None,
            Err(error) => Some(describe(&error)),
        };
        // It never counted, so there is nothing to keep.
        let _zero = self.ledger.close(object, ifindex);
        failure.map_or(Ok(None), Err)
    }

    fn rename(&mut self, ifindex: u32, name: String) {
        if let Some(watched) = self.watched.get_mut(&ifindex) {
            tracing::info!(interface = name, before = watched.current.name, ifindex, "interface renamed");
            watched.current.name = name;
        }
    }

    fn detach(&mut self, ifindex: u32) {
        let Some(Watched { current, attachment }) = self.watched.remove(&ifindex) else { return };
        if let Ok(object) = &mut self.object {
            detach(&mut object.ebpf, attachment);
        }
        self.retire(ifindex, current);
    }

    /// Keeps the last counters of an interface that is watched no longer.
    fn retire(&mut self, ifindex: u32, Current { name, framing }: Current) {
        tracing::info!(interface = name, ifindex, "no longer watching");
        self.tell(Event::Unwatched { interface: name.clone() });
        let Ok(object) = &mut self.object else { return };
        let own = self.ledger.has(ifindex);
        match self.ledger.close(object, ifindex) {
            Ok(rows) if self.gone.len() < MAX_GONE => {
                self.gone.push(InterfaceCounters { name, ifindex, framing, rows: own.then_some(rows) });
            }
            Ok(rows) => self.overflow += rows,
            Err(error) => tracing::error!(interface = name, %error, "last counters are lost"),
        }
    }

    /// Once after the start: removes filters of a killed daemon, except those that were taken over.
    fn sweep(&mut self, names: &[(u32, String)]) {
        self.swept = true;
        let netlink = self.attacher.mode() == Some(AttachMode::Netlink);
        for (ifindex, name) in names {
            if self.object.is_ok() && !(netlink && self.watched.contains_key(ifindex)) {
                Attacher::sweep(name);
            }
        }
    }

    fn set_sample_rate(&mut self, rate: u32) -> Result<(), KernelError> {
        let settings = Settings {
            sample_rate: rate.min(MAX_SAMPLE_RATE),
            forced_per_second: FORCED_PER_SECOND,
            inserts_per_second: INSERTS_PER_SECOND,
            reserved: 0,
        };
        self.object()?.settings.set(0, Abi(settings), 0).map_err(map_error("write the settings"))
    }

    fn read(&mut self) -> Result<Readings, KernelError> {
        let mut readings = Readings {
            not_watched: self.refused.values().cloned().collect(),
            unavailable: self.object.as_ref().err().into_iter().chain(&self.netlink).cloned().collect(),
            attach: self.attacher.mode(),
            events_dropped: self.events_dropped,
            ..Readings::default()
        };
        let Ok(object) = &self.object else { return Ok(readings) };
        readings.flow_capacity = object.flow_capacity;
        readings.samples = read_samples(object).map_err(map_error("read the sample counters"))?;
        readings.other = read_other(object).map_err(map_error("read the counters"))?;
        readings.other += self.overflow;
        for (&ifindex, Watched { current, .. }) in &self.watched {
            readings.interfaces.push(InterfaceCounters {
                name: current.name.clone(),
                ifindex,
                framing: current.framing,
                rows: self.ledger.read(object, ifindex).map_err(map_error("read the counters"))?,
            });
        }
        // Last, so that a failure above does not lose them.
        readings.gone = std::mem::take(&mut self.gone);
        Ok(readings)
    }

    fn flows(&mut self, from: Option<Cursor>, take: bool) -> Result<Chunk, KernelError> {
        let flows = self.object()?.flows_fd();
        batch::read(flows, from, CHUNK_ENTRIES, take)
            .map(|batch| Chunk { flows: batch.entries, next: batch.next })
            .map_err(|error| KernelError::Map { call: "read the flow table", reason: error.to_string() })
    }

    fn cost(&mut self) -> Result<Cost, KernelError> {
        Ok(self.object()?.cost())
    }

    fn count_run_times(&mut self, on: bool) -> Result<(), KernelError> {
        self.object()?;
        match (on, &self.run_times) {
            (true, None) => self.run_times = Some(RunTimes::count().map_err(KernelError::Unavailable)?),
            (true, Some(_)) => {}
            (false, _) => self.run_times = None,
        }
        Ok(())
    }

    fn object(&mut self) -> Result<&mut Object, KernelError> {
        self.object.as_mut().map_err(|unavailable| KernelError::Unavailable(unavailable.clone()))
    }

    /// Takes all programs off.
    fn stop(&mut self) {
        if let Ok(object) = &mut self.object {
            for Watched { attachment, .. } in std::mem::take(&mut self.watched).into_values() {
                detach(&mut object.ebpf, attachment);
            }
        }
    }

    fn tell(&mut self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.events_dropped += 1;
        }
    }
}

/// Reading the object's sections, types and relocations takes 1.5 MB (measured), a fifth of what the idle daemon may
/// have, and the allocator would keep it.
fn give_back_freed_memory() {
    // SAFETY: no preconditions; it only returns memory that is free.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Interfaces that match and whose packets nobody here parses.
fn unparsed(links: &BTreeMap<u32, Link>, patterns: &Patterns) -> BTreeMap<u32, NotWatched> {
    let matching = links.iter().filter(|(_, link)| patterns.matches(&link.name));
    let unknown = matching.filter(|(_, link)| Framing::of_link_type(link.link_type).is_none());
    let refuse = |link: &Link| NotWatched {
        interface: link.name.clone(),
        reason: format!("packets of link type {} are not parsed", link.link_type),
    };
    unknown.map(|(&ifindex, link)| (ifindex, refuse(link))).collect()
}

fn names(links: &BTreeMap<u32, Link>) -> Vec<(u32, String)> {
    links.iter().map(|(&ifindex, link)| (ifindex, link.name.clone())).collect()
}

fn map_error(call: &'static str) -> impl FnOnce(MapError) -> KernelError {
    move |error| KernelError::Map { call, reason: describe(&error) }
}
