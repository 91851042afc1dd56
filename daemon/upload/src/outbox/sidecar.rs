//! What a program says about a file that it puts into an outbox: `NAME.meta.json`, beside it.
//!
//! ```json
//! {"priority": "high", "type": "text/csv", "metadata": {"machine": "press 7", "batch": "2026-114"}}
//! ```
//!
//! Each member may be missing, and so may be the whole. `priority` is `high`, `normal` or `low`; `type` a media type
//! (RFC 9110, section 8.3.1); `metadata` goes to the server with the file. At most 16 KiB and 32 entries; keys of 1 to
//! 64 letters, digits, `_`, `.` and `-`; values of at most 1024 bytes without control characters. Keys that the daemon
//! fills in itself are refused, and so is every other member: a slip of the keyboard would pass unseen.
//!
//! It must be there before its file is. A bad one keeps its file from being sent until it is mended or removed.

use std::{fmt, io::Read as _, mem::replace};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use tidegate_values::excerpt::shorten;

use super::{
    folder::{Folder, Unusable},
    identity::Identity,
    names,
};

/// Longest sidecar.
pub const MAX_BYTES: u64 = 16 * 1024;
/// Most entries of `metadata`.
pub const MAX_ENTRIES: usize = 32;
const MAX_KEY_BYTES: usize = 64;
const MAX_VALUE_BYTES: usize = 1024;
const MAX_TYPE_BYTES: usize = 255;
const MEMBERS: [&str; 3] = ["priority", "type", "metadata"];
/// Filled in by the daemon.
const RESERVED: [&str; 7] = ["filename", "filetype", "sha256", "size", "encoding", "gateway", "mtime"];
/// Characters of what is wrong; more is the parser quoting the sidecar.
const MAX_FAULT_CHARS: usize = 160;

/// What is known about a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sidecar {
    /// Which files go first.
    pub priority: Priority,
    /// What its content is.
    pub media_type: Option<String>,
    /// For the server, in the order in which they stand there.
    pub metadata: Vec<(String, String)>,
    /// Which file said so; `None` where there is none.
    pub identity: Option<Identity>,
}

/// Which files go first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before all others.
    High,
    /// Where nothing is said.
    #[default]
    Normal,
    /// After all others.
    Low,
}

/// What `NAME.meta.json` says about `NAME`; the default where there is none.
///
/// # Errors
///
/// Where there is one, and it cannot be read or is wrong.
pub fn read(folder: &Folder, name: &str) -> Result<Sidecar, Unusable> {
    let sidecar = names::sidecar_of(name);
    if sidecar.len() > names::MAX_NAME_BYTES {
        return Ok(Sidecar::default());
    }
    let (file, identity) = match folder.open_file(&sidecar) {
        Ok(opened) => opened,
        Err(Unusable::Vanished) => return Ok(Sidecar::default()),
        Err(error) if error.may_pass() => return Err(error),
        Err(error) => return Err(Unusable::Sidecar(error.to_string())),
    };
    let mut bytes = Vec::new();
    // One byte more shows that there are more, whatever its size was a moment ago.
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| Unusable::Sidecar(error.to_string()))?;
    parse(&bytes).map(|sidecar| Sidecar { identity: Some(identity), ..sidecar }).map_err(Unusable::Sidecar)
}

/// Reads the content of one.
///
/// # Errors
///
/// What is wrong with it, in one line of bounded length.
pub fn parse(bytes: &[u8]) -> Result<Sidecar, String> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err("over 16 KiB".to_owned());
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let line = error.to_string();
        line.chars().take(MAX_FAULT_CHARS).map(|c| if c.is_control() { '?' } else { c }).collect()
    })
}

