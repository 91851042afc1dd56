//! The command line: one file a subcommand, each with its `Args` and its `run`.
//!
//! Exit status: 0 well, 1 failure (or degraded, for `status`), 2 usage, 3 not running, 78 configuration.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::{
    config::{DEFAULT_PATH, MainFile},
    provision::{FILE, FILES},
};

mod bench;
mod check_config;
mod client;
mod config;
mod flows;
mod policy;
mod provision;
mod put;
mod run;
mod send;
mod spool;
mod status;
pub mod table;

/// Exit status of a daemon that is to be started again (`EX_TEMPFAIL`, sysexits.h); the unit says so, too.
const RESTART: u8 = 75;
/// Exit status of a configuration that cannot be used (`EX_CONFIG`, sysexits.h).
const CONFIG: u8 = 78;
/// Exit status where no daemon answers.
const NOT_RUNNING: u8 = 3;

/// Edge gateway daemon: watches traffic with eBPF and delivers telemetry over MQTT from a spool that survives
/// power cuts.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Start here:
  tidegate check-config        is the configuration right, and what is in force?
  tidegate run                 the daemon, in the foreground
  tidegate config show --origin  what runs, and which layer decides it
  tidegate status --watch      what it does, and what is wrong, worst first

Exit status: 0 well, 1 failure or degraded, 2 usage, 3 not running, 78 configuration.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Where the configuration is.
#[derive(Clone, Debug, clap::Args)]
struct ConfigArg {
    /// Main file; `conf.d/*.toml` beside it and `TIDEGATE__SECTION__KEY` from the environment come on top
    /// [default: /etc/tidegate/tidegate.toml, which may be absent]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArg {
    fn file(&self) -> MainFile {
        match &self.config {
            Some(path) => MainFile { path: path.clone(), required: true },
            None => MainFile { path: DEFAULT_PATH.into(), required: false },
        }
    }

    /// Where a `provision.toml` is looked for: a daemon with a main file of its own has it beside that, and leaves those
    /// of the machine's daemon alone.
    fn provision_files(&self) -> Vec<PathBuf> {
        match &self.config {
            Some(path) => vec![path.with_file_name(FILE)],
            None => FILES.map(PathBuf::from).to_vec(),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    // A doc comment here would stand in the place of what each command's `Args` say of it.
    Run(run::Args),
    CheckConfig(check_config::Args),
    Config(config::Args),
    Provision(provision::Args),
    Status(status::Args),
    Flows(flows::Args),
    Policy(policy::Args),
    Spool(spool::Args),
    Bench(bench::Args),
    Send(send::Args),
    Put(put::Args),
}

/// Writes what was asked for.
///
/// # Errors
///
/// It cannot be written, and that is said: the exit status.
fn print(text: &str) -> Result<(), ExitCode> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A closed pipe is how `| head` ends us.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("error: writing: {error}");
            Err(ExitCode::FAILURE)
        }
        _ => Ok(()),
    }
}

impl Cli {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Run(args) => run::run(&args),
            Command::CheckConfig(args) => check_config::run(&args),
            Command::Config(args) => config::run(&args),
            Command::Provision(args) => provision::run(&args),
            Command::Status(args) => status::run(&args),
            Command::Flows(args) => flows::run(&args),
            Command::Policy(args) => policy::run(&args),
            Command::Spool(args) => spool::run(&args),
            Command::Bench(args) => bench::run(&args),
            Command::Send(args) => send::run(&args),
            Command::Put(args) => put::run(&args),
        }
    }
}
