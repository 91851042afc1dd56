//! Small disks that fill up.

use std::{
    fs,
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::{Scratch, need};

/// An ext4 of its own on a loop device, mounted only in an anonymous mount namespace: it goes with the last
/// process in there, whatever happens. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Mounted>);

#[derive(Debug)]
struct Mounted {
    namespace: OwnedFd,
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
        let namespace = thread::scope(|scope| {
            scope
                .spawn(|| -> Result<OwnedFd, String> {
                    enter_new_mount_namespace().map_err(|error| format!("make a mount namespace: {error}"))?;
                    run(Command::new("mount").args(["--make-rprivate", "/"]))?;
                    run(Command::new("mount").args(["-o", "loop"]).args([&image, &path]))?;
                    let namespace = fs::File::open("/proc/thread-self/ns/mnt").map_err(|error| error.to_string())?;
                    Ok(namespace.into())
                })
                .join()
                .expect("nothing in it panics")
        })?;
        Ok(Self(Arc::new(Mounted { namespace, path, _scratch: scratch })))
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
        let result = thread::scope(|scope| {
            scope
                .spawn(|| {
                    // A thread shares its root folder with the others until it says otherwise.
                    // SAFETY: this thread holds nothing that depends on the shared root folder.
                    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }
                        .and_then(|()| {
                            move_into_link_name_space(self.0.namespace.as_fd(), Some(LinkNameSpaceType::Mount))
                        })
                        .unwrap_or_else(|error| panic!("enter the disk's namespace: {error}"));
                    inside()
                })
                .join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
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
        let mounted = Arc::clone(&self.0);
        // SAFETY: the closure makes one system call, which is async-signal-safe, on a descriptor that it owns.
        unsafe {
            command.pre_exec(move || {
                Ok(move_into_link_name_space(mounted.namespace.as_fd(), Some(LinkNameSpaceType::Mount))?)
            });
        }
    }

    fn filler(&self) -> PathBuf {
        self.0.path.join("filler")
    }
}

fn enter_new_mount_namespace() -> io::Result<()> {
    // SAFETY: this thread holds nothing that depends on its mounts or on the root folder shared with others.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
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
