//! Small disks that fill up.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use crate::{
    Scratch,
    mounts::{Mounts, run},
    need,
};

/// An ext4 of its own on a loop device, mounted only in an anonymous mount namespace: it goes with the last
/// process in there, whatever happens. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Mounted>);

#[derive(Debug)]
struct Mounted {
    mounts: Mounts,
    path: PathBuf,
    // Dropped last: holds the image and the mount point.
    _scratch: Scratch,
}

impl Disk {
    /// Makes one of `mib` MiB. Its root belongs to root.
    ///
    /// # Errors
    ///
    /// This machine has no loop devices or no ext4, or the test is not root: a reason to skip.
    ///
    /// # Panics
    ///
    /// Where the temporary folder is full.
    pub fn ext4(mib: u64) -> Result<Self, String> {
        need::root()?;
        need::program("mkfs.ext4")?;
        let scratch = Scratch::new("disk");
        let (image, path) = (scratch.path().join("image"), scratch.path().join("mounted"));
        fs::create_dir(&path).expect("the folder is ours");
        fs::File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("room for a sparse file");
        run(Command::new(need::find("mkfs.ext4").unwrap_or_default()).args(["-q", "-F", "-m", "0"]).arg(&image))?;
        let mounts = Mounts::new(|| run(Command::new("mount").args(["-o", "loop"]).args([&image, &path])))?;
        Ok(Self(Arc::new(Mounted { mounts, path, _scratch: scratch })))
    }

    /// Where it is mounted, for those that are inside.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Does something where it is mounted.
    ///
    /// # Panics
    ///
    /// With the closure's panic.
    #[track_caller]
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        self.0.mounts.enter(inside)
    }

    /// Writes a file until nothing more fits.
    ///
    /// # Panics
    ///
    /// Where anything but "no space" stops it.
    #[track_caller]
    pub fn fill(&self) {
        let path = self.filler();
        self.enter(|| {
            let mut file = fs::File::create(path).expect("make the filler");
            // Large pieces first, then what is left over.
            for size in [1 << 20, 1 << 12, 1] {
                let piece = vec![0x55; size];
                let full = loop {
                    if let Err(error) = file.write_all(&piece) {
                        break error;
                    }
                };
                assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{full}");
            }
        });
    }

    /// Removes what [`Self::fill`] wrote.
    ///
    /// # Panics
    ///
    /// Where it was not filled.
    #[track_caller]
    pub fn free(&self) {
        let path = self.filler();
        self.enter(|| fs::remove_file(path).expect("the filler is there"));
    }

    /// Makes `command` run where it is mounted.
    pub(crate) fn confine(&self, command: &mut Command) {
        self.0.mounts.confine(command);
    }

    fn filler(&self) -> PathBuf {
        self.0.path.join("filler")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skip;

    #[test]
    fn a_disk_fills_and_is_freed() {
        let disk = match Disk::ext4(8) {
            Ok(disk) => disk,
            Err(why) => skip!("{why}"),
        };
        let file = disk.path().join("file");
        disk.fill();
        let full = disk.enter(|| fs::write(&file, vec![0; 8192])).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        disk.free();
        disk.enter(|| fs::write(&file, vec![0; 8192])).unwrap();
        assert!(!file.exists(), "the mount is not seen from outside");
    }
}
