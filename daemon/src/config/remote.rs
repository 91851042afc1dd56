//! One remote layer: what somebody afar wants of this gateway, or of a group to which it belongs.
//!
//! It comes from the network, so it is read within bounds, and judged like any other layer: an unknown key, a wrong
//! value or a key that only the gateway itself may set makes the whole layer unusable. What is said about it goes back
//! over the network: a few lines, each of bounded length, none of which repeats a credential.

use config::{Value, ValueKind};
use serde_json::{Map, Value as Json};
use tidegate_values::excerpt;

use super::{
    Config,
    complaints::{is_section, join, not_a_section, printable, unknown_key, unknown_section},
    error::{ConfigError, Problem},
    keys::{self, KEYS, Key, Reach},
    layers::Layer,
};
use crate::json::{self, Limits};

/// There are some fifty keys, the longest list has 64 entries of 64 bytes, and a long `[log] filter` a few hundred;
/// beyond these it is no configuration.
const LIMITS: Limits = Limits { values: 4096, levels: 32, text_bytes: 64 << 10 };
/// Errors told of one layer: whoever made more mends these first.
const MAX_ERRORS: usize = 8;
/// Names that stand in front of a fault in the JSON; no key is deeper.
const MAX_PLACE_NAMES: usize = 3;

/// A remote layer that is valid by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Remote {
    label: String,
    layer: Layer,
}

impl Remote {
    /// Reads `{"SECTION":{"KEY":VALUE}}`. The label says whose layer it is, `remote device v7` or `remote @plant v3`:
    /// errors begin with it, and [`super::Loaded::origin`] is it.
    ///
    /// # Errors
    ///
    /// What is wrong with it, at most eight of its faults.
    pub fn read(label: &str, config: &str) -> Result<Self, Vec<ConfigError>> {
        let mut layer = Judging { label, layer: Layer::default(), errors: Vec::new() };
        match json::read(config, LIMITS) {
            Ok(Json::Object(sections)) => layer.take_members("", &sections),
            Ok(other) => {
                let found = excerpt(&other.to_string());
                layer.errors.push(ConfigError::with_layer(label.to_owned(), Problem::NotSections { found }));
            }
            Err(json::Refused { path, fault }) => {
                let names: Vec<_> = path.iter().take(MAX_PLACE_NAMES).map(|name| printable(name)).collect();
                layer.errors.push(ConfigError::with_key(label.to_owned(), &names.join("."), Problem::Json(fault)));
            }
        }
        let Judging { layer, errors, .. } = layer;
        if errors.is_empty() { Ok(Self { label: label.to_owned(), layer }) } else { Err(errors) }
    }

    /// Whose layer it is.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What it says of a key, as [`Key::get`] gives it; `None` where it is silent.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Json> {
        let mut config = Config::defaults("");
        // It was judged when it was read.
        let _accepted = (key.set)(&mut config, self.layer.get(key)?);
        Some(key.get(&config))
    }

    /// The keys that it sets, in the order of [`KEYS`], with their values.
    pub fn values(&self) -> impl Iterator<Item = (&'static Key, Json)> {
        KEYS.iter().filter_map(|key| Some((key, self.get(key)?)))
    }

    pub(super) const fn layer(&self) -> &Layer {
        &self.layer
    }
}

struct Judging<'a> {
    label: &'a str,
    layer: Layer,
    errors: Vec<ConfigError>,
}

impl Judging<'_> {
    fn take_members(&mut self, section: &str, members: &Map<String, Json>) {
        let sections = keys::sections();
        for (member, value) in members {
            if self.errors.len() >= MAX_ERRORS {
                return;
            }
            let label = self.label.to_owned();
            let name = join(section, member);
            match (value, keys::find(&name)) {
                (value, Some(key)) => self.take(key, value),
                (Json::Object(members), None) if is_section(&sections, &name) => self.take_members(&name, members),
                (value, None) if is_section(&sections, &name) => {
                    self.errors.push(not_a_section(label, &name, &value.to_string()));
                }
                (Json::Object(_), None) => self.errors.push(unknown_section(label, &name)),
                (_, None) => self.errors.push(unknown_key(label, section, &printable(member))),
            }
        }
    }

    fn take(&mut self, key: &'static Key, value: &Json) {
        let place = self.label.to_owned();
        if let Reach::Local(reason) = key.reach {
            // Whatever stands there is not repeated: it may be meant for the gateway's eyes alone.
            self.errors.push(ConfigError::with_key(place, key.name, Problem::LocalOnly { reason }));
            return;
        }
        let found = value.to_string();
        let value = Value::new(Some(&place), kind_of(&place, value));
        if let Reach::RemoteIf { but, within } = key.reach {
            let mut config = Config::defaults("");
            if (key.set)(&mut config, &value).is_ok() && !within(&config) {
                let problem = Problem::BeyondReach { found: excerpt(&found), but };
                self.errors.push(ConfigError::with_key(place, key.name, problem));
                return;
            }
        }
        self.layer.take(key, value, &found, &mut self.errors);
    }
}

