//! The operator: a folder of TOML files, and the built `tidegate-fleet`.

use std::{path::Path, process::Command};

#[cfg(feature = "schema")]
use std::sync::LazyLock;

use serde_json::Value;

#[cfg(feature = "schema")]
use crate::schema::Schemas;
use crate::{Broker, Scratch, process};

/// A folder of a fleet, and who runs the program on it.
#[derive(Debug)]
pub struct Operator {
    scratch: Scratch,
    url: String,
    environment: Vec<(&'static str, String)>,
}

/// What the program printed with `--json`, and how it ended.
#[derive(Debug)]
pub struct Printed {
    /// Exit status; 2 usage and 78 a folder that cannot be used among them.
    pub code: i32,
    /// Standard output, by lines.
    pub lines: Vec<Value>,
    /// Standard error.
    pub errors: String,
}

impl Printed {
    /// The lines whose `what` is this.
    #[must_use]
    pub fn all(&self, what: &str) -> Vec<&Value> {
        self.lines.iter().filter(|line| line["what"] == what).collect()
    }

    /// The last line.
    ///
    /// # Panics
    ///
    /// Where it is none.
    #[must_use]
    #[track_caller]
    pub fn summary(&self) -> &Value {
        let last = self.lines.last().unwrap_or_else(|| panic!("no summary: {}", self.errors));
        assert_eq!(last["what"], "summary", "{last}");
        last
    }
}

impl Operator {
    /// With an empty folder.
    #[must_use]
    pub fn of(broker: &Broker) -> Self {
        Self { scratch: Scratch::new("fleet"), url: broker.url(), environment: Vec::new() }
    }

    /// A variable of the program's environment.
    #[must_use]
    pub fn env(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((key, value.into()));
        self
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Writes `groups/NAME.toml` or `gateways/ID.toml`.
    ///
    /// # Panics
    ///
    /// Where it cannot be written.
    #[track_caller]
    pub fn write(&self, name: &str, toml: &str) {
        let path = self.folder().join(name);
        let written = std::fs::create_dir_all(path.parent().expect("it is below the folder"))
            .and_then(|()| std::fs::write(&path, toml));
        written.unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }

    /// Removes a file.
    ///
    /// # Panics
    ///
    /// Where it cannot be removed.
    #[track_caller]
    pub fn remove(&self, name: &str) {
        let path = self.folder().join(name);
        std::fs::remove_file(&path).unwrap_or_else(|error| panic!("remove {}: {error}", path.display()));
    }

    /// A command of the program, with the folder and the broker.
    #[must_use]
    pub fn command(&self, subcommand: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(process::built("tidegate-fleet", "TIDEGATE_FLEET_BIN"));
        command.arg(subcommand).args(arguments).arg(self.folder()).env("TIDEGATE_FLEET_URL", &self.url);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Runs a command with `--json` to its end.
    ///
    /// # Panics
    ///
    /// Where it cannot be run, or prints what is not as docs/schema/fleet-line.json says.
    #[must_use]
    #[track_caller]
    pub fn run(&self, subcommand: &str, arguments: &[&str]) -> Printed {
        let mut command = self.command(subcommand, arguments);
        let output = command.arg("--json").output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let text = String::from_utf8_lossy(&output.stdout);
        let read =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{command:?}: {error} in {line:?}"));
        let code = output.status.code().unwrap_or_else(|| panic!("{command:?}: {}: {errors}", output.status));
        let lines: Vec<Value> = text.lines().map(read).collect();
        #[cfg(feature = "schema")]
        {
            static SCHEMAS: LazyLock<Schemas> = LazyLock::new(Schemas::load);
            for line in &lines {
                SCHEMAS.assert_printed("fleet-line", line);
            }
        }
        Printed { code, lines, errors }
    }

    /// Runs a command as people do, and returns what it printed.
    ///
    /// # Panics
    ///
    /// Where it cannot be run.
    #[must_use]
    #[track_caller]
    pub fn read(&self, subcommand: &str, arguments: &[&str]) -> (i32, String) {
        let output = self.command(subcommand, arguments).output().expect("the program can be run");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }
}
