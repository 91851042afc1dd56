//! What the command line shows of the configuration that runs.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tidegate_tests::{Broker, Daemon, Publisher, eventually, need, requires};

use crate::SOON;

/// `tidegate config show --json` of these keys, and what it said on standard error.
#[track_caller]
fn shown(daemon: &Daemon, keys: &[&str]) -> (Value, String) {
    let output = daemon.command(&["config", "show", "--json"]).args(keys).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

#[test]
fn every_key_is_shown_with_its_value_and_the_layer_that_decides_it() {
    let mut daemon = Daemon::builder()
        .config("[traffic]\ninterfaces = []\nsample_rate = 5")
        .mqtt("user = \"anna\"")
        .env("TIDEGATE__TRAFFIC__SAMPLE_RATE", "7")
        .prepare();
    daemon.scratch().write("conf.d/z-site.toml", "[host]\ninterval = \"300s\"\n");
    daemon.start_again();

    let (shown_by_daemon, _) = shown(&daemon, &[]);
    assert_eq!(shown_by_daemon["source"], "daemon");
    let keys = &shown_by_daemon["keys"];
    let site = daemon.config_file().with_file_name("conf.d/z-site.toml").display().to_string();
    for (key, value, from) in [
        ("host.interval", json!("5m"), format!("{site}:2")),
        ("traffic.sample_rate", json!(7), "TIDEGATE__TRAFFIC__SAMPLE_RATE".to_owned()),
        ("spool.direct", json!(false), "default".to_owned()),
    ] {
        assert_eq!((&keys[key]["value"], &keys[key]["from"]), (&value, &json!(from)), "{key}");
    }
    assert_eq!(keys["mqtt.user"]["value"], "set", "a secret is not shown");

    // The files are changed; what is shown is what runs, until they are read.
    daemon.scratch().write("conf.d/z-site.toml", "[host]\ninterval = \"6m\"\n[spool]\ndirect = true\n");
    assert_eq!(shown(&daemon, &["host.interval"]).0["keys"]["host.interval"]["value"], "5m");
    daemon.running().signal(Signal::HUP);
    eventually(Duration::from_secs(10), "the files are read again", || {
        let (now, _) = shown(&daemon, &["host", "spool"]);
        if now["keys"]["host.interval"]["value"] == "6m" { Ok(()) } else { Err(now.to_string()) }
    });
    let direct = &shown(&daemon, &["spool.direct"]).0["keys"]["spool.direct"];
    assert_eq!(
        *direct,
        json!({ "value": false, "next_start": true, "from": format!("{site}:4"), "takes_effect": "restart" })
    );

    let table = daemon.command(&["config", "show", "--origin", "traffic.sample_rate"]).output().unwrap().stdout;
    let table = String::from_utf8(table).unwrap();
    let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, [["KEY", "VALUE", "FROM"], ["traffic.sample_rate", "7", "TIDEGATE__TRAFFIC__SAMPLE_RATE"]]);
}

#[test]
fn where_no_daemon_runs_the_local_layers_are_shown_and_it_is_said() {
    let daemon = Daemon::builder().config("[host]\ninterval = \"7m\"").prepare();
    let config = daemon.config_file().display().to_string();
    let (answer, said) = shown(&daemon, &["host.interval"]);
    assert_eq!(answer["source"], "local");
    assert!(said.contains("tidegate is not running") && said.contains("local layers"), "{said}");
    let (answer, said) = shown(&daemon, &["host.interval", "--config", &config]);
    assert_eq!((&answer["keys"]["host.interval"]["value"], said.as_str()), (&json!("7m"), ""));
}

#[test]
fn remote_documents_decide_keys_until_they_are_withdrawn() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let daemon = Daemon::builder()
        .broker(broker.port())
        .config("[host]\ninterval = \"300s\"")
        .env("TIDEGATE__GATEWAY__GROUPS", "plant")
        .start();
    daemon.until_connected();
    let mut publisher = Publisher::connect(&broker);
    let decided = |expected: &[(&str, Value, &str)]| {
        eventually(SOON, "the documents decide", || {
            let (now, _) = shown(&daemon, &[]);
            let is = |(key, value, from): &(&str, Value, &str)| {
                let key = &now["keys"][key];
                key["value"] == *value && key["from"].as_str().is_some_and(|found| found.contains(from))
            };
            if expected.iter().all(is) { Ok(()) } else { Err(now.to_string()) }
        });
    };

    let plant = json!({ "version": 3, "config": { "host": { "interval": "4m" }, "traffic": { "sample_rate": 9 } } });
    publisher.retain("tidegate/v1/@plant/config/desired", plant.to_string());
    let device = json!({ "version": 7, "config": { "host": { "interval": "6m" } } });
    publisher.retain(daemon.topic("config/desired"), device.to_string());
    decided(&[
        ("host.interval", json!("6m"), "remote device v7"),
        ("traffic.sample_rate", json!(9), "remote @plant v3"),
        ("log.filter", json!("debug"), "conf.d/test.toml:"),
    ]);

    publisher.clear(daemon.topic("config/desired"));
    decided(&[("host.interval", json!("4m"), "remote @plant v3")]);
    publisher.clear("tidegate/v1/@plant/config/desired");
    decided(&[("host.interval", json!("5m"), "conf.d/test.toml:"), ("traffic.sample_rate", json!(1000), "default")]);
}
