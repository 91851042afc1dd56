//! Writes a long list as several JSON objects of bounded size, without ever holding it whole:
//!
//! ```text
//! {"interval_ms":60000,…,"part":0,"last":false,"flows":[{…},{…}]}
//! {"interval_ms":60000,…,"part":1,"last":true,"flows":[{…}],"samples":{…}}
//! ```
//!
//! Every part has the same head. How many there are is known when the last is written, which also bears the tail.

use bytes::Bytes;
use serde::Serialize;

/// A list being written.
#[derive(Debug)]
pub(crate) struct Chunks {
    /// The head without its closing brace.
    head: Vec<u8>,
    list: &'static str,
    /// Bytes of one part, about.
    part_bytes: usize,
    part: u32,
    body: Vec<u8>,
}

impl Chunks {
    /// Starts a list with this name, under a head that is a JSON object, in parts of about `part_bytes`: what a broker and
    /// a modem take in one message without trouble.
    #[must_use]
    pub(crate) fn new(head: &impl Serialize, list: &'static str, part_bytes: usize) -> Self {
        Self { head: members(head), list, part_bytes, part: 0, body: Vec::new() }
    }

    /// Adds an item; returns a part where it is full.
    pub(crate) fn push(&mut self, item: &impl Serialize) -> Option<Bytes> {
        let item = json(item);
        let full =
            (!self.body.is_empty() && self.body.len() + item.len() > self.part_bytes).then(|| self.part(false, &[]));
        if !self.body.is_empty() {
            self.body.push(b',');
        }
        self.body.extend_from_slice(&item);
        full
    }

    /// Ends the list and returns the last part, with the members of `tail`.
    #[must_use]
    pub(crate) fn finish(mut self, tail: &impl Serialize) -> Bytes {
        let tail = members(tail);
        self.part(true, &tail)
    }

    fn part(&mut self, last: bool, tail: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(self.head.len() + self.body.len() + tail.len() + 64);
        out.push(b'{');
        out.extend_from_slice(&self.head);
        if !self.head.is_empty() {
            out.push(b',');
        }
        out.extend_from_slice(format!(r#""part":{},"last":{last},"{}":["#, self.part, self.list).as_bytes());
        out.extend_from_slice(&self.body);
        out.push(b']');
        if !tail.is_empty() {
            out.push(b',');
            out.extend_from_slice(tail);
        }
        out.push(b'}');
        self.part += 1;
        self.body.clear();
        out.into()
    }
}

/// JSON of one of our own types.
pub(crate) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("structs with named fields and string keys are JSON")
}

/// An object's members: its JSON without the braces.
fn members(object: &impl Serialize) -> Vec<u8> {
    let mut json = json(object);
    debug_assert!(json.starts_with(b"{"), "an object");
    json.pop();
    json.remove(0);
    json
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_long_list_comes_in_bounded_parts_that_say_which_is_the_last() {
        let mut chunks = Chunks::new(&json!({"interval_ms": 1000}), "flows", 60 << 10);
        let text = "x".repeat(1000);
        let mut parts: Vec<Bytes> =
            (0..200).filter_map(|number| chunks.push(&json!({"n": number, "t": text}))).collect();
        parts.push(chunks.finish(&json!({"samples": 7})));
        assert!(parts.len() > 2 && parts.iter().all(|part| part.len() < 64 * 1024));
        let parts: Vec<Value> = parts.iter().map(|part| serde_json::from_slice(part).unwrap()).collect();
        let mut next = 0;
        for (index, part) in parts.iter().enumerate() {
            let last = index + 1 == parts.len();
            assert_eq!((part["part"].as_u64(), part["last"].as_bool()), (Some(index as u64), Some(last)));
            assert_eq!((&part["interval_ms"], part.get("samples").is_some()), (&json!(1000), last));
            for flow in part["flows"].as_array().unwrap() {
                assert_eq!(flow["n"], next);
                next += 1;
            }
        }
        assert_eq!(next, 200);
    }

    #[test]
    fn an_empty_list_is_one_part() {
        let part = Chunks::new(&json!({}), "flows", 60 << 10).finish(&json!({}));
        assert_eq!(&part[..], br#"{"part":0,"last":true,"flows":[]}"#);
    }
}
