//! Uploads as records: their figures as `telemetry/upload`, each `[host] interval` while there is an endpoint, and what became
//! of each file as `event/upload`.
//!
//! An event is kept until the spool has it. While the spool takes nothing, the engine's channel fills, and the engine waits with
//! the files that it would let go of: none of them goes untold. A crash right after the record is stored tells of a file twice.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use tidegate_spool::AppendError;
use tidegate_upload::{
    event::{EVENTS, Event, Told},
    status::{Counters, State, UploadStatus},
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::Sink;
use crate::{
    chunks::json,
    config::Config,
    record::{Record, Stream},
};

/// Between a failed attempt to store events and the next.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// For what the engine still tells while it ends; the sources have two seconds in all.
const LAST_EVENTS: Duration = Duration::from_millis(1500);

/// The data of `telemetry/upload`: figures without the names of files.
#[derive(Serialize)]
struct Figures<'a> {
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until_ms: Option<u64>,
    waiting_files: u64,
    waiting_bytes: u64,
    active_files: usize,
    parked_files: u64,
    counters: &'a Counters,
}

impl<'a> Figures<'a> {
    fn of(status: &'a UploadStatus) -> Self {
        Self {
            state: status.state,
            reason: status.reason.as_deref(),
            until_ms: status.until_ms,
            waiting_files: status.waiting_files,
            waiting_bytes: status.waiting_bytes,
            active_files: status.active.len(),
            parked_files: status.parked_files,
            counters: &status.counters,
        }
    }
}

/// Publishes until shutdown, and events until the engine has ended.
pub async fn run(
    status: watch::Receiver<UploadStatus>,
    events: mpsc::Receiver<Told>,
    config: watch::Receiver<Arc<Config>>,
    sink: Sink,
    shutdown: CancellationToken,
) {
    let mut events = Events { events, held: Vec::new() };
    let both = async { tokio::join!(events.tell(&sink), publish(status, config, &sink)) };
    if shutdown.run_until_cancelled(both).await.is_none() && timeout(LAST_EVENTS, events.tell(&sink)).await.is_err() {
        error!(files = events.held.len() + events.events.len(), "event/upload cannot be stored: files go untold");
    }
}

/// Puts the figures of each interval. A record that the spool does not take is left out: the next one says more.
async fn publish(status: watch::Receiver<UploadStatus>, mut config: watch::Receiver<Arc<Config>>, sink: &Sink) {
    loop {
        let (interval, wanted) = {
            let config = config.borrow_and_update();
            (config.host.interval, config.upload.endpoint.is_some())
        };
        tokio::select! {
            () = sleep(interval), if wanted => {}
            changed = config.changed() => if changed.is_ok() { continue } else { return },
        }
        let data = json(&Figures::of(&status.borrow()));
        if let Err(error) = sink.put([Record::telemetry("upload", data.into())]).await {
            tracing::debug!(%error, "telemetry/upload left out");
        }
    }
}

/// The way of events into the spool.
struct Events {
    events: mpsc::Receiver<Told>,
    /// Taken from the channel, and not known to be stored.
    held: Vec<Told>,
}

impl Events {
    /// Stores events until there are no more. Cancelling loses nothing.
    async fn tell(&mut self, sink: &Sink) {
        loop {
            if self.held.is_empty() && self.events.recv_many(&mut self.held, EVENTS).await == 0 {
                return;
            }
            let record = |event: &Event| Record {
                stream: Stream::Event,
                topic: "event/upload".into(),
                data: json(event).into(),
            };
            match sink.put(self.held.iter().map(|told| record(&told.event)).collect::<Vec<_>>()).await {
                Ok(_) => self.answer(),
                Err(AppendError::Paused(reason)) => {
                    warn!(files = self.held.len(), reason, "event/upload waits for the spool");
                    sleep(AGAIN_AFTER).await;
                }
                // Nothing mends that.
                Err(error) => {
                    error!(%error, files = self.held.len(), "event/upload cannot be stored: files go untold");
                    self.answer();
                }
            }
        }
    }

