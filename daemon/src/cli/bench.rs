//! `tidegate bench`: what the daemon's parts cost on this machine.

mod policy;

use std::process::ExitCode;

use serde_json::json;

use crate::kernel::bench::{Case, PACKETS, ROUNDS, measure};

/// Measure what tidegate costs on this machine.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// What the eBPF programs cost a packet, in nanoseconds
    ///
    /// Runs them in the kernel on packets made here, attached to nothing: traffic is not touched. The reference is a
    /// program that does nothing. Takes some seconds and, as loading programs does, root.
    Probes {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// How soon a policy that was received is enforced, in milliseconds
    ///
    /// Verifies, reads, compiles and loads policies of up to 65,536 prefixes as the daemon does, and waits for the first
    /// judgement by the new one. References are `nft -f` and `ipset restore` of the same addresses, where they are
    /// installed, in a network namespace of their own. No interface is attached. Takes half a minute, and root.
    Policy {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// Rounds of each case; the median is shown
        #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
        rounds: u16,
    },
}

pub(super) fn run(args: &Args) -> ExitCode {
    match args.what {
        What::Policy { json, rounds } => policy::run(usize::from(rounds), json),
        What::Probes { json } => probes(json),
    }
}

fn probes(json: bool) -> ExitCode {
    let figures = match measure() {
        Ok(figures) => figures,
        Err(unavailable) => {
            eprintln!("{}: {}; {}", unavailable.what, unavailable.why, unavailable.fix);
            return ExitCode::FAILURE;
        }
    };
    let [reference, ..] = figures;
    if json {
        for (case, ns) in Case::ALL.into_iter().zip(figures) {
            println!("{}", json_line(case, ns, reference));
        }
    } else {
        println!("{:<14}{:>10}{:>14}", "case", "ns/packet", "over empty");
        for (case, ns) in Case::ALL.into_iter().zip(figures) {
            let over = match case {
                Case::Empty => String::new(),
                Case::Unsampled | Case::Sampled | Case::Policy => {
                    format!("{:+}", ns.cast_signed() - reference.cast_signed())
                }
            };
            println!("{:<14}{ns:>10}{over:>14}", name(case));
        }
        println!("lowest of {ROUNDS} rounds of {PACKETS} packets, each of a source drawn at random");
    }
    ExitCode::SUCCESS
}

const fn name(case: Case) -> &'static str {
    match case {
        Case::Empty => "empty",
        Case::Unsampled => "unsampled",
        Case::Sampled => "sampled",
        Case::Policy => "policy/65536",
    }
}

/// The reference compares with nothing.
fn json_line(case: Case, ns: u64, reference: u64) -> serde_json::Value {
    let mut line = json!({"bench": "probes", "case": name(case), "value": ns, "unit": "ns"});
    if case != Case::Empty {
        line["reference"] = json!(name(Case::Empty));
        line["reference_value"] = json!(reference);
        line["ratio"] = json!(ns as f64 / reference as f64);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_follow_the_contract() {
        assert_eq!(
            json_line(Case::Empty, 40, 40).to_string(),
            r#"{"bench":"probes","case":"empty","unit":"ns","value":40}"#
        );
        let line = json_line(Case::Sampled, 100, 40);
        assert_eq!((line["reference"].as_str(), line["reference_value"].as_u64()), (Some("empty"), Some(40)));
        assert_eq!(line["ratio"].as_f64(), Some(2.5));
    }
}
