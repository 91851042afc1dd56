//! What test programs say on standard output: libtest's closing lines, and its list of failures before each.

use std::process::Command;

use crate::shell;

/// What the test programs of one command said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) ignored: usize,
    /// Those that failed, by the names that `--exact` takes. A program that crashed, or did not compile, names none.
    pub(crate) failures: Vec<String>,
    /// The list that is being read, or was read last. A test's own output may look like one; the last one is libtest's.
    listed: Vec<String>,
    listing: bool,
}

impl Report {
    /// Runs the test programs with their output on the terminal.
    pub(crate) fn of(command: &mut Command) -> Self {
        let mut report = Self::default();
        let ended = shell::watch(command, |line| report.read(line));
        if !ended.is_ok_and(|status| status.success()) {
            // A program that crashed, or did not compile, has no closing line.
            report.failed = report.failed.max(1);
        }
        report
    }

    fn read(&mut self, line: &str) {
        if line == "failures:" {
            self.listed.clear();
            self.listing = true;
        } else if let Some((passed, failed, ignored)) = closing_line(line) {
            self.passed += passed;
            self.failed += failed;
            self.ignored += ignored;
            self.failures.append(&mut self.listed);
            self.listing = false;
        } else if self.listing {
            match line.strip_prefix("    ") {
                Some(name) => self.listed.push(name.to_owned()),
                None => self.listing = false,
            }
        }
    }

    /// Counts one that failed as passed.
    pub(crate) fn forgive(&mut self, name: &str) {
        let before = self.failures.len();
        self.failures.retain(|failure| failure != name);
        let forgiven = before - self.failures.len();
        self.failed -= forgiven;
        self.passed += forgiven;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a program with four tests, one of which fails with a list of its own in its output.
    const SAID: &str = "
running 4 tests
test disk::fills ... ok
test kills::during_a_write ... FAILED
test kills::during_a_sync ... FAILED
test stop::drains ... ok

failures:

---- kills::during_a_write stdout ----
failures:
    that of a program in the test

---- kills::during_a_sync stdout ----
no record

failures:
    kills::during_a_sync
    kills::during_a_write

test result: FAILED. 2 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 3.82s
";

    fn report(said: &str) -> Report {
        let mut report = Report::default();
        said.lines().for_each(|line| report.read(line));
        report
    }

    #[test]
    fn results_and_failures_are_read() {
        let report = report(SAID);
        assert_eq!((report.passed, report.failed, report.ignored), (2, 2, 1));
        assert_eq!(report.failures, ["kills::during_a_sync", "kills::during_a_write"]);
    }

    #[test]
    fn those_of_several_programs_are_added() {
        let well = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s";
        let report = report(&[SAID, well, SAID].join("\n"));
        assert_eq!((report.passed, report.failed, report.ignored), (7, 4, 2));
        assert_eq!(report.failures.len(), 4);
    }

    #[test]
    fn a_program_that_ends_in_its_list_of_failures_names_none() {
        let (cut, _) = SAID.split_once("test result").unwrap();
        assert_eq!(report(cut).failures, [""; 0]);
    }

    #[test]
    fn one_that_is_forgiven_has_passed() {
        let mut report = report(SAID);
        report.forgive("kills::during_a_sync");
        assert_eq!((report.passed, report.failed), (3, 1));
        assert_eq!(report.failures, ["kills::during_a_write"]);
    }

    #[test]
    fn a_program_that_crashes_is_a_failure_without_a_name() {
        let report = Report::of(Command::new("sh").args(["-c", "exit 101"]));
        assert_eq!(report, Report { failed: 1, ..Report::default() });
    }
}
