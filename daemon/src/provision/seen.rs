//! What a file was made of, to know it again.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use tidegate_values::Digest;

/// Digests of a `provision.toml` and of the files that it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Where it was.
    pub(super) path: PathBuf,
    /// Of the file itself.
    pub(super) document: Digest,
    /// Of the files beside it that it names and that are there, by name.
    pub(super) named: BTreeMap<String, Digest>,
}

impl Seen {
    /// Whether this is all that is left of `earlier`: the same file, and none beside it that is new. What is missing
    /// was removed when it was dealt with.
    pub(super) fn is_rest_of(&self, earlier: &Self) -> bool {
        self.document == earlier.document
            && self.named.iter().all(|(name, digest)| earlier.named.get(name) == Some(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(document: &str, named: &[(&str, &str)]) -> Seen {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let named = named.iter().map(|(name, content)| ((*name).to_owned(), digest(content))).collect();
        Seen { path: PathBuf::new(), document: digest(document), named }
    }

    #[test]
    fn a_file_is_known_again_without_its_key_and_not_with_another() {
        let earlier = seen("a", &[("gw.key", "1"), ("gw.pem", "2")]);
        assert!(seen("a", &[("gw.key", "1"), ("gw.pem", "2")]).is_rest_of(&earlier));
        assert!(seen("a", &[("gw.pem", "2")]).is_rest_of(&earlier));
        assert!(!seen("a", &[("gw.key", "3"), ("gw.pem", "2")]).is_rest_of(&earlier), "a renewed key");
        assert!(!seen("b", &[("gw.key", "1"), ("gw.pem", "2")]).is_rest_of(&earlier));
    }
}
