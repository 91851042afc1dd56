//! How many buffers the spool keeps.

use tidegate_storage::Pool;

/// Buffers kept for reuse: one commit a lane and one read in flight, for the daemon's three lanes.
const COUNT: usize = 4;

/// Larger buffers go back to the allocator: they come from rare records near the payload limit, and a
/// pool of those would hold megabytes on an idle gateway.
const CAPACITY: usize = 256 * 1024;

pub(crate) fn pool() -> Pool {
    Pool::keeping(COUNT, CAPACITY)
}
