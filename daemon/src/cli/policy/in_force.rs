//! `tidegate policy show` without a file: the policy that the running daemon enforces, and what its rules decided.

use std::{io, process::ExitCode};

use serde_json::Value;
use tidegate_values::calendar;

use super::failed;
use crate::{
    cli::{
        client::SocketArg,
        status::{list, number, text},
        table::{self, Table},
    },
    control_socket::Get,
};

/// Rows under one heading: as many are held in memory, however many rules there are.
const ROWS: usize = 1024;

pub(super) fn run(socket: &SocketArg, json: bool) -> ExitCode {
    let lines = match socket.ask(Get::Rules) {
        Ok(lines) => lines,
        Err(error) => return error.report(),
    };
    match show(lines, json, &mut io::stdout().lock()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(&error.to_string()),
        _ => ExitCode::SUCCESS,
    }
}

fn show(lines: impl Iterator<Item = io::Result<String>>, json: bool, out: &mut impl io::Write) -> io::Result<()> {
    let mut head: Option<Value> = None;
    let (mut table, mut rows) = (rules(), 0);
    for line in lines {
        let line = line?;
        let value: Value = serde_json::from_str(&line)?;
        if let Some(error) = value["error"].as_str() {
            return Err(io::Error::other(table::printable(error)));
        }
        if json {
            writeln!(out, "{line}")?;
        } else if head.is_none() {
            write!(out, "{}", about(&value))?;
        } else {
            row(&mut table, &value);
            rows += 1;
        }
        head.get_or_insert(value);
        if rows == ROWS {
            write!(out, "{}", std::mem::replace(&mut table, rules()).render(""))?;
            rows = 0;
        }
    }
    let Some(head) = head else {
        return Err(io::Error::other("closed without an answer; too many clients are connected"));
    };
    if rows > 0 {
        write!(out, "{}", table.render(""))?;
    } else if !json && head["policy"]["rules"] == 0 {
        writeln!(out, "no rules")?;
    }
    out.flush()
}

/// What is in force, in a few lines.
fn about(head: &Value) -> String {
    let moment = |value: &Value| value.as_u64().map(calendar::format);
    let policy = &head["policy"];
    let mut lines = Vec::new();
    if policy.is_object() {
        let scope = policy["scope"].as_object().into_iter().flatten().next();
        let scope = scope.map(|(kind, name)| format!("{kind} {}", text(name))).unwrap_or_default();
        lines.push(format!(
            "version {} for {scope}, default {}: {}, in force since {}",
            number(&policy["version"]),
            text(&policy["default"]),
            text(&policy["state"]),
            moment(&policy["since_ms"]).unwrap_or_default(),
        ));
        lines.push(format!("  source: {}, from {}", text(&policy["source"]), bringer(&policy["from"])));
        lines.push(format!("  digest: {}", text(&policy["digest"])));
        lines.push(format!(
            "  tables: {}, of {} rules and {} prefixes",
            table::bytes(number(&policy["table_bytes"])),
            number(&policy["rules"]),
            number(&policy["prefixes"])
        ));
        lines.extend(wished(&policy["wished"]));
    } else {
        lines.push("no policy is in force: everything passes".to_owned());
    }
    if let Some(until) = moment(&head["open_until_ms"]) {
        lines.push(format!("  opened: by hand, until {until}"));
    }
    if let Some(why) = head["not_enforced"].as_str() {
        lines.push(format!("  not enforced: {}", table::printable(why)));
    }
    let keys: Vec<String> = list(&head["keys"]).map(text).collect();
    lines.push(format!("  keys: {}", if keys.is_empty() { "none".to_owned() } else { keys.join(" ") }));
    lines.join("\n") + "\n"
}

