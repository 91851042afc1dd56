//! Files that are there as a whole, or as they were before.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Makes a file that is not there yet, readable by its owner only, and waits until it is on the disk. Its name in the
/// folder is the caller's to sync.
pub(super) fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Puts `content` in the place of a file's; the folder is synced.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("tmp");
    remove(&new)?;
    create(&new, content)?;
    fs::rename(&new, path)?;
    sync_folder_of(path)
}

/// Removes a file that may be absent.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Waits until a file's name is on the disk, or off it.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}
