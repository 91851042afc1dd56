//! `tidegate flows`: what the kernel's flow table holds now.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{self, Write as _},
    process::ExitCode,
};

use serde_json::Value;

use super::{
    client::SocketArg,
    status::{number, text},
    table::{self, Table},
};
use crate::control_socket::Get;

/// Show the flows that the kernel's table holds now: those sampled since the last export.
///
/// Packets and bytes are estimates of the true volume; ± is half of the interval that holds it with 95 %.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate flows                      the 20 largest
  tidegate flows -n 100
  tidegate flows --json | jq -c 'select(.destination_port == 502)'")]
pub(super) struct Args {
    /// How many flows to show, the largest first
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20, conflicts_with = "json")]
    top: usize,
    /// Every flow, one JSON object a line, in the table's order
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let lines = match args.socket.ask(Get::Flows) {
        Ok(lines) => lines,
        Err(error) => return error.report(),
    };
    match show(args, lines) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flows: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show(args: &Args, lines: impl Iterator<Item = io::Result<String>>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    // The smallest of the largest is on top of the heap, so memory is that of the flows shown.
    let mut largest: BinaryHeap<Reverse<(u64, usize, String)>> = BinaryHeap::new();
    let mut flows = 0;
    for line in lines {
        let line = line?;
        let flow: Value = serde_json::from_str(&line)?;
        if let Some(error) = flow["error"].as_str() {
            return Err(io::Error::other(table::printable(error)));
        }
        if args.json {
            writeln!(out, "{line}")?;
            continue;
        }
        flows += 1;
        largest.push(Reverse((number(&flow["bytes"]["estimate"]), flows, line)));
        if largest.len() > args.top {
            largest.pop();
        }
    }
    if !args.json {
        let sorted: Vec<Value> = largest
            .into_sorted_vec()
            .into_iter()
            .map(|Reverse((_, _, line))| serde_json::from_str(&line))
            .collect::<Result<_, _>>()?;
        write!(out, "{}", as_table(&sorted).render(""))?;
        writeln!(out, "{} of {flows} flows", sorted.len())?;
    }
    out.flush()
}

/// Flows as rows.
pub(super) fn as_table<'a>(flows: impl IntoIterator<Item = &'a Value>) -> Table {
    let mut rows =
        Table::new(["interface", "", "protocol", "source", "destination", ">bytes", ">±", ">packets", "flags"]);
    for flow in flows {
        let bytes = &flow["bytes"];
        let half_width = number(&bytes["high"]).saturating_sub(number(&bytes["low"])) / 2;
        rows.row([
            text(&flow["interface"]),
            if flow["direction"] == "egress" { "out".into() } else { "in".into() },
            protocol(number(&flow["protocol"])),
            endpoint(flow, "source"),
            endpoint(flow, "destination"),
            table::bytes(number(&bytes["estimate"])),
            table::bytes(half_width),
            table::count(number(&flow["packets"]["estimate"])),
            text(&flow["tcp_flags"]),
        ]);
    }
    rows
}

fn endpoint(flow: &Value, side: &str) -> String {
    let address = text(&flow[side]);
    match flow[format!("{side}_port")].as_u64() {
        Some(port) if address.contains(':') => format!("[{address}]:{port}"),
        Some(port) => format!("{address}:{port}"),
        None => address,
    }
}

/// Name of an IP protocol (IANA protocol numbers), for those that a gateway sees.
fn protocol(number: u64) -> String {
    match number {
        1 => "icmp".into(),
        2 => "igmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        47 => "gre".into(),
        50 => "esp".into(),
        51 => "ah".into(),
        58 => "icmpv6".into(),
        132 => "sctp".into(),
        other => other.to_string(),
    }
}
