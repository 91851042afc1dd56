//! The TLS configuration, kept from one connection to the next: the system's authorities are not read and parsed for each file, and
//! sessions resume (RFC 8446, section 2.2), which saves a small processor the certificates of a handshake.
//!
//! It is good as long as the files that it was made of are the same, by inode, size and times, and for [`GOOD_FOR`] at most: no list of
//! places where a system has its authorities is complete. With the authorities of Debian, 144 of them, some 80 KiB are kept.

use std::{
    cell::RefCell,
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, client::Resumption};
use tokio::time::Instant;

use crate::settings::Credentials;

/// How long files are taken for unchanged where nothing shows that they were changed.
const GOOD_FOR: Duration = Duration::from_hours(1);
/// Sessions that are remembered: there is one server, and perhaps another one that it redirects to.
const SESSIONS: usize = 16;

/// For all connections together.
#[derive(Default)]
pub(crate) struct Tls(RefCell<Option<Kept>>);

struct Kept {
    /// What it was asked of: another configuration is asked again.
    credentials: Arc<dyn Credentials>,
    files: Vec<(PathBuf, Option<Stamp>)>,
    made: Instant,
    config: ClientConfig,
}

/// What tells a file from what it was.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    changed: [(i64, i64); 2],
}

impl Tls {
    /// The configuration: what is kept, or made anew.
    ///
    /// # Errors
    ///
    /// As [`Credentials::tls`]. Nothing is kept then.
    pub(super) fn config(&self, credentials: &Arc<dyn Credentials>) -> Result<ClientConfig, String> {
        let mut kept = self.0.borrow_mut();
        if let Some(kept) = kept.as_ref().filter(|kept| kept.is_good(credentials)) {
            return Ok(kept.config.clone());
        }
        *kept = None;
        // Looked at before they are read: what is replaced between the two is read once more.
        let files = credentials.tls_files();
        let files: Vec<_> =
            files.into_iter().map(|path| (stamp(&path), path)).map(|(stamp, path)| (path, stamp)).collect();
        let mut config = credentials.tls()?;
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        if !files.is_empty() {
            let (credentials, made) = (Arc::clone(credentials), Instant::now());
            *kept = Some(Kept { credentials, files, made, config: config.clone() });
        }
        Ok(config)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Kept {
    fn is_good(&self, credentials: &Arc<dyn Credentials>) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.credentials), Arc::as_ptr(credentials))
            && self.made.elapsed() < GOOD_FOR
            && self.files.iter().all(|(path, stamp)| *stamp == self::stamp(path))
    }
}

/// Of the file that a path leads to; `None`: there is none that can be seen.
fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some(Stamp {
        inode: (found.dev(), found.ino()),
        size: found.size(),
        changed: [(found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec())],
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustls::{RootCertStore, crypto::ring};

    use super::*;

    /// Says of some files that it reads them.
    struct Counting {
        files: Vec<PathBuf>,
        reads: AtomicUsize,
    }

    impl Credentials for Counting {
        fn tls(&self) -> Result<ClientConfig, String> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth())
        }

        fn tls_files(&self) -> Vec<PathBuf> {
            self.files.clone()
        }

        fn authorization(&self) -> Result<Option<http::HeaderValue>, String> {
            Ok(None)
        }

        fn explain(&self, error: &rustls::Error) -> String {
            error.to_string()
        }
    }

    fn counting(files: &[PathBuf]) -> (Arc<Counting>, Arc<dyn Credentials>) {
        let counting = Arc::new(Counting { files: files.to_vec(), reads: AtomicUsize::new(0) });
        (Arc::clone(&counting), counting)
    }

    /// Whether two are copies of one, with which they share their sessions.
    fn are_one(one: &ClientConfig, other: &ClientConfig) -> bool {
        Arc::ptr_eq(&one.client_auth_cert_resolver, &other.client_auth_cert_resolver)
    }

    #[tokio::test(start_paused = true)]
    async fn a_configuration_is_kept_until_one_of_its_files_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("ca.pem"), "one").unwrap();
        let (counting, credentials) = counting(&[path("ca.pem"), path("key.pem")]);
        let tls = Tls::default();
        let mut before = tls.config(&credentials).unwrap();
        let mut reads = 1;
        let mut look = |changed: bool, what: &str| {
            let now = tls.config(&credentials).unwrap();
            reads += usize::from(changed);
            assert_eq!(counting.reads.load(Ordering::Relaxed), reads, "{what}");
            assert_eq!(are_one(&before, &now), !changed, "{what}");
            before = now;
        };
        look(false, "nothing happened");
        fs::write(path("next"), "two").unwrap();
        fs::rename(path("next"), path("ca.pem")).unwrap();
        look(true, "a file was renamed over it, of the same size");
        look(false, "nothing happened since");
        fs::write(path("ca.pem"), "three").unwrap();
        look(true, "it was written in place");
        fs::write(path("key.pem"), "key").unwrap();
        look(true, "one came");
        fs::remove_file(path("key.pem")).unwrap();
        look(true, "and went");
        tokio::time::advance(GOOD_FOR).await;
        look(true, "time has passed");
        look(false, "and none since");
    }

    #[tokio::test]
    async fn other_credentials_and_those_that_name_no_files_are_asked_again() {
        let tls = Tls::default();
        let file = [PathBuf::from("/proc/self/exe")];
        let ((_, one), (_, other), (_, without)) = (counting(&file), counting(&file), counting(&[]));
        let first = tls.config(&one).unwrap();
        assert!(are_one(&first, &tls.config(&one).unwrap()));
        assert!(!are_one(&first, &tls.config(&other).unwrap()));
        assert!(!are_one(&tls.config(&without).unwrap(), &tls.config(&without).unwrap()));
    }
}
