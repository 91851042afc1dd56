//! What proves to the broker who the operator is, and to the operator who the broker is.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Where they stand.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Certificates (PEM) of the authorities to trust; those of the system where none is named.
    pub ca: Option<PathBuf>,
    /// Own certificate and chain (PEM).
    pub cert: Option<PathBuf>,
    /// Its private key (PEM).
    pub key: Option<PathBuf>,
    /// User name.
    pub user: Option<String>,
    /// File whose first line is the password.
    pub password_file: Option<PathBuf>,
}

/// As the connection needs them.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// For `mqtts`.
    pub tls: Option<Arc<ClientConfig>>,
    /// User name and password.
    pub login: Option<(String, String)>,
}

/// Why they cannot be used. All are mended by whoever calls the program.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read.
    #[error("{option} {path}: {source}")]
    Read {
        /// The option that names it.
        option: &'static str,
        /// File.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what its option needs.
    #[error("{option} {path}: {found}")]
    Content {
        /// The option that names it.
        option: &'static str,
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// The certificate and the key do not make an identity.
    #[error("--cert and --key do not belong together: {0}")]
    Identity(rustls::Error),
    /// No authority is known.
    #[error("this system has no CA certificates; name the broker's with --ca")]
    NoSystemRoots,
}

impl Files {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// [`CredentialError`]
    pub fn read(&self, tls: bool) -> Result<Credentials, CredentialError> {
        let password = self.password_file.as_deref().map(password).transpose()?;
        let login = self.user.clone().map(|user| (user, password.unwrap_or_default()));
        let tls = if tls { Some(Arc::new(self.client_config()?)) } else { None };
        Ok(Credentials { tls, login })
    }

    fn client_config(&self) -> Result<ClientConfig, CredentialError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3")
            .with_root_certificates(self.roots()?);
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else { return Ok(builder.with_no_client_auth()) };
        let key =
            PrivateKeyDer::from_pem_slice(&contents("--key", key)?).map_err(|error| content("--key", key, &error))?;
        builder.with_client_auth_cert(certificates("--cert", cert)?, key).map_err(CredentialError::Identity)
    }

    fn roots(&self) -> Result<RootCertStore, CredentialError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.ca {
            for certificate in certificates("--ca", path)? {
                roots.add(certificate).map_err(|error| content("--ca", path, &error))?;
            }
        } else {
            // Single certificates that do not parse are common in system bundles and no reason to stop.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        if roots.is_empty() {
            return Err(CredentialError::NoSystemRoots);
        }
        Ok(roots)
    }
}

fn certificates(option: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&contents(option, path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| content(option, path, &error))?;
    if found.is_empty() { Err(content(option, path, &"holds no certificate in PEM")) } else { Ok(found) }
}

fn password(path: &Path) -> Result<String, CredentialError> {
    let text = String::from_utf8(contents("--password-file", path)?)
        .map_err(|_| content("--password-file", path, &"is not UTF-8 text"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn contents(option: &'static str, path: &Path) -> Result<Vec<u8>, CredentialError> {
    fs::read(path).map_err(|source| CredentialError::Read { option, path: path.to_owned(), source })
}

fn content(option: &'static str, path: &Path, found: &dyn std::fmt::Display) -> CredentialError {
    CredentialError::Content { option, path: path.to_owned(), found: found.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_the_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, "se cret \nsecond\n").unwrap();
        let files = Files { user: Some("ops".to_owned()), password_file: Some(path), ..Files::default() };
        assert_eq!(files.read(false).unwrap().login, Some(("ops".to_owned(), "se cret ".to_owned())));
    }

    #[test]
    fn each_mistake_names_its_option_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty.pem");
        fs::write(&path, "nothing").unwrap();
        let ca = Files { ca: Some(path.clone()), ..Files::default() }.read(true).unwrap_err().to_string();
        assert!(ca.starts_with("--ca ") && ca.ends_with("empty.pem: holds no certificate in PEM"), "{ca}");
        let absent = Files { password_file: Some(folder.path().join("absent")), ..Files::default() };
        assert!(absent.read(false).unwrap_err().to_string().starts_with("--password-file "));
    }
}
