//! Credentials: certificates, keys and a secret, from the files that a section of the configuration names, or from systemd.
//!
//! Two sections have them: `[mqtt]` for the broker ([`Files::of_mqtt`]), `[upload]` for the server that files are sent to
//! ([`Files::of_upload`]); what differs in words is a [`Party`]. Where the file with the secret or `key` is not set, the
//! credential of systemd (systemd.exec(5), `LoadCredential=`) that is meant for it takes its place, if there is one.
//!
//! Files are read again at each connect (those of uploads only where one was changed), so a renewed certificate is used
//! without a restart, and a mistake in one shows where the operator looks: in the reason why the other side is not reached,
//! with the key and the file. That reason leaves the gateway with `cmd/status`, so it does not say where secrets are kept;
//! neither do reports.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use http::HeaderValue;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tidegate_upload::settings::Credentials;

use crate::{
    config::{Config, Mqtt, Upload},
    pki::{self, WANTED_AUTHORITIES, WANTED_CERTIFICATES, WANTED_KEY},
};

/// Who is at the other side, and what tells of it in the configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Party {
    /// As messages call it.
    name: &'static str,
    /// The section that names the files.
    section: &'static str,
    /// The key with its address.
    address: &'static str,
    /// How an address without TLS begins.
    plain: &'static str,
    /// The key of the file with the secret.
    secret: &'static str,
    /// Name of the credential that holds the secret.
    secret_credential: &'static str,
    /// Name of the credential that holds the private key of `cert`.
    key_credential: &'static str,
}

/// `[mqtt]`
pub static BROKER: Party = Party {
    name: "the broker",
    section: "mqtt",
    address: "url",
    plain: "mqtt",
    secret: "password_file",
    secret_credential: "tidegate.mqtt-password",
    key_credential: "tidegate.mqtt-key",
};

/// `[upload]`
pub static SERVER: Party = Party {
    name: "the upload server",
    section: "upload",
    address: "endpoint",
    plain: "http",
    secret: "token_file",
    secret_credential: "tidegate.upload-token",
    key_credential: "tidegate.upload-key",
};

/// Where Debian, Alpine, Fedora and openSUSE have the system's authorities.
const AUTHORITIES: [&str; 6] = [
    "/etc/ssl/certs",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/tls/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// Why the credentials cannot be used. All of them are mended by a person, at the file.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read.
    #[error("{file} cannot be read: {source}")]
    Read {
        /// As [`Files::named`].
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what its key needs.
    #[error("{file}: {found}; wanted: {wanted}")]
    Content {
        /// As [`Files::named`].
        file: String,
        /// What is in it.
        found: String,
        /// What should be.
        wanted: &'static str,
    },
    /// A certificate without a key.
    #[error(
        "[{section}] cert is set, and neither [{section}] key nor the credential {credential}; a client certificate \
         needs both"
    )]
    Half {
        /// The section.
        section: &'static str,
        /// What could stand in for the key.
        credential: &'static str,
    },
    /// No CA is known.
    #[error(
        "this system has no CA certificates; install ca-certificates, or name {peer}'s CA in [{section}] ca",
        peer = party.name, section = party.section
    )]
    NoSystemRoots {
        /// Whose is needed.
        party: &'static Party,
    },
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

/// The files of one section. All that reads them blocks on the file system: call it where blocking is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    party: &'static Party,
    ca: Option<&'a Path>,
    cert: Option<&'a Path>,
    key: Option<&'a Path>,
    secret: Option<&'a Path>,
}

/// Which file of a section is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Ca,
    Cert,
    Key,
    Secret,
}

impl<'a> Files<'a> {
    /// Those for the broker.
    #[must_use]
    pub fn of_mqtt(mqtt: &'a Mqtt) -> Self {
        Self {
            party: &BROKER,
            ca: mqtt.ca.as_deref(),
            cert: mqtt.cert.as_deref(),
            key: mqtt.key.as_deref(),
            secret: mqtt.password_file.as_deref(),
        }
    }

    /// Those for the server that files are sent to.
    #[must_use]
    pub fn of_upload(upload: &'a Upload) -> Self {
        Self {
            party: &SERVER,
            ca: upload.ca.as_deref(),
            cert: upload.cert.as_deref(),
            key: upload.key.as_deref(),
            secret: upload.token_file.as_deref(),
        }
    }