    /// The files of all that was held may be let go of.
    fn answer(&mut self) {
        for told in self.held.drain(..) {
            // An engine that has ended tells of them once more when it starts again.
            let _ended = told.stored.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tidegate_upload::event::Outcome;
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        config::Endpoint,
        sources::testing::{Memory, Mood},
    };

    struct Daemon {
        events: mpsc::Sender<Told>,
        status: watch::Sender<UploadStatus>,
        config: watch::Sender<Arc<Config>>,
        memory: Memory,
        shutdown: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    fn start(endpoint: Option<&str>) -> Daemon {
        let (sink, memory) = Sink::into_memory();
        let mut config = Config::defaults("gw-7");
        config.upload.endpoint = endpoint.map(|endpoint| Endpoint::parse(endpoint).unwrap());
        let (config, running) = watch::channel(Arc::new(config));
        let (status, figures) = watch::channel(UploadStatus::default());
        let (events, told) = mpsc::channel(EVENTS);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(figures, told, running, sink, shutdown.clone()));
        Daemon { events, status, config, memory, shutdown, task }
    }

    /// An event, and nobody who waits for its answer.
    fn told(name: &str) -> Told {
        Told { event: event(name), stored: oneshot::channel().0 }
    }

    fn event(name: &str) -> Event {
        Event {
            name: name.to_owned(),
            bytes: 7,
            sha256: None,
            state: Outcome::Sent,
            reason: None,
            encoding: "zstd",
            sent_bytes: 5,
            duration_ms: 100,
            rate_bytes_s: 70,
            retries: 0,
            url: None,
        }
    }

    fn names(memory: &Memory) -> Vec<String> {
        let events = memory
            .records()
            .into_iter()
            .filter(|(stream, topic, _)| (&**stream, &**topic) == ("event", "event/upload"));
        events
            .map(|(_, _, data)| serde_json::from_str::<Value>(&data).unwrap()["name"].as_str().unwrap().to_owned())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn every_file_is_told_though_the_spool_takes_nothing_for_a_while() {
        let daemon = start(None);
        daemon.memory.set(Mood::Paused);
        let events = daemon.events.clone();
        let telling = tokio::spawn(async move {
            for index in 0..100 {
                events.send(told(&index.to_string())).await.unwrap();
            }
        });
        sleep(Duration::from_mins(10)).await;
        assert!(!telling.is_finished(), "the engine waits");
        assert_eq!(names(&daemon.memory), [""; 0]);
        daemon.memory.set(Mood::Works);
        telling.await.unwrap();
        sleep(AGAIN_AFTER).await;
        assert!(names(&daemon.memory).into_iter().eq((0..100).map(|index: u32| index.to_string())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_answered_for_once_its_event_is_stored() {
        let daemon = start(None);
        daemon.memory.set(Mood::Paused);
        let (stored, mut answer) = oneshot::channel();
        daemon.events.send(Told { event: event("log.csv"), stored }).await.unwrap();
        sleep(Duration::from_mins(1)).await;
        assert!(answer.try_recv().is_err());
        daemon.memory.set(Mood::Works);
        answer.await.unwrap();
        assert_eq!(names(&daemon.memory), ["log.csv"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_engine_tells_while_it_ends_is_stored() {
        let daemon = start(None);
        daemon.memory.set(Mood::Hangs);
        daemon.events.send(told("held")).await.unwrap();
        sleep(Duration::from_millis(10)).await;
        daemon.shutdown.cancel();
        daemon.memory.set(Mood::Works);
        sleep(Duration::from_millis(500)).await;
        daemon.events.send(told("last")).await.unwrap();
        drop(daemon.events);
        daemon.task.await.unwrap();
        assert_eq!(names(&daemon.memory), ["held", "last"]);
    }

    #[tokio::test(start_paused = true)]
    async fn figures_are_published_while_there_is_an_endpoint() {
        let daemon = start(None);
        let published = || daemon.memory.records().iter().filter(|(_, topic, _)| topic == "telemetry/upload").count();
        sleep(Duration::from_mins(5)).await;
        assert_eq!(published(), 0);
        let mut config = Config::defaults("gw-7");
        config.upload.endpoint = Some(Endpoint::parse("http://files/").unwrap());
        daemon.config.send_replace(Arc::new(config));
        daemon.status.send_modify(|status| status.counters.files = 3);
        sleep(Duration::from_secs(150)).await;
        assert_eq!(published(), 2);
        let (_, _, data) = daemon.memory.records().remove(0);
        assert_eq!(
            data,
            r#"{"state":"off","waiting_files":0,"waiting_bytes":0,"active_files":0,"parked_files":0,"counters":{"files":3,"content_bytes":0,"sent_bytes":0,"resent_bytes":0,"retries":0,"restarts":{},"parked":{},"troubles":{}}}"#
        );
    }
}
