//! `tidegate-fleet plan`: what would change, for whom.

use std::{io::Write as _, process::ExitCode};

use super::{
    Failure,
    arguments::{FleetArgs, block_on},
    exit, lines, words,
};

/// Show what `apply` would publish and withdraw, and for which gateways.
///
/// Nothing is published. Every file is judged by the same rules as on a gateway.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate-fleet plan fleet/                                 what would change
  tidegate-fleet plan fleet/ --exit-code || echo changes     for scripts
  tidegate-fleet plan fleet/ --json | jq 'select(.what == \"change\") | .target'

Exit status: 0 the plan is shown, 1 it cannot be made (or, with --exit-code, something would change), 2 usage, 78 a folder that cannot be used.")]
pub(super) struct Args {
    /// Exit with 1 where something would change
    #[arg(long)]
    exit_code: bool,
    /// Let a folder without any group (or gateway) withdraw the documents of all of them
    #[arg(long)]
    withdraw_all: bool,
    // Last: its heading in the help holds for what follows.
    #[command(flatten)]
    fleet: FleetArgs,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let fleet = args.fleet.open()?;
    let plan = block_on(async { fleet.plan(&fleet.observe().await?, args.withdraw_all) })?;
    let mut out = anstream::stdout().lock();
    if args.fleet.json {
        for change in &plan.changes {
            writeln!(out, "{}", lines::change(change))?;
        }
        writeln!(out, "{}", lines::plan_summary(&plan))?;
    } else {
        write!(out, "{}", words::plan(&plan))?;
    }
    Ok(exit(!args.exit_code || plan.changes.is_empty()))
}
