//! What people read.

use std::{collections::BTreeMap, sync::Arc};

use anstyle::{AnsiColor, Style};
use serde_json::Value;
use tidegate::cli::table::{Table, printable};

use crate::{
    apply::{Ended, Tally},
    intents::Progress,
    plan::{Change, Kind, Plan},
    report::{Drift, Report, Reported},
    seen::Seen,
    standing::{Judged, Standing},
};

pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(super) const WARN: Style = AnsiColor::Yellow.on_default();
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// Names that are listed before "and N more".
const NAMED: usize = 5;
/// Gateways that `apply` lists at its end; `status` shows all.
const LISTED: usize = 40;
/// Characters of a value that are shown.
const VALUE_CHARS: usize = 80;

/// What would change.
pub(super) fn plan(plan: &Plan) -> String {
    let mut text: String = plan.changes.iter().map(change).collect();
    if plan.changes.is_empty() {
        text += &format!("{GOOD}nothing to change{GOOD:#}");
    } else {
        let count = |kind| plan.changes.iter().filter(|change| change.kind == kind).count();
        let parts = [
            (count(Kind::Create), "to create"),
            (count(Kind::Change), "to change"),
            (count(Kind::Renew), "to renew"),
            (count(Kind::Withdraw), "to withdraw"),
        ];
        let parts: Vec<String> =
            parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        text += &parts.join(", ");
    }
    text + &format!(
        "; {} as {}\n",
        counted(plan.unchanged.len(), "document"),
        if plan.unchanged.len() == 1 { "it is" } else { "they are" }
    )
}

fn change(change: &Change) -> String {
    let (sign, style) = match change.kind {
        Kind::Create => ('+', GOOD),
        Kind::Change | Kind::Renew => ('~', WARN),
        Kind::Withdraw => ('-', BAD),
    };
    let version = |version: Option<u64>| version.map_or_else(|| "none".to_owned(), |version| version.to_string());
    let what = match change.kind {
        Kind::Create => format!("version {}", version(change.version)),
        Kind::Change => format!("version {} → {}", version(change.before), version(change.version)),
        Kind::Renew => format!(
            "version {} → {}, unchanged: gateways have seen another document under this version or a higher one",
            version(change.before),
            version(change.version)
        ),
        Kind::Withdraw => format!("version {} is withdrawn", version(change.before)),
    };
    let whom = match (&*change.members, change.target.is_group()) {
        ([], true) => "no gateway reports to be a member".to_owned(),
        (members, true) => format!("for {}: {}", counted(members.len(), "gateway"), names(members)),
        (_, false) => "for this gateway".to_owned(),
    };
    let mut text = format!("{style}{sign} {}{style:#}  {what}, {whom}\n", change.target);
    let mut keys = Table::new(["", "", ""]);
    for key in &change.keys {
        keys.row([key.key.clone(), value(key.from.as_ref()), format!("→ {}", value(key.to.as_ref()))]);
    }
    // Without the empty heading.
    text += keys.render("    ").split_once('\n').map_or("", |(_, rows)| rows);
    text
}

/// How it ended.
pub(super) fn ended(ended: &Ended) -> String {
    let tally = Tally::of(ended.gateways.values());
    let mut text = String::new();
    for (target, progress) in &ended.failed {
        text += &match progress {
            Progress::Foreign(Some(version)) => format!(
                "{BAD}conflict{BAD:#}: somebody else published version {version} for {target}; look who, and apply again\n"
            ),
            Progress::Foreign(None) => format!(
                "{BAD}conflict{BAD:#}: somebody else changed or removed the document for {target}; look who, and apply again\n"
            ),
            Progress::Denied(why) => {
                format!("{BAD}denied{BAD:#}: the broker does not take the document for {target}: {}\n", printable(why))
            }
            Progress::Due | Progress::Sent | Progress::Held => String::new(),
        };
    }
    let mut bad: Vec<_> = ended.gateways.iter().filter(|(_, judged)| judged.standing != Standing::AsWanted).collect();
    bad.sort_by_key(|(_, judged)| std::cmp::Reverse(judged.standing));
    let mut table = Table::new(["GATEWAY", "IS", "DOCUMENT", "WHY"]);
    for (id, judged) in bad.iter().take(LISTED) {
        table.row([id.to_string(), judged.standing.to_string(), document(judged), why(judged)]);
    }
    if !table.is_empty() {
        text += &table.render("");
    }
    if bad.len() > LISTED {
        text += &format!("and {} more; all of them: tidegate-fleet status --bad\n", bad.len() - LISTED);
    }
    if ended.timed_out {
        text += &format!("{WARN}the time is over{WARN:#}; what is published stays, and gateways go on\n");
    }
    if ended.unpublished > 0 {
        text += &format!("{BAD}{} not published{BAD:#}; apply again\n", counted(ended.unpublished, "document"));
    }
    text + &headline(&tally)
}

