//! Whether a file is still the one that it was.

use std::os::fd::BorrowedFd;

use rustix::{fs::Stat, io::Errno};
use serde::{Deserialize, Serialize};

/// What a file is known by. Its name is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The file system. For some (btrfs, overlayfs, network) another one after the next mount.
    pub dev: u64,
    /// The file in it. For some (FAT, FUSE) only as long as somebody has it open.
    pub ino: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Last change of its content, nanoseconds since 1970. Its owner may set it to anything; beyond the years 1677 to
    /// 2262 all are alike.
    pub mtime_ns: i64,
    /// Last change of its content or of anything else about it, its name included, likewise. Only the kernel sets it.
    pub ctime_ns: i64,
}

impl Identity {
    /// Of an open file, now.
    ///
    /// # Errors
    ///
    /// `fstat(2)`'s: of a file on the network, for one.
    pub fn of(file: BorrowedFd<'_>) -> Result<Self, Errno> {
        rustix::fs::fstat(file).map(|stat| Self::from_stat(&stat))
    }

    pub(super) fn from_stat(stat: &Stat) -> Self {
        let ns = |seconds: i64, ns: u64| {
            seconds.saturating_mul(1_000_000_000).saturating_add(i64::try_from(ns).unwrap_or(0))
        };
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec),
            ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Whether it is the same file with the same content, whatever happened to its name or mode, and where the same
    /// folder was mounted anew. Equality (`==`) is for what was under our eyes all the time.
    #[must_use]
    pub const fn same_content(&self, other: &Self) -> bool {
        self.ino == other.ino && self.size == other.size && self.mtime_ns == other.mtime_ns
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File, FileTimes},
        io::Write as _,
        os::fd::AsFd as _,
        time::{Duration, SystemTime},
    };

    use super::*;

    fn of(file: &File) -> Identity {
        Identity::of(file.as_fd()).unwrap()
    }

    #[test]
    fn a_rename_and_a_mode_leave_the_content_what_it_is_and_a_change_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let mut file = File::create(&a).unwrap();
        file.write_all(b"one").unwrap();
        let old = SystemTime::now() - Duration::from_hours(1);
        file.set_times(FileTimes::new().set_modified(old)).unwrap();
        let before = of(&file);
        assert_eq!((before.size, before), (3, of(&file)));

        std::thread::sleep(Duration::from_millis(20));
        fs::rename(&a, &b).unwrap();
        let after = of(&file);
        assert!(before.same_content(&after));
        assert_ne!(before, after, "its ctime");

        file.write_all(b"!").unwrap();
        assert!(!after.same_content(&of(&file)), "longer");
        let changed = of(&file);
        file.set_times(FileTimes::new().set_modified(old)).unwrap();
        assert!(!changed.same_content(&of(&file)), "another mtime");

        fs::write(&a, b"one").unwrap();
        let other = File::open(&a).unwrap();
        other.set_times(FileTimes::new().set_modified(old)).unwrap();
        assert!(!before.same_content(&of(&other)), "another file");
    }

    #[test]
    fn times_out_of_reach_are_no_panic() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("a")).unwrap();
        let mut stat = rustix::fs::fstat(&file).unwrap();
        (stat.st_mtime, stat.st_mtime_nsec) = (i64::MAX, 999_999_999);
        (stat.st_ctime, stat.st_ctime_nsec) = (i64::MIN, 999_999_999);
        let identity = Identity::from_stat(&stat);
        assert_eq!(identity.mtime_ns, i64::MAX);
        assert_eq!(identity.ctime_ns, i64::MIN + 999_999_999);
    }
}
