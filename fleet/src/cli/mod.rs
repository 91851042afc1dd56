//! The command line: one file a subcommand, each with its `Args` and its `run`.
//!
//! Exit status: 0 all as wanted, 1 not (or it could not be found out), 2 usage, 78 a folder that cannot be used.

mod apply;
mod arguments;
mod completions;
mod drift;
mod lines;
mod plan;
mod screen;
mod status;
mod words;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tidegate::cli::table::printable;

use crate::{broker::LinkError, credentials::CredentialError, folder::Fault, plan::NoPlan};

/// Exit status of wrong options, as clap's own.
const USAGE: u8 = 2;
/// Exit status of a folder that cannot be used (`EX_CONFIG`, sysexits.h).
const FOLDER: u8 = 78;

/// Makes a fleet of tidegate gateways what a folder of TOML files says, and shows which of them are.
///
/// The folder is the truth, and nothing else is kept: `groups/NAME.toml` is for all members of a group,
/// `gateways/ID.toml` for one gateway, over what its groups say. Both have the sections of tidegate.toml.
#[derive(Debug, Parser)]
#[command(name = "tidegate-fleet", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Start here:
  export TIDEGATE_FLEET_URL=mqtts://broker.example TIDEGATE_FLEET_USER=operator
  export TIDEGATE_FLEET_PASSWORD_FILE=~/.config/tidegate/password
  mkdir -p fleet/groups && cd fleet
  printf '[traffic]\\nsample_rate = 500\\n' > groups/plant.toml
  tidegate-fleet plan          what would change, for whom
  tidegate-fleet apply         publish it, and wait for what the gateways report
  tidegate-fleet status        who is online, and who is not as wanted
  tidegate-fleet drift         what was changed on site, key by key

Exit status: 0 all as wanted, 1 not, 2 usage, 78 a folder that cannot be used.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    // A doc comment here would stand in the place of what each command's `Args` say of it.
    Plan(plan::Args),
    Apply(apply::Args),
    Status(status::Args),
    Drift(drift::Args),
    Completions(completions::Args),
}

impl Cli {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Plan(args) => plan::run(&args),
            Command::Apply(args) => apply::run(&args),
            Command::Status(args) => status::run(&args),
            Command::Drift(args) => drift::run(&args),
            Command::Completions(args) => completions::run(&args),
        };
        done.unwrap_or_else(|failure| failure.report())
    }
}

/// Why a command could not do what it is for.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the folder cannot be used")]
    Folder(Vec<Fault>),
    #[error(transparent)]
    Plan(#[from] NoPlan),
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error("{url}: {error}")]
    Broker { url: String, error: LinkError },
    #[error(transparent)]
    Output(#[from] std::io::Error),
}

/// Faults that are shown: whoever has more mends these first.
const SHOWN_FAULTS: usize = 50;

impl Failure {
    /// Says what is wrong, and gives the exit status.
    fn report(&self) -> ExitCode {
        match self {
            Self::Folder(faults) => {
                for fault in faults.iter().take(SHOWN_FAULTS) {
                    eprintln!("error: {}", printable(&fault.to_string()));
                }
                if faults.len() > SHOWN_FAULTS {
                    eprintln!("error: {} more", faults.len() - SHOWN_FAULTS);
                }
                eprintln!("nothing was published");
                ExitCode::from(FOLDER)
            }
            // A closed pipe is how `| head` ends us.
            Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            other => {
                eprintln!("error: {}", printable(&other.to_string()));
                match other {
                    Self::Plan(NoPlan::WithdrawsAll { .. }) => ExitCode::from(FOLDER),
                    Self::Credentials(_) => ExitCode::from(USAGE),
                    _ => ExitCode::FAILURE,
                }
            }
        }
    }
}

/// 0 where it is so, else 1.
fn exit(well: bool) -> ExitCode {
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
