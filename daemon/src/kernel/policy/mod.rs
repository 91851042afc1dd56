//! The policy in the kernel: one generation that packets are judged by, and how another takes its place.
//!
//! A [`Generation`] becomes a map of its own, complete before any program sees it. One write into a slot puts it in force:
//! from then on every judgement is made by it, whole. What it takes to make the map may fail; then the generation before
//! stays in force, as whole as it was.
//!
//! ```text
//!   Undecided ── enforce(Some or None) ──► in force ──┐
//!   nothing may be attached yet              ▲        │ enforce: make ─► rates over ─► write ─► visible: answer
//!                                            └────────┘                                  └─► nobody uses the old one:
//!                                                                                            last counts, memory back
//! ```
//!
//! - *Undecided*: until somebody said which policy is in force, or that none is, no program is attached or put in the
//!   place of one that a daemon before left: no packet meets our programs without the policy. There is no time limit,
//!   for what ended it would be an open gateway.
//! - One switch is under way at a time; the next waits. While two generations are alive, both are counted.
//! - An interface's mask stands in the generation before its programs are attached, and those of all interfaces that are
//!   watched before the generation is in force.
//! - Counters live on by the rule's name, as do rates (those by peer in the kernel's table, by id): a switch gives nobody a
//!   burst more. They begin anew with the daemon.
//!
//! `map` is the memory, `live` a generation's words, `slots` the writes, `books` the counters over generations, `drops`
//! the packets that are told of, `rules` the names.

mod books;
mod drops;
mod live;
mod map;
mod rules;
mod slots;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tidegate_abi::policy::{Block, Dropped};
use tidegate_values::patterns::{PatternError, Patterns};
use tokio::{sync::oneshot, time::sleep};

pub use self::{
    books::RuleCounts,
    drops::DroppedPacket,
    rules::{DEFAULT_RULE, RuleAction, Rules},
};
use self::{
    books::{Books, Counts},
    live::{Live, MakeError},
    map::GenerationMap,
};
pub(super) use self::{drops::Ring, slots::Slots};
use super::{KernelError, Reply, Unavailable};
use crate::{
    gather::Gather as _,
    heap,
    policy::{Bundle, tables::Tables},
};

/// How long the thread looks for the new verdict without doing anything else: it is there after 8 µs, 35 at most
/// (measured), unless another program has this processor.
const SPIN: Duration = Duration::from_millis(1);
/// Between two looks afterwards.
const LOOK: Duration = Duration::from_millis(1);
/// Rules of one [`PolicyCounts`]: 160 KB while it lives.
const CHUNK_RULES: usize = 4096;

/// A compiled policy, ready for the kernel.
#[derive(Clone, Debug)]
pub struct Generation {
    /// As `tidegate_abi::policy` lays them out; the number in the header is set here.
    pub blocks: Vec<Block>,
    /// What bit n of an interface's mask stands for.
    pub interface_lists: Vec<Patterns>,
    /// What the rules are called.
    pub rules: Arc<Rules>,
}

impl Generation {
    /// A bundle, and what it was compiled to.
    ///
    /// # Errors
    ///
    /// Where a list of interfaces is none, which reading the bundle finds out before.
    pub fn new(bundle: &Bundle, tables: Tables) -> Result<Self, PatternError> {
        let Tables { blocks, interface_lists } = tables;
        let interface_lists =
            interface_lists.iter().map(|list| Patterns::parse(list)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { blocks, interface_lists, rules: Arc::new(Rules::of(bundle)) })
    }
}

/// What becomes of the policy when the daemon stops in order. After a crash it always stays in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnStop {
    /// It stays in force: programs and tables outlive the daemon, where there is a policy.
    #[default]
    Keep,
    /// Everything is taken off.
    Open,
}

/// A policy is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforced {
    /// Making its map and filling it.
    pub load: Duration,
    /// From the beginning of the write that decides until it was seen to have taken effect.
    pub switch: Duration,
}

/// Which policy is in force, in figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Its rules.
    pub rules: Arc<Rules>,
    /// Bytes of its tables; the kernel's map of them has 2 or 8 MiB.
    pub table_bytes: u64,
}

/// Part of the counters of the policy in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyCounts {
    /// The policy; `None` where there is none.
    pub in_force: Option<InForce>,
    /// Rules that ever decided anything, by number, ascending.
    pub counts: Vec<(u32, RuleCounts)>,
    /// From where the next part goes on; `None` behind the last.
    pub next: Option<u32>,
    /// What rules counted that are no more.
    pub departed: RuleCounts,
    /// Dropped packets that were told of and that nobody took in time, since the start.
    pub drops_missed: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Policy {
    slots: Slots,
    decided: bool,
    current: Option<Live>,
    switch: Option<Switch>,
    books: Books,
    /// Of the generation that was made last.
    number: u32,
}

