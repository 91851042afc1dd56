//! What ran, what failed, what was skipped and why.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use super::libtest::Report;
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
    /// Those that failed, and passed when they were run once more.
    pub(crate) flaky: Vec<String>,
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

    /// Test programs of the command.
    pub(crate) fn tests(command: &mut Command) -> Self {
        Self::reported(&Report::of(command), command)
    }

    /// What test programs of the command said.
    pub(crate) fn reported(report: &Report, command: &Command) -> Self {
        Self {
            passed: report.passed,
            failed: report.failed,
            skipped: vec!["a test that its source marks as ignored".to_owned(); report.ignored],
            again: if report.failed > 0 { vec![shell::line(command)] } else { Vec::new() },
            ..Self::default()
        }
    }

    /// Both together.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
        self.flaky.extend(other.flaky);
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

/// All steps.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    steps: Vec<(&'static str, Duration, Outcome)>,
}

impl Tally {
    /// Runs a step under its heading. One that cannot run counts as failed.
    pub(crate) fn step<O: Into<Outcome>>(&mut self, name: &'static str, run: impl FnOnce() -> O) {
        heading(name);
        let started = Instant::now();
        let outcome = run().into();
        self.steps.push((name, started.elapsed(), outcome));
    }

    /// A step that cannot run here.
    pub(crate) fn skip(&mut self, name: &'static str, why: &str) {
        heading(name);
        println!("skipped: {why}");
        let outcome = Outcome { skipped: vec![format!("{name}: {why}")], ..Outcome::default() };
        self.steps.push((name, Duration::ZERO, outcome));
    }

    /// Prints the summary.
    ///
    /// # Errors
    ///
    /// Something failed.
    pub(crate) fn summary(self, took: Duration) -> Result<(), String> {
        heading(format_args!("Summary, after {} s", took.as_secs()));
        for (name, took, outcome) in &self.steps {
            let mark = if outcome.failed > 0 { "FAILED" } else { "ok" };
            println!(
                "{name:<42} {mark:<7}{:>5} passed {:>3} failed {:>3} skipped {:>5} s",
                outcome.passed,
                outcome.failed,
                outcome.skipped.len(),
                took.as_secs()
            );
        }
        let all = self.steps.into_iter().fold(Outcome::default(), |all, (.., outcome)| all.and(outcome));
        if !all.skipped.is_empty() {
            println!("\nskipped:");
            for skipped in &all.skipped {
                println!("  {skipped}");
            }
        }
        if !all.flaky.is_empty() {
            println!("\npassed only when run once more, alone:");
            for flaky in &all.flaky {
                println!("  flaky: {flaky}");
            }
        }
        if !all.again.is_empty() {
            println!("\nto run again what failed:");
            for again in &all.again {
                println!("  {again}");
            }
        }
        let (flaky, skipped) = (all.flaky.len(), all.skipped.len());
        println!("\n{} passed ({flaky} flaky), {} failed, {skipped} skipped", all.passed, all.failed);
        if all.failed == 0 { Ok(()) } else { Err(format!("{} checks or tests failed", all.failed)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_that_crashes_is_a_failure() {
        let outcome = Outcome::tests(Command::new("sh").args(["-c", "exit 101"]));
        assert_eq!((outcome.passed, outcome.failed), (0, 1));
        assert_eq!(outcome.again, ["sh -c 'exit 101'"]);
    }
}
