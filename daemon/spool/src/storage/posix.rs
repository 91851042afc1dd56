//! Operations on names and sizes, the same for both real backends: they are rare (a few a segment), so
//! they are plain system calls on the spool's own thread.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::{FallocateFlags, fallocate};

use super::{Access, Name};

pub(super) fn list(dir: &Path) -> io::Result<Vec<Name>> {
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

pub(super) fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

pub(super) fn open(path: &Path, access: Access, direct: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(access != Access::Read)
        .create_new(access == Access::Create)
        .mode(0o600)
        .custom_flags(if direct { libc::O_DIRECT } else { 0 })
        .open(path)
}

pub(super) fn allocate(file: &impl std::os::fd::AsFd, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // Some file systems cannot set space aside (fallocate(2)): then "no space" comes at the write.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => truncate(file, bytes),
        other => Ok(other?),
    }
}

pub(super) fn truncate(file: &impl std::os::fd::AsFd, bytes: u64) -> io::Result<()> {
    Ok(rustix::fs::ftruncate(file, bytes)?)
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
