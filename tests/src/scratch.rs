//! Folders for one test.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::cleanup::{Guard, Leftover, Registry};

/// A temporary folder that goes with its owner. Others may enter it, so that a daemon that gave up its
/// privileges can reach what is theirs in it.
#[derive(Debug)]
pub struct Scratch {
    // Dropped in this order: removed, then taken off the list.
    folder: tempfile::TempDir,
    _listed: Guard,
}

impl Scratch {
    /// Makes `tidegate-WHAT-…` in the system's folder for temporary files.
    ///
    /// # Panics
    ///
    /// Where it cannot be made.
    #[must_use]
    pub fn new(what: &str) -> Self {
        let mut registry = Registry::hold();
        let folder = tempfile::Builder::new()
            .prefix(&format!("tidegate-{what}-"))
            .tempdir()
            .unwrap_or_else(|error| panic!("no temporary folder for {what}: {error}"));
        let listed = registry.add(|| Leftover::Folder(folder.path().to_owned()));
        drop(registry);
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("the folder is ours");
        Self { folder, _listed: listed }
    }

    /// Makes all folders from now on in memory, where that has room for so many bytes; whether it has. Once in a process.
    #[must_use]
    pub fn all_in_memory(bytes: u64) -> bool {
        let memory = Path::new("/dev/shm");
        // As df(1) has it; and what memory is taken by now counts only where it can be had back.
        let free = rustix::fs::statvfs(memory).map_or(0, |found| found.f_bavail * found.f_frsize);
        let available = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let available = available.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
        let available: u64 =
            available.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).map_or(0, |kib: u64| kib << 10);
        // Programs need some, too.
        free >= bytes && available >= bytes + (1 << 30) && tempfile::env::override_temp_dir(memory).is_ok()
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file in it and returns its path.
    ///
    /// # Panics
    ///
    /// Where it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        path
    }
}
