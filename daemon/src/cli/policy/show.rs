//! `tidegate policy show`: what a bundle says, or what the running daemon enforces.

use std::{num::NonZeroU32, process::ExitCode, time::Duration};

use serde_json::Value;
use tidegate_values::calendar;

use super::{
    failed, first, in_force,
    input::{Document, Input},
    plain, print,
};
use crate::{
    cli::{client::SocketArg, table::Table},
    config::Span,
    policy::{Action, Bundle, Rule, show},
};

/// Prefixes and ports of a rule that stand in the table.
const MAX_SHOWN: usize = 3;

/// Show what a policy says, rule by rule (nothing is verified); without a file, the policy in force here and what its rules
/// decided.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate policy show                                 what is in force, and what each rule decided and dropped
  tidegate policy show --json | jq -r 'select(.dropped_packets > 0) | .rule'
  tidegate policy show policy.json                     a table of the rules
  tidegate policy show --json policy.json > bundle.json    the bundle out of its envelope
  tidegate policy show --json policy.json | jq '.rules[] | select(.action == \"drop\") | .name'

Exit status: 0 shown, 1 the file cannot be read or the daemon not be asked, 2 usage, 3 not running.")]
#[group(id = "show")]
pub(super) struct Args {
    /// The bundle as JSON; of the policy in force one object a line: the policy, then each rule
    #[arg(long)]
    json: bool,
    /// A bundle or an envelope; - is standard input. Without it the running daemon is asked
    #[arg(value_name = "FILE", conflicts_with = "socket")]
    file: Option<Input>,
    #[command(flatten)]
    socket: SocketArg,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let Some(file) = &args.file else { return in_force::run(&args.socket, args.json) };
    match file.document() {
        Ok(Document { bundle, .. }) if args.json => print(&format!("{:#}\n", show::bundle(&bundle))),
        Ok(document) => print(&as_table(&document)),
        Err(what) => failed(&what),
    }
}

fn as_table(document: &Document) -> String {
    let bundle = &document.bundle;
    let until = bundle.not_after_ms.map_or(String::new(), |ms| format!(", until {}", calendar::format(ms)));
    let signed = if document.is_signed { "signature not verified" } else { "not signed" };
    let mut text = format!(
        "version {} for {}{until}, default {} ({signed})\n",
        bundle.version,
        bundle.scope,
        show::default(bundle.default)
    );
    if let Some((_, keys)) = show::head(bundle).into_iter().find(|(member, _)| *member == "keys") {
        text += &format!("keys: {keys}\n");
    }
    if bundle.rules.is_empty() {
        return text + "no rules\n";
    }
    let mut table = Table::new(["RULE", "ACTION", "WHAT", "PEERS", "REASON"]);
    for rule in &bundle.rules {
        let reason = bundle.reason(rule).to_owned();
        table.row([bundle.name(rule).to_owned(), action(rule), what(bundle, rule), peers(bundle, rule), reason]);
    }
    text + &table.render("")
}

/// The action with its rate.
pub(super) fn action(rule: &Rule) -> String {
    let name = show::action(&rule.action);
    let span = |seconds: NonZeroU32| Span(Duration::from_secs(u32::from(seconds).into()));
    let ttl = rule.ttl_s.map_or(String::new(), |ttl| format!(" for {}", span(ttl)));
    match &rule.action {
        Action::Limit(limit) if limit.per_peer => format!("{name} {}/s a peer{ttl}", limit.pps),
        Action::Limit(limit) => format!("{name} {}/s{ttl}", limit.pps),
        _ => format!("{name}{ttl}"),
    }
}

/// Its conditions, in words.
fn what(bundle: &Bundle, rule: &Rule) -> String {
    let mut words = Vec::new();
    for (member, value) in show::members(bundle, rule) {
        match member {
            "protocol" => words.insert(0, plain(&value)),
            "direction" | "ports" | "peer_ports" | "icmp_types" | "interfaces" => {
                let name = match member {
                    "direction" => "",
                    "ports" => "ports ",
                    "peer_ports" => "peer ports ",
                    "icmp_types" => "types ",
                    _ => "on ",
                };
                words.push(format!("{name}{}", some(&value)));
            }
            _ => {}
        }
    }
    if words.is_empty() { "all".to_owned() } else { words.join(", ") }
}

fn peers(bundle: &Bundle, rule: &Rule) -> String {
    some(&serde_json::json!(bundle.prefixes(rule).iter().map(ToString::to_string).collect::<Vec<_>>()))
}

fn some(value: &Value) -> String {
    first(value, MAX_SHOWN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::read;

    #[test]
    fn a_table_has_a_line_for_each_rule() {
        let text = r#"{"version":7,"scope":{"gateway":"gw-7"},"not_after":"2027-01-01T00:00:00Z","default":"allow","rules":[
            {"name":"a","cidrs":["192.0.2.0/24","2001:db8::/32","10.0.0.0/8","::1"],"direction":"ingress","protocol":"tcp",
             "ports":["443","8000-8100"],"interfaces":["eth0"],"action":"drop","ttl":"1h","reason":"because"},
            {"name":"b","cidrs":["::/0"],"action":"limit","limit":{"pps":5,"per":"peer"}}]}"#;
        let document = Document { payload: Vec::new(), bundle: read(text.as_bytes()).unwrap(), is_signed: false };
        let expected = "\
version 7 for gateway gw-7, until 2027-01-01T00:00:00Z, default allow (not signed)
RULE  ACTION              WHAT                                          PEERS                                       REASON
a     drop for 1h  tcp, ingress, ports 443 8000-8100, on eth0    10.0.0.0/8 192.0.2.0/24 ::1/128 and 1 more  because
b     limit 5/s a peer    all                                           ::/0
";
        let squeezed = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(squeezed(&as_table(&document)), squeezed(expected));
    }
}
