//! Which names of an outbox are files to be sent.

/// What a sidecar's name has behind its file's.
pub const SIDECAR_SUFFIX: &str = ".meta.json";

/// `NAME_MAX` of Linux (`limits.h`): no file system has longer names.
pub const MAX_NAME_BYTES: usize = 255;

/// Of files that somebody is still writing: browsers, `rsync --partial`, `scp` clients, editors.
const UNFINISHED: [&str; 6] = [".part", ".partial", ".tmp", ".crdownload", ".filepart", "~"];

/// Whether a file of this name is none of ours to look at: not finished yet, or a sidecar. Programs of other systems
/// write suffixes in capitals.
#[must_use]
pub fn is_left_alone(name: &[u8]) -> bool {
    let ends_with = |suffix: &str| {
        name.len() >= suffix.len() && name[name.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
    };
    name.starts_with(b".") || is_sidecar(name) || UNFINISHED.into_iter().any(ends_with)
}

/// Whether a file of this name says something about another one.
#[must_use]
pub fn is_sidecar(name: &[u8]) -> bool {
    name.len() > SIDECAR_SUFFIX.len() && name.ends_with(SIDECAR_SUFFIX.as_bytes())
}

/// The name of the sidecar; longer than a name may be where `name` is long: then there is none.
#[must_use]
pub fn sidecar_of(name: &str) -> String {
    [name, SIDECAR_SUFFIX].concat()
}

/// The name as it may be sent: one component of a path, in UTF-8, without control characters.
///
/// # Errors
///
/// What is wrong with it, behind "its name".
pub fn check(name: &[u8]) -> Result<&str, &'static str> {
    let text = str::from_utf8(name).map_err(|_| "is not UTF-8 text")?;
    if text.is_empty() || text == "." || text == ".." || text.contains('/') {
        return Err("is that of a folder");
    }
    if text.len() > MAX_NAME_BYTES {
        return Err("has over 255 bytes");
    }
    if text.contains(char::is_control) {
        return Err("has control characters");
    }
    Ok(text)
}

/// The name with `.n` behind it, cut in front of that where it would be too long.
#[must_use]
pub(super) fn numbered(name: &str, n: u32) -> String {
    let suffix = format!(".{n}");
    let mut end = name.len().min(MAX_NAME_BYTES - suffix.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    [&name[..end], &suffix].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_finished_and_what_says_something_about_another_file_is_left_alone() {
        for name in
            [".", "..", ".hidden", "a.part", "a.PARTIAL", "a.csv.tmp", "a.Tmp", "x.crdownload", "x.filepart", "x~", "~"]
        {
            assert!(is_left_alone(name.as_bytes()), "{name}");
        }
        assert!(is_left_alone(b"a.csv.meta.json") && is_sidecar(b"a.csv.meta.json"));
        for name in ["a", "part", "a.parts", "a.tmp.csv", "a~b", "meta.json", "a.json", "a.meta.json5", "é"] {
            assert!(!is_left_alone(name.as_bytes()), "{name}");
        }
        // Of a file without a name.
        assert!(!is_sidecar(b".meta.json"));
    }

    #[test]
    fn names_that_cannot_be_sent_are_told_by_what_is_wrong() {
        assert_eq!(check("Zähler 7.csv".as_bytes()), Ok("Zähler 7.csv"));
        assert_eq!(check(&[b'a'; 255]).map(str::len), Ok(255));
        assert_eq!(check(&[b'a'; 256]), Err("has over 255 bytes"));
        assert_eq!(check(b"a\xff"), Err("is not UTF-8 text"));
        for name in ["", ".", "..", "a/b", "/", "../a"] {
            assert_eq!(check(name.as_bytes()), Err("is that of a folder"), "{name}");
        }
        for name in ["a\nb", "\t", "a\u{7f}", "a\u{85}b", "a\0"] {
            assert_eq!(check(name.as_bytes()), Err("has control characters"), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn a_numbered_name_is_a_name(name in "[a-zé€]{1,260}", n: u32) {
            let text = numbered(&name, n);
            prop_assert!(check(text.as_bytes()).is_ok());
            let suffix = format!(".{n}");
            prop_assert!(text.ends_with(&suffix));
            prop_assert!(name.len() > 240 || text.starts_with(&name));
        }

        #[test]
        fn no_bytes_make_it_panic(name: Vec<u8>) {
            let _either = (check(&name), is_left_alone(&name));
        }
    }
}
