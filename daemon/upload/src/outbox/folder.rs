//! An outbox that is held open, and files opened in it.
//!
//! # Links
//!
//! Symbolic links are refused wherever they stand: at the end of the outbox's path, and as a file.
//!
//! A file with several names (hard links) is taken: that is how a program puts a large one into the outbox without
//! copying it, and only the name in the outbox is ever removed. But a link can bring a file here past the permissions
//! of the folders above it, to be read with our rights instead of the linker's. Linux forbids that where
//! `fs.protected_hardlinks` is 1, as systemd sets it; for where it is not, a file with several names that belongs to
//! root or to us and that not everybody may read is refused: configuration and keys are such files.
//!
//! # Opening
//!
//! Nothing waits: neither for the other end of a pipe nor for a lease (`O_NONBLOCK`). What is mounted over a file is
//! not followed (`RESOLVE_NO_XDEV`, from Linux 5.6 on): behind it a program of that user may answer, or not. Access
//! times stay as they are where we may say so: on flash each one is a write.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        Access, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, accessat, fstat, open, openat, openat2,
        statat,
    },
    io::Errno,
    process::geteuid,
};

use super::{identity::Identity, names};
use crate::ledger::Reason;

/// An outbox.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
    dev: u64,
    ino: u64,
}

/// An outbox that cannot be used, or not as it is to be. Its text says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderError {
    path: PathBuf,
    fault: Fault,
}

/// What is wrong with a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Absent,
    NotAFolder,
    Forbidden,
    Sticky,
    ReadOnly,
    Foreign,
    System { call: &'static str, errno: Errno },
}

/// Why a file is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Of the name that stands there.
    #[error("its name {0}")]
    Name(&'static str),
    /// It is not there any more.
    #[error("it vanished")]
    Vanished,
    /// A link, a pipe, a device or a socket.
    #[error("not a regular file")]
    NotRegular,
    /// See the module's header.
    #[error("a link to a file of root or of the daemon that not everybody may read")]
    Linked,
    /// By its mode or owner.
    #[error("the daemon may not read it")]
    Forbidden,
    /// Another program has a lease on it (`fcntl(2)`, `F_SETLEASE`). That passes.
    #[error("another program keeps it from being opened")]
    Busy,
    /// Another file system begins there.
    #[error("another file system is mounted over it")]
    Mounted,
    /// Its sidecar is not one.
    #[error("its sidecar: {0}")]
    Sidecar(String),
    /// The system's.
    #[error("{call}: {errno}")]
    System {
        /// Which call.
        call: &'static str,
        /// What it said.
        errno: Errno,
    },
}

impl Folder {
    /// Opens it. Links above its last component are followed: its path is the administrator's.
    ///
    /// # Errors
    ///
    /// Where there is no such folder, or we may not list it.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = open(path, flags, Mode::empty()).map_err(|errno| FolderError::new(path, "open", errno))?;
        let stat = fstat(&fd).map_err(|errno| FolderError::new(path, "fstat", errno))?;
        Ok(Self { fd, path: path.to_owned(), dev: stat.st_dev, ino: stat.st_ino })
    }

    /// Its path, as it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its path still leads to it: it may have been removed, renamed, replaced or mounted over.
    #[must_use]
    pub fn is_current(&self) -> bool {
        statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (self.dev, self.ino))
    }

    /// Whether it is the same folder, by the same path.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino) && self.path == other.path
    }

    /// Whether files may be removed from it, as all but `after = "keep"` needs.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check_writable(&self) -> Result<(), FolderError> {
        accessat(&self.fd, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty())
            .map_err(|errno| self.error("faccessat", errno))?;
        let stat = fstat(&self.fd).map_err(|errno| self.error("fstat", errno))?;
        let ours = stat.st_uid == geteuid().as_raw() || geteuid().is_root();
        if stat.st_mode & Mode::SVTX.bits() != 0 && !ours {
            return Err(FolderError { path: self.path.clone(), fault: Fault::Sticky });
        }
        Ok(())
    }

    /// Opens a file to be read, and says what it is at this moment.
    ///
    /// # Errors
    ///
    /// See [`Unusable`].
    pub fn open_file(&self, name: &str) -> Result<(File, Identity), Unusable> {
        names::check(name.as_bytes()).map_err(Unusable::Name)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let mut opened = openat2(&self.fd, name, flags | OFlags::NOATIME, Mode::empty(), resolve);
        if matches!(opened, Err(Errno::PERM)) {
            // Another one's file: its access time is not ours to leave out.
            opened = openat2(&self.fd, name, flags, Mode::empty(), resolve);
        }
        if matches!(opened, Err(Errno::NOSYS | Errno::PERM)) {
            // An older kernel, or a filter of system calls that does not know it.
            opened = openat(&self.fd, name, flags, Mode::empty());
        }
        let file = opened.map_err(|errno| Unusable::new("open", errno))?;
        let stat = fstat(&file).map_err(|errno| Unusable::new("fstat", errno))?;
        check_stat(&stat)?;
        Ok((file.into(), Identity::from_stat(&stat)))
    }

    /// What is wrong, where `call` failed on it.
    pub(super) fn error(&self, call: &'static str, errno: Errno) -> FolderError {
        FolderError::new(&self.path, call, errno)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether a file may be read and sent, as far as can be seen before.
pub(super) fn check_stat(stat: &Stat) -> Result<(), Unusable> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Unusable::NotRegular);
    }
    let precious = stat.st_uid == 0 || stat.st_uid == geteuid().as_raw();
    if stat.st_nlink > 1 && precious && stat.st_mode & Mode::ROTH.bits() == 0 {
        return Err(Unusable::Linked);
    }
    Ok(())
}

