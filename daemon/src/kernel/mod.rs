//! The kernel side: loads the eBPF programs, keeps them on the interfaces that match, reads what they counted.
//!
//! The only place that touches aya. It runs on a thread of its own and is spoken to by messages only, so that it
//! can become a process that alone holds the capabilities:
//!
//! ```text
//!   Kernel (handle, clones) ── requests, 16 ──► thread: one request at a time, interface changes in between
//!          ◄── answers, one each ──             │
//!   receiver ◄──────────── events, 64 ──────────┘
//! ```
//!
//! Nothing that can be large is answered whole: flows are asked for in chunks, each with the place where the next
//! starts. A consumer that stalls thereby holds up nobody, and what it has not taken stays in the kernel's table.
//!
//! Without privileges, or on a kernel that lacks something, the thread runs all the same, follows the interfaces,
//! and says in [`Readings::unavailable`] what it cannot do, why, and what would mend it.

mod actor;
mod attach;
mod batch;
pub mod bench;
mod cost;
mod counters;
mod interfaces;
mod object;
mod pins;
mod plan;
mod policy;
mod sends;
mod slots;
mod syscall;
mod tcx;

use std::{io, path::PathBuf, thread::JoinHandle, time::Duration};

use serde::Serialize;
use tidegate_abi::{FlowKey, FlowValue, SampleCounters, SendTimes};
use tidegate_values::Patterns;
use tokio::sync::{mpsc, oneshot};

pub use self::{
    attach::AttachMode,
    batch::Cursor,
    cost::{MapCost, ProgramCost},
    counters::Rows,
    object::default_flow_capacity,
    plan::Framing,
    policy::{
        DEFAULT_RULE, DroppedPacket, Enforced, Generation, InForce, OnStop, PolicyCounts, RuleAction, RuleCounts, Rules,
    },
};
use crate::config::Attach;

/// Requests that wait: a handful of askers (traffic source, control socket) with one question each.
const REQUESTS: usize = 16;
/// Events that wait. They announce what [`Kernel::read`] tells anyway, so beyond this they are dropped and counted.
const EVENTS: usize = 64;
/// Policies that wait to be enforced, beside the one that is about to be: up to 8 MiB each.
const POLICIES: usize = 1;
/// Dropped packets that wait to be taken: the programs tell of at most 100 a second and CPU. Beyond this they are
/// counted, as the rules' counters count them anyway.
const DROPS: usize = 256;
/// Entries of one [`Chunk`]: 475 KB while it lives.
const CHUNK_ENTRIES: usize = 4096;
/// Interfaces that went away and whose last counters wait for the next [`Kernel::read`]: 3 KB each. Beyond this
/// their counters go to "other".
const MAX_GONE: usize = 256;

/// Something that this machine does not do, so that a person can mend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unavailable {
    /// What is missing from the output.
    pub what: String,
    /// What was tried and what the system said.
    pub why: String,
    /// What would mend it.
    pub fix: String,
}

/// How to start.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Entries of the flow table; by the machine's memory where absent.
    pub flow_capacity: Option<u32>,
    /// Folder of a BPF file system in which links are pinned; where absent they are not.
    pub pins: Option<PathBuf>,
}

/// Which interfaces are to be watched, and how.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Names and globs.
    pub patterns: Patterns,
    /// TCX or netlink.
    pub attach: Attach,
}

/// One interface that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Name now.
    pub name: String,
    /// Index. A name that comes back with another index is another interface, and counts from zero.
    pub ifindex: u32,
    /// What its packets start with.
    pub framing: Framing,
    /// From reading the kernel's message that told of it until both directions were attached; `None` where it was there
    /// at the start, or is watched since the patterns changed.
    pub attached_after: Option<Duration>,
    /// What it counted since it has been watched; `None` where it counts as "other".
    pub rows: Option<Rows>,
}

/// One interface that matches and is not watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotWatched {
    /// Its name.
    pub interface: String,
    /// Why.
    pub reason: String,
}

