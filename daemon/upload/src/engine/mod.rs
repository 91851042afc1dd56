//! Which file goes when: one loop on a thread of its own.
//!
//! ```text
//!   outboxes ──► candidates ──► attempts (at most `concurrency`) ──► told (event) ──► put away
//!                    ▲               │ failed                            │ parked
//!                    └── waits ◄─────┘                                   └──► ledger
//! ```
//!
//! A file is let go of only when the server has all of it and the spool has the event that says so.

mod compare;
mod gate;
mod intake;
mod listing;
mod pause;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tidegate_storage::{Backend, IoPreference, block_on, choose};
use tokio::{
    select,
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::{
    compare::compare,
    gate::{Facts, Gate},
    intake::{Intake, Leftover, MOST_CANDIDATES, Taken},
};
use crate::{
    attempt::{Arrived, Attempt, Ended, Server},
    breaker::{Breaker, Leave},
    event::{Event, Outcome, Told},
    job::Job,
    ledger::{Key, Reason},
    order::Order,
    outbox::{Priority, scan::MOST_CHANGES},
    pacing::Pacing,
    ports::Ports,
    progress::{Progress, per_second},
    retry::Backoff,
    settings::{Protocol, Settings},
    splay::splay,
    status::{Active, Counters, State, Step, UploadStatus},
    trouble::{Kind, Trouble, Verdict},
    window::LocalTime,
};

/// Stack of the engine's thread; what is large is on the heap.
const STACK_BYTES: usize = 512 * 1024;
/// How often those who look are told while files are under way.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked at whether a window has opened, and at folders that notify nobody.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long a metered way is left alone before it is looked at again.
const METERED_WAIT: Duration = Duration::from_secs(30);
/// Jobs that are remembered between two attempts; the journals of others are read again.
const MOST_KEPT: usize = 32;
/// Files whose event the spool has not taken yet; with more, no new ones are begun.
const MOST_UNTOLD: usize = 16;
/// How often in a row a file may be touched without anything of it having been sent between.
const MOST_TOUCHES: u32 = 3;

/// Starts the engine's thread, which ends with `ports.shutdown`.
///
/// # Errors
///
/// The system gives no thread.
pub fn start(ports: Ports, io: IoPreference) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("upload".to_owned()).stack_size(STACK_BYTES).spawn(move || {
        // The spool has said already why it is not what was asked for.
        let backend = choose(io).map_or(Backend::Threads, |choice| choice.backend);
        let run = async move { Engine::new(ports, backend).run().await };
        if let Err(error) = block_on(backend, run) {
            tracing::error!(%error, "uploads cannot run");
        }
    })
}

/// A file under way.
struct Running {
    key: Key,
    outbox: PathBuf,
    name: String,
    bytes: u64,
    priority: Priority,
    attempts: u32,
    last_error: Option<String>,
    progress: Rc<Progress>,
    stop: CancellationToken,
    yields: Rc<Cell<bool>>,
    leave: Leave,
}

/// A file whose end the spool has to know before it is let go of.
struct Untold {
    key: Key,
    job: Job,
    event: Event,
    then: Then,
}

#[derive(Clone, Copy)]
enum Then {
    PutAway,
    Park(Reason, u16),
    Nothing,
}

struct Engine {
    ports: Ports,
    settings: Arc<Settings>,
    backend: Backend,
    server: Rc<RefCell<Server>>,
    pacing: Rc<Pacing>,
    breaker: Breaker,
    backoff: Backoff,
    intake: Intake,
    attempts: JoinSet<(Key, Job, Option<Ended>)>,
    running: Vec<Running>,
    /// Begun, and between two attempts.
    kept: VecDeque<(Key, Job)>,
    /// Troubles of files that there was no room to keep: without them, those that only time mends would always come before all
    /// others, and those that are to be put aside never would be.
    troubled: VecDeque<(Key, (Kind, u32))>,
    untold: VecDeque<Untold>,
    /// Told, and waiting for the answer that the event is stored.
    told: VecDeque<(Untold, oneshot::Receiver<()>)>,
    not_before: Instant,
    metered: bool,
    last_error: Option<String>,
    paused_until: Option<Instant>,
    splayed_until: Option<Instant>,
    /// Whether the window was open when it was last looked at.
    was_open: bool,
    counters: Counters,
    recent: VecDeque<crate::ask::Listed>,
}

