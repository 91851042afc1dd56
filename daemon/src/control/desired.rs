//! Desired documents, as they come from the network: `{"version":7,"config":{…}}`.
//!
//! Reading has two steps. [`head`] goes over the text once and builds nothing: it finds version and body in any
//! document that is JSON, however large or deep, because the version of what is refused counts, too (a publisher must
//! go beyond it). Then [`read`] reads the body within the bounds of [`Remote::read`]. Beside a hostile document of
//! 4 MiB this takes 6 MiB for a moment at most: the parser notes each level that it skips.
//!
//! All of it is pure: the same bytes always give the same answer, and no bytes make it panic.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{error::Category, value::RawValue};
use tidegate_values::{
    Digest, excerpt,
    json::{self, NoText},
};

use super::link::{MAX_CONFIG_BYTES, Source};
use crate::config::{ConfigError, Remote};

/// Largest version.
pub const MAX_VERSION: u64 = json::MAX_WHOLE;

/// Longest text with escapes, as it is written. The parser builds such a text before anybody sees how long it is, in a
/// buffer that grows by doubling: 12 MiB for one of 4 MiB.
const MAX_ESCAPED_BYTES: usize = 64 << 10;

/// A configuration that can be used, as far as it goes by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its place in the sequence of its source.
    pub version: u64,
    /// Of the payload.
    pub digest: Digest,
    /// What it says.
    pub config: Remote,
}

/// Version and digest of a document whose body nobody has judged yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// Its place in the sequence of its source.
    pub version: u64,
    /// Of the payload.
    pub digest: Digest,
    /// JSON of any size and depth.
    pub body: &'a str,
}

/// A document that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// Its version, where the document is JSON and has one.
    pub version: Option<u64>,
    /// Of the payload.
    pub digest: Digest,
    /// Why; in its words nothing of the content that could be a secret, and at most a few lines.
    #[source]
    pub reason: Reason,
}

/// Why a document cannot be used; all are permanent.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// Over [`MAX_CONFIG_BYTES`].
    #[error("too-large: {bytes} bytes, at most {MAX_CONFIG_BYTES} are judged")]
    TooLarge {
        /// How many there are.
        bytes: usize,
    },
    /// Bytes that no parser is to see; the version is not read then.
    #[error(transparent)]
    NoText(#[from] NoText),
    /// Text that is not JSON, in the words of the parser.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// JSON, but no object.
    #[error("not an object; wanted is {{\"version\":N,\"{body}\":{{…}}}}")]
    NotAnObject {
        /// Name of the member that is the body.
        body: &'static str,
    },
    /// Which of the two counts would be the reader's choice.
    #[error("{member} stands twice")]
    Twice {
        /// The member's name.
        member: &'static str,
    },
    /// A member that nobody knows.
    #[error("unknown member {member}; a document has version and {body}")]
    UnknownMember {
        /// Its name, shortened.
        member: String,
        /// Name of the member that is the body.
        body: &'static str,
    },
    /// No version.
    #[error("version is missing; accepted is a whole number from 1 to {MAX_VERSION}")]
    NoVersion,
    /// A version that is none.
    #[error("version: found {found}, accepted is a whole number from 1 to {MAX_VERSION}")]
    BadVersion {
        /// What stands there, shortened.
        found: String,
    },
    /// No body.
    #[error("{body} is missing; to withdraw a document, publish an empty message in its place")]
    NoBody {
        /// Name of the member that is the body.
        body: &'static str,
    },
    /// What the configuration itself says is wrong.
    #[error("{}", Lines(.0))]
    Config(Vec<ConfigError>),
}

struct Lines<'a>(&'a [ConfigError]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// Reads a configuration that is meant for this source.
///
/// # Errors
///
/// [`Refused`] tells the version, too, where there is one.
pub fn read(source: &Source, payload: &[u8]) -> Result<Document, Refused> {
    let Head { version, digest, body } = head(payload, "config")?;
    match Remote::read(&format!("remote {source} v{version}"), body) {
        Ok(config) => Ok(Document { version, digest, config }),
        Err(errors) => Err(Refused { version: Some(version), digest, reason: Reason::Config(errors) }),
    }
}

/// Finds the version and the member called `body`, and nothing else.
///
/// # Errors
///
/// [`Refused`] tells the version, too, where there is one.
pub fn head<'a>(payload: &'a [u8], body: &'static str) -> Result<Head<'a>, Refused> {
    let digest = Digest::of(payload);
    let members = Members::read(payload, body);
    let members = members.map_err(|reason| Refused { version: None, digest, reason })?;
    let refused = |version, reason| Err(Refused { version, digest, reason });
    if members.version_twice {
        return refused(None, Reason::Twice { member: "version" });
    }
    let version = match members.version {
        None => return refused(None, Reason::NoVersion),
        // JSON has no leading zeros and no plus; a sign, a fraction and an exponent are not digits.
        Some(raw) => match raw.get().parse() {
            Ok(version @ 1..=MAX_VERSION) => version,
            _ => return refused(None, Reason::BadVersion { found: excerpt(raw.get()) }),
        },
    };
    if let Some(member) = members.unknown {
        return refused(Some(version), Reason::UnknownMember { member, body });
    }
    if members.body_twice {
        return refused(Some(version), Reason::Twice { member: body });
    }
    match members.body {
        Some(raw) => Ok(Head { version, digest, body: raw.get() }),
        None => refused(Some(version), Reason::NoBody { body }),
    }
}

