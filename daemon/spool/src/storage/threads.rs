//! Plain blocking system calls on the spool's own thread.

use std::{fs, fs::File, io, os::unix::fs::FileExt as _, path::Path};

use super::{Access, Name, Storage, posix};
use crate::buffer::Buffer;

/// `pread`, `pwrite`, `fdatasync`. Every future is ready when first polled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Threads;

fn read(file: &File, buffer: &mut Buffer, offset: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer.as_mut()[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // A direct read that ends inside a block has met the end of the file; asking on from an
        // unaligned offset would be EINVAL.
        if !filled.is_multiple_of(crate::format::BLOCK) {
            break;
        }
    }
    buffer.set_len(filled);
    Ok(())
}

impl Storage for Threads {
    type File = File;

    fn name(&self) -> &'static str {
        "threads"
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<Name>> {
        posix::list(dir)
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        posix::create_dir(dir)
    }

    async fn open(&self, path: &Path, access: Access, direct: bool) -> io::Result<File> {
        posix::open(path, access, direct)
    }

    async fn close(&self, file: File) {
        drop(file);
    }

    async fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        posix::allocate(file, bytes)
    }

    async fn truncate(&self, file: &File, bytes: u64) -> io::Result<()> {
        posix::truncate(file, bytes)
    }

    async fn read(&self, file: &File, mut buffer: Buffer, offset: u64) -> (io::Result<()>, Buffer) {
        (read(file, &mut buffer, offset), buffer)
    }

    async fn write(&self, file: &File, buffer: Buffer, offset: u64) -> (io::Result<()>, Buffer) {
        (file.write_all_at(&buffer, offset), buffer)
    }

    async fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        posix::sync_dir(dir)
    }
}
