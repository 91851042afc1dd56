//! Layers over each other, and what is said about those that are wrong.

use std::{collections::BTreeMap, ffi::OsString, fmt::Write as _, fs};

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A folder with a `tidegate.toml`, fragments, a machine id and an environment.
struct Machine {
    folder: tempfile::TempDir,
    environment: Environment,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let machine_id_file = folder.path().join("machine-id");
        fs::write(&machine_id_file, "000102030405060708090a0b0c0d0e0f\n").unwrap();
        Self { folder, environment: Environment { variables: BTreeMap::new(), machine_id_file } }
    }

    fn file(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.variables.insert(name.into(), value.into());
        self
    }

    fn load(&self) -> Result<Loaded, Vec<ConfigError>> {
        self.main_file().load(&self.environment)
    }

    fn main_file(&self) -> MainFile {
        MainFile { path: self.folder.path().join("tidegate.toml"), required: false }
    }

    fn local(&self) -> Local {
        self.main_file().read(&self.environment).unwrap()
    }

    /// The messages, with the folder's path taken out.
    fn complaints(&self) -> Vec<String> {
        let folder = format!("{}/", self.folder.path().display());
        let errors = self.load().expect_err("a wrong configuration was accepted");
        errors.into_iter().map(|error| error.to_string().replace(&folder, "")).collect()
    }
}

fn with(text: impl AsRef<[u8]>) -> Machine {
    Machine::new().file("tidegate.toml", text)
}

fn remote(label: &str, config: &serde_json::Value) -> Remote {
    Remote::read(label, &config.to_string()).unwrap()
}

fn key(name: &str) -> &'static Key {
    KEYS.iter().find(|key| key.name == name).unwrap()
}

#[test]
fn without_any_file_the_defaults_hold() {
    let loaded = Machine::new().load().unwrap();
    assert_eq!(loaded.config, Config::defaults(&loaded.config.gateway.id));
    assert!(loaded.config.gateway.id.starts_with("tg-"));
    assert_eq!(loaded.origin(key("mqtt.url")), "default");
}

#[test]
fn a_later_layer_wins_and_each_key_remembers_where_it_comes_from() {
    let machine = with("[mqtt]\nurl = 'mqtt://a'\nkeep_alive = '10s'\n\n[host]\ninterval = '10s'\n")
        .file("conf.d/20-b.toml", "[mqtt]\nurl = 'mqtt://c'\n")
        .file("conf.d/10-a.toml", "[mqtt]\nurl = 'mqtt://b'\nuser = 'anna'\n")
        .file("conf.d/30-c.toml.orig", "[nonsense")
        .file("conf.d/.30-d.toml", "[nonsense")
        .variable("TIDEGATE__HOST__INTERVAL", "5s")
        .variable("TIDEGATE_OTHER", "not ours");
    let loaded = machine.load().unwrap();
    let mqtt = &loaded.config.mqtt;
    assert_eq!(mqtt.broker.as_ref().unwrap().host, "c");
    assert_eq!((mqtt.keep_alive, mqtt.user.as_deref()), (Duration::from_secs(10), Some("anna")));
    assert_eq!(loaded.config.host.interval, Duration::from_secs(5));
    let origin = |name| loaded.origin(key(name)).rsplit('/').next().unwrap().to_owned();
    assert_eq!(origin("mqtt.url"), "20-b.toml:2");
    assert_eq!(origin("mqtt.user"), "10-a.toml:3");
    assert_eq!(origin("mqtt.keep_alive"), "tidegate.toml:3");
    assert_eq!(origin("host.interval"), "TIDEGATE__HOST__INTERVAL");
    assert_eq!(origin("log.filter"), "default");
}

#[test]
fn what_was_provisioned_stands_below_the_main_file() {
    let machine = with("[gateway]\nid = 'gw-7'\n")
        .file("state/provisioned/tidegate.toml", "[gateway]\nid = 'gw-1'\ngroups = ['plant']\n");
    let state = machine.folder.path().join("state");
    let machine = machine.variable("STATE_DIRECTORY", state.clone());
    let loaded = machine.load().unwrap();
    assert_eq!(
        (loaded.config.gateway.id.as_str(), loaded.config.gateway.groups.as_slice()),
        ("gw-7", &["plant".to_owned()][..])
    );
    assert_eq!(loaded.origin(key("gateway.groups")), format!("{}/provisioned/tidegate.toml:3", state.display()));
}