/// What stands in a document that is a JSON object.
#[derive(Default)]
struct Members<'a> {
    version: Option<&'a RawValue>,
    version_twice: bool,
    body: Option<&'a RawValue>,
    body_twice: bool,
    /// Name of the first one that has no business there.
    unknown: Option<String>,
}

impl<'a> Members<'a> {
    fn read(payload: &'a [u8], body: &'static str) -> Result<Self, Reason> {
        if payload.len() > MAX_CONFIG_BYTES {
            return Err(Reason::TooLarge { bytes: payload.len() });
        }
        let text = json::text(payload, MAX_ESCAPED_BYTES)?;
        let mut parser = serde_json::Deserializer::from_str(text);
        let members = Walk { body }.deserialize(&mut parser).and_then(|members| parser.end().map(|()| members));
        members.map_err(|error| match error.classify() {
            Category::Data => Reason::NotAnObject { body },
            Category::Io | Category::Syntax | Category::Eof => Reason::NotJson(error.to_string()),
        })
    }
}

/// Goes over the members, keeping where their values stand.
struct Walk {
    body: &'static str,
}

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = Members<'de>;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Members<'de>, D::Error> {
        parser.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Members<'de>, A::Error> {
        let mut members = Members::default();
        while let Some(name) = object.next_key_seed(Name { body: self.body })? {
            match name {
                Member::Version => members.version_twice |= members.version.replace(object.next_value()?).is_some(),
                Member::Body => members.body_twice |= members.body.replace(object.next_value()?).is_some(),
                Member::Unknown(name) => {
                    members.unknown.get_or_insert(name);
                    object.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(members)
    }
}

enum Member {
    Version,
    Body,
    Unknown(String),
}

/// Tells a member by its name, of which no more is kept than a message needs.
struct Name {
    body: &'static str,
}

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Member;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Member, D::Error> {
        parser.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Member;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Member, E> {
        Ok(match name {
            "version" => Member::Version,
            name if name == self.body => Member::Body,
            name => Member::Unknown(excerpt(name)),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn refused(payload: impl AsRef<[u8]>) -> (Option<u64>, String) {
        let payload = payload.as_ref();
        let refused = read(&Source::Device, payload).expect_err("a wrong document was accepted");
        assert_eq!(refused.digest, Digest::of(payload));
        (refused.version, refused.to_string())
    }

    #[test]
    fn a_document_is_read_with_its_version_its_digest_and_whose_it_is() {
        let payload = br#" {"config":{"host":{"interval":"5m"}},"version":7} "#;
        let document = read(&Source::Group("plant".into()), payload).unwrap();
        assert_eq!((document.version, document.digest), (7, Digest::of(payload)));
        assert_eq!(document.config.label(), "remote @plant v7");
        let values: Vec<_> = document.config.values().map(|(key, value)| (key.name, value)).collect();
        assert_eq!(values, [("host.interval", json!("5m"))]);
        assert_eq!(read(&Source::Device, br#"{"version":9007199254740991,"config":{}}"#).unwrap().version, MAX_VERSION);
    }

    #[test]
    fn what_is_no_document_is_refused_with_the_reason() {
        for (payload, version, reason) in [
            (&b"\xff"[..], None, "not UTF-8 text (first wrong byte at offset 0)"),
            (b"", None, "not JSON: EOF while parsing a value at line 1 column 0"),
            (b"\xef\xbb\xbf{}", None, "not JSON: expected value at line 1 column 1"),
            (br#"{"version":7,"config":{"#, None, "not JSON: EOF while parsing an object at line 1 column 23"),
            (br#"{"version":7,"config":{}}{}"#, None, "not JSON: trailing characters at line 1 column 26"),
            (b"[7]", None, r#"not an object; wanted is {"version":N,"config":{…}}"#),
            (br#""version""#, None, r#"not an object; wanted is {"version":N,"config":{…}}"#),
            (br#"{"config":{}}"#, None, "version is missing; accepted is a whole number from 1 to 9007199254740991"),
            (
                br#"{"version":7}"#,
                Some(7),
                "config is missing; to withdraw a document, publish an empty message in its",
            ),
            (br#"{"version":7,"version":8,"config":{}}"#, None, "version stands twice"),
            (br#"{"version":7,"config":{},"config":{}}"#, Some(7), "config stands twice"),
            (br#"{"version":7,"config":{},"note":"x"}"#, Some(7), "unknown member note; a document has version and"),
            (br#"{"version":7,"config":[]}"#, Some(7), "remote device v7: found [], accepted is an object of sections"),
            (
                br#"{"version":7,"config":{"host":{"interval":5}}}"#,
                Some(7),
                "remote device v7: [host] interval: found 5",
            ),
        ] {
            let (found, said) = refused(payload);
            assert_eq!(found, version, "{said}");
            assert!(said.starts_with(reason), "{said}\nexpected: {reason}");
        }
        for version in ["0", "-1", "1.0", "1e3", "9007199254740992", "18446744073709551616", "\"7\"", "null", "[7]"] {
            let (found, said) = refused(format!(r#"{{"version":{version},"config":{{}}}}"#));
            assert_eq!(found, None);
            assert!(said.starts_with(&format!("version: found {version}, accepted is a whole number")), "{said}");
        }
    }

    #[test]
    fn the_version_of_a_document_that_is_beyond_all_bounds_is_told() {
        let deep = format!(r#"{{"config":{}{},"version":7}}"#, "[".repeat(1 << 20), "]".repeat(1 << 20));
        assert_eq!(refused(deep), (Some(7), "remote device v7: nested too deeply: more than 32 levels".to_owned()));
        let many = json!({ "version": 8, "config": { "traffic": { "interfaces": vec!["eth0"; 100_000] } } });
        let reason = "remote device v8: [traffic] interfaces: too many values: more than 4096";
        assert_eq!(refused(many.to_string()), (Some(8), reason.to_owned()));
        let member = json!({ "version": 9, "config": {}, "\u{1b}".repeat(10_000): [[]] });
        let (version, reason) = refused(member.to_string());
        assert_eq!(version, Some(9));
        assert!(reason.len() < 600 && !reason.contains('\u{1b}'), "{reason}");
        let filter = |text: &str| format!(r#"{{"version":7,"config":{{"log":{{"filter":"{text}\n"}}}}}}"#);
        let reason = "remote device v7: [log] filter: too much text: more than 65536 bytes";
        assert_eq!(refused(filter(&"t".repeat(MAX_ESCAPED_BYTES - 2))), (Some(7), reason.to_owned()));
        let reason = "too much text: over 65536 bytes with escapes at offset 39";
        assert_eq!(refused(filter(&"t".repeat(MAX_ESCAPED_BYTES - 1))), (None, reason.to_owned()));
        let large = vec![b' '; MAX_CONFIG_BYTES + 1];
        assert_eq!(refused(large).1, "too-large: 4194305 bytes, at most 4194304 are judged");
    }

    #[test]
    fn what_is_said_of_many_faults_is_a_line_each_and_no_more_than_eight() {
        let config: Map<String, Value> = (0..100).map(|index| (format!("key{index}"), json!(1))).collect();
        let (_, reason) = refused(json!({ "version": 7, "config": config }).to_string());
        assert_eq!(reason.lines().count(), 8, "{reason}");
    }

    prop_compose! {
        /// Documents that are right.
        fn documents()(
            version in 1..=MAX_VERSION,
            rate in proptest::option::of(0..=65_536_u32),
            interval in proptest::option::of(1..=3_600_u32),
            filter in proptest::option::of("(info|warn),[a-z]{1,8}=(debug|trace)"),
            interfaces in proptest::option::of(proptest::collection::btree_set("[a-z]{2,8}[0-9*]", 0..8)),
        ) -> (u64, Value) {
            let mut config = Map::new();
            let mut put = |section: &str, key: &str, value: Option<Value>| if let Some(value) = value {
                config.entry(section).or_insert_with(|| json!({}))[key] = value;
            };
            put("traffic", "sample_rate", rate.map(|rate| json!(rate)));
            put("traffic", "interfaces", interfaces.map(|interfaces| json!(interfaces)));
            put("host", "interval", interval.map(|seconds| json!(format!("{seconds}s"))));
            put("log", "filter", filter.map(|filter| json!(filter)));
            (version, config.into())
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_says_the_same_when_it_is_written_and_read_again((version, config) in documents()) {
            let publish = |config: &Value| {
                let payload = json!({ "version": version, "config": config }).to_string();
                read(&Source::Device, payload.as_bytes()).unwrap()
            };
            let values = |document: &Document| -> Vec<_> {
                document.config.values().map(|(key, value)| (key.name, value)).collect()
            };
            let first = publish(&config);
            let mut written = json!({});
            for (key, value) in first.config.values() {
                let (section, name) = key.split();
                written[section][name] = value;
            }
            let second = publish(&written);
            prop_assert_eq!(first.version, version);
            prop_assert_eq!(values(&first), values(&second));
            let keys_of = |section: &Value| section.as_object().unwrap().len();
            prop_assert_eq!(values(&first).len(), config.as_object().unwrap().values().map(keys_of).sum::<usize>());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _either = read(&Source::Device, &bytes);
        }

        #[test]
        fn no_text_like_a_document_makes_the_reader_panic(
            text in r#"\{"version":[0-9.e-]{1,4},"config":\{?("(host|log|x)":\{)?.{0,20}\}{0,3}"#,
        ) {
            if let Err(refused) = read(&Source::Device, text.as_bytes()) {
                prop_assert!(refused.to_string().len() < 4096);
            }
        }
    }
}
