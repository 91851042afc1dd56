//! Scenario tests: built as the caller, run with privileges.

use std::{
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use super::{libtest::Report, retry::Retries, skips::Skips, tally::Outcome};
use crate::{
    privilege::Privilege,
    shell::{self, cargo},
};

/// Test programs of the package `tests`, and what they are told by variables.
#[derive(Debug)]
pub(crate) struct Scenarios {
    programs: Vec<PathBuf>,
    variables: Vec<(&'static str, String)>,
    /// Seconds after which one test program is ended: far above what any takes, so that nothing hangs for ever.
    limit_s: u32,
    /// Tests that run side by side.
    threads: usize,
}

/// Which tests of those that there are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Choice<'a> {
    /// Only those whose name contains this.
    pub(crate) filter: Option<&'a str>,
    /// With big counts: hours instead of minutes.
    pub(crate) long: bool,
}

impl Scenarios {
    /// Builds those that run on this machine, and the programs under test.
    pub(crate) fn build() -> Result<Self, String> {
        let build = |name| {
            let built = executables(&["build", "--package", name, "--bin", name])?;
            built.first().map(|path| path.display().to_string()).ok_or(format!("cargo built no {name}"))
        };
        let variables = vec![("TIDEGATE_BIN", build("tidegate")?), ("TIDEGATE_FLEET_BIN", build("tidegate-fleet")?)];
        let programs = executables(&["test", "--package", "tidegate-tests", "--no-run"])?;
        // They mostly wait: with one for each of two processors, half of the time is idle.
        let threads = std::thread::available_parallelism().map_or(3, |processors| processors.get().max(3));
        Ok(Self { programs, variables, limit_s: 900, threads })
    }

    /// Builds those that run on emulated gateways.
    pub(crate) fn build_device() -> Result<Self, String> {
        let programs = executables(&[
            "test",
            "--package",
            "tidegate-tests",
            "--features",
            "device",
            "--test",
            "device",
            "--no-run",
        ])?;
        // Emulation of one machine keeps a processor busy, and its disk another.
        Ok(Self { programs, variables: Vec::new(), limit_s: 2400, threads: 2 })
    }

    /// Tells the programs something.
    pub(crate) fn tell(&mut self, variable: &'static str, value: String) {
        self.variables.push((variable, value));
    }

    /// Starts to build what the emulated gateways boot, beside what else is done. It says what it does as it ends.
    pub(crate) fn start_images(&self, privilege: &Privilege) -> Result<Child, String> {
        let program = self.programs.first().ok_or("cargo built no device tests")?;
        let mut command = privilege.command(&program.display().to_string(), &self.all_variables());
        command.args(["--exact", "--nocapture", "harness::the_images_are_there"]).stdin(Stdio::null());
        command.current_dir(crate::workspace().join("tests"));
        command.spawn().map_err(|error| format!("{}: {error}", shell::line(&command)))
    }

    /// Runs one program after the other; within one, tests run side by side. What fails is run once more, alone.
    pub(crate) fn run(&self, privilege: &Privilege, choice: Choice<'_>) -> Result<Outcome, String> {
        let skips = Skips::new(crate::target().join("skipped-scenarios"))?;
        let mut variables = self.all_variables();
        variables.push(skips.variable());
        let mut limit_s = self.limit_s;
        if choice.long {
            variables.push(("TIDEGATE_LONG", "1".to_owned()));
            limit_s *= 10;
        }
        let command = |program: &Path, arguments: &[&str]| {
            // In the foreground: a Ctrl-C reaches the tests, which then clean up.
            let mut command = privilege.command("timeout", &variables);
            command.args(["--foreground", "--kill-after=10", &limit_s.to_string()]).arg(program).args(arguments);
            // Packages' own folder, as cargo has it.
            command.current_dir(crate::workspace().join("tests"));
            command
        };
        let threads = format!("--test-threads={}", self.threads);
        let mut outcome = Outcome::default();
        let mut retries = Retries::new();
        for program in &self.programs {
            let program_name = name(program);
            println!("\n-- {program_name}");
            let mut all = command(program, &[&threads]);
            let mut report = Report::of(all.args(choice.filter));
            let skipped = skips.take()?;
            report.passed = report.passed.saturating_sub(skipped.len());
            let flaky = retries.flaky(&report.failures, |scenario| {
                println!("\n-- {program_name}, once more, alone: {scenario}");
                let again = Report::of(&mut command(program, &["--exact", scenario, "--test-threads=1"]));
                // One that is skipped now has not shown what it failed to show.
                let judged = skips.take().is_ok_and(|skipped| skipped.is_empty());
                judged && (again.passed, again.failed) == (1, 0)
            });
            for scenario in &flaky {
                println!("flaky: {program_name} {scenario}");
                report.forgive(scenario);
            }
            let mut found = Outcome::reported(&report, &all);
            found.skipped.extend(skipped);
            found.flaky.extend(flaky.iter().map(|scenario| format!("{program_name} {scenario}")));
            outcome = outcome.and(found);
        }
        Ok(outcome)
    }

    /// What was told, and what the caller may set.
    fn all_variables(&self) -> Vec<(&'static str, String)> {
        let callers =
            ["RUST_BACKTRACE", "PROPTEST_CASES", "TMPDIR", "TIDEGATE_VM", "TIDEGATE_DEBIAN_MIRROR", "TIDEGATE_SEED"];
        let callers = callers.into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?)));
        self.variables.iter().cloned().chain(callers).collect()
    }
}

/// `delivery` of `target/debug/deps/delivery-0123456789abcdef`.
fn name(program: &Path) -> String {
    let file = program.file_name().unwrap_or_default().to_string_lossy();
    file.rsplit_once('-').map_or(file.as_ref(), |(name, _hash)| name).to_owned()
}

/// Runs a cargo command and returns the programs that it built.
fn executables(arguments: &[&str]) -> Result<Vec<PathBuf>, String> {
    let messages = shell::output(cargo(arguments).arg("--message-format=json-render-diagnostics"))?;
    let programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    Ok(programs.collect())
}
