//! The thread behind [`Kernel`](super::Kernel): its state, and what each request does to it.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use aya::maps::MapError;
use tidegate_abi::{MAX_SAMPLE_RATE, Settings, policy::Dropped};
use tidegate_values::Patterns;
use tokio::{
    sync::mpsc,
    time::{sleep, sleep_until},
};

use super::{
    CHUNK_ENTRIES, Chunk, Cost, Cursor, DroppedPacket, Enforce, Enforced, Event, Generation, InterfaceCounters,
    KernelError, MAX_GONE, NotWatched, OnStop, Options, PolicyCounts, Readings, Reply, Request, Unavailable, Watch,
    attach::{AttachError, AttachMode, Attacher, Attachment, detach, leave},
    batch,
    cost::RunTimes,
    counters::{Ledger, Rows, read_other, read_samples, read_sends},
    interfaces::{Interfaces, Link},
    object::{self, Abi, Object, describe},
    pins::Pins,
    plan::{Current, Framing, Step, plan},
    sends,
};
use crate::{gather::Gather as _, heap};

/// Forced samples (SYN, FIN, RST) a second and CPU: at some 300 ns each 0.06 % of it.
const FORCED_PER_SECOND: u32 = 2_000;
/// New flows a second and CPU: at 375 ns for an insert that evicts, 0.4 % of it. A flood of new flows costs no more.
const INSERTS_PER_SECOND: u32 = 10_000;
/// Pause before netlink is opened again after it failed.
const REOPEN: Duration = Duration::from_secs(1);

/// What keeps the thread busy for long, and nobody waits for, begins when it was idle for this long.
const QUIET: Duration = Duration::from_millis(500);

/// What the thread hears by, and tells by.
pub(super) struct Channels {
    pub requests: mpsc::Receiver<Request>,
    pub policies: mpsc::Receiver<Enforce>,
    pub events: mpsc::Sender<Event>,
    pub drops: mpsc::Sender<DroppedPacket>,
}

/// Runs until stopped.
pub(super) async fn run(options: &Options, channels: Channels) {
    let Channels { mut requests, mut policies, events, drops } = channels;
    let mut actor = Actor::new(options, events, drops);
    // Where nobody can say so any more, what is in force stays.
    let mut on_stop = OnStop::Keep;
    let asked = loop {
        let quiet = quiet(actor.wants_to_time_sends());
        let free = actor.is_free_to_switch();
        tokio::select! {
            // Requests first: a machine that renames interfaces all day must not keep us from answering.
            biased;
            request = requests.recv() => {
                let Some(request) = request else { break None };
                if let ControlFlow::Break((how, reply)) = actor.answer(request) {
                    on_stop = how;
                    break Some(reply);
                }
            }
            Some(Enforce { generation, reply }) = policies.recv(), if free => actor.enforce(generation, reply),
            happened = actor.happens() => actor.hear(happened),
            () = quiet => actor.time_sends(),
        }
    };
    actor.finish_switch().await;
    actor.stop(on_stop);
    drop(actor);
    if let Some(reply) = asked {
        let _gone = reply.send(Ok(()));
    }
}

/// What comes by itself.
enum Happened {
    /// Interfaces may have changed.
    Interfaces,
    /// They cannot be followed for the moment.
    NoInterfaces,
    /// A switch of policies went on.
    Switch,
    /// Packets were dropped.
    Dropped(Vec<Dropped>),
}

/// An interface that is watched.
struct Watched {
    /// As telemetry knows it.
    current: Current,
    attachment: Attachment,
    /// See [`InterfaceCounters::attached_after`].
    attached_after: Option<Duration>,
}

struct Actor {
    object: Result<Object, Unavailable>,
    interfaces: Option<Interfaces>,
    /// Why there are no interfaces, and when they are tried again.
    netlink: Option<(Unavailable, Instant)>,
    /// What is to be watched; `None` until somebody said so.
    patterns: Option<Patterns>,
    attacher: Attacher,
    watched: BTreeMap<u32, Watched>,
    refused: BTreeMap<u32, NotWatched>,
    /// Why interfaces are attached in another way than is wanted.
    unchanged: BTreeMap<u32, String>,
    /// When messages told of interfaces that are to be watched and are not yet.
    awaited: BTreeMap<u32, Instant>,
    ledger: Ledger,
    gone: Vec<InterfaceCounters>,
    /// Last counters of interfaces that [`Self::gone`] had no room for.
    overflow: Rows,
    /// Who waits until the interfaces that are there are watched.
    unsettled: Vec<Reply<()>>,
    /// Whether the interfaces were searched for what a killed daemon left.
    swept: bool,
    run_times: Option<RunTimes>,
    /// Whether `tcp_sendmsg` is to be timed.
    sends_wanted: bool,
    /// Whether it is; `None` until it was tried.
    sends: Option<Result<(), Unavailable>>,
    events: mpsc::Sender<Event>,
    events_dropped: u64,
    drops: mpsc::Sender<DroppedPacket>,
    drops_missed: u64,
}

