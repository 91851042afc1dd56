//! Requests to the gateway, and their answers: `cmd/NAME`.
//!
//! ```text
//! request ──► Reception: retained? too many? known? enabled? readable? ──► Command ──► performed ──► answer
//!                  └──────────────── Refusal ──────────────────────────────────────────────────────► answer, or silence
//! ```
//!
//! Everything left of the performing is pure: a request and the time in, a [`Judged`] out.
//!
//! # Operation
//!
//! Requests are performed one after the other, but flows, which may take as long as the link is slow: they stream beside,
//! to one reader at a time. An answer waits at most half a minute for the uplink; then it is given up and counted.
//!
//! `restart` is refused where the daemon would not come up again: nobody starts it, or what the local files say is wrong, which
//! systemd does not try twice. Else it is answered, and the broker has the answer, before the daemon stops. What it logs for a time ends by the clock
//! that nobody sets, and with the process.
//!
//! Who asked is in the log with each request: the user property `user`. It is what the sender says; who may publish to
//! `cmd/…` is the broker's decision.

mod answer;
mod bucket;
mod command;
mod flows;
mod intake;
mod lines;
mod members;
mod name;
mod outbox;
mod perform;
mod reception;
mod refusal;
mod status;
mod topic;

use std::sync::Arc;

use tidegate_upload::order::Order;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::{
    answer::Reply,
    command::{Command, DEFAULT_FLOWS, MAX_FILTER_BYTES, MAX_FLOWS, MAX_LOG_TIME, MIN_LOG_TIME},
    intake::Intake,
    name::Name,
    outbox::ANSWERS,
    reception::{Judged, Reception},
    refusal::{Code, Refusal},
    status::{CommandsStatus, LogLevel},
    topic::{MAX_TOPIC_BYTES, Realm},
};
use self::{lines::Lines, outbox::Outbox, perform::Performer};
use super::link::{Answer, Request, Subject};
use crate::{
    config::{Config, MainFile},
    logging::FilterHandle,
    record::Clock,
    status::Board,
    supervisor::Pulse,
    uplink::Prober,
};

/// Requests on their way from control: as many as the broker may send at once without one being lost in between.
pub const REQUESTS: usize = 16;

/// Performs requests.
#[derive(Debug)]
pub struct Commands {
    /// From control.
    pub requests: mpsc::Receiver<Request>,
    /// To the uplink; of [`ANSWERS`].
    pub answers: mpsc::Sender<Answer>,
    /// Which commands are enabled, and whose topics these are.
    pub config: watch::Receiver<Arc<Config>>,
    /// The local layers: what a restarted daemon would begin with.
    pub main_file: MainFile,
    /// What is told.
    pub board: Arc<Board>,
    /// Tells when the broker has the last answer.
    pub prober: Prober,
    /// When answers are given.
    pub clock: Clock,
    /// What `log-level` changes.
    pub log: FilterHandle,
    /// To control: what is to be tried once more. One that waits there already says the same.
    pub retry: mpsc::Sender<Subject>,
    /// To uploads.
    pub uploads: mpsc::Sender<Order>,
    /// Stops the daemon, to be started again.
    pub restart: CancellationToken,
    /// For `tidegate status`.
    pub status: watch::Sender<CommandsStatus>,
    /// Answers the supervisor.
    pub pulse: Pulse,
    /// Ends this.
    pub shutdown: CancellationToken,
}

impl Commands {
    /// Performs requests until shutdown.
    pub async fn run(self) {
        let Self {
            requests,
            answers,
            config,
            main_file,
            board,
            prober,
            clock,
            log,
            retry,
            uploads,
            restart,
            status,
            pulse,
            shutdown,
        } = self;
        let performer = Performer {
            config,
            main_file,
            board,
            prober,
            log,
            retry,
            uploads,
            restart,
            outbox: Outbox { answers, status, clock },
            reception: Reception::default(),
            lines: Lines::default(),
            log_ends: None,
            flows: None,
        };
        shutdown.run_until_cancelled(performer.serve(requests, pulse)).await;
    }
}
