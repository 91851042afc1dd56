//! `tidegate policy open`: lets everything pass for a time.

use std::process::ExitCode;

use serde_json::Value;

use super::super::client::SocketArg;
use crate::{
    config::Span,
    control_socket::{PolicyRequest, Request},
};

/// Let everything pass for a time, whatever the policy says. It is reported to the broker.
///
/// It ends by itself, and with the daemon.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate policy open --for 10m
  tidegate policy open --end

Exit status: 0 done, 1 not done, 2 usage, 3 not running.")]
#[group(id = "open")]
pub(super) struct Args {
    /// For how long: \"1s\" to \"24h\"
    #[arg(long = "for", value_name = "TIME", required_unless_present = "end", conflicts_with = "end")]
    time: Option<Span>,
    /// Enforce the policy again now
    #[arg(long)]
    end: bool,
    #[command(flatten)]
    socket: SocketArg,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let request = match args.time {
        Some(Span(time)) => PolicyRequest::Open { for_s: time.as_secs() },
        None => PolicyRequest::Close,
    };
    match args.socket.change::<Value>(&Request::Policy(request), &[]) {
        Ok(_) => {
            match args.time {
                Some(time) => println!("everything passes for {time}, then the policy is enforced again"),
                None => println!("the policy is enforced again"),
            }
            ExitCode::SUCCESS
        }
        Err(error) => error.report(),
    }
}