#[test]
fn remote_layers_come_on_top_and_each_key_names_the_one_that_decides_it() {
    let local = with("[host]\ninterval = '10s'\n[log]\nfilter = 'warn'\n[traffic]\nsample_rate = 7\n")
        .variable("TIDEGATE__HOST__INTERVAL", "20s")
        .local();
    let plant = remote("remote @plant v3", &json!({ "host": { "interval": "30s" }, "log": { "filter": "error" } }));
    let device = remote("remote device v7", &json!({ "host": { "interval": "40s" } }));
    let loaded = compose(&local, &[&plant, &device]).unwrap();
    assert_eq!(loaded.config.host.interval, Duration::from_secs(40));
    assert_eq!((loaded.config.log.filter.as_str(), loaded.config.traffic.sample_rate), ("error", 7));
    assert_eq!(loaded.origin(key("host.interval")), "remote device v7");
    assert_eq!(loaded.origin(key("log.filter")), "remote @plant v3");
    assert!(loaded.origin(key("traffic.sample_rate")).ends_with("tidegate.toml:6"));
    assert_eq!(loaded.origin(key("mqtt.url")), "default");
    // Without them the local layers are what they were.
    assert_eq!(compose(&local, &[]).unwrap().origin(key("host.interval")), "TIDEGATE__HOST__INTERVAL");
}

#[test]
fn what_a_local_layer_says_of_a_key_is_told_in_one_notation() {
    let local = with("[host]\ninterval = '90s'\n[mqtt]\nurl = 'mqtt://a'\n")
        .file("conf.d/a.toml", "[mqtt]\nurl = 'mqtt://b'\n[gateway]\nid = ''\n")
        .variable("TIDEGATE__SPOOL__DIR", "")
        .variable("STATE_DIRECTORY", "/srv/state")
        .local();
    assert_eq!(local.file(key("host.interval")), Some(json!("1m30s")));
    assert_eq!(local.file(key("mqtt.url")), Some(json!("mqtt://b:1883")));
    assert_eq!(local.file(key("gateway.id")), Some(json!("tg-20fbf60875a1")));
    assert_eq!(local.file(key("log.filter")), None);
    assert_eq!(local.environment(key("spool.dir")), Some(json!("/srv/state/spool")));
    assert_eq!(local.environment(key("host.interval")), None);
}

/// Drift of a machine whose configuration runs with these changes to it.
fn drift_of(machine: &Machine, desired: &[&Remote], change: impl FnOnce(&mut Config)) -> serde_json::Value {
    let local = machine.local();
    let mut running = compose(&local, desired).unwrap().config;
    change(&mut running);
    json!(drift(&local, desired, &running))
}

#[test]
fn what_runs_as_it_is_desired_and_nowhere_contradicted_does_not_drift() {
    let machine = with("[host]\ninterval = '90s'\n[log]\nfilter = 'warn'\n").variable("TIDEGATE__LOG__FILTER", "error");
    let device =
        remote("remote device v7", &json!({ "host": { "interval": "1m30s" }, "traffic": { "sample_rate": 7 } }));
    assert_eq!(drift_of(&machine, &[&device], |_| ()), json!({}));
    // A file that the environment covers: layers are for that.
    assert_eq!(drift_of(&machine, &[], |_| ()), json!({}));
}

#[test]
fn a_key_that_does_not_run_as_desired_drifts_whatever_the_local_layers_say() {
    let machine = with("[traffic]\nflow_capacity = 4096\n");
    let plant = remote("remote @plant v3", &json!({ "traffic": { "flow_capacity": 1024, "sample_rate": 1 } }));
    let device = remote("remote device v7", &json!({ "traffic": { "flow_capacity": 512, "sample_rate": 7 } }));
    let drift = drift_of(&machine, &[&plant, &device], |running| running.traffic.flow_capacity = Some(4096));
    let expected = json!({ "kind": "running", "desired": 512, "file": 4096, "running": 4096 });
    assert_eq!(drift, json!({ "traffic.flow_capacity": expected }));
}

#[test]
fn a_local_layer_that_says_something_else_than_what_is_desired_drifts() {
    let machine = with("[host]\ninterval = '10s'\n").variable("TIDEGATE__LOG__FILTER", "warn");
    let config = json!({ "host": { "interval": "1m" }, "log": { "filter": "error" } });
    let drift = drift_of(&machine, &[&remote("remote device v7", &config)], |_| ());
    let expected = json!({
        "host.interval": { "kind": "local", "desired": "1m", "file": "10s", "running": "1m" },
        "log.filter": { "kind": "local", "desired": "error", "environment": "warn", "running": "error" },
    });
    assert_eq!(drift, expected);
}

