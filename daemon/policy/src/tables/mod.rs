//! A compiled policy: the blocks that the kernel judges by, as [`tidegate_abi::policy`] lays them out.
//!
//! [`compile`](super::compile()) makes them, `kernel` copies them into a map. [`walk`] finds its way through them as the
//! programs do, which tests do without a kernel.

mod entry;
mod walk;

use std::sync::Arc;

use tidegate_abi::policy::{Block, Header, LARGE_BLOCKS, SMALL_BLOCKS};

pub use entry::{read, words};
pub use walk::{Key, walk};

/// A generation before the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// What the map is to hold, from entry 0 on; at most [`LARGE_BLOCKS`].
    pub blocks: Vec<Block>,
    /// Interface list n: the names and globs whose interfaces have bit n in the masks. The compiler leaves the masks
    /// zero, since it knows no interfaces.
    pub interface_lists: Vec<Arc<[String]>>,
}

/// Which of the two kinds of map a generation fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// [`SMALL_BLOCKS`].
    Small,
    /// [`LARGE_BLOCKS`].
    Large,
}

impl Tables {
    /// The smallest map that holds it.
    #[must_use]
    pub const fn size(&self) -> Size {
        if self.blocks.len() <= SMALL_BLOCKS as usize { Size::Small } else { Size::Large }
    }

    /// Block 0. Rule 0 is the default, rule n the bundle's rule n - 1.
    #[must_use]
    pub fn header(&self) -> Header {
        read(&self.blocks[0])
    }
}

impl Size {
    /// Entries of the map.
    #[must_use]
    pub const fn blocks(self) -> u32 {
        match self {
            Self::Small => SMALL_BLOCKS,
            Self::Large => LARGE_BLOCKS,
        }
    }
}
