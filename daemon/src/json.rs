//! JSON from strangers, read within bounds.
//!
//! A document of 4 MiB may hold two million values, which as a tree take fifty times its size. This reader stops at
//! the first value beyond the limits, so what it builds is small whatever it is given. A member that stands twice is
//! refused, too: which one counts would be the reader's choice, and readers choose differently (RFC 8259, section 4).

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Characters of a member's name that stand in a message.
const MAX_NAME_CHARS: usize = 60;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Values of any kind, objects and lists included.
    pub values: usize,
    /// Objects and lists within each other.
    pub levels: usize,
    /// Bytes of all texts and names together.
    pub text_bytes: usize,
}

/// Why a text was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not JSON, in the words of the parser: they tell line and column, nothing of the content.
    #[error("not JSON: {0}")]
    Syntax(String),
    /// Over [`Limits::values`].
    #[error("too many values: more than {limit}")]
    TooManyValues {
        /// Wanted at most.
        limit: usize,
    },
    /// Over [`Limits::levels`].
    #[error("nested too deeply: more than {limit} levels")]
    TooDeep {
        /// Wanted at most.
        limit: usize,
    },
    /// Over [`Limits::text_bytes`].
    #[error("too much text: more than {limit} bytes")]
    TooMuchText {
        /// Wanted at most.
        limit: usize,
    },
    /// A member that stands twice in one object.
    #[error("stands twice")]
    Duplicate,
}

/// A [`Fault`], and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Names of the members that lead there, from the outermost; none where the text as a whole is meant.
    pub path: Vec<String>,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { self.fault.fmt(f) } else { write!(f, "{}: {}", self.path.join("."), self.fault) }
    }
}

/// Reads one value.
///
/// # Errors
///
/// The first [`Fault`].
pub fn read(text: &str, limits: Limits) -> Result<Value, Refused> {
    let mut reading = Reading { limits, values: 0, text_bytes: 0, level: 0, path: Vec::new(), fault: None };
    let mut parser = serde_json::Deserializer::from_str(text);
    let read = Node(&mut reading).deserialize(&mut parser).and_then(|value| parser.end().map(|()| value));
    read.map_err(|error| match reading.fault {
        Some(fault) => Refused { path: reading.path, fault },
        None => Refused { path: Vec::new(), fault: Fault::Syntax(error.to_string()) },
    })
}

struct Reading {
    limits: Limits,
    /// Begun so far.
    values: usize,
    /// Read so far.
    text_bytes: usize,
    /// Objects and lists around the place where the reader is.
    level: usize,
    /// The names around it; both stay as they are at the first fault.
    path: Vec<String>,
    fault: Option<Fault>,
}

impl Reading {
    /// Ends the parser's work: its own error says nothing, the fault does.
    fn stop<E: de::Error>(&mut self, fault: Fault) -> E {
        self.fault = Some(fault);
        E::custom("")
    }

    fn value<E: de::Error>(&mut self) -> Result<(), E> {
        let limit = self.limits.values;
        self.values += 1;
        if self.values > limit { Err(self.stop(Fault::TooManyValues { limit })) } else { Ok(()) }
    }

    fn enter<E: de::Error>(&mut self) -> Result<(), E> {
        let limit = self.limits.levels;
        self.level += 1;
        if self.level > limit { Err(self.stop(Fault::TooDeep { limit })) } else { Ok(()) }
    }

    fn text<E: de::Error>(&mut self, text: &str) -> Result<String, E> {
        let limit = self.limits.text_bytes;
        self.text_bytes += text.len();
        if self.text_bytes > limit { Err(self.stop(Fault::TooMuchText { limit })) } else { Ok(text.to_owned()) }
    }
}

/// The next value.
struct Node<'r>(&'r mut Reading);

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Value, D::Error> {
        self.0.value()?;
        parser.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Value, E> {
        Ok(flag.into())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        self.0.text(text).map(Value::String)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.0.enter()?;
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Node(self.0))? {
            items.push(item);
        }
        self.0.level -= 1;
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        self.0.enter()?;
        let mut members = Map::new();
        while let Some(name) = object.next_key_seed(Name(self.0))? {
            self.0.path.push(name.chars().take(MAX_NAME_CHARS).collect());
            if members.contains_key(&name) {
                return Err(self.0.stop(Fault::Duplicate));
            }
            let value = object.next_value_seed(Node(self.0))?;
            self.0.path.pop();
            members.insert(name, value);
        }
        self.0.level -= 1;
        Ok(members.into())
    }
}

/// The name of a member.
struct Name<'r>(&'r mut Reading);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<String, D::Error> {
        parser.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<String, E> {
        self.0.text(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const LIMITS: Limits = Limits { values: 16, levels: 4, text_bytes: 64 };

    fn complaint(text: &str) -> String {
        read(text, LIMITS).unwrap_err().to_string()
    }

    #[test]
    fn what_is_within_the_limits_is_read_as_it_stands() {
        for value in [
            json!(null),
            json!({ "a": { "b": [1, -2, 1.5, true, null, "\u{1b}", ""] }, "": {} }),
            json!([[[[]]]]),
            json!([u64::MAX, i64::MIN]),
            json!("t".repeat(64)),
        ] {
            assert_eq!(read(&value.to_string(), LIMITS), Ok(value));
        }
    }

    #[test]
    fn the_first_value_beyond_a_limit_ends_the_reading_and_is_named() {
        assert_eq!(complaint(r#"{"a":{"b":[[[1]]]}}"#), "a.b: nested too deeply: more than 4 levels");
        assert_eq!(complaint(&json!({ "a": vec![0; 15] }).to_string()), "a: too many values: more than 16");
        assert_eq!(complaint(&json!({ "a": "t".repeat(64) }).to_string()), "a: too much text: more than 64 bytes");
        assert_eq!(complaint(&json!({ "t".repeat(65): 1 }).to_string()), "too much text: more than 64 bytes");
        assert_eq!(complaint(r#"{"a":{"b":1,"c":2,"b":1}}"#), "a.b: stands twice");
        assert_eq!(complaint(r#"{"a":1,"\u0061":1}"#), "a: stands twice");
    }

    #[test]
    fn what_is_not_json_is_told_by_line_and_column() {
        for text in
            ["", "{", r#"{"a":1}x"#, "{'a':1}", "[1,]", "nul", "\u{feff}{}", r#""\ud800""#, "1e999", "01", "NaN"]
        {
            let complaint = complaint(text);
            assert!(complaint.starts_with("not JSON: ") && complaint.contains(" at line 1 column "), "{complaint}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in r#"([{}\[\],:"a\\u0-9. ]|true|null|"a":){0,40}"#) {
            let bounded = read(&text, LIMITS);
            let unbounded = serde_json::from_str::<Value>(&text);
            if let Ok(value) = bounded {
                prop_assert_eq!(value, unbounded.unwrap());
            }
        }
    }
}
