//! What goes wrong on real machines, made on purpose.

mod disk;
mod syscalls;

pub use disk::Disk;
pub use syscalls::Syscalls;
