//! Where envelopes stand: each as a file of its own, by its digest, which is its checksum, too.
//!
//! A file is written beside, synced, renamed, and the folder synced: whoever finds one finds it whole. What the memory
//! refers to is put here before the memory is written, and what it no longer refers to is removed after.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use tidegate_values::Digest;

use crate::gather::Gather as _;

/// The folder of envelopes.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.json"))
    }

    /// Keeps an envelope.
    ///
    /// # Errors
    ///
    /// The system's; what was there before still is.
    pub(super) fn put(&self, digest: &Digest, envelope: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let file = self.file(digest);
        let beside = file.with_added_extension("new");
        let written = (|| {
            let mut new = File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            new.write_all(envelope)?;
            new.sync_all()?;
            fs::rename(&beside, &file)
        })();
        if let Err(error) = written {
            // On a full disk half a file is room that somebody needs.
            let _gone = fs::remove_file(&beside);
            return Err(error);
        }
        File::open(&self.folder)?.sync_all()
    }

    /// An envelope as it was kept.
    ///
    /// # Errors
    ///
    /// The system's, or that its bytes are others.
    pub(super) fn get(&self, digest: &Digest) -> Result<Vec<u8>, String> {
        let file = self.file(digest);
        let bytes = fs::read(&file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
        if Digest::of(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(format!("{} is damaged: its bytes are not those of its name", file.display()))
        }
    }

    /// Removes all others.
    ///
    /// # Errors
    ///
    /// The system's; some may be gone then.
    pub(super) fn keep_only(&self, digests: &BTreeSet<Digest>) -> io::Result<()> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let kept: BTreeSet<_> = digests.iter().map(|digest| self.file(digest)).gather();
        for entry in entries {
            let path = entry?.path();
            if !kept.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_found_whole_or_not_at_all_until_nobody_refers_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(&folder.path().join("policies"));
        shelf.keep_only(&BTreeSet::new()).unwrap();
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        shelf.get(&one).unwrap_err();
        shelf.put(&one, b"one").unwrap();
        shelf.put(&two, b"two").unwrap();
        assert_eq!(shelf.get(&one).unwrap(), b"one");
        shelf.keep_only(&BTreeSet::from([one])).unwrap();
        assert!(shelf.get(&two).is_err() && shelf.get(&one).is_ok());
        fs::write(shelf.file(&one), b"On").unwrap();
        assert!(shelf.get(&one).unwrap_err().contains("damaged"));
    }
}
