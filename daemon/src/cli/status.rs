//! `tidegate status`: one screen, the worst problem first.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{
    client::SocketArg,
    flows,
    table::{self, Table},
};
use crate::control_socket::Get;

/// Show what the daemon does, the worst problem first.
///
/// Exit status: 0 nothing is wrong, 1 something is, 3 the daemon does not run.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate status                                  one screen
  tidegate status --watch                          the same, kept up to date
  tidegate status --json | jq .uplink.state        for programs
  tidegate status --quiet || mail-somebody         for scripts")]
pub(super) struct Args {
    /// Keep the screen up to date until Ctrl-C
    #[arg(long, short, conflicts_with = "quiet")]
    watch: bool,
    /// Seconds between two screens
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// The whole status as one JSON object a line
    #[arg(long)]
    json: bool,
    /// Only the exit status
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    #[command(flatten)]
    socket: SocketArg,
}

pub(super) fn run(args: &Args) -> ExitCode {
    loop {
        let status = match ask(args) {
            Ok(status) => status,
            Err(_) if args.watch => {
                // A daemon that restarts comes back; a person who watches waits for it.
                thread::sleep(Duration::from_secs(args.interval));
                continue;
            }
            Err(code) => return code,
        };
        if let Err(error) = show(args, &status) {
            // A closed pipe is how `| head` ends us.
            return if error.kind() == io::ErrorKind::BrokenPipe { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        if !args.watch {
            return if status["ok"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        thread::sleep(Duration::from_secs(args.interval));
    }
}

fn ask(args: &Args) -> Result<Value, ExitCode> {
    args.socket.ask_one(Get::Status).map_err(|error| error.report())
}

fn show(args: &Args, status: &Value) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    if args.quiet {
        return Ok(());
    }
    if args.json {
        writeln!(out, "{status}")?;
    } else {
        if args.watch && io::stdout().is_terminal() {
            // Home and clear: the screen stays where it is instead of scrolling by.
            write!(out, "\x1b[H\x1b[2J")?;
        }
        write!(out, "{}", screen(status))?;
    }
    out.flush()
}

const BAD: anstyle::Style = anstyle::AnsiColor::Red.on_default().bold();
const WARN: anstyle::Style = anstyle::AnsiColor::Yellow.on_default();
const GOOD: anstyle::Style = anstyle::AnsiColor::Green.on_default();
const HEAD: anstyle::Style = anstyle::Style::new().bold();

/// One screen of text. Its first line is the worst problem and the next step, or that all is well.
fn screen(status: &Value) -> String {
    let problems: Vec<String> = list(&status["problems"])
        .map(|problem| {
            let style = if problem["severity"] == "degraded" { WARN } else { BAD };
            format!("{style}{}{style:#}\n  → {}\n", text(&problem["what"]), text(&problem["next_step"]))
        })
        .collect();
    let headline = if problems.is_empty() { format!("{GOOD}all is well{GOOD:#}\n") } else { problems.concat() };
    let mut identity = format!(
        "gateway {}, tidegate {}, up {}",
        text(&status["gateway"]),
        text(&status["version"]),
        table::span(number(&status["up_s"]))
    );
    if let Some(resident) = status["host"]["last"]["self"]["resident_bytes"].as_u64() {
        identity += &format!(", {} resident", table::bytes(resident));
    }
    let heading = format!("\n{HEAD}{identity}{HEAD:#}\n");
    [
        headline,
        heading,
        uplink(status),
        commands(status),
        spool(status),
        ingest(status),
        upload(status),
        traffic(status),
        policy(status),
        unavailable(status),
    ]
    .concat()
}

fn uplink(status: &Value) -> String {
    let uplink = &status["uplink"];
    let mut line = format!("\n{HEAD}uplink{HEAD:#}   {}", text(&uplink["state"]));
    if let Some(broker) = uplink["broker"].as_str() {
        line += &format!(" {}", table::printable(broker));
    }
    if let Some(seconds) = uplink["state_s"].as_u64() {
        line += &format!(" for {}", table::span(seconds));
    }
    if let Some(milliseconds) = uplink["round_trip_ms"].as_f64() {
        line += &format!(", round trip {milliseconds:.1} ms");
    }
    if let Some(seconds) = uplink["next_attempt_s"].as_u64() {
        line += &format!(", next attempt in {}", table::span(seconds));
    }
    let delivered: u64 =
        ["event", "ingest", "telemetry"].iter().map(|lane| number(&uplink["acknowledged"][*lane])).sum();
    format!(
        "{line}\n         {} delivered, {} in flight, {} reconnects\n",
        table::count(delivered),
        number(&uplink["in_flight"]),
        number(&uplink["reconnects"])
    )
}

/// Requests over MQTT; nothing where there were none.
fn commands(status: &Value) -> String {
    let commands = &status["commands"];
    let sum = |counts: &Value| counts.as_object().map_or(0, |counts| counts.values().map(number).sum::<u64>());
    let (performed, refused) = (sum(&commands["performed"]), sum(&commands["refused"]));
    let log = &commands["log_level"];
    let log = log["filter"].as_str().map(|filter| {
        let left = table::span(number(&log["ends_in_s"]));
        format!("         logs {} for another {left}, as somebody asked\n", table::printable(filter))
    });
    if (performed, refused) == (0, 0) {
        return String::new();
    }
    let counts =
        format!("\n{HEAD}requests{HEAD:#} {} performed, {} refused\n", table::count(performed), table::count(refused));
    counts + &log.unwrap_or_default()
}

fn spool(status: &Value) -> String {
    let spool = &status["spool"];
    let block = format!(
        "\n{HEAD}spool{HEAD:#}    {} of {}, {} waiting, {} lost, {}{}\n",
        table::bytes(number(&spool["bytes"])),
        table::bytes(number(&spool["max_size_bytes"])),
        table::count(number(&spool["pending_records"])),
        table::count(number(&spool["lost"])),
        text(&spool["io"]),
        if spool["direct"] == true { " direct" } else { "" },
    );
    let now = number(&status["ts_ms"]);
    let mut lanes = Table::new(["lane", ">waiting", ">on disk", "oldest"]);
    for lane in list(&spool["lanes"]) {
        let oldest = lane["oldest_ts_ms"].as_u64().map(|at| table::span(now.saturating_sub(at) / 1000));
        lanes.row([
            text(&lane["name"]),
            table::count(number(&lane["pending_records"])),
            table::bytes(number(&lane["bytes"])),
            oldest.unwrap_or_default(),
        ]);
    }
    block + &lanes.render("         ")
}

fn ingest(status: &Value) -> String {
    let ingest = &status["ingest"];
    let refused: u64 = ingest["refused"].as_object().map_or(0, |kinds| kinds.values().map(number).sum());
    format!(
        "\n{HEAD}ingest{HEAD:#}   {} accepted, {} refused, {} connections\n",
        table::count(number(&ingest["accepted"])),
        table::count(refused),
        number(&ingest["connections"])
    )
}

/// Files on their way; nothing where there are none and never were any.
fn upload(status: &Value) -> String {
    let upload = &status["upload"];
    let counters = &upload["counters"];
    let (waiting, sent, parked) =
        (number(&upload["waiting_files"]), number(&counters["files"]), number(&upload["parked_files"]));
    if upload["state"] == "off" && (waiting, sent, parked) == (0, 0, 0) {
        return String::new();
    }
    let mut line = format!("\n{HEAD}upload{HEAD:#}   {}", standing(&text(&upload["state"])));
    if let Some(until) = upload["until_ms"].as_u64() {
        let left = until.saturating_sub(number(&status["ts_ms"])) / 1000;
        line += &format!(" for another {}", table::span(left));
    }
    if let Some(reason) = upload["reason"].as_str() {
        line += &format!(": {}", table::printable(reason));
    }
    let files = |count: u64| if count == 1 { "1 file".to_owned() } else { format!("{} files", table::count(count)) };
    line += &format!(
        "\n         {} waiting ({}), {} parked, {} sent ({})\n",
        files(waiting),
        table::bytes(number(&upload["waiting_bytes"])),
        table::count(parked),
        table::count(sent),
        table::bytes(number(&counters["content_bytes"])),
    );
    let mut active = Table::new(["file", ">size", ">done", ">a second", "ends in", ""]);
    for file in list(&upload["active"]) {
        active.row(progress(file));
    }
    if !active.is_empty() {
        line += &active.render("         ");
    }
    line
}

/// The engine's state as a person says it.
pub(super) fn standing(state: &str) -> String {
    match state {
        "off" => "off, no endpoint is set",
        "backing-off" => "waiting for the next attempt",
        "broken" => "failing",
        "closed" => "closed, outside of [upload] window",
        "metered" => "waiting, the way to the endpoint is metered",
        "splayed" => "waiting, so that not all gateways begin at once",
        other => other,
    }
    .to_owned()
}

/// How far a file is: name, size, share, rate, time left, and what else there is to say of it.
pub(super) fn progress(file: &Value) -> [String; 6] {
    let (bytes, confirmed) = (number(&file["bytes"]), number(&file["confirmed_bytes"]));
    let left = file["remaining_s"].as_u64().map(table::span);
    let step = text(&file["step"]);
    let note = match (file["last_error"].as_str(), number(&file["attempts"])) {
        (Some(error), attempts) => format!("{step}; attempt {attempts}, the one before: {}", table::printable(error)),
        (None, _) if step == "sending" => String::new(),
        (None, _) => step,
    };
    [
        text(&file["name"]),
        table::bytes(bytes),
        format!("{} %", percent(confirmed, bytes)),
        table::bytes(number(&file["rate_bytes_s"])),
        left.unwrap_or_default(),
        note,
    ]
}

/// Whole percent, 100 only where nothing is missing.
pub(super) fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 { 0 } else { u64::try_from(u128::from(part.min(whole)) * 100 / u128::from(whole)).unwrap_or(0) }
}

fn traffic(status: &Value) -> String {
    let traffic = &status["traffic"];
    let samples = &traffic["samples"];
    let rate = number(&traffic["sample_rate"]);
    let sampling = if rate == 0 { "sampling off".to_owned() } else { format!("sampling 1 in {rate}") };
    let mut block = format!(
        "\n{HEAD}traffic{HEAD:#}  {}, {} packets, {sampling}, {} samples, {} lost\n",
        table::bits_per_second(8.0 * traffic["total"]["bytes_per_second"].as_f64().unwrap_or_default()),
        table::count(number(&traffic["total"]["packets"])),
        table::count(number(&samples["taken"])),
        table::count(number(&samples["lost"])),
    );
    let mut interfaces = Table::new(["interface", ">in", ">out", ">packets in", ">packets out"]);
    for interface in list(&traffic["interfaces"]) {
        let rate =
            |way: &str| table::bits_per_second(8.0 * interface[way]["bytes_per_second"].as_f64().unwrap_or_default());
        interfaces.row([
            text(&interface["interface"]),
            rate("ingress"),
            rate("egress"),
            table::count(number(&interface["ingress"]["packets"])),
            table::count(number(&interface["egress"]["packets"])),
        ]);
    }
    if !interfaces.is_empty() {
        block += &interfaces.render("         ");
    }
    let top: Vec<&Value> = list(&traffic["top_flows"]).collect();
    if !top.is_empty() {
        block += &format!("\n{HEAD}top flows of the last export{HEAD:#}\n");
        block += &flows::as_table(top).render("         ");
    }
    block
}

/// The policy in force, and what it dropped most; nothing where there never was one.
fn policy(status: &Value) -> String {
    let policy = &status["policy"];
    let in_force = &policy["in_force"];
    let dropped = table::count(number(&policy["dropped_packets"]));
    if !in_force.is_object() {
        return if number(&policy["dropped_packets"]) == 0 {
            String::new()
        } else {
            format!("\n{HEAD}policy{HEAD:#}   none is in force, {dropped} dropped before\n")
        };
    }
    let scope = in_force["scope"].as_object().into_iter().flatten().next();
    let scope = scope.map(|(kind, name)| format!(" of {kind} {}", text(name))).unwrap_or_default();
    let mut block = format!(
        "\n{HEAD}policy{HEAD:#}   version {}{scope}: {} rules, {} prefixes, {} of tables, default {}, {dropped} dropped\n",
        number(&in_force["version"]),
        table::count(number(&in_force["rules"])),
        table::count(number(&in_force["prefixes"])),
        table::bytes(number(&in_force["table_bytes"])),
        text(&in_force["default"]),
    );
    let mut rules = Table::new(["rule", "action", ">dropped", "reason"]);
    for rule in list(&policy["top_rules"]) {
        let name = rule["rule"].as_str().map_or_else(|| "(default)".to_owned(), table::printable);
        rules.row([name, text(&rule["action"]), table::count(number(&rule["dropped_packets"])), text(&rule["reason"])]);
    }
    if !rules.is_empty() {
        block += &rules.render("         ");
    }
    block
}

/// What this machine does not do, where that is no problem of anybody's: it is said, not shouted.
fn unavailable(status: &Value) -> String {
    let host = status["host"]["last"]["unavailable"].as_object().into_iter().flatten();
    let spool = status["spool"]["io_reason"].as_str().map(|reason| ("preferred spool I/O", reason));
    let pins = status["traffic"]["not_pinned"].as_str().map(|reason| ("links that outlive the daemon", reason));
    let sends = status["traffic"]["tcp_sendmsg_unavailable"]["why"]
        .as_str()
        .map(|reason| ("time spent in tcp_sendmsg", reason));
    let missing =
        host.map(|(what, why)| (what.as_str(), why.as_str().unwrap_or_default())).chain(spool).chain(pins).chain(sends);
    let mut rows = Table::new(["what", "why"]);
    for (what, why) in missing {
        rows.row([what.to_owned(), why.to_owned()]);
    }
    if rows.is_empty() { String::new() } else { format!("\n{HEAD}not available{HEAD:#}\n{}", rows.render("         ")) }
}

pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(super) fn text(value: &Value) -> String {
    table::printable(value.as_str().unwrap_or_default())
}

pub(super) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_line_is_the_worst_problem_and_the_second_the_next_step() {
        let status = json!({ "problems": [
            { "severity": "loss", "what": "the spool accepts nothing: full\u{1b}[2J", "next_step": "free space" },
            { "severity": "degraded", "what": "less bad", "next_step": "wait" },
        ]});
        let screen = anstream::adapter::strip_str(&screen(&status)).to_string();
        let mut lines = screen.lines();
        assert_eq!(lines.next(), Some("the spool accepts nothing: full\u{fffd}[2J"));
        assert_eq!(lines.next(), Some("  → free space"));
    }

    #[test]
    fn a_log_level_that_somebody_asked_for_is_shown_with_its_end() {
        let screen = screen(&json!({ "problems": [], "commands": {
            "performed": {"status": 2, "log-level": 1}, "refused": {"disabled": 4},
            "log_level": {"filter": "debug", "ends_in_s": 90},
        }}));
        let screen = anstream::adapter::strip_str(&screen).to_string();
        assert!(
            screen.contains("requests 3 performed, 4 refused\n         logs debug for another 1 min 30 s"),
            "{screen}"
        );
    }

    #[test]
    fn files_on_their_way_are_shown_with_how_far_they_are_and_what_waits() {
        let shown = |upload: Value| {
            let screen = screen(&json!({ "problems": [], "ts_ms": 1_000_000, "upload": upload }));
            anstream::adapter::strip_str(&screen).to_string()
        };
        let sending = shown(json!({
            "state": "sending", "waiting_files": 3, "waiting_bytes": 3_145_728, "parked_files": 1,
            "active": [{
                "name": "a.csv", "bytes": 2_097_152, "confirmed_bytes": 2_097_151, "step": "sending",
                "rate_bytes_s": 65_536, "remaining_s": 90, "attempts": 2, "last_error": "connection reset",
            }],
            "counters": { "files": 7, "content_bytes": 1024 },
        }));
        assert!(
            sending.contains("upload   sending\n         3 files waiting (3.0 MiB), 1 parked, 7 sent (1.0 KiB)\n"),
            "{sending}"
        );
        assert!(
            sending.contains(
                "a.csv  2.0 MiB  99 %  64.0 KiB  1 min 30 s  sending; attempt 2, the one before: connection reset"
            ),
            "{sending}"
        );
        let paused = shown(json!({ "state": "paused", "until_ms": 1_090_000, "waiting_files": 1 }));
        assert!(paused.contains("upload   paused for another 1 min 30 s\n         1 file waiting"), "{paused}");
        let off = shown(json!({ "state": "off", "waiting_files": 0, "parked_files": 0, "counters": { "files": 0 } }));
        assert!(!off.contains("upload"), "{off}");
    }

    #[test]
    fn the_policy_in_force_is_shown_with_the_rules_that_dropped_most() {
        let screen = screen(&json!({ "problems": [], "policy": {
            "in_force": {
                "version": 42, "scope": {"group": "plant-a"}, "default": "allow", "rules": 2, "prefixes": 3,
                "table_bytes": 4096,
            },
            "dropped_packets": 17,
            "top_rules": [{"rule": "block", "action": "drop", "reason": "as told", "dropped_packets": 17}],
        }}));
        let screen = anstream::adapter::strip_str(&screen).to_string();
        assert!(screen.contains("policy   version 42 of group plant-a: 2 rules, 3 prefixes"), "{screen}");
        assert!(screen.contains("block  drop") && screen.contains("as told"), "{screen}");
    }

    #[test]
    fn a_status_of_a_younger_daemon_is_shown_as_far_as_it_is_known() {
        let screen = screen(&json!({ "problems": [], "gateway": "gw-7" }));
        assert!(screen.contains("all is well") && screen.contains("gateway gw-7"));
    }
}
