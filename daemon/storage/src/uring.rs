//! `io_uring` by `tokio-uring`, on the calling thread.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use io_uring::{IoUring, Probe, opcode};
use tokio_uring::{
    Runtime,
    buf::{BoundedBuf as _, IoBuf, IoBufMut},
    fs::File,
};

use crate::{BLOCK, Buffer};

/// Entries of the submission queue. The spool asks for most: each lane has one write or one sync under way, there is
/// one read, and closing adds one. Eight lanes, rounded up to a power of two.
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
pub(crate) fn probe() -> io::Result<()> {
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
pub(crate) fn block_on(future: impl Future<Output = ()>) -> io::Result<()> {
    Runtime::new(tokio_uring::builder().entries(ENTRIES)).map(|runtime| runtime.block_on(future))
}

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

pub(crate) fn borrow(file: &File) -> BorrowedFd<'_> {
    // SAFETY: `file` keeps the descriptor open for the borrow's lifetime.
    unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) }
}

pub(crate) async fn close(file: File) {
    // The descriptor is gone whatever close(2) answers, and all that matters was synced before.
    let _answer = file.close().await;
}

pub(crate) async fn read(file: &File, mut buffer: Buffer, offset: u64) -> (io::Result<()>, Buffer) {
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

pub(crate) async fn write(file: &File, mut buffer: Buffer, offset: u64) -> (io::Result<()>, Buffer) {
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
