//! Files of a thread that does little else, by the best way that the kernel grants, and buffers for them.
//!
//! | backend | data | where |
//! |---|---|---|
//! | [`Backend::Uring`] | `io_uring` by `tokio-uring` | where the kernel grants it; not in static builds (musl) |
//! | [`Backend::Threads`] | `pread`, `pwrite`, `fdatasync` | everywhere else |
//!
//! # Constraints
//!
//! Futures of a [`Storage`] are polled on one thread, below [`block_on`], and are never dropped while an operation is under
//! way: with `io_uring`, dropping abandons the result, not the operation.
//!
//! # Operation
//!
//! A thread [`choose`]s its backend and runs all it does with [`block_on`]. What is written for any [`Storage`] can be
//! tested on a disk that fails as no real one does when asked to.

use std::{future::Future, io, path::Path};

mod backend;
mod buffer;
mod posix;
mod threads;
#[cfg(not(target_env = "musl"))]
mod uring;

pub use backend::{Backend, Choice, File, IoPreference, block_on, choose};
pub use buffer::{Buffer, Pool};
pub use posix::probe_direct;

/// Unit of `O_DIRECT`, and of a [`Buffer`]'s memory.
pub const BLOCK: usize = 4096;

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

/// A disk.
///
/// An error says that the operation may have happened wholly, in part, or not at all.
pub trait Storage {
    /// An open file.
    type File;

    /// Name for figures.
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