/// Everything that is small, read at one time.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// Watched interfaces by index.
    pub interfaces: Vec<InterfaceCounters>,
    /// Interfaces that are no longer watched, with their last counters. Each is told once.
    pub gone: Vec<InterfaceCounters>,
    /// What interfaces without rows of their own counted, and those for which [`Self::gone`] had no room.
    pub other: Rows,
    /// Interfaces that match and are not watched.
    pub not_watched: Vec<NotWatched>,
    /// What this machine does not do.
    pub unavailable: Vec<Unavailable>,
    /// How programs are attached; `None` until the first was.
    pub attach: Option<AttachMode>,
    /// Why TCX links end with the daemon; `None` where they are pinned, and without links.
    pub not_pinned: Option<String>,
    /// Samples, since the programs were loaded.
    pub samples: SampleCounters,
    /// Time spent in `tcp_sendmsg`, or why it is not known; `None` where nobody asked, and until it was tried.
    pub sends: Option<Result<SendTimes, Unavailable>>,
    /// Entries that the flow table was made for; 0 where there is none.
    pub flow_capacity: u32,
    /// Events that nobody took in time, since the start.
    pub events_dropped: u64,
}

/// Part of the flow table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Flows in no order.
    pub flows: Vec<(FlowKey, FlowValue)>,
    /// Where the next chunk starts; `None` behind the last.
    pub next: Option<Cursor>,
}

/// What programs and maps cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// By program.
    pub programs: Vec<ProgramCost>,
    /// By map.
    pub maps: Vec<MapCost>,
    /// Why run times are not counted, where they are not.
    pub run_times_unavailable: Option<Unavailable>,
}

/// What happened at the kernel's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An interface is watched from now on.
    Watched {
        /// Its name.
        interface: String,
    },
    /// An interface is watched no longer.
    Unwatched {
        /// Its last name.
        interface: String,
    },
    /// An interface found no counters of its own: more than 255 are watched.
    SlotsExhausted {
        /// Its name.
        interface: String,
    },
}

/// Why an answer did not come.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The thread has ended.
    #[error("the kernel side has been stopped")]
    Stopped,
    /// The programs are not loaded.
    #[error("{}: {}; {}", .0.what, .0.why, .0.fix)]
    Unavailable(Unavailable),
    /// A map could not be read or written.
    #[error("{call}: {reason}")]
    Map {
        /// What was tried.
        call: &'static str,
        /// What the system said.
        reason: String,
    },
}

type Reply<T> = oneshot::Sender<Result<T, KernelError>>;

/// What the handle asks of the thread.
#[derive(Debug)]
enum Request {
    Watch { watch: Watch, reply: Reply<()> },
    SampleRate { rate: u32, reply: Reply<()> },
    Read { reply: Reply<Readings> },
    Flows { from: Option<Cursor>, take: bool, reply: Reply<Chunk> },
    Cost { reply: Reply<Cost> },
    CountRunTimes { on: bool, reply: Reply<()> },
    Ping { reply: Reply<()> },
    TimeSends { on: bool, reply: Reply<()> },
    PolicyCounts { from: u32, reply: Reply<PolicyCounts> },
    Stop { on_stop: OnStop, reply: Reply<()> },
}

/// A policy on its way to the thread.
#[derive(Debug)]
struct Enforce {
    generation: Option<Box<Generation>>,
    reply: Reply<Enforced>,
}

/// Handle to the kernel side. It ends, and detaches, when it is stopped or the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Kernel {
    requests: mpsc::Sender<Request>,
    /// Apart from the others: the thread takes the next one when the one before is in force.
    policies: mpsc::Sender<Enforce>,
}

/// What [`Kernel::start`] makes.
#[derive(Debug)]
pub struct Started {
    /// The handle.
    pub kernel: Kernel,
    /// What happens to interfaces.
    pub events: mpsc::Receiver<Event>,
    /// Packets that the policy dropped, as far as they are told of.
    pub drops: mpsc::Receiver<DroppedPacket>,
    /// The thread.
    pub thread: JoinHandle<()>,
}

impl Kernel {
    /// Starts the thread. Loading the programs goes on there; requests wait until it is done.
    ///
    /// # Errors
    ///
    /// Where the system gives no thread, or no event queue for it.
    pub fn start(options: Options) -> io::Result<Started> {
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let (policies, wanted) = mpsc::channel(POLICIES);
        let (outbox, events) = mpsc::channel(EVENTS);
        let (told, drops) = mpsc::channel(DROPS);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let channels = actor::Channels { requests: inbox, policies: wanted, events: outbox, drops: told };
        let thread = std::thread::Builder::new()
            .name("kernel".into())
            .spawn(move || runtime.block_on(actor::run(&options, channels)))?;
        Ok(Started { kernel: Self { requests, policies }, events, drops, thread })
    }

