//! Credentials: certificates, keys and the password, from the files that `[mqtt]` names.
//!
//! Files are read again at each connect, so a renewed certificate is used without a restart, and a mistake in one
//! shows where the operator looks: in the reason why the broker is not reached, with the key and the file.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};

use crate::config::Mqtt;

/// What proves to the broker who we are, and to us who the broker is.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    /// For `mqtts`.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// User name and password.
    pub(super) login: Option<(String, String)>,
}

/// Why the credentials cannot be used. All of them are mended by a person, at the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialError {
    /// A file cannot be read.
    #[error("{key} = {path:?} cannot be read: {source}")]
    Read {
        /// Configuration key.
        key: &'static str,
        /// File.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what its key needs.
    #[error("{key} = {path:?}: {found}; wanted: {wanted}")]
    Content {
        /// Configuration key.
        key: &'static str,
        /// File.
        path: PathBuf,
        /// What is in it.
        found: String,
        /// What should be.
        wanted: &'static str,
    },
    /// A certificate without a key, or the other way round.
    #[error("{present} is set and {absent} is not; a client certificate needs both")]
    Half {
        /// The key that is set.
        present: &'static str,
        /// The key that is not.
        absent: &'static str,
    },
    /// No CA is known.
    #[error("this system has no CA certificates; install ca-certificates, or name the broker's CA in [mqtt] ca")]
    NoSystemRoots,
    /// The certificate and the key do not make a client identity.
    #[error("[mqtt] cert = {cert:?} and key = {key:?} do not belong together: {source}")]
    Identity {
        /// Certificate file.
        cert: PathBuf,
        /// Key file.
        key: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
}

const CA: &str = "[mqtt] ca";
const CERT: &str = "[mqtt] cert";
const KEY: &str = "[mqtt] key";
const PASSWORD_FILE: &str = "[mqtt] password_file";
const WANTED_CERTIFICATES: &str = "certificates in PEM (-----BEGIN CERTIFICATE-----)";

/// Reads all credentials. Blocks on the file system: call it where blocking is allowed.
///
/// # Errors
///
/// See [`CredentialError`].
pub(super) fn read(mqtt: &Mqtt, tls: bool) -> Result<Credentials, CredentialError> {
    let password = mqtt.password_file.as_deref().map(read_password).transpose()?;
    let login = mqtt.user.clone().map(|user| (user, password.unwrap_or_default()));
    let tls = tls.then(|| client_config(mqtt)).transpose()?.map(Arc::new);
    Ok(Credentials { tls, login })
}

fn client_config(mqtt: &Mqtt) -> Result<ClientConfig, CredentialError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3")
        .with_root_certificates(match &mqtt.ca {
            Some(path) => roots_of_file(path)?,
            None => roots_of_system()?,
        });
    let (cert, key) = match (&mqtt.cert, &mqtt.key) {
        (None, None) => return Ok(builder.with_no_client_auth()),
        (Some(_), None) => return Err(CredentialError::Half { present: CERT, absent: KEY }),
        (None, Some(_)) => return Err(CredentialError::Half { present: KEY, absent: CERT }),
        (Some(cert), Some(key)) => (cert, key),
    };
    builder
        .with_client_auth_cert(certificates(CERT, cert)?, private_key(key)?)
        .map_err(|source| CredentialError::Identity { cert: cert.clone(), key: key.clone(), source })
}

fn roots_of_file(path: &Path) -> Result<RootCertStore, CredentialError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(CA, path)? {
        roots.add(certificate).map_err(|error| CredentialError::Content {
            key: CA,
            path: path.to_owned(),
            found: format!("a certificate that cannot be a trust anchor ({error})"),
            wanted: "CA certificates of X.509 version 3",
        })?;
    }
    Ok(roots)
}

