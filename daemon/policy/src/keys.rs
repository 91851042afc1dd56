//! Whose signatures count.
//!
//! A key is known by its id: SHA-256 of its SPKI in DER, in lowercase hexadecimal digits. That is what
//! `openssl pkey -pubin -in KEY.pem -outform DER | sha256sum` prints.

use std::path::Path;

use tidegate_values::{Digest, PublicKey, ed25519};

/// Keys that count at most, configured and added ones together.
pub const MAX_TRUSTED_KEYS: usize = 16;

/// A public ed25519 key, and until when it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// RFC 8032, section 5.1.5.
    pub bytes: [u8; 32],
    /// See the module.
    pub id: Digest,
    /// Milliseconds since 1970 from which on its signatures count no more.
    pub not_after_ms: Option<u64>,
}

impl Key {
    /// A key that counts for ever.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self { bytes, id: Digest::of(&ed25519::spki(&bytes)), not_after_ms: None }
    }

    /// Whether its signatures count at that time. While the clock is not set (`None`), those of a key that expires do not.
    #[must_use]
    pub fn counts_at(&self, now_ms: Option<u64>) -> bool {
        self.not_after_ms.is_none_or(|not_after| now_ms.is_some_and(|now| now < not_after))
    }
}

/// The keys whose signatures count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring(Vec<Key>);

impl Keyring {
    /// Those of `[policy] public_keys`. What cannot be read is told, and left out: the others still count.
    ///
    /// `read` reads a file: it may have been replaced since the daemon began.
    pub fn configured(
        keys: &[PublicKey],
        mut read: impl FnMut(&Path) -> std::io::Result<Vec<u8>>,
    ) -> (Self, Vec<String>) {
        let (mut ring, mut problems) = (Self::default(), Vec::new());
        for key in keys {
            let bytes = match key {
                PublicKey::Ed25519(bytes) => Ok(*bytes),
                PublicKey::File(path) => {
                    let read = read(path).map_err(|error| error.to_string());
                    read.and_then(|pem| ed25519::public_key(&pem))
                }
            };
            match bytes {
                Ok(bytes) => ring.add(Key::new(bytes)),
                Err(what) => problems.push(format!("{key}: {what}; wanted is {}", ed25519::WANTED)),
            }
        }
        (ring, problems)
    }

    /// Trusts a key, too. One that is known stays, with what is said of its time now.
    pub fn add(&mut self, key: Key) {
        self.remove(&key.id);
        self.0.push(key);
    }

    /// Trusts a key no more; whether it was.
    pub fn remove(&mut self, id: &Digest) -> bool {
        let before = self.0.len();
        self.0.retain(|key| key.id != *id);
        self.0.len() < before
    }

    /// The key with that id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Key> {
        let id: Digest = id.parse().ok()?;
        self.0.iter().find(|key| key.id == id)
    }

    /// All of them.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LITERAL: &str = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    #[test]
    fn a_key_has_one_id_wherever_it_stands() {
        let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
        let keys = ["/a.pem", LITERAL, "/absent.pem", "/b.pem"].map(|text| PublicKey::parse(text).unwrap());
        let (ring, problems) = Keyring::configured(&keys, |path| match path.to_str() {
            Some("/a.pem") => Ok(pem.as_bytes().to_vec()),
            Some("/b.pem") => Ok(b"no PEM".to_vec()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        });
        let [key] = ring.keys() else { panic!("{ring:?}") };
        // printf '%s' MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo= | base64 -d | sha256sum
        assert_eq!(key.id.to_string(), "06e3fd8fda29bb60ab59557de61edb0aecdb231134be30e75b455f8e1b792fa9");
        assert!(ring.get(&key.id.to_string()).is_some() && ring.get("").is_none());
        let [absent, no_pem] = &problems[..] else { panic!("{problems:?}") };
        assert!(absent.starts_with("/absent.pem: entity not found; wanted is "), "{absent}");
        assert!(no_pem.starts_with("/b.pem: no public key in PEM; wanted is "), "{no_pem}");
    }

    #[test]
    fn a_key_that_expires_counts_until_then_and_not_while_the_time_is_unknown() {
        let key = Key { not_after_ms: Some(1000), ..Key::new([1; 32]) };
        assert!(key.counts_at(Some(999)) && !key.counts_at(Some(1000)) && !key.counts_at(None));
        assert!(Key::new([1; 32]).counts_at(None));
        let mut ring = Keyring::default();
        ring.add(Key::new([1; 32]));
        ring.add(key);
        assert_eq!(ring.keys(), [key]);
        assert!(ring.remove(&key.id) && !ring.remove(&key.id));
    }
}
