//! The protocol of the socket: what a line may be, and what is answered. Pure; the contract is in `docs/ingest.md`.

use std::{borrow::Cow, fmt::Write as _};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest line without its line feed, 64 KiB.
pub const MAX_LINE_BYTES: usize = 64 << 10;
/// Objects and lists inside of each other in `data`. Readers have limits of their own (that of `serde_json` is 128): what
/// is taken here must not become a message that nobody can read.
pub(super) const MAX_DEPTH: usize = 64;
/// Longest `id`, as written.
const MAX_ID_BYTES: usize = 128;
/// Longest `name`.
const MAX_NAME_BYTES: usize = 64;
/// Characters of a reason.
const MAX_REASON_CHARS: usize = 96;

/// A line that can go to the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// `[a-z0-9_-]{1,64}`
    pub(super) name: String,
    /// The value of `data`, byte for byte.
    pub(super) data: Bytes,
    /// The value of `id`, byte for byte.
    pub(super) id: Option<Bytes>,
}

/// Why a line is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Over [`MAX_LINE_BYTES`]. Permanent.
    TooLarge,
    /// Not one JSON object with the members of the contract. Permanent.
    BadJson,
    /// A name that is not `[a-z0-9_-]{1,64}`, or one more than there may be. Permanent.
    BadName,
    /// The spool takes nothing at the moment. Passes.
    Full,
    /// Too many connections, or the daemon stops. Passes.
    Busy,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::BadJson => "bad_json",
            Self::BadName => "bad_name",
            Self::Full => "full",
            Self::Busy => "busy",
        }
    }

    /// When to try again: after a second a pause of the spool may be over; sooner costs a slow machine more than it gains.
    const fn retry_ms(self) -> Option<u32> {
        match self {
            Self::Full | Self::Busy => Some(1_000),
            Self::TooLarge | Self::BadJson | Self::BadName => None,
        }
    }
}

/// A refused line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) kind: Kind,
    /// For people.
    pub(super) reason: Cow<'static, str>,
    pub(super) id: Option<Bytes>,
}

impl Refusal {
    pub(super) fn new(kind: Kind, reason: impl Into<Cow<'static, str>>, id: Option<Bytes>) -> Self {
        Self { kind, reason: reason.into(), id }
    }

    pub(super) fn too_large() -> Self {
        Self::new(Kind::TooLarge, "a line has at most 65536 bytes", None)
    }
}

/// Members other than these, and each of them twice, are errors.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

/// Reads one line.
pub(super) fn parse(line: &Bytes) -> Result<Request, Refusal> {
    let bad = |reason: String| Refusal::new(Kind::BadJson, reason, None);
    let text = str::from_utf8(line).map_err(|error| bad(format!("not UTF-8 at byte {}", error.valid_up_to())))?;
    // Where serde expects a struct it would take a list, too.
    if !text.trim_start_matches([' ', '\t', '\r']).starts_with('{') {
        return Err(bad("not a JSON object".to_owned()));
    }
    let members: Members = serde_json::from_str(text).map_err(|error| bad(at_byte(&error)))?;
    let id = members.id.map(|id| line.slice_ref(id.get().as_bytes()));
    let refuse = |kind, reason| Err(Refusal::new(kind, reason, id.clone().filter(|id| id.len() <= MAX_ID_BYTES)));
    if id.as_ref().is_some_and(|id| id.len() > MAX_ID_BYTES || !matches!(id.first(), Some(b'"' | b'-' | b'0'..=b'9'))) {
        return refuse(Kind::BadJson, "id is a string or a number of at most 128 bytes");
    }
    if !is_name(&members.name) {
        return refuse(Kind::BadName, "a name is 1 to 64 of a-z 0-9 _ -");
    }
    if depth(members.data.get()) > MAX_DEPTH {
        return refuse(Kind::BadJson, "data is nested more than 64 deep");
    }
    Ok(Request { name: members.name.into_owned(), data: line.slice_ref(members.data.get().as_bytes()), id })
}

