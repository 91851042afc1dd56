//! tidegate's task runner: `cargo xtask --help`.
//!
//! It builds as the caller, never as root. Privileges are for built programs only: scenario tests and the
//! demo's stage run directly where the caller is root, else through `sudo`.

mod bench;
mod demo;
mod ebpf;
mod packages;
mod privilege;
mod shell;
mod test;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Every task of the project, one command each", max_term_width = 100)]
#[command(after_help = "Builds run as you; only built programs get privileges: directly where you are root, else \
                        through sudo.\nStart with `cargo xtask demo`.")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Show tidegate at work: real traffic between two hosts, a broker that goes away, nothing lost
    ///
    /// Builds the daemon, starts an MQTT broker and two network namespaces joined by a gateway, and runs the
    /// daemon on the gateway with the shipped configuration. Without privileges the namespaces and the traffic
    /// are left out, and it says so. Ctrl-C ends it and leaves nothing behind.
    Demo {
        /// Run through once, in under a minute, and end with a summary
        #[arg(long)]
        once: bool,
    },
    /// Check everything: format, lints, dependencies, unit, property and scenario tests
    ///
    /// Installs what the tests need with apt-get (it asks once; services stay off), and cargo-deny below target/.
    /// Ends with what was skipped, and why.
    Test {
        /// Run only scenario tests whose name contains this
        #[arg(long, value_name = "TEXT")]
        scenario: Option<String>,
    },
    /// Measure what tidegate costs, beside what others cost in the same run
    ///
    /// traffic: throughput, processor time, packets a second and latency through a gateway, watched by nothing,
    /// tidegate, softflowd and pmacctd. footprint: binary, start, memory. deliver: records a second to the broker.
    Bench(bench::Args),
    /// Build the eBPF object and its manifest, which are committed beside their sources
    ///
    /// Needs Debian's compiler with its BPF library and bpf-linker; a plain build of the daemon needs neither.
    Ebpf {
        /// Check that object, manifest and sources belong together instead
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Demo { once } => demo::run(once),
        Task::Test { scenario } => test::run(scenario.as_deref()),
        Task::Bench(args) => bench::run(&args),
        Task::Ebpf { check: false } => ebpf::build().map_err(|error| error.to_string()),
        Task::Ebpf { check: true } => ebpf::check().map_err(|error| error.to_string()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Folder of the workspace.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the workspace")
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}
