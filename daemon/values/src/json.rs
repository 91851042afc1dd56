//! What JSON readers agree on, and what may be handed to a parser.

/// The largest whole number that every reader keeps exactly (RFC 8259, section 6).
pub const MAX_WHOLE: u64 = (1 << 53) - 1;

/// Bytes that no parser is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoText {
    /// Bytes that are no text.
    #[error("not UTF-8 text (first wrong byte at offset {offset})")]
    NotUtf8 {
        /// Offset of the first byte that is not UTF-8.
        offset: usize,
    },
    /// A text with escapes that is too long whatever its place: parsers build such a text before anybody sees how long it
    /// is, in a buffer that grows by doubling.
    #[error("too much text: over {limit_bytes} bytes with escapes at offset {offset}")]
    LongText {
        /// At most.
        limit_bytes: usize,
        /// Where it begins.
        offset: usize,
    },
}

/// The bytes as a text that may be parsed: no text in it with escapes has over `limit_bytes`.
///
/// # Errors
///
/// See [`NoText`].
pub fn text(bytes: &[u8], limit_bytes: usize) -> Result<&str, NoText> {
    let text = str::from_utf8(bytes).map_err(|error| NoText::NotUtf8 { offset: error.valid_up_to() })?;
    match long_escaped_text(text, limit_bytes) {
        Some(offset) => Err(NoText::LongText { limit_bytes, offset }),
        None => Ok(text),
    }
}

/// Where the first text with an escape and of over `limit_bytes` begins, in what is JSON up to there.
fn long_escaped_text(json: &str, limit_bytes: usize) -> Option<usize> {
    if !json.as_bytes().contains(&b'\\') {
        return None;
    }
    let mut rest = json.bytes().enumerate();
    while let Some((begin, _quote)) = rest.find(|(_, byte)| *byte == b'"') {
        let mut escaped = false;
        // One without an end goes up to the end of all: what stands before an escape is built by then.
        let end = loop {
            match rest.next() {
                Some((_, b'\\')) => {
                    escaped = true;
                    let _what_is_escaped = rest.next();
                }
                Some((end, b'"')) => break end,
                None => break json.len(),
                Some(_) => {}
            }
        };
        if escaped && end - begin - 1 > limit_bytes {
            return Some(begin);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_found_where_they_have_escapes() {
        let long = "x".repeat(20);
        let with = |content: &str| text(content.as_bytes(), 16).map(drop).map_err(|fault| fault.to_string());
        for fine in [&format!(r#"["{long}"]"#), r#"["\n"]"#, r#"{"a\"b":"c"}"#, "\\", "\"", "\"\\"] {
            assert!(with(fine).is_ok(), "{fine}");
        }
        assert_eq!(
            with(&format!(r#"["a","{long}\n"]"#)).unwrap_err(),
            "too much text: over 16 bytes with escapes at offset 5"
        );
        for endless in [format!("\"{long}\\n"), format!("\"\\n{long}"), format!("\"{long}\\")] {
            let said = with(&endless).unwrap_err();
            assert_eq!(said, "too much text: over 16 bytes with escapes at offset 0", "{endless}");
        }
        assert_eq!(text(b"ab\xff", 16), Err(NoText::NotUtf8 { offset: 2 }));
    }
}
