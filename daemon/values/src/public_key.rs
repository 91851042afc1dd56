//! Public keys of those whose signatures count, from `[policy] public_keys`.

use std::{fmt, path::PathBuf};

use crate::base64::{self, Digits};

/// Bytes of an ed25519 public key (RFC 8032, section 5.1.5).
const KEY_BYTES: usize = 32;
const PREFIX: &str = "ed25519:";

/// One key, or the file that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// A PEM file, read when signatures are judged: the key may be replaced while the daemon runs.
    File(PathBuf),
    /// An ed25519 key.
    Ed25519([u8; KEY_BYTES]),
}

impl PublicKey {
    /// Reads an absolute path, or `ed25519:` and the key's 32 bytes in base64 with padding.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text.strip_prefix(PREFIX) {
            Some(text) => {
                let key = base64::decode_array(text, Digits::Standard);
                key.map(Self::Ed25519).ok_or("it is not 32 bytes in base64")
            }
            None if text.contains('\0') => Err("a path holds no NUL"),
            None if text.starts_with('/') => Ok(Self::File(text.into())),
            None => Err("it is neither an absolute path nor begins with ed25519:"),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Ed25519(key) => write!(f, "{PREFIX}{}", base64::encode(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 8032, section 7.1, test 1.
    const KEY: &str = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    #[test]
    fn keys_and_files_are_read_and_written_alike() {
        let key = PublicKey::parse(KEY).unwrap();
        let PublicKey::Ed25519(bytes) = &key else { panic!("{key:?}") };
        assert_eq!((bytes[..3].to_vec(), bytes[31]), (vec![0xd7, 0x5a, 0x98], 0x1a));
        assert_eq!(key.to_string(), KEY);
        assert_eq!(
            PublicKey::parse("/etc/tidegate/policy.pem"),
            Ok(PublicKey::File("/etc/tidegate/policy.pem".into()))
        );
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [
            "",
            "policy.pem",
            "/a\0b",
            "ed25519:",
            "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURp=",
            "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHUR-=",
            "ed25519:MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
            "rsa:AAAA",
        ] {
            assert!(PublicKey::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_key_is_read_back(bytes: [u8; KEY_BYTES]) {
            let key = PublicKey::Ed25519(bytes);
            prop_assert_eq!(PublicKey::parse(&key.to_string()), Ok(key));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "(ed25519:)?.{0,60}") {
            let _either = PublicKey::parse(&text);
        }
    }
}
