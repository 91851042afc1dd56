//! What ran, what failed, what was skipped and why.

use std::{process::Command, time::Duration};

use crate::shell::{self, heading};

/// What one step found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Checks or tests that passed.
    pub(crate) passed: usize,
    /// Those that failed.
    pub(crate) failed: usize,
    /// Those that could not be judged here: name and reason.
    pub(crate) skipped: Vec<String>,
    /// Command lines that run again what failed.
    pub(crate) again: Vec<String>,
}

impl Outcome {
    /// A command that passes or fails as a whole. `again` mends or repeats it.
    pub(crate) fn check(command: &mut Command, again: &str) -> Self {
        Self::of(shell::run(command), again)
    }

    /// One check. `again` mends or repeats it.
    pub(crate) fn of(check: Result<(), String>, again: &str) -> Self {
        match check {
            Ok(()) => Self { passed: 1, ..Self::default() },
            Err(error) => {
                println!("{error}");
                Self { failed: 1, again: vec![again.to_owned()], ..Self::default() }
            }
        }
    }

    /// A command whose output has libtest's closing lines, one for each test program.
    pub(crate) fn tests(command: &mut Command) -> Self {
        let mut outcome = Self::default();
        let ended = shell::watch(command, |line| {
            if let Some((passed, failed, ignored)) = closing_line(line) {
                outcome.passed += passed;
                outcome.failed += failed;
                outcome.skipped.extend((0..ignored).map(|_| "a test that its source marks as ignored".to_owned()));
            }
        });
        if !ended.is_ok_and(|status| status.success()) {
            // A program that crashed, or did not compile, has no closing line.
            outcome.failed = outcome.failed.max(1);
            outcome.again.push(shell::line(command));
        }
        outcome
    }

    /// Both together.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
        self.again.extend(other.again);
        self
    }
}

impl From<Result<Self, String>> for Outcome {
    fn from(result: Result<Self, String>) -> Self {
        result.unwrap_or_else(|error| {
            println!("{error}");
            Self { failed: 1, again: vec!["cargo xtask test".to_owned()], ..Self::default() }
        })
    }
}

/// Passed, failed and ignored, of `test result: ok. 14 passed; 1 failed; 0 ignored; …`.
fn closing_line(line: &str) -> Option<(usize, usize, usize)> {
    let counts = line.strip_prefix("test result: ")?;
    let count = |what: &str| {
        counts.split("; ").find_map(|part| part.strip_suffix(what)?.trim().rsplit(' ').next()?.parse().ok())
    };
    Some((count(" passed")?, count(" failed")?, count(" ignored")?))
}

/// All steps.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    steps: Vec<(&'static str, Outcome)>,
}

impl Tally {
    /// Runs a step under its heading. One that cannot run counts as failed.
    pub(crate) fn step<O: Into<Outcome>>(&mut self, name: &'static str, run: impl FnOnce() -> O) {
        heading(name);
        self.steps.push((name, run().into()));
    }

    /// A step that cannot run here.
    pub(crate) fn skip(&mut self, name: &'static str, why: &str) {
        heading(name);
        println!("skipped: {why}");
        self.steps.push((name, Outcome { skipped: vec![format!("{name}: {why}")], ..Outcome::default() }));
    }

    /// Prints the summary.
    ///
    /// # Errors
    ///
    /// Something failed.
    pub(crate) fn summary(self, took: Duration) -> Result<(), String> {
        heading(format_args!("Summary, after {} s", took.as_secs()));
        for (name, outcome) in &self.steps {
            let mark = if outcome.failed > 0 { "FAILED" } else { "ok" };
            println!(
                "{name:<42} {mark:<7}{:>5} passed {:>3} failed {:>3} skipped",
                outcome.passed,
                outcome.failed,
                outcome.skipped.len()
            );
        }
        let all = self.steps.into_iter().fold(Outcome::default(), |all, (_, outcome)| all.and(outcome));
        if !all.skipped.is_empty() {
            println!("\nskipped:");
            for skipped in &all.skipped {
                println!("  {skipped}");
            }
        }
        if !all.again.is_empty() {
            println!("\nto run again what failed:");
            for again in &all.again {
                println!("  {again}");
            }
        }
        println!("\n{} passed, {} failed, {} skipped", all.passed, all.failed, all.skipped.len());
        if all.failed == 0 { Ok(()) } else { Err(format!("{} checks or tests failed", all.failed)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_read() {
        let line = "test result: FAILED. 14 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 3.82s";
        assert_eq!(closing_line(line), Some((14, 1, 2)));
        assert_eq!(closing_line("test x ... ok"), None);
    }

    #[test]
    fn a_test_program_that_crashes_is_a_failure() {
        let outcome = Outcome::tests(Command::new("sh").args(["-c", "exit 101"]));
        assert_eq!((outcome.passed, outcome.failed), (0, 1));
        assert_eq!(outcome.again, ["sh -c 'exit 101'"]);
    }
}
