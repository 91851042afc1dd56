//! TCX links (Linux 6.6) by bpf(2).
//!
//! aya has them, too, but by the interface's *name*, which may have moved to another one meanwhile; its pinning loses
//! the link where it fails; and it cannot tell what a pinned link is attached to, nor detach one at once. Removing a
//! pin and closing the descriptor alone lets the program run on for some milliseconds, until the kernel gets round to
//! freeing the file.
//!
//! None of this needs `CAP_SYS_ADMIN`; opening a pin needs the permissions of its file.

use std::{
    ffi::{CString, c_long},
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::syscall::bpf;

// `enum bpf_cmd`
const BPF_OBJ_PIN: c_long = 6;
const BPF_OBJ_GET: c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: c_long = 15;
const BPF_LINK_CREATE: c_long = 28;
const BPF_LINK_UPDATE: c_long = 29;
const BPF_LINK_DETACH: c_long = 34;
/// `enum bpf_attach_type`
const BPF_TCX_INGRESS: u32 = 46;
/// `enum bpf_attach_type`
const BPF_TCX_EGRESS: u32 = 47;
/// `enum bpf_link_type`
const BPF_LINK_TYPE_TCX: u32 = 11;
/// Before the program that is named, or first of all where none is.
const BPF_F_BEFORE: u32 = 1 << 3;

/// Which of an interface's two hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Received packets.
    Ingress,
    /// Packets about to be sent.
    Egress,
}

impl Direction {
    /// As it stands in the names of pins.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    const fn attach_type(self) -> u32 {
        match self {
            Self::Ingress => BPF_TCX_INGRESS,
            Self::Egress => BPF_TCX_EGRESS,
        }
    }
}

/// A program on one hook of one interface, for as long as this or a pin of it exists.
#[derive(Debug)]
pub(super) struct TcxLink(OwnedFd);

impl TcxLink {
    /// Attaches a program before all others that are there now.
    ///
    /// # Errors
    ///
    /// The system's: `EINVAL` before Linux 6.6, `ENODEV` where the interface is gone.
    pub(super) fn create(program: BorrowedFd<'_>, ifindex: u32, direction: Direction) -> io::Result<Self> {
        let mut attr = CreateAttr {
            prog_fd: raw(program),
            target_ifindex: ifindex,
            attach_type: direction.attach_type(),
            flags: BPF_F_BEFORE,
            relative_fd: 0,
            unused: 0,
            expected_revision: 0,
        };
        // SAFETY: laid out as the kernel's, and without pointers.
        let created = unsafe { bpf(BPF_LINK_CREATE, &mut attr) }?;
        // SAFETY: the command returns a new descriptor.
        Ok(Self(unsafe { owned(created) }))
    }

    /// Opens a link that is pinned there.
    ///
    /// # Errors
    ///
    /// The system's: `ENOENT` where there is none, `EACCES` where the file belongs to another user.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut attr = ObjectAttr { pathname: path.as_ptr() as u64, fd: 0, file_flags: 0 };
        // SAFETY: laid out as the kernel's; the path ends with NUL and outlives the call.
        let opened = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
        // SAFETY: the command returns a new descriptor.
        Ok(Self(unsafe { owned(opened) }))
    }

    /// Pins it there: it then outlives this process.
    ///
    /// # Errors
    ///
    /// The system's; the link is as it was then.
    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut attr =
            ObjectAttr { pathname: path.as_ptr() as u64, fd: self.0.as_raw_fd().cast_unsigned(), file_flags: 0 };
        // SAFETY: laid out as the kernel's; the path ends with NUL and outlives the call.
        unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(|_zero| ())
    }

    /// What it is attached to.
    ///
    /// # Errors
    ///
    /// The system's; `InvalidData` for a link of another kind.
    pub(super) fn target(&self) -> io::Result<Target> {
        let mut info = LinkInfo::default();
        let mut attr = InfoAttr {
            fd: self.0.as_raw_fd().cast_unsigned(),
            length: u32::try_from(size_of::<LinkInfo>()).expect("24"),
            info: std::ptr::from_mut(&mut info) as u64,
        };
        // SAFETY: laid out as the kernel's; it writes at most `length` bytes to `info`, which outlives the call.
        unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
        if info.kind != BPF_LINK_TYPE_TCX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("wanted a TCX link (type {BPF_LINK_TYPE_TCX}), found type {}", info.kind),
            ));
        }
        Ok(Target { ifindex: info.ifindex, attach_type: info.attach_type })
    }

    /// Puts another program in the place of the one that is attached: each packet meets the one or the other.
    ///
    /// # Errors
    ///
    /// The system's: `ENOLINK` where the interface is gone.
    pub(super) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attr = UpdateAttr {
            link_fd: self.0.as_raw_fd().cast_unsigned(),
            new_prog_fd: raw(program),
            flags: 0,
            old_prog_fd: 0,
        };
        // SAFETY: laid out as the kernel's, and without pointers.
        unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(|_zero| ())
    }

    /// Takes the program off, at once and whoever else holds the link.
    ///
    /// # Errors
    ///
    /// The system's; an interface that is gone is none.
    pub(super) fn detach(&self) -> io::Result<()> {
        let mut attr = DetachAttr { link_fd: self.0.as_raw_fd().cast_unsigned() };
        // SAFETY: laid out as the kernel's, and without pointers.
        unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(|_zero| ())
    }
}

/// Where a link is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    ifindex: u32,
    attach_type: u32,
}

impl Target {
    /// Whether it is this hook.
    #[must_use]
    pub(super) const fn is(self, ifindex: u32, direction: Direction) -> bool {
        self.ifindex == ifindex && self.attach_type == direction.attach_type()
    }

    /// Whether its interface is gone: the link stays then, attached to nothing.
    #[must_use]
    pub(super) const fn is_gone(self) -> bool {
        self.ifindex == 0
    }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// # Safety
///
/// `returned` is a descriptor that nobody else owns.
unsafe fn owned(returned: c_long) -> OwnedFd {
    let fd = i32::try_from(returned).expect("descriptors are small");
    // SAFETY: the caller's promise.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

// Members of `union bpf_attr` (uapi/linux/bpf.h), as far as they are used, and `struct bpf_link_info` as of TCX.

#[repr(C)]
struct CreateAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    unused: u32,
    expected_revision: u64,
}

#[repr(C)]
struct ObjectAttr {
    pathname: u64,
    fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
struct UpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
struct DetachAttr {
    link_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    /// What follows is a union of structures that are aligned to 8.
    unused: u32,
    ifindex: u32,
    attach_type: u32,
}

const _: () = assert!(size_of::<CreateAttr>() == 32 && size_of::<LinkInfo>() == 24);
