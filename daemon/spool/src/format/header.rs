//! A segment's header: its first block.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic `TIDESEG\0` |
//! | 8 | 2 | version, 1 |
//! | 10 | 2 | number of streams below |
//! | 12 | 4 | CRC32C of the block with this field zero |
//! | 16 | 16 | epoch of the spool |
//! | 32 | 8 | number of the segment |
//! | 40 | 8 | salt, random |
//! | 48 | 8 | length that the file was made with |
//! | 56 | 8 | segment in which the log stood when this one was made, 0 for none |
//! | 64 | 8 | offset in it at which the log goes on here |
//! | 72 | 32 | name of the lane, padded with zeros |
//! | 104 | 8 | zero |
//! | 112 | … | streams known then: 2 index, 1 flags (bit 0: numbers before `next_seq` were skipped), 1 length of the name, 8 `next_seq`, the name |

use std::sync::Arc;

use crc32c::{crc32c, crc32c_append};

use super::{BLOCK, MAX_LANE_NAME, MAX_STREAM_NAME, MAX_STREAMS, VERSION, fields::Fields, frame::Salt};
use crate::api::Position;

const MAGIC: [u8; 8] = *b"TIDESEG\0";
const CRC: std::ops::Range<usize> = 12..16;
const STREAMS: usize = 112;
const SKIPPED: u8 = 1;

/// A segment's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Identity of the spool.
    pub epoch: [u8; 16],
    /// Name of the lane.
    pub lane: String,
    /// Number of the segment in the lane, from 1.
    pub number: u64,
    /// Random.
    pub salt: u64,
    /// Length that the file was made with: a shorter one that is not sealed has lost its end.
    pub size: u64,
    /// Where the log stood when this segment was made: what lies behind that place in the earlier
    /// segment was abandoned. Segment 0: nowhere.
    pub previous_end: Position,
    /// Streams of the lane at that time.
    pub streams: Vec<StreamAt>,
}

/// A stream as a segment's header lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamAt {
    /// Index in the lane.
    pub id: u16,
    /// Name.
    pub name: Arc<str>,
    /// Sequence of its first record in this segment or later.
    pub next_seq: u64,
    /// Whether recovery skipped numbers just before `next_seq` whose use is unknown.
    pub skipped: bool,
}

/// Writes the block.
///
/// # Panics
///
/// Where names or the number of streams are over their limits, which the engine checks as they come in.
#[must_use]
pub fn encode(header: &Header) -> Vec<u8> {
    assert!(header.streams.len() <= MAX_STREAMS && header.lane.len() <= MAX_LANE_NAME);
    let mut out = Vec::with_capacity(BLOCK);
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend(u16::try_from(header.streams.len()).expect("checked above").to_le_bytes());
    out.extend([0; 4]);
    out.extend(header.epoch);
    for number in [header.number, header.salt, header.size, header.previous_end.segment, header.previous_end.offset] {
        out.extend(number.to_le_bytes());
    }
    out.extend(header.lane.as_bytes());
    out.resize(STREAMS, 0);
    for stream in &header.streams {
        assert!(stream.name.len() <= MAX_STREAM_NAME);
        out.extend(stream.id.to_le_bytes());
        out.push(if stream.skipped { SKIPPED } else { 0 });
        out.push(u8::try_from(stream.name.len()).expect("checked above"));
        out.extend(stream.next_seq.to_le_bytes());
        out.extend(stream.name.as_bytes());
    }
    out.resize(BLOCK, 0);
    let crc = crc32c(&out);
    out[CRC].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Reads the block; `None` for anything that [`encode`] did not write.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Header> {
    let block = bytes.get(..BLOCK)?;
    let mut fields = Fields(block);
    if fields.array()? != MAGIC || fields.u16()? != VERSION {
        return None;
    }
    let count = fields.u16()?;
    let crc = fields.u32()?;
    let computed = crc32c_append(crc32c_append(crc32c(&block[..CRC.start]), &[0; 4]), &block[CRC.end..]);
    if crc != computed || usize::from(count) > MAX_STREAMS {
        return None;
    }
    let epoch = fields.array()?;
    let (number, salt, size) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let previous_end = Position { segment: fields.u64()?, offset: fields.u64()? };
    let lane = fields.text(MAX_LANE_NAME)?.trim_end_matches('\0').to_owned();
    fields.u64()?;
    let mut streams = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let (id, flags, length) = (fields.u16()?, fields.u8()?, fields.u8()?);
        let next_seq = fields.u64()?;
        let name = fields.text(usize::from(length))?.into();
        if usize::from(id) >= MAX_STREAMS {
            return None;
        }
        streams.push(StreamAt { id, name, next_seq, skipped: flags & SKIPPED != 0 });
    }
    Some(Header { epoch, lane, number, salt, size, previous_end, streams })
}

impl Header {
    /// Seed of the checksums of this segment's frames.
    #[must_use]
    pub fn frame_salt(&self) -> Salt {
        let identity = [self.number.to_le_bytes(), self.salt.to_le_bytes()].concat();
        Salt(crc32c_append(crc32c_append(crc32c(&self.epoch), self.lane.as_bytes()), &identity))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        let long: Arc<str> = "x".repeat(MAX_STREAM_NAME).into();
        Header {
            epoch: [7; 16],
            lane: "l".repeat(MAX_LANE_NAME),
            number: 3,
            salt: 99,
            size: 8 << 20,
            previous_end: Position { segment: 2, offset: 5000 },
            streams: (0..MAX_STREAMS)
                .map(|id| StreamAt {
                    id: u16::try_from(id).unwrap(),
                    name: Arc::clone(&long),
                    next_seq: 1,
                    skipped: id % 2 == 0,
                })
                .collect(),
        }
    }

    #[test]
    fn the_fullest_header_fits_and_is_read_back() {
        let bytes = encode(&header());
        assert_eq!(bytes.len(), BLOCK);
        assert_eq!(decode(&bytes), Some(header()));
    }

    #[test]
    fn identity_changes_the_salt_of_frames() {
        let salt = header().frame_salt();
        assert_ne!(Header { number: 4, ..header() }.frame_salt(), salt);
        assert_ne!(Header { epoch: [8; 16], ..header() }.frame_salt(), salt);
        assert_ne!(Header { salt: 98, ..header() }.frame_salt(), salt);
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_seen(bit in 0..BLOCK * 8) {
            let mut bytes = encode(&header());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(&bytes), None);
        }

        // With the checksum made right, so that the fields themselves are reached.
        #[test]
        fn any_bytes_are_taken(mut bytes in proptest::collection::vec(any::<u8>(), BLOCK), count in 0u16..64) {
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
            bytes[10..12].copy_from_slice(&count.to_le_bytes());
            bytes[72..104].fill(b'a');
            bytes[CRC].fill(0);
            let crc = crc32c(&bytes);
            bytes[CRC].copy_from_slice(&crc.to_le_bytes());
            let _header = decode(&bytes);
            let _header = decode(&bytes[..100]);
        }
    }
}
