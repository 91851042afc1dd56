//! The stage of `cargo xtask bench`: measures built programs, with the privileges that this takes.
//!
//! These machines are noisy, so a figure never stands alone: cases are measured in rounds, each round in another
//! order, and the median of the rounds is shown beside its reference of the same run.

mod control;
mod deliver;
mod fleet;
mod footprint;
mod path;
mod policy;
mod row;
mod traffic;
mod upload;

use std::time::Duration;

use clap::Parser;

#[derive(Parser)]
struct Arguments {
    benches: Vec<String>,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    #[arg(long)]
    json: bool,
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Rounds; the median of them is shown.
    rounds: usize,
    /// Length of one measurement.
    window: Duration,
}

type Bench = fn(Plan) -> Vec<row::Row>;

fn main() {
    let arguments = Arguments::parse();
    let plan = Plan { rounds: arguments.rounds.max(1), window: Duration::from_secs(arguments.seconds.max(1)) };
    let wanted = |name: &str| arguments.benches.is_empty() || arguments.benches.iter().any(|bench| bench == name);
    let benches: [(&str, Bench); 7] = [
        ("footprint", footprint::run),
        ("deliver", deliver::run),
        ("traffic", traffic::run),
        ("policy", policy::run),
        ("control", control::run),
        ("fleet", fleet::run),
        // The last one: it moves the folders of all that is started from then on.
        ("upload", upload::run),
    ];
    for (_, bench) in benches.iter().filter(|(name, _)| wanted(name)) {
        for row in bench(plan) {
            if arguments.json {
                println!("{}", row.json());
            } else {
                println!("{row}");
            }
        }
    }
}
