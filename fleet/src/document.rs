//! A document: what one target should be, in the form in which it is published and compared.
//!
//! The form is canonical: members sorted by name, no whitespace. So the same settings are the same bytes, whoever
//! wrote the file in whichever order, and a digest of the settings says whether anything changes. The version is no
//! part of that digest: it follows from the comparison.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;
use tidegate::{
    control::desired,
    json::{self, Limits},
};
use tidegate_values::Digest;

/// Beyond these it is no configuration, whoever published it, and its settings are not shown.
const LIMITS: Limits = Limits { values: 4096, levels: 32, text_bytes: 64 << 10 };

/// The settings for one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    canonical: Box<str>,
    digest: Digest,
}

impl Content {
    /// From `{"section":{"key":value}}`.
    #[must_use]
    pub fn new(config: &Value) -> Self {
        let canonical = canonical(config);
        Self { digest: Digest::of(canonical.as_bytes()), canonical: canonical.into() }
    }

    /// The settings as canonical JSON.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.canonical
    }

    /// Says whether two contents are the same.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The settings by dotted name, such as `traffic.sample_rate`.
    #[must_use]
    pub fn keys(&self) -> BTreeMap<String, Value> {
        // What was written here is read back.
        serde_json::from_str(&self.canonical).map(|config| keys(&config)).unwrap_or_default()
    }

    /// The payload that says so as `version`.
    #[must_use]
    pub fn payload(&self, version: u64) -> Bytes {
        format!(r#"{{"config":{},"version":{version}}}"#, self.canonical).into()
    }
}

/// What a published payload says.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// Its version.
    pub version: u64,
    /// Its settings, where they are JSON of a reasonable size.
    pub config: Option<Value>,
}

impl Published {
    /// Reads a document as a gateway does; `None` where a gateway finds no version in it.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        match desired::head(payload, "config") {
            Ok(head) => Some(Self { version: head.version, config: json::read(head.body, LIMITS).ok() }),
            Err(refused) => refused.version.map(|version| Self { version, config: None }),
        }
    }
}

/// What a change does to one key.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyChange {
    /// Dotted name.
    pub key: String,
    /// What was said before.
    pub from: Option<Value>,
    /// What is said now.
    pub to: Option<Value>,
}

/// What differs between two sets of settings, by name.
#[must_use]
pub fn differences(from: &BTreeMap<String, Value>, to: &BTreeMap<String, Value>) -> Vec<KeyChange> {
    let mut names: Vec<&String> = from.keys().chain(to.keys()).collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .map(|key| KeyChange { key: key.clone(), from: from.get(key).cloned(), to: to.get(key).cloned() })
        .filter(|change| change.from != change.to)
        .collect()
}

/// The settings of `{"section":{"key":value}}` by dotted name.
#[must_use]
pub fn keys(config: &Value) -> BTreeMap<String, Value> {
    fn collect(prefix: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                    collect(&name, value, into);
                }
            }
            value => {
                into.insert(prefix.to_owned(), value.clone());
            }
        }
    }
    let mut all = BTreeMap::new();
    collect("", config, &mut all);
    all
}

/// JSON with sorted members and no whitespace. Not left to `serde_json`'s map, whose order depends on a feature that
/// any dependency may switch on.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            let members = members
                .into_iter()
                .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), canonical(value)))
                .collect::<Vec<_>>();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use tidegate::control::desired::MAX_VERSION;

    use super::*;

    #[test]
    fn the_published_bytes_are_these() {
        let config =
            json!({"traffic": {"sample_rate": 10, "interfaces": ["eth0", "ww*"]}, "host": {"interval": "10s"}});
        let payload = Content::new(&config).payload(7);
        let bytes = r#"{"config":{"host":{"interval":"10s"},"traffic":{"interfaces":["eth0","ww*"],"sample_rate":10}},"version":7}"#;
        assert_eq!(payload, bytes);
        // printf '%s' BYTES | sha256sum
        assert_eq!(
            Digest::of(&payload).to_string(),
            "c8a26a5ba27205bd61f624f0bef92d1ed731cdc073e83684e4acd5a084390027"
        );
        assert_eq!(Published::read(&payload), Some(Published { version: 7, config: Some(config) }));
    }

    #[test]
    fn what_is_no_document_is_not_read() {
        for payload in [
            "",
            "7",
            "[]",
            "{}",
            r#"{"version":0,"config":{}}"#,
            r#"{"version":-1,"config":{}}"#,
            r#"{"version":9007199254740992,"config":{}}"#,
        ] {
            assert_eq!(Published::read(payload.as_bytes()), None, "{payload}");
        }
        let version_only = Some(Published { version: 1, config: None });
        for payload in [r#"{"version":1}"#, r#"{"version":1,"x":1,"config":{}}"#] {
            assert_eq!(Published::read(payload.as_bytes()), version_only, "a gateway counts it: {payload}");
        }
    }

    #[test]
    fn differences_name_what_comes_goes_and_changes() {
        let old = keys(&json!({"host": {"interval": "10s"}, "log": {"filter": "info"}}));
        let new = keys(&json!({"host": {"interval": "20s"}, "traffic": {"sample_rate": 10}}));
        let change = |key: &str, from, to| KeyChange { key: key.to_owned(), from, to };
        assert_eq!(
            differences(&old, &new),
            [
                change("host.interval", Some(json!("10s")), Some(json!("20s"))),
                change("log.filter", Some(json!("info")), None),
                change("traffic.sample_rate", None, Some(json!(10))),
            ]
        );
        assert_eq!(differences(&new, &new), []);
    }

    fn settings() -> impl Strategy<Value = Vec<(String, i64)>> {
        proptest::collection::vec(("[a-c]{1,2}", -9..9_i64), 0..8)
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_values_do(mut pairs in settings(), seed in any::<u64>()) {
            pairs.sort();
            pairs.dedup_by(|a, b| a.0 == b.0);
            let text = |pairs: &[(String, i64)]| {
                let members: Vec<_> = pairs.iter().map(|(key, value)| format!("{key:?} : {value}")).collect();
                format!(r#"{{"s": {{ {} }} }}"#, members.join(", "))
            };
            let read = |pairs: &[(String, i64)]| Content::new(&serde_json::from_str(&text(pairs)).unwrap());
            let mut shuffled = pairs.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
            prop_assert_eq!(read(&pairs), read(&shuffled));
            if let Some(first) = pairs.first_mut() {
                first.1 += 1;
                prop_assert_ne!(read(&pairs).digest(), read(&shuffled).digest());
            }
        }

        #[test]
        fn what_is_published_is_read_back(pairs in settings(), version in 1..=MAX_VERSION) {
            let config = json!({"s": pairs.into_iter().collect::<BTreeMap<_, _>>()});
            prop_assert_eq!(Published::read(&Content::new(&config).payload(version)), Some(Published { version, config: Some(config) }));
        }
    }
}