    /// Enforces this policy, or none, in place of the one before. Returns once packets are judged by it: one write decides,
    /// so that each packet meets the old one or the new one, whole. Until this was called for the first time no interface
    /// is attached.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] where the programs are not loaded or there is no memory, [`KernelError::Map`] where the
    /// kernel refuses. What was in force before stays then; where it was the first call, still nothing is attached.
    pub async fn enforce(&self, generation: Option<Box<Generation>>) -> Result<Enforced, KernelError> {
        let (reply, answer) = oneshot::channel();
        self.policies.send(Enforce { generation, reply }).await.map_err(|_| KernelError::Stopped)?;
        answer.await.map_err(|_| KernelError::Stopped)?
    }

    /// Reads the counters of the policy's rules, those of rule number `from` and the following ones.
    ///
    /// # Errors
    ///
    /// Where the programs are not loaded.
    pub async fn policy_counts(&self, from: u32) -> Result<PolicyCounts, KernelError> {
        self.ask(|reply| Request::PolicyCounts { from, reply }).await
    }

    /// Watches these interfaces from now on, and only these. Another way of attaching takes the other's place,
    /// with a moment in which both judge and count. Returns once those that are there are watched, or it is known why not; that is not before [`Self::enforce`] said by which policy.
    ///
    /// # Errors
    ///
    /// [`KernelError::Stopped`]. Interfaces that cannot be watched are in [`Readings::not_watched`].
    pub async fn watch(&self, watch: Watch) -> Result<(), KernelError> {
        self.ask(|reply| Request::Watch { watch, reply }).await
    }

    /// Samples one in `rate` packets from the next packet on; 0 samples none.
    ///
    /// # Errors
    ///
    /// Where the programs are not loaded.
    pub async fn set_sample_rate(&self, rate: u32) -> Result<(), KernelError> {
        self.ask(|reply| Request::SampleRate { rate, reply }).await
    }

    /// Reads all counters.
    ///
    /// # Errors
    ///
    /// Where a map cannot be read. Without programs there are readings, without counters.
    pub async fn read(&self) -> Result<Readings, KernelError> {
        self.ask(|reply| Request::Read { reply }).await
    }

    /// Takes a chunk of flows out of the table.
    ///
    /// # Errors
    ///
    /// Where there is no table, or it cannot be read.
    pub async fn drain(&self, from: Option<Cursor>) -> Result<Chunk, KernelError> {
        self.ask(|reply| Request::Flows { from, take: true, reply }).await
    }

    /// Looks at a chunk of flows and leaves them where they are.
    ///
    /// # Errors
    ///
    /// Where there is no table, or it cannot be read.
    pub async fn peek(&self, from: Option<Cursor>) -> Result<Chunk, KernelError> {
        self.ask(|reply| Request::Flows { from, take: false, reply }).await
    }

    /// What programs and maps cost.
    ///
    /// # Errors
    ///
    /// Where the programs are not loaded.
    pub async fn cost(&self) -> Result<Cost, KernelError> {
        self.ask(|reply| Request::Cost { reply }).await
    }

    /// Has the kernel count run times, or no longer: see [`Cost`]. That itself costs about 20 ns a packet.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] without `CAP_SYS_ADMIN`.
    pub async fn count_run_times(&self, on: bool) -> Result<(), KernelError> {
        self.ask(|reply| Request::CountRunTimes { on, reply }).await
    }

    /// Asks whether the thread still serves: true once it answers, false where it has ended.
    pub async fn ping(&self) -> bool {
        self.ask(|reply| Request::Ping { reply }).await.is_ok()
    }

    /// Times each call of `tcp_sendmsg`, once the interfaces are attached and nothing else is asked, or no longer. Four
    /// table operations a call.
    ///
    /// # Errors
    ///
    /// [`KernelError::Stopped`]. Where the kernel refuses, [`Readings::sends`] says why.
    pub async fn time_sends(&self, on: bool) -> Result<(), KernelError> {
        self.ask(|reply| Request::TimeSends { on, reply }).await
    }

    /// Ends the thread, and takes all programs off unless a policy is to stay in force.
    pub async fn stop(&self, on_stop: OnStop) {
        // An error says that it had ended before.
        let _ended = self.ask(|reply| Request::Stop { on_stop, reply }).await;
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, KernelError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| KernelError::Stopped)?;
        answer.await.map_err(|_| KernelError::Stopped)?
    }
}