/// What is wrong, with the place as a byte of the line: it is always line 1 that serde names.
fn at_byte(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("{what} at byte {}", error.column())
}

/// Whether a program may call its records so.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    matches!(name.len(), 1..=MAX_NAME_BYTES) && name.bytes().all(valid)
}

/// How deep objects and lists of a valid JSON text are nested.
fn depth(json: &str) -> usize {
    let (mut now, mut deepest) = (0_usize, 0);
    let (mut in_text, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                now += 1;
                deepest = deepest.max(now);
            }
            b'}' | b']' if !in_text => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Writes the answer to a line that is on disk.
pub(super) fn answer_ok(out: &mut String, seq: u64, id: Option<&Bytes>) {
    let _infallible = write!(out, r#"{{"ok":true,"seq":{seq}"#);
    close(out, id);
}

/// Writes the answer to a line that is not.
pub(super) fn answer_refusal(out: &mut String, refusal: &Refusal) {
    let _infallible = write!(out, r#"{{"ok":false,"error":"{}","reason":""#, refusal.kind.word());
    for c in refusal.reason.chars().take(MAX_REASON_CHARS) {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    if let Some(retry_ms) = refusal.kind.retry_ms() {
        let _infallible = write!(out, r#","retry_ms":{retry_ms}"#);
    }
    close(out, refusal.id.as_ref());
}

fn close(out: &mut String, id: Option<&Bytes>) {
    // Ids are slices of a line that was read as text.
    if let Some(id) = id.and_then(|id| str::from_utf8(id).ok()) {
        let _infallible = write!(out, r#","id":{id}"#);
    }
    out.push_str("}\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn parse_text(text: &str) -> Result<Request, Refusal> {
        parse(&Bytes::copy_from_slice(text.as_bytes()))
    }

    fn answer(result: &Result<Request, Refusal>) -> Value {
        let mut out = String::new();
        match result {
            Ok(request) => answer_ok(&mut out, 7, request.id.as_ref()),
            Err(refusal) => answer_refusal(&mut out, refusal),
        }
        assert!(out.ends_with('\n') && !out[..out.len() - 1].contains('\n'), "one line: {out:?}");
        serde_json::from_str(&out).unwrap()
    }

    #[test]
    fn data_and_id_are_kept_byte_for_byte() {
        let request = parse_text(r#"{"id":1.50,"data": {"a" : 1e400, "b":"\u0041"} ,"name":"meter-1_a"}"#).unwrap();
        assert_eq!(request.name, "meter-1_a");
        assert_eq!(request.data, r#"{"a" : 1e400, "b":"\u0041"}"#);
        assert_eq!(request.id.unwrap(), "1.50");
        for data in ["null", "0", "\"\"", "[]", "true"] {
            assert_eq!(parse_text(&format!(r#"{{"name":"a","data":{data}}}"#)).unwrap().data, data);
        }
    }

    #[test]
    fn answers_carry_the_id_and_say_when_to_try_again() {
        assert_eq!(answer(&parse_text(r#"{"name":"a","data":1,"id":"x"}"#)), json!({"ok": true, "seq": 7, "id": "x"}));
        assert_eq!(answer(&parse_text(r#"{"name":"a","data":1}"#)), json!({"ok": true, "seq": 7}));
        let full = Err(Refusal::new(Kind::Full, "no \"space\"\n", Some(Bytes::from_static(b"3"))));
        assert_eq!(
            answer(&full),
            json!({"ok": false, "error": "full", "reason": "no \"space\" ", "retry_ms": 1000, "id": 3})
        );
    }

    #[test]
    fn lines_that_break_the_contract_are_refused_with_the_kind_of_the_trouble() {
        let deep = format!(r#"{{"name":"a","data":{}1{}}}"#, "[".repeat(65), "]".repeat(65));
        let deeper = format!(r#"{{"name":"a","data":{}}}"#, "[".repeat(60_000));
        let long_id = format!(r#"{{"name":"a","data":1,"id":"{}"}}"#, "x".repeat(127));
        let long_name = format!(r#"{{"name":"{}","data":1}}"#, "x".repeat(65));
        for (line, error) in [
            ("", "bad_json"),
            ("   ", "bad_json"),
            ("null", "bad_json"),
            (r#"["a",1,2]"#, "bad_json"),
            (r#"{"name":"a"}"#, "bad_json"),
            (r#"{"data":1}"#, "bad_json"),
            (r#"{"name":"a","data":1"#, "bad_json"),
            (r#"{"name":"a","data":1}}"#, "bad_json"),
            (r#"{"name":"a","data":1}{"name":"a","data":1}"#, "bad_json"),
            (r#"{"name":"a","data":1,"data":2}"#, "bad_json"),
            (r#"{"name":"a","data":1,"colour":2}"#, "bad_json"),
            (r#"{"name":"a","data":01}"#, "bad_json"),
            (r#"{"name":"a","data":NaN}"#, "bad_json"),
            (r#"{"name":7,"data":1}"#, "bad_json"),
            (r#"{"name":"a","data":1,"id":{}}"#, "bad_json"),
            (r#"{"name":"a","data":1,"id":true}"#, "bad_json"),
            (&long_id, "bad_json"),
            (&deep, "bad_json"),
            (&deeper, "bad_json"),
            (r#"{"name":"","data":1}"#, "bad_name"),
            (r#"{"name":"A","data":1}"#, "bad_name"),
            (r#"{"name":"a/b","data":1}"#, "bad_name"),
            (r#"{"name":"ä","data":1}"#, "bad_name"),
            (&long_name, "bad_name"),
        ] {
            assert_eq!(answer(&parse_text(line))["error"], error, "{line:.80}");
        }
        let refused = answer(&parse(&Bytes::from_static(b"{\"name\":\"a\",\"data\":\"\xff\"}")));
        assert_eq!((&refused["error"], &refused["reason"]), (&json!("bad_json"), &json!("not UTF-8 at byte 20")));
        assert_eq!(answer(&parse_text(r#"{"name":"A","data":1,"id":9}"#))["id"], 9);
        assert_eq!(answer(&parse_text(r#"{"name":"a","data":1]"#))["reason"], "expected `,` or `}` at byte 21");
    }

    #[test]
    fn brackets_inside_of_texts_are_not_depth() {
        assert_eq!(depth(r#"{"[[[\"[":["]]]\\",{}]}"#), 3);
        let request = format!(r#"{{"name":"a","data":{}1{}}}"#, "[".repeat(64), "]".repeat(64));
        assert!(parse_text(&request).is_ok());
    }

    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..60);
        let pieces = proptest::sample::select(vec![
            r#"{"name":"#,
            r#""a""#,
            r#","data":"#,
            "{",
            "}",
            "[",
            "]",
            "1",
            r#""id":"#,
            ",",
            "\\",
            "\"",
            "\\u00",
            "null",
            " ",
        ]);
        let built = proptest::collection::vec(pieces, 0..30).prop_map(|parts| parts.concat().into_bytes());
        prop_oneof![bytes, built]
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_answered_with_one_line_of_json(bytes in hostile()) {
            let result = parse(&Bytes::from(bytes));
            let answer = answer(&result);
            prop_assert_eq!(answer["ok"].as_bool(), Some(result.is_ok()));
        }

        #[test]
        fn what_is_taken_is_json_that_any_reader_takes(bytes in hostile()) {
            if let Ok(request) = parse(&Bytes::from(bytes)) {
                prop_assert!(serde_json::from_slice::<&RawValue>(&request.data).is_ok());
                prop_assert!(is_name(&request.name));
            }
        }
    }
}
