//! All files, for somebody who asks.

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;

use super::Engine;
use crate::{
    ask::{Ask, FINISHED, Listed, Standing},
    event::Event,
    job::Job,
    outbox::Priority,
    status::Parked,
};

/// Files of each kind that an answer holds at most: some 200 KiB, for as long as it takes to be read.
const MOST_LISTED: usize = 1000;

const fn name(priority: Priority) -> &'static str {
    match priority {
        Priority::High => "high",
        Priority::Normal => "normal",
        Priority::Low => "low",
    }
}

impl Engine {
    /// Answers in the background: whoever asks may read as slowly as they like.
    pub(super) fn answer(&mut self, ask: Ask) {
        let reply = match ask {
            Ask::List { reply } => reply,
            Ask::Ping { reply } => {
                let _nobody_waits = reply.send(());
                return;
            }
        };
        let (scan, outboxes) = self.intake.list(MOST_LISTED);
        let outbox = |folder: usize| outboxes.get(folder).map_or_else(String::new, |path| path.display().to_string());
        let blank = || Listed {
            name: String::new(),
            outbox: String::new(),
            bytes: 0,
            priority: name(Priority::Normal),
            state: Standing::Waiting,
            reason: None,
            active: None,
            finished_up_ms: None,
            url: None,
        };
        let active = self.running.iter().map(|running| Listed {
            name: running.name.clone(),
            outbox: running.outbox.display().to_string(),
            bytes: running.bytes,
            priority: name(running.priority),
            state: Standing::Active,
            reason: running.last_error.clone(),
            active: Some(running.shown()),
            ..blank()
        });
        let busy = |key| self.running.iter().any(|running| running.key == key);
        let waiting = scan.candidates.iter().filter(|candidate| !busy(candidate.key)).map(|candidate| {
            let kept = self.kept.iter().find(|(key, _)| *key == candidate.key);
            Listed {
                name: candidate.name.clone(),
                outbox: outbox(candidate.folder),
                bytes: candidate.identity.size,
                priority: name(candidate.priority),
                reason: kept.and_then(|(_, job)| job.last_error.clone()),
                ..blank()
            }
        });
        let aside = |parked: &Parked, state| Listed {
            name: parked.name.clone(),
            outbox: outbox(parked.folder),
            bytes: parked.bytes,
            state,
            reason: Some(parked.reason.clone()),
            ..blank()
        };
        let parked = scan.parked.iter().map(|parked| aside(parked, Standing::Parked));
        let unusable = scan.unusable.iter().map(|parked| aside(parked, Standing::Unusable));
        let all: Vec<Listed> =
            active.chain(waiting).chain(parked).chain(unusable).chain(self.recent.iter().cloned()).collect();
        tokio::task::spawn_local(send(all, reply));
    }

    /// Remembers a file that arrived, for whoever waits for it.
    pub(super) fn remember(&mut self, job: &Job, event: Event) {
        if self.recent.len() == FINISHED {
            self.recent.pop_front();
        }
        let up = clock_gettime(ClockId::Boottime);
        let up_ms = u64::try_from(up.tv_sec * 1000 + up.tv_nsec / 1_000_000).ok();
        self.recent.push_back(Listed {
            name: event.name,
            outbox: job.outbox.display().to_string(),
            bytes: event.bytes,
            priority: name(job.priority),
            state: Standing::Sent,
            reason: None,
            active: None,
            finished_up_ms: up_ms,
            url: event.url,
        });
    }
}

async fn send(all: Vec<Listed>, reply: mpsc::Sender<Listed>) {
    for listed in all {
        if reply.send(listed).await.is_err() {
            // Nobody reads it any more.
            return;
        }
    }
}
