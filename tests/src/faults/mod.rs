//! What goes wrong on real machines, made on purpose.

mod disk;
mod memory;
mod syscalls;

pub use disk::Disk;
pub use memory::MemoryGroup;
pub use syscalls::Syscalls;
