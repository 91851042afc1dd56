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
