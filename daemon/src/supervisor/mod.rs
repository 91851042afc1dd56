//! What systemd is told, and the watchdog that it may end us by.
//!
//! # Protocol
//!
//! [`sd_notify(3)`]: datagrams of `NAME=value` lines to the socket in `$NOTIFY_SOCKET`. Without it all of this does
//! nothing, and nothing is woken for it.
//!
//! | message | when |
//! |---|---|
//! | `READY=1` | see below; again after each reload |
//! | `RELOADING=1`, `MONOTONIC_USEC=…` | SIGHUP came (`Type=notify-reload` in systemd.service(5)) |
//! | `STOPPING=1` | the drain begins; with it the last `WATCHDOG=1`, as the drain is shorter than any watchdog |
//! | `STATUS=…` | one line for `systemctl status`: the worst problem, or that all is well |
//! | `WATCHDOG=1` | all parts made progress since the last one |
//!
//! [`sd_notify(3)`]: https://www.freedesktop.org/software/systemd/man/sd_notify.html
//!
//! # Ready
//!
//! The unit is ordered before `network-pre.target`: what the gateway guards is in place before the network is. So
//! READY waits until the programs are attached to the interfaces that are there, or are known to be unavailable,
//! and at most [`GUARDED_WITHIN`], since a gateway without a network helps nobody. It never waits for the broker. The
//! sockets answer before it.
//!
//! # Watchdog
//!
//! Three times in `$WATCHDOG_USEC` each part is asked (see [`pulse`]), and where all have answered systemd is told so.
//! A part that does not is named, in the log and in the status, before systemd ends the daemon with SIGABRT and starts
//! it again: at the latest 1⅓ of that time after it stopped making progress.
//!
//! A part that waits for the disk is not stuck: an SD card may take many seconds for a sync, and a dying one takes
//! minutes until the kernel gives up and reports an error, which the spool survives. A restart would only wait for the same
//! disk. So spool and host telemetry have [`DISK_PATIENCE`]; and whoever waits for the spool answers meanwhile.

mod line;
mod pulse;

use std::{env, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    select,
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{error, warn};

pub use self::pulse::Pulse;
use self::{
    line::Line,
    pulse::{Heart, Silent},
};
use crate::status::Status;

/// For READY to wait for the programs: some 0.5 s are usual; slow machines and emulators take a few seconds.
pub const GUARDED_WITHIN: Duration = Duration::from_secs(5);

/// For a part to wait for the disk: the kernel gives a command up after 30 s and tries it five times (SCSI), or after
/// 10 s and some resets (MMC). What is silent for longer hangs in itself.
pub const DISK_PATIENCE: Duration = Duration::from_mins(3);

/// How often the status line is looked at. A line that says something else is sent at once, …
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// … one with other figures only, this long after the last: systemd wakes whoever listens for it.
const FIGURES_EVERY: Duration = Duration::from_mins(1);

/// Sends a message.
type Send = Box<dyn FnMut(&[NotifyState<'_>]) + std::marker::Send>;

/// Watches over the parts, and reports to systemd.
pub struct Supervisor {
    heart: Heart,
    /// `None`: nobody listens.
    send: Option<Send>,
    /// `$WATCHDOG_USEC`, where it is for us.
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// For the systemd that started this process, if one did.
    #[must_use]
    pub fn of_process() -> Self {
        let send = env::var_os("NOTIFY_SOCKET").map(|_| Box::new(tell) as Send);
        // $WATCHDOG_PID says for whom it is: a program that a unit's process starts is not meant.
        Self { heart: Heart::new(), send, watchdog: sd_notify::watchdog_enabled() }
    }

    /// The pulse of a part whose loop has to come round.
    pub fn pulse(&mut self, part: &'static str) -> Pulse {
        self.heart.pulse(part, Duration::ZERO)
    }

    /// The pulse of a part that may wait for the disk.
    pub fn patient_pulse(&mut self, part: &'static str) -> Pulse {
        self.heart.pulse(part, DISK_PATIENCE)
    }

    /// Says that the daemon is ready; then feeds the watchdog and keeps the status line up to date, for ever.
    pub async fn run(mut self, status: impl Fn() -> Status) {
        let Some(mut send) = self.send.take() else { return };
        let mut told = Told { line: Line::of(&status()), at: Instant::now() };
        send(&[NotifyState::Ready, NotifyState::Status(&told.line.to_string())]);

        let mut look = interval(LOOK_EVERY);
        let mut beat = interval(self.watchdog.map_or(LOOK_EVERY, |time| time / 3));
        // After the machine slept, or we did (SIGSTOP), the parts need a whole period to answer.
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent = Vec::new();
        loop {
            select! {
                _ = beat.tick(), if self.watchdog.is_some() => {
                    silent = self.heart.beat();
                    silent.iter().for_each(report);
                    if silent.iter().all(|silent| silent.excused) {
                        send(&[NotifyState::Watchdog]);
                    }
                }
                _ = look.tick() => {}
            }
            let mut line = Line::of(&status());
            if let Some(stuck) = stuck(&silent) {
                line.state = stuck;
            }
            if told.is_worth_telling(&line) {
                send(&[NotifyState::Status(&line.to_string())]);
                told = Told { line, at: Instant::now() };
            }
        }
    }
}

/// The status line that systemd knows.
struct Told {
    line: Line,
    at: Instant,
}

impl Told {
    fn is_worth_telling(&self, line: &Line) -> bool {
        self.line.state != line.state || (self.line != *line && self.at.elapsed() >= FIGURES_EVERY)
    }
}

fn report(silent: &Silent) {
    let &Silent { part, time, excused } = silent;
    let silent_s = time.as_secs();
    if excused {
        warn!(part, silent_s, "no progress; it may be waiting for the disk");
    } else {
        error!(part, silent_s, "no progress; the watchdog is not fed until there is");
    }
}

fn stuck(silent: &[Silent]) -> Option<String> {
    let parts: Vec<_> =
        silent.iter().map(|silent| format!("{} for {} s", silent.part, silent.time.as_secs())).collect();
    (!parts.is_empty()).then(|| format!("no progress: {}", parts.join(", ")))
}

/// Whether somebody starts this process again when it ends. `$INVOCATION_ID` would not tell: what a unit's shell starts
/// has it, too.
#[must_use]
pub fn is_there() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}

/// The configuration is being read again; [`reloaded`] has to follow.
pub fn reloading() {
    // The two belong into one message: systemd compares the time with that of its SIGHUP.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "cannot tell systemd of the reload: no monotonic clock"),
    }
}

/// The configuration has been read, taken over or not.
pub fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// The drain begins.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping"), NotifyState::Watchdog]);
}

