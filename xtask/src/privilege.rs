//! Privileges for built programs.

use std::{io::IsTerminal as _, process::Command, sync::Once, thread, time::Duration};

use crate::shell;

/// How a program gets root, if it can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// The caller is root.
    Root,
    /// Through `sudo`, which has been asked and will not ask again.
    Sudo,
    /// Not at all, and why.
    None(String),
}

impl Privilege {
    /// Finds out, and asks for the password, once, on a terminal. `purpose` says what it is for.
    pub(crate) fn get(purpose: &str) -> Self {
        if is_root() {
            return Self::Root;
        }
        if !shell::works(Command::new("sudo").arg("--version")) {
            return Self::None("you are not root, and there is no sudo".to_owned());
        }
        if !shell::works(Command::new("sudo").args(["--non-interactive", "true"])) {
            if !std::io::stdin().is_terminal() {
                return Self::None("you are not root, and sudo has no terminal to ask for a password on".to_owned());
            }
            println!("root is needed for {purpose}; sudo asks for your password once:");
            if !Command::new("sudo").arg("--validate").status().is_ok_and(|status| status.success()) {
                return Self::None("sudo refused".to_owned());
            }
        }
        keep_sudo();
        Self::Sudo
    }

    /// A command that runs `program` with these privileges and with the variables given (sudo drops others).
    pub(crate) fn command(&self, program: &str, variables: &[(&str, String)]) -> Command {
        let mut command = match self {
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.arg("--non-interactive").arg("env");
                command.args(variables.iter().map(|(key, value)| format!("{key}={value}"))).arg(program);
                command
            }
            Self::Root | Self::None(_) => Command::new(program),
        };
        command.envs(variables.iter().map(|(key, value)| (key, value))).current_dir(crate::workspace());
        command
    }
}

/// Refreshes what sudo remembers, so that a build that takes longer does not make it ask again.
fn keep_sudo() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        thread::spawn(|| {
            loop {
                thread::sleep(Duration::from_mins(1));
                shell::works(Command::new("sudo").args(["--non-interactive", "--validate"]));
            }
        });
    });
}

/// Whether the effective user is root: the second number of `Uid:` in proc(5).
fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|uids| uids.split_whitespace().nth(1))
        .is_some_and(|uid| uid == "0")
}
