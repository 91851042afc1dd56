//! Operations on names and sizes, the same for both backends: they are rare (the spool has a few a segment), so
//! they are plain system calls on the calling thread.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use rustix::fs::{FallocateFlags, fallocate};

use crate::{Access, Name};

pub(crate) fn list(dir: &Path) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in dir.read_dir()? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed since the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
            names.push(Name { name, bytes: metadata.len() });
        }
    }
    Ok(names)
}

pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

pub(crate) fn open(path: &Path, access: Access, direct: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(access != Access::Read)
        .create_new(access == Access::Create)
        .mode(0o600)
        .custom_flags(if direct { libc::O_DIRECT } else { 0 })
        .open(path)
}

pub(crate) fn allocate(file: &impl AsFd, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // Some file systems cannot set space aside (fallocate(2)): then "no space" comes at the write.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => truncate(file, bytes),
        other => Ok(other?),
    }
}

pub(crate) fn truncate(file: &impl AsFd, bytes: u64) -> io::Result<()> {
    Ok(rustix::fs::ftruncate(file, bytes)?)
}

pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Whether files in `dir` can be opened with `O_DIRECT`, and if not, why.
///
/// tmpfs before Linux 6.5 and some FUSE file systems refuse it (open(2): `EINVAL`).
///
/// # Errors
///
/// Any other refusal of the file system.
pub fn probe_direct(dir: &Path) -> io::Result<Result<(), String>> {
    let path = dir.join("direct.probe");
    let opened = open(&path, Access::Create, true);
    let removed = fs::remove_file(&path);
    match opened {
        Ok(_file) => removed.map(|()| Ok(())),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Ok(Err(format!("{} refuses O_DIRECT: {error}", dir.display())))
        }
        Err(error) => Err(error),
    }
}
