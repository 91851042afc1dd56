//! Goes through a segment frame by frame, stepping over damage. Pure: whoever walks brings the bytes.

use std::ops::Range;

use super::frame::{ALIGN, HEADER, Head, Salt, Step, find, step};

/// A place in a segment's frames.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Offset of the next frame.
    pub at: u64,
    /// Where the frames end.
    pub end: u64,
    /// Seed of the segment's checksums.
    pub salt: Salt,
}

/// What stood at the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A frame; the range is its payload in the chunk.
    Frame(Head, Range<usize>),
    /// Bytes that are no frame. The next event may continue the hole.
    Hole(Range<u64>),
    /// The chunk must hold this many bytes from [`Walk::at`] on, or all up to [`Walk::end`].
    More(usize),
    /// Nothing is left.
    End,
}

impl Walk {
    /// Looks at the next place and goes behind it. `chunk` holds the segment's bytes from `start` on.
    pub fn next(&mut self, chunk: &[u8], start: u64) -> Event {
        if self.at >= self.end {
            return Event::End;
        }
        let at = self.at;
        let skip = at.checked_sub(start).and_then(|skip| usize::try_from(skip).ok());
        let Some((skip, bytes)) = skip.and_then(|skip| Some((skip, chunk.get(skip..).filter(|b| !b.is_empty())?)))
        else {
            return Event::More(HEADER);
        };
        let left = usize::try_from(self.end - at).unwrap_or(usize::MAX);
        let (bytes, complete) = if bytes.len() >= left { (&bytes[..left], true) } else { (bytes, false) };
        match step(bytes, at, self.end, self.salt) {
            Step::Frame(head, payload) => {
                self.at += head.frame_bytes() as u64;
                Event::Frame(head, payload.start + skip..payload.end + skip)
            }
            Step::BadPayload(head) => {
                self.at += head.frame_bytes() as u64;
                Event::Hole(at..self.at)
            }
            Step::Short(length) => Event::More(length),
            Step::Nothing if bytes.len() < HEADER && !complete => Event::More(HEADER),
            Step::Nothing => {
                let rest = &bytes[ALIGN.min(bytes.len())..];
                let skipped = match find(rest, at + ALIGN as u64, self.end, self.salt) {
                    Some(distance) => ALIGN + distance,
                    None if complete => left,
                    // Every place whose header the chunk holds was looked at.
                    None => ALIGN + rest.len().checked_sub(HEADER).map_or(0, |last| last / ALIGN * ALIGN + ALIGN),
                };
                self.at += skipped as u64;
                Event::Hole(at..self.at)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        format::frame::{frame_bytes, put},
        pool::pool,
    };

    const SALT: Salt = Salt(7);
    const START: u64 = 4096;

    fn segment(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut out = pool().take(payloads.iter().map(|payload| frame_bytes(payload.len())).sum());
        for (seq, payload) in (1..).zip(payloads) {
            put(&mut out, START, SALT, Head::record(0, seq, 0), payload);
        }
        out.to_vec()
    }

    /// Walks with chunks of `chunk` bytes and returns the sequences found and the bytes in holes.
    fn walk(bytes: &[u8], chunk: usize) -> (Vec<u64>, u64) {
        let mut walk = Walk { at: START, end: START + bytes.len() as u64, salt: SALT };
        let (mut start, mut length) = (START, chunk);
        let (mut seqs, mut holes) = (Vec::new(), 0);
        loop {
            let from = usize::try_from(start - START).unwrap();
            let to = bytes.len().min(from + length);
            match walk.next(&bytes[from..to], start) {
                Event::Frame(head, _) => seqs.push(head.seq),
                Event::Hole(range) => holes += range.end - range.start,
                Event::More(more) => (start, length) = (walk.at, more.max(chunk)),
                Event::End => return (seqs, holes),
            }
        }
    }

    proptest! {
        #[test]
        fn whole_frames_around_damage_are_all_found(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 1..20),
            damage in any::<prop::sample::Index>(),
            length in 1usize..80,
            chunk in 1usize..300,
        ) {
            let mut bytes = segment(&payloads);
            let from = damage.index(bytes.len());
            let to = bytes.len().min(from + length);
            for byte in &mut bytes[from..to] {
                *byte ^= 0x5a;
            }
            let mut at = 0;
            let mut whole = Vec::new();
            for (seq, payload) in (1..).zip(&payloads) {
                let end = at + HEADER + payload.len();
                if end <= from || to <= at {
                    whole.push(seq);
                }
                at += frame_bytes(payload.len());
            }
            let (seqs, _) = walk(&bytes, chunk);
            // Damage in the zeros behind a payload is none.
            prop_assert!(whole.iter().all(|seq| seqs.contains(seq)), "{whole:?} {seqs:?}");
            prop_assert!(seqs.len() <= whole.len() + 1);
        }

        #[test]
        fn any_bytes_are_walked_to_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..600), chunk in 1usize..200) {
            let (seqs, holes) = walk(&bytes, chunk);
            prop_assert!(seqs.is_empty());
            prop_assert_eq!(holes, bytes.len() as u64);
        }
    }
}
