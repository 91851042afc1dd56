//! What JSON readers agree on, and what a text may cost before it is parsed.

/// The largest whole number that every reader keeps exactly (RFC 8259, section 6).
pub const MAX_WHOLE: u64 = (1 << 53) - 1;

/// Where the first text with an escape and of over `limit_bytes` begins, in what is JSON up to there:
/// parsers build such a text before anybody sees how long it is.
#[must_use]
pub fn long_escaped_text(json: &str, limit_bytes: usize) -> Option<usize> {
    if !json.as_bytes().contains(&b'\\') {
        return None;
    }
    let mut rest = json.bytes().enumerate();
    while let Some((begin, _quote)) = rest.find(|(_, byte)| *byte == b'"') {
        let mut escaped = false;
        loop {
            match rest.next()? {
                (_, b'\\') => {
                    escaped = true;
                    rest.next()?;
                }
                (end, b'"') if escaped && end - begin - 1 > limit_bytes => return Some(begin),
                (_, b'"') => break,
                _ => {}
            }
        }
    }
    None
}
