//! `tidegate put --wait`: until the daemon has delivered what was handed over, or has given it up.

use std::{
    io,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::{
    super::{
        client::{AskError, SocketArg},
        status::{number, standing, text},
        table,
    },
    bar::{self, Bar},
    files,
    outbox::Outbox,
};

/// Between two looks, and how much longer than a look takes: to list a full outbox costs the daemon something.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const REST: u32 = 4;
/// How long a daemon that stopped is waited for.
const RESTART: Duration = Duration::from_secs(30);
/// Looks in which a file is neither known nor in the outbox before it is given up: between the two it may be on its way.
const MISSED: u32 = 3;

/// A file that was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Handed {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// When, in milliseconds since boot: one of that name that arrived before is another.
    pub(super) up_ms: u64,
    pub(super) fate: Fate,
    missed: u32,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is in the outbox.
    Waits,
    /// It arrived, there where the server says.
    Sent { url: Option<String> },
    /// A person must look at it.
    Parked { reason: String },
    /// It is neither in the outbox, nor does the daemon know of it.
    Unknown,
}

impl Handed {
    /// Before it is in the outbox, so that the daemon cannot be earlier.
    pub(super) fn at(name: &str, up_ms: u64) -> Self {
        Self { name: name.to_owned(), bytes: 0, up_ms, fate: Fate::Waits, missed: 0 }
    }

    /// Takes over what the daemon says of this file.
    fn hear(&mut self, file: &Value) {
        self.missed = 0;
        let reason = || file["reason"].as_str().unwrap_or("no reason given").to_owned();
        match file["state"].as_str() {
            // One that stays in its outbox has no time after a restart of the daemon; of that name it is ours.
            Some("sent") if file["finished_up_ms"].as_u64().is_none_or(|at| at >= self.up_ms) => {
                self.fate = Fate::Sent { url: file["url"].as_str().map(ToOwned::to_owned) };
            }
            Some("parked" | "unusable") => self.fate = Fate::Parked { reason: reason() },
            _ => {}
        }
    }

    /// A whole list has not mentioned it.
    fn miss(&mut self, in_outbox: bool) {
        self.missed = if in_outbox { 0 } else { self.missed + 1 };
        if self.missed >= MISSED {
            self.fate = Fate::Unknown;
        }
    }
}

/// Now, by the clock of this boot.
pub(super) fn up_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Waits until the fate of all files is known.
///
/// # Errors
///
/// The daemon cannot be asked; what is not known then still waits in the outbox.
pub(super) fn wait(socket: &SocketArg, outbox: &Outbox, handed: &mut [Handed], bar: &mut Bar) -> Result<(), AskError> {
    let mut away: Option<Instant> = None;
    while handed.iter().any(|file| file.fate == Fate::Waits) {
        let begun = Instant::now();
        match look(socket, outbox, handed, bar) {
            Ok(()) => away = None,
            Err(error) if !error.is_not_permitted() && away.get_or_insert(begun).elapsed() < RESTART => {}
            Err(error) => return Err(error),
        }
        sleep(LOOK_EVERY.max(begun.elapsed() * REST));
    }
    Ok(())
}

/// Looks once.
fn look(socket: &SocketArg, outbox: &Outbox, handed: &mut [Handed], bar: &mut Bar) -> Result<(), AskError> {
    let (head, lines) = files::ask(socket)?;
    let mut mentioned = vec![false; handed.len()];
    for line in lines {
        let line = line.map_err(|error: io::Error| socket.failed(error))?;
        if line["outbox"].as_str().map(Path::new) != Some(outbox.path()) {
            continue;
        }
        // Few are handed over at once, and many may wait.
        let Some(index) = handed.iter().position(|file| line["name"] == *file.name) else { continue };
        mentioned[index] = true;
        handed[index].hear(&line);
        let active = &line["active"];
        if active.is_object() {
            bar.say(|| {
                let (done, rate) = (number(&active["confirmed_bytes"]), number(&active["rate_bytes_s"]));
                bar::line(&handed[index].name, done, Some(number(&line["bytes"])), rate, active["remaining_s"].as_u64())
            });
        }
    }
    for (file, _) in handed.iter_mut().zip(mentioned).filter(|(_, mentioned)| !mentioned) {
        let in_outbox = outbox.holds(&file.name);
        file.miss(in_outbox);
    }
    let waiting = handed.iter().filter(|file| file.fate == Fate::Waits).count();
    bar.say(|| format!("{waiting} of {} to go; uploads are {}", handed.len(), how(&head.status)));
    Ok(())
}

/// How uploads are, with the reason.
fn how(status: &Value) -> String {
    let state = standing(&text(&status["state"]));
    match status["reason"].as_str() {
        Some(reason) => format!("{state}: {}", table::printable(reason)),
        None => state,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn after(lines: &[Value]) -> Fate {
        let mut file = Handed::at("a.csv", 1000);
        for line in lines {
            file.hear(line);
        }
        file.fate
    }

    #[test]
    fn a_file_has_arrived_when_the_daemon_says_so_of_this_one() {
        assert_eq!(after(&[json!({ "state": "waiting" }), json!({ "state": "active" })]), Fate::Waits);
        assert_eq!(after(&[json!({ "state": "sent", "finished_up_ms": 999 })]), Fate::Waits, "the one before");
        let url = Some("http://files/1".to_owned());
        assert_eq!(
            after(&[json!({ "state": "sent", "finished_up_ms": 1000, "url": "http://files/1" })]),
            Fate::Sent { url }
        );
        assert_eq!(after(&[json!({ "state": "sent" })]), Fate::Sent { url: None });
        let parked = Fate::Parked { reason: "403 Forbidden".to_owned() };
        assert_eq!(after(&[json!({ "state": "parked", "reason": "403 Forbidden" })]), parked);
    }

    #[test]
    fn a_file_that_nobody_knows_of_is_given_up_once_it_has_left_the_outbox() {
        let mut file = Handed::at("a.csv", 1000);
        for in_outbox in [true, true, true, true, false, false, true, false, false] {
            file.miss(in_outbox);
            assert_eq!(file.fate, Fate::Waits);
        }
        file.miss(false);
        assert_eq!(file.fate, Fate::Unknown);
    }
}