fn roots_of_system() -> Result<RootCertStore, CredentialError> {
    let mut roots = RootCertStore::empty();
    // Single certificates that do not parse are common in system bundles and no reason to stop.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(CredentialError::NoSystemRoots) } else { Ok(roots) }
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let bad = |found| CredentialError::Content { key, path: path.to_owned(), found, wanted: WANTED_CERTIFICATES };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&contents(key, path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| bad(format!("not well-formed PEM ({error})")))?;
    if found.is_empty() { Err(bad("no certificate".to_owned())) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CredentialError> {
    PrivateKeyDer::from_pem_slice(&contents(KEY, path)?).map_err(|error| CredentialError::Content {
        key: KEY,
        path: path.to_owned(),
        found: match error {
            pem::Error::NoItemsFound => "no private key".to_owned(),
            other => format!("not well-formed PEM ({other})"),
        },
        wanted: "an unencrypted private key in PEM (PKCS#8, PKCS#1 or SEC1)",
    })
}

fn read_password(path: &Path) -> Result<String, CredentialError> {
    let text = String::from_utf8(contents(PASSWORD_FILE, path)?).map_err(|_| CredentialError::Content {
        key: PASSWORD_FILE,
        path: path.to_owned(),
        found: "bytes that are not UTF-8".to_owned(),
        wanted: "the password on the first line",
    })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn contents(key: &'static str, path: &Path) -> Result<Vec<u8>, CredentialError> {
    fs::read(path).map_err(|source| CredentialError::Read { key, path: path.to_owned(), source })
}

/// Says what a failed TLS handshake means for the one who must mend it.
pub(super) fn explain(error: &rustls::Error) -> String {
    let meaning = match error {
        rustls::Error::InvalidCertificate(reason) => match reason {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the broker's certificate is not issued by a CA that [mqtt] ca (or, without it, this system) trusts"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the broker's certificate has expired, or this gateway's clock is wrong"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the broker's certificate is not valid yet, or this gateway's clock is wrong"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the broker's certificate is for another name than the host in [mqtt] url"
            }
            CertificateError::Revoked => "the broker's certificate is revoked",
            _ => "the broker's certificate is not acceptable",
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => "the broker wants a client certificate: set [mqtt] cert and key",
            AlertDescription::CertificateExpired => "the broker says that [mqtt] cert has expired",
            AlertDescription::CertificateRevoked => "the broker says that [mqtt] cert is revoked",
            AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
                "the broker does not trust [mqtt] cert"
            }
            AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
                "the broker speaks no version or cipher of TLS 1.2 or 1.3 that is accepted here"
            }
            _ => "the broker ended the handshake",
        },
        rustls::Error::InvalidMessage(_) => "the broker does not speak TLS on this port; is it mqtt:// instead?",
        _ => "the handshake failed",
    };
    format!("{meaning} ({error})")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn mqtt() -> Mqtt {
        Mqtt {
            broker: None,
            ca: None,
            cert: None,
            key: None,
            user: None,
            password_file: None,
            keep_alive: Duration::from_mins(1),
            session_expiry: Duration::from_hours(1),
            root: "tidegate/v1".to_owned(),
        }
    }

    fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn message(mqtt: &Mqtt) -> String {
        read(mqtt, true).unwrap_err().to_string()
    }

    #[test]
    fn password_is_the_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let password_file = Some(file(&dir, "password", "se cret \r\nsecond line\n"));
        let credentials = read(&Mqtt { user: Some("gw".to_owned()), password_file, ..mqtt() }, false).unwrap();
        assert_eq!(credentials.login, Some(("gw".to_owned(), "se cret ".to_owned())));
        assert!(credentials.tls.is_none());
    }

    #[test]
    fn each_mistake_names_its_key_and_file() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent");
        let text = message(&Mqtt { ca: Some(absent.clone()), ..mqtt() });
        assert!(
            text.starts_with("[mqtt] ca = ") && text.contains("absent") && text.contains("cannot be read"),
            "{text}"
        );

        let empty = file(&dir, "empty.pem", "no certificates here\n");
        let text = message(&Mqtt { ca: Some(empty.clone()), ..mqtt() });
        assert!(
            text.contains("empty.pem") && text.contains("no certificate") && text.contains("BEGIN CERTIFICATE"),
            "{text}"
        );

        let text = message(&Mqtt { cert: Some(empty), ca: None, ..mqtt() });
        assert!(text.contains("[mqtt] cert is set and [mqtt] key is not"), "{text}");

        let text = message(&Mqtt { password_file: Some(absent), ..mqtt() });
        assert!(text.starts_with("[mqtt] password_file = "), "{text}");
    }

    #[test]
    fn torn_pem_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let torn = file(&dir, "torn.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n");
        let text = message(&Mqtt { ca: Some(torn), ..mqtt() });
        assert!(text.contains("torn.pem") && text.contains("not well-formed PEM"), "{text}");
    }

    #[test]
    fn failed_handshakes_say_what_to_mend() {
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert!(explain(&unknown).contains("[mqtt] ca"));
        let expired = rustls::Error::InvalidCertificate(CertificateError::Expired);
        assert!(explain(&expired).contains("clock"));
        let required = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        assert!(explain(&required).contains("[mqtt] cert and key"));
    }
}
