//! Every policy that must be refused, over MQTT: each is answered with its reason, and nothing else comes of it.

use std::iter;

use serde_json::{Value, json};
use tidegate_tests::{
    Subscriber, eventually, memory_kib, need,
    policy::{
        Policy,
        hostile::{self, Case, Needs, SEEN},
    },
    requires,
};
use tidegate_values::Digest;

use crate::managed::{Managed, SOON};

/// Resident memory beyond what it was, in KiB: less than one of the largest bundles, none of which may stay, and less than
/// 10 KiB for each case.
const BEYOND: u64 = 3 << 10;

/// From here on a case is published alone: two that wait may have no room beside each other, and the second would come late.
const LONG: usize = 1 << 20;

/// Topics of which one report tells: that of the gateway, and those of its groups.
const TOPICS: [&str; 4] = ["gw-7", "@plant", "@north", "@east"];

/// Somebody on the right whom the policy in force drops, and nothing else does.
const DROPPED: &str = "192.0.2.7";

/// `gw-7` as the cases want it, on which the bundle [`hostile::seen`] is confirmed; and who follows its reports.
struct Target {
    gateway: Managed,
    reports: Subscriber,
    /// Reports that were looked at.
    looked_at: usize,
    rounds: u64,
}

impl Target {
    fn start() -> Self {
        let mut gateway = Managed::of("gw-7", &hostile::trusted(), |daemon| {
            daemon.env("TIDEGATE__GATEWAY__GROUPS", "plant,north,east,marked")
        });
        gateway.net.right.host.run(&format!("ip addr add {DROPPED}/32 dev eth0"));
        gateway.net.gateway.run(&format!("ip route add {DROPPED}/32 dev eth1"));
        assert!(gateway.passes_from(DROPPED), "there is no policy");
        gateway.publish("gw-7", &hostile::seen());
        gateway.stands(SEEN, "confirmed");
        let broker = &gateway.broker;
        let reports = Subscriber::inside(broker.namespace(), broker.port(), "tidegate/v1/gw-7/policy/reported");
        Self { gateway, reports, looked_at: 0, rounds: 0 }
    }

    /// Publishes a marker for the last group, and returns the report that answers it. It is about all that was published
    /// before, too: what comes is judged in its order. So five messages take one of the five reports of a second.
    #[track_caller]
    fn report(&mut self) -> Value {
        self.rounds += 1;
        let marker = format!("round-{}", self.rounds);
        let envelope = Policy::new(1).group(&marker).signed_by(&self.gateway.key);
        self.gateway.publish("@marked", &envelope);
        eventually(SOON, &marker, || {
            let new = self.reports.messages_after(self.looked_at);
            self.looked_at += new.len();
            let answers = |report: &Value| {
                let reason = report["groups"][3]["reason"].as_str().unwrap_or_default();
                reason.starts_with(&format!("scope: it is for group {marker},"))
            };
            new.iter().map(|message| message.json()).find(answers).ok_or("no report is about it yet")
        })
    }
}

/// What is wrong with how a source's part of a report tells of a case.
fn misjudged(case: &Case, part: &Value) -> Option<String> {
    let reason = part["reason"].as_str().unwrap_or_default();
    let right = part["state"] == "refused" && reason.contains(&case.reason);
    (!right).then(|| format!("{} ({:?}): {part}, wanted: {}", case.name, case.needs, case.reason))
}

#[test]
fn each_hostile_policy_is_refused_with_its_reason_and_what_is_enforced_stays() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut target = Target::start();
    let before = target.report();
    assert_eq!(before["enforced"]["digest"], json!(Digest::of(&hostile::seen())), "{before}");
    let pid = target.gateway.daemon.running().pid();
    let resident = memory_kib(pid, "VmRSS");

    let cases: Vec<_> = hostile::cases().into_iter().filter(|case| case.needs != Needs::NoTime).collect();
    // What is wrong with a message by itself is so on each topic.
    let (anywhere, here): (Vec<_>, Vec<_>) =
        cases.iter().partition(|case| case.needs == Needs::Bytes && case.bytes.len() < LONG);
    let mut wrong = Vec::new();
    for round in anywhere.chunks(TOPICS.len()).chain(here.chunks(1)) {
        for (case, topic) in round.iter().zip(TOPICS) {
            target.gateway.publish(topic, &case.bytes);
        }
        let report = target.report();
        let groups = report["groups"].as_array().expect("groups are a list");
        wrong.extend(
            round.iter().zip(iter::once(&report).chain(groups)).filter_map(|(case, part)| misjudged(case, part)),
        );
        for member in ["enforced", "confirmed"] {
            assert_eq!(report[member], before[member], "after {}: {report}", round[0].name);
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));

    let said = |report: &Value| (report["state"].clone(), report["reason"].clone(), report["since_ms"].clone());
    let last = target.report();
    target.gateway.publish("gw-7", &hostile::beyond_the_largest_packet());
    let report = target.report();
    assert_eq!(said(&report), said(&last), "the broker discards what we do not take");
    assert_eq!(report["enforced"], before["enforced"]);

    let status = target.gateway.daemon.status();
    assert_eq!(status["bundles"]["enforced"], before["enforced"]);
    assert!(target.gateway.passes() && !target.gateway.passes_from(DROPPED));
    assert_eq!(status["uplink"]["reconnects"], 0, "no message ended the session: {}", status["uplink"]);
    let after = eventually(SOON, "the memory comes back", || {
        let now = memory_kib(pid, "VmRSS");
        if now < resident + BEYOND { Ok(now) } else { Err(format!("{now} KiB, before: {resident} KiB")) }
    });
    println!(
        "{} policies in {} reports; resident {resident} KiB before, {after} KiB after",
        cases.len(),
        target.rounds
    );
    target.gateway.desire(Policy::new(2 * SEEN));
    target.gateway.stands(2 * SEEN, "confirmed");
    assert!(target.gateway.passes_from(DROPPED), "a good one is taken as ever");
    target.gateway.assert_all_valid();
}
