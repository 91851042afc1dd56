//! Messages against the schemas in `docs/schema`, which other programs are written against.
//!
//! `status.json` describes the payload of the topic `status`. What came from the spool is described by
//! `envelope.json`, and its `data` by the schema named for the topic: `telemetry-host.json`, `event-loss.json`. The
//! data of `ingest/NAME` is the local program's own. A topic without a schema is a fault, too.

use std::{collections::BTreeMap, fs, path::Path};

use jsonschema::Validator;
use serde_json::Value;

use crate::Message;

/// All schemas.
#[derive(Debug)]
pub struct Schemas(BTreeMap<String, Validator>);

impl Schemas {
    /// Reads and compiles them.
    ///
    /// # Panics
    ///
    /// Where one is no schema.
    #[must_use]
    #[track_caller]
    pub fn load() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema");
        let mut schemas = BTreeMap::new();
        for entry in fs::read_dir(&folder).expect("docs/schema is there").map_while(Result::ok) {
            let path = entry.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")) else { continue };
            let text = fs::read(&path).expect("a schema can be read");
            let json: Value = serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{name}.json: {error}"));
            let validator = jsonschema::validator_for(&json).unwrap_or_else(|error| panic!("{name}.json: {error}"));
            schemas.insert(name.to_owned(), validator);
        }
        Self(schemas)
    }

    /// Fails unless every message of gateway `id` is as its schema says.
    ///
    /// # Panics
    ///
    /// With the first ten that are not.
    #[track_caller]
    pub fn assert_valid<'a>(&self, id: &str, messages: impl IntoIterator<Item = &'a Message>) {
        let mut faults: Vec<String> = messages.into_iter().flat_map(|message| self.faults(id, message)).collect();
        let count = faults.len();
        faults.truncate(10);
        assert!(faults.is_empty(), "{count} faults, the first of them:\n{}", faults.join("\n"));
    }

    /// What is wrong with one message.
    #[must_use]
    pub fn faults(&self, id: &str, message: &Message) -> Vec<String> {
        let Some((_root, topic)) = message.topic.split_once(&format!("/{id}/")) else {
            return vec![format!("{}: not below the gateway's own topic", message.topic)];
        };
        let Ok(json) = serde_json::from_slice::<Value>(&message.payload) else {
            return vec![format!("{topic}: not JSON: {}", String::from_utf8_lossy(&message.payload))];
        };
        if !["event/", "telemetry/", "ingest/"].iter().any(|stream| topic.starts_with(stream)) {
            return self.against(&topic.replace('/', "-"), topic, &json);
        }
        let mut faults = self.against("envelope", topic, &json);
        if !topic.starts_with("ingest/") {
            faults.extend(self.against(&topic.replace('/', "-"), topic, &json["data"]));
        }
        faults
    }

    fn against(&self, schema: &str, topic: &str, json: &Value) -> Vec<String> {
        let Some(validator) = self.0.get(schema) else {
            return vec![format!("{topic}: there is no docs/schema/{schema}.json")];
        };
        validator
            .iter_errors(json)
            .map(|error| format!("{topic}: {schema}.json: {error} at {:?}", error.instance_path().to_string()))
            .collect()
    }
}