fn tell(message: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(message) {
        warn!(%error, "cannot tell systemd how we are ($NOTIFY_SOCKET)");
    }
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor")
            .field("watchdog", &self.watchdog)
            .field("heart", &self.heart)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::time::sleep;

    use super::*;
    use crate::uplink::LinkState;

    const WATCHDOG: Duration = Duration::from_mins(1);

    type Messages = Arc<Mutex<Vec<(u64, String)>>>;

    /// A supervisor whose messages are kept, with the second in which each was sent.
    fn supervisor(watchdog: Option<Duration>) -> (Supervisor, Messages) {
        let messages = Messages::default();
        let (kept, begun) = (Arc::clone(&messages), Instant::now());
        let send = move |message: &[NotifyState<'_>]| {
            let text: Vec<_> = message.iter().map(ToString::to_string).collect();
            kept.lock().unwrap().push((begun.elapsed().as_secs(), text.join("\n")));
        };
        (Supervisor { heart: Heart::new(), send: Some(Box::new(send)), watchdog }, messages)
    }

    fn times_of(messages: &Messages, wanted: &str) -> Vec<u64> {
        messages.lock().unwrap().iter().filter(|(_, text)| text.contains(wanted)).map(|(at, _)| *at).collect()
    }

    fn alive(mut pulse: Pulse) {
        tokio::spawn(async move {
            loop {
                pulse.asked().await;
            }
        });
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_three_times_in_its_time_while_all_parts_make_progress() {
        let (mut supervisor, messages) = supervisor(Some(WATCHDOG));
        alive(supervisor.pulse("uplink"));
        alive(supervisor.patient_pulse("spool"));
        tokio::spawn(supervisor.run(Status::default));
        sleep(Duration::from_secs(61)).await;
        assert_eq!(times_of(&messages, "READY=1"), [0]);
        assert_eq!(times_of(&messages, "WATCHDOG=1"), [0, 20, 40, 60]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_part_starves_the_watchdog_and_is_named_before_it_bites() {
        let (mut supervisor, messages) = supervisor(Some(WATCHDOG));
        alive(supervisor.pulse("uplink"));
        let mut ingest = supervisor.pulse("ingest");
        tokio::spawn(supervisor.run(Status::default));
        ingest.during(sleep(Duration::from_secs(30))).await;
        sleep(Duration::from_secs(90)).await;
        assert_eq!(times_of(&messages, "WATCHDOG=1"), [0, 20, 40], "it bites at 100 s");
        assert_eq!(times_of(&messages, "STATUS=no progress: ingest for 20 s,"), [60]);
        assert_eq!(times_of(&messages, "STATUS=no progress: ingest for 40 s,"), [80]);
        ingest.during(sleep(Duration::from_secs(30))).await;
        assert_eq!(times_of(&messages, "WATCHDOG=1").last(), Some(&140), "it came round again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_takes_its_time_does_not_end_the_daemon_and_one_that_never_answers_does() {
        let (mut supervisor, messages) = supervisor(Some(WATCHDOG));
        let _spool = supervisor.patient_pulse("spool");
        tokio::spawn(supervisor.run(Status::default));
        sleep(Duration::from_mins(5)).await;
        assert_eq!(times_of(&messages, "WATCHDOG=1").last(), Some(&160), "three minutes of patience");
        assert_eq!(times_of(&messages, "STATUS=no progress: spool for 20 s,"), [20]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_is_told_soon_and_figures_once_a_minute() {
        let (supervisor, messages) = supervisor(None);
        let begun = Instant::now();
        tokio::spawn(supervisor.run(move || {
            let mut status = Status::default();
            status.spool.pending_records = begun.elapsed().as_secs();
            if begun.elapsed() >= Duration::from_secs(12) {
                status.uplink.state = LinkState::Connected;
            }
            status
        }));
        sleep(Duration::from_secs(80)).await;
        let told = messages.lock().unwrap().clone();
        assert_eq!(
            told.iter().map(|(at, text)| (*at, text.as_str())).collect::<Vec<_>>(),
            [
                (0, "READY=1\nSTATUS=connecting, 0 interfaces, 0 records waiting"),
                (15, "STATUS=online, 0 interfaces, 15 records waiting"),
                (75, "STATUS=online, 0 interfaces, 75 records waiting"),
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_listens_nothing_goes_on() {
        let supervisor = Supervisor { heart: Heart::new(), send: None, watchdog: None };
        supervisor.run(Status::default).await;
    }
}
