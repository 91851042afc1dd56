//! Scenarios that were skipped. libtest knows no skipping at run time and counts them as passed, so they write a line
//! each into a file.

use std::{fs, io, path::PathBuf};

/// The file that `TIDEGATE_SKIPPED` names.
#[derive(Debug)]
pub(crate) struct Skips {
    path: PathBuf,
}

impl Skips {
    /// Makes the file: the caller's, also where the scenarios are root's.
    pub(crate) fn new(path: PathBuf) -> Result<Self, String> {
        let skips = Self { path };
        skips.tried(fs::write(&skips.path, ""))?;
        Ok(skips)
    }

    /// For the scenarios.
    pub(crate) fn variable(&self) -> (&'static str, String) {
        ("TIDEGATE_SKIPPED", self.path.display().to_string())
    }

    /// Names and reasons since this was last asked.
    pub(crate) fn take(&self) -> Result<Vec<String>, String> {
        let lines = self.tried(fs::read_to_string(&self.path))?;
        self.tried(fs::write(&self.path, ""))?;
        Ok(lines.lines().map(str::to_owned).collect())
    }

    fn tried<T>(&self, result: io::Result<T>) -> Result<T, String> {
        result.map_err(|error| format!("{}: {error}", self.path.display()))
    }
}