#[test]
fn a_change_on_site_that_nobody_has_read_yet_drifts_and_so_does_a_line_taken_out() {
    let machine = with("[host]\ninterval = '10s'\n[mqtt]\nuser = 'anna'\n");
    let drift = drift_of(&machine, &[], |running| {
        running.host.interval = Duration::from_secs(20);
        running.mqtt.user = Some("bert".to_owned());
        running.traffic.sample_rate = 7;
    });
    let expected = json!({
        "host.interval": { "kind": "unread", "file": "10s", "running": "20s" },
        "mqtt.user": { "kind": "unread", "file": "set", "running": "set" },
        "traffic.sample_rate": { "kind": "unread", "running": 7 },
    });
    assert_eq!(drift, expected);
}

#[test]
fn a_value_that_opens_something_is_not_repeated() {
    let complaint = with("[mqtt]\nuser = 'anna'\npassword_file = 's3cret'\n").complaints().remove(0);
    assert!(complaint.starts_with("tidegate.toml:3: [mqtt] password_file: found what is not shown here, accepted is"));
    let complaint = with("[upload]\ntoken_file = 't0ken'\n").complaints().remove(0);
    assert!(complaint.starts_with("tidegate.toml:2: [upload] token_file: found what is not shown here, accepted is"));
    assert_eq!(key("mqtt.user").shown(json!("anna")), json!("set"));
    assert_eq!(key("mqtt.user").shown(json!("")), json!(""));
    assert_eq!(key("log.filter").shown(json!("é".repeat(300))), json!(format!("{}…", "é".repeat(256))));
    assert_eq!(key("traffic.interfaces").shown(json!(["eth0"])), json!(["eth0"]));
}

#[test]
fn every_key_can_be_set_by_a_variable() {
    let mut machine = Machine::new();
    let values = [
        ("gateway.id", "gw-7", json!("gw-7")),
        ("gateway.groups", "site-a, pilot", json!(["site-a", "pilot"])),
        ("mqtt.url", "mqtts://[::1]", json!("mqtts://[::1]:8883")),
        ("mqtt.ca", "/etc/ca.pem", json!("/etc/ca.pem")),
        ("mqtt.cert", "/etc/cert.pem", json!("/etc/cert.pem")),
        ("mqtt.key", "/etc/key.pem", json!("/etc/key.pem")),
        ("mqtt.user", "1234", json!("1234")),
        ("mqtt.password_file", "/run/password", json!("/run/password")),
        ("mqtt.keep_alive", "90s", json!("1m30s")),
        ("mqtt.session_expiry", "0s", json!("0s")),
        ("mqtt.root", "plant/7", json!("plant/7")),
        ("traffic.interfaces", "", json!([])),
        ("traffic.attach", "netlink", json!("netlink")),
        ("traffic.sample_rate", "0", json!(0)),
        ("traffic.flow_capacity", "4096", json!(4096)),
        ("traffic.export_interval", "1500ms", json!("1s500ms")),
        ("traffic.time_tcp_sendmsg", "false", json!(false)),
        ("policy.public_keys", "/etc/policy.pem", json!(["/etc/policy.pem"])),
        ("policy.confirm_within", "5s", json!("5s")),
        ("policy.fragments", "allow", json!("allow")),
        ("policy.on_stop", "open", json!("open")),
        ("commands.enabled", "status, retry", json!(["status", "retry"])),
        ("spool.dir", "/srv/spool", json!("/srv/spool")),
        ("spool.io", "threads", json!("threads")),
        ("spool.direct", "true", json!(true)),
        ("spool.max_size", "48MiB", json!("48MiB")),
        ("spool.shares.event", "20", json!(20)),
        ("spool.shares.ingest", "40", json!(40)),
        ("spool.shares.telemetry", "40", json!(40)),
        ("upload.endpoint", "https://[::1]/{gateway}", json!("https://[::1]/{gateway}")),
        ("upload.outbox", "/srv/out,/data/out", json!(["/srv/out", "/data/out"])),
        ("upload.protocol", "http", json!("http")),
        ("upload.http_version", "1.1", json!("1.1")),
        ("upload.part_size", "1GiB", json!("1GiB")),
        ("upload.compression", "zstd:3", json!("zstd:3")),
        ("upload.rate_limit", "512KiB", json!("512KiB")),
        ("upload.window", "01:00-05:00, Sat-Sun 00:00-24:00", json!(["01:00-05:00", "Sat,Sun 00:00-24:00"])),
        ("upload.concurrency", "4", json!(4)),
        ("upload.metered", "wwan*", json!(["wwan*"])),
        ("upload.splay", "0s", json!("0s")),
        ("upload.settle", "1h", json!("1h")),
        ("upload.after", "move", json!("move")),
        ("upload.verify", "read-back", json!("read-back")),
        ("upload.proxy", "http://proxy:3128/", json!("http://proxy:3128")),
        ("upload.ca", "/etc/ca.pem", json!("/etc/ca.pem")),
        ("upload.cert", "/etc/cert.pem", json!("/etc/cert.pem")),
        ("upload.key", "/etc/key.pem", json!("/etc/key.pem")),
        ("upload.token_file", "/run/token", json!("/run/token")),
        ("upload.connect_within", "1m", json!("1m")),
        ("upload.progress_within", "30s", json!("30s")),
        ("upload.total_within", "7d", json!("7d")),
        ("host.interval", "1h", json!("1h")),
        ("log.filter", "warn,tidegate=debug", json!("warn,tidegate=debug")),
    ];
    for (name, value, _) in &values {
        machine = machine.variable(&key(name).variable(), *value);
    }
    let loaded = machine.load().unwrap();
    for (name, _, expected) in values {
        assert_eq!(key(name).get(&loaded.config), expected, "{name}");
    }
    assert_eq!(KEYS.len(), 53, "a key was added: set it here, too");
}