    /// For TLS, with systemd's credentials from the folder `store`.
    ///
    /// # Errors
    ///
    /// See [`CredentialError`].
    ///
    /// # Panics
    ///
    /// Never: ring supports TLS 1.2 and 1.3.
    pub fn client_config(&self, store: Option<&Path>) -> Result<ClientConfig, CredentialError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3")
            .with_root_certificates(match self.ca {
                Some(path) => self.roots_of_file(path)?,
                None => self.roots_of_system()?,
            });
        // A key without a certificate is refused with the configuration.
        let Some(cert) = self.cert else { return Ok(builder.with_no_client_auth()) };
        let credential = self.party.key_credential;
        let half = CredentialError::Half { section: self.party.section, credential };
        let key = file_or_credential(self.key, store, credential).ok_or(half)?;
        builder.with_client_auth_cert(self.certificates(Which::Cert, cert)?, self.private_key(&key)?).map_err(
            |source| CredentialError::Identity {
                cert: self.named(Which::Cert, cert),
                key: self.named(Which::Key, &key),
                source,
            },
        )
    }

    /// The files that [`Self::client_config`] reads; of the system's authorities, places where systems have them.
    #[must_use]
    pub fn tls_files(&self, store: Option<&Path>) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = if let Some(path) = self.ca {
            vec![path.to_owned()]
        } else {
            let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(env::var_os);
            named.map(PathBuf::from).chain(AUTHORITIES.map(PathBuf::from)).collect()
        };
        if let Some(cert) = self.cert {
            files.push(cert.to_owned());
            files.extend(file_or_credential(self.key, store, self.party.key_credential));
        }
        files
    }

    /// The first line of the file with the secret, or of systemd's credential from the folder `store`; `None` where there
    /// is neither.
    ///
    /// # Errors
    ///
    /// See [`CredentialError`].
    pub fn secret(&self, store: Option<&Path>) -> Result<Option<String>, CredentialError> {
        let Some(path) = file_or_credential(self.secret, store, self.party.secret_credential) else { return Ok(None) };
        let text = String::from_utf8(self.contents(Which::Secret, &path)?)
            .map_err(|_| self.no_secret(&path, "bytes that are not UTF-8"))?;
        Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
    }

    /// `Authorization: Bearer …` (RFC 6750, 2.1) of the secret.
    ///
    /// # Errors
    ///
    /// See [`CredentialError`].
    pub fn bearer(&self, store: Option<&Path>) -> Result<Option<HeaderValue>, CredentialError> {
        let Some(secret) = self.secret(store)? else { return Ok(None) };
        let token = secret.trim();
        let of_a_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        let path = self.secret.unwrap_or(Path::new(self.party.secret_credential));
        if token.is_empty() || !token.bytes().all(of_a_token) {
            let found = if token.is_empty() { "nothing" } else { "a character that tokens do not have" };
            return Err(self.no_secret(path, found));
        }
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| self.no_secret(path, "more than a header takes"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn no_secret(&self, path: &Path, found: &str) -> CredentialError {
        let wanted = match self.party.secret {
            "token_file" => "a bearer token on the first line, of A-Z a-z 0-9 - . _ ~ + / =",
            _ => "the password on the first line",
        };
        CredentialError::Content { file: self.named(Which::Secret, path), found: found.to_owned(), wanted }
    }

    /// A file as messages name it: by its configuration key, and by its path unless it holds a secret.
    fn named(&self, which: Which, path: &Path) -> String {
        let Party { section, secret, secret_credential, key_credential, .. } = self.party;
        let key = match which {
            Which::Ca => "ca",
            Which::Cert => "cert",
            Which::Key => "key",
            Which::Secret => secret,
        };
        match (which, path.file_name().and_then(OsStr::to_str)) {
            (Which::Key | Which::Secret, Some(name)) if [secret_credential, key_credential].contains(&&name) => {
                format!("the credential {name}")
            }
            (Which::Key | Which::Secret, _) => format!("[{section}] {key}"),
            _ => format!("[{section}] {key} = \"{}\"", path.display()),
        }
    }

    fn roots_of_file(&self, path: &Path) -> Result<RootCertStore, CredentialError> {
        let bad =
            |found| CredentialError::Content { file: self.named(Which::Ca, path), found, wanted: WANTED_AUTHORITIES };
        pki::trust_anchors(self.certificates(Which::Ca, path)?).map_err(bad)
    }

    fn roots_of_system(&self) -> Result<RootCertStore, CredentialError> {
        let mut roots = RootCertStore::empty();
        // Single certificates that do not parse are common in system bundles and no reason to stop.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() { Err(CredentialError::NoSystemRoots { party: self.party }) } else { Ok(roots) }
    }

    fn certificates(&self, which: Which, path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
        let bad =
            |found| CredentialError::Content { file: self.named(which, path), found, wanted: WANTED_CERTIFICATES };
        pki::certificates(&self.contents(which, path)?).map_err(bad)
    }

    fn private_key(&self, path: &Path) -> Result<PrivateKeyDer<'static>, CredentialError> {
        let bad = |found| CredentialError::Content { file: self.named(Which::Key, path), found, wanted: WANTED_KEY };
        pki::private_key(&self.contents(Which::Key, path)?).map_err(bad)
    }

    fn contents(&self, which: Which, path: &Path) -> Result<Vec<u8>, CredentialError> {
        fs::read(path).map_err(|source| CredentialError::Read { file: self.named(which, path), source })
    }
}

