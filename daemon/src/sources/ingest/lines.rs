//! Takes lines out of a stream of bytes, in bounded memory.
//!
//! A line that grows over the limit is reported once, as soon as it does, and skipped to its end: what
//! follows is a line again.

use bytes::{Buf as _, Bytes, BytesMut};

/// What stands next in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A whole line, without its line feed.
    Whole(Bytes),
    /// The beginning of a line over the limit; the rest of it is skipped.
    TooLong,
}

/// The bytes of a client that are not lines yet.
#[derive(Debug)]
pub(super) struct Lines {
    buffer: BytesMut,
    /// Bytes of `buffer` that are known to hold no line feed.
    searched: usize,
    /// Inside of a line that was reported as too long.
    skipping: bool,
    limit: usize,
}

impl Lines {
    /// Lines of at most `limit` bytes, without the line feed.
    pub(super) fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), searched: 0, skipping: false, limit }
    }

    /// Where the next bytes go.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Bytes that wait for the end of their line (or for [`Lines::next`]).
    pub(super) fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// Whether a line has begun and not ended.
    pub(super) fn is_inside(&self) -> bool {
        self.skipping || !self.buffer.is_empty()
    }

    /// Gives the memory back; to be called when nothing waits.
    pub(super) fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// The next line, where one is there.
    pub(super) fn next(&mut self) -> Option<Line> {
        loop {
            let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            let end = found.map(|offset| self.searched + offset);
            match (self.skipping, end) {
                (true, Some(end)) => {
                    self.buffer.advance(end + 1);
                    self.searched = 0;
                    self.skipping = false;
                }
                (true, None) => {
                    self.buffer.clear();
                    self.searched = 0;
                    return None;
                }
                (false, Some(end)) => {
                    self.searched = 0;
                    if end > self.limit {
                        self.buffer.advance(end + 1);
                        return Some(Line::TooLong);
                    }
                    let line = self.buffer.split_to(end).freeze();
                    self.buffer.advance(1);
                    return Some(Line::Whole(line));
                }
                (false, None) if self.buffer.len() > self.limit => {
                    self.buffer.clear();
                    self.searched = 0;
                    self.skipping = true;
                    return Some(Line::TooLong);
                }
                (false, None) => {
                    self.searched = self.buffer.len();
                    return None;
                }
            }
        }
    }

    /// What stands behind the last line feed, at the end of the stream.
    pub(super) fn last(&mut self) -> Option<Line> {
        self.searched = 0;
        let rest = self.buffer.split().freeze();
        (!self.skipping && !rest.is_empty()).then_some(Line::Whole(rest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(chunks: &[&[u8]], limit: usize) -> Vec<Line> {
        let mut lines = Lines::new(limit);
        let mut found = Vec::new();
        for chunk in chunks {
            lines.buffer().extend_from_slice(chunk);
            while let Some(line) = lines.next() {
                found.push(line);
            }
            assert!(lines.waiting() <= limit, "an unfinished line stays within the limit");
        }
        found.extend(lines.last());
        found
    }

    fn whole(text: &'static str) -> Line {
        Line::Whole(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_line_at_the_limit_passes_and_one_over_it_is_skipped_to_its_end() {
        assert_eq!(
            lines(&[b"1234\n12345\n123456\n\nab"], 4),
            [whole("1234"), Line::TooLong, Line::TooLong, whole(""), whole("ab")]
        );
        assert_eq!(lines(&[b"12345", b"6789", b"0\nab\n"], 4), [Line::TooLong, whole("ab")]);
        assert_eq!(lines(&[b"12345", b"6"], 4), [Line::TooLong]);
    }

    proptest! {
        #[test]
        fn any_way_of_cutting_the_stream_gives_the_same_lines(
            bytes in proptest::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(b'\n')], 0..300),
            cuts in proptest::collection::vec(0_usize..300, 0..20),
            limit in 1_usize..40,
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(lines(&chunks, limit), lines(&[&bytes], limit));
        }
    }
}