#[test]
fn an_empty_string_takes_an_earlier_layers_value_back() {
    let machine = with("[mqtt]\nurl = 'mqtt://a'\n[spool]\ndir = '/srv'\n")
        .file("conf.d/a.toml", "[mqtt]\nurl = ''\n[spool]\ndir = ''\n");
    let config = machine.load().unwrap().config;
    assert_eq!((config.mqtt.broker, config.spool.dir), (None, Path::new(DEFAULT_STATE_DIR).join("spool")));
}

#[test]
fn the_spool_stands_in_the_state_directory_that_systemd_made() {
    let machine = Machine::new().variable("STATE_DIRECTORY", "/var/lib/private/tidegate:/elsewhere");
    assert_eq!(machine.load().unwrap().config.spool.dir, Path::new("/var/lib/private/tidegate/spool"));
}

/// Each file, and the beginning of what is said about it: layer, key, then what was found and is accepted.
const WRONG: &[(&str, &[&str])] = &[
    (
        "[mqtt]\nkeep_alive = 30\n",
        &["tidegate.toml:2: [mqtt] keep_alive: found 30, accepted is a duration of whole seconds"],
    ),
    ("[mqtt]\n\nkeep_alive = '30'\n", &["tidegate.toml:3: [mqtt] keep_alive: found '30', accepted is a duration"]),
    (
        "[mqtt]\nkeep_alive = '1500ms'\n",
        &["tidegate.toml:2: [mqtt] keep_alive: found '1500ms', accepted is a duration of whole seconds"],
    ),
    ("[mqtt]\nkeep_alive = '19h'\n", &["tidegate.toml:2: [mqtt] keep_alive: found '19h'"]),
    (
        "[mqtt]\nurl = 'http://b'\n",
        &["tidegate.toml:2: [mqtt] url: found 'http://b', accepted is \"mqtt://HOST[:PORT]\""],
    ),
    ("[mqtt]\nurl = 'mqtt://::1'\n", &["tidegate.toml:2: [mqtt] url: found 'mqtt://::1'"]),
    ("[mqtt]\nurl = 'mqtt://anna:geheim@b'\n", &["tidegate.toml:2: [mqtt] url: found 'mqtt://…@b'"]),
    ("[mqtt]\nroot = 'a//b'\n", &["tidegate.toml:2: [mqtt] root: found 'a//b'"]),
    ("[mqtt]\nroot = 'a/+'\n", &["tidegate.toml:2: [mqtt] root: found 'a/+'"]),
    ("[mqtt]\nca = 'ca.pem'\n", &["tidegate.toml:2: [mqtt] ca: found 'ca.pem', accepted is an absolute path"]),
    (
        "[mqtt]\nkey = '/k.pem'\n",
        &["tidegate.toml:2: [mqtt] key: is set, but not its certificate; accepted is a private"],
    ),
    ("[mqtt]\npassword_file = '/p'\n", &["tidegate.toml:2: [mqtt] password_file: is set, but no user; accepted is"]),
    (
        "[mqtt]\nurl = 'mqtt://b'\nca = '/ca.pem'\n",
        &["tidegate.toml:3: [mqtt] ca: is set, but mqtt://b:1883 is not encrypted; accepted is an mqtts:// url"],
    ),
    (
        "[gateway]\nid = 'gw 7'\n",
        &["tidegate.toml:2: [gateway] id: found 'gw 7', accepted is 1 to 64 of A-Z a-z 0-9 _ . -"],
    ),
    ("[gateway]\ngroups = 'pilot'\n", &["tidegate.toml:2: [gateway] groups: found 'pilot', accepted is a list"]),
    (
        "[gateway]\ngroups = ['a', 'a']\n",
        &["tidegate.toml:2: [gateway] groups: found ['a', 'a'], accepted is a list of at most 16 different names"],
    ),
    (
        "[traffic]\ninterfaces = ['eth/0']\n",
        &["tidegate.toml:2: [traffic] interfaces: found ['eth/0'], accepted is a list"],
    ),
    (
        "[traffic]\nattach = 'xdp'\n",
        &["tidegate.toml:2: [traffic] attach: found 'xdp', accepted is \"auto\", \"tcx\" or"],
    ),
    (
        "[traffic]\nsample_rate = -1\n",
        &["tidegate.toml:2: [traffic] sample_rate: found -1, accepted is a whole number from 0"],
    ),
    (
        "[traffic]\nsample_rate = 1.5\n",
        &["tidegate.toml:2: [traffic] sample_rate: found 1.5, accepted is a whole number"],
    ),
    (
        "[traffic]\nflow_capacity = 99999999999999999999\n",
        &[
            "tidegate.toml:2: [traffic] flow_capacity: found 99999999999999999999, accepted is \"auto\" or a whole number",
        ],
    ),
    (
        "[traffic]\nsampel_rate = 10\n",
        &["tidegate.toml:2: [traffic] sampel_rate: there is no such key, did you mean sample_rate?"],
    ),
    ("[trafic]\nsample_rate = 10\n", &["tidegate.toml:1: [trafic]: there is no such section, did you mean [traffic]?"]),
    (
        "[spool]\nmax_size = '1MiB'\n",
        &["tidegate.toml:2: [spool] max_size: found '1MiB', accepted is a size from \"48MiB\""],
    ),
    ("[spool]\nmax_size = 268435456\n", &["tidegate.toml:2: [spool] max_size: found 268435456, accepted is a size"]),
    ("[spool]\ndirect = 'yes'\n", &["tidegate.toml:2: [spool] direct: found 'yes', accepted is true or false"]),
    (
        "[spool.share]\nevent = 50\n",
        &["tidegate.toml:1: [spool.share]: there is no such section, did you mean [spool.shares]?"],
    ),
    (
        "[spool.shares]\nevent = 50\n",
        &[
            "tidegate.toml:2: [spool.shares] event: event 50, ingest 60 and telemetry 30 are 140 percent together, accepted is",
        ],
    ),
    ("spool = 3\n", &["tidegate.toml:1: spool: found 3, accepted is a section: [spool]"]),
    ("[[spool]]\ndir = '/x'\n", &["tidegate.toml:1: spool: found"]),
    ("max_size = '1GiB'\n", &["tidegate.toml:1: max_size: there is no such key, did you mean max_size in [spool]?"]),
    ("'spool.dir' = '/x'\n", &["tidegate.toml:1: \"spool.dir\": there is no such key"]),
    ("[spool.dir]\npath = '/x'\n", &["tidegate.toml:1: [spool] dir: found"]),
    (
        "[upload]\nendpoint = 'https://anna:geheim@files'\n",
        &["tidegate.toml:2: [upload] endpoint: found 'https://…@files', accepted is \"http://HOST[:PORT][/PATH]\""],
    ),
    (
        "[upload]\nendpoint = 'http://files/{id}'\n",
        &["tidegate.toml:2: [upload] endpoint: found 'http://files/{id}', accepted is"],
    ),
    ("[upload]\noutbox = '/a'\n", &["tidegate.toml:2: [upload] outbox: found '/a', accepted is a list of at most 8"]),
    ("[upload]\noutbox = ['a']\n", &["tidegate.toml:2: [upload] outbox: found ['a'], accepted is a list"]),
    ("[upload]\noutbox = ['/a', '/a/b']\n", &["tidegate.toml:2: [upload] outbox: found ['/a', '/a/b'], accepted is"]),
    ("[upload]\noutbox = ['/a/', '/a']\n", &["tidegate.toml:2: [upload] outbox: found ['/a/', '/a'], accepted is"]),
    (
        "[upload]\ncompression = 'zstd:10'\n",
        &["tidegate.toml:2: [upload] compression: found 'zstd:10', accepted is \"zstd\", \"gzip\", \"none\", or"],
    ),
    (
        "[upload]\nrate_limit = '1000B'\n",
        &["tidegate.toml:2: [upload] rate_limit: found '1000B', accepted is a size for each second from \"1KiB\""],
    ),
    (
        "[upload]\nwindow = ['night']\n",
        &["tidegate.toml:2: [upload] window: found ['night'], accepted is a list of at most 32 times"],
    ),
    (
        "[upload]\nconcurrency = 5\n",
        &["tidegate.toml:2: [upload] concurrency: found 5, accepted is a whole number from 1 to 4"],
    ),
    ("[upload]\nproxy = 'http://proxy'\n", &["tidegate.toml:2: [upload] proxy: found 'http://proxy', accepted is"]),
    (
        "[upload]\nkey = '/k.pem'\n",
        &["tidegate.toml:2: [upload] key: is set, but not its certificate; accepted is a private"],
    ),
    (
        "[upload]\nendpoint = 'http://files/'\nca = '/ca.pem'\n",
        &["tidegate.toml:3: [upload] ca: is set, but http://files/ is not encrypted; accepted is an https:// endpoint"],
    ),
    (
        "[host]\ninterval = 1979-05-27\n",
        &["tidegate.toml:2: [host] interval: found 1979-05-27, accepted is a duration"],
    ),
    (
        "[log]\nfilter = 'tidegate=loud'\n",
        &["tidegate.toml:2: [log] filter: found 'tidegate=loud', accepted is a level"],
    ),
    ("[host]\ninterval = '1m'\ninterval = '2m'\n", &["tidegate.toml:3: is not TOML: duplicate key"]),
    ("[host\ninterval = '1m'\n", &["tidegate.toml:1: is not TOML: "]),
    (
        "[host]\ninterval = '0s'\n[log]\nfilter = 1\n[mqtt]\nusr = 'x'\n",
        &["tidegate.toml:2: [host] interval: ", "tidegate.toml:4: [log] filter: ", "tidegate.toml:6: [mqtt] usr: "],
    ),
];

