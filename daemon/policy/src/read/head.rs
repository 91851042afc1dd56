//! What stands around the rules: version, scope, how long it counts, the default, and changes of keys.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tidegate_values::{Digest, PublicKey, calendar, json::MAX_WHOLE};

use super::{
    Fault, MAX_RULES, Reading,
    rule::OneRule,
    values::{Content, Found, Many, Members, One, Value},
};
use crate::bundle::{DefaultAction, MAX_KEYS, NewKey, Scope};

const BUNDLE: &str = r#"{"version":N,"scope":{…},"default":"allow" or "drop","rules":[…]}"#;
const VERSION: &str = "a whole number from 1 to 9007199254740991";
const _: () = assert!(MAX_WHOLE == 9_007_199_254_740_991);
const SCOPE: &str = r#"{"gateway":"ID"} or {"group":"NAME"}"#;
const IDENTIFIER: &str = "1 to 64 of A-Z a-z 0-9 _ . -";
const MOMENT: &str = r#"a moment in UTC such as "2027-01-01T00:00:00Z""#;
const DEFAULT: &str = r#""allow" or "drop""#;
const KEYS: &str = r#"{"add":["ed25519:BASE64",…],"remove":["KEYID",…]}"#;
const NEW_KEY: &str = r#"a list of "ed25519:BASE64" and {"key":"ed25519:BASE64","not_after":"2027-01-01T00:00:00Z"}"#;
const KEY: &str = r#""ed25519:" and the key's 32 bytes in base64"#;
const KEY_IDS: &str = "a list of key ids: 64 lowercase hexadecimal digits, the SHA-256 of the key's SPKI";
const RULES: &str = "a list of rules";

/// The bundle as a whole.
pub(super) struct Whole<'r>(pub(super) &'r mut Reading);

impl<'de> DeserializeSeed<'de> for Whole<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<(), D::Error> {
        Value { reading: self.0, content: Head }.deserialize(parser)
    }
}

struct Head;

impl<'de> Content<'de> for Head {
    type Output = ();

    fn accepted(&self) -> &'static str {
        BUNDLE
    }

    fn object<A: MapAccess<'de>>(self, reading: &mut Reading, mut object: A) -> Result<(), A::Error> {
        let mut members = Members::new("", &["version", "scope", "not_after", "default", "keys", "rules"]);
        let (mut version, mut scope, mut default, mut rules) = (None, None, None, None);
        while let Some(member) = members.next(reading, &mut object)? {
            match member {
                "version" => {
                    let judge = |found: &Found<'de>| match found {
                        Found::Whole(number @ 1..=MAX_WHOLE) => Some(*number),
                        _ => None,
                    };
                    let content = One { accepted: VERSION, judge };
                    version = Some(object.next_value_seed(Value { reading, content })?);
                }
                "scope" => scope = Some(object.next_value_seed(Value { reading, content: ScopeOf })?),
                "not_after" => {
                    let content = One { accepted: MOMENT, judge: |found: &Found<'de>| calendar::parse(found.text()?) };
                    reading.bundle.not_after_ms = Some(object.next_value_seed(Value { reading, content })?);
                }
                "default" => {
                    let judge = |found: &Found<'de>| match found.text()? {
                        "allow" => Some(DefaultAction::Allow),
                        "drop" => Some(DefaultAction::Drop),
                        _ => None,
                    };
                    let content = One { accepted: DEFAULT, judge };
                    default = Some(object.next_value_seed(Value { reading, content })?);
                }
                "keys" => object.next_value_seed(Value { reading, content: Keys })?,
                _ => rules = Some(object.next_value_seed(Value { reading, content: Rules })?),
            }
        }
        let missing = [
            ("version", VERSION, version.is_none()),
            ("scope", SCOPE, scope.is_none()),
            ("default", DEFAULT, default.is_none()),
            ("rules", RULES, rules.is_none()),
        ];
        let (Some(version), Some(scope), Some(default), Some(())) = (version, scope, default, rules) else {
            let (member, accepted, _) = missing.into_iter().find(|(_, _, is)| *is).unwrap_or_default();
            reading.at("", member);
            return Err(reading.stop(Fault::Missing { accepted }));
        };
        (reading.bundle.version, reading.bundle.scope, reading.bundle.default) = (version, scope, default);
        Ok(())
    }
}

struct ScopeOf;

impl<'de> Content<'de> for ScopeOf {
    type Output = Scope;

    fn accepted(&self) -> &'static str {
        SCOPE
    }

    fn object<A: MapAccess<'de>>(self, reading: &mut Reading, mut object: A) -> Result<Scope, A::Error> {
        let mut members = Members::new("scope", &["gateway", "group"]);
        let mut scope = None;
        while let Some(member) = members.next(reading, &mut object)? {
            if scope.is_some() {
                return Err(reading.stop(Fault::Apart("a bundle is for one gateway or for one group, not for both")));
            }
            let judge = |found: &Found<'de>| found.text().filter(|text| is_identifier(text)).map(str::to_owned);
            let name = object.next_value_seed(Value { reading, content: One { accepted: IDENTIFIER, judge } })?;
            scope = Some(if member == "gateway" { Scope::Gateway(name) } else { Scope::Group(name) });
        }
        reading.at("", "scope");
        scope.ok_or_else(|| reading.not_accepted("an empty object", SCOPE))
    }
}

/// As `[gateway] id` and `groups` have it.
fn is_identifier(text: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    matches!(text.len(), 1..=64) && text.bytes().all(valid)
}

struct Keys;

impl<'de> Content<'de> for Keys {
    type Output = ();

