//! What may be repeated of a wrong value: one line of bounded length, without control characters and without passwords, for
//! it goes to logs and to the broker.

/// Characters of a wrong value that stand in a message.
const MAX_CHARS: usize = 60;

/// One line of bounded length, without control characters.
#[must_use]
pub fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    // Quotes are part of TOML: keep them readable.
    short = short.replace("\\\"", "\"").replace("\\'", "'");
    if text.chars().nth(MAX_CHARS).is_some() {
        short.push('…');
    }
    if short.is_empty() { "nothing".to_owned() } else { short }
}

/// Of a value as it stands in its layer, what may be repeated.
#[must_use]
pub fn excerpt(found: &str) -> String {
    shorten(&without_credentials(found))
}

/// A password in an url must not be repeated.
fn without_credentials(found: &str) -> String {
    match (found.split_once("://"), found.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://…@{host}"),
        _ => found.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_one_short_line_without_a_password() {
        assert_eq!(excerpt(""), "nothing");
        assert_eq!(excerpt("a\n\"b\"\u{7}"), "a\\n\"b\"\\u{7}");
        assert_eq!(excerpt("mqtts://user:secret@host/"), "mqtts://…@host/");
        assert_eq!(excerpt(&"é".repeat(61)), "é".repeat(60) + "…");
    }
}