#[test]
fn every_wrong_file_is_told_its_key_its_layer_what_was_found_and_what_is_accepted() {
    for (text, expected) in WRONG {
        let mut complaints = with(text).complaints();
        complaints.sort();
        assert_eq!(complaints.len(), expected.len(), "{text}: {complaints:#?}");
        for (complaint, expected) in complaints.iter().zip(*expected) {
            assert!(complaint.starts_with(expected), "{text}\nsays:     {complaint}\nexpected: {expected}");
        }
    }
}

#[test]
fn a_wrong_value_is_reported_though_a_later_layer_hides_it() {
    let machine = with("[host]\ninterval = 'soon'\n").file("conf.d/a.toml", "[host]\ninterval = '1m'\n");
    assert!(machine.complaints()[0].starts_with("tidegate.toml:2: [host] interval: found 'soon'"));
}

#[test]
fn each_layer_is_named_in_its_own_way() {
    let machine = with("[host]\nx = 1\n")
        .file("conf.d/50-site.toml", "\n\n[log]\nfiltre = 'info'\n")
        .variable("TIDEGATE__SPOOL__MAX_SIZ", "1GiB")
        .variable("TIDEGATE__TRAFFIC__SAMPLE_RATE", "many")
        .variable("TIDEGATE__SPOL__DIR", "/x");
    let complaints = machine.complaints();
    for (complaint, expected) in complaints.iter().zip([
        "tidegate.toml:2: [host] x: there is no such key; there are interval",
        "conf.d/50-site.toml:4: [log] filtre: there is no such key, did you mean filter?",
        "TIDEGATE__SPOL__DIR: [spol]: there is no such section, did you mean [spool]?",
        "TIDEGATE__SPOOL__MAX_SIZ: [spool] max_siz: there is no such key, did you mean max_size?",
        "TIDEGATE__TRAFFIC__SAMPLE_RATE: [traffic] sample_rate: found many, accepted is a whole number",
    ]) {
        assert!(complaint.starts_with(expected), "{complaint}");
    }
    assert_eq!(complaints.len(), 5);
}