/// Where systemd has put the service's credentials.
#[must_use]
pub fn store() -> Option<PathBuf> {
    env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

fn file_or_credential(file: Option<&Path>, store: Option<&Path>, name: &str) -> Option<PathBuf> {
    let credential = || store.map(|store| store.join(name)).filter(|path| path.exists());
    file.map(Path::to_owned).or_else(credential)
}

/// What uploads prove who they are by.
#[derive(Debug)]
pub struct OfUploads(pub Arc<Config>);

impl Credentials for OfUploads {
    fn tls(&self) -> Result<ClientConfig, String> {
        Files::of_upload(&self.0.upload).client_config(store().as_deref()).map_err(|error| error.to_string())
    }

    fn tls_files(&self) -> Vec<PathBuf> {
        Files::of_upload(&self.0.upload).tls_files(store().as_deref())
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, String> {
        Files::of_upload(&self.0.upload).bearer(store().as_deref()).map_err(|error| error.to_string())
    }

    fn explain(&self, error: &rustls::Error) -> String {
        explain(&SERVER, error)
    }
}

/// Says what a failed TLS handshake means for the one who must mend it.
#[must_use]
pub fn explain(party: &Party, error: &rustls::Error) -> String {
    // One text a case, with the words that differ put in at the end: PEER, SECTION, ADDRESS, PLAIN.
    let meaning = match error {
        rustls::Error::InvalidCertificate(reason) => match reason {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "PEER's certificate is not issued by a CA that SECTION ca (or, without it, this system) trusts"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "PEER's certificate has expired, or this gateway's clock is wrong"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "PEER's certificate is not valid yet, or this gateway's clock is wrong"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "PEER's certificate is for another name than the host in SECTION ADDRESS"
            }
            CertificateError::Revoked => "PEER's certificate is revoked",
            _ => "PEER's certificate is not acceptable",
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => "PEER wants a client certificate: set SECTION cert and key",
            AlertDescription::CertificateExpired => "PEER says that SECTION cert has expired",
            AlertDescription::CertificateRevoked => "PEER says that SECTION cert is revoked",
            AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
                "PEER does not trust SECTION cert"
            }
            AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
                "PEER speaks no version or cipher of TLS 1.2 or 1.3 that is accepted here"
            }
            _ => "PEER ended the handshake",
        },
        rustls::Error::InvalidMessage(_) => "PEER does not speak TLS on this port; is it PLAIN:// instead?",
        _ => "the handshake failed",
    };
    let Party { name, section, address, plain, .. } = party;
    let words = [("PEER", *name), ("SECTION", &format!("[{section}]")), ("ADDRESS", *address), ("PLAIN", *plain)];
    let meaning = words.iter().fold(meaning.to_owned(), |text, (word, with)| text.replace(word, with));
    format!("{meaning} ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::samples;

    fn mqtt() -> Mqtt {
        Config::defaults("gw-7").mqtt
    }

    fn upload() -> Upload {
        Config::defaults("gw-7").upload
    }

    fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn message(mqtt: &Mqtt) -> String {
        Files::of_mqtt(mqtt).client_config(None).unwrap_err().to_string()
    }

    #[test]
    fn a_secret_is_the_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let password_file = Some(file(&dir, "password", "se cret \r\nsecond line\n"));
        let secret = Files::of_mqtt(&Mqtt { password_file, ..mqtt() }).secret(None).unwrap();
        assert_eq!(secret.as_deref(), Some("se cret "));
    }

    #[test]
    fn systemds_credential_takes_the_place_of_a_file_that_is_not_named() {
        let store = tempfile::tempdir().unwrap();
        let secret = |mqtt: &Mqtt| Files::of_mqtt(mqtt).secret(Some(store.path())).unwrap();
        assert_eq!(secret(&mqtt()), None, "none is there");

        file(&store, "tidegate.mqtt-password", "from systemd\n");
        assert_eq!(secret(&mqtt()).as_deref(), Some("from systemd"));
        let named = file(&store, "named", "from the file\n");
        assert_eq!(secret(&Mqtt { password_file: Some(named), ..mqtt() }).as_deref(), Some("from the file"));

        file(&store, "tidegate.upload-token", "t0ken\n");
        let bearer = Files::of_upload(&upload()).bearer(Some(store.path())).unwrap().unwrap();
        assert_eq!(bearer, "Bearer t0ken");
        assert!(bearer.is_sensitive());

        let cert = file(&store, "cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        for name in ["tidegate.mqtt-key", "tidegate.upload-key"] {
            file(&store, name, "no key at all\n");
        }
        let (mqtt, upload) = (Mqtt { cert: Some(cert.clone()), ..mqtt() }, Upload { cert: Some(cert), ..upload() });
        for (files, name) in
            [(Files::of_mqtt(&mqtt), "tidegate.mqtt-key"), (Files::of_upload(&upload), "tidegate.upload-key")]
        {
            let error = files.client_config(Some(store.path())).unwrap_err().to_string();
            assert!(error.starts_with(&format!("the credential {name}: no private key")), "{error}");
        }
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

        let text = message(&Mqtt { cert: Some(empty.clone()), ca: None, ..mqtt() });
        assert!(text.contains("[mqtt] cert is set, and neither [mqtt] key nor the credential"), "{text}");
        let of_upload = Upload { cert: Some(empty), ..upload() };
        let text = Files::of_upload(&of_upload).client_config(None).unwrap_err().to_string();
        assert!(text.contains("[upload] cert is set, and neither [upload] key nor the credential"), "{text}");

        let with_absent = Mqtt { password_file: Some(absent), ..mqtt() };
        let text = Files::of_mqtt(&with_absent).secret(None).unwrap_err().to_string();
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
    fn a_file_that_holds_no_token_is_named_and_its_content_is_not() {
        let dir = tempfile::tempdir().unwrap();
        for (content, said) in [
            ("", "[upload] token_file: nothing; wanted: a bearer token"),
            ("\nt0ken\n", "[upload] token_file: nothing; wanted: a bearer token"),
            ("two words\n", "[upload] token_file: a character that tokens do not have; wanted"),
            ("t0kén\n", "[upload] token_file: a character that tokens do not have; wanted"),
        ] {
            let upload = Upload { token_file: Some(file(&dir, "token", content)), ..upload() };
            let text = Files::of_upload(&upload).bearer(None).unwrap_err().to_string();
            assert!(text.starts_with(said), "{text}");
        }
        let upload = Upload { token_file: Some(file(&dir, "token", " eyJ0.eyJ-_~+/== \r\n")), ..upload() };
        assert_eq!(Files::of_upload(&upload).bearer(None).unwrap().unwrap(), "Bearer eyJ0.eyJ-_~+/==");
        assert!(Files::of_upload(&self::upload()).bearer(None).unwrap().is_none());
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
        assert!(explain(&BROKER, &unknown).starts_with(
            "the broker's certificate is not issued by a CA that [mqtt] ca (or, without it, this system) trusts ("
        ));
        let expired = rustls::Error::InvalidCertificate(CertificateError::Expired);
        assert!(explain(&BROKER, &expired).contains("clock"));
        let required = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        assert!(explain(&BROKER, &required).contains("[mqtt] cert and key"));
        let other_name = rustls::Error::InvalidCertificate(CertificateError::NotValidForName);
        assert!(
            explain(&SERVER, &other_name).starts_with(
                "the upload server's certificate is for another name than the host in [upload] endpoint ("
            )
        );
    }
}
