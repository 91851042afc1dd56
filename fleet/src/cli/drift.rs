//! `tidegate-fleet drift`: what is not the same everywhere, key by key.

use std::{io::Write as _, process::ExitCode};

use super::{
    Failure,
    arguments::{FleetArgs, block_on},
    exit, lines, words,
};

/// Show each key of each gateway that is not the same in the documents, in the files on site and in what runs.
///
/// `running`: what runs is not what is desired. `unread`: a file on the gateway says what does not run yet.
/// `local`: a file on the gateway disagrees with what is desired, which runs.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate-fleet drift fleet/
  tidegate-fleet drift fleet/ --json | jq 'select(.key == \"host.interval\") | .gateway'

Exit status: 0 nothing drifts, 1 something does or a gateway does not report, 2 usage, 78 a folder that cannot be used.")]
pub(super) struct Args {
    #[command(flatten)]
    fleet: FleetArgs,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let fleet = args.fleet.open()?;
    let seen = block_on(async { Ok(fleet.observe().await?.seen().clone()) })?;
    let drifting = || {
        seen.gateways().flat_map(|(id, gateway)| {
            gateway.report().into_iter().flat_map(|report| report.drift.iter()).map(move |drift| (id, drift))
        })
    };
    let silent: Vec<_> = seen.gateways().filter(|(_, gateway)| gateway.report().is_none()).map(|(id, _)| id).collect();
    let well = drifting().next().is_none() && silent.is_empty();
    let mut out = anstream::stdout().lock();
    if args.fleet.json {
        for (id, drift) in drifting() {
            writeln!(out, "{}", lines::drift(id, drift))?;
        }
        writeln!(
            out,
            "{}",
            lines::drift_summary(drifting().map(|(id, _)| id), &silent, seen.gateways().count(), well)
        )?;
    } else {
        write!(out, "{}", words::drift(drifting(), &silent))?;
    }
    Ok(exit(well))
}
