//! `tidegate-fleet apply`: publish, and wait for what the gateways report.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use tidegate::config::Span;
use tokio::time::Instant;

use super::{
    Failure,
    arguments::{FleetArgs, block_on},
    exit, lines,
    screen::Screen,
    words,
};
use crate::{apply, standing::Standing};

/// Publish what the folder says, and wait until every gateway that is online has reported what came of it.
///
/// A gateway that is offline gets what is wanted when it is back; it is listed, and counts as not as wanted unless
/// --allow-offline is given. Whatever ends this program, what it published stays: apply again, and it goes on from
/// there.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate-fleet apply fleet/
  tidegate-fleet apply fleet/ --timeout 10m --allow-offline      for modems that sleep
  tidegate-fleet apply fleet/ --json | jq 'select(.standing == \"refused\")'

Exit status: 0 all gateways are as wanted, 1 at least one is not, 2 usage, 78 a folder that cannot be used.")]
pub(super) struct Args {
    /// How long to wait for the reports
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    timeout: Duration,
    /// Exit with 0 though gateways are offline, where all others are as wanted
    #[arg(long)]
    allow_offline: bool,
    /// Let a folder without any group (or gateway) withdraw the documents of all of them
    #[arg(long)]
    withdraw_all: bool,
    // Last: its heading in the help holds for what follows.
    #[command(flatten)]
    fleet: FleetArgs,
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse().map(|Span(span)| span).map_err(|error| format!("{error}, such as 90s or 10m"))
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let fleet = args.fleet.open()?;
    block_on(async {
        let mut observer = fleet.observe().await?;
        let plan = fleet.plan(&observer, args.withdraw_all)?;
        let mut out = anstream::stdout();
        if args.fleet.json {
            for change in &plan.changes {
                writeln!(out, "{}", lines::change(change))?;
            }
        } else {
            write!(out, "{}", words::plan(&plan))?;
        }
        let mut screen = Screen::new(args.fleet.json, std::io::stdout().is_terminal());
        let deadline = Instant::now() + args.timeout;
        let ended = apply::apply(&mut observer, &fleet.folder, &plan, deadline, |moment| screen.show(moment))
            .await
            .map_err(|error| fleet.failed(error))?;
        screen.done();
        let accepted = |standing| match standing {
            Standing::AsWanted => true,
            Standing::Offline | Standing::Absent => args.allow_offline,
            _ => false,
        };
        let well = ended.failed.is_empty()
            && ended.unpublished == 0
            && ended.gateways.values().all(|judged| accepted(judged.standing));
        if args.fleet.json {
            for (id, judged) in &ended.gateways {
                writeln!(out, "{}", lines::gateway(id, observer.seen().gateway(id), judged))?;
            }
            for (target, progress) in &ended.failed {
                writeln!(out, "{}", lines::failed(target, progress))?;
            }
            writeln!(out, "{}", lines::apply_summary(&ended, well))?;
        } else {
            write!(out, "{}", words::ended(&ended))?;
        }
        Ok(exit(well))
    })
}
