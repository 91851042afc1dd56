//! Frames: what a segment holds behind its header.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | CRC32C of the frame's offset (8 bytes) and of header bytes 4 to 31, salted |
//! | 4 | CRC32C of the payload, salted |
//! | 4 | length of the payload |
//! | 2 | stream: its index in the lane |
//! | 1 | kind: 1 record, 2 name of a stream, 3 padding |
//! | 1 | flags: bit 0, last frame of a commit |
//! | 8 | sequence in the stream |
//! | 8 | milliseconds since 1970 |
//! | n | payload, then zeros up to a multiple of 8 |
//!
//! The header has a checksum of its own so that a frame with a rotten payload can be stepped over
//! exactly, and so that looking for the next frame behind damage costs 32 bytes a candidate whatever
//! the bytes claim. The offset is part of it: a frame copied to another place is not a frame.

use std::ops::Range;

use crc32c::crc32c_append;

use super::fields::Fields;
use tidegate_storage::Buffer;

/// Length of a frame's header.
pub const HEADER: usize = 32;

/// Frames start at multiples of this.
pub const ALIGN: usize = 8;

/// Largest payload of any frame, 1 MiB.
pub const MAX_PAYLOAD: usize = 1 << 20;

const LAST: u8 = 1;

/// Seed of all checksums in one segment, from the spool's epoch, the lane and the segment's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt(pub u32);

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A record.
    Record,
    /// The name of a stream that the segment's header does not list; stands before its first record.
    StreamName,
    /// Fills a commit up to the block under `O_DIRECT`.
    Padding,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it carries.
    pub kind: Kind,
    /// Index of the stream in the lane; 0 for padding.
    pub stream: u16,
    /// Sequence in the stream; 0 for names and padding.
    pub seq: u64,
    /// Milliseconds since 1970; 0 for names and padding.
    pub ts_ms: u64,
    /// Whether a commit ends with this frame.
    pub last: bool,
    /// Length of the payload.
    pub length: usize,
    payload_crc: u32,
}

impl Head {
    /// Bytes of the whole frame on disk.
    #[must_use]
    pub const fn frame_bytes(&self) -> usize {
        frame_bytes(self.length)
    }
}

/// Bytes on disk of a frame with `length` bytes of payload.
#[must_use]
pub const fn frame_bytes(length: usize) -> usize {
    (HEADER + length).next_multiple_of(ALIGN)
}

/// What stands at some place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A whole frame; the range is its payload in the bytes that were handed in.
    Frame(Head, Range<usize>),
    /// A header that holds and a payload that does not: the next frame is [`Head::frame_bytes`] on.
    BadPayload(Head),
    /// The header holds, and this many bytes are needed to see the whole frame.
    Short(usize),
    /// No header.
    Nothing,
}

fn header_crc(salt: Salt, offset: u64, header: &[u8]) -> u32 {
    crc32c_append(crc32c_append(salt.0, &offset.to_le_bytes()), &header[4..HEADER])
}

/// The header at the start of `bytes`, which lies at `offset` of the segment; `None` if it is none or
/// says that the frame goes beyond `end`.
#[must_use]
pub fn head(bytes: &[u8], offset: u64, end: u64, salt: Salt) -> Option<Head> {
    let header = bytes.get(..HEADER)?;
    let mut fields = Fields(header);
    let crc = fields.u32()?;
    let payload_crc = fields.u32()?;
    let length = fields.u32()? as usize;
    let stream = fields.u16()?;
    let kind = match fields.u8()? {
        1 => Kind::Record,
        2 => Kind::StreamName,
        3 => Kind::Padding,
        _ => return None,
    };
    let flags = fields.u8()?;
    let fits = length <= MAX_PAYLOAD && offset.checked_add(frame_bytes(length) as u64)? <= end;
    if !fits || crc != header_crc(salt, offset, header) {
        return None;
    }
    Some(Head { kind, stream, seq: fields.u64()?, ts_ms: fields.u64()?, last: flags & LAST != 0, length, payload_crc })
}

/// Looks at what stands at the start of `bytes`, which lies at `offset` of the segment.
#[must_use]
pub fn step(bytes: &[u8], offset: u64, end: u64, salt: Salt) -> Step {
    let Some(head) = head(bytes, offset, end, salt) else { return Step::Nothing };
    let payload = HEADER..HEADER + head.length;
    if bytes.len() < head.frame_bytes() {
        return Step::Short(head.frame_bytes());
    }
    if crc32c_append(salt.0, &bytes[payload.clone()]) == head.payload_crc {
        Step::Frame(head, payload)
    } else {
        Step::BadPayload(head)
    }
}

