//! The socket in the file system.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net,
    },
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

use crate::paths::give_to_group;

/// Group whose members may hand over records.
const GROUP: &str = "tidegate-ingest";

/// Why the socket cannot be opened. None of these passes by itself; the rest of the daemon works without it.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Another process answers there.
    #[error("{0} is in use by another process; is tidegate running already?")]
    InUse(PathBuf),
    /// Something that is not a socket has the name.
    #[error("{0} exists and is not a socket; move it away")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("{call} on {path}: {source}")]
    Io {
        /// What was tried.
        call: &'static str,
        /// Where.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
}

/// Listens at `path`, mode 0660, in place of what a crashed process may have left there.
///
/// The socket gets its mode and group under another name and takes its place by a rename, so nobody can connect
/// to it before it is guarded.
pub(super) fn listen(path: &Path) -> Result<UnixListener, IngestError> {
    let failed = |call, path: &Path| {
        let path = path.to_owned();
        move |source| IngestError::Io { call, path, source }
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("mkdir", folder))?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(IngestError::NotASocket(path.to_owned())),
        Ok(_) if net::UnixStream::connect(path).is_ok() => return Err(IngestError::InUse(path.to_owned())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("stat", path)(error)),
        Ok(_) | Err(_) => {}
    }
    let unfinished = path.with_extension("new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("unlink", &unfinished)(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = net::UnixListener::bind(&unfinished).map_err(failed("bind", &unfinished))?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o660)).map_err(failed("chmod", &unfinished))?;
    give_to_group(&unfinished, GROUP);
    fs::rename(&unfinished, path).map_err(failed("rename", path))?;
    listener.set_nonblocking(true).map_err(failed("fcntl", path))?;
    UnixListener::from_std(listener).map_err(failed("epoll_ctl", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_a_crash_left_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/ingest.sock");
        let first = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
        assert!(matches!(listen(&path), Err(IngestError::InUse(_))));
        drop(first);
        assert!(path.exists(), "a crash leaves the file");
        let _second = listen(&path).unwrap();
        assert!(net::UnixStream::connect(&path).is_ok());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ingest.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path), Err(IngestError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
