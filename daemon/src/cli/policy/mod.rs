//! `tidegate policy`: makes, checks and explains signed policies. One file a command.
//!
//! Those that make and explain policies need no daemon: an operator has them where policies are made. `apply`, `open`, and
//! `show` without a file are for whoever is at the gateway.

use std::process::ExitCode;

use serde_json::Value;

mod apply;
mod diff;
mod in_force;
mod input;
mod open;
mod show;
mod sign;
mod test;
mod verify;

/// Make, check and explain signed network policies.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A policy is a bundle of rules in JSON, signed into an envelope, and published retained on
tidegate/v1/ID/policy/desired. From a key to a policy:
  openssl genpkey -algorithm ed25519 -out policy.key
  openssl pkey -in policy.key -pubout -out policy.pem    goes into [policy] public_keys
  tidegate policy test bundle.json --peer 192.0.2.7 --protocol tcp --port 443
  tidegate policy sign --key policy.key --out policy.json bundle.json
  tidegate policy verify --public-key policy.pem policy.json")]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    // A doc comment here would stand in the place of what each command's `Args` say of it.
    Sign(sign::Args),
    Verify(verify::Args),
    Show(show::Args),
    Diff(diff::Args),
    Test(test::Args),
    Apply(apply::Args),
    Open(open::Args),
}

pub(super) fn run(args: &Args) -> ExitCode {
    match &args.what {
        What::Sign(args) => sign::run(args),
        What::Verify(args) => verify::run(args),
        What::Show(args) => show::run(args),
        What::Diff(args) => diff::run(args),
        What::Test(args) => test::run(args),
        What::Apply(args) => apply::run(args),
        What::Open(args) => open::run(args),
    }
}

/// Says what went wrong.
fn failed(what: &str) -> ExitCode {
    for line in what.lines() {
        eprintln!("error: {}", super::table::printable(line));
    }
    ExitCode::FAILURE
}

/// Writes what was asked for.
fn print(text: &str) -> ExitCode {
    super::print(text).err().unwrap_or(ExitCode::SUCCESS)
}

/// Without quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The first items of a list, and how many more there are; anything else as it is.
fn first(value: &Value, items: usize) -> String {
    let Value::Array(all) = value else { return plain(value) };
    let shown: Vec<_> = all.iter().take(items).map(plain).collect();
    match all.len().saturating_sub(items) {
        0 => shown.join(" "),
        more => format!("{} and {more} more", shown.join(" ")),
    }
}
