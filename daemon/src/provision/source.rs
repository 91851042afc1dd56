//! The file that somebody put there: read, removed, or renamed with the reason.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
};

use tidegate_values::Digest;

use super::{
    document::{Document, Fault, MAX_BYTES},
    durable,
    seen::Seen,
};
use crate::pki;

/// What lines begin with that say why a file was refused.
const REASON: &str = "# tidegate: ";

/// A file that was found.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    /// All of it, or one byte more than is accepted.
    bytes: Vec<u8>,
}

/// What is in it.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) document: Result<Document, Vec<Fault>>,
    pub(super) seen: Seen,
    /// Files beside it that hold a private key.
    secrets: Vec<PathBuf>,
}

impl Source {
    /// Opens it; `None` where it is absent.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        match read(path) {
            Ok(bytes) => Ok(Some(Self { path: path.to_owned(), bytes })),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads and judges it, with what it names.
    pub(super) fn read(&self) -> Reading {
        let mut seen = Seen { path: self.path.clone(), document: Digest::of(&self.bytes), named: BTreeMap::new() };
        let mut secrets = Vec::new();
        let folder = self.folder();
        let document = Document::read(&self.bytes, &mut |name| {
            let path = folder.join(name);
            let bytes = read(&path).map_err(|error| format!("{name} beside it cannot be read: {error}"))?;
            seen.named.insert(name.to_owned(), Digest::of(&bytes));
            if pki::private_key(&bytes).is_ok() {
                secrets.push(path);
            }
            if bytes.len() > MAX_BYTES {
                return Err(format!("{name} is over {} KiB, the most that is read", MAX_BYTES >> 10));
            }
            Ok(bytes)
        });
        Reading { document, seen, secrets }
    }

    /// Removes it, after the keys beside it. Certificates stay: they are no secret, and may be somebody else's, too.
    pub(super) fn remove(&self, reading: &Reading) -> io::Result<()> {
        for secret in &reading.secrets {
            durable::remove(secret)?;
        }
        // The key must be gone for good before that which says that it was taken in.
        durable::sync_folder_of(&self.path)?;
        durable::remove(&self.path)?;
        durable::sync_folder_of(&self.path)
    }

    /// Puts it aside under another name, with the faults as comments on top, and returns that name. Mode and owner stay,
    /// but nobody else may read it: it may hold a key.
    pub(super) fn refuse(&self, faults: &[Fault]) -> io::Result<PathBuf> {
        let aside = beside(&self.path, ".refused");
        let new = beside(&self.path, ".refused.tmp");
        durable::remove(&new)?;
        let mut original = open(&self.path)?;
        let metadata = original.metadata()?;
        let mode = metadata.mode() & 0o770;
        let mut copy = File::options().write(true).create_new(true).mode(mode).open(&new)?;
        // A boot partition (vfat) has neither, and is what its mount says.
        let _not_ours_to_give = fchown(&copy, Some(metadata.uid()), Some(metadata.gid()));
        copy.write_all(format!("{REASON}refused; mend this, and name it {} again:\n", super::FILE).as_bytes())?;
        for fault in faults {
            copy.write_all(format!("{REASON}{fault}\n").as_bytes())?;
        }
        original.seek(SeekFrom::Start(self.earlier_reasons()))?;
        io::copy(&mut original, &mut copy)?;
        copy.sync_all()?;
        fs::rename(&new, &aside)?;
        durable::sync_folder_of(&self.path)?;
        durable::remove(&self.path)?;
        durable::sync_folder_of(&self.path)?;
        Ok(aside)
    }

    /// Length of the lines on top that an earlier refusal left.
    fn earlier_reasons(&self) -> u64 {
        let lines = self.bytes.split_inclusive(|byte| *byte == b'\n');
        lines.take_while(|line| line.starts_with(REASON.as_bytes())).map(|line| line.len() as u64).sum()
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}

/// Whether what was seen is still there, in the same place.
pub(super) fn is_still_there(seen: &Seen) -> bool {
    read(&seen.path).is_ok_and(|bytes| Digest::of(&bytes) == seen.document)
}

/// `PATH` with an ending.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// A regular file's content, or one byte more than is accepted. It follows no link, and waits for no pipe.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn open(path: &Path) -> io::Result<File> {
    let regular = |metadata: fs::Metadata| {
        if metadata.is_file() { Ok(()) } else { Err(io::Error::other("it is not a regular file")) }
    };
    // Asked before, since opening alone does something to a device; and again of what was opened.
    regular(fs::symlink_metadata(path)?)?;
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    regular(file.metadata()?)?;
    Ok(file)
}