/// A switch under way.
#[derive(Debug)]
struct Switch {
    /// The write's answer.
    written: oneshot::Receiver<std::io::Result<()>>,
    begun: Instant,
    load: Duration,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Written, and not yet seen to have taken effect.
    Writing { next: Option<Live>, reply: Reply<Enforced> },
    /// Programs may still be running that use the generation before.
    Retiring {
        old: Option<Live>,
        /// What it had counted when the new one took effect.
        counted: Counts,
    },
}

impl Policy {
    /// Nothing is decided yet.
    #[must_use]
    pub(super) fn new(slots: Slots) -> Self {
        Self { slots, decided: false, current: None, switch: None, books: Books::default(), number: 0 }
    }

    /// Whether it has been said which policy is in force, or that none is: what may be attached waits for it.
    #[must_use]
    pub(super) const fn decided(&self) -> bool {
        self.decided
    }

    /// Whether there is a policy in force.
    #[must_use]
    pub(super) const fn enforces(&self) -> bool {
        self.current.is_some()
    }

    /// Whether another switch can begin.
    #[must_use]
    pub(super) const fn is_idle(&self) -> bool {
        self.switch.is_none()
    }

    /// Begins to enforce this policy, or none, for the interfaces that are watched in these slots. Answers once packets are
    /// judged by it, or once it is known that they go on being judged as before.
    ///
    /// # Panics
    ///
    /// While another switch is under way.
    pub(super) fn enforce<'a>(
        &mut self,
        generation: Option<Generation>,
        interfaces: impl Iterator<Item = (u32, &'a str)>,
        reply: Reply<Enforced>,
    ) {
        assert!(self.is_idle(), "one switch at a time");
        if generation.is_none() && self.current.is_none() {
            self.decided = true;
            let _gone = reply.send(Ok(Enforced::default()));
            return;
        }
        match self.begin(generation, interfaces) {
            Ok((next, written, begun, load)) => {
                let stage = Stage::Writing { next, reply };
                self.switch = Some(Switch { written, begun, load, stage });
                while !self.look() && begun.elapsed() < SPIN {
                    std::thread::yield_now();
                }
            }
            Err(error) => {
                tracing::error!(%error, "the policy is not enforced; what was in force before stays");
                let _gone = reply.send(Err(error.into()));
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "the parts of a switch, for one caller")]
    fn begin<'a>(
        &mut self,
        generation: Option<Generation>,
        interfaces: impl Iterator<Item = (u32, &'a str)>,
    ) -> Result<(Option<Live>, oneshot::Receiver<std::io::Result<()>>, Instant, Duration), MakeError> {
        let start = Instant::now();
        let made = generation.map(|generation| {
            self.number = self.number.wrapping_add(1);
            Live::make(generation, self.number)
        });
        let (mut next, map): (Option<Live>, Option<GenerationMap>) = made.transpose()?.unzip();
        if let Some(next) = &mut next {
            for (slot, name) in interfaces {
                next.set_interface(slot, Some(name));
            }
            if let Some(current) = &self.current {
                next.take_over_rates(current, boot_ns());
            }
        }
        let load = start.elapsed();
        let begun = Instant::now();
        let put = next.as_ref().map(|next| next.size).zip(map.map(GenerationMap::into_fd));
        let written = self
            .slots
            .write(self.current.as_ref().map(|current| current.size), put)
            .map_err(|source| MakeError::System { call: "start a thread that writes the policy's slot", source })?;
        Ok((next, written, begun, load))
    }

    /// Looks whether the switch has taken effect, and says so to whoever asked for it.
    fn look(&mut self) -> bool {
        let Some(Switch { stage: Stage::Writing { next, .. }, .. }) = &self.switch else { return true };
        // What cannot be read is known once the write has returned.
        let effective = self.slots.effective().is_ok_and(|id| id == next.as_ref().map(|next| next.id));
        if effective {
            self.took_effect();
        }
        effective
    }

    fn took_effect(&mut self) {
        let Some(switch) = &mut self.switch else { return };
        let nothing = Stage::Retiring { old: None, counted: Counts::new() };
        let Stage::Writing { next, reply } = std::mem::replace(&mut switch.stage, nothing) else { return };
        let enforced = Enforced { load: switch.load, switch: switch.begun.elapsed() };
        self.decided = true;
        let old = std::mem::replace(&mut self.current, next);
        if let (Some(current), Some(old)) = (&mut self.current, &old) {
            current.settle_rates(old, boot_ns());
        }
        let _gone = reply.send(Ok(enforced));
        let counted: Counts = old.iter().flat_map(|old| old.counts(DEFAULT_RULE)).gather();
        if let Some(old) = &old {
            self.books.turn(&old.rules, &counted, self.current.as_ref().map(|current| &*current.rules));
        }
        switch.stage = Stage::Retiring { old, counted };
        let Some(Live { rules, blocks, number, .. }) = &self.current else {
            tracing::info!("no policy is enforced any more");
            return;
        };
        tracing::info!(
            version = rules.version(),
            generation = number,
            rules = rules.len(),
            prefixes = rules.prefixes(),
            table_bytes = blocks * size_of::<Block>(),
            load_us = micros(enforced.load),
            switch_us = micros(enforced.switch),
            "policy enforced"
        );
    }

    /// Goes on with a switch, until it is finished; for ever where there is none. Safe to cancel.
    pub(super) async fn progress(&mut self) {
        loop {
            self.look();
            let Some(switch) = &mut self.switch else { return std::future::pending().await };
            let writing = matches!(switch.stage, Stage::Writing { .. });
            tokio::select! {
                written = &mut switch.written => {
                    let written = written.unwrap_or_else(|_| Err(std::io::Error::other("its thread ended")));
                    self.finish(written);
                    return;
                }
                () = sleep(LOOK), if writing => {}
            }
        }
    }

    fn finish(&mut self, written: std::io::Result<()>) {
        // What the tables were copied from, and whatever control needed to make them.
        heap::give_back();
        if written.is_ok() {
            self.took_effect();
        }
        match (self.switch.take().map(|switch| switch.stage), written) {
            (Some(Stage::Retiring { old: Some(old), counted }), _) => {
                if let Some(current) = &mut self.current {
                    current.settle_rates(&old, boot_ns());
                    current.have_settled();
                }
                // Its counters stand still from now on.
                let more: Counts = old
                    .counts(DEFAULT_RULE)
                    .map(|(rule, now)| (rule, now - counted.get(&rule).copied().unwrap_or_default()))
                    .filter(|(_, more)| *more != RuleCounts::default())
                    .gather();
                self.books.add(&old.rules, &more, self.current.as_ref().map(|current| &*current.rules));
            }
            (Some(Stage::Writing { reply, .. }), Err(error)) => {
                tracing::error!(%error, "the policy is not enforced; what was in force before stays");
                let reason = error.to_string();
                let _gone = reply.send(Err(KernelError::Map { call: "write the policy's slot", reason }));
            }
            _ => {}
        }
    }

    /// Says which interface a slot is from now on, or that it is nobody's. Call before attaching.
    pub(super) fn set_interface(&self, slot: u32, name: Option<&str>) {
        let next = self.switch.as_ref().and_then(|switch| match &switch.stage {
            Stage::Writing { next, .. } => next.as_ref(),
            Stage::Retiring { old, .. } => old.as_ref(),
        });
        for live in self.current.iter().chain(next) {
            live.set_interface(slot, name);
        }
    }

    /// Counters of rules from number `from` on, in bounded number.
    #[must_use]
    pub(super) fn counts(&self, from: u32) -> PolicyCounts {
        let mut part = PolicyCounts { departed: self.books.departed(), ..PolicyCounts::default() };
        let Some(current) = &self.current else { return part };
        part.in_force = Some(InForce {
            rules: Arc::clone(&current.rules),
            table_bytes: (current.blocks * size_of::<Block>()) as u64,
        });
        let (mut now, mut before) = (current.counts(from).peekable(), self.books.from(from).peekable());
        while let Some(rule) = now.peek().map(|(rule, _)| *rule).into_iter().chain(before.peek().copied()).min() {
            if part.counts.len() == CHUNK_RULES {
                part.next = Some(rule);
                break;
            }
            let mut counts = self.books.before(rule);
            if let Some((_, counted)) = now.next_if(|(counted, _)| *counted == rule) {
                counts += counted;
            }
            before.next_if_eq(&rule);
            part.counts.push((rule, counts));
        }
        part
    }

    /// Names what programs told; `None` where the policy that the packet met is forgotten.
    #[must_use]
    pub(super) fn name(&self, dropped: &Dropped, interface: String) -> Option<DroppedPacket> {
        let others = self.switch.as_ref().and_then(|switch| match &switch.stage {
            Stage::Writing { next, .. } => next.as_ref(),
            Stage::Retiring { old, .. } => old.as_ref(),
        });
        let live = self.current.iter().chain(others).find(|live| live.number == dropped.generation)?;
        Some(DroppedPacket::new(dropped, Arc::clone(&live.rules), interface))
    }
}

impl From<MakeError> for KernelError {
    fn from(error: MakeError) -> Self {
        let no_memory =
            matches!(&error, MakeError::System { source, .. } if source.raw_os_error() == Some(libc::ENOMEM));
        if no_memory {
            return Self::Unavailable(Unavailable {
                what: "policy".into(),
                why: error.to_string(),
                fix: "give the service more memory: a large policy takes 8 MiB, and twice that while it is replaced"
                    .into(),
            });
        }
        match error {
            MakeError::System { call, source } => Self::Map { call, reason: source.to_string() },
            error => Self::Map { call: "load the policy", reason: error.to_string() },
        }
    }
}

/// `bpf_ktime_get_boot_ns`, as the programs have it.
fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (now.tv_sec.cast_unsigned(), now.tv_nsec.cast_unsigned());
    seconds * 1_000_000_000 + nanos
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
