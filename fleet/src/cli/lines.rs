//! What `--json` prints: one object a line, whose `what` says which kind (docs/schema/fleet-line.json).

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Map, Value, json};

use crate::{
    apply::{Ended, Tally},
    intents::Progress,
    plan::{Change, Kind, Plan},
    report::{Drift, Reported},
    seen::Gateway,
    standing::{Judged, Standing},
    target::Target,
};

/// One change of a plan.
pub(super) fn change(change: &Change) -> Value {
    let keys: Map<String, Value> =
        change.keys.iter().map(|key| (key.key.clone(), json!({"from": key.from, "to": key.to}))).collect();
    json!({
        "what": "change",
        "change": match change.kind {
            Kind::Create => "create",
            Kind::Change => "change",
            Kind::Renew => "renew",
            Kind::Withdraw => "withdraw",
        },
        "target": change.target.to_string(),
        "version": change.version,
        "before": change.before,
        "keys": keys,
        "gateways": change.members.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
    })
}

/// One gateway.
pub(super) fn gateway(id: &str, gateway: Option<&Gateway>, judged: &Judged) -> Value {
    let mut line = json!({
        "what": "gateway",
        "gateway": id,
        "standing": judged.standing.to_string(),
        "online": gateway.and_then(|gateway| gateway.online),
    });
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            line[name] = value;
        }
    };
    set("target", judged.target.as_ref().map(|target| target.to_string().into()));
    set("reason", judged.reason.as_deref().map(Value::from));
    set("next_attempt_s", judged.next_attempt_s.map(Value::from));
    set("daemon", gateway.and_then(|gateway| gateway.daemon.as_deref()).map(Value::from));
    if let Some(report) = gateway.and_then(Gateway::report) {
        let groups = report.groups.iter().map(|(group, about)| (format!("@{group}"), document(about)));
        let documents: Map<_, _> = groups.chain([(id.to_owned(), document(&report.device))]).collect();
        set("documents", Some(Value::Object(documents)));
        let keys = (!report.pending_restart.is_empty()).then(|| json!(report.pending_restart));
        set("pending_restart", keys);
        set("drifting", Some(report.drift.len().into()));
    }
    line
}

fn document(about: &Reported) -> Value {
    let mut document = json!({
        "version": about.version,
        "digest": about.digest.map(|digest| digest.to_string()),
        "state": about.state.to_string(),
        "confirmed": about.confirmed.map(|(version, digest)| json!({"version": version, "digest": digest.to_string()})),
    });
    if let Some(reason) = &about.reason {
        document["reason"] = (**reason).into();
    }
    document
}

/// One key that drifts.
pub(super) fn drift(id: &str, drift: &Drift) -> Value {
    let mut line = json!({"what": "drift", "gateway": id, "key": drift.key, "kind": drift.kind});
    let places = [
        ("desired", &drift.desired),
        ("file", &drift.file),
        ("environment", &drift.environment),
        ("running", &drift.running),
    ];
    for (place, value) in places {
        if let Some(value) = value {
            line[place] = value.clone();
        }
    }
    line
}

/// A document that was not published, or that somebody else replaced.
pub(super) fn failed(target: &Target, progress: &Progress) -> Value {
    match progress {
        Progress::Foreign(version) => json!({"what": "conflict", "target": target.to_string(), "version": version}),
        Progress::Denied(why) => json!({"what": "denied", "target": target.to_string(), "reason": why}),
        Progress::Due | Progress::Sent | Progress::Held => Value::Null,
    }
}

/// Where `apply` stands.
pub(super) fn progress(tally: &Tally) -> Value {
    let mut line = json!({"what": "progress", "to_publish": tally.to_publish, "gateways": standings(tally)});
    if let Some(lost) = &tally.lost {
        line["lost"] = lost.to_string().into();
    }
    line
}

/// The last line of `plan`.
pub(super) fn plan_summary(plan: &Plan) -> Value {
    json!({"what": "summary", "changes": plan.changes.len(), "unchanged": plan.unchanged.len()})
}

/// The last line of `apply`.
pub(super) fn apply_summary(ended: &Ended, well: bool) -> Value {
    let tally = Tally::of(ended.gateways.values());
    json!({
        "what": "summary", "ok": well, "timed_out": ended.timed_out, "gateways": standings(&tally),
        "unpublished": ended.unpublished, "failed": ended.failed.len(),
    })
}

/// The last line of `status`.
pub(super) fn status_summary(tally: &Tally, plan: &Plan, well: bool) -> Value {
    json!({"what": "summary", "ok": well, "gateways": standings(tally), "changes": plan.changes.len()})
}

/// The last line of `drift`.
pub(super) fn drift_summary<'a>(
    drifting: impl Iterator<Item = &'a Arc<str>>,
    silent: &[&Arc<str>],
    gateways: usize,
    well: bool,
) -> Value {
    let drifting: BTreeSet<_> = drifting.collect();
    let silent: Vec<&str> = silent.iter().map(AsRef::as_ref).collect();
    json!({
        "what": "summary", "ok": well, "gateways": gateways, "drifting": drifting.len(), "without_report": silent,
    })
}

fn standings(tally: &Tally) -> Value {
    let counts = Standing::ALL.iter().filter(|standing| tally.count(**standing) > 0);
    Value::Object(counts.map(|standing| (standing.to_string(), tally.count(*standing).into())).collect())
}
