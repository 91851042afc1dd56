//! What is in force, for people and programs on the gateway: each key, its value and the layer that decides it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Config,
    compose::Loaded,
    keys::{Effect, KEYS},
};
use crate::gather::Gather as _;

/// Every key by its name: the answer to `{"get":"config"}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// By `section.key`.
    pub keys: BTreeMap<String, ShownKey>,
}

/// One key; values as [`super::Key::shown`] gives them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShownKey {
    /// What runs.
    pub value: Value,
    /// What takes its place with the next start, where that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_start: Option<Value>,
    /// The layer that decides: that of `next_start` where there is one, else that of `value`.
    pub from: String,
    /// When a change takes effect.
    pub takes_effect: Effect,
}

impl Shown {
    /// What `running` has, and what `loaded` wants it to have.
    #[must_use]
    pub fn new(loaded: &Loaded, running: &Config) -> Self {
        let keys = KEYS.iter().map(|key| {
            let (value, wanted) = (key.get(running), key.get(&loaded.config));
            let shown = ShownKey {
                next_start: (wanted != value).then(|| key.shown(wanted)),
                value: key.shown(value),
                from: loaded.origin(key).to_owned(),
                takes_effect: key.effect,
            };
            (key.name.to_owned(), shown)
        });
        Self { keys: keys.gather() }
    }
}