#[test]
fn a_file_that_is_no_readable_text_is_refused_with_the_reason() {
    let huge = vec![b'#'; usize::try_from(MAX_FILE_BYTES).unwrap() + 1];
    assert!(with(huge).complaints()[0].starts_with("tidegate.toml: is over 1048576 bytes"));
    assert!(
        with(b"# caf\xe9\n").complaints()[0]
            .starts_with("tidegate.toml: is not UTF-8 text (first wrong byte at offset 5)")
    );
    let deep = format!("[host]\ninterval = {}\n", "[".repeat(100_000));
    assert!(with(deep).complaints()[0].starts_with("tidegate.toml:2: is not TOML: "));
    assert!(
        Machine::new().file("tidegate.toml/x", "").complaints()[0].starts_with("tidegate.toml: is not a regular file")
    );
    assert!(Machine::new().file("conf.d", "").complaints()[0].starts_with("conf.d: cannot be read"));

    let pipe = Machine::new();
    let path = pipe.folder.path().join("tidegate.toml");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(pipe.complaints()[0].starts_with("tidegate.toml: is not a regular file"));
}

#[test]
fn too_many_fragments_are_refused() {
    let mut machine = Machine::new();
    for index in 0..=MAX_FILES {
        machine = machine.file(&format!("conf.d/{index}.toml"), "");
    }
    assert_eq!(machine.complaints(), ["conf.d: holds 257 files, at most 256 are read"]);
}

