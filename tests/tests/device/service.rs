//! The daemon at work, as its unit lets it.

use std::time::Duration;

use serde_json::Value;
use tidegate_tests::{
    Broker, Message, Tap, eventually, requires,
    schema::Schemas,
    vm::{self, Machine},
};

use crate::gateway::{self, QUIET, SOON, WATCHFUL};

/// `CAP_NET_ADMIN`, `CAP_PERFMON`, `CAP_BPF`: bits 12, 38 and 39.
const THE_THREE: u64 = 1 << 12 | 1 << 38 | 1 << 39;

#[test]
fn under_its_closed_unit_it_does_all_of_its_work_with_io_uring_and_with_threads() {
    requires!(vm::available());
    let broker = Broker::start();
    let tap = Tap::before(&broker);
    let machine = Machine::debian().with_tidegate().resume();
    for (sent, io) in [(100, "uring"), (200, "threads")] {
        let seen = tap.acknowledged_count();
        machine.configure_port(tap.port(), &format!("{WATCHFUL}\n[spool]\nio = \"{io}\"\n"));
        machine.run("systemctl restart tidegate").ok();
        // It appears while the daemon runs.
        gateway::connect_plant(&machine);
        let interface = gateway::until_watched(&machine, "eth1");
        assert!(interface["attached_after_us"].as_u64().is_some_and(|time| time > 0), "{interface:#}");
        let status = machine.status();
        assert_eq!(status["spool"]["io"], io, "{:#}", status["spool"]);
        assert_eq!(status["traffic"]["attach"], "tcx", "{:#}", status["traffic"]);
        assert!(status["traffic"]["not_pinned"].is_null(), "{:#}", status["traffic"]);
        assert_eq!(status["traffic"]["unavailable"], Value::Array(Vec::new()));
        assert_eq!(gateway::programs(&machine, "eth1"), 2);
        assert_eq!(machine.run("ls /run/tidegate-bpf | wc -l").ok(), "4", "two links for each of two interfaces");

        machine.run("ip netns exec plant ping -q -c 20 -i 0.05 10.9.0.1").ok();
        machine.send("meter", sent - 99, sent);
        published_truly(&tap, seen);
        assert_eq!(gateway::until_delivered(&tap, "ingest/meter", sent), (1..=sent).collect::<Vec<_>>());

        as_closed_as_it_says(&machine);
        machine.until(
            SOON,
            "systemctl status tidegate | grep 'Status: \"online, 2 interfaces, [0-9]* records\\? waiting\"'",
        );
        machine.run("ip link delete eth1; ip netns delete plant").ok();
    }
    Schemas::load().assert_valid("gw-test", &tap.acknowledged());
    told_in_the_journal(&machine);
}

/// Twenty pings stand in the counters and, as each packet is sampled, in the flows.
#[track_caller]
fn published_truly(tap: &Tap, seen: usize) {
    let new = || -> Vec<Message> { tap.acknowledged().split_off(seen) };
    let sum = |what: &str, list: &str, packets: &dyn Fn(&Value) -> Option<u64>| -> u64 {
        let entries = new().into_iter().filter(|message| message.topic.ends_with(what)).map(|message| message.json());
        let of_eth1 = |entry: &&Value| entry["interface"] == "eth1";
        entries
            .map(|json| -> u64 {
                let entries = json["data"][list].as_array().expect("a list");
                entries.iter().filter(of_eth1).filter_map(packets).sum()
            })
            .sum()
    };
    eventually(SOON, "the pings are counted", || {
        let icmp = |entry: &Value| entry["ingress"]["classes"]["ipv4_icmp"]["packets_delta"].as_u64();
        let counted = sum("telemetry/traffic", "interfaces", &icmp);
        if counted == 20 { Ok(()) } else { Err(format!("{counted}")) }
    });
    eventually(SOON, "the pings are sampled", || {
        let pings = |flow: &Value| {
            let ping = flow["source"] == "10.9.0.2" && flow["protocol"] == 1 && flow["direction"] == "ingress";
            ping.then(|| flow["packets"]["estimate"].as_u64()).flatten()
        };
        let sampled = sum("telemetry/flows", "flows", &pings);
        if sampled == 20 { Ok(()) } else { Err(format!("{sampled}")) }
    });
    let attached = new().iter().any(|message| {
        message.topic.ends_with("telemetry/traffic")
            && message.json()["data"]["interfaces"].as_array().is_some_and(|entries| {
                entries.iter().any(|entry| entry["interface"] == "eth1" && entry["attached_after_us"].is_u64())
            })
    });
    assert!(attached, "how long eth1 went unwatched is published");
}

#[track_caller]
fn as_closed_as_it_says(machine: &Machine) {
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let script = format!("sed -n 's/^{set}:\\t//p' /proc/$(systemctl show --value -p MainPID tidegate)/status");
        assert_eq!(u64::from_str_radix(&machine.run(&script).ok(), 16).unwrap(), THE_THREE, "{set}");
    }
    let judged = machine.run("systemd-analyze security --no-pager tidegate | tail -n 1").ok();
    let score: Option<f64> = judged.split(' ').find_map(|word| word.parse().ok());
    assert!(score.is_some_and(|score| score <= 2.2), "{judged}");
    println!("{}", judged.trim());
}

