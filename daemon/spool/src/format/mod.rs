//! The bytes on disk: `docs/spool-format.md` is the specification, its golden bytes are tested in
//! `tests/format.rs`. Everything is little-endian; every parser takes any bytes without panicking.

mod fields;
pub mod frame;
pub mod header;
pub mod meta;
pub mod walk;

/// Also the size of a segment's header.
pub use tidegate_storage::BLOCK;

/// [`BLOCK`] as an offset.
pub const BLOCK_BYTES: u64 = BLOCK as u64;

/// Where the frames of a segment start.
pub const FIRST_FRAME: u64 = BLOCK_BYTES;

/// Version of the format.
pub const VERSION: u16 = 1;

/// Longest stream name in bytes.
pub const MAX_STREAM_NAME: usize = 96;

/// Longest lane name in bytes.
pub const MAX_LANE_NAME: usize = 32;

/// Streams that a lane carries at most: as many entries as a segment's header holds when every name is
/// as long as it may be, 112 + 36 × (12 + 96) = 4,000 bytes of 4,096.
pub const MAX_STREAMS: usize = 36;

/// Lanes of a spool at most. Eight full lanes with long names take 42 KiB of a 64 KiB meta slot.
pub const MAX_LANES: usize = 8;

/// Name of a segment's file: its number as 16 hexadecimal digits, so that names sort as numbers do.
#[must_use]
pub fn segment_file_name(number: u64) -> String {
    format!("{number:016x}.seg")
}

/// The number in a segment's file name.
#[must_use]
pub fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let canonical = digits.len() == 16 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    canonical.then(|| u64::from_str_radix(digits, 16).ok()).flatten().filter(|&number| number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_names_are_canonical() {
        assert_eq!(segment_file_name(0x1f), "000000000000001f.seg");
        assert_eq!(segment_number("000000000000001f.seg"), Some(0x1f));
        for name in ["1f.seg", "000000000000001F.seg", "000000000000001f.new", "0000000000000000.seg", "", "é.seg"] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
