//! `tidegate policy diff`: what one policy says otherwise than another.

use std::{collections::HashSet, process::ExitCode};

use serde_json::{Value, json};

use super::{failed, first, input::Input, print};
use crate::policy::{
    Bundle,
    diff::{Change, Diff, MAX_ORDER_CHANGES, diff},
};

/// Exit status where something is different, as diff(1) has it.
const DIFFERENT: u8 = 1;
/// Exit status where it cannot be told.
const TROUBLE: u8 = 2;
/// Items of a list that are told.
const MAX_ITEMS: usize = 8;

/// Show what a new policy says otherwise than an old one.
///
/// A rule is the same where its name is; what changed is told member by member. The order of rules is told where it decides:
/// two rules with the same prefix that changed places. Versions may differ. Nothing is verified.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate policy diff policy-41.json policy-42.json
  mosquitto_sub -h broker.example.com -t tidegate/v1/gw-7/policy/desired -C 1 |
      tidegate policy diff - bundle.json          what publishing this bundle would change

Exit status: 0 they say the same, 1 they do not, 2 usage, or a file cannot be read.")]
pub(super) struct Args {
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// A bundle or an envelope; - is standard input
    #[arg(value_name = "OLD")]
    old: Input,
    /// A bundle or an envelope; - is standard input
    #[arg(value_name = "NEW")]
    new: Input,
}

pub(super) fn run(args: &Args) -> ExitCode {
    if args.old.is_stdin() && args.new.is_stdin() {
        let _code = failed("only one of the two can be standard input");
        return ExitCode::from(TROUBLE);
    }
    let both = args.old.document().and_then(|old| Ok((old.bundle, args.new.document()?.bundle)));
    let (old, new) = match both {
        Ok(both) => both,
        Err(what) => {
            let _code = failed(&what);
            return ExitCode::from(TROUBLE);
        }
    };
    let found = diff(&old, &new);
    let text = if args.json { as_json(&old, &new, &found) } else { as_text(&old, &new, &found) };
    if print(&text) != ExitCode::SUCCESS {
        return ExitCode::from(TROUBLE);
    }
    if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) }
}

fn as_json(old: &Bundle, new: &Bundle, found: &Diff) -> String {
    let same = found.is_empty();
    let whole = json!({ "same": same, "old_version": old.version, "new_version": new.version, "diff": found });
    format!("{whole}\n")
}

fn as_text(old: &Bundle, new: &Bundle, found: &Diff) -> String {
    let versions = format!("version {} → {}", old.version, new.version);
    if found.is_empty() {
        return format!("{versions}: nothing else is different\n");
    }
    let mut text = String::new();
    if new.version <= old.version {
        text += "note: gateways that saw the old version refuse the new one; give it a higher version\n";
    }
    text += &format!(
        "{versions}: {} added, {} removed, {} changed\n",
        found.added.len(),
        found.removed.len(),
        found.changed.len()
    );
    for change in &found.bundle {
        text += &member("", change);
    }
    let rule = |of: &Bundle, sign: &str, name: &String| {
        let rule = of.rules.iter().find(|rule| of.name(rule) == name);
        let members = rule.map_or(Vec::new(), |rule| crate::policy::show::members(of, rule));
        let members: Vec<_> = members.iter().map(|(member, value)| format!("{member} {}", short(value))).collect();
        format!("{sign} {name}: {}\n", members.join(", "))
    };
    text.extend(found.removed.iter().map(|name| rule(old, "-", name)));
    text.extend(found.added.iter().map(|name| rule(new, "+", name)));
    for changed in &found.changed {
        text += &format!("~ {}\n", changed.name);
        text.extend(changed.members.iter().map(|change| member("    ", change)));
    }
    for change in &found.order {
        text += &format!("order: {} comes before {} now, on {}\n", change.first, change.second, change.prefix);
    }
    if found.order.len() == MAX_ORDER_CHANGES {
        text += "order: there may be more\n";
    }
    text
}

fn member(indent: &str, change: &Change) -> String {
    let name = change.member;
    match (&change.old, &change.new) {
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            let without = |list: &[Value], other: &[Value]| {
                let other: HashSet<&Value> = other.iter().collect();
                list.iter().filter(|item| !other.contains(item)).cloned().collect::<Vec<_>>()
            };
            let line = |sign: &str, items: Vec<Value>| {
                let items = Value::Array(items);
                if items == json!([]) { String::new() } else { format!("{indent}{name}: {sign} {}\n", short(&items)) }
            };
            line("-", without(old, new)) + &line("+", without(new, old))
        }
        (old, new) => {
            let shown = |value: &Option<Value>| value.as_ref().map_or("none".to_owned(), short);
            format!("{indent}{name}: {} → {}\n", shown(old), shown(new))
        }
    }
}

/// As it stands in a bundle, lists as their first items.
fn short(value: &Value) -> String {
    first(value, MAX_ITEMS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::read;

    fn bundle(version: u64, default: &str, rules: &str) -> Bundle {
        let text =
            format!(r#"{{"version":{version},"scope":{{"gateway":"g"}},"default":"{default}","rules":[{rules}]}}"#);
        read(text.as_bytes()).unwrap()
    }

    #[test]
    fn changes_read_line_by_line() {
        let old = bundle(
            41,
            "allow",
            r#"{"name":"gone","cidrs":["::1"],"action":"drop"},
               {"name":"a","cidrs":["192.0.2.0/24","10.0.0.0/8"],"action":"drop"},
               {"name":"b","cidrs":["192.0.2.0/24"],"action":"allow","reason":"x"}"#,
        );
        let new = bundle(
            42,
            "drop",
            r#"{"name":"b","cidrs":["192.0.2.0/24"],"action":"allow"},
               {"name":"a","cidrs":["192.0.2.0/24","172.16.0.0/12"],"action":"limit","limit":{"pps":5}},
               {"name":"new","cidrs":["::2"],"protocol":"tcp","ports":["443"],"action":"drop"}"#,
        );
        let expected = "\
version 41 → 42: 1 added, 1 removed, 2 changed
default: allow → drop
- gone: cidrs ::1/128, action drop
+ new: cidrs ::2/128, protocol tcp, ports 443, action drop
~ b
    reason: x → none
~ a
    cidrs: - 10.0.0.0/8
    cidrs: + 172.16.0.0/12
    action: drop → limit
    limit: none → {\"burst\":5,\"per\":\"rule\",\"pps\":5}
order: b comes before a now, on 192.0.2.0/24
";
        assert_eq!(as_text(&old, &new, &diff(&old, &new)), expected);
        assert_eq!(as_text(&old, &old, &diff(&old, &old)), "version 41 → 41: nothing else is different\n");
    }
}
