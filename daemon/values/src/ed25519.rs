//! Keys of ed25519 (RFC 8032), as RFC 8410 writes them.

use ring::signature::Ed25519KeyPair;
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer, pem::PemObject as _};

use crate::pem::private_key;

/// What [`public_key`] wants, for messages.
pub const WANTED: &str = "a public ed25519 key in PEM (-----BEGIN PUBLIC KEY-----)";

/// What stands before the 32 bytes of a public key in DER: the algorithm's identifier, the head of a bit string (RFC 8410,
/// section 4).
const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A public key as a `SubjectPublicKeyInfo` in DER.
#[must_use]
pub fn spki(key: &[u8; 32]) -> Vec<u8> {
    [&SPKI_HEAD[..], key].concat()
}

/// The first public key of a PEM file.
///
/// # Errors
///
/// What was found instead, in words.
pub fn public_key(pem: &[u8]) -> Result<[u8; 32], String> {
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| "no public key in PEM")?;
    let key = spki.strip_prefix(&SPKI_HEAD[..]).and_then(|key| key.try_into().ok());
    key.ok_or_else(|| "a public key, but not of ed25519".to_owned())
}

/// The first private key of a PEM file.
///
/// # Errors
///
/// What was found instead, in words that hold nothing of the key.
pub fn key_pair(pem: &[u8]) -> Result<Ed25519KeyPair, String> {
    let PrivateKeyDer::Pkcs8(key) = private_key(pem)? else {
        return Err("a private key, but not in PKCS#8 (-----BEGIN PRIVATE KEY-----)".to_owned());
    };
    // Unchecked: openssl writes version 1 of PKCS#8, in which the public key that would be checked is absent.
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der())
        .map_err(|_| "a private key, but not of ed25519".to_owned())
}

#[cfg(test)]
mod tests {
    use ring::signature::KeyPair as _;

    use super::*;

    /// `openssl genpkey -algorithm ed25519`, of RFC 8032's first test vector.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn both_halves_are_read_as_openssl_writes_them() {
        let public = public_key(PUBLIC.as_bytes()).unwrap();
        assert_eq!(key_pair(PRIVATE.as_bytes()).unwrap().public_key().as_ref(), public);
        assert_eq!(spki(&public).len(), 44);
    }

    #[test]
    fn what_is_no_such_key_is_told_without_its_content() {
        assert_eq!(public_key(PRIVATE.as_bytes()).unwrap_err(), "no public key in PEM");
        assert_eq!(key_pair(PUBLIC.as_bytes()).unwrap_err(), "no private key");
        let cut = PRIVATE.replace("/VpguoRK", "");
        assert_eq!(key_pair(cut.as_bytes()).unwrap_err(), "a private key, but not of ed25519");
        let pkcs1 = PRIVATE.replace("PRIVATE", "RSA PRIVATE");
        assert!(key_pair(pkcs1.as_bytes()).unwrap_err().starts_with("a private key, but not in PKCS#8"));
        let damaged = PRIVATE.replace("MC4C", "é!");
        assert_eq!(key_pair(damaged.as_bytes()).unwrap_err(), "not well-formed PEM (a line that is not base64)");
    }
}
