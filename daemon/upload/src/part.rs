//! How much goes into one request. Pure.
//!
//! A server may keep what it received of a request that was cut off, or none of it; it may end requests that take minutes.
//! So a part is what the link carries within [`LASTS`], and smaller where parts were lost, so that each attempt gets somewhere.

use std::time::Duration;

use crate::progress::per_second;

/// How long one part should take: node ends requests after 5 minutes, proxies after one without an answer.
pub const LASTS: Duration = Duration::from_secs(45);
/// What is begun with, when nothing is known of the link.
const FIRST_BYTES: u64 = 8 << 20;
/// The smallest part: at 64 kbit/s it takes half a minute.
pub const LEAST_BYTES: u64 = 256 << 10;

/// The size of the next part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartSize(u64);

impl Default for PartSize {
    fn default() -> Self {
        Self(FIRST_BYTES)
    }
}

impl PartSize {
    /// Bytes of the next part, of at most `most`.
    #[must_use]
    pub fn bytes(self, most: u64) -> u64 {
        self.0.clamp(LEAST_BYTES, most.max(LEAST_BYTES))
    }

    /// A part of `bytes` went through in `took`: the next one may be larger, as far as it would be through in time.
    pub fn went_through(&mut self, bytes: u64, took: Duration, most: u64) {
        let in_time = per_second(bytes, took).saturating_mul(LASTS.as_secs());
        // A short last part says little about the link.
        let grown = if bytes >= self.0 / 2 { self.0.saturating_mul(4) } else { self.0 };
        self.0 = grown.min(in_time.max(LEAST_BYTES)).clamp(LEAST_BYTES, most.max(LEAST_BYTES));
    }

    /// A part was cut off, and the server does not have `lost` bytes of it.
    pub fn was_cut(&mut self, lost: u64) {
        // What was in buffers on the way is lost with any connection.
        if lost > LEAST_BYTES {
            self.0 = (lost / 2).clamp(LEAST_BYTES, self.0.max(LEAST_BYTES));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 64 << 20;

    #[test]
    fn parts_grow_with_the_link_up_to_what_is_configured() {
        let mut size = PartSize::default();
        for _ in 0..3 {
            let bytes = size.bytes(MOST);
            size.went_through(bytes, Duration::from_millis(10), MOST);
        }
        assert_eq!(size.bytes(MOST), MOST);
        assert_eq!(size.bytes(1 << 20), 1 << 20);
        size.went_through(MOST, Duration::from_secs(90), MOST);
        assert!(MOST / 2 - size.bytes(MOST) < 64, "it took twice as long as it should");
    }

    #[test]
    fn parts_that_are_lost_become_small_enough_to_get_through() {
        let mut size = PartSize::default();
        size.was_cut(6 << 20);
        assert_eq!(size.bytes(MOST), 3 << 20);
        size.was_cut(2 << 20);
        size.was_cut(1 << 20);
        size.was_cut(400 << 10);
        assert_eq!(size.bytes(MOST), LEAST_BYTES);
        size.was_cut(64 << 10);
        assert_eq!(size.bytes(MOST), LEAST_BYTES);
    }

    #[test]
    fn what_the_server_kept_of_a_cut_part_says_nothing_against_its_size() {
        let mut size = PartSize::default();
        size.was_cut(100_000);
        assert_eq!(size, PartSize::default());
    }
}
