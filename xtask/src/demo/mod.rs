//! `cargo xtask demo`: builds the daemon and the stage, then runs the stage with privileges where they can be had.
//!
//! The stage ([`stage/main.rs`](stage/main.rs)) is a program of its own: it alone runs as root, and never builds.

use crate::{
    packages,
    privilege::Privilege,
    shell::{self, cargo, heading},
};

/// Builds as the caller, then hands over.
pub(crate) fn run(once: bool) -> Result<(), String> {
    heading("Building the daemon and the demo's stage");
    shell::run(&mut cargo(&["build", "--package", "tidegate", "--bin", "tidegate"]))?;
    shell::run(&mut cargo(&["build", "--package", "xtask", "--features", "demo", "--bin", "xtask-demo"]))?;
    let built = crate::target().join("debug");
    let privilege = Privilege::get("network namespaces and eBPF");
    packages::install(&privilege, &packages::DEMO);
    let variables = [("TIDEGATE_BIN", built.join("tidegate").display().to_string())];
    let mut stage = privilege.command(&built.join("xtask-demo").to_string_lossy(), &variables);
    if once {
        stage.arg("--once");
    }
    if let Privilege::None(why) = privilege {
        stage.arg("--unprivileged").arg(why);
    }
    // A Ctrl-C reaches the stage, too: it takes everything down, and this waits for it.
    ctrlc::set_handler(|| {}).map_err(|error| format!("handle Ctrl-C: {error}"))?;
    shell::run(&mut stage).map_err(|error| format!("the demo ended early: {error}"))
}
