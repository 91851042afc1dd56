//! The members of a request's JSON object. A request comes from whoever may publish, so it is read within bounds, and
//! what it has beyond the members that a command takes refuses it.

use serde_json::{Map, Value};

use super::{
    command::MAX_FILTER_BYTES,
    refusal::{Refusal, excerpt},
};
use crate::json::{self, Limits};

/// No command takes a list or an object, or more members than this; the longest text is a filter.
const LIMITS: Limits = Limits { values: 8, levels: 1, text_bytes: MAX_FILTER_BYTES };

/// The members of one object.
#[derive(Debug)]
pub(super) struct Members(Map<String, Value>);

impl Members {
    /// Reads an object that has no other members than these; nothing at all reads as `{}`.
    pub(super) fn read(payload: &[u8], known: &[&str]) -> Result<Self, Refusal> {
        if payload.is_empty() {
            return Ok(Self(Map::new()));
        }
        let text = str::from_utf8(payload).map_err(|error| {
            Refusal::bad_request(&format!("not UTF-8: the byte at {} does not belong there", error.valid_up_to()))
        })?;
        let members = match json::read(text, LIMITS) {
            Ok(Value::Object(members)) => members,
            Ok(_) => return Err(Refusal::bad_request(&format!("wanted a JSON object, found {}", excerpt(text)))),
            Err(refused) => return Err(Refusal::bad_request(&refused.to_string())),
        };
        if let Some(name) = members.keys().find(|name| !known.contains(&name.as_str())) {
            let accepted = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Refusal::bad_request(&format!("unknown member {}; accepted: {accepted}", excerpt(name))));
        }
        Ok(Self(members))
    }

    /// A member that is a string.
    pub(super) fn text(&self, name: &str, wanted: &str) -> Result<Option<&str>, Refusal> {
        let value = self.0.get(name);
        value.map(|value| value.as_str().ok_or_else(|| unwanted(name, wanted, value))).transpose()
    }

    /// A member that is a whole number.
    pub(super) fn number(&self, name: &str, wanted: &str) -> Result<Option<u64>, Refusal> {
        let value = self.0.get(name);
        value.map(|value| value.as_u64().ok_or_else(|| unwanted(name, wanted, value))).transpose()
    }
}

/// A member whose value is not accepted.
pub(super) fn unwanted(name: &str, wanted: &str, found: &Value) -> Refusal {
    let found = found.as_str().map_or_else(|| found.to_string(), excerpt);
    Refusal::bad_request(&format!("{name}: wanted {wanted}, found {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_by_name_and_type() {
        let members = Members::read(br#" {"filter":"de\u0062ug", "limit":7} "#, &["limit", "filter"]).unwrap();
        assert_eq!(members.text("filter", "a level"), Ok(Some("debug")));
        assert_eq!(members.number("limit", "a number"), Ok(Some(7)));
        assert_eq!(members.number("absent", "a number"), Ok(None));
        assert!(Members::read(b"", &[]).unwrap().0.is_empty(), "nothing says as much as {{}}");
    }

    #[test]
    fn what_is_no_request_is_refused_with_what_is_wrong_with_it() {
        for (payload, reason) in [
            (&b"["[..], "not JSON: "),
            (b"5", r#"wanted a JSON object, found "5""#),
            (br#"["debug","10m"]"#, r#"wanted a JSON object, found "[\"debug\",\"10m\"]""#),
            (b"null", r#"wanted a JSON object, found "null""#),
            (b"{\"a\":\xff}", "not UTF-8: the byte at 5 does not belong there"),
            (br#"{"a":1,"a":2}"#, "a: stands twice"),
            (br#"{"a":1}{}"#, "not JSON: trailing characters"),
            (br#"{"b":1}"#, r#"unknown member "b"; accepted: a"#),
            (br#"{"a":{"deep":1}}"#, "a: nested too deeply"),
            (br#"{"a":"#, "not JSON: EOF while parsing a value"),
        ] {
            let refusal = Members::read(payload, &["a"]).unwrap_err();
            assert!(refusal.reason.starts_with(reason), "{}", refusal.reason);
        }
        let refused = Members::read(br#"{"a":true}"#, &["a"]).unwrap().number("a", "a number").unwrap_err();
        assert_eq!(refused.reason, "a: wanted a number, found true");
    }

    #[test]
    fn nesting_and_long_names_make_no_long_reason() {
        for payload in [
            [b"{\"a\":".as_slice(), &b"[".repeat(16_000)].concat(),
            [b"{\"a\":".as_slice(), &b"[".repeat(8_000), &b"]".repeat(8_000), b"}"].concat(),
            format!("{{\"{}\":1}}", "n".repeat(16_000)).into_bytes(),
            format!("\"{}\"", "t".repeat(1_000)).into_bytes(),
        ] {
            let refused = Members::read(&payload, &["a"]).unwrap_err();
            assert!(refused.reason.len() < 200, "{}", refused.reason);
        }
    }
}
