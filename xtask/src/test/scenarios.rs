//! Scenario tests: built as the caller, run with privileges.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::tally::Outcome;
use crate::{
    privilege::Privilege,
    shell::{self, cargo},
};

/// Test programs of the package `tests`, and the daemon that they run.
#[derive(Debug)]
pub(crate) struct Scenarios {
    programs: Vec<PathBuf>,
    daemon: PathBuf,
}

/// Seconds after which one test program is ended: far above what any takes, so that nothing hangs for ever.
const LIMIT_S: u32 = 420;

impl Scenarios {
    /// Builds them.
    pub(crate) fn build() -> Result<Self, String> {
        let daemon = executables(&["build", "--package", "tidegate", "--bin", "tidegate"])?;
        let programs = executables(&["test", "--package", "tidegate-tests", "--no-run"])?;
        let daemon = daemon.into_iter().next().ok_or("cargo built no daemon")?;
        Ok(Self { programs, daemon })
    }

    /// Runs one program after the other; within one, tests run side by side.
    pub(crate) fn run(&self, privilege: &Privilege, filter: Option<&str>) -> Result<Outcome, String> {
        let skipped = crate::target().join("skipped-scenarios");
        // Made by the caller, so that it stays the caller's.
        fs::write(&skipped, "").map_err(|error| format!("{}: {error}", skipped.display()))?;
        let mut variables = vec![
            ("TIDEGATE_BIN", self.daemon.display().to_string()),
            ("TIDEGATE_SKIPPED", skipped.display().to_string()),
        ];
        for name in ["RUST_BACKTRACE", "PROPTEST_CASES", "TMPDIR"] {
            variables.extend(std::env::var(name).ok().map(|value| (name, value)));
        }
        let mut outcome = Outcome::default();
        for program in &self.programs {
            println!("\n-- {}", name(program));
            // In the foreground: a Ctrl-C reaches the tests, which then clean up.
            let mut command = privilege.command("timeout", &variables);
            command.args(["--foreground", "--kill-after=10", &LIMIT_S.to_string()]).arg(program).args(filter);
            // Packages' own folder, as cargo has it.
            command.current_dir(crate::workspace().join("tests"));
            outcome = outcome.and(Outcome::tests(&mut command));
        }
        // libtest knows no skipping at run time and counts these as passed.
        let skipped = fs::read_to_string(&skipped).map_err(|error| format!("{}: {error}", skipped.display()))?;
        let skipped: Vec<String> = skipped.lines().map(str::to_owned).collect();
        outcome.passed = outcome.passed.saturating_sub(skipped.len());
        outcome.skipped.extend(skipped);
        Ok(outcome)
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
