//! Credentials: certificates, keys and the password, from the files that `[mqtt]` names, or from systemd.
//!
//! Where `[mqtt] password_file` or `key` is not set, the credential of systemd (systemd.exec(5), `LoadCredential=`) that
//! is meant for it takes its place, if there is one: [`PASSWORD_CREDENTIAL`], [`KEY_CREDENTIAL`].
//!
//! Files are read again at each connect, so a renewed certificate is used without a restart, and a mistake in one
//! shows where the operator looks: in the reason why the broker is not reached, with the key and the file. That reason
//! leaves the gateway with `cmd/status`, so it does not say where secrets are kept; neither do reports.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};

use crate::{
    config::Mqtt,
    pki::{self, WANTED_AUTHORITIES, WANTED_CERTIFICATES, WANTED_KEY},
};

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
    #[error("{file} cannot be read: {source}")]
    Read {
        /// As [`named`].
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what its key needs.
    #[error("{file}: {found}; wanted: {wanted}")]
    Content {
        /// As [`named`].
        file: String,
        /// What is in it.
        found: String,
        /// What should be.
        wanted: &'static str,
    },
    /// A certificate without a key, or the other way round.
    #[error("{present} is set, and neither {absent} nor the credential {credential}; a client certificate needs both")]
    Half {
        /// The key that is set.
        present: &'static str,
        /// The key that is not.
        absent: &'static str,
        /// What could stand in for it.
        credential: &'static str,
    },
    /// No CA is known.
    #[error("this system has no CA certificates; install ca-certificates, or name the broker's CA in [mqtt] ca")]
    NoSystemRoots,
    /// The certificate and the key do not make a client identity.
    #[error("{cert} and {key} do not belong together: {source}")]
    Identity {
        /// Certificate file.
        cert: String,
        /// Key file.
        key: String,
        /// What rustls said.
        source: rustls::Error,
    },
}

const CA: &str = "[mqtt] ca";
const CERT: &str = "[mqtt] cert";
const KEY: &str = "[mqtt] key";
const PASSWORD_FILE: &str = "[mqtt] password_file";
/// Name of the credential that holds the password of `[mqtt] user`.
const PASSWORD_CREDENTIAL: &str = "tidegate.mqtt-password";
/// Name of the credential that holds the private key of `[mqtt] cert`.
const KEY_CREDENTIAL: &str = "tidegate.mqtt-key";

/// Reads all credentials. Blocks on the file system: call it where blocking is allowed.
///
/// # Errors
///
/// See [`CredentialError`].
pub(super) fn read(mqtt: &Mqtt, tls: bool) -> Result<Credentials, CredentialError> {
    let store = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    read_with(mqtt, tls, store.as_deref())
}

/// [`read`], with systemd's credentials from the folder `store`.
fn read_with(mqtt: &Mqtt, tls: bool, store: Option<&Path>) -> Result<Credentials, CredentialError> {
    let login = match &mqtt.user {
        Some(user) => {
            let file = mqtt.password_file.clone().or_else(|| credential(store, PASSWORD_CREDENTIAL));
            let password = file.as_deref().map(read_password).transpose()?;
            Some((user.clone(), password.unwrap_or_default()))
        }
        None => None,
    };
    let tls = tls.then(|| client_config(mqtt, store)).transpose()?.map(Arc::new);
    Ok(Credentials { tls, login })
}

/// A file as messages name it: by its configuration key, and by its path unless it holds a secret.
fn named(key: &str, path: &Path) -> String {
    match (key, path.file_name().and_then(OsStr::to_str)) {
        (KEY | PASSWORD_FILE, Some(name @ (KEY_CREDENTIAL | PASSWORD_CREDENTIAL))) => format!("the credential {name}"),
        (KEY | PASSWORD_FILE, _) => key.to_owned(),
        _ => format!("{key} = \"{}\"", path.display()),
    }
}

fn credential(store: Option<&Path>, name: &str) -> Option<PathBuf> {
    store.map(|store| store.join(name)).filter(|path| path.exists())
}

