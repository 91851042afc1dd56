//! `tidegate-fleet status`: who is online, and who is not as wanted.

use std::{collections::BTreeMap, io::Write as _, process::ExitCode, sync::Arc};

use super::{
    Failure,
    arguments::{FleetArgs, block_on},
    exit, lines, words,
};
use crate::{
    apply::Tally,
    standing::{Judged, Standing, Wanted, judge},
};

/// Show every gateway: whether it is online, which versions it runs, and why it is not as wanted.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate-fleet status fleet/
  tidegate-fleet status fleet/ --bad                             only those that are not as wanted
  tidegate-fleet status fleet/ --json | jq 'select(.online == false) | .gateway'

Exit status: 0 all gateways are as wanted, 1 at least one is not, 2 usage, 78 a folder that cannot be used.")]
pub(super) struct Args {
    /// Only gateways that are not as wanted
    #[arg(long)]
    bad: bool,
    // Last: its heading in the help holds for what follows.
    #[command(flatten)]
    fleet: FleetArgs,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let fleet = args.fleet.open()?;
    let (seen, plan) = block_on(async {
        let observer = fleet.observe().await?;
        // Nothing is withdrawn here, so there is nothing to refuse.
        let plan = fleet.plan(&observer, true)?;
        Ok((observer.seen().clone(), plan))
    })?;
    let wanted = Wanted::without(&plan);
    let judged: BTreeMap<Arc<str>, Judged> = wanted
        .gateways(&seen)
        .into_iter()
        .map(|id| {
            let judged = judge(&id, seen.gateway(&id), &wanted);
            (id, judged)
        })
        .collect();
    let tally = Tally::of(judged.values());
    let well = plan.changes.is_empty() && tally.count(Standing::AsWanted) == tally.total();
    let shown = judged.iter().filter(|(_, judged)| !args.bad || judged.standing != Standing::AsWanted);
    let mut out = anstream::stdout().lock();
    if args.fleet.json {
        for (id, judged) in shown {
            writeln!(out, "{}", lines::gateway(id, seen.gateway(id), judged))?;
        }
        writeln!(out, "{}", lines::status_summary(&tally, &plan, well))?;
    } else {
        write!(out, "{}", words::status(shown, &seen, &tally, &plan))?;
    }
    Ok(exit(well))
}