impl Engine {
    fn new(ports: Ports, backend: Backend) -> Self {
        let settings = Arc::clone(&ports.settings.borrow());
        let pacing = Rc::new(Pacing::new(ports.first.clone(), settings.rate_limit));
        let now = Instant::now();
        let splayed = splay(&settings.gateway, "start", settings.splay);
        let paused = pause::left(&settings.state_dir).unwrap_or_else(|error| {
            warn!(%error, "whether uploads were to pause cannot be read: they go on");
            None
        });
        Self {
            intake: Intake::new(&settings),
            ports,
            settings,
            backend,
            server: Rc::default(),
            pacing,
            breaker: Breaker::default(),
            backoff: Backoff::default(),
            attempts: JoinSet::new(),
            running: Vec::new(),
            kept: VecDeque::new(),
            troubled: VecDeque::new(),
            untold: VecDeque::new(),
            told: VecDeque::new(),
            not_before: now,
            metered: false,
            last_error: None,
            paused_until: paused.map(|left| now + left),
            splayed_until: Some(now + splayed),
            was_open: true,
            counters: Counters::default(),
            recent: VecDeque::new(),
        }
    }

    /// Uploads until shutdown.
    async fn run(mut self) {
        let (shutdown, events) = (self.ports.shutdown.clone(), self.ports.events.clone());
        loop {
            let wake = self.step();
            self.tell();
            if self.intake.is_looking() {
                // What is sent goes on between two steps.
                tokio::task::yield_now().await;
            }
            select! {
                biased;
                () = shutdown.cancelled() => break,
                changed = self.ports.settings.changed() => match changed {
                    Ok(()) => self.take_settings(),
                    Err(_) => break,
                },
                Some(order) = self.ports.orders.recv() => self.obey(order),
                Some(ask) = self.ports.asks.recv() => self.answer(ask),
                permit = events.reserve(), if !self.untold.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(untold) = self.untold.pop_front() {
                            let (stored, answer) = oneshot::channel();
                            permit.send(Told { event: untold.event.clone(), stored });
                            self.told.push_back((untold, answer));
                        }
                    }
                    Err(_) => break,
                },
                stored = first_stored(&mut self.told), if !self.told.is_empty() => {
                    let told = self.told.pop_front().map(|(untold, _)| untold);
                    match (told, stored) {
                        (Some(untold), true) => self.let_go(untold),
                        (Some(untold), false) => self.untold.push_front(untold),
                        (None, _) => {}
                    }
                }
                Some(ended) = self.attempts.join_next() => match ended {
                    Ok((key, job, ended)) => self.ended(key, job, ended),
                    Err(error) => warn!(%error, "an upload ended in a way that it should not"),
                },
                () = self.intake.changed() => {}
                () = sleep_until(wake) => {}
            }
        }
        for running in &self.running {
            running.stop.cancel();
        }
        // Files are closed by those who have them.
        while self.attempts.join_next().await.is_some() {}
    }

    /// Starts what may start, stops what has to; when to look again.
    fn step(&mut self) -> Instant {
        let now = Instant::now();
        let mut wake = now + if self.running.is_empty() { LOOK_EVERY } else { TELL_EVERY };
        if self.paused_until.is_some_and(|until| until <= now) {
            self.end_pause();
        }
        // Whoever asks is told what waits, also while nothing may go.
        let (looked, again) = self.intake.refresh(&self.settings, now);
        wake = again.map_or(wake, |again| wake.min(again));
        for leftover in self.intake.leftovers() {
            self.take_over(leftover);
        }
        if self.untold.is_empty() && self.told.is_empty() {
            self.intake.all_is_told();
        }
        if looked {
            self.look_after_what_was_begun();
        }
        if let Gate::Shut { until, stops, .. } = self.gate(now) {
            if stops {
                self.stop_all();
            }
            return until.map_or(wake, |until| wake.min(until)).max(now);
        }
        while self.running.len() < self.settings.concurrency && self.untold.len() + self.told.len() < MOST_UNTOLD {
            // Each attempt asks for leave of its own.
            let Ok(leave) = self.breaker.attempt(now.into_std()) else { break };
            let Some((taken, job)) = self.next_job() else {
                self.breaker.abandoned(leave);
                break;
            };
            self.begin(&taken, job, leave);
            wake = wake.min(now + TELL_EVERY);
            if leave == Leave::Probe {
                break;
            }
        }
        self.let_more_important_ones_through();
        wake
    }

    fn gate(&mut self, now: Instant) -> Gate {
        let local = LocalTime::now();
        let open = self.settings.windows.contains(local);
        if open && !self.was_open {
            let within = self
                .settings
                .windows
                .closes_in(local)
                .map_or(self.settings.splay, |left| self.settings.splay.min(left / 4));
            self.splayed_until = Some(now + splay(&self.settings.gateway, "window", within));
        }
        self.was_open = open;
        // Asked for leave only when there is something to send.
        let barred = self.breaker.barred(now.into_std());
        Gate::of(&Facts {
            now,
            endpoint: self.settings.endpoint.is_some(),
            paused_until: self.paused_until,
            windows: &self.settings.windows,
            local,
            splayed_until: self.splayed_until,
            barred,
            not_before: self.not_before,
            metered: self.metered,
            last_error: self.last_error.as_deref(),
        })
    }

    /// Whether a file is under way, or at its end.
    fn is_busy(&self, key: Key) -> bool {
        self.running.iter().any(|running| running.key == key)
            || self.untold.iter().chain(self.told.iter().map(|(untold, _)| untold)).any(|untold| untold.key == key)
    }

    /// How often a file failed in a row.
    fn troubles(&self, key: Key) -> u32 {
        let kept = self.kept.iter().find(|kept| kept.0 == key).map(|(_, job)| job.in_a_row);
        let troubled = || self.troubled.iter().find(|troubled| troubled.0 == key).map(|troubled| troubled.1);
        kept.unwrap_or_else(troubled).map_or(0, |(_, count)| count)
    }

    /// The best file that is not under way, with what is known of it.
    fn next_job(&mut self) -> Option<(Taken, Job)> {
        loop {
            let taken = self.intake.best(|key| self.is_busy(key), |key| self.troubles(key))?;
            if let Some(at) = self.kept.iter().position(|kept| kept.0 == taken.key) {
                let (_, job) = self.kept.remove(at)?;
                // Its mode or its name may have been changed since, which changes nothing of its content.
                return Some((taken.clone(), Job { identity: taken.identity(), ..job }));
            }
            // One that cannot be taken just now is not in the way of the others.
            if let Some(mut job) = self.intake.job(&taken) {
                let before = self.troubled.iter().position(|troubled| troubled.0 == taken.key);
                job.in_a_row = before.and_then(|at| self.troubled.remove(at)).map(|troubled| troubled.1);
                return Some((taken, job));
            }
        }
    }

    /// A file that was begun and is gone, or is another one by now, is not waited for.
    fn look_after_what_was_begun(&mut self) {
        for (key, job) in std::mem::take(&mut self.kept) {
            match job.is_there() {
                Ok(()) => self.kept.push_back((key, job)),
                Err(_) if job.journal.is_none() => {}
                Err(trouble) => match trouble.kind.verdict(1) {
                    Verdict::Park(Reason::Changed) => self.changed(key, job, &trouble),
                    Verdict::Park(reason) => self.park(key, job, &trouble, reason),
                    // It cannot be opened for now.
                    Verdict::Again | Verdict::Restart => self.kept.push_back((key, job)),
                },
            }
        }
    }

    /// Ends what an earlier run of the daemon did not come to the end of.
    fn take_over(&mut self, leftover: Leftover) {
        let (Leftover::Arrived(key, _) | Leftover::Lost(key, ..)) = leftover;
        // An outbox that was away for a while holds what this run began, too.
        if self.is_busy(key) || self.kept.iter().any(|kept| kept.0 == key) {
            return;
        }
        match leftover {
            Leftover::Arrived(key, job) => self.arrived(key, job),
            Leftover::Lost(key, job, trouble) if trouble.kind == Kind::Changed => self.changed(key, job, &trouble),
            Leftover::Lost(key, job, trouble) => self.park(key, job, &trouble, Reason::Vanished),
        }
    }

    fn begin(&mut self, taken: &Taken, job: Job, leave: Leave) {
        let Some(endpoint) = self.settings.endpoint.clone() else { return };
        let running = Running {
            key: taken.key,
            outbox: job.outbox.clone(),
            name: job.name.clone(),
            bytes: job.identity.size,
            priority: taken.priority,
            attempts: job.attempts + 1,
            last_error: job.last_error.clone(),
            progress: Rc::new(Progress::new()),
            stop: CancellationToken::new(),
            yields: Rc::default(),
            leave,
        };
        let key = running.key;
        let (settings, backend) = (Arc::clone(&self.settings), self.backend);
        let (server, pacing) = (Rc::clone(&self.server), Rc::clone(&self.pacing));
        let (progress, yields, stop) = (Rc::clone(&running.progress), Rc::clone(&running.yields), running.stop.clone());
        self.attempts.spawn_local(async move {
            let mut job = job;
            let compared = select! {
                compared = compare(&mut job, backend, &progress) => compared,
                () = stop.cancelled() => return (key, job, None),
            };
            if let Err(trouble) = compared {
                return (key, job, Some(Ended { result: Err(trouble), progressed: false }));
            }
            let attempt = Attempt::new(&settings, &endpoint, backend, &mut job, &server, &pacing, &progress, &yields);
            let ended = attempt.run(stop.cancelled()).await;
            (key, job, ended)
        });
        self.running.push(running);
    }

    /// Where all places are taken and a file of more importance waits, the least important one gives way after its part.
    fn let_more_important_ones_through(&mut self) {
        let waiting = self.intake.best(|key| self.is_busy(key), |_| 0).map(|taken| taken.priority);
        let full = self.running.len() >= self.settings.concurrency;
        let least = self.running.iter().map(|running| running.priority).max();
        let gives_way = full && waiting.zip(least).is_some_and(|(waiting, least)| waiting < least);
        for running in &self.running {
            running.yields.set(gives_way && Some(running.priority) == least);
        }
    }

    fn stop_all(&mut self) {
        for running in &self.running {
            running.stop.cancel();
        }
    }

    // -- What became of an attempt

    fn ended(&mut self, key: Key, mut job: Job, ended: Option<Ended>) {
        let Some(at) = self.running.iter().position(|running| running.key == key) else { return };
        let running = self.running.swap_remove(at);
        let Some(Ended { result, progressed }) = ended else {
            self.breaker.abandoned(running.leave);
            return self.keep(key, job);
        };
        let trouble = match result {
            Ok(arrived) => {
                self.breaker.succeeded();
                self.backoff.reset();
                (self.last_error, self.metered) = (None, false);
                job.in_a_row = None;
                return match arrived {
                    Arrived::Yielded => self.keep(key, job),
                    Arrived::Whole => self.arrived(key, job),
                };
            }
            Err(trouble) => trouble,
        };
        let now = Instant::now();
        let changed = trouble.kind == Kind::Changed;
        // Its mode, its owner or its links are others, and its content seems to be the same: that is compared before it goes on.
        let touched = changed && job.is_there().is_ok();
        // What is thrown away was no progress: else a file whose end is always wrong would be sent for ever, and at once.
        let progressed = progressed && (touched || trouble.kind.keeps_what_is_there());
        let in_a_row = job.failed(&trouble, progressed);
        let verdict = if touched && in_a_row <= MOST_TOUCHES { Verdict::Again } else { trouble.kind.verdict(in_a_row) };
        if changed {
            self.intake.look_again(key);
        }
        let mut server = self.server.borrow_mut();
        server.count(trouble.kind);
        if trouble.status != 0 {
            // It may be another server by now, or the same with other abilities.
            server.ask_again();
        }
        drop(server);
        self.metered = trouble.kind == Kind::Metered;
        if self.metered {
            self.breaker.abandoned(running.leave);
            self.not_before = self.not_before.max(now + METERED_WAIT);
            self.last_error = Some(trouble.text.clone());
        } else {
            if trouble.status == 0 && trouble.kind.says_nothing_of_the_endpoint() {
                self.breaker.abandoned(running.leave);
            } else if progressed || !trouble.kind.is_of_the_endpoint() {
                self.breaker.succeeded();
            } else {
                self.breaker.failed(running.leave, now.into_std(), fastrand::u64(..));
            }
            if !trouble.kind.is_of_the_file() {
                let wait = self.backoff.failed(progressed, trouble.retry_after, fastrand::u64(..));
                // With several files under way, what one of them has to wait for is not cut short by another one.
                self.not_before = self.not_before.max(now + wait);
                self.last_error = Some(trouble.text.clone());
            }
        }
        self.counters.retries += u64::from(verdict == Verdict::Again);
        info!(name = job.name, kind = trouble.kind.name(), %trouble, progressed, "an attempt to upload failed");
        match verdict {
            // Nothing of it was begun: it only had not settled.
            _ if changed && job.journal.is_none() => {}
            Verdict::Again => self.keep(key, job),
            Verdict::Restart => self.restart(key, job, &trouble),
            Verdict::Park(Reason::Changed) => self.changed(key, job, &trouble),
            Verdict::Park(reason) => self.park(key, job, &trouble, reason),
        }
    }

    fn keep(&mut self, key: Key, job: Job) {
        if self.kept.len() == MOST_KEPT
            && let Some((key, Job { in_a_row: Some(in_a_row), .. })) = self.kept.pop_front()
        {
            if self.troubled.len() == MOST_CANDIDATES {
                self.troubled.pop_front();
            }
            self.troubled.push_back((key, in_a_row));
        }
        self.kept.push_back((key, job));
    }

    fn arrived(&mut self, key: Key, job: Job) {
        self.counters.files += 1;
        self.counters.content_bytes += job.identity.size;
        debug!(name = job.name, bytes = job.identity.size, attempts = job.attempts, "a file was uploaded");
        let event = Self::event(&job, Outcome::Sent, None);
        self.untold.push_back(Untold { key, job, event, then: Then::PutAway });
    }

    fn restart(&mut self, key: Key, mut job: Job, trouble: &Trouble) {
        *self.counters.restarts.entry(trouble.kind.name()).or_default() += 1;
        warn!(name = job.name, %trouble, "an upload begins anew from its first byte");
        let event = Self::event(&job, Outcome::Restarted, Some(&trouble.text));
        self.abandon(&mut job);
        self.untold.push_back(Untold { key, job, event, then: Then::Nothing });
    }

    /// It was changed while it was sent. What it is then is tried when it has settled, a few times; a person is told the first time, and
    /// when it stays as it is.
    fn changed(&mut self, key: Key, mut job: Job, trouble: &Trouble) {
        if (1..MOST_CHANGES - 1).contains(&self.intake.changed_before(&job)) {
            info!(name = job.name, %trouble, "a file is changed again and again while it is sent");
            self.abandon(&mut job);
            self.intake.park(key, &job, Reason::Changed, 0);
        } else {
            self.park(key, job, trouble, Reason::Changed);
        }
    }

    fn park(&mut self, key: Key, mut job: Job, trouble: &Trouble, reason: Reason) {
        *self.counters.parked.entry(reason.name()).or_default() += 1;
        warn!(name = job.name, %trouble, "a file is put aside: it needs a person");
        let event = Self::event(&job, Outcome::Parked, Some(&trouble.text));
        self.abandon(&mut job);
        self.untold.push_back(Untold { key, job, event, then: Then::Park(reason, trouble.status) });
    }

    /// Forgets what was begun, here and, if it can be had, on the server.
    fn abandon(&mut self, job: &mut Job) {
        let Some(journal) = job.journal.take() else { return };
        let location = journal.known().location.clone();
        if let Err(error) = journal.remove() {
            warn!(%error, name = job.name, "the journal of an upload cannot be removed");
        }
        (job.sent_end, job.farthest, job.compared) = (None, None, None);
        let (Some(location), Some(endpoint)) = (location, self.settings.endpoint.clone()) else { return };
        if self.settings.protocol != Protocol::Tus {
            return;
        }
        let (settings, server, pacing) = (Arc::clone(&self.settings), Rc::clone(&self.server), Rc::clone(&self.pacing));
        let (backend, mut nobody) = (self.backend, Job::nobody());
        tokio::task::spawn_local(async move {
            let (progress, yields) = (Progress::new(), Cell::new(false));
            let attempt =
                Attempt::new(&settings, &endpoint, backend, &mut nobody, &server, &pacing, &progress, &yields);
            attempt.give_up(&location).await;
        });
    }

    /// The event is on its way to the spool: what it tells of may be done.
    fn let_go(&mut self, untold: Untold) {
        let Untold { key, mut job, event, then } = untold;
        match then {
            Then::PutAway => {
                self.remember(&job, event);
                let is_done = self.intake.put_away(key, &job, self.settings.after);
                if let Some(journal) = job.journal.take().filter(|_| is_done)
                    && let Err(error) = journal.remove()
                {
                    warn!(%error, name = job.name, "the journal of an upload cannot be removed");
                }
            }
            Then::Park(reason, status) => self.intake.park(key, &job, reason, status),
            Then::Nothing => self.keep(key, job),
        }
        if self.untold.is_empty() && self.told.is_empty() {
            self.intake.all_is_told();
        }
    }

    fn event(job: &Job, state: Outcome, reason: Option<&str>) -> Event {
        let known = job.journal.as_ref().map(crate::journal::Journal::known);
        let duration = job.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
        let encoding = known.and_then(|known| known.begin.encoding()).map_or("identity", crate::codec::Encoding::name);
        Event {
            name: job.name.clone(),
            bytes: job.identity.size,
            sha256: known.map(|known| known.begin.sha256),
            state,
            reason: reason.map(str::to_owned),
            encoding,
            sent_bytes: job.sent_bytes,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            rate_bytes_s: per_second(job.identity.size, duration),
            retries: job.attempts.saturating_sub(1),
            url: known.and_then(|known| known.location.clone()),
        }
    }

    // -- What it is told, and what it tells

    fn take_settings(&mut self) {
        let settings = Arc::clone(&self.ports.settings.borrow_and_update());
        let before = std::mem::replace(&mut self.settings, settings);
        self.pacing.limit(self.settings.rate_limit);
        self.intake.follow(&self.settings);
        let same_server = before.endpoint == self.settings.endpoint && before.protocol == self.settings.protocol;
        if !same_server {
            self.server.borrow_mut().forget();
            self.breaker = Breaker::default();
            self.backoff.reset();
        }
        // Whatever else was changed holds from the next attempt on, and that can be had at once.
        if !before.goes_the_same_way(&self.settings) {
            self.stop_all();
            self.kept.clear();
            self.not_before = Instant::now();
        }
    }

    fn obey(&mut self, order: Order) {
        let now = Instant::now();
        match order {
            Order::Pause(time) => {
                info!(?time, "uploads pause");
                self.paused_until = Some(now + time);
                if let Err(error) = pause::keep(&self.settings.state_dir, time) {
                    warn!(%error, "the pause of uploads cannot be written: it would end with a restart");
                }
            }
            Order::Resume => {
                info!("uploads go on");
                self.end_pause();
            }
            Order::Retry { reply } => {
                let parked = self.intake.retry_parked();
                info!(parked, "uploads are tried again");
                (self.not_before, self.metered, self.splayed_until) = (now, false, None);
                self.breaker.succeeded();
                self.backoff.reset();
                self.kept.iter_mut().for_each(|(_, job)| job.in_a_row = None);
                self.troubled.clear();
                let _nobody_waits = reply.send(parked);
            }
        }
    }

    fn end_pause(&mut self) {
        self.paused_until = None;
        if let Err(error) = pause::forget(&self.settings.state_dir) {
            warn!(%error, "the pause of uploads may hold again after a restart");
        }
    }

    /// Tells those who look.
    fn tell(&mut self) {
        let now = Instant::now();
        let wall = |until: Instant| {
            let at = SystemTime::now() + until.saturating_duration_since(now);
            at.duration_since(UNIX_EPOCH).ok().and_then(|since| u64::try_from(since.as_millis()).ok())
        };
        let gate = self.gate(now);
        let (mut state, mut reason, mut until_ms) = match gate {
            Gate::Open if self.running.is_empty() => (State::Idle, None, None),
            Gate::Open => (State::Sending, None, None),
            Gate::Shut { state, reason, until, .. } => (state, reason, until.and_then(wall)),
        };
        if !self.running.is_empty() && matches!(state, State::BackingOff | State::Broken | State::Splayed) {
            (state, reason, until_ms) = (State::Sending, None, None);
        }
        if let Some(blocked) = self.intake.blocked() {
            (state, reason, until_ms) = (State::Blocked, Some(blocked), None);
        }
        let server = self.server.borrow();
        self.counters.sent_bytes = server.sent_bytes;
        self.counters.resent_bytes = server.resent_bytes;
        self.counters.troubles.clone_from(&server.troubles);
        drop(server);
        let (waiting_files, waiting_bytes) = self.intake.waiting();
        let active = self.running.iter().map(Running::shown).collect();
        let (parked_files, parked) = self.intake.parked();
        let status = UploadStatus {
            state,
            reason,
            until_ms,
            waiting_files,
            waiting_bytes,
            active,
            parked_files,
            parked,
            unusable: self.intake.unusable(),
            counters: self.counters.clone(),
        };
        self.ports.status.send_if_modified(|before| {
            let differs = *before != status;
            *before = status;
            differs
        });
    }
}

/// Whether the event that was told first is stored; `false`: nobody will say so.
async fn first_stored(told: &mut VecDeque<(Untold, oneshot::Receiver<()>)>) -> bool {
    match told.front_mut() {
        Some((_, answer)) => answer.await.is_ok(),
        None => std::future::pending().await,
    }
}

impl Running {
    fn shown(&self) -> Active {
        let (progress, rate) = (&self.progress, self.progress.rate());
        let left = self.bytes.saturating_sub(progress.sent.get());
        let sending = progress.step.get() == Step::Sending;
        Active {
            name: self.name.clone(),
            bytes: self.bytes,
            confirmed_bytes: progress.confirmed.get(),
            sent_bytes: progress.sent.get(),
            step: progress.step.get(),
            encoding: progress.encoding.get(),
            attempts: self.attempts,
            rate_bytes_s: rate,
            remaining_s: (sending && rate > 0).then(|| left.div_ceil(rate)),
            last_error: self.last_error.clone(),
        }
    }
}
