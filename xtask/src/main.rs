//! tidegate's task runner: `cargo xtask --help`.
//!
//! It builds as the caller, never as root. Privileges are for built programs only: scenario tests and the
//! demo's stage run directly where the caller is root, else through `sudo`.

mod bench;
mod budget;
mod cross;
mod demo;
mod ebpf;
mod elf;
mod fuzz;
mod mutants;
mod package;
mod packages;
mod peers;
mod privilege;
mod shell;
mod test;
mod tools;

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
    /// Installs what the tests need with apt-get (it asks once; services stay off), and below target/ cargo-deny and, of
    /// npm and PyPI, peers of the upload scenarios.
    /// A scenario that fails is run once more, alone; what passes then is named as flaky. Ends with what was skipped, and
    /// why.
    Test(test::Args),
    /// Throw bytes at what strangers can reach: desired documents, requests, provisioning files, policies
    ///
    /// With the stable compiler, and g++; cargo-fuzz is installed below target/. An input that fails is kept below
    /// fuzz/artifacts.
    Fuzz(fuzz::Args),
    /// Change the policy compiler, one comparison at a time, and show that its tests notice
    ///
    /// The changes are made in a copy below target/mutants; each takes a build of the policy crate.
    Mutants,
    /// Measure what tidegate costs, beside what others cost in the same run
    ///
    /// traffic: throughput, processor time, packets a second and latency through a gateway, watched by nothing,
    /// tidegate, softflowd and pmacctd. footprint: binary, start, memory. deliver: records a second to the broker.
    /// control: from a message to what is applied, and what an idle gateway sends in a day. fleet: 1,000 and 10,000
    /// simulated gateways and the operator's program.
    Bench(bench::Args),
    /// Build the daemon for ARM64 gateways, as it is shipped, with `cross`
    ///
    /// Uses rustup's compiler and cross's image where both are to be had, else Debian's compiler in an image made of
    /// Debian packages. Needs Docker or Podman; cross is installed below target/. Ends with the glibc that the
    /// program needs.
    Cross(cross::Args),
    /// Make the Debian packages for gateways, below target/debian
    ///
    /// arm64 comes from a cross build, amd64 from this machine's compiler, as they are shipped; what a program needs of its gateway is checked. cargo-deb is installed below target/.
    Package(package::Args),
    /// Measure the ARM64 build in its emulated gateway, against `cross/budget.toml`
    ///
    /// Sizes, memory, threads, verified instructions, what an idle gateway writes and how often it wakes. Fails where a
    /// figure exceeds its limit.
    Budget(budget::Args),
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
        Task::Test(args) => test::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Mutants => mutants::run(),
        Task::Bench(args) => bench::run(&args),
        Task::Cross(args) => cross::run(&args),
        Task::Package(args) => package::run(&args),
        Task::Budget(args) => budget::run(&args),
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
