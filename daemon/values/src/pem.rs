//! Private keys in PEM (RFC 7468).

use rustls_pki_types::{PrivateKeyDer, pem, pem::PemObject as _};

/// The first private key of a PEM file.
///
/// # Errors
///
/// What was found instead, in words that hold nothing of the key.
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        pem::Error::NoItemsFound => "no private key".to_owned(),
        // Its text would quote the line that is no base64: of a key.
        pem::Error::Base64Decode(_) => "not well-formed PEM (a line that is not base64)".to_owned(),
        other => format!("not well-formed PEM ({other})"),
    })
}
