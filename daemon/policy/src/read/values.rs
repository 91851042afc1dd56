//! Values, each with what is accepted in its place.
//!
//! What may stand somewhere is a [`Content`]: it takes single values, a list or an object, and refuses the rest before
//! any of it is read. [`One`] and [`Many`] are the usual ones.

use std::{borrow::Cow, fmt};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use tidegate_values::{excerpt, nearest};

use super::{Fault, Reading};

/// A single value.
pub(super) enum Found<'de> {
    Whole(u64),
    Text(Cow<'de, str>),
    /// Whatever else, as it is told.
    Other(String),
}

impl<'de> Found<'de> {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// That something else is accepted.
    pub(super) fn refused(&self, accepted: &'static str) -> Fault {
        let found = match self {
            Self::Whole(number) => number.to_string(),
            // Quotes tell "7" from 7.
            Self::Text(text) => format!("\"{}\"", if text.is_empty() { String::new() } else { excerpt(text) }),
            Self::Other(shown) => shown.clone(),
        };
        Fault::NotAccepted { found, accepted }
    }

    /// As `judge` has it, which says `None` where it does not accept.
    pub(super) fn judged<T>(
        &self,
        accepted: &'static str,
        judge: impl FnOnce(&Found<'de>) -> Option<T>,
    ) -> Result<T, Fault> {
        judge(self).ok_or_else(|| self.refused(accepted))
    }
}

/// What may stand in a place.
pub(super) trait Content<'de>: Sized {
    type Output;

    /// What is accepted, for messages.
    fn accepted(&self) -> &'static str;

    fn single(self, found: Found<'de>) -> Result<Self::Output, Fault> {
        Err(found.refused(self.accepted()))
    }

    fn list<A: SeqAccess<'de>>(self, reading: &mut Reading, list: A) -> Result<Self::Output, A::Error> {
        drop(list);
        Err(reading.not_accepted("a list", self.accepted()))
    }

    fn object<A: MapAccess<'de>>(self, reading: &mut Reading, object: A) -> Result<Self::Output, A::Error> {
        drop(object);
        Err(reading.not_accepted("an object", self.accepted()))
    }
}

/// Reads it.
pub(super) struct Value<'r, C> {
    pub(super) reading: &'r mut Reading,
    pub(super) content: C,
}

impl<'de, C: Content<'de>> Value<'_, C> {
    fn single<E: de::Error>(self, found: Found<'de>) -> Result<C::Output, E> {
        self.content.single(found).map_err(|fault| self.reading.stop(fault))
    }
}

impl<'de, C: Content<'de>> DeserializeSeed<'de> for Value<'_, C> {
    type Value = C::Output;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<C::Output, D::Error> {
        parser.deserialize_any(self)
    }
}

impl<'de, C: Content<'de>> Visitor<'de> for Value<'_, C> {
    type Value = C::Output;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.content.accepted())
    }

    fn visit_unit<E: de::Error>(self) -> Result<C::Output, E> {
        self.single(Found::Other("null".to_owned()))
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<C::Output, E> {
        self.single(Found::Other(flag.to_string()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<C::Output, E> {
        self.single(Found::Whole(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<C::Output, E> {
        self.single(Found::Other(number.to_string()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<C::Output, E> {
        self.single(Found::Other(format!("{number:?}")))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<C::Output, E> {
        self.single(Found::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<C::Output, E> {
        self.single(Found::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<C::Output, A::Error> {
        self.content.list(self.reading, list)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<C::Output, A::Error> {
        self.content.object(self.reading, object)
    }
}

/// A single value that `judge` accepts.
pub(super) struct One<F> {
    pub(super) accepted: &'static str,
    pub(super) judge: F,
}

impl<'de, T, F: FnOnce(&Found<'de>) -> Option<T>> Content<'de> for One<F> {
    type Output = T;

    fn accepted(&self) -> &'static str {
        self.accepted
    }

    fn single(self, found: Found<'de>) -> Result<T, Fault> {
        found.judged(self.accepted, self.judge)
    }
}

/// A list of single values.
pub(super) struct Many<F> {
    pub(super) accepted: &'static str,
    pub(super) take: F,
}

impl<'de, F: FnMut(&mut Reading, &Found<'de>) -> Result<(), Fault>> Content<'de> for Many<F> {
    type Output = ();

    fn accepted(&self) -> &'static str {
        self.accepted
    }

    fn list<A: SeqAccess<'de>>(mut self, reading: &mut Reading, mut list: A) -> Result<(), A::Error> {
        while let Some(item) = list.next_element_seed(Value { reading, content: Any(self.accepted) })? {
            (self.take)(reading, &item).map_err(|fault| reading.stop(fault))?;
        }
        Ok(())
    }
}

/// Whatever single value.
struct Any(&'static str);

impl<'de> Content<'de> for Any {
    type Output = Found<'de>;

    fn accepted(&self) -> &'static str {
        self.0
    }

    fn single(self, found: Found<'de>) -> Result<Found<'de>, Fault> {
        Ok(found)
    }
}

/// Names of an object's members, and which of them were there.
pub(super) struct Members {
    names: &'static [&'static str],
    /// The member that the object is; empty for a rule and for the bundle.
    of: &'static str,
    seen: u32,
}

impl Members {
    pub(super) const fn new(of: &'static str, names: &'static [&'static str]) -> Self {
        Self { names, of, seen: 0 }
    }

    /// The name of the next one, which is the reader's place then.
    pub(super) fn next<'de, A: MapAccess<'de>>(
        &mut self,
        reading: &mut Reading,
        object: &mut A,
    ) -> Result<Option<&'static str>, A::Error> {
        reading.at(self.of, "");
        let Some(index) = object.next_key_seed(Name { reading, names: self.names })? else { return Ok(None) };
        let name = self.names[index];
        reading.at(self.of, name);
        if self.seen & 1 << index != 0 {
            return Err(reading.stop(Fault::Twice));
        }
        self.seen |= 1 << index;
        Ok(Some(name))
    }
}

/// Characters of an unknown name that are compared with those that are known: the effort grows with them.
const MAX_MEANT_CHARS: usize = 24;

struct Name<'r> {
    reading: &'r mut Reading,
    names: &'static [&'static str],
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<usize, D::Error> {
        parser.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<usize, E> {
        if let Some(index) = self.names.iter().position(|known| *known == name) {
            return Ok(index);
        }
        let fault = Fault::Unknown {
            name: excerpt(name),
            meant: nearest(&name.chars().take(MAX_MEANT_CHARS).collect::<String>(), self.names.iter().copied()),
            accepted: self.names.join(", "),
        };
        Err(self.reading.stop(fault))
    }
}
