//! The file `meta`: what the spool knows that its segments do not.
//!
//! Two slots of 64 KiB, written in turn with a growing generation: a torn write spoils one slot and
//! leaves the other. A slot:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic `TIDEMETA` |
//! | 2 | version, 1 |
//! | 2 | zero |
//! | 4 | CRC32C of the slot's used bytes with this field zero |
//! | 4 | used bytes |
//! | 2 | number of lanes |
//! | 2 | number of losses |
//! | 8 | generation |
//! | 16 | epoch |
//! | 8 | id of the next loss |
//! | … | lanes |
//! | … | losses: 8 id, 2 lane, 2 stream, 1 reason (1 evicted, 2 damaged, 3 unknown), 3 zero, 8 from, 8 to, 8 count |
//!
//! A lane:
//!
//! | bytes | what |
//! |---|---|
//! | 1 + n | length of the name, name |
//! | 1 | flags: bit 0, sealed: `end` is the exact end of the log |
//! | 2 | number of streams |
//! | 16 | cursor: segment, offset |
//! | 16 | end of the log when this was written |
//! | 8 | newest segment |
//! | 16 | doubt: holes behind this place may be commits that were never acknowledged; 0 for none |
//! | … | streams: 1 + n name, 1 flags (bit 0: numbers were skipped), 8 each: `next_seq`, `reserved`, `acked`, `lost` |
//!
//! Streams stand in the order of their index.

use std::sync::Arc;

use crc32c::{crc32c, crc32c_append};

use super::{MAX_STREAMS, VERSION, fields::Fields};
use crate::api::{LossReason, Position};

/// Length of one slot.
pub const SLOT: usize = 64 * 1024;

const MAGIC: [u8; 8] = *b"TIDEMETA";
const CRC: std::ops::Range<usize> = 12..16;
const USED: std::ops::Range<usize> = 16..20;
const FLAG: u8 = 1;

/// Contents of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Grows with every write; the higher of two valid slots counts.
    pub generation: u64,
    /// Identity of the spool.
    pub epoch: [u8; 16],
    /// Id that the next loss gets.
    pub next_loss: u64,
    /// Lanes, also those that the options no longer name.
    pub lanes: Vec<LaneMeta>,
    /// Losses that nobody reported yet.
    pub losses: Vec<LossMeta>,
}

/// One lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneMeta {
    /// Name.
    pub name: String,
    /// `end` is where the log ends, if `newest` is still the newest segment: nothing needs to be scanned.
    pub sealed: bool,
    /// What lies before was delivered.
    pub cursor: Position,
    /// End of the log when this was written.
    pub end: Position,
    /// Highest segment number used.
    pub newest: u64,
    /// Holes behind this place may be commits that were never acknowledged.
    pub doubt: Option<Position>,
    /// Streams in the order of their index.
    pub streams: Vec<StreamMeta>,
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamMeta {
    /// Name.
    pub name: Arc<str>,
    /// Sequence of the next record, when this was written.
    pub next_seq: u64,
    /// No sequence at or above this was used before a later write of this file.
    pub reserved: u64,
    /// All below were delivered or are lost.
    pub acked: u64,
    /// Records lost for good since the spool was made.
    pub lost: u64,
    /// Whether numbers just before `next_seq` were skipped.
    pub skipped: bool,
}

/// A range of a stream that will never be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LossMeta {
    /// Identifies the report.
    pub id: u64,
    /// Index in [`Meta::lanes`].
    pub lane: u16,
    /// Index of the stream in the lane.
    pub stream: u16,
    /// Why.
    pub reason: LossReason,
    /// First sequence.
    pub from_seq: u64,
    /// Last sequence, inclusive.
    pub to_seq: u64,
    /// Records lost in the range.
    pub count: u64,
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("names are at most 96 bytes"));
    out.extend(text.as_bytes());
}

fn put_position(out: &mut Vec<u8>, position: Position) {
    out.extend(position.segment.to_le_bytes());
    out.extend(position.offset.to_le_bytes());
}

