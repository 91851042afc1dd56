//! What is known about the committed object.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use super::{Error, toolchain::Versions};

/// `ebpf/probes/manifest.json`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// SHA-256 over all sources: see [`super::sources::digest`].
    pub(super) sources: String,
    /// SHA-256 of the object.
    pub(super) object: String,
    /// Bytes of the object.
    pub(super) size: usize,
    /// What it was built with.
    pub(super) tools: Versions,
    /// Flags of the compiler, less those that name this machine's folders.
    pub(super) flags: Vec<String>,
    /// Its programs.
    pub(super) programs: BTreeMap<String, Program>,
}

/// One program of the object.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Program {
    /// Instructions, as they stand in the object.
    pub(super) instructions: u64,
    /// Their bytes.
    pub(super) bytes: u64,
}

impl Manifest {
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(bytes).map_err(|source| Error::Manifest { path: path.to_owned(), source })
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("names and numbers always encode") + "\n"
    }
}
