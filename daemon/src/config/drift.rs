//! Where what is wanted, what the gateway's own layers say and what runs are apart, key by key.
//!
//! ```text
//!                      runs what is desired   runs something else
//!   desired, layers agree        –                  running
//!   desired, layers differ     local                running
//!   not desired                  –                  unread      (against what the local layers make)
//! ```
//!
//! That an environment variable covers a file, or one file another, is no drift: this is what layers are for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Config,
    compose::compose,
    keys::{KEYS, Key},
    local::Local,
    remote::Remote,
};
use crate::gather::Gather as _;

/// Keys that are told of at most.
pub const MAX_DRIFTING_KEYS: usize = 64;
const _: () = assert!(KEYS.len() <= MAX_DRIFTING_KEYS, "docs/schema/config-reported.json says so");

/// How a key is apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriftKind {
    /// What runs is not what is desired: the change needs a restart, is on trial, or was undone.
    Running,
    /// What is desired runs, but a local layer says something else, which would take effect were it withdrawn.
    Local,
    /// Nothing is desired, and the local layers were changed without effect so far: they want a reload or a restart.
    Unread,
}

/// A key that is apart; values as [`Key::shown`] gives them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// How.
    pub kind: DriftKind,
    /// What the remote layers want.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired: Option<Value>,
    /// What the files say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<Value>,
    /// What the environment says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<Value>,
    /// What runs.
    pub running: Value,
}

/// Compares the local layers as they are now, what is desired (later layers win), and what runs.
#[must_use]
pub fn drift(local: &Local, desired: &[&Remote], running: &Config) -> BTreeMap<&'static str, Drift> {
    // Local layers that were read are valid together; were they not, only what is desired would be compared.
    let locally = compose(local, &[]).ok().map(|loaded| loaded.config);
    let of_key = |key: &'static Key| {
        let desired = desired.iter().rev().find_map(|remote| remote.get(key));
        let (file, environment) = (local.file(key), local.environment(key));
        let running = key.get(running);
        let kind = match &desired {
            Some(desired) if *desired != running => DriftKind::Running,
            Some(desired) if [&file, &environment].into_iter().flatten().any(|said| said != desired) => {
                DriftKind::Local
            }
            None if locally.as_ref().is_some_and(|locally| key.get(locally) != running) => DriftKind::Unread,
            _ => return None,
        };
        let shown = |value: Option<Value>| value.map(|value| key.shown(value));
        Some((
            key.name,
            Drift {
                kind,
                desired: shown(desired),
                file: shown(file),
                environment: shown(environment),
                running: key.shown(running),
            },
        ))
    };
    KEYS.iter().filter_map(of_key).gather()
}