/// Writes the used bytes of a slot; the caller sees to it that they fit in [`SLOT`].
///
/// # Panics
///
/// Where a name is over 255 bytes or there are over 65,535 of anything.
#[must_use]
pub fn encode(meta: &Meta) -> Vec<u8> {
    let count = |length: usize| u16::try_from(length).expect("lanes, streams and losses are bounded").to_le_bytes();
    let mut out = Vec::with_capacity(4096);
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend([0; 2 + 4 + 4]);
    out.extend(count(meta.lanes.len()));
    out.extend(count(meta.losses.len()));
    out.extend(meta.generation.to_le_bytes());
    out.extend(meta.epoch);
    out.extend(meta.next_loss.to_le_bytes());
    for lane in &meta.lanes {
        put_text(&mut out, &lane.name);
        out.push(if lane.sealed { FLAG } else { 0 });
        out.extend(count(lane.streams.len()));
        put_position(&mut out, lane.cursor);
        put_position(&mut out, lane.end);
        out.extend(lane.newest.to_le_bytes());
        put_position(&mut out, lane.doubt.unwrap_or_default());
        for stream in &lane.streams {
            put_text(&mut out, &stream.name);
            out.push(if stream.skipped { FLAG } else { 0 });
            for number in [stream.next_seq, stream.reserved, stream.acked, stream.lost] {
                out.extend(number.to_le_bytes());
            }
        }
    }
    for loss in &meta.losses {
        out.extend(loss.id.to_le_bytes());
        out.extend(loss.lane.to_le_bytes());
        out.extend(loss.stream.to_le_bytes());
        out.push(match loss.reason {
            LossReason::Evicted => 1,
            LossReason::Damaged => 2,
            LossReason::Unknown => 3,
        });
        out.extend([0; 3]);
        for number in [loss.from_seq, loss.to_seq, loss.count] {
            out.extend(number.to_le_bytes());
        }
    }
    let used = u32::try_from(out.len()).expect("bounded by the counts");
    out[USED].copy_from_slice(&used.to_le_bytes());
    let crc = crc32c(&out);
    out[CRC].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Reads a slot; `None` for anything that [`encode`] did not write.
#[must_use]
pub fn decode(slot: &[u8]) -> Option<Meta> {
    let mut fields = Fields(slot);
    if fields.array()? != MAGIC || fields.u16()? != VERSION {
        return None;
    }
    fields.u16()?;
    let crc = fields.u32()?;
    let used = slot.get(..fields.u32()? as usize)?;
    let computed = crc32c_append(crc32c_append(crc32c(used.get(..CRC.start)?), &[0; 4]), used.get(CRC.end..)?);
    if crc != computed {
        return None;
    }
    let (lanes, losses) = (fields.u16()?, fields.u16()?);
    let (generation, epoch, next_loss) = (fields.u64()?, fields.array()?, fields.u64()?);
    let mut meta = Meta { generation, epoch, next_loss, lanes: Vec::new(), losses: Vec::new() };
    for _ in 0..lanes {
        meta.lanes.push(lane(&mut fields)?);
    }
    for _ in 0..losses {
        meta.losses.push(loss(&mut fields, &meta.lanes)?);
    }
    Some(meta)
}

fn position(fields: &mut Fields<'_>) -> Option<Position> {
    Some(Position { segment: fields.u64()?, offset: fields.u64()? })
}

fn lane(fields: &mut Fields<'_>) -> Option<LaneMeta> {
    let length = fields.u8()?;
    let name = fields.text(usize::from(length))?.to_owned();
    let sealed = fields.u8()? & FLAG != 0;
    let count = fields.u16()?;
    let (cursor, end) = (position(fields)?, position(fields)?);
    let newest = fields.u64()?;
    let doubt = Some(position(fields)?).filter(|doubt| doubt.segment > 0);
    if usize::from(count) > MAX_STREAMS {
        return None;
    }
    let mut streams = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let length = fields.u8()?;
        let name = fields.text(usize::from(length))?.into();
        let skipped = fields.u8()? & FLAG != 0;
        streams.push(StreamMeta {
            name,
            next_seq: fields.u64()?,
            reserved: fields.u64()?,
            acked: fields.u64()?,
            lost: fields.u64()?,
            skipped,
        });
    }
    Some(LaneMeta { name, sealed, cursor, end, newest, doubt, streams })
}

fn loss(fields: &mut Fields<'_>, lanes: &[LaneMeta]) -> Option<LossMeta> {
    let id = fields.u64()?;
    let (lane, stream) = (fields.u16()?, fields.u16()?);
    let reason = match fields.u8()? {
        1 => LossReason::Evicted,
        2 => LossReason::Damaged,
        3 => LossReason::Unknown,
        _ => return None,
    };
    fields.bytes(3)?;
    // A loss names a stream that this same slot lists.
    lanes.get(usize::from(lane))?.streams.get(usize::from(stream))?;
    Some(LossMeta { id, lane, stream, reason, from_seq: fields.u64()?, to_seq: fields.u64()?, count: fields.u64()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::{MAX_LANE_NAME, MAX_LANES, MAX_STREAM_NAME};

    fn fullest(losses: usize) -> Meta {
        let stream = StreamMeta {
            name: "x".repeat(MAX_STREAM_NAME).into(),
            next_seq: 9,
            reserved: 10,
            acked: 3,
            lost: 2,
            skipped: true,
        };
        let lane = LaneMeta {
            name: "l".repeat(MAX_LANE_NAME),
            sealed: true,
            cursor: Position { segment: 1, offset: 2 },
            end: Position { segment: 3, offset: 4 },
            newest: 3,
            doubt: Some(Position { segment: 3, offset: 4096 }),
            streams: vec![stream; MAX_STREAMS],
        };
        let loss =
            LossMeta { id: 5, lane: 7, stream: 35, reason: LossReason::Damaged, from_seq: 1, to_seq: 2, count: 2 };
        Meta { generation: 8, epoch: [1; 16], next_loss: 6, lanes: vec![lane; MAX_LANES], losses: vec![loss; losses] }
    }

    #[test]
    fn the_fullest_meta_fits_its_slot_and_is_read_back() {
        let meta = fullest(crate::engine::MAX_LOSSES);
        let mut bytes = encode(&meta);
        assert!(bytes.len() <= SLOT, "{} bytes", bytes.len());
        bytes.resize(SLOT, 0xee);
        assert_eq!(decode(&bytes), Some(meta));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_seen(bit in any::<prop::sample::Index>()) {
            let mut bytes = encode(&fullest(2));
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let found = decode(&bytes);
            // The two reserved bytes behind the version are covered by the checksum, too.
            prop_assert_eq!(found, None);
        }

        #[test]
        fn any_bytes_are_taken(mut bytes in proptest::collection::vec(any::<u8>(), 64..2048), lanes in 0u16..4, losses in 0u16..4) {
            let used = u32::try_from(bytes.len()).unwrap();
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
            bytes[USED].copy_from_slice(&used.to_le_bytes());
            bytes[20..22].copy_from_slice(&lanes.to_le_bytes());
            bytes[22..24].copy_from_slice(&losses.to_le_bytes());
            bytes[CRC].fill(0);
            let crc = crc32c(&bytes);
            bytes[CRC].copy_from_slice(&crc.to_le_bytes());
            let _meta = decode(&bytes);
            let _meta = decode(&bytes[..40]);
        }
    }
}