/// Distance from the start of `bytes` to the next place, at or behind it, where a header holds.
/// `bytes` lies at `offset`, a multiple of [`ALIGN`].
#[must_use]
pub fn find(bytes: &[u8], offset: u64, end: u64, salt: Salt) -> Option<usize> {
    let last = bytes.len().checked_sub(HEADER)?;
    (0..=last).step_by(ALIGN).find(|&at| {
        // A length and a kind that cannot be are the usual case in damage: no checksum for those.
        bytes[at + 14].wrapping_sub(1) < 3 && head(&bytes[at..], offset + at as u64, end, salt).is_some()
    })
}

/// Appends a frame to `out`, whose first byte is to lie at `base` of the segment. The head's length is the payload's.
///
/// # Panics
///
/// Where the frame does not fit in `out`, or the payload is over 4 GiB.
pub fn put(out: &mut Buffer, base: u64, salt: Salt, head: Head, payload: &[u8]) {
    let start = out.len();
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&crc32c_append(salt.0, payload).to_le_bytes());
    let length = u32::try_from(payload.len()).expect("payloads are at most 1 MiB");
    header[8..12].copy_from_slice(&length.to_le_bytes());
    header[12..14].copy_from_slice(&head.stream.to_le_bytes());
    header[14] = match head.kind {
        Kind::Record => 1,
        Kind::StreamName => 2,
        Kind::Padding => 3,
    };
    header[15] = if head.last { LAST } else { 0 };
    header[16..24].copy_from_slice(&head.seq.to_le_bytes());
    header[24..32].copy_from_slice(&head.ts_ms.to_le_bytes());
    let crc = header_crc(salt, base + start as u64, &header);
    header[..4].copy_from_slice(&crc.to_le_bytes());
    out.extend(&header);
    out.extend(payload);
    out.extend_zeros(frame_bytes(payload.len()) - HEADER - payload.len());
}

impl Head {
    /// Head of a record.
    #[must_use]
    pub const fn record(stream: u16, seq: u64, ts_ms: u64) -> Self {
        Self { kind: Kind::Record, stream, seq, ts_ms, last: false, length: 0, payload_crc: 0 }
    }

    /// Head of a stream's name.
    #[must_use]
    pub const fn stream_name(stream: u16) -> Self {
        Self { kind: Kind::StreamName, ..Self::record(stream, 0, 0) }
    }

    /// Head of padding.
    #[must_use]
    pub const fn padding() -> Self {
        Self { kind: Kind::Padding, ..Self::record(0, 0, 0) }
    }
}

/// Marks the frame at `start` of `out` as the last of its commit.
///
/// # Panics
///
/// Where no frame starts there.
pub fn mark_last(out: &mut Buffer, start: usize, base: u64, salt: Salt) {
    let header = &mut out.as_mut()[start..start + HEADER];
    header[15] |= LAST;
    let crc = header_crc(salt, base + start as u64, header);
    header[..4].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{format::BLOCK_BYTES, pool::pool};

    const SALT: Salt = Salt(0x1234_5678);

    fn frame(payload: &[u8], offset: u64) -> Vec<u8> {
        let mut out = pool().take(frame_bytes(payload.len()));
        put(&mut out, offset, SALT, Head::record(3, 9, 77), payload);
        out.to_vec()
    }

    #[test]
    fn a_frame_is_read_back() {
        let bytes = frame(b"hello", 4096);
        assert_eq!(bytes.len(), 40);
        let Step::Frame(head, payload) = step(&bytes, 4096, u64::MAX, SALT) else { panic!("no frame") };
        assert_eq!((head.stream, head.seq, head.ts_ms, head.last), (3, 9, 77, false));
        assert_eq!(&bytes[payload], b"hello");
    }

    #[test]
    fn a_frame_holds_only_in_its_place_and_segment() {
        let bytes = frame(b"hello", 4096);
        assert_eq!(step(&bytes, 4104, u64::MAX, SALT), Step::Nothing);
        assert_eq!(step(&bytes, 4096, u64::MAX, Salt(1)), Step::Nothing);
        assert_eq!(step(&bytes, 4096, 4096 + 39, SALT), Step::Nothing);
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let bytes = frame(b"hello", 4096);
        for bit in 0..(HEADER + 5) * 8 {
            let mut rotten = bytes.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(step(&rotten, 4096, u64::MAX, SALT), Step::Frame(..)), "bit {bit}");
        }
    }

    #[test]
    fn the_next_frame_is_found_behind_damage() {
        let mut bytes = vec![0xa5; 24];
        bytes.extend(frame(b"hello", BLOCK_BYTES + 24));
        assert_eq!(find(&bytes, BLOCK_BYTES, u64::MAX, SALT), Some(24));
        assert_eq!(find(&bytes[..55], BLOCK_BYTES, u64::MAX, SALT), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..200), offset: u64, end: u64, salt: u32) {
            let _step = step(&bytes, offset, end, Salt(salt));
            let _place = find(&bytes, offset & !7 & (u64::MAX >> 1), end, Salt(salt));
        }
    }
}
