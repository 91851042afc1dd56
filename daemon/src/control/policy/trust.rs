//! Whose signatures count: the configured keys, with what confirmed bundles added to them and took away.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidegate_values::Digest;

use crate::{
    config::PublicKey,
    control::{
        link::Source,
        protocol::{Document, Stamp},
    },
    gather::Gather as _,
    policy::{
        bundle::{KeyChanges, NewKey},
        keys::{Key, Keyring, MAX_TRUSTED_KEYS},
    },
};

use super::Held;

/// What bundles changed in whose signatures count. Kept with what is confirmed, in one write: neither is there without
/// the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trust {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    added: Vec<Added>,
    /// Configured ones that count no more, as long as they are configured.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    removed: BTreeSet<Digest>,
    /// Of each source, the bundle whose changes were taken over last: each is, once.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    taken: BTreeMap<Source, Stamp>,
}

/// A key that a bundle brought.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Added {
    /// `ed25519:BASE64`
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after_ms: Option<u64>,
}

/// What one bundle changes, as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Changes {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    add: Vec<Added>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    remove: Vec<Digest>,
}

impl Changes {
    pub(super) fn of(changes: &KeyChanges) -> Self {
        let add = changes.add.iter().map(|NewKey { key, not_after_ms }| Added {
            key: PublicKey::Ed25519(*key).to_string(),
            not_after_ms: *not_after_ms,
        });
        Self { add: add.collect(), remove: changes.remove.clone() }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

impl Added {
    fn key(&self) -> Option<Key> {
        match PublicKey::parse(&self.key) {
            Ok(PublicKey::Ed25519(bytes)) => Some(Key { not_after_ms: self.not_after_ms, ..Key::new(bytes) }),
            _ => None,
        }
    }

    fn id(&self) -> Option<Digest> {
        self.key().map(|key| key.id)
    }
}

impl Trust {
    /// The keys whose signatures count, of which these are configured.
    pub(super) fn ring(&self, configured: Keyring) -> Keyring {
        let mut ring = configured;
        for id in &self.removed {
            ring.remove(id);
        }
        self.added.iter().filter_map(Added::key).for_each(|key| ring.add(key));
        ring
    }

    /// Whether a configured key counts.
    fn counts(&self, configured: &Digest) -> bool {
        !self.removed.contains(configured)
    }

    /// Ids of the keys that count.
    pub(super) fn ids(&self, configured: &BTreeSet<Digest>) -> BTreeSet<Digest> {
        let configured = configured.iter().filter(|id| self.counts(id)).copied();
        configured.chain(self.added.iter().filter_map(Added::id)).gather()
    }

    /// What it would be with these changes.
    pub(super) fn after(&self, changes: &Changes, configured: &BTreeSet<Digest>) -> Result<Self, String> {
        let mut after = self.clone();
        for new in &changes.add {
            let id = new.id();
            after.added.retain(|added| added.id() != id);
            if let Some(id) = id {
                after.removed.remove(&id);
            }
            after.added.push(new.clone());
        }
        for id in &changes.remove {
            after.added.retain(|added| added.id().as_ref() != Some(id));
            if configured.contains(id) {
                after.removed.insert(*id);
            }
        }
        match after.ids(configured).len() {
            0 => Err("keys.remove: no key would be left, and no policy could ever be changed again".to_owned()),
            count if count > MAX_TRUSTED_KEYS => {
                Err(format!("keys.add: {count} keys would be trusted, at most {MAX_TRUSTED_KEYS} are accepted"))
            }
            _ => Ok(after),
        }
    }

    /// Takes over what the source's confirmed bundle changes, once; returns whether there was anything.
    pub(super) fn take(&mut self, source: &Source, document: &Document<Held>, configured: &BTreeSet<Digest>) -> bool {
        let taken = &document.body.keys;
        if taken.is_empty() || self.taken.get(source) == Some(&document.stamp) {
            return false;
        }
        // It was possible when it was judged. Where it no longer is, what is trusted stays.
        if let Ok(after) = self.after(taken, configured) {
            *self = after;
        }
        self.taken.insert(source.clone(), document.stamp);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(byte: u8) -> Added {
        Added { key: PublicKey::Ed25519([byte; 32]).to_string(), not_after_ms: None }
    }

    fn id(byte: u8) -> Digest {
        Key::new([byte; 32]).id
    }

    #[test]
    fn keys_are_added_and_removed_and_one_is_always_left() {
        let configured = BTreeSet::from([id(1)]);
        let trust = Trust::default();
        let rotated = trust.after(&Changes { add: vec![added(2)], remove: vec![id(1)] }, &configured).unwrap();
        assert_eq!(rotated.ids(&configured), BTreeSet::from([id(2)]));
        assert!(!rotated.counts(&id(1)));
        rotated.after(&Changes { add: vec![], remove: vec![id(2)] }, &configured).unwrap_err();
        let back = rotated.after(&Changes { add: vec![added(1)], remove: vec![] }, &configured).unwrap();
        assert_eq!(back.ids(&configured), BTreeSet::from([id(1), id(2)]));
        let many = Changes { add: (10..26).map(added).collect(), remove: vec![] };
        assert!(trust.after(&many, &configured).unwrap_err().contains("17 keys"));
    }

    #[test]
    fn the_changes_of_a_bundle_are_taken_over_once() {
        let configured = BTreeSet::from([id(1)]);
        let mut trust = Trust::default();
        let document = |version, keys| Document {
            stamp: Stamp { version, digest: Digest([0; 32]) },
            body: Held { keys, ..Held::default() },
        };
        let first = document(1, Changes { add: vec![added(2)], remove: vec![] });
        assert!(trust.take(&Source::Device, &first, &configured));
        assert!(!trust.take(&Source::Device, &first, &configured));
        let second = document(2, Changes { add: vec![], remove: vec![id(2)] });
        assert!(trust.take(&Source::Device, &second, &configured));
        assert_eq!(trust.ids(&configured), configured);
    }
}
