//! Certificates and private keys in PEM: reading them, judging them, and when they expire.
//!
//! Pure: bytes in, what they are or what is wrong with them out. Messages hold nothing of a key.

mod validity;

use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

pub use self::validity::not_after_ms;
pub use tidegate_values::pem::private_key;

/// What [`certificates`] wants, for messages.
pub const WANTED_CERTIFICATES: &str = "certificates in PEM (-----BEGIN CERTIFICATE-----)";
/// What [`private_key`] wants, for messages.
pub const WANTED_KEY: &str = "an unencrypted private key in PEM (PKCS#8, PKCS#1 or SEC1)";
/// What [`trust_anchors`] wants, for messages.
pub const WANTED_AUTHORITIES: &str = "CA certificates of X.509 version 3";

/// The certificates of a PEM file, in its order; at least one.
///
/// # Errors
///
/// What was found instead, in words.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("not well-formed PEM ({error})"))?;
    if found.is_empty() { Err("no certificate".to_owned()) } else { Ok(found) }
}

/// What trusts these authorities.
///
/// # Errors
///
/// What was found instead, in words.
pub fn trust_anchors(certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| format!("a certificate that cannot be a trust anchor ({error})"))?;
    }
    Ok(roots)
}

/// Whether the chain's first certificate is of this key, and the key of a kind that TLS can use.
///
/// # Errors
///
/// Why not, in words.
pub fn belong_together(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<(), String> {
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map(drop).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => "the certificate is not of this key".to_owned(),
        other => format!("certificate or key cannot be used for TLS ({other})"),
    })
}

#[cfg(test)]
pub(crate) mod samples;
