//! The Rust tools that the tests need.

use std::{path::PathBuf, process::Command};

use crate::{
    shell::{self, cargo},
    tools::Tool,
};

/// Checks compiler, clippy and rustfmt.
///
/// # Errors
///
/// What is missing or too old, with the one command that mends it.
pub(crate) fn check() -> Result<(), String> {
    let rustup = shell::works(Command::new("rustup").arg("--version"));
    let wanted = env!("CARGO_PKG_RUST_VERSION");
    let said = shell::output(&mut cargo(&["--version"]))?;
    let found = said.split(' ').nth(1).unwrap_or_default();
    if older(found, wanted) {
        let mend = if rustup { "rustup update stable" } else { "install Rust from https://rustup.rs" };
        return Err(format!("Rust {wanted} or newer is needed, this is {found}: {mend}"));
    }
    for (tool, component, package) in [("clippy", "clippy", "rust-clippy-web"), ("fmt", "rustfmt", "rustfmt-web")] {
        if !shell::works(&mut cargo(&[tool, "--version"])) {
            let mend =
                if rustup { format!("rustup component add {component}") } else { format!("apt-get install {package}") };
            return Err(format!("cargo {tool} is missing: {mend}"));
        }
    }
    println!("Rust {found}, clippy, rustfmt");
    Ok(())
}

/// Compares the first two numbers of two versions.
fn older(found: &str, wanted: &str) -> bool {
    let numbers =
        |version: &str| -> Vec<u32> { version.split(['.', '-']).take(2).map_while(|part| part.parse().ok()).collect() };
    numbers(found) < numbers(wanted)
}

/// Where cargo-deny is.
#[derive(Debug)]
pub(crate) enum Deny {
    /// A subcommand that the caller has.
    Installed,
    /// Installed by this below `target/`.
    Own(PathBuf),
}

impl Deny {
    /// A command of it in the workspace.
    pub(crate) fn command(&self) -> Command {
        match self {
            Self::Installed => cargo(&["deny"]),
            Self::Own(program) => {
                let mut command = Command::new(program);
                command.current_dir(crate::workspace());
                command
            }
        }
    }
}

/// Finds cargo-deny, or installs it below `target/`.
///
/// # Errors
///
/// It cannot be installed.
pub(crate) fn cargo_deny() -> Result<Deny, String> {
    const DENY: Tool = Tool { name: "cargo-deny", version: "^0.20", arguments: &[], takes: "about a minute" };

    if shell::works(&mut cargo(&["deny", "--version"])) {
        return Ok(Deny::Installed);
    }
    DENY.get().map(Deny::Own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(older("1.9.0", "1.95"));
        assert!(older("1.94.1-beta.2", "1.95"));
        assert!(!older("1.95.0", "1.95") && !older("1.100.0", "1.95") && !older("2.0.0", "1.95"));
    }
}