#[track_caller]
fn told_in_the_journal(machine: &Machine) {
    let watching = machine.journal("-u tidegate TIDEGATE_INTERFACE=eth1");
    assert!(!watching.is_empty());
    for entry in &watching {
        assert_eq!(entry["SYSLOG_IDENTIFIER"], "tidegate", "{entry}");
        assert_eq!(entry["PRIORITY"], "6", "{entry}");
        assert_eq!(entry["TIDEGATE_INTERFACE"], "eth1", "{entry}");
        assert!(entry["TARGET"].as_str().is_some_and(|target| target.starts_with("tidegate::")), "{entry}");
    }
    let messages = |matches: &str| -> Vec<String> {
        machine.journal(matches).iter().map(|entry| entry["MESSAGE"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert!(messages("-u tidegate TIDEGATE_INTERFACE=eth1").iter().any(|message| message == "watching"));
    assert_eq!(messages("-u tidegate TIDEGATE_INTERFACE=eth7"), [""; 0]);
    let errors = machine.journal("-u tidegate -p err");
    assert!(errors.is_empty(), "nothing was lost and nobody is needed: {errors:#?}");
}

#[test]
fn a_password_in_systemds_credential_store_reaches_the_broker() {
    requires!(vm::available());
    let broker = Broker::builder().password("gw-test", "correct horse").start();
    let tap = Tap::before(&broker);
    let machine = Machine::debian().with_tidegate().resume();
    let url = format!("mqtt://10.0.2.2:{}", tap.port());
    let config = format!("[gateway]\nid = \"gw-test\"\n\n[mqtt]\nurl = \"{url}\"\nuser = \"gw-test\"\n\n{QUIET}");
    machine.write("/etc/tidegate/conf.d/test.toml", &config);
    machine.run("systemctl restart tidegate").ok();
    eventually(SOON, "without the password it is refused, and says so", || {
        let uplink = machine.status()["uplink"].clone();
        let told = uplink["reason"].as_str().is_some_and(|reason| reason.to_lowercase().contains("not authorized"));
        if told { Ok(()) } else { Err(uplink.to_string()) }
    });
    machine
        .run(
            "install -d -m 700 /etc/credstore
             (umask 077; echo 'correct horse' >/etc/credstore/tidegate.mqtt-password)
             systemctl restart tidegate",
        )
        .ok();
    machine.send("meter", 1, 1);
    gateway::until_delivered(&tap, "ingest/meter", 1);
    let readers = machine.run("stat -c %a /etc/credstore/tidegate.mqtt-password").ok();
    assert_eq!(readers, "600", "the user of the service reads systemd's copy");
}

#[test]
fn a_reload_takes_a_changed_file_over_and_refuses_a_wrong_one() {
    requires!(vm::available());
    let broker = Broker::start();
    let tap = Tap::before(&broker);
    let machine = Machine::debian().with_tidegate().resume();
    machine.configure_port(tap.port(), WATCHFUL);
    machine.run("systemctl start tidegate").ok();
    let process = machine.unit("tidegate", "MainPID");
    let rate = |machine: &Machine| machine.status()["traffic"]["sample_rate"].as_u64();
    assert_eq!(rate(&machine), Some(1));

    machine.write("/etc/tidegate/conf.d/zz.toml", "[traffic]\nsample_rate = 7");
    machine.run("systemctl reload tidegate").ok();
    eventually(Duration::from_secs(10), "the new rate", || rate(&machine) == Some(7));
    assert_eq!(machine.status()["configuration"]["state"], "running");

    machine.write("/etc/tidegate/conf.d/zz.toml", "[traffic]\nsample_rat = 9");
    let refused = machine.run("systemctl reload tidegate");
    assert_ne!(refused.status, 0, "{refused:?}");
    let error = "zz.toml:2: [traffic] sample_rat: there is no such key, did you mean sample_rate?";
    let journal = machine.run("journalctl -u tidegate --output cat").ok();
    assert!(journal.contains(error), "{journal}");
    let status = eventually(SOON, "the status says refused", || {
        let status = machine.status();
        if status["configuration"]["state"] == "refused" {
            Ok(status)
        } else {
            Err(status["configuration"].to_string())
        }
    });
    assert!(status["configuration"]["errors"][0].as_str().is_some_and(|told| told.contains(error)), "{status:#}");
    machine.until(SOON, "systemctl status tidegate | grep 'the changed configuration is refused'");

    // What ran before runs on.
    assert_eq!((rate(&machine), machine.unit("tidegate", "MainPID")), (Some(7), process.clone()));
    assert_eq!(machine.unit("tidegate", "ActiveState"), "active");
    machine.send("meter", 1, 10);
    gateway::until_delivered(&tap, "ingest/meter", 10);

    machine.write("/etc/tidegate/conf.d/zz.toml", "[traffic]\nsample_rate = 9");
    machine.run("systemctl reload tidegate").ok();
    eventually(Duration::from_secs(10), "the mended rate", || rate(&machine) == Some(9));
    assert_eq!(machine.unit("tidegate", "MainPID"), process);
}
