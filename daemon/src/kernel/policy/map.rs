//! The map of one generation, and windows into it.
//!
//! The kernel takes a map into a slot only if it is made as the slot's template says: an array with 4-byte keys, 64-byte
//! values, `BPF_F_MMAPABLE`, and exactly as many entries (`array_map_meta_equal` of kernel/bpf/arraymap.c).

use std::{
    ffi::c_long,
    io,
    ops::Range,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::AtomicU64,
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use tidegate_abi::policy::{Block, GENERATION_FLAGS, LARGE_BLOCKS, SMALL_BLOCKS};

use crate::kernel::syscall::bpf;

/// `enum bpf_cmd`
const BPF_MAP_CREATE: c_long = 0;
/// `enum bpf_cmd`
const BPF_OBJ_GET_INFO_BY_FD: c_long = 15;
/// `enum bpf_map_type`
const BPF_MAP_TYPE_ARRAY: u32 = 2;

/// Bytes of a block, and of one of its words.
const BLOCK: usize = size_of::<Block>();
const WORD: usize = size_of::<u64>();

/// Which of the two slots a generation goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// [`SMALL_BLOCKS`].
    Small,
    /// [`LARGE_BLOCKS`].
    Large,
}

impl Size {
    /// The smallest that holds so many blocks; `None` where none does.
    #[must_use]
    pub(super) const fn holding(blocks: usize) -> Option<Self> {
        match blocks {
            blocks if blocks <= SMALL_BLOCKS as usize => Some(Self::Small),
            blocks if blocks <= LARGE_BLOCKS as usize => Some(Self::Large),
            _ => None,
        }
    }

    /// Entries of its map.
    #[must_use]
    pub(super) const fn blocks(self) -> u32 {
        match self {
            Self::Small => SMALL_BLOCKS,
            Self::Large => LARGE_BLOCKS,
        }
    }
}

/// A map that holds one generation. The kernel keeps it for as long as this, a [`Window`] or a slot does.
#[derive(Debug)]
pub(super) struct GenerationMap {
    fd: OwnedFd,
    /// The kernel's number of it.
    pub id: u32,
}

impl GenerationMap {
    /// Makes an empty one.
    ///
    /// # Errors
    ///
    /// The system's: `ENOMEM` where the machine or the cgroup has no room. Nothing is left then.
    pub(super) fn create(size: Size) -> io::Result<Self> {
        let mut attr = CreateAttr {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: u32::try_from(BLOCK).expect("64"),
            max_entries: size.blocks(),
            map_flags: GENERATION_FLAGS,
            inner_map_fd: 0,
            numa_node: 0,
            map_name: *b"TG_GENERATION\0\0\0",
        };
        // SAFETY: laid out as the kernel's, and without pointers.
        let created = unsafe { bpf(BPF_MAP_CREATE, &mut attr) }?;
        let fd = i32::try_from(created).expect("descriptors are small");
        // SAFETY: the command returns a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let id = id_of(fd.as_fd())?;
        Ok(Self { fd, id })
    }

    /// Maps these blocks.
    ///
    /// # Errors
    ///
    /// The system's: `EINVAL` where the map is not so long.
    pub(super) fn window(&self, blocks: Range<u32>) -> io::Result<Window> {
        Window::open(self.fd.as_fd(), blocks)
    }

    /// For the slot.
    #[must_use]
    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

/// The kernel's number of a map, which is what a slot answers when it is read.
fn id_of(map: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = MapInfo::default();
    let mut attr = InfoAttr {
        fd: map.as_raw_fd().cast_unsigned(),
        length: u32::try_from(size_of::<MapInfo>()).expect("8"),
        info: ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: laid out as the kernel's; it writes at most `length` bytes to `info`, which outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info.id)
}

/// Some blocks of a generation's map in our address space, shared with the kernel's programs. It keeps the map alive.
#[derive(Debug)]
pub(super) struct Window {
    /// Where the mapping begins.
    base: NonNull<u64>,
    /// Its bytes.
    length: usize,
    /// Words from there to the first block.
    lead: usize,
    blocks: Range<u32>,
}

// SAFETY: it owns its mapping; words are read and written as atomics only, except by `fill`, which is exclusive.
unsafe impl Send for Window {}

impl Window {
    fn open(map: BorrowedFd<'_>, blocks: Range<u32>) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let start = blocks.start as usize * BLOCK;
        let end = (blocks.end as usize * BLOCK).next_multiple_of(page);
        let lead = start % page;
        let (offset, length) = (start - lead, end - (start - lead));
        let flags = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice, which it keeps in physical memory for as long as it
        // is mapped (the kernel refuses ranges behind the map's end).
        let base = unsafe { mmap(ptr::null_mut(), length, flags.0, flags.1, map, offset as u64) }?;
        let base = NonNull::new(base.cast()).expect("a successful mmap is not at zero");
        Ok(Self { base, length, lead: lead / WORD, blocks })
    }

    /// Copies blocks to its beginning, before the kernel's programs see the map.
    ///
    /// # Panics
    ///
    /// Where they do not fit.
    pub(super) fn fill(&mut self, blocks: &[Block]) {
        assert!(blocks.len() <= self.blocks.len(), "{} blocks into {:?}", blocks.len(), self.blocks);
        let to = self.at(self.lead).as_ptr().cast::<Block>();
        // SAFETY: source and destination have that many blocks (asserted above), are aligned and apart, and nobody else uses
        // the destination: `self` is exclusive here, and no program sees the map yet.
        unsafe { ptr::copy_nonoverlapping(blocks.as_ptr(), to, blocks.len()) };
    }

    /// One of a block's eight words, which the kernel's programs may be writing.
    ///
    /// # Panics
    ///
    /// Where it is outside.
    #[must_use]
    pub(super) fn word(&self, block: u32, word: usize) -> &AtomicU64 {
        assert!(self.blocks.contains(&block) && word < 8, "word {word} of block {block} in {:?}", self.blocks);
        let at = self.at(self.lead + (block - self.blocks.start) as usize * (BLOCK / WORD) + word);
        // SAFETY: inside of the mapping (asserted above), aligned, and alive as long as `self`.
        // Whoever else accesses it, here or in the kernel, does so by whole aligned words.
        unsafe { AtomicU64::from_ptr(at.as_ptr()) }
    }

    /// # Panics
    ///
    /// Where it is outside.
    fn at(&self, word: usize) -> NonNull<u64> {
        assert!(word * WORD < self.length, "word {word} of {} bytes", self.length);
        // SAFETY: inside of the mapping.
        unsafe { self.base.add(word) }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the whole of a mapping that `open` made; nothing borrows from it any more.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok(), "an own mapping can be unmapped: {unmapped:?}");
    }
}

// Members of `union bpf_attr` (uapi/linux/bpf.h) and the beginning of `struct bpf_map_info`, as far as they are used.

#[repr(C)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
}

const _: () = assert!(size_of::<CreateAttr>() == 44 && size_of::<MapInfo>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_goes_to_the_smallest_map_that_holds_it() {
        let small = SMALL_BLOCKS as usize;
        let large = LARGE_BLOCKS as usize;
        let sizes = [1, small, small + 1, large, large + 1].map(Size::holding);
        assert_eq!(sizes, [Some(Size::Small), Some(Size::Small), Some(Size::Large), Some(Size::Large), None]);
    }
}
