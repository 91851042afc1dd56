//! `cargo xtask bench`: what tidegate costs, beside what others cost in the same run.
//!
//! It builds as the caller: the daemon as it is shipped (release), and the stage, which alone runs as root.

use crate::{
    packages, peers,
    privilege::Privilege,
    shell::{self, cargo, heading},
};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Which benches; all of them where none is named
    #[arg(value_parser = ["traffic", "policy", "deliver", "footprint", "control", "fleet", "upload"])]
    benches: Vec<String>,
    /// Rounds; the median of them is shown
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    seconds: u64,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Builds, then hands over to the stage.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    heading("Building the daemon and the operator's program (release), and the stage");
    for program in ["tidegate", "tidegate-fleet"] {
        // One at a time, so that each has the features that it is shipped with.
        shell::run(&mut cargo(&["build", "--release", "--package", program, "--bin", program]))?;
    }
    shell::run(&mut cargo(&[
        "build",
        "--release",
        "--package",
        "xtask",
        "--features",
        "bench",
        "--bin",
        "xtask-bench",
    ]))?;
    let built = |name: &str| crate::target().join("release").join(name).display().to_string();
    let stage = built("xtask-bench");
    let privilege = Privilege::get("network namespaces and eBPF");
    packages::install(&privilege, &packages::BENCH);
    if let Privilege::None(why) = privilege {
        return Err(format!("bench needs root for network namespaces and eBPF: {why}"));
    }
    let mut variables = vec![("TIDEGATE_BIN", built("tidegate")), ("TIDEGATE_FLEET_BIN", built("tidegate-fleet"))];
    if args.benches.is_empty() || args.benches.iter().any(|bench| bench == "upload") {
        variables.extend(peers::install());
    }
    let mut command = privilege.command(&stage, &variables);
    command.args(["--rounds", &args.rounds.to_string(), "--seconds", &args.seconds.to_string()]);
    if args.json {
        command.arg("--json");
    }
    command.args(&args.benches);
    shell::run(&mut command)
}