impl Unusable {
    pub(super) const fn new(call: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::Vanished,
            // A symbolic link; a socket, or a device without a driver.
            Errno::LOOP | Errno::NXIO | Errno::NODEV => Self::NotRegular,
            Errno::ACCESS | Errno::PERM => Self::Forbidden,
            Errno::AGAIN => Self::Busy,
            Errno::XDEV => Self::Mounted,
            errno => Self::System { call, errno },
        }
    }

    /// What it is parked by.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Vanished => Reason::Vanished,
            Self::Sidecar(_) | Self::Name(_) => Reason::BadMetadata,
            _ => Reason::Unreadable,
        }
    }

    /// Whether it may pass by itself: worth another attempt, and no parking.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Busy => true,
            Self::System { errno, .. } => {
                matches!(
                    *errno,
                    Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR | Errno::STALE | Errno::TIMEDOUT
                )
            }
            _ => false,
        }
    }
}

impl FolderError {
    pub(super) fn new(path: &Path, call: &'static str, errno: Errno) -> Self {
        let fault = match errno {
            Errno::NOENT => Fault::Absent,
            Errno::NOTDIR | Errno::LOOP => Fault::NotAFolder,
            Errno::ACCESS | Errno::PERM => Fault::Forbidden,
            Errno::ROFS => Fault::ReadOnly,
            errno => Fault::System { call, errno },
        };
        Self { path: path.to_owned(), fault }
    }

    /// A folder that we made, or that somebody else made in its place.
    pub(super) fn foreign(path: PathBuf) -> Self {
        Self { path, fault: Fault::Foreign }
    }

    /// Whether it is not there: it may come.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.fault == Fault::Absent
    }
}

impl std::error::Error for FolderError {}

impl std::fmt::Display for FolderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        match self.fault {
            Fault::Absent => write!(f, "{path} does not exist"),
            Fault::NotAFolder => write!(f, "{path} is not a folder (a symbolic link is none, either)"),
            Fault::Forbidden => write!(
                f,
                "no permission in {path}: the daemon's user needs to read, write and enter it (group tidegate, mode 2770)"
            ),
            Fault::Sticky => write!(
                f,
                "{path} has the sticky bit: others' files cannot be removed from it (chmod -t, or after = \"keep\")"
            ),
            Fault::ReadOnly => write!(
                f,
                "{path} is read-only for the daemon: systemctl edit tidegate, and below [Service] ReadWritePaths={path}"
            ),
            Fault::Foreign => write!(f, "{path} is not the daemon's own folder: remove it"),
            Fault::System { call, errno } => write!(f, "{path}: {call}: {errno}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        io::Read as _,
        os::unix::{
            fs::{PermissionsExt as _, symlink},
            net::UnixListener,
        },
    };

    use rustix::fs::mknodat;

    use super::*;
    use crate::outbox::as_nobody;

    fn opened() -> (tempfile::TempDir, Folder) {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        (temp, folder)
    }

    fn refused(folder: &Folder, name: &str) -> Unusable {
        folder.open_file(name).map(drop).unwrap_err()
    }

    #[test]
    fn a_folder_that_cannot_be_used_says_why() {
        let temp = tempfile::tempdir().unwrap();
        let said = |name: &str| Folder::open(&temp.path().join(name)).map(drop).unwrap_err().to_string();
        assert!(said("none").ends_with("none does not exist"));
        fs::write(temp.path().join("file"), "").unwrap();
        assert!(said("file").contains("file is not a folder"));
        symlink(temp.path(), temp.path().join("link")).unwrap();
        assert!(said("link").contains("link is not a folder"));

        let hint = FolderError::new(Path::new("/srv/out"), "renameat", Errno::ROFS).to_string();
        assert!(hint.ends_with("systemctl edit tidegate, and below [Service] ReadWritePaths=/srv/out"), "{hint}");
    }

