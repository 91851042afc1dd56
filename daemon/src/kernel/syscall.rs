//! bpf(2) itself, for the commands that aya has not.

use std::{ffi::c_long, io};

/// Calls bpf(2) with a command of `enum bpf_cmd`; what it returns, a file descriptor for some.
///
/// # Errors
///
/// The system's.
///
/// # Safety
///
/// `attr` must be laid out as the command's member of `union bpf_attr` is, without padding that is not zero, and
/// what its pointers point to must be valid for what the command reads and writes there.
pub(super) unsafe fn bpf<A>(command: c_long, attr: &mut A) -> io::Result<c_long> {
    // SAFETY: the size is that of what the pointer points to; the rest is the caller's promise.
    let returned = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}
