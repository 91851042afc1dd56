//! What the allocator keeps of what was freed.
//!
//! A daemon that is idle for most of its life must not stay as large as its largest moment: reading the eBPF object
//! takes 1.5 MB for a moment, the kernel's type information 20 MB. glibc would keep both, for two reasons. It raises
//! the size from which it returns memory to twice that of the largest block ever freed, and `malloc_trim` leaves
//! the end of every heap but the first one's alone. Threads have heaps of their own.

/// Lets freed memory at the end of any heap go from 128 KiB on, for good. For the start, before there are threads.
pub fn stay_small() {
    // SAFETY: no preconditions; it changes a number that the allocator looks at.
    #[cfg(target_env = "gnu")]
    let _known_to_every_glibc = unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 10) };
}

/// Gives back what is free between what is in use, too. For after a large moment.
pub fn give_back() {
    // SAFETY: no preconditions; it only returns memory that is free.
    #[cfg(target_env = "gnu")]
    let _nothing_was_free = unsafe { libc::malloc_trim(0) };
}
