//! Unix sockets by which programs and people on the machine reach the daemon: guarded before anybody can connect.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net,
    },
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

/// Why a socket cannot be opened. None of these passes by itself.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
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

/// Listens at `path`, mode 0660 and with this group where the system has it, in place of what a crashed process may have
/// left there.
///
/// The socket gets its mode and group under another name and takes its place by a rename, so nobody can connect
/// to it before it is guarded.
///
/// # Errors
///
/// [`SocketError`]; nothing was changed in the file system, but that a missing folder may have been made.
pub fn listen(path: &Path, group: &str) -> Result<UnixListener, SocketError> {
    let failed = |call, path: &Path| {
        let path = path.to_owned();
        move |source| SocketError::Io { call, path, source }
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("mkdir", folder))?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) if net::UnixStream::connect(path).is_ok() => return Err(SocketError::InUse(path.to_owned())),
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
    give_to_group(&unfinished, group);
    fs::rename(&unfinished, path).map_err(failed("rename", path))?;
    listener.set_nonblocking(true).map_err(failed("fcntl", path))?;
    UnixListener::from_std(listener).map_err(failed("epoll_ctl", path))
}

/// Gives a socket to a group, where the system has it and we may; else it stays ours, which is the safe side.
fn give_to_group(path: &Path, group: &str) {
    let Some(gid) = group_id(&fs::read_to_string("/etc/group").unwrap_or_default(), group) else { return };
    if let Err(error) = std::os::unix::fs::chown(path, None, Some(gid)) {
        tracing::debug!(path = %path.display(), group, %error, "the socket stays with our own group");
    }
}

/// Looks a group up in the text of `/etc/group` (group(5)): `name:password:gid:members`.
fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_a_crash_left_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/ingest.sock");
        let first = listen(&path, "tidegate").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
        assert!(matches!(listen(&path, "tidegate"), Err(SocketError::InUse(_))));
        drop(first);
        assert!(path.exists(), "a crash leaves the file");
        let _second = listen(&path, "tidegate").unwrap();
        assert!(net::UnixStream::connect(&path).is_ok());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ingest.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path, "tidegate"), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\ntidegate-ingest:x:998:app\ntidegate:x:999:\n";
        assert_eq!(group_id(groups, "tidegate"), Some(999));
        assert_eq!(group_id(groups, "tide"), None);
        assert_eq!(group_id("tidegate\n", "tidegate"), None);
    }
}