/// Everybody.
pub(super) fn status<'a>(
    gateways: impl Iterator<Item = (&'a Arc<str>, &'a Judged)>,
    seen: &Seen,
    tally: &Tally,
    plan: &Plan,
) -> String {
    let mut table = Table::new(["GATEWAY", "", "IS", "RUNS", ">DRIFT", "DOCUMENT", "WHY"]);
    for (id, judged) in gateways {
        let gateway = seen.gateway(id);
        let online = match gateway.and_then(|gateway| gateway.online) {
            Some(true) => "online",
            Some(false) => "offline",
            None => "unknown",
        };
        let report = gateway.and_then(|gateway| gateway.report());
        table.row([
            id.to_string(),
            online.to_owned(),
            judged.standing.to_string(),
            report.map_or_else(String::new, runs),
            report.map_or_else(String::new, |report| report.drift.len().to_string()),
            document(judged),
            why(judged),
        ]);
    }
    let mut text = if table.is_empty() { String::new() } else { table.render("") };
    if !plan.changes.is_empty() {
        text += &format!(
            "{WARN}{} not at the broker as the folder says{WARN:#}: tidegate-fleet plan shows them\n",
            counted(plan.changes.len(), "document")
        );
    }
    text + &headline(tally)
}

/// What drifts.
pub(super) fn drift<'a>(drifting: impl Iterator<Item = (&'a Arc<str>, &'a Drift)>, silent: &[&Arc<str>]) -> String {
    let mut table = Table::new(["GATEWAY", "KEY", "KIND", "DESIRED", "FILE", "ENVIRONMENT", "RUNNING"]);
    let mut by_gateway: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
    for (id, drift) in drifting {
        *by_gateway.entry(id).or_default() += 1;
        table.row([
            id.to_string(),
            drift.key.to_string(),
            drift.kind.to_string(),
            value(drift.desired.as_ref()),
            value(drift.file.as_ref()),
            value(drift.environment.as_ref()),
            value(drift.running.as_ref()),
        ]);
    }
    let mut text = if table.is_empty() { String::new() } else { table.render("") };
    if !silent.is_empty() {
        let names: Vec<Arc<str>> = silent.iter().map(|id| Arc::clone(id)).collect();
        text +=
            &format!("{WARN}{} without a report{WARN:#}: {}\n", counted(silent.len(), "gateway"), self::names(&names));
    }
    let keys: usize = by_gateway.values().sum();
    text + &if keys == 0 {
        format!("{GOOD}nothing drifts{GOOD:#}\n")
    } else {
        format!("{WARN}{} of {} drift{WARN:#}\n", counted(keys, "key"), counted(by_gateway.len(), "gateway"))
    }
}

/// Who is how, in one line.
pub(super) fn headline(tally: &Tally) -> String {
    let (all, well) = (tally.total(), tally.count(Standing::AsWanted));
    if all == 0 {
        return format!("{WARN}the broker knows of no gateway{WARN:#}\n");
    }
    if all == well {
        return format!("{GOOD}{} as wanted{GOOD:#}\n", counted(all, "gateway"));
    }
    let others = Standing::ALL[1..].iter().rev().filter(|standing| tally.count(**standing) > 0);
    let others: Vec<String> = others.map(|standing| format!("{} {standing}", tally.count(*standing))).collect();
    format!("{WARN}{well} of {} as wanted{WARN:#}, {}\n", counted(all, "gateway"), others.join(", "))
}

/// The versions that are in force: `@plant 5, own 3`.
fn runs(report: &Report) -> String {
    let confirmed = |about: &Reported| about.confirmed.map(|(version, _)| version);
    let groups = report.groups.iter().filter_map(|(group, about)| Some(format!("@{group} {}", confirmed(about)?)));
    let own = confirmed(&report.device).map(|version| format!("own {version}"));
    groups.chain(own).collect::<Vec<_>>().join(", ")
}

fn document(judged: &Judged) -> String {
    judged.target.as_ref().map_or_else(String::new, ToString::to_string)
}

fn why(judged: &Judged) -> String {
    let mut why = match (&judged.reason, judged.standing) {
        (Some(reason), _) => reason.to_string(),
        (None, Standing::Offline) => "gets it when it is back".to_owned(),
        (None, Standing::Absent) => "is named in the folder, and the broker knows nothing of it".to_owned(),
        (None, Standing::NoReport) => "its daemon reports no configuration".to_owned(),
        (None, Standing::PendingRestart) => "needs a restart of its daemon: cmd/restart".to_owned(),
        (None, Standing::Unpublished) => "the broker does not hold what the folder says".to_owned(),
        (None, _) => String::new(),
    };
    if let Some(seconds) = judged.next_attempt_s {
        why += &format!(" (tries again in {seconds} s)");
    }
    why
}

fn value(value: Option<&Value>) -> String {
    let Some(value) = value else { return "-".to_owned() };
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn names(names: &[Arc<str>]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED).map(AsRef::as_ref).collect();
    let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
    printable(&(shown.join(", ") + &more))
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