/// The version that the source wishes for, where that is not the one in force.
fn wished(wished: &Value) -> Option<String> {
    let version = wished["version"].as_u64().map_or_else(|| "none".to_owned(), |version| format!("version {version}"));
    let reason = wished["reason"].as_str().map(|reason| format!(": {}", table::printable(reason))).unwrap_or_default();
    wished.is_object().then(|| format!("  wished: {version}, {}{reason}", text(&wished["state"])))
}

fn bringer(from: &Value) -> String {
    match from.as_str() {
        Some("broker") => "the broker".to_owned(),
        Some("stick") => "a stick".to_owned(),
        _ => text(from),
    }
}

fn rules() -> Table {
    Table::new(["RULE", "ACTION", ">PACKETS", ">BYTES", ">DROPPED", ">BYTES", "LEFT", "REASON"])
}

fn row(table: &mut Table, rule: &Value) {
    let left = match rule["ttl_left_s"].as_u64() {
        _ if rule["expired"] == true => "expired".to_owned(),
        Some(seconds) => table::span(seconds),
        None => String::new(),
    };
    table.row([
        rule["rule"].as_str().map_or_else(|| "(default)".to_owned(), str::to_owned),
        text(&rule["action"]),
        table::count(number(&rule["packets"])),
        table::bytes(number(&rule["bytes"])),
        table::count(number(&rule["dropped_packets"])),
        table::bytes(number(&rule["dropped_bytes"])),
        left,
        text(&rule["reason"]),
    ]);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(lines: &[Value]) -> io::Result<String> {
        let mut out = Vec::new();
        show(lines.iter().map(|line| Ok(line.to_string())), false, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn head() -> Value {
        json!({ "policy": {
            "version": 7, "scope": {"group": "plant"}, "default": "drop", "rules": 2, "prefixes": 3, "table_bytes": 4096,
            "source": "@plant", "from": "stick", "state": "confirmed", "since_ms": 1_798_761_600_000_u64, "digest": "d1",
            "wished": {"source": "@plant", "state": "rolled-back", "version": 8, "reason": "no round trip"},
        }, "keys": ["k1", "k2"] })
    }

    #[test]
    fn the_policy_comes_first_and_then_its_rules_and_the_default() {
        let rule = |name: Option<&str>, more: Value| {
            let mut rule =
                json!({"action": "drop", "packets": 3, "bytes": 180, "dropped_packets": 3, "dropped_bytes": 180});
            if let Some(name) = name {
                rule["rule"] = name.into();
            }
            rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            rule
        };
        let lines = [
            head(),
            rule(Some("a"), json!({"ttl_left_s": 3600, "reason": "as told\u{1b}"})),
            rule(Some("b"), json!({"ttl_left_s": 0, "expired": true})),
            rule(None, json!({})),
        ];
        let expected = "\
version 7 for group plant, default drop: confirmed, in force since 2027-01-01T00:00:00Z
  source: @plant, from a stick
  digest: d1
  tables: 4.0 KiB, of 2 rules and 3 prefixes
  wished: version 8, rolled-back: no round trip
  keys: k1 k2
RULE       ACTION  PACKETS  BYTES  DROPPED  BYTES  LEFT       REASON
a          drop          3  180 B        3  180 B  1 h 0 min  as told\u{fffd}
b          drop          3  180 B        3  180 B  expired
(default)  drop          3  180 B        3  180 B
";
        assert_eq!(shown(&lines).unwrap(), expected);
    }

    #[test]
    fn a_gateway_that_was_opened_has_none_and_says_until_when() {
        let text = shown(&[json!({"policy": null, "keys": [], "open_until_ms": 1_798_761_600_000_u64})]).unwrap();
        assert!(text.starts_with("no policy is in force: everything passes\n"), "{text}");
        assert!(text.contains("opened: by hand, until 2027-01-01T00:00:00Z"), "{text}");
    }

    #[test]
    fn an_answer_that_broke_off_is_no_answer() {
        let error = shown(&[head(), json!({"error": "ask again"})]).unwrap_err();
        assert_eq!(error.to_string(), "ask again");
        shown(&[]).unwrap_err();
    }
}