#[test]
fn a_machine_without_an_id_names_the_key_that_helps() {
    let mut machine = Machine::new();
    machine.environment.machine_id_file = machine.folder.path().join("absent");
    assert!(machine.complaints()[0].starts_with("default: [gateway] id: is not set, and cannot be derived from"));
    assert_eq!(machine.variable("TIDEGATE__GATEWAY__ID", "gw-7").load().unwrap().config.gateway.id, "gw-7");
}

#[test]
fn messages_about_long_and_hostile_values_stay_short() {
    let text = format!("[log]\n\"{}\" = 1\nfilter = [\"{}\"]\n", "k".repeat(100_000), "\\u001b[2J".repeat(1_000));
    for complaint in with(text).complaints() {
        assert!(complaint.len() < 400 && !complaint.contains('\u{1b}'), "{complaint}");
    }
}

/// `daemon/tidegate.toml` and the table in `docs/configuration.md`, as [`KEYS`] has them.
fn shipped_file() -> String {
    let mut out = String::from(
        "# Configuration of tidegate, /etc/tidegate/tidegate.toml.\n\
         #\n\
         # Every key stands here with its default; remove the # in front of one to set it. Files in\n\
         # /etc/tidegate/conf.d/ that end in .toml are read after this one, in the order of their names, and variables\n\
         # such as TIDEGATE__MQTT__URL after those; the last one wins. `tidegate check-config` says what is wrong.\n\
         # `systemctl reload tidegate` (or SIGHUP) takes over what needs no restart. Remote configuration comes on top\n\
         # of all this, but for the keys that are local; `tidegate config show --origin` says what came from where.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (of, name) = key.split();
        if of != section {
            let _infallible = writeln!(out, "\n[{of}]");
            section = of;
        }
        let _infallible = writeln!(out, "# {}\n# Accepted: {}.", key.about, key.accepted);
        let note = match (key.effect, key.reach) {
            (Effect::Restart, Reach::Local(_)) => "# Local; a change needs a restart.\n",
            (Effect::Restart, _) => "# A change needs a restart.\n",
            (Effect::Live, Reach::Local(_)) => "# Local.\n",
            (Effect::Live, _) => "",
        };
        out.push_str(note);
        let _infallible = writeln!(out, "#{name} = {}", key.default);
    }
    out
}

