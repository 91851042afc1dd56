//! One line that says how far it is, for a person who watches.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use super::super::{status::percent, table};

/// Between two lines.
const EVERY: Duration = Duration::from_millis(250);
const WIDTH: usize = 24;

/// The line; nothing where standard error is no terminal.
#[derive(Debug)]
pub(super) struct Bar {
    shown: bool,
    begun: Instant,
    next: Instant,
    /// Whether there is a line to take away.
    drawn: bool,
}

impl Bar {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { shown: io::stderr().is_terminal(), begun: now, next: now, drawn: false }
    }

    /// Begins with another file.
    pub(super) fn begin(&mut self) {
        self.begun = Instant::now();
    }

    /// Says how much of a file is copied.
    pub(super) fn copied(&mut self, name: &str, done: u64, total: Option<u64>) {
        let elapsed_ms = self.begun.elapsed().as_millis().max(1);
        let rate = u64::try_from(u128::from(done) * 1000 / elapsed_ms).unwrap_or(u64::MAX);
        self.say(|| line(name, done, total, rate, None));
    }

    /// Says what `text` makes, at most four times a second.
    pub(super) fn say(&mut self, text: impl FnOnce() -> String) {
        let now = Instant::now();
        if self.shown && now >= self.next {
            self.next = now + EVERY;
            self.drawn = true;
            eprint!("\r\x1b[K{}", text());
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            eprint!("\r\x1b[K");
        }
    }
}

/// `[######------------------]  25 %  a.csv  1.0 MiB of 4.0 MiB, 512.0 KiB a second, 6 s left`
pub(super) fn line(name: &str, done: u64, total: Option<u64>, rate: u64, left_s: Option<u64>) -> String {
    let (name, so_far, rate) = (table::printable(name), table::bytes(done), table::bytes(rate));
    let Some(total) = total else { return format!("{name}  {so_far}, {rate} a second") };
    let share = percent(done, total);
    let full = WIDTH * usize::try_from(share).unwrap_or(0) / 100;
    let bar = "#".repeat(full) + &"-".repeat(WIDTH - full);
    let left = left_s.map(|seconds| format!(", {} left", table::span(seconds))).unwrap_or_default();
    format!("[{bar}] {share:>3} %  {name}  {so_far} of {}, {rate} a second{left}", table::bytes(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        assert_eq!(
            line("a\u{1b}.csv", 1 << 20, Some(4 << 20), 512 << 10, Some(6)),
            "[######------------------]  25 %  a\u{fffd}.csv  1.0 MiB of 4.0 MiB, 512.0 KiB a second, 6 s left"
        );
        assert_eq!(line("-", 10, None, 5, None), "-  10 B, 5 B a second");
        assert!(line("a", 5, Some(3), 0, None).starts_with("[########################] 100 %"));
        assert!(line("a", 0, Some(0), 0, None).starts_with("[------------------------]   0 %"));
    }
}
