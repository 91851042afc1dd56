//! Certificates for one test, made by openssl(1).

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::Scratch;

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Certificate.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// A certificate authority with a server certificate for `localhost`, `127.0.0.1`, and `10.0.2.2`: the host's loopback
/// as its emulated machines know it.
#[derive(Debug)]
pub struct Pki {
    scratch: Scratch,
    ca: PathBuf,
    server: Identity,
}

impl Pki {
    /// Makes it.
    ///
    /// # Panics
    ///
    /// Without openssl; see [`crate::need::program`].
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        Self::with_server_valid_for(2)
    }

    /// One whose server certificate expired yesterday.
    ///
    /// # Panics
    ///
    /// As [`Self::new`].
    #[must_use]
    #[track_caller]
    pub fn expired() -> Self {
        Self::with_server_valid_for(-1)
    }

    #[track_caller]
    fn with_server_valid_for(days: i32) -> Self {
        let scratch = Scratch::new("pki");
        let folder = scratch.path().to_owned();
        openssl(
            &folder,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem",
        );
        let server = issue(&folder, "server", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:10.0.2.2", days);
        Self { ca: folder.join("ca.pem"), server, scratch }
    }

    /// Certificate of the authority.
    #[must_use]
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// Certificate of the broker.
    #[must_use]
    pub const fn server(&self) -> &Identity {
        &self.server
    }

    /// Issues a certificate to a client.
    ///
    /// # Panics
    ///
    /// As [`Self::new`].
    #[must_use]
    #[track_caller]
    pub fn client(&self, name: &str) -> Identity {
        issue(self.scratch.path(), name, "extendedKeyUsage=clientAuth", 2)
    }
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}

#[track_caller]
fn issue(folder: &Path, name: &str, extension: &str, days: i32) -> Identity {
    openssl(
        folder,
        &format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ),
    );
    // Version 3 by its extensions: rustls accepts no other.
    std::fs::write(folder.join(format!("{name}.ext")), format!("basicConstraints=CA:FALSE\n{extension}\n"))
        .expect("the folder is ours");
    openssl(
        folder,
        &format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile {name}.ext -out {name}.pem"
        ),
    );
    Identity { cert: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) }
}

#[track_caller]
fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap_or_else(|error| panic!("run openssl: {error}"));
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