fn documented_table() -> String {
    let mut out = String::new();
    let mut section = "";
    for key in KEYS {
        let (of, name) = key.split();
        if of != section {
            let _infallible = writeln!(
                out,
                "\n### `[{of}]`\n\n| key | default | accepted | live | remote | what |\n|---|---|---|---|---|---|"
            );
            section = of;
        }
        let live = if key.effect == Effect::Live { "yes" } else { "restart" };
        let remote = match key.reach {
            Reach::Remote => "yes",
            Reach::RemoteIf { .. } => "in part",
            Reach::Local(_) => "no",
        };
        let (accepted, about) = (key.accepted.replace('|', "\\|"), key.about.replace('|', "\\|"));
        let _infallible = writeln!(out, "| `{name}` | `{}` | {accepted} | {live} | {remote} | {about} |", key.default);
    }
    out
}

/// `docs/schema/config-desired.json`: what a remote layer may hold, as far as a schema can say it.
fn desired_schema() -> String {
    let mut sections = serde_json::Map::new();
    for key in KEYS.iter().filter(|key| !matches!(key.reach, Reach::Local(_))) {
        let (section, name) = key.split();
        let mut rule = match key.kind {
            Kind::Text => json!({ "type": "string" }),
            Kind::Integer => json!({ "type": "integer" }),
            Kind::IntegerOrText => json!({ "type": ["integer", "string"] }),
            Kind::Boolean => json!({ "type": "boolean" }),
            Kind::List => json!({ "type": "array", "items": { "type": "string" } }),
        };
        rule["description"] = json!(format!("{} Accepted: {}.", key.about, key.accepted));
        let section =
            sections.entry(section).or_insert_with(|| json!({ "type": "object", "additionalProperties": false }));
        section["properties"][name] = rule;
    }
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://tidegate.dev/schema/v1/config-desired.json",
        "title": "config/desired, retained by the sender: what a gateway, or each member of a group, should run",
        "description": "Generated from the table of keys. An empty message withdraws what was desired.",
        "type": "object",
        "required": ["version", "config"],
        "additionalProperties": false,
        "properties": {
            "version": {
                "type": "integer",
                "minimum": 1,
                "maximum": crate::control::desired::MAX_VERSION,
                "description": "Greater than that of every document before it on this topic.",
            },
            "config": { "type": "object", "additionalProperties": false, "properties": sections },
        },
        "examples": [
            { "version": 1, "config": {} },
            { "version": 7, "config": { "traffic": { "sample_rate": 100 }, "host": { "interval": "5m" } } },
        ],
    });
    format!("{schema:#}\n")
}

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tidegate.toml");
const DOCUMENTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
const DESIRED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema/config-desired.json");
const TABLE_BEGINS: &str = "<!-- keys: generated, UPDATE_EXPECT=1 cargo test -p tidegate config -->\n";
const TABLE_ENDS: &str = "\n<!-- end of keys -->";

/// Compares a committed file with what the table of keys says; `UPDATE_EXPECT=1` writes it instead.
fn expect_file(path: &str, expected: &str) {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(path, expected).unwrap();
    }
    assert!(fs::read_to_string(path).unwrap() == expected, "{path} differs from the table of keys; see its header");
}

#[test]
fn the_shipped_file_and_the_documentation_say_what_the_table_of_keys_says() {
    expect_file(SHIPPED, &shipped_file());
    expect_file(DESIRED, &desired_schema());
    let page = fs::read_to_string(DOCUMENTED).unwrap();
    let (before, rest) = page.split_once(TABLE_BEGINS).unwrap();
    let (_, after) = rest.split_once(TABLE_ENDS).unwrap();
    expect_file(DOCUMENTED, &format!("{before}{TABLE_BEGINS}{}{TABLE_ENDS}{after}", documented_table()));
}

#[test]
fn the_shipped_file_is_the_defaults_with_and_without_its_comment_signs() {
    let shipped = fs::read_to_string(SHIPPED).unwrap();
    let bare: String = shipped
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') && !key.is_empty() => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let defaults = Machine::new().load().unwrap().config;
    assert_eq!(with(&shipped).load().unwrap().config, defaults);
    let loaded = with(&bare).load().unwrap();
    assert_eq!(loaded.config, defaults);
    for key in KEYS {
        assert!(loaded.origin(key).contains("tidegate.toml:"), "{} is not in the shipped file", key.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_text_makes_the_loader_panic(text in "(\\[[a-z.]{0,8}\\]\n)?([a-z_.\"]{0,12} ?= ?['\"\\[{]?.{0,20}['\"\\]}]?\n){0,4}") {
        let _either = with(&text).load();
    }

    #[test]
    fn no_bytes_make_the_loader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _either = with(&bytes).load();
    }
}
