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
mod patterns;
mod plan;
mod slots;

use std::{io, thread::JoinHandle};

use serde::Serialize;
use tidegate_abi::{FlowKey, FlowValue, SampleCounters};
use tokio::sync::{mpsc, oneshot};

pub use self::{
    attach::AttachMode,
    batch::Cursor,
    cost::{MapCost, ProgramCost},
    counters::Rows,
    object::default_flow_capacity,
    patterns::{DEFAULT_INTERFACES, PatternError, Patterns},
    plan::Framing,
};
use crate::config::Attach;

/// Requests that wait: a handful of askers (traffic source, control socket) with one question each.
const REQUESTS: usize = 16;
/// Events that wait. They announce what [`Kernel::read`] tells anyway, so beyond this they are dropped and counted.
const EVENTS: usize = 64;
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
    /// Samples, since the programs were loaded.
    pub samples: SampleCounters,
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
    Stop { reply: Reply<()> },
}

/// Handle to the kernel side. It ends, and detaches, when it is stopped or the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Kernel {
    requests: mpsc::Sender<Request>,
}

impl Kernel {
    /// Starts the thread. Loading the programs goes on there; requests wait until it is done.
    ///
    /// # Errors
    ///
    /// Where the system gives no thread, or no event queue for it.
    pub fn start(options: Options) -> io::Result<(Self, mpsc::Receiver<Event>, JoinHandle<()>)> {
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let (outbox, events) = mpsc::channel(EVENTS);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let thread = std::thread::Builder::new()
            .name("kernel".into())
            .spawn(move || runtime.block_on(actor::run(&options, inbox, outbox)))?;
        Ok((Self { requests }, events, thread))
    }

    /// Watches these interfaces from now on, and only these. Another way of attaching attaches all anew.
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

    /// Takes all programs off and ends the thread.
    pub async fn stop(&self) {
        // An error says that it had ended before.
        let _ended = self.ask(|reply| Request::Stop { reply }).await;
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, KernelError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| KernelError::Stopped)?;
        answer.await.map_err(|_| KernelError::Stopped)?
    }
}
