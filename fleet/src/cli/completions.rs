//! `tidegate-fleet completions`: for the shell.

use std::{io, process::ExitCode};

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use super::{Cli, Failure};

/// Write completions for a shell to standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate-fleet completions bash > ~/.local/share/bash-completion/completions/tidegate-fleet
  tidegate-fleet completions zsh > ~/.zfunc/_tidegate-fleet
  tidegate-fleet completions fish > ~/.config/fish/completions/tidegate-fleet.fish")]
pub(super) struct Args {
    /// Which
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "tidegate-fleet", &mut script);
    io::Write::write_all(&mut io::stdout(), &script)?;
    Ok(ExitCode::SUCCESS)
}
