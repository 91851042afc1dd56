//! What `apply` shows while it waits: a table that stays in its place on a terminal, a line now and then elsewhere.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use tidegate::cli::table::{Table, printable};

use super::{
    lines,
    words::{BAD, headline},
};
use crate::{
    apply::{Moment, Tally},
    standing::{Judged, Standing},
};

/// Where there is no terminal, and for programs: at most one line in this time.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Characters of the reason why there is no connection: enough for a line of a terminal.
const LOST_CHARS: usize = 36;
/// Gateways that are waited for, by name.
const NAMED: usize = 8;

/// Shows moments.
#[derive(Debug)]
pub(super) struct Screen {
    kind: Kind,
    started: Instant,
    told: Option<(Instant, Tally)>,
    /// Lines of the table on the terminal now.
    height: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Terminal,
    Lines,
    Json,
}

impl Screen {
    pub(super) fn new(json: bool, terminal: bool) -> Self {
        let kind = match (json, terminal) {
            (true, _) => Kind::Json,
            (false, true) => Kind::Terminal,
            (false, false) => Kind::Lines,
        };
        Self { kind, started: Instant::now(), told: None, height: 0 }
    }

    /// Shows one. What cannot be written is lost: the program goes on publishing.
    pub(super) fn show(&mut self, moment: &Moment<'_>) {
        if self.kind == Kind::Terminal {
            let text = self.table(moment);
            self.replace(&text);
            return;
        }
        let news = self.told.as_ref().is_none_or(|(at, told)| at.elapsed() >= LINE_EVERY && told != moment.tally);
        if !news {
            return;
        }
        let mut out = anstream::stdout();
        let _lost = if self.kind == Kind::Json {
            writeln!(out, "{}", lines::progress(moment.tally))
        } else {
            write!(
                out,
                "{:>4} s  {}{}",
                self.started.elapsed().as_secs(),
                publishing(moment.tally),
                headline(moment.tally)
            )
        };
        self.told = Some((Instant::now(), moment.tally.clone()));
    }

    /// Takes the table away: what follows says it all.
    pub(super) fn done(&mut self) {
        self.replace("");
    }

    fn replace(&mut self, text: &str) {
        let mut out = anstream::stdout();
        // Up to where the table began, and everything below it goes.
        let up = if self.height > 0 { format!("\x1b[{}A\x1b[J", self.height) } else { String::new() };
        if !(up.is_empty() && text.is_empty()) {
            let _lost = write!(out, "{up}{text}").and_then(|()| out.flush());
        }
        self.height = text.lines().count();
    }

    fn table(&self, moment: &Moment<'_>) -> String {
        let tally = moment.tally;
        let all = tally.total().max(1);
        let mut table = Table::new(["GATEWAYS", ">COUNT", "SHARE"]);
        for standing in Standing::ALL.into_iter().filter(|standing| tally.count(*standing) > 0) {
            let count = tally.count(standing);
            table.row([standing.to_string(), count.to_string(), "█".repeat(count * 40 / all)]);
        }
        let mut text =
            format!("{:>4} s  {}\n", self.started.elapsed().as_secs(), publishing(tally)) + &table.render("");
        let waiting: Vec<&str> = moment
            .gateways
            .iter()
            .filter(|(_, judged)| !Judged::is_settled(judged))
            .take(NAMED)
            .map(|(id, _)| id.as_ref())
            .collect();
        if !waiting.is_empty() {
            let line = format!("waiting for {}", printable(&waiting.join(", ")));
            // A line that wraps would be two to go up.
            text.extend(line.chars().take(width().saturating_sub(1)));
            text.push('\n');
        }
        text
    }
}

/// Columns of the terminal.
fn width() -> usize {
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or(80, |size| usize::from(size.ws_col).max(20))
}

fn publishing(tally: &Tally) -> String {
    match (&tally.lost, tally.to_publish) {
        (Some(error), _) => {
            let error: String = printable(&error.to_string()).chars().take(LOST_CHARS).collect();
            format!("{BAD}connection lost{BAD:#} ({error}), trying again; ")
        }
        (None, 0) => String::new(),
        (None, count) => format!("{count} to publish; "),
    }
}
