//! Block-aligned buffers, and a small pool that keeps a few of them warm.
//!
//! `O_DIRECT` asks for memory, offset and length aligned to the device's logical block; 4 KiB serves
//! every device Linux knows (open(2), `O_DIRECT`). The same buffers serve buffered files, so that there
//! is one path to test.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ops::Deref,
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::BLOCK;

/// Memory of a buffer. Always whole blocks, always initialised.
#[derive(Debug)]
struct Memory {
    start: NonNull<u8>,
    capacity: usize,
}

// SAFETY: `Memory` owns its allocation alone, as a `Box<[u8]>` would; nothing in it is tied to a thread.
unsafe impl Send for Memory {}
// SAFETY: a shared reference gives read access to plain bytes only.
unsafe impl Sync for Memory {}

impl Memory {
    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, BLOCK).expect("capacities are whole blocks of a few MiB at most")
    }

    fn new(capacity: usize) -> Self {
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero, `Pool::take` asks for one block at least.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, capacity }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout, freed here only.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
    }
}

/// Where buffers come from. Clones share the same store.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Store>);

#[derive(Debug)]
struct Store {
    count: usize,
    capacity: usize,
    kept: Mutex<Vec<Memory>>,
}

impl Pool {
    /// A pool that keeps `count` buffers at most for reuse, none of more than `capacity` bytes; others go back to the
    /// allocator.
    #[must_use]
    pub fn keeping(count: usize, capacity: usize) -> Self {
        Self(Arc::new(Store { count, capacity, kept: Mutex::default() }))
    }

    /// A buffer of length 0 with room for `capacity` bytes or more.
    #[must_use]
    pub fn take(&self, capacity: usize) -> Buffer {
        let capacity = capacity.max(1).next_multiple_of(BLOCK);
        let mut kept = self.kept();
        let fitting = kept.iter().position(|memory| memory.capacity >= capacity);
        let memory = fitting.map(|index| kept.swap_remove(index));
        drop(kept);
        Buffer { memory: Some(memory.unwrap_or_else(|| Memory::new(capacity))), length: 0, pool: self.clone() }
    }

    fn give_back(&self, memory: Memory) {
        let mut kept = self.kept();
        if kept.len() < self.0.count && memory.capacity <= self.0.capacity {
            kept.push(memory);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Memory>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Aligned bytes. Returns its memory to the pool when dropped, on whichever thread that is.
#[derive(Debug)]
pub struct Buffer {
    /// `None` only inside `drop`.
    memory: Option<Memory>,
    length: usize,
    pool: Pool,
}

impl Buffer {
    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("taken in drop only")
    }

    /// Bytes that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory().capacity
    }

    /// Bytes still free.
    #[must_use]
    pub fn room(&self) -> usize {
        self.capacity() - self.length
    }

    /// Sets the length. Bytes that become visible hold what the memory held before: the caller
    /// overwrites them, or has just had the system do so.
    ///
    /// # Panics
    ///
    /// Where `length` is over the capacity.
    pub fn set_len(&mut self, length: usize) {
        assert!(length <= self.capacity(), "length {length} over capacity {}", self.capacity());
        self.length = length;
    }

    /// Appends bytes.
    ///
    /// # Panics
    ///
    /// Where they do not fit.
    pub fn extend(&mut self, bytes: &[u8]) {
        let start = self.length;
        self.set_len(start + bytes.len());
        self.as_mut()[start..].copy_from_slice(bytes);
    }

    /// Appends zeros.
    ///
    /// # Panics
    ///
    /// Where they do not fit.
    pub fn extend_zeros(&mut self, count: usize) {
        let start = self.length;
        self.set_len(start + count);
        self.as_mut()[start..].fill(0);
    }

    /// Start of the memory.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.memory().start.as_ptr()
    }

    /// Start of the memory.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.memory().start.as_ptr()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `length <= capacity` by `set_len`, all of the memory is initialised, and it lives as
        // long as `self`.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.length) }
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_ref`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.length) }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.give_back(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let pool = Pool::keeping(1, 8192);
        let mut buffer = pool.take(5000);
        assert_eq!(buffer.as_ptr() as usize % BLOCK, 0);
        assert_eq!(buffer.capacity(), 8192);
        buffer.extend(b"abc");
        buffer.extend_zeros(2);
        assert_eq!(&buffer[..], b"abc\0\0");
        let address = buffer.as_ptr();
        drop(buffer);
        assert_eq!(pool.take(100).as_ptr(), address);
    }

    #[test]
    fn large_buffers_are_not_hoarded() {
        let pool = Pool::keeping(1, BLOCK);
        drop(pool.take(BLOCK + 1));
        assert!(pool.kept().is_empty());
    }

    #[test]
    fn no_more_buffers_are_kept_than_asked_for() {
        let pool = Pool::keeping(2, BLOCK);
        drop([pool.take(1), pool.take(1), pool.take(1)]);
        assert_eq!(pool.kept().len(), 2);
    }
}
