//! `io_uring` by `tokio-uring`, on the spool's own thread.

use std::{
    fs, io,
    mem::ManuallyDrop,
    os::fd::{AsRawFd as _, BorrowedFd},
    path::Path,
};

use io_uring::{IoUring, Probe, opcode};
use tokio_uring::{
    buf::{BoundedBuf as _, IoBuf, IoBufMut},
    fs::File,
};

use super::{Access, Name, Storage, posix};
use crate::{buffer::Buffer, format::BLOCK};

/// Entries of the submission queue: each lane has one write or one sync under way, there is one read,
/// and closing adds one. Eight lanes, rounded up to a power of two.
const ENTRIES: u32 = 16;

/// Asks the kernel for a ring and sends a no-op through it.
///
/// `tokio-uring` panics where the ring is refused, and a seccomp filter may allow `io_uring_setup` but
/// not `io_uring_enter`: so both are tried before it is started.
///
/// # Errors
///
/// `EPERM` (seccomp, `kernel.io_uring_disabled`), `ENOSYS` (not built in, emulation), `EACCES`
/// (security module), `ENOMEM` (locked-memory limit before Linux 5.12), or an operation that is missing.
pub fn probe() -> io::Result<()> {
    let mut ring = IoUring::new(ENTRIES)?;
    let mut operations = Probe::new();
    ring.submitter().register_probe(&mut operations)?;
    for (name, code) in [("READ", opcode::Read::CODE), ("WRITE", opcode::Write::CODE), ("FSYNC", opcode::Fsync::CODE)] {
        if !operations.is_supported(code) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, format!("io_uring lacks {name}")));
        }
    }
    let nop = opcode::Nop::new().build();
    // SAFETY: a no-op names no memory that would have to outlive it.
    unsafe { ring.submission().push(&nop) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    Ok(())
}

/// Runs a future to its end on this thread, with a ring.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut ring = tokio_uring::builder();
    ring.entries(ENTRIES);
    ring.start(future)
}

/// Data and syncs through the ring. Use inside `tokio_uring::start` only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uring;

// SAFETY: the memory is on the heap and does not move with the `Buffer`; the initialised length is the
// whole capacity, as `Buffer` guarantees.
unsafe impl IoBuf for Buffer {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }

    fn bytes_total(&self) -> usize {
        self.capacity()
    }
}

// SAFETY: as for `IoBuf`; `set_init` only ever makes initialised bytes visible.
unsafe impl IoBufMut for Buffer {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }

    unsafe fn set_init(&mut self, pos: usize) {
        if pos > self.len() {
            self.set_len(pos);
        }
    }
}

fn borrow(file: &File) -> BorrowedFd<'_> {
    // SAFETY: `file` keeps the descriptor open for the borrow's lifetime.
    unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) }
}

impl Storage for Uring {
    /// Closed by [`Storage::close`], never by dropping, which would submit a close nobody waits for.
    type File = ManuallyDrop<File>;

    fn name(&self) -> &'static str {
        "uring"
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<Name>> {
        posix::list(dir)
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        posix::create_dir(dir)
    }

    async fn open(&self, path: &Path, access: Access, direct: bool) -> io::Result<Self::File> {
        posix::open(path, access, direct).map(|file| ManuallyDrop::new(File::from_std(file)))
    }

    async fn close(&self, file: Self::File) {
        // The descriptor is gone whatever close(2) answers, and all that matters was synced before.
        let _answer = ManuallyDrop::into_inner(file).close().await;
    }

    async fn allocate(&self, file: &Self::File, bytes: u64) -> io::Result<()> {
        posix::allocate(&borrow(file), bytes)
    }

    async fn truncate(&self, file: &Self::File, bytes: u64) -> io::Result<()> {
        posix::truncate(&borrow(file), bytes)
    }

    async fn read(&self, file: &Self::File, mut buffer: Buffer, offset: u64) -> (io::Result<()>, Buffer) {
        let wanted = buffer.len();
        let mut filled = 0;
        while filled < wanted {
            let (answer, slice) = file.read_at(buffer.slice(filled..wanted), offset + filled as u64).await;
            buffer = slice.into_inner();
            match answer {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), buffer),
            }
            // See `threads`: the end of the file under O_DIRECT.
            if !filled.is_multiple_of(BLOCK) {
                break;
            }
        }
        buffer.set_len(filled);
        (Ok(()), buffer)
    }

    async fn write(&self, file: &Self::File, mut buffer: Buffer, offset: u64) -> (io::Result<()>, Buffer) {
        let wanted = buffer.len();
        let mut written = 0;
        while written < wanted {
            let (answer, slice) = file.write_at(buffer.slice(written..wanted), offset + written as u64).submit().await;
            buffer = slice.into_inner();
            match answer {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buffer),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(()), buffer)
    }

    async fn sync(&self, file: &Self::File) -> io::Result<()> {
        file.sync_data().await
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
