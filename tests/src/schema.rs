//! Messages against the schemas in `docs/schema`, which other programs are written against.
//!
//! `status.json` describes the payload of the topic `status`. What came from the spool is described by
//! `envelope.json`, and its `data` by the schema named for the topic: `telemetry-host.json`, `event-loss.json`. The
//! data of `ingest/NAME` is the local program's own. Answers to requests go to topics that the asker chooses, below
//! `response/` in these scenarios, and are described by what they say of themselves: `response-flows.json`,
//! `response-refused.json`. A topic without a schema is a fault, too.

use std::{collections::BTreeMap, fs, path::Path, sync::LazyLock};

use jsonschema::Validator;
use serde_json::{Value, value::RawValue};

use crate::Message;

/// Below the root, where each daemon under test publishes.
const OURS: &str = "/gw-test/";

/// Messages of one topic that are checked as a scenario ends: some publish 100,000 records, which differ in their numbers.
const CHECKED_OF_A_TOPIC: usize = 200;

/// Where messages were seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// On the daemon's own connection: all of them are the gateway's.
    FromTheGateway,
    /// At the broker, where others publish, too.
    AtTheBroker,
}

impl Seen {
    /// Whether only the gateway publishes on this topic: scenarios put nonsense on those that it reads.
    fn is_of_the_gateway(self, topic: &str) -> bool {
        let read_by_it = topic.ends_with("/desired") || topic.starts_with("cmd/") || topic.starts_with("echo");
        self == Self::FromTheGateway || !read_by_it
    }
}

/// All schemas.
#[derive(Debug)]
pub struct Schemas(BTreeMap<String, Validator>);

impl Schemas {
    /// Reads and compiles them.
    ///
    /// # Panics
    ///
    /// Where one is no schema, or an example in it is not as it says.
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
            for (index, example) in json["examples"].as_array().into_iter().flatten().enumerate() {
                if let Err(error) = validator.validate(example) {
                    panic!("{name}.json: example {index}: {error} at {}", error.instance_path());
                }
            }
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

    /// Fails unless what the gateway under test published, among these messages, is as its schemas say. [`crate::Tap`] and
    /// [`crate::Subscriber`] call this as they end, so that no scenario can forget it.
    #[track_caller]
    pub(crate) fn assert_published_valid(seen: Seen, messages: &[Message]) {
        static SCHEMAS: LazyLock<Schemas> = LazyLock::new(Schemas::load);
        let mut of_topic = BTreeMap::new();
        let published = messages.iter().filter(|message| {
            let Some((_root, topic)) = message.topic.split_once(OURS) else { return false };
            let count: &mut usize = of_topic.entry(topic).or_default();
            *count += 1;
            seen.is_of_the_gateway(topic) && *count <= CHECKED_OF_A_TOPIC
        });
        SCHEMAS.assert_valid(OURS.trim_matches('/'), published);
    }

    /// What is wrong with one message.
    #[must_use]
    pub fn faults(&self, id: &str, message: &Message) -> Vec<String> {
        let Some((_root, topic)) = message.topic.split_once(&format!("/{id}/")) else {
            return vec![format!("{}: not below the gateway's own topic", message.topic)];
        };
        let Some(json) = json(topic, &message.payload) else {
            return vec![format!("{topic}: not JSON: {}", String::from_utf8_lossy(&message.payload))];
        };
        if topic.starts_with("response/") {
            let answered = if json["ok"] == true { json["command"].as_str().unwrap_or_default() } else { "refused" };
            return self.against(&format!("response-{answered}"), topic, &json);
        }
        if !["event/", "telemetry/", "ingest/"].iter().any(|stream| topic.starts_with(stream)) {
            return self.against(&topic.replace('/', "-"), topic, &json);
        }
        let mut faults = self.against("envelope", topic, &json);
        if !topic.starts_with("ingest/") {
            faults.extend(self.against(&topic.replace('/', "-"), topic, &json["data"]));
        }
        faults
    }

    /// Fails unless it is as a schema says: for what is printed, not published.
    ///
    /// # Panics
    ///
    /// With what is wrong.
    #[track_caller]
    pub fn assert_printed(&self, schema: &str, json: &Value) {
        let faults = self.against(schema, "printed", json);
        assert!(faults.is_empty(), "{json}\n{}", faults.join("\n"));
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

/// The payload. What local programs handed over may hold numbers that this parser has no room for (`1e400`): it is only
/// looked at as text then, and stands as `null`.
fn json(topic: &str, payload: &[u8]) -> Option<Value> {
    let parsed = serde_json::from_slice(payload).ok();
    if parsed.is_some() || !topic.starts_with("ingest/") {
        return parsed;
    }
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(payload).ok()?;
    let member = |(name, text): (String, &RawValue)| (name, serde_json::from_str(text.get()).unwrap_or_default());
    Some(Value::Object(members.into_iter().map(member).collect()))
}
