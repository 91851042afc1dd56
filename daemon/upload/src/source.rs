//! The content of a file, a frame at a time, as it was when it was taken.
//!
//! What the page cache has is read from there. What it has not is read past it (`O_DIRECT`) where the file system can, so that
//! a large file does not push out what the gateway works with; where it cannot, what was read is given back (`fadvise`). A file
//! in memory (tmpfs) is read as if it were cached.
//! The first frame of a large file that is not cached ends the looking there: a read that only looks (`RWF_NOWAIT`) makes
//! Linux read ahead all the same, and so the file would be cached by asking whether it is.

use std::{
    cell::Cell,
    fs::{self, File},
    io::{self, IoSliceMut},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::OpenOptionsExt as _,
    },
};

use rustix::{
    fs::{Advice, FsWord, fadvise, fstatfs},
    io::{Errno, ReadWriteFlags, preadv2},
};
use tidegate_storage::{Backend, File as Stored, Storage as _};

use crate::{
    codec::FRAME_BYTES,
    outbox::Identity,
    slots::Slotted,
    trouble::{Kind, Trouble},
};

/// Files below this are read through the page cache: one read brings all of them, and the second pass finds it there.
const DIRECT_FROM: u64 = 8 << 20;
/// `TMPFS_MAGIC` and `RAMFS_MAGIC` (linux/magic.h).
const IN_MEMORY: [FsWord; 2] = [0x0102_1994, 0x8584_58f6];

/// An open file. Close it with [`Self::close`].
pub(crate) struct Source {
    backend: Backend,
    /// For what is cached, and for whether the file is still the same.
    plain: File,
    /// For what is not.
    stored: Stored,
    direct: bool,
    /// Whether there is no disk below: all of it is cached, though the file system cannot say so.
    in_memory: bool,
    /// Whether the page cache had all that was wanted so far.
    cached: Cell<bool>,
    identity: Identity,
}

impl Source {
    /// Takes an open file over; it has to be the one that `identity` says.
    pub(crate) fn new(backend: Backend, plain: File, identity: Identity) -> Result<Self, Trouble> {
        let in_memory = fstatfs(&plain).is_ok_and(|found| IN_MEMORY.contains(&found.f_type));
        let wants_direct = identity.size >= DIRECT_FROM && !in_memory;
        let direct = if wants_direct { reopened(&plain, libc::O_DIRECT).ok() } else { None };
        let is_direct = direct.is_some();
        let stored = match direct {
            Some(direct) => direct,
            None => plain.try_clone().map_err(|error| unreadable(&error))?,
        };
        let source = Self {
            backend,
            plain,
            stored: backend.adopt(stored),
            direct: is_direct,
            in_memory,
            cached: Cell::new(true),
            identity,
        };
        source.check()?;
        Ok(source)
    }

    /// Bytes of it.
    pub(crate) const fn size(&self) -> u64 {
        self.identity.size
    }

    /// Frames of it.
    pub(crate) const fn frames(&self) -> u64 {
        self.identity.size.div_ceil(FRAME_BYTES as u64)
    }

    /// Fills `slot` with frame `index`.
    ///
    /// # Errors
    ///
    /// The file is not what it was, or cannot be read.
    pub(crate) async fn read(&self, index: u64, slot: &mut Slotted) -> Result<(), Trouble> {
        let offset = index * FRAME_BYTES as u64;
        let wanted = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(FRAME_BYTES).min(FRAME_BYTES);
        let large = self.size() >= DIRECT_FROM;
        let looks = self.cached.get() || !large;
        if !looks || !self.read_cached(offset, wanted, slot).map_err(|error| unreadable(&error))? {
            self.cached.set(false);
            let mut buffer = slot.take_buffer();
            buffer.set_len(FRAME_BYTES);
            let (read, buffer) = self.backend.read(&self.stored, buffer, offset).await;
            slot.put_back(buffer);
            read.map_err(|error| unreadable(&error))?;
            if large && !self.direct {
                // Read once: whoever needs it again reads it again.
                let _best_effort =
                    fadvise(&self.plain, offset, std::num::NonZeroU64::new(wanted as u64), Advice::DontNeed);
            }
        }
        self.check()?;
        if slot.buffer().len() < wanted {
            return Err(Trouble::new(Kind::Changed, "the file became shorter while it was read"));
        }
        slot.buffer().set_len(wanted);
        Ok(())
    }

    /// Reads what the page cache has all of.
    fn read_cached(&self, offset: u64, wanted: usize, slot: &mut Slotted) -> io::Result<bool> {
        let buffer = slot.buffer();
        buffer.set_len(wanted);
        let flags = if self.in_memory { ReadWriteFlags::empty() } else { ReadWriteFlags::NOWAIT };
        let mut filled = 0;
        while filled < wanted {
            let mut rest = [IoSliceMut::new(&mut buffer.as_mut()[filled..])];
            match preadv2(&self.plain, &mut rest, offset + filled as u64, flags) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                // Not cached, or a file system or a kernel that cannot say.
                Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        buffer.set_len(filled);
        Ok(true)
    }

    /// Whether the file is still the one that was taken.
    pub(crate) fn check(&self) -> Result<(), Trouble> {
        let now = Identity::of(self.plain.as_fd()).map_err(|error| unreadable(&error.into()))?;
        if now == self.identity {
            Ok(())
        } else {
            Err(Trouble::new(Kind::Changed, "the file was changed after it was handed over"))
        }
    }

    /// Closes the file.
    pub(crate) async fn close(self) {
        self.backend.close(self.stored).await;
    }
}

/// The same file, opened once more with other flags: its name may be another's by now.
fn reopened(file: &File, flags: i32) -> io::Result<File> {
    fs::OpenOptions::new().read(true).custom_flags(flags).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn unreadable(error: &io::Error) -> Trouble {
    Trouble::new(Kind::Unreadable, format!("the file cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::Slots;

    #[tokio::test]
    async fn a_file_in_memory_is_read_as_if_it_were_cached() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("Linux has a folder in memory");
        let path = dir.path().join("file");
        let length = usize::try_from(DIRECT_FROM).unwrap() + 77;
        let mut random = fastrand::Rng::with_seed(3);
        let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        assert!(fstatfs(&file).is_ok_and(|found| IN_MEMORY.contains(&found.f_type)));
        let identity = Identity::of(file.as_fd()).unwrap();
        let source = Source::new(Backend::Threads, file, identity).unwrap();
        let slots = Slots::new();
        let mut read = Vec::new();
        for index in 0..source.frames() {
            let mut slot = slots.take().await;
            source.read(index, &mut slot).await.unwrap();
            read.extend_from_slice(slot.buffer());
        }
        assert!(read == content);
        assert!(source.cached.get() && !source.direct, "nothing went by the way of disks");
    }
}
