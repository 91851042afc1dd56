//! Carries a plan out: publishes, keeps it published, and waits for what gateways report.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep_until},
};

use crate::{
    broker::{LinkError, Outcome, WINDOW},
    folder::Folder,
    intents::{Intents, Progress},
    observer::{News, Observer},
    plan::Plan,
    standing::{Judged, Standing, Wanted, judge},
    target::{Target, Topic},
};

/// How often whoever watches is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// How far it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// Documents still to be published or withdrawn.
    pub to_publish: usize,
    /// Gateways by how they stand, in the order of [`Standing::ALL`].
    pub gateways: [usize; Standing::ALL.len()],
    /// Why there is no connection, where there is none.
    pub lost: Option<LinkError>,
}

impl Tally {
    /// Of these gateways.
    #[must_use]
    pub fn of<'a>(judged: impl IntoIterator<Item = &'a Judged>) -> Self {
        let mut gateways = [0; Standing::ALL.len()];
        for judged in judged {
            gateways[judged.standing as usize] += 1;
        }
        Self { to_publish: 0, gateways, lost: None }
    }

    /// All gateways.
    #[must_use]
    pub fn total(&self) -> usize {
        self.gateways.iter().sum()
    }

    /// Those that stand so.
    #[must_use]
    pub const fn count(&self, standing: Standing) -> usize {
        self.gateways[standing as usize]
    }
}

/// What is known about one moment, for whoever watches.
#[derive(Debug)]
pub struct Moment<'a> {
    /// Counts.
    pub tally: &'a Tally,
    /// Every gateway.
    pub gateways: &'a BTreeMap<Arc<str>, Judged>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Every gateway, as it stands.
    pub gateways: BTreeMap<Arc<str>, Judged>,
    /// Documents that were not published, or that somebody else replaced.
    pub failed: BTreeMap<Target, Progress>,
    /// Documents that were still to be published when the time was over.
    pub unpublished: usize,
    /// Whether the time was over first.
    pub timed_out: bool,
}

/// Publishes what the plan says and waits until every gateway that is online has said what came of it, or until
/// `deadline`. The observer has read everything; the plan is made of what it read.
///
/// # Errors
///
/// What trying again would not mend. What is published by then stays so, and applying again goes on from there.
pub async fn apply(
    observer: &mut Observer<'_>,
    folder: &Folder,
    plan: &Plan,
    deadline: Instant,
    mut watch: impl FnMut(&Moment<'_>),
) -> Result<Ended, LinkError> {
    let mut run = Run {
        intents: Intents::new(plan, folder),
        wanted: Wanted::after(plan, folder),
        gateways: BTreeMap::new(),
        expected: 0,
        publishing: JoinSet::new(),
        lost: None,
    };
    run.judge_all(observer);
    let mut tick = interval(TELL_EVERY);
    let timed_out = loop {
        run.publish(observer);
        if run.is_settled() {
            break false;
        }
        tokio::select! {
            news = observer.next() => run.heard(news?, observer),
            Some(Ok((target, outcome))) = run.publishing.join_next() => run.answered(&target, outcome, observer),
            _ = tick.tick() => {
                let tally = run.tally();
                watch(&Moment { tally: &tally, gateways: &run.gateways });
            }
            () = sleep_until(deadline) => break true,
        }
    };
    let tally = run.tally();
    watch(&Moment { tally: &tally, gateways: &run.gateways });
    let failed = run.intents.failed().map(|(target, progress)| (target.clone(), progress.clone())).collect();
    Ok(Ended { failed, unpublished: tally.to_publish, timed_out, gateways: run.gateways })
}

struct Run<'a> {
    intents: Intents<'a>,
    wanted: Wanted,
    gateways: BTreeMap<Arc<str>, Judged>,
    /// Gateways of which more is expected.
    expected: usize,
    publishing: JoinSet<(Target, Outcome)>,
    lost: Option<LinkError>,
}

impl Run<'_> {
    fn publish(&mut self, observer: &Observer<'_>) {
        if self.lost.is_some() || self.publishing.len() >= WINDOW {
            return;
        }
        for (target, payload) in self.intents.take_due(WINDOW - self.publishing.len()) {
            // Without a connection it is read again, and due again, once there is one.
            if let Some(answer) = observer.publish(&target, payload) {
                self.publishing.spawn(async move { (target, answer.await) });
            }
        }
    }

    fn answered(&mut self, target: &Target, outcome: Outcome, observer: &Observer<'_>) {
        match outcome {
            Outcome::Acknowledged => self.intents.acknowledged(target),
            Outcome::Refused(why) => {
                self.intents.denied(target, why);
                self.give_up(target, observer);
            }
            // Found out when everything is read again.
            Outcome::Unknown => {}
        }
    }

    fn heard(&mut self, news: News, observer: &Observer<'_>) {
        match news {
            News::Lost(error) => self.lost = Some(error),
            News::Complete => {
                self.lost = None;
                self.intents.read_again(observer.seen());
                for (target, _) in self.intents.failed() {
                    self.wanted.given_up(target);
                }
                self.judge_all(observer);
            }
            // Before everything has come, a document may be one that was retained before ours.
            News::Changed(Topic::Desired(target)) if self.lost.is_none() => {
                if self.intents.arrived(&target, observer.seen().desired(&target)) {
                    self.give_up(&target, observer);
                }
            }
            News::Changed(Topic::Desired(_)) => {}
            News::Changed(Topic::Reported(id) | Topic::Status(id)) => self.judge(&id, observer),
        }
    }

    fn give_up(&mut self, target: &Target, observer: &Observer<'_>) {
        self.wanted.given_up(target);
        self.judge_all(observer);
    }

    fn judge(&mut self, id: &Arc<str>, observer: &Observer<'_>) {
        let judged = judge(id, observer.seen().gateway(id), &self.wanted);
        self.expected += usize::from(!judged.is_settled());
        let before = self.gateways.insert(Arc::clone(id), judged);
        self.expected -= usize::from(before.is_some_and(|before| !before.is_settled()));
    }

    fn judge_all(&mut self, observer: &Observer<'_>) {
        for id in self.wanted.gateways(observer.seen()) {
            self.judge(&id, observer);
        }
    }

    fn is_settled(&self) -> bool {
        self.lost.is_none() && self.intents.open() == 0 && self.expected == 0
    }

    fn tally(&self) -> Tally {
        Tally { to_publish: self.intents.open(), lost: self.lost.clone(), ..Tally::of(self.gateways.values()) }
    }
}
