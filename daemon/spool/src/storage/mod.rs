//! What the engine asks of a disk, and the backends that give it.
//!
//! | backend | data | where |
//! |---|---|---|
//! | `uring` | `io_uring` by `tokio-uring` | production, where the kernel grants it; not in static builds (musl) |
//! | [`threads`] | `pread`, `pwrite`, `fdatasync` | production, everywhere else |
//! | `model` | a disk in memory that loses what was not synced | tests |
//!
//! Futures are polled on one thread and are never dropped while an operation is under way: with
//! `io_uring`, dropping abandons the result, not the operation.

use std::{fs, future::Future, io, path::Path};

use crate::buffer::Buffer;

#[cfg(test)]
pub(crate) mod model;
mod posix;
pub mod threads;
#[cfg(not(target_env = "musl"))]
pub mod uring;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Existing, for reading.
    Read,
    /// Existing, for reading and writing.
    Write,
    /// For reading and writing; an error where the name exists.
    Create,
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// File name; names that are not UTF-8 are none of ours and are left out.
    pub name: String,
    /// Length of the file in bytes.
    pub bytes: u64,
}

/// A disk. Paths are as the engine was given them, below the spool's folder.
///
/// An error says that the operation may have happened wholly, in part, or not at all.
pub trait Storage {
    /// An open file.
    type File;

    /// Name for [`crate::Stats::io`].
    fn name(&self) -> &'static str;

    /// Files of a folder, in no order.
    fn list(&self, dir: &Path) -> impl Future<Output = io::Result<Vec<Name>>>;

    /// Makes a folder (0700) where it is absent.
    fn create_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>>;

    /// Opens a file (0600); `direct` asks for `O_DIRECT`, and is `EINVAL` where the file system has none.
    fn open(&self, path: &Path, access: Access, direct: bool) -> impl Future<Output = io::Result<Self::File>>;

    /// Closes a file.
    fn close(&self, file: Self::File) -> impl Future<Output = ()>;

    /// Makes the file `bytes` long with space set aside for all of it, where the file system can.
    fn allocate(&self, file: &Self::File, bytes: u64) -> impl Future<Output = io::Result<()>>;

    /// Cuts the file to `bytes`.
    fn truncate(&self, file: &Self::File, bytes: u64) -> impl Future<Output = io::Result<()>>;

    /// Reads into the buffer's length; fewer bytes only at the end of the file. The buffer's length is
    /// what was read. `O_DIRECT` wants `offset` and length in whole blocks.
    fn read(&self, file: &Self::File, buffer: Buffer, offset: u64) -> impl Future<Output = (io::Result<()>, Buffer)>;

    /// Writes the whole buffer.
    fn write(&self, file: &Self::File, buffer: Buffer, offset: u64) -> impl Future<Output = (io::Result<()>, Buffer)>;

    /// `fdatasync`: the file's data, and what is needed to read it back, is on stable storage.
    fn sync(&self, file: &Self::File) -> impl Future<Output = io::Result<()>>;

    /// Renames a file; durable after [`Storage::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>>;

    /// Removes a file; durable after [`Storage::sync_dir`].
    fn remove(&self, path: &Path) -> impl Future<Output = io::Result<()>>;

    /// Makes the folder's names durable.
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>>;
}

/// Whether files in `dir` can be opened with `O_DIRECT`, and if not, why.
///
/// tmpfs before Linux 6.5 and some FUSE file systems refuse it (open(2): `EINVAL`).
///
/// # Errors
///
/// Any other refusal of the file system.
pub(crate) fn probe_direct(dir: &Path) -> io::Result<Result<(), String>> {
    let path = dir.join("direct.probe");
    let opened = posix::open(&path, Access::Create, true);
    let removed = fs::remove_file(&path);
    match opened {
        Ok(_file) => removed.map(|()| Ok(())),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Ok(Err(format!("{} refuses O_DIRECT: {error}", dir.display())))
        }
        Err(error) => Err(error),
    }
}
