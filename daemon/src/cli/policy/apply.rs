//! `tidegate policy apply`: hands a signed policy to the daemon of this gateway.

use std::{
    io::{self, BufRead as _},
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{super::client::SocketArg, failed, input::Input};
use crate::{
    control::policy::Placed,
    control_socket::{Get, PolicyRequest, Request},
};

/// Between two questions how it stands.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// For what may come before a trial: another one, and a disk that is slow.
const BEGINS_WITHIN: Duration = Duration::from_mins(1);
/// Longest `[policy] confirm_within`, and some more.
const ENDS_WITHIN: Duration = Duration::from_mins(11);

/// Have this gateway enforce a signed policy, as if its broker had sent it.
///
/// Signature, scope and version are judged as ever, and the policy is taken back unless the broker still hears the gateway
/// with it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate policy apply /media/stick/policy.json
  tidegate policy apply --offline /media/stick/policy.json    no link: you say that it is right, within confirm_within

With --offline answer yes once you have seen that the plant still works. Without an answer, and where
the policy cuts your own session off, what was enforced before comes back.

Exit status: 0 confirmed, 1 refused or rolled back, 2 usage, 3 not running.")]
pub(super) struct Args {
    /// Vouch for it yourself, in place of the broker
    #[arg(long)]
    offline: bool,
    /// A signed policy; - is standard input (not with --offline)
    #[arg(value_name = "FILE")]
    file: Input,
    #[command(flatten)]
    socket: SocketArg,
}

pub(super) fn run(args: &Args) -> ExitCode {
    if args.offline && args.file.is_stdin() {
        return failed("with --offline standard input is where you say yes; name the file");
    }
    let envelope = match args.file.bytes() {
        Ok(envelope) => envelope,
        Err(what) => return failed(&what),
    };
    let request = Request::Policy(PolicyRequest::Apply { bytes: envelope.len(), offline: args.offline });
    let placed: Placed = match args.socket.change(&request, &envelope) {
        Ok(placed) => placed,
        Err(error) => return error.report(),
    };
    println!("version {} for {} is accepted", placed.version, placed.source);
    if args.offline
        && let Err(status) = vouch(args, &placed)
    {
        return status;
    }
    let ended = wait_for(args, &placed, ENDS_WITHIN, |state| !matches!(state, "pending" | "applied"));
    match ended {
        Ok((state, _)) if state == "confirmed" => {
            println!("confirmed");
            ExitCode::SUCCESS
        }
        Ok((state, reason)) => failed(&format!("{state}: {reason}")),
        Err(status) => status,
    }
}

/// Waits until it is on trial, and for the word of whoever is here.
fn vouch(args: &Args, placed: &Placed) -> Result<(), ExitCode> {
    let (state, reason) = wait_for(args, placed, BEGINS_WITHIN, |state| state != "pending")?;
    if state != "applied" {
        return if state == "confirmed" { Ok(()) } else { Err(failed(&format!("{state}: {reason}"))) };
    }
    println!("it is enforced. Keep it? Type yes:");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    if read.is_err() || answer.trim() != "yes" {
        return Err(failed("nobody vouched for it: what was enforced before comes back within confirm_within"));
    }
    let Placed { source, version } = placed.clone();
    let request = Request::Policy(PolicyRequest::Vouch { source, version });
    args.socket.change::<Value>(&request, &[]).map(drop).map_err(|error| error.report())
}

/// State and reason, once the state is such.
fn wait_for(
    args: &Args,
    placed: &Placed,
    patience: Duration,
    is: impl Fn(&str) -> bool,
) -> Result<(String, String), ExitCode> {
    let began = Instant::now();
    loop {
        let status: Value = args.socket.ask_one(Get::Policy).map_err(|error| error.report())?;
        let sources = status["sources"].as_array().into_iter().flatten();
        let ours = sources.filter(|it| it["source"] == placed.source.to_string() && it["version"] == placed.version);
        for source in ours {
            let text = |name: &str| source[name].as_str().unwrap_or("no reason given").to_owned();
            if is(&text("state")) {
                return Ok((text("state"), text("reason")));
            }
        }
        if began.elapsed() > patience {
            return Err(failed("it waits: see tidegate status; it is tried by itself once it can be"));
        }
        sleep(ASK_EVERY);
    }
}
