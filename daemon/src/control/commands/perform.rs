//! What commands do.

use std::{
    future::{Future, pending},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tidegate_upload::order::Order;
use tokio::{
    select,
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    answer::Reply,
    command::{Command, UPLOAD},
    flows,
    lines::Lines,
    outbox::Outbox,
    reception::Reception,
    refusal::{Code, Refusal},
    status::LogLevel,
    topic::Realm,
};
use crate::{
    config::{Config, Environment, MainFile, Span},
    control::link::{Request, Subject},
    logging::{Filter, FilterHandle},
    status::{Board, Status},
    supervisor::{self, Pulse},
    task,
    uplink::Prober,
};

/// How long the answer to `restart` may take to the broker.
const LAST_ANSWER: Duration = Duration::from_secs(3);

/// How long uploads may take to take an order: they come round between two pieces of a file.
const ORDERED: Duration = Duration::from_secs(5);

/// Performs commands, one after the other.
pub(super) struct Performer {
    pub(super) config: watch::Receiver<Arc<Config>>,
    pub(super) main_file: MainFile,
    pub(super) board: Arc<Board>,
    pub(super) prober: Prober,
    pub(super) log: FilterHandle,
    pub(super) retry: mpsc::Sender<Subject>,
    pub(super) uploads: mpsc::Sender<Order>,
    pub(super) restart: CancellationToken,
    pub(super) outbox: Outbox,
    pub(super) reception: Reception,
    pub(super) lines: Lines,
    /// When the configured filter comes back.
    pub(super) log_ends: Option<Instant>,
    /// The flows that stream.
    pub(super) flows: Option<JoinHandle<()>>,
}

/// What a command gave.
#[derive(Serialize)]
#[serde(untagged)]
enum Data {
    Status(Box<Status>),
    Retry {
        subject: &'static str,
        /// Files that are tried again.
        #[serde(skip_serializing_if = "Option::is_none")]
        files: Option<u64>,
    },
    Pause {
        /// For how long nothing is sent; absent: it goes on.
        #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
        time: Option<String>,
    },
    Log {
        /// What logs from now on.
        filter: String,
        /// For how long; absent: until it is changed.
        #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
        time: Option<String>,
        /// What is configured to log after that.
        #[serde(skip_serializing_if = "Option::is_none")]
        then: Option<String>,
    },
    Restart {},
}

impl Performer {
    /// Performs requests until there are no more.
    pub(super) async fn serve(mut self, mut requests: mpsc::Receiver<Request>, mut pulse: Pulse) {
        loop {
            select! {
                request = requests.recv() => match request {
                    // It waits for the uplink at most, and that has a deadline.
                    Some(request) => pulse.during(self.take(&request)).await,
                    None => return,
                },
                () = at(self.log_ends) => {
                    info!(filter = self.log.configured(), "the time is over; logging as configured");
                    self.log_as_configured();
                }
                () = pulse.asked() => {}
            }
        }
    }

    async fn take(&mut self, request: &Request) {
        let now = Instant::now();
        let config = self.config.borrow().clone();
        let realm = Realm { root: &config.mqtt.root, id: &config.gateway.id };
        let judged = self.reception.judge(now, realm, &config.commands.enabled, request);
        let reply = judged.reply.as_ref();
        let done = match judged.outcome {
            Ok(command) => {
                let (name, changes) = (command.name(), command.changes_something());
                let done = self.perform(now, command, reply).await;
                if done.is_ok() {
                    self.outbox.status.send_modify(|status| *status.performed.entry(name).or_default() += 1);
                    self.lines.performed(now, request, name, changes);
                }
                done
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = &done {
            self.outbox.count(refusal);
            self.lines.refused(now, request, refusal);
        }
        // Whatever is not taken is counted by the outbox; there is nobody else to tell.
        let _counted = match (&done, reply) {
            (Ok(Some(data)), Some(reply)) => self.outbox.done(reply, data).await,
            (Err(refusal), Some(reply)) => self.outbox.refused(reply, refusal).await,
            (Ok(None), _) | (_, None) => Ok(()),
        };
        if let Ok(Some(Data::Restart {})) = done {
            self.leave();
        }
    }

    /// Performs a command; `None`: its answers come by themselves.
    async fn perform(
        &mut self,
        now: Instant,
        command: Command,
        reply: Option<&Reply>,
    ) -> Result<Option<Data>, Refusal> {
        match command {
            Command::Status => Ok(Some(Data::Status(Box::new(self.board.snapshot())))),
            Command::Flows { limit } => self.tell_flows(limit, reply).map(|()| None),
            Command::Retry { subject } => match self.retry.try_send(subject) {
                // One that waits there already says the same.
                Ok(()) | Err(TrySendError::Full(_)) => Ok(Some(Data::Retry { subject: subject.name(), files: None })),
                Err(TrySendError::Closed(_)) => Err(stopping()),
            },
            Command::RetryUploads => {
                let (reply, files) = oneshot::channel();
                let tried = async {
                    self.uploads.send(Order::Retry { reply }).await.ok()?;
                    files.await.ok()
                };
                let files = taken(tried).await?;
                Ok(Some(Data::Retry { subject: UPLOAD, files: Some(files) }))
            }
            Command::PauseUploads(time) => {
                taken(async { self.uploads.send(Order::Pause(time)).await.ok() }).await?;
                Ok(Some(Data::Pause { time: Some(Span(time).to_string()) }))
            }
            Command::ResumeUploads => {
                taken(async { self.uploads.send(Order::Resume).await.ok() }).await?;
                Ok(Some(Data::Pause { time: None }))
            }
            Command::LogFor { filter, time } => Ok(Some(self.log_for(now, *filter, time))),
            Command::LogAsConfigured => {
                self.log_as_configured();
                Ok(Some(Data::Log { filter: self.log.configured(), time: None, then: None }))
            }
            Command::Restart => self.may_restart().await.map(|()| Some(Data::Restart {})),
        }
    }

    /// Whether the daemon would come up again: a gateway that is out of reach for good is not what anybody asks for.
    async fn may_restart(&self) -> Result<(), Refusal> {
        if !supervisor::is_there() {
            let reason =
                "nobody would start the daemon again: it does not run under systemd ($NOTIFY_SOCKET is not set)";
            return Err(Refusal::new(Code::Unsupervised, reason));
        }
        let main_file = self.main_file.clone();
        let reading = spawn_blocking(move || main_file.read(&Environment::of_process()));
        reading.await.expect("reading files does not panic").map(drop).map_err(|errors| {
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            let reason = format!("the daemon would not start with the configuration on disk: {}", errors.join("; "));
            Refusal::new(Code::Failed, &reason)
        })
    }

    fn tell_flows(&mut self, limit: usize, reply: Option<&Reply>) -> Result<(), Refusal> {
        let Some(reply) = reply.cloned() else { return Ok(()) };
        if self.flows.as_ref().is_some_and(|flows| !flows.is_finished()) {
            let reason = "flows are being sent to somebody else; ask again when they have come";
            return Err(Refusal::new(Code::Busy, reason));
        }
        let (board, outbox) = (Arc::clone(&self.board), self.outbox.clone());
        self.flows = Some(task::spawn(async move { flows::tell(&board, limit, &reply, &outbox).await }));
        Ok(())
    }

    fn log_for(&mut self, now: Instant, filter: Filter, time: Duration) -> Data {
        let ends = now + time;
        let directives = filter.directives().to_owned();
        self.log.for_a_time(Some(filter));
        self.log_ends = Some(ends);
        self.outbox.status.send_modify(|status| {
            status.log_level = Some(LogLevel { filter: directives.clone(), ends });
        });
        Data::Log { filter: directives, time: Some(Span(time).to_string()), then: Some(self.log.configured()) }
    }

    fn log_as_configured(&mut self) {
        self.log.for_a_time(None);
        self.log_ends = None;
        self.outbox.status.send_modify(|status| status.log_level = None);
    }

    /// Stops the daemon once the broker has the answer, or has had its time.
    fn leave(&self) {
        let (outbox, prober, restart) = (self.outbox.clone(), self.prober.clone(), self.restart.clone());
        task::spawn(async move {
            // What comes back went behind the answer.
            let delivered = async {
                outbox.taken().await;
                prober.probe().await;
            };
            // A link that takes longer does not keep the gateway from what it was asked for.
            let _in_time = timeout(LAST_ANSWER, delivered).await;
            restart.cancel();
        });
    }
}

impl Drop for Performer {
    fn drop(&mut self) {
        if let Some(flows) = &self.flows {
            flows.abort();
        }
    }
}

/// Waits until uploads have taken an order; `None` of them says that they have ended.
async fn taken<T>(order: impl Future<Output = Option<T>>) -> Result<T, Refusal> {
    let late = |_| Refusal::new(Code::Failed, "uploads do not come round; tidegate status says what they do");
    timeout(ORDERED, order).await.map_err(late)?.ok_or_else(stopping)
}

fn stopping() -> Refusal {
    Refusal::new(Code::Failed, "the gateway is stopping")
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}