    fn accepted(&self) -> &'static str {
        KEYS
    }

    fn object<A: MapAccess<'de>>(self, reading: &mut Reading, mut object: A) -> Result<(), A::Error> {
        let mut members = Members::new("keys", &["add", "remove"]);
        while let Some(member) = members.next(reading, &mut object)? {
            if member == "add" {
                object.next_value_seed(Value { reading, content: NewKeys })?;
            } else {
                let content = Many { accepted: KEY_IDS, take: take_removed };
                object.next_value_seed(Value { reading, content })?;
            }
        }
        Ok(())
    }
}

fn take_removed(reading: &mut Reading, found: &Found<'_>) -> Result<(), Fault> {
    let id: Digest = found.judged(KEY_IDS, |found| found.text()?.parse().ok())?;
    let list = &mut reading.bundle.keys.remove;
    match list.len() {
        _ if list.contains(&id) => Err(Fault::Repeated { found: id.to_string() }),
        MAX_KEYS => Err(Fault::TooMany { limit: MAX_KEYS, what: "keys" }),
        _ => {
            list.push(id);
            Ok(())
        }
    }
}

struct NewKeys;

impl<'de> Content<'de> for NewKeys {
    type Output = ();

    fn accepted(&self) -> &'static str {
        NEW_KEY
    }

    fn list<A: SeqAccess<'de>>(self, reading: &mut Reading, mut list: A) -> Result<(), A::Error> {
        while let Some(new) = list.next_element_seed(Value { reading, content: OneKey })? {
            let keys = &mut reading.bundle.keys.add;
            let fault = match keys.len() {
                _ if keys.iter().any(|known| known.key == new.key) => {
                    Fault::Repeated { found: PublicKey::Ed25519(new.key).to_string() }
                }
                MAX_KEYS => Fault::TooMany { limit: MAX_KEYS, what: "keys" },
                _ => {
                    keys.push(new);
                    continue;
                }
            };
            return Err(reading.stop(fault));
        }
        Ok(())
    }
}

struct OneKey;

impl<'de> Content<'de> for OneKey {
    type Output = NewKey;

    fn accepted(&self) -> &'static str {
        NEW_KEY
    }

    fn single(self, found: Found<'de>) -> Result<NewKey, Fault> {
        Ok(NewKey { key: found.judged(KEY, key)?, not_after_ms: None })
    }

    fn object<A: MapAccess<'de>>(self, reading: &mut Reading, mut object: A) -> Result<NewKey, A::Error> {
        let mut members = Members::new("keys.add", &["key", "not_after"]);
        let (mut known, mut not_after_ms) = (None, None);
        while let Some(member) = members.next(reading, &mut object)? {
            if member == "key" {
                known = Some(object.next_value_seed(Value { reading, content: One { accepted: KEY, judge: key } })?);
            } else {
                let content = One { accepted: MOMENT, judge: |found: &Found<'de>| calendar::parse(found.text()?) };
                not_after_ms = Some(object.next_value_seed(Value { reading, content })?);
            }
        }
        reading.at("keys.add", "key");
        let key = known.ok_or_else(|| reading.stop(Fault::Missing { accepted: KEY }))?;
        Ok(NewKey { key, not_after_ms })
    }
}

fn key(found: &Found<'_>) -> Option<[u8; 32]> {
    match PublicKey::parse(found.text()?) {
        Ok(PublicKey::Ed25519(key)) => Some(key),
        _ => None,
    }
}

struct Rules;

impl<'de> Content<'de> for Rules {
    type Output = ();

    fn accepted(&self) -> &'static str {
        RULES
    }

    fn list<A: SeqAccess<'de>>(self, reading: &mut Reading, mut list: A) -> Result<(), A::Error> {
        loop {
            // Before it is known whether there is another one: what is said of it needs its place.
            let before = reading.bundle.rules.len();
            reading.place.rule = Some(before + 1);
            reading.place.name.clear();
            reading.at("", "");
            let content = Bounded(before);
            if list.next_element_seed(Value { reading, content })?.is_none() {
                break;
            }
        }
        reading.place.rule = None;
        reading.place.name.clear();
        Ok(())
    }
}

/// A rule behind that many others.
struct Bounded(usize);

impl<'de> Content<'de> for Bounded {
    type Output = ();

    fn accepted(&self) -> &'static str {
        OneRule.accepted()
    }

    fn object<A: MapAccess<'de>>(self, reading: &mut Reading, object: A) -> Result<(), A::Error> {
        if self.0 == MAX_RULES {
            return Err(reading.stop(Fault::TooMany { limit: MAX_RULES, what: "rules in a bundle" }));
        }
        OneRule.object(reading, object)
    }
}

/// The version of what may be wrong in all else: a publisher must go beyond it. `None` where it is no JSON, or the version is
/// none or stands twice.
pub(super) fn version(text: &str) -> Option<u64> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let version = parser.deserialize_map(Version).ok()??;
    parser.end().ok()?;
    version.get().parse().ok().filter(|version| (1..=MAX_WHOLE).contains(version))
}

struct Version;

impl<'de> Visitor<'de> for Version {
    /// Where it stands once.
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Option<&'de RawValue>, A::Error> {
        let mut versions = 0;
        let mut version = None;
        while let Some(is_version) = object.next_key_seed(IsVersion)? {
            if is_version {
                versions += 1;
                version = Some(object.next_value()?);
            } else {
                object.next_value::<IgnoredAny>()?;
            }
        }
        Ok(version.filter(|_| versions == 1))
    }
}

/// Whether a member's name is `version`; unlike `&str` it takes names with escapes, unlike `String` it keeps none.
struct IsVersion;

impl<'de> DeserializeSeed<'de> for IsVersion {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<bool, D::Error> {
        parser.deserialize_str(self)
    }
}

impl Visitor<'_> for IsVersion {
    type Value = bool;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == "version")
    }
}