fn client_config(mqtt: &Mqtt, store: Option<&Path>) -> Result<ClientConfig, CredentialError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3")
        .with_root_certificates(match &mqtt.ca {
            Some(path) => roots_of_file(path)?,
            None => roots_of_system()?,
        });
    // A key without a certificate is refused with the configuration.
    let Some(cert) = &mqtt.cert else { return Ok(builder.with_no_client_auth()) };
    let half = CredentialError::Half { present: CERT, absent: KEY, credential: KEY_CREDENTIAL };
    let key = mqtt.key.clone().or_else(|| credential(store, KEY_CREDENTIAL)).ok_or(half)?;
    builder
        .with_client_auth_cert(certificates(CERT, cert)?, private_key(&key)?)
        .map_err(|source| CredentialError::Identity { cert: named(CERT, cert), key: named(KEY, &key), source })
}

fn roots_of_file(path: &Path) -> Result<RootCertStore, CredentialError> {
    let bad = |found| CredentialError::Content { file: named(CA, path), found, wanted: WANTED_AUTHORITIES };
    pki::trust_anchors(certificates(CA, path)?).map_err(bad)
}

fn roots_of_system() -> Result<RootCertStore, CredentialError> {
    let mut roots = RootCertStore::empty();
    // Single certificates that do not parse are common in system bundles and no reason to stop.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(CredentialError::NoSystemRoots) } else { Ok(roots) }
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let bad = |found| CredentialError::Content { file: named(key, path), found, wanted: WANTED_CERTIFICATES };
    pki::certificates(&contents(key, path)?).map_err(bad)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CredentialError> {
    let bad = |found| CredentialError::Content { file: named(KEY, path), found, wanted: WANTED_KEY };
    pki::private_key(&contents(KEY, path)?).map_err(bad)
}

fn read_password(path: &Path) -> Result<String, CredentialError> {
    let text = String::from_utf8(contents(PASSWORD_FILE, path)?).map_err(|_| CredentialError::Content {
        file: named(PASSWORD_FILE, path),
        found: "bytes that are not UTF-8".to_owned(),
        wanted: "the password on the first line",
    })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn contents(key: &'static str, path: &Path) -> Result<Vec<u8>, CredentialError> {
    fs::read(path).map_err(|source| CredentialError::Read { file: named(key, path), source })
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
    use crate::pki::samples;

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
        read_with(mqtt, true, None).unwrap_err().to_string()
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
    fn systemds_credential_takes_the_place_of_a_file_that_is_not_named() {
        let store = tempfile::tempdir().unwrap();
        let password = |mqtt: &Mqtt| read_with(mqtt, false, Some(store.path())).unwrap().login;
        let with_user = Mqtt { user: Some("gw".to_owned()), ..mqtt() };
        assert_eq!(password(&with_user), Some(("gw".to_owned(), String::new())), "none is there");

        file(&store, PASSWORD_CREDENTIAL, "from systemd\n");
        assert_eq!(password(&with_user), Some(("gw".to_owned(), "from systemd".to_owned())));
        assert_eq!(password(&mqtt()), None, "no user, no login");
        let named = file(&store, "named", "from the file\n");
        let with_file = Mqtt { password_file: Some(named), ..with_user };
        assert_eq!(password(&with_file), Some(("gw".to_owned(), "from the file".to_owned())));

        let cert = file(&store, "cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        file(&store, KEY_CREDENTIAL, "no key at all\n");
        let error = read_with(&Mqtt { cert: Some(cert), ..mqtt() }, true, Some(store.path())).unwrap_err().to_string();
        assert!(error.contains(KEY_CREDENTIAL) && error.contains("no private key"), "{error}");
    }

    #[test]
    fn each_mistake_names_its_key_and_the_file_of_a_certificate() {
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
        assert!(text.contains("[mqtt] cert is set, and neither [mqtt] key nor the credential"), "{text}");

        let text = message(&Mqtt { user: Some("gw".to_owned()), password_file: Some(absent), ..mqtt() });
        assert!(text.starts_with("[mqtt] password_file cannot be read"), "{text}");
    }

    #[test]
    fn where_secrets_are_kept_is_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let cert = Some(file(&dir, "cert.pem", samples::CERT));
        let text = |key| message(&Mqtt { cert: cert.clone(), key: Some(key), ..mqtt() });
        let absent = text(dir.path().join("hidden"));
        let torn = text(file(&dir, "hidden.pem", "nothing"));
        let of_another = text(file(&dir, "hidden.key", samples::OTHER_KEY));
        for (text, said) in
            [(absent, "cannot be read"), (torn, "no private key"), (of_another, "do not belong together")]
        {
            assert!(text.contains("[mqtt] key") && text.contains(said) && !text.contains("hidden"), "{text}");
        }
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
