//! Where what cannot be read is kept for a person to look at, up to a bound.

use std::path::{Path, PathBuf};

use tidegate_storage::{Access, Name, Pool, Storage};
use tracing::warn;

use crate::fault::{At as _, Fault};

/// Files kept at most, whatever their size: the list is held in memory.
const MAX_FILES: usize = 256;

/// The folder `quarantine`. Its files are named `NNNNNNNN-LANE-WHAT`, the number growing: the oldest goes first.
#[derive(Debug)]
pub(super) struct Quarantine {
    dir: PathBuf,
    max_bytes: u64,
    /// Oldest first.
    files: Vec<Name>,
    next: u64,
}

impl Quarantine {
    pub(super) async fn open<S: Storage>(storage: &S, spool: &Path, max_bytes: u64) -> Result<Self, Fault> {
        let dir = spool.join("quarantine");
        storage.create_dir(&dir).await.at("mkdir", &dir)?;
        let mut files = storage.list(&dir).await.at("read", &dir)?;
        files.sort_by(|left, right| left.name.cmp(&right.name));
        let number = |file: &Name| file.name.split('-').next().and_then(|digits| digits.parse::<u64>().ok());
        let next = files.iter().filter_map(number).max().map_or(1, |last| last.saturating_add(1));
        Ok(Self { dir, max_bytes, files, next })
    }

    /// Moves a file here; removes it where it alone is over the bound.
    pub(super) async fn take<S: Storage>(
        &mut self,
        storage: &S,
        lane: &str,
        dir: &Path,
        file: &Name,
    ) -> Result<(), Fault> {
        let from = dir.join(&file.name);
        if file.bytes > self.max_bytes {
            storage.remove(&from).await.at("unlink", &from)?;
        } else {
            let to = self.admit(storage, &format!("{lane}-{}", file.name), file.bytes).await;
            storage.rename(&from, &to).await.at("rename", &from)?;
            storage.sync_dir(&self.dir).await.at("fsync", &self.dir)?;
        }
        storage.sync_dir(dir).await.at("fsync", dir)
    }

    /// Keeps a copy of damaged bytes, once. It is a help for a person, not part of any promise: errors are logged.
    pub(super) async fn keep<S: Storage>(&mut self, storage: &S, pool: &Pool, what: &str, bytes: &[u8]) {
        let known = |file: &Name| file.name.split_once('-').is_some_and(|(_, rest)| rest == what);
        if bytes.len() as u64 > self.max_bytes || self.files.iter().any(known) {
            return;
        }
        let path = self.admit(storage, what, bytes.len() as u64).await;
        let mut buffer = pool.take(bytes.len());
        buffer.extend(bytes);
        let written = match storage.open(&path, Access::Create, false).await {
            Ok(file) => {
                let (written, _buffer) = storage.write(&file, buffer, 0).await;
                storage.close(file).await;
                written
            }
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            warn!(%error, path = %path.display(), "cannot keep a copy of damaged bytes");
        }
    }

    /// Makes room and gives a name.
    async fn admit<S: Storage>(&mut self, storage: &S, what: &str, bytes: u64) -> PathBuf {
        while !self.files.is_empty()
            && (self.files.len() >= MAX_FILES || self.bytes().saturating_add(bytes) > self.max_bytes)
        {
            let oldest = self.dir.join(self.files.remove(0).name);
            if let Err(error) = storage.remove(&oldest).await {
                warn!(%error, path = %oldest.display(), "cannot remove from quarantine");
            }
        }
        let name = format!("{:08}-{what}", self.next);
        self.next += 1;
        let path = self.dir.join(&name);
        self.files.push(Name { name, bytes });
        path
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}