impl Actor {
    fn new(options: &Options, events: mpsc::Sender<Event>, drops: mpsc::Sender<DroppedPacket>) -> Self {
        let object = object::load(options.flow_capacity).map_err(|error| error.unavailable());
        heap::give_back();
        match &object {
            Ok(object) => tracing::info!(flow_capacity = object.flow_capacity, "eBPF programs loaded"),
            Err(Unavailable { why, fix, .. }) => tracing::error!(reason = why, fix, "traffic is not watched"),
        }
        Self {
            object,
            interfaces: None,
            netlink: None,
            patterns: None,
            attacher: Attacher::new(Pins::open(options.pins.as_deref())),
            watched: BTreeMap::new(),
            refused: BTreeMap::new(),
            unchanged: BTreeMap::new(),
            awaited: BTreeMap::new(),
            ledger: Ledger::default(),
            gone: Vec::new(),
            overflow: Rows::default(),
            unsettled: Vec::new(),
            swept: false,
            run_times: None,
            sends_wanted: false,
            sends: None,
            events,
            events_dropped: 0,
            drops,
            drops_missed: 0,
        }
    }

    /// Does what is asked; breaks with whom to answer when the thread has ended.
    fn answer(&mut self, request: Request) -> ControlFlow<(OnStop, Reply<()>)> {
        // Whoever asked may have gone meanwhile; what was done stands.
        match request {
            Request::Watch { watch, reply } => {
                self.unsettled.push(reply);
                self.watch(watch);
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
            Request::Ping { reply } => {
                let _gone = reply.send(Ok(()));
            }
            Request::TimeSends { on, reply } => {
                self.sends_wanted = on;
                if !on {
                    self.stop_timing_sends();
                }
                let _gone = reply.send(Ok(()));
            }
            Request::PolicyCounts { from, reply } => {
                let _gone = reply.send(self.policy_counts(from));
            }
            Request::Stop { on_stop, reply } => return ControlFlow::Break((on_stop, reply)),
        }
        ControlFlow::Continue(())
    }

    /// Whether another policy can be enforced now: there is no switch under way.
    fn is_free_to_switch(&self) -> bool {
        self.object.as_ref().map_or(true, |object| object.policy.is_idle())
    }

    fn enforce(&mut self, generation: Option<Box<Generation>>, reply: Reply<Enforced>) {
        let Self { object, watched, ledger, .. } = self;
        match object {
            Ok(object) => {
                let interfaces = watched
                    .iter()
                    .filter_map(|(&ifindex, watched)| Some((ledger.slot(ifindex)?, watched.current.name.as_str())));
                object.policy.enforce(generation.map(|generation| *generation), interfaces, reply);
            }
            // Nothing can be attached, so that no policy is what there is.
            Err(_) if generation.is_none() => {
                let _gone = reply.send(Ok(Enforced::default()));
            }
            Err(unavailable) => {
                let _gone = reply.send(Err(KernelError::Unavailable(unavailable.clone())));
            }
        }
        self.reconcile();
    }

    /// Waits for what comes by itself; safe to cancel.
    async fn happens(&mut self) -> Happened {
        let Self { object, interfaces, netlink, .. } = self;
        let policy = async {
            match object {
                Ok(Object { policy, drops, .. }) => tokio::select! {
                    () = policy.progress() => Happened::Switch,
                    told = drops.read() => Happened::Dropped(told),
                },
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            happened = policy => happened,
            happened = interfaces_change(interfaces, netlink) => happened,
        }
    }

    fn hear(&mut self, happened: Happened) {
        match happened {
            Happened::Interfaces => self.follow(),
            Happened::NoInterfaces => self.settle(),
            // What waits to be attached may have waited for it.
            Happened::Switch => self.reconcile(),
            Happened::Dropped(told) => self.tell_drops(&told),
        }
    }

    fn tell_drops(&mut self, told: &[Dropped]) {
        let Ok(object) = &self.object else { return };
        for dropped in told {
            let interface = match self.watched.get(&dropped.ifindex) {
                Some(watched) => watched.current.name.clone(),
                None => dropped.ifindex.to_string(),
            };
            let named = object.policy.name(dropped, interface);
            if named.is_none_or(|dropped| self.drops.try_send(dropped).is_err()) {
                self.drops_missed += 1;
            }
        }
    }

    /// Waits until no switch is under way: half of one would be the policy before.
    async fn finish_switch(&mut self) {
        if let Ok(object) = &mut self.object {
            while !object.policy.is_idle() {
                object.policy.progress().await;
            }
        }
    }

    fn policy_counts(&mut self, from: u32) -> Result<PolicyCounts, KernelError> {
        let drops_missed = self.drops_missed;
        Ok(PolicyCounts { drops_missed, ..self.object()?.policy.counts(from) })
    }

    fn watch(&mut self, Watch { patterns, attach }: Watch) {
        self.patterns = Some(patterns);
        if attach != self.attacher.wanted() {
            self.attacher.want(attach);
        }
        self.reconcile();
    }

    /// Has what is attached in another way than is wanted now attached in that way. Where it cannot be it guards as before,
    /// and is tried again.
    fn change_attachments(&mut self) {
        let Self { object: Ok(object), attacher, watched, interfaces: Some(interfaces), unchanged, .. } = self else {
            return;
        };
        for (&ifindex, Watched { current, attachment, .. }) in watched {
            if attacher.mode().is_some_and(|mode| attachment.is(mode)) {
                continue;
            }
            let Current { name, framing } = current;
            let stayed = || interfaces.index_of(name) == Some(ifindex);
            match attacher.change(&mut object.ebpf, (ifindex, name), *framing, attachment, stayed) {
                Ok(()) => {
                    tracing::info!(interface = name, ifindex, mode = ?attacher.mode(), "attached in another way");
                    unchanged.remove(&ifindex);
                }
                Err(AttachError::Moved) => {}
                Err(error) => {
                    let reason = describe(&error);
                    if unchanged.get(&ifindex) != Some(&reason) {
                        tracing::warn!(interface = name, ifindex, reason, "stays attached as it is");
                        unchanged.insert(ifindex, reason);
                    }
                }
            }
        }
        let attached = |ifindex: &u32| self.watched.contains_key(ifindex);
        self.unchanged.retain(|ifindex, _| attached(ifindex));
    }

    /// Does what a change of the interfaces asks for. Those that it brought are awaited from its message on, except
    /// the first, which were there before us.
    fn follow(&mut self) {
        if self.swept
            && let Some(heard) = self.interfaces.as_ref().map(Interfaces::heard)
        {
            for step in self.steps().unwrap_or_default() {
                if let Step::Attach { ifindex, .. } = step {
                    self.awaited.entry(ifindex).or_insert(heard);
                }
            }
        }
        self.reconcile();
    }

    /// `None` while interfaces or patterns are not known, or by which policy packets are to be judged: programs without it
    /// would let pass what those of the daemon before drop.
    fn steps(&self) -> Option<Vec<Step>> {
        if self.object.as_ref().is_ok_and(|object| !object.policy.decided()) {
            return None;
        }
        let links = self.interfaces.as_ref().and_then(Interfaces::links)?;
        let current = self.watched.iter().map(|(&ifindex, watched)| (ifindex, watched.current.clone())).gather();
        Some(plan(&current, links, self.patterns.as_ref()?))
    }

    /// Carries out what the interfaces there are ask for.
    fn reconcile(&mut self) {
        let Some(steps) = self.steps() else { return };
        let Some(links) = self.interfaces.as_ref().and_then(Interfaces::links) else { return };
        let Some(patterns) = &self.patterns else { return };
        self.awaited.retain(|awaited, _| {
            steps.iter().any(|step| matches!(step, Step::Attach { ifindex, .. } if ifindex == awaited))
        });
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
        self.change_attachments();
        self.settle();
    }

    /// What was to be watched is, or it is known why not.
    fn settle(&mut self) {
        for reply in self.unsettled.drain(..) {
            let _gone = reply.send(Ok(()));
        }
    }

    fn attach(&mut self, ifindex: u32, name: String, framing: Framing, before: &BTreeMap<u32, NotWatched>) {
        let reason = match self.try_attach(ifindex, &name, framing) {
            Ok(Some(attachment)) => {
                tracing::info!(interface = name, ifindex, mode = ?self.attacher.mode(), "watching");
                self.tell(Event::Watched { interface: name.clone() });
                let attached_after = self.awaited.remove(&ifindex).map(|since| since.elapsed());
                self.watched
                    .insert(ifindex, Watched { current: Current { name, framing }, attachment, attached_after });
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
        if let Some(slot) = self.ledger.slot(ifindex) {
            object.policy.set_interface(slot, Some(name));
        }
        let attached = self.attacher.attach(&mut object.ebpf, ifindex, name, framing);
        // Netlink goes by the name. Where the name has moved to another interface meanwhile, so have the programs.
        let present = self.interfaces.as_ref().and_then(|interfaces| interfaces.index_of(name));
        let stayed = present == Some(ifindex);
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
            // What was taken over there is what guards that interface.
            Ok(attachment)
                if self.attacher.mode() == Some(AttachMode::Netlink)
                    && present.is_some_and(|present| self.watched.contains_key(&present)) =>
            {
                leave(&mut object.ebpf, attachment);
                None
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
            if let (Ok(object), Some(slot)) = (&self.object, self.ledger.slot(ifindex)) {
                object.policy.set_interface(slot, Some(&name));
            }
            watched.current.name = name;
        }
    }

    fn detach(&mut self, ifindex: u32) {
        let Some(Watched { current, attachment, attached_after }) = self.watched.remove(&ifindex) else { return };
        if let Ok(object) = &mut self.object {
            detach(&mut object.ebpf, attachment);
        }
        self.retire(ifindex, current, attached_after);
    }

    /// Keeps the last counters of an interface that is watched no longer.
    fn retire(&mut self, ifindex: u32, Current { name, framing }: Current, attached_after: Option<Duration>) {
        tracing::info!(interface = name, ifindex, "no longer watching");
        self.tell(Event::Unwatched { interface: name.clone() });
        let Ok(object) = &mut self.object else { return };
        let slot = self.ledger.slot(ifindex);
        if let Some(slot) = slot {
            object.policy.set_interface(slot, None);
        }
        match self.ledger.close(object, ifindex) {
            Ok(rows) if self.gone.len() < MAX_GONE => {
                self.gone.push(InterfaceCounters { name, ifindex, framing, attached_after, rows: slot.map(|_| rows) });
            }
            Ok(rows) => self.overflow += rows,
            Err(error) => tracing::error!(interface = name, %error, "last counters are lost"),
        }
    }

    /// Once after the start: removes links and filters of a killed daemon, except those that were taken over.
    fn sweep(&mut self, names: &[(u32, String)]) {
        if self.object.is_ok() && !self.swept {
            let held: Vec<_> = self.watched.values().flat_map(|watched| watched.attachment.pins()).collect();
            self.attacher.sweep_pins(&held);
        }
        self.swept = true;
        let netlink = self.attacher.mode() == Some(AttachMode::Netlink);
        for (ifindex, name) in names {
            if self.object.is_ok() && !(netlink && self.watched.contains_key(ifindex)) {
                Attacher::sweep(name);
            }
        }
    }

    /// Whether `tcp_sendmsg` is to be timed, was not tried yet, and the interfaces that are there have their programs.
    const fn wants_to_time_sends(&self) -> bool {
        self.sends_wanted && self.swept && self.sends.is_none() && self.object.is_ok()
    }

    fn time_sends(&mut self) {
        let Ok(object) = &mut self.object else { return };
        let started = sends::start(&mut object.ebpf);
        match &started {
            Ok(()) => tracing::info!("timing tcp_sendmsg"),
            Err(Unavailable { why, fix, .. }) => tracing::info!(reason = why, fix, "tcp_sendmsg is not timed"),
        }
        self.sends = Some(started);
    }

    fn stop_timing_sends(&mut self) {
        if let (Ok(object), Some(_)) = (&mut self.object, self.sends.take()) {
            sends::stop(&mut object.ebpf);
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
            unavailable: self
                .object
                .as_ref()
                .err()
                .into_iter()
                .chain(self.netlink.as_ref().map(|(unavailable, _)| unavailable))
                .cloned()
                .collect(),
            attach: self.mode_in_use(),
            not_pinned: self.attacher.not_pinned().map(str::to_owned),
            events_dropped: self.events_dropped,
            ..Readings::default()
        };
        let Ok(object) = &self.object else { return Ok(readings) };
        readings.flow_capacity = object.flow_capacity;
        readings.samples = read_samples(object).map_err(map_error("read the sample counters"))?;
        readings.sends = match &self.sends {
            Some(Ok(())) => Some(Ok(read_sends(object).map_err(map_error("read the times of tcp_sendmsg"))?)),
            Some(Err(unavailable)) => Some(Err(unavailable.clone())),
            None => None,
        };
        readings.other = read_other(object).map_err(map_error("read the counters"))?;
        readings.other += self.overflow;
        for (&ifindex, Watched { current, attached_after, .. }) in &self.watched {
            readings.interfaces.push(InterfaceCounters {
                name: current.name.clone(),
                ifindex,
                framing: current.framing,
                attached_after: *attached_after,
                rows: self.ledger.read(object, ifindex).map_err(map_error("read the counters"))?,
            });
        }
        // Last, so that a failure above does not lose them.
        readings.gone = std::mem::take(&mut self.gone);
        Ok(readings)
    }

    /// The way in which interfaces are attached: that which is wanted, unless one of them is not so yet.
    fn mode_in_use(&self) -> Option<AttachMode> {
        let wanted = self.attacher.mode()?;
        let other = self.watched.values().find(|watched| !watched.attachment.is(wanted));
        Some(match (other, wanted) {
            (None, wanted) => wanted,
            (Some(_), AttachMode::Tcx) => AttachMode::Netlink,
            (Some(_), AttachMode::Netlink) => AttachMode::Tcx,
        })
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

    /// Takes all programs off, unless a policy is to stay in force.
    fn stop(&mut self, on_stop: OnStop) {
        let Ok(object) = &mut self.object else { return };
        let keep = on_stop == OnStop::Keep && object.policy.enforces();
        if keep {
            match self.attacher.not_pinned() {
                None => tracing::info!("the policy stays in force"),
                Some(reason) => {
                    tracing::warn!(reason, "the policy ends with the daemon: its links are not pinned");
                }
            }
        }
        for Watched { attachment, .. } in std::mem::take(&mut self.watched).into_values() {
            if keep {
                leave(&mut object.ebpf, attachment);
            } else {
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

/// Waits for a change of the interfaces; safe to cancel. Without netlink, for the next try.
async fn interfaces_change(
    interfaces: &mut Option<Interfaces>,
    netlink: &mut Option<(Unavailable, Instant)>,
) -> Happened {
    let failure = loop {
        if let Some((_, at)) = netlink {
            sleep_until((*at).into()).await;
        }
        match interfaces {
            Some(open) => match open.changed().await {
                Ok(()) => return Happened::Interfaces,
                Err(error) => break error,
            },
            None => match Interfaces::open() {
                Ok(opened) => {
                    *interfaces = Some(opened);
                    *netlink = None;
                }
                Err(error) => break error,
            },
        }
    };
    tracing::warn!(error = %failure, "cannot follow interfaces; opening netlink again");
    *interfaces = None;
    let unavailable = Unavailable {
        what: "interface changes".into(),
        why: format!("rtnetlink: {failure}"),
        fix: "allow AF_NETLINK sockets (RestrictAddressFamilies=)".into(),
    };
    *netlink = Some((unavailable, Instant::now() + REOPEN));
    Happened::NoInterfaces
}

/// Waits for [`QUIET`] where something is to be done then, else for ever. Whatever else happens begins it anew.
async fn quiet(wanted: bool) {
    if wanted {
        sleep(QUIET).await;
    } else {
        std::future::pending::<()>().await;
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
    unknown.map(|(&ifindex, link)| (ifindex, refuse(link))).gather()
}

fn names(links: &BTreeMap<u32, Link>) -> Vec<(u32, String)> {
    links.iter().map(|(&ifindex, link)| (ifindex, link.name.clone())).collect()
}

fn map_error(call: &'static str) -> impl FnOnce(MapError) -> KernelError {
    move |error| KernelError::Map { call, reason: describe(&error) }
}