// By hand: what serde derives takes an array for a structure, too.
impl<'de> Deserialize<'de> for Sidecar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Sidecar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Sidecar, A::Error> {
                let mut sidecar = Sidecar::default();
                let mut seen = [false; MEMBERS.len()];
                while let Some(name) = map.next_key::<String>()? {
                    let Some(member) = MEMBERS.iter().position(|member| *member == name) else {
                        return Err(A::Error::unknown_field(&name, &MEMBERS));
                    };
                    if replace(&mut seen[member], true) {
                        return Err(A::Error::duplicate_field(MEMBERS[member]));
                    }
                    match member {
                        0 => sidecar.priority = map.next_value()?,
                        1 => {
                            let text: String = map.next_value()?;
                            if !is_media_type(&text) {
                                return Err(A::Error::custom(format_args!("\"{}\" is no media type", shorten(&text))));
                            }
                            sidecar.media_type = Some(text);
                        }
                        _ => sidecar.metadata = map.next_value::<Metadata>()?.0,
                    }
                }
                Ok(sidecar)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

struct Metadata(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("texts by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut entries: Vec<(String, String)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if entries.len() == MAX_ENTRIES {
                        return Err(A::Error::custom("over 32 entries of metadata"));
                    }
                    let fault = if !is_key(&key) {
                        "is no name (1 to 64 letters, digits, _ . -)"
                    } else if RESERVED.contains(&key.as_str()) {
                        "is filled in by the daemon"
                    } else if entries.iter().any(|(other, _)| *other == key) {
                        "stands there twice"
                    } else if value.len() > MAX_VALUE_BYTES {
                        "has over 1024 bytes"
                    } else if value.contains(char::is_control) {
                        "has control characters"
                    } else {
                        entries.push((key, value));
                        continue;
                    };
                    return Err(A::Error::custom(format_args!("\"{}\" {fault}", shorten(&key))));
                }
                Ok(Metadata(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// `type/subtype`, and parameters that are printable.
fn is_media_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let is_token = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    let is_type = essence.split_once('/').is_some_and(|(kind, sub)| is_token(kind) && is_token(sub));
    let is_printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && !text.ends_with(' ');
    is_type && is_printable && text.len() <= MAX_TYPE_BYTES
}

fn is_key(key: &str) -> bool {
    (1..=MAX_KEY_BYTES).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use proptest::prelude::*;

    use super::*;

    fn refused(json: &str) -> String {
        parse(json.as_bytes()).unwrap_err()
    }

    #[test]
    fn everything_may_be_said_and_nothing_must_be() {
        assert_eq!(parse(b"{}"), Ok(Sidecar::default()));
        let json = br#"{"priority":"high","type":"text/csv; charset=utf-8","metadata":{"z":"1","a.B_c-9":"press \"7\" \u00e9","empty":""}}"#;
        let sidecar = parse(json).unwrap();
        assert_eq!(sidecar.priority, Priority::High);
        assert_eq!(sidecar.media_type.as_deref(), Some("text/csv; charset=utf-8"));
        let entry = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(sidecar.metadata, [entry("z", "1"), entry("a.B_c-9", "press \"7\" é"), entry("empty", "")]);
        assert!(Priority::High < Priority::Normal && Priority::Normal < Priority::Low);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (json, said) in [
            ("", "EOF while parsing a value"),
            (r#"["high","text/csv",{}]"#, "invalid type: sequence, expected an object"),
            ("{} {}", "trailing characters"),
            (r#"{"prio":"high"}"#, "unknown field `prio`, expected one of `priority`, `type`, `metadata`"),
            (r#"{"priority":"urgent"}"#, "unknown variant `urgent`, expected one of `high`, `normal`, `low`"),
            (r#"{"priority":null}"#, "expected value"),
            (r#"{"priority":"low","priority":"high"}"#, "duplicate field `priority`"),
            (r#"{"identity":null}"#, "unknown field `identity`, expected one of `priority`, `type`, `metadata`"),
            (r#"{"type":"csv"}"#, "\"csv\" is no media type"),
            (r#"{"type":"text/csv\r\nX: y"}"#, "\"text/csv\\r\\nX: y\" is no media type"),
            (r#"{"metadata":{"n":1}}"#, "invalid type: integer `1`, expected a string"),
            (r#"{"metadata":{"size":"1"}}"#, "\"size\" is filled in by the daemon"),
            (r#"{"metadata":{"a b":"1"}}"#, "\"a b\" is no name (1 to 64 letters, digits, _ . -)"),
            (r#"{"metadata":{"":"1"}}"#, "\"nothing\" is no name (1 to 64 letters, digits, _ . -)"),
            (r#"{"metadata":{"a":"1","a":"1"}}"#, "\"a\" stands there twice"),
            (r#"{"metadata":{"a":"x\ny"}}"#, "\"a\" has control characters"),
            (r#"{"metadata":[]}"#, "invalid type: sequence, expected texts by name"),
        ] {
            let refused = refused(json);
            assert_eq!(refused.rsplit_once(" at line 1 column ").unwrap().0, said, "{json}");
        }
    }

    #[test]
    fn bounds_hold() {
        let entries = |count: usize| {
            let entries: Vec<String> = (0..count).map(|n| format!("\"k{n}\":\"v\"")).collect();
            format!("{{\"metadata\":{{{}}}}}", entries.join(","))
        };
        assert_eq!(parse(entries(32).as_bytes()).unwrap().metadata.len(), 32);
        assert!(refused(&entries(33)).starts_with("over 32 entries"));
        let with = |key: usize, value: usize| {
            format!("{{\"metadata\":{{\"{}\":\"{}\"}}}}", "k".repeat(key), "v".repeat(value))
        };
        assert!(parse(with(64, 1024).as_bytes()).is_ok());
        assert!(refused(&with(65, 1)).contains("is no name"));
        assert!(refused(&with(1, 1025)).contains("has over 1024 bytes"));
        let padded = |bytes: usize| format!("{{}}{}", " ".repeat(bytes - 2));
        assert!(parse(padded(16 * 1024).as_bytes()).is_ok());
        assert_eq!(refused(&padded(16 * 1024 + 1)), "over 16 KiB");
        // What is quoted is cut, and is one line.
        let long = refused(&format!("{{\"{}\\n\":1}}", "\\u0007".repeat(1000)));
        assert_eq!(long.chars().count(), MAX_FAULT_CHARS);
        assert!(!long.contains(char::is_control));
    }

    #[test]
    fn a_sidecar_is_read_from_beside_its_file() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        let beside = temp.path().join("a.csv.meta.json");
        assert_eq!(read(&folder, "a.csv"), Ok(Sidecar::default()));
        assert_eq!(read(&folder, &"a".repeat(255)), Ok(Sidecar::default()), "there can be none");
        fs::write(&beside, r#"{"priority":"low"}"#).unwrap();
        let sidecar = read(&folder, "a.csv").unwrap();
        assert_eq!((sidecar.priority, sidecar.identity.unwrap().size), (Priority::Low, 18));

        fs::write(&beside, vec![b' '; 1 << 20]).unwrap();
        assert_eq!(read(&folder, "a.csv"), Err(Unusable::Sidecar("over 16 KiB".to_owned())));
        fs::remove_file(&beside).unwrap();
        symlink("/etc/passwd", &beside).unwrap();
        assert_eq!(read(&folder, "a.csv").unwrap_err().to_string(), "its sidecar: not a regular file");
        fs::remove_file(&beside).unwrap();
        fs::create_dir(&beside).unwrap();
        assert!(read(&folder, "a.csv").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let _either = parse(&bytes);
        }

        #[test]
        fn what_is_read_holds_the_bounds(json in r#"\{("priority":"(high|low|x)")?,?("type":"[a-z/; =]{0,12}")?,?("metadata":\{("[a-z ]{0,3}":"[a-z]{0,3}",?){0,3}\})?\}"#) {
            if let Ok(sidecar) = parse(json.as_bytes()) {
                prop_assert!(sidecar.metadata.iter().all(|(key, _)| is_key(key)));
                prop_assert!(sidecar.media_type.is_none_or(|text| text.contains('/')));
            }
        }
    }
}