/// A value as `config` holds it. What no key accepts (null, fractions, numbers beyond 63 bits, objects, nested lists)
/// becomes nil, and is refused as the text it was.
fn kind_of(place: &String, value: &Json) -> ValueKind {
    match value {
        Json::String(text) => ValueKind::String(text.clone()),
        Json::Number(number) => number.as_i64().map_or(ValueKind::Nil, ValueKind::I64),
        Json::Bool(flag) => ValueKind::Boolean(*flag),
        Json::Array(items) => ValueKind::Array(
            items
                .iter()
                .map(|item| {
                    let kind = if item.is_array() { ValueKind::Nil } else { kind_of(place, item) };
                    Value::new(Some(place), kind)
                })
                .collect(),
        ),
        Json::Null | Json::Object(_) => ValueKind::Nil,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const LABEL: &str = "remote device v7";

    fn complaints(config: &Json) -> Vec<String> {
        complaints_of_text(&config.to_string())
    }

    fn complaints_of_text(config: &str) -> Vec<String> {
        let errors = Remote::read(LABEL, config).expect_err(config);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_key_that_may_be_set_from_afar_is() {
        let config = json!({
            "traffic": {
                "interfaces": ["eth*", "!eth9"],
                "attach": "netlink",
                "sample_rate": 10,
                "flow_capacity": 4096,
                "export_interval": "90s",
                "time_tcp_sendmsg": false,
            },
            "policy": { "confirm_within": "1m", "fragments": "allow" },
            "upload": {
                "protocol": "http",
                "http_version": "2",
                "part_size": "256KiB",
                "compression": "gzip:6",
                "rate_limit": "64KiB",
                "window": ["01:00-05:00"],
                "concurrency": 2,
                "metered": ["wwan*"],
                "splay": "5m",
                "settle": "1m",
                "after": "keep",
                "verify": "read-back",
                "connect_within": "1m",
                "progress_within": "2m",
                "total_within": "1h",
            },
            "host": { "interval": "5m" },
            "log": { "filter": "warn,tidegate::uplink=debug" },
        });
        let remote = Remote::read(LABEL, &config.to_string()).unwrap();
        let values: Vec<_> = remote.values().map(|(key, value)| (key.name, value)).collect();
        let expected = [
            ("traffic.interfaces", json!(["eth*", "!eth9"])),
            ("traffic.attach", json!("netlink")),
            ("traffic.sample_rate", json!(10)),
            ("traffic.flow_capacity", json!(4096)),
            ("traffic.export_interval", json!("1m30s")),
            ("traffic.time_tcp_sendmsg", json!(false)),
            ("policy.confirm_within", json!("1m")),
            ("policy.fragments", json!("allow")),
            ("upload.protocol", json!("http")),
            ("upload.http_version", json!("2")),
            ("upload.part_size", json!("256KiB")),
            ("upload.compression", json!("gzip:6")),
            ("upload.rate_limit", json!("64KiB")),
            ("upload.window", json!(["01:00-05:00"])),
            ("upload.concurrency", json!(2)),
            ("upload.metered", json!(["wwan*"])),
            ("upload.splay", json!("5m")),
            ("upload.settle", json!("1m")),
            ("upload.after", json!("keep")),
            ("upload.verify", json!("read-back")),
            ("upload.connect_within", json!("1m")),
            ("upload.progress_within", json!("2m")),
            ("upload.total_within", json!("1h")),
            ("host.interval", json!("5m")),
            ("log.filter", json!("warn,tidegate::uplink=debug")),
        ];
        assert_eq!(values, expected);
        let reachable = KEYS.iter().filter(|key| !matches!(key.reach, Reach::Local(_))).map(|key| key.name);
        assert!(reachable.eq(expected.iter().map(|(name, _)| *name)), "a key was added: set it here, too");
    }

    #[test]
    fn a_key_of_the_gateway_itself_is_refused_with_the_reason_and_without_its_value() {
        for key in KEYS {
            let Reach::Local(reason) = key.reach else { continue };
            let value = key.name.split('.').rev().fold(json!("s3cret"), |value, name| json!({ name: value }));
            let (section, name) = key.split();
            assert_eq!(
                complaints(&value),
                [format!(
                    "{LABEL}: [{section}] {name}: can be set on the gateway only: {reason}; take it out of the remote \
                     configuration"
                )]
            );
        }
    }

    /// Each layer, and the beginning of what is said about it.
    const WRONG: &[(&str, &str)] = &[
        ("[]", "remote device v7: found [], accepted is an object of sections"),
        ("null", "remote device v7: found null, accepted is an object of sections"),
        ("{", "remote device v7: not JSON: "),
        (r#"{"host":{"interval":5}}"#, "remote device v7: [host] interval: found 5, accepted is a duration"),
        (r#"{"host":{"interval":null}}"#, "remote device v7: [host] interval: found null, accepted is a duration"),
        (r#"{"host":{"interval":"0s"}}"#, r#"remote device v7: [host] interval: found "0s", accepted is a duration"#),
        (r#"{"host":{"interval":{"s":5}}}"#, r#"remote device v7: [host] interval: found {"s":5}, accepted is a"#),
        (r#"{"host":{"intervall":"5s"}}"#, "remote device v7: [host] intervall: there is no such key, did you mean"),
        (r#"{"hosts":{}}"#, "remote device v7: [hosts]: there is no such section, did you mean [host]?"),
        (r#"{"host":[]}"#, "remote device v7: host: found [], accepted is a section: [host]"),
        (r#"{"interval":"5s"}"#, "remote device v7: interval: there is no such key, did you mean interval in [host]?"),
        (r#"{"host.interval":"5s"}"#, r#"remote device v7: "host.interval": there is no such key"#),
        (r#"{"host":{"interval":"5s","interval":"6s"}}"#, "remote device v7: [host] interval: stands twice"),
        (r#"{"traffic":{"sample_rate":1.0}}"#, "remote device v7: [traffic] sample_rate: found 1.0, accepted is a"),
        (r#"{"traffic":{"sample_rate":18446744073709551615}}"#, "remote device v7: [traffic] sample_rate: found 1844"),
        (r#"{"traffic":{"interfaces":[["eth0"]]}}"#, r#"remote device v7: [traffic] interfaces: found [["eth0"]]"#),
        (r#"{"log":{"filter":"loud=9"}}"#, r#"remote device v7: [log] filter: found "loud=9", accepted is a level"#),
    ];

    #[test]
    fn every_wrong_layer_is_told_its_key_what_was_found_and_what_is_accepted() {
        for (config, expected) in WRONG {
            let complaints = complaints_of_text(config);
            assert_eq!(complaints.len(), 1, "{complaints:?}");
            assert!(complaints[0].starts_with(expected), "{config}\nsays:     {}\nexpected: {expected}", complaints[0]);
        }
    }

    #[test]
    fn a_filter_that_logs_everything_is_refused_from_afar() {
        for filter in ["debug", "trace", "warn,trace", "=debug", "trace,tidegate=info"] {
            let complaint = complaints(&json!({ "log": { "filter": filter } })).remove(0);
            assert!(complaint.contains("only for modules that are named"), "{complaint}");
            assert!(complaint.contains("cmd/log-level"), "{complaint}");
        }
        for filter in ["off", "info", "warn,tidegate=debug", "tidegate::uplink=trace"] {
            assert!(Remote::read(LABEL, &json!({ "log": { "filter": filter } }).to_string()).is_ok(), "{filter}");
        }
    }

    #[test]
    fn what_is_larger_than_any_configuration_is_refused_by_its_bounds() {
        let deep = format!(r#"{{"host":{{"interval":{}{}}}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(
            complaints_of_text(&deep),
            ["remote device v7: [host] interval: nested too deeply: more than 32 levels"]
        );
        assert_eq!(
            complaints(&json!({ "traffic": { "interfaces": vec!["eth0"; 5000] } })),
            ["remote device v7: [traffic] interfaces: too many values: more than 4096"]
        );
        assert_eq!(
            complaints(&json!({ "log": { "filter": "x".repeat(1 << 16) } })),
            ["remote device v7: [log] filter: too much text: more than 65536 bytes"]
        );
    }

    #[test]
    fn complaints_are_few_and_short_and_repeat_no_credential() {
        let many: Map<String, Json> = (0..100).map(|index| (format!("{index}{}", "k".repeat(500)), json!(1))).collect();
        let complaints = complaints(&many.into());
        assert_eq!(complaints.len(), MAX_ERRORS);
        assert!(complaints.iter().all(|complaint| complaint.len() < 300), "{complaints:?}");
        for config in [
            json!({ "mqtt": { "url": "mqtt://anna:s3cret@broker" } }),
            json!({ "mqtt": { "pasword": "s3cret" } }),
            json!({ "mqtt": "mqtt://anna:s3cret@broker" }),
            json!({ "log": { "filter": "mqtt://anna:s3cret@broker=loud" } }),
            json!({ "traffic": { "interfaces": ["mqtt://anna:s3cret@broker", "eth0"] } }),
        ] {
            let complaints = self::complaints(&config);
            assert!(complaints.iter().all(|complaint| !complaint.contains("s3cret")), "{complaints:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(
            config in r#"\{("(host|log|traffic|x)":\{?)?("(interval|filter|interfaces|y)":)?["\[{]?.{0,12}["\]}]{0,4}"#,
        ) {
            let _either = Remote::read(LABEL, &config);
        }
    }
}
