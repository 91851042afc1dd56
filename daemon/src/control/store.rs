//! Where control remembers what it was told: one small file a subject, written whole.
//!
//! ```text
//! SHA-256 of the rest, in hex, and a newline
//! JSON
//! ```
//!
//! A new content is written beside the old one, synced, renamed over it, and the folder synced: at any moment one of the
//! two is there whole. What cannot be read, or does not match its digest, is put aside as `NAME.bad`, so that somebody can
//! look at it, and nothing is remembered. What can neither be read nor put aside is not written over, either.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use tidegate_values::Digest;

/// A file that remembers.
#[derive(Clone, Debug)]
pub struct Store {
    file: PathBuf,
    /// There is something that could be neither read nor put aside.
    barred: bool,
}

/// Why nothing is remembered.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The system does not give the file.
    #[error("{file} cannot be read: {source}; it was put aside with the suffix .bad, and what is desired is read anew")]
    Unreadable {
        /// Which.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// The system neither gives nor moves the file.
    #[error(
        "{file} cannot be read: {source}; nothing new is remembered until it is mended and the daemon restarted, or it is removed"
    )]
    Barred {
        /// Which.
        file: String,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("{file} is damaged: {reason}; it was put aside with the suffix .bad, and what is desired is read anew")]
    Damaged {
        /// Which.
        file: String,
        /// How.
        reason: String,
    },
}

impl Store {
    /// Remembers in `FOLDER/NAME`.
    #[must_use]
    pub fn new(folder: &Path, name: &str) -> Self {
        Self { file: folder.join(name), barred: false }
    }

    /// What is remembered; of a file that is absent, the default.
    ///
    /// # Errors
    ///
    /// See [`LoadError`].
    pub fn load<T: DeserializeOwned + Default>(&mut self) -> Result<T, LoadError> {
        let file = self.file.display().to_string();
        let bytes = match fs::read(&self.file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
            Err(source) => {
                self.barred = self.put_aside().is_err();
                return Err(if self.barred {
                    LoadError::Barred { file, source }
                } else {
                    LoadError::Unreadable { file, source }
                });
            }
        };
        parse(&bytes).map_err(|reason| {
            // Where it cannot be moved, the next write replaces it.
            let _left = self.put_aside();
            LoadError::Damaged { file, reason }
        })
    }

    fn put_aside(&self) -> io::Result<()> {
        fs::rename(&self.file, self.file.with_added_extension("bad"))
    }

    /// Remembers `content`, which [`encode`] made.
    ///
    /// # Errors
    ///
    /// The system's; what was remembered before still is. Also where a file stands that [`Self::load`] could not read.
    pub fn save(&self, content: &[u8]) -> io::Result<()> {
        if self.barred && self.file.symlink_metadata().is_ok() {
            return Err(io::Error::other("what was remembered before cannot be read, and is not written over"));
        }
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        let beside = self.file.with_added_extension("new");
        let written = (|| {
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&beside, &self.file)
        })();
        if let Err(error) = written {
            // On a full disk half a file is room that somebody needs.
            let _gone = fs::remove_file(&beside);
            return Err(error);
        }
        File::open(folder)?.sync_all()
    }
}

/// The bytes of the file.
///
/// # Panics
///
/// Where a map in `value` has keys that are not texts.
#[must_use]
pub fn encode(value: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_vec(value).expect("what is remembered is JSON");
    let mut bytes = Digest::of(&json).to_string().into_bytes();
    bytes.push(b'\n');
    bytes.extend(json);
    bytes
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let newline = bytes.iter().position(|byte| *byte == b'\n').ok_or("it has no first line")?;
    let (digest, json) = (&bytes[..newline], &bytes[newline + 1..]);
    if Digest::of(json).to_string().as_bytes() != digest {
        return Err("its content does not match its digest".to_owned());
    }
    serde_json::from_slice(json).map_err(|error| format!("another version wrote it ({error})"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&folder.path().join("control"), "config.json");
        (folder, store)
    }

    #[test]
    fn what_was_saved_last_is_loaded_and_only_its_owner_may_read_it() {
        let (_folder, mut store) = store();
        assert!(store.load::<Vec<u8>>().unwrap().is_empty());
        for value in [vec![1, 2], vec![3]] {
            store.save(&encode(&value)).unwrap();
            assert_eq!(store.load::<Vec<u8>>().unwrap(), value);
        }
        assert_eq!(fs::metadata(&store.file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_was_cut_or_changed_anywhere_is_put_aside() {
        let good = encode(&vec![7, 8, 9]);
        let cut = (0..good.len()).map(|len| good[..len].to_vec());
        let changed = (0..good.len()).map(|at| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        });
        for bad in cut.chain(changed) {
            let (_folder, mut store) = store();
            store.save(&bad).unwrap();
            let error = store.load::<Vec<u8>>().unwrap_err();
            assert!(matches!(error, LoadError::Damaged { .. }), "{error}");
            assert_eq!(fs::read(store.file.with_extension("json.bad")).unwrap(), bad);
            assert!(store.load::<Vec<u8>>().unwrap().is_empty());
        }
    }

    #[test]
    fn what_cannot_be_read_is_put_aside_and_where_that_cannot_be_is_never_written_over() {
        let (_folder, mut store) = store();
        let bad = store.file.with_extension("json.bad");
        // A folder cannot be read as a file.
        fs::create_dir_all(store.file.join("precious")).unwrap();
        assert!(matches!(store.load::<Vec<u8>>(), Err(LoadError::Unreadable { .. })));
        assert!(bad.join("precious").exists());
        store.save(&encode(&vec![1])).unwrap();
        assert_eq!(store.load::<Vec<u8>>().unwrap(), [1]);

        // Nor does it go where another one is.
        fs::remove_file(&store.file).unwrap();
        fs::create_dir_all(store.file.join("precious")).unwrap();
        assert!(matches!(store.load::<Vec<u8>>(), Err(LoadError::Barred { .. })));
        store.save(&encode(&vec![2])).unwrap_err();
        assert!(store.file.join("precious").exists());
        fs::remove_dir_all(&store.file).unwrap();
        store.save(&encode(&vec![2])).unwrap();
        assert_eq!(store.load::<Vec<u8>>().unwrap(), [2]);
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there() {
        let (_folder, mut store) = store();
        store.save(&encode(&vec![1])).unwrap();
        // Nothing can be written where a folder stands.
        fs::create_dir(store.file.with_extension("json.new")).unwrap();
        store.save(&encode(&vec![2])).unwrap_err();
        assert_eq!(store.load::<Vec<u8>>().unwrap(), [1]);
    }
}