    #[test]
    fn a_folder_that_was_replaced_is_not_current() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("outbox");
        fs::create_dir(&path).unwrap();
        let folder = Folder::open(&path).unwrap();
        assert!(folder.is_current());
        fs::rename(&path, temp.path().join("other")).unwrap();
        assert!(!folder.is_current());
        fs::create_dir(&path).unwrap();
        assert!(!folder.is_current());
        fs::remove_dir(&path).unwrap();
        symlink(temp.path().join("other"), &path).unwrap();
        assert!(!folder.is_current());
    }

    #[test]
    fn a_file_is_opened_as_it_is() {
        let (temp, folder) = opened();
        fs::write(temp.path().join("a"), "content").unwrap();
        let (mut file, identity) = folder.open_file("a").unwrap();
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!((content.as_str(), identity.size), ("content", 7));
        assert_eq!(Identity::of(file.as_fd()), Ok(identity));
    }

    #[test]
    fn nothing_but_a_regular_file_is_opened_and_nothing_waits() {
        let (temp, folder) = opened();
        let path = |name: &str| temp.path().join(name);
        fs::write(path("file"), "").unwrap();
        symlink("file", path("link")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _listener = UnixListener::bind(path("socket")).unwrap();
        for name in ["link", "folder", "pipe", "socket"] {
            assert_eq!(refused(&folder, name), Unusable::NotRegular, "{name}");
        }
        assert_eq!(refused(&folder, "none"), Unusable::Vanished);
        for name in ["../file", "folder/../file", "..", ".", "", "/etc/passwd"] {
            assert_eq!(refused(&folder, name), Unusable::Name("is that of a folder"), "{name}");
        }
        assert_eq!(refused(&folder, "a\nb"), Unusable::Name("has control characters"));
    }

    #[test]
    fn a_link_is_taken_unless_it_may_have_come_past_the_permissions_of_the_file() {
        let (temp, folder) = opened();
        let (one, other) = (temp.path().join("one"), temp.path().join("other"));
        fs::write(&one, "").unwrap();
        fs::hard_link(&one, &other).unwrap();
        fs::set_permissions(&one, Permissions::from_mode(0o644)).unwrap();
        assert!(folder.open_file("other").is_ok());
        fs::set_permissions(&one, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(refused(&folder, "other"), Unusable::Linked);
        fs::remove_file(&one).unwrap();
        assert!(folder.open_file("other").is_ok());
    }

    #[test]
    fn what_we_may_not_read_is_forbidden() {
        let (temp, folder) = opened();
        let path = temp.path().join("secret");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let refused = as_nobody(|| refused(&folder, "secret"));
        assert!(refused.is_none_or(|refused| refused == Unusable::Forbidden));
        // And what we may read although it is another's.
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(as_nobody(|| folder.open_file("secret").is_ok()).unwrap_or(true));
    }

    #[test]
    fn a_lease_is_not_waited_for() {
        let (temp, folder) = opened();
        fs::write(temp.path().join("leased"), "").unwrap();
        let holder = File::options().write(true).open(temp.path().join("leased")).unwrap();
        // SAFETY: the descriptor is open, and the command takes a number and keeps no memory.
        let leased = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&holder), libc::F_SETLEASE, libc::F_WRLCK) };
        if leased != 0 {
            // A file system without leases.
            return;
        }
        // The holder is told by SIGIO, which would end this process: it is told nothing.
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
        let refused = refused(&folder, "leased");
        assert_eq!((refused.may_pass(), refused), (true, Unusable::Busy));
    }

    #[test]
    fn errors_of_the_system_are_told_with_their_call() {
        assert_eq!(Unusable::new("open", Errno::IO).to_string(), "open: Input/output error (os error 5)");
        assert!(Unusable::new("open", Errno::MFILE).may_pass());
        assert!(!Unusable::new("open", Errno::IO).may_pass());
    }

    #[test]
    fn whether_files_may_be_removed_is_known_before_one_was_sent() {
        let (temp, folder) = opened();
        assert_eq!(folder.check_writable(), Ok(()));
        for (mode, expected) in
            [(0o777, ""), (0o1777, "sticky bit"), (0o755, "no permission"), (0o000, "no permission")]
        {
            fs::set_permissions(temp.path(), Permissions::from_mode(mode)).unwrap();
            let Some(judged) = as_nobody(|| folder.check_writable()) else { return };
            let said = judged.map_or_else(|error| error.to_string(), |()| String::new());
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{mode:o}: {said}");
        }
    }
}
