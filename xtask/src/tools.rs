//! Rust programs that tasks use, installed below `target/` where the caller does not have them.

use std::{path::PathBuf, process::Command};

use crate::shell::{self, cargo};

/// Where Cargo keeps what it installs and downloads.
pub(crate) fn cargo_home() -> PathBuf {
    std::env::var_os("CARGO_HOME")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"), PathBuf::from)
}

/// A program of crates.io.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    /// Its package, which is also the program's name.
    pub(crate) name: &'static str,
    /// Cargo's version requirement.
    pub(crate) version: &'static str,
    /// Further arguments of `cargo install`.
    pub(crate) arguments: &'static [&'static str],
    /// How long it takes on two cores.
    pub(crate) takes: &'static str,
}

impl Tool {
    /// Finds the caller's own or the one below `target/`, or installs it there, once.
    ///
    /// # Errors
    ///
    /// It cannot be installed.
    pub(crate) fn get(&self) -> Result<PathBuf, String> {
        if let Some(program) = self.of_caller() {
            return Ok(program);
        }
        // A folder for each version: another one asked for tomorrow is installed then.
        let root = crate::target().join("tools").join(format!(
            "{}-{}",
            self.name,
            self.version.trim_start_matches(['^', '='])
        ));
        let program = root.join("bin").join(self.name);
        if program.is_file() {
            return Ok(program);
        }
        println!("{} is not installed: building it below {} ({}, once)", self.name, root.display(), self.takes);
        shell::run(self.install().arg("--root").arg(&root))
            .map_err(|error| format!("{} cannot be installed: {error}", self.name))?;
        Ok(program)
    }

    /// What the caller installed with Cargo, by Cargo's own list: asking the program for its version would do, were it
    /// not that cross downloads things even then.
    fn of_caller(&self) -> Option<PathBuf> {
        let home = cargo_home();
        let list = std::fs::read_to_string(home.join(".crates.toml")).ok()?;
        let program = home.join("bin").join(self.name);
        (self.listed(&list) && program.is_file()).then_some(program)
    }

    /// Whether a `.crates.toml` has this version: its keys are `"NAME VERSION (SOURCE)"`.
    fn listed(&self, list: &str) -> bool {
        let prefix = format!("\"{} {}", self.name, self.version.trim_start_matches(['^', '=']));
        list.lines().any(|line| line.strip_prefix(&prefix).is_some_and(|rest| rest.starts_with([' ', '.'])))
    }

    fn install(&self) -> Command {
        let mut install = cargo(&["install", self.name, "--locked", "--version", self.version]);
        // Better there soon than fast: an unoptimised build takes a third of the time.
        install.arg("--debug").env("CARGO_PROFILE_DEV_DEBUG", "0").args(self.arguments);
        install
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_own_program_counts_where_its_version_fits() {
        let tool = |version| Tool { name: "cross", version, arguments: &[], takes: "" };
        let list = "[v1]\n\"cross 0.2.5 (registry+https://example.org/index)\" = [\"cross\", \"cross-util\"]\n";
        assert!(tool("=0.2.5").listed(list) && tool("^0.2").listed(list));
        assert!(!tool("=0.2.50").listed(list) && !tool("^0.3").listed(list) && !tool("^0.2.4").listed(list));
    }
}
