//! Signed envelopes: DSSE version 1 (<https://github.com/secure-systems-lab/dsse>, `protocol.md` and `envelope.md`).
//!
//! ```text
//! {"payload":BASE64,"payloadType":"application/vnd.tidegate.policy+json","signatures":[{"keyid":ID,"sig":BASE64}]}
//! ```
//!
//! What is signed is the *pre-authentication encoding* of type and payload, in which neither can be taken for a part of the
//! other: `DSSEv1 36 application/vnd.tidegate.policy+json 123 ` and the 123 bytes of the payload.
//!
//! One valid signature of a key that counts is enough. A key id is a hint: where it names a key, that one is tried; where it
//! is absent or unknown, all are. Members that nobody knows are ignored, as DSSE wants it: nothing in them is signed.
//!
//! The payload is decoded once, behind its encoding's head, and judged there: beside an envelope of the largest size that
//! takes 4 MiB.

use std::{borrow::Cow, fmt};

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{
    Deserialize,
    de::{self, Deserializer, SeqAccess, Visitor},
};
use serde_json::json;
use tidegate_values::{
    base64::{self, Digits},
    calendar, ed25519, excerpt, json,
};

use super::{
    bundle::MAX_BUNDLE_BYTES,
    keys::{Key, Keyring},
};

/// What an envelope must say that it holds.
pub const PAYLOAD_TYPE: &str = "application/vnd.tidegate.policy+json";
/// Longest envelope: a bundle of the largest size in base64, and room for signatures.
pub const MAX_ENVELOPE_BYTES: usize = MAX_BUNDLE_BYTES.div_ceil(3) * 4 + (64 << 10);
/// Signatures of one envelope at most.
pub const MAX_SIGNATURES: usize = 16;

/// Pairs of signature and key that are tried at most: each means hashing the whole payload.
const MAX_TRIES: usize = 32;
/// Longest text with escapes; the rest of an envelope has none.
const MAX_ESCAPED_BYTES: usize = 4 << 10;
/// Bytes of a signature (RFC 8032, section 5.1.6).
const SIGNATURE_BYTES: usize = 64;

/// What a valid signature vouches for.
#[derive(Clone, PartialEq, Eq)]
pub struct Opened {
    /// The pre-authentication encoding.
    signed: Vec<u8>,
    /// Where the payload begins.
    payload: usize,
    /// Whose signature it is.
    pub key: Key,
}

impl Opened {
    /// What was signed.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.signed[self.payload..]
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("payload_bytes", &self.payload().len())
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Why an envelope is not opened. What depends on keys and time may pass, the rest is permanent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Over [`MAX_ENVELOPE_BYTES`].
    #[error("too-large: an envelope of {bytes} bytes, at most {MAX_ENVELOPE_BYTES} are accepted")]
    TooLarge {
        /// How many there are.
        bytes: usize,
    },
    /// Neither JSON nor an envelope.
    #[error("no signed envelope: {0}; wanted is what tidegate policy sign writes")]
    NoEnvelope(String),
    /// Something else was signed, whoever did.
    #[error("payloadType: found {found:?}, accepted is {PAYLOAD_TYPE:?}")]
    PayloadType {
        /// What stands there, shortened.
        found: String,
    },
    /// The payload cannot be decoded.
    #[error("payload: not base64 with padding")]
    Payload,
    /// Nobody signed it.
    #[error("signatures: there are none")]
    Unsigned,
    /// There is nothing to judge by.
    #[error("no key is trusted here: set [policy] public_keys")]
    NoKeys,
    /// The bytes are others than those that were signed, or another key than the one that is named signed them.
    #[error("wrong signature: key {keyid} did not sign these bytes")]
    WrongSignature {
        /// Of the trusted key that the envelope names.
        keyid: String,
    },
    /// Nobody whose signatures count signed it.
    #[error("unknown key: no signature is of a key that is trusted here; named are {named}, trusted are {trusted}")]
    UnknownKey {
        /// Key ids of the envelope, shortened.
        named: String,
        /// Key ids of those that are trusted.
        trusted: String,
    },
    /// The key counts no more.
    #[error("expired key: {keyid} counted until {until} only; sign with a key that counts")]
    ExpiredKey {
        /// Its id.
        keyid: String,
        /// When it ended.
        until: String,
    },
    /// Nobody knows whether the key still counts.
    #[error("clock not set: key {keyid} counts until {until}, and the time is not known yet")]
    ClockNotSet {
        /// Its id.
        keyid: String,
        /// When it ends.
        until: String,
    },
}

impl Refused {
    /// Whether the same bytes may be accepted once the clock is set.
    #[must_use]
    pub const fn is_for_want_of_time(&self) -> bool {
        matches!(self, Self::ClockNotSet { .. })
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    payload: Cow<'a, str>,
    #[serde(borrow, rename = "payloadType")]
    payload_type: Cow<'a, str>,
    #[serde(borrow)]
    signatures: Signatures<'a>,
}

#[derive(Deserialize)]
struct Signature<'a> {
    #[serde(borrow, default)]
    keyid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    sig: Cow<'a, str>,
}

/// At most [`MAX_SIGNATURES`].
struct Signatures<'a>(Vec<Signature<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Signatures<'a> {
    fn deserialize<D: Deserializer<'de>>(parser: D) -> Result<Self, D::Error> {
        parser.deserialize_seq(SignatureList).map(Self)
    }
}

struct SignatureList;

impl<'de> Visitor<'de> for SignatureList {
    type Value = Vec<Signature<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of signatures")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Signature<'de>>, A::Error> {
        let mut signatures = Vec::new();
        while let Some(signature) = list.next_element()? {
            if signatures.len() == MAX_SIGNATURES {
                return Err(de::Error::custom(format_args!("more than {MAX_SIGNATURES} signatures")));
            }
            signatures.push(signature);
        }
        Ok(signatures)
    }
}

/// Opens an envelope that somebody signed whose signatures count; `now_ms` is `None` while the clock is not set.
///
/// # Errors
///
/// See [`Refused`].
pub fn open(bytes: &[u8], keys: &Keyring, now_ms: Option<u64>) -> Result<Opened, Refused> {
    let (envelope, signed, payload) = decode(bytes)?;
    let signatures = &envelope.signatures.0;
    if signatures.is_empty() {
        return Err(Refused::Unsigned);
    }
    if keys.keys().is_empty() {
        return Err(Refused::NoKeys);
    }
    let named = |signature: &Signature<'_>| signature.keyid.as_deref().and_then(|id| keys.get(id));
    let by_id = signatures.iter().filter_map(|signature| Some((signature, named(signature)?)));
    let by_trial = signatures
        .iter()
        .filter(|signature| named(signature).is_none())
        .flat_map(|signature| keys.keys().iter().map(move |key| (signature, key)));
    let mut not_now = None;
    for (signature, key) in by_id.chain(by_trial).take(MAX_TRIES) {
        let Some(sig) = base64::decode_array::<SIGNATURE_BYTES>(&signature.sig, Digits::Either) else { continue };
        if UnparsedPublicKey::new(&ED25519, &key.bytes).verify(&signed, &sig).is_err() {
            continue;
        }
        if key.counts_at(now_ms) {
            return Ok(Opened { signed, payload, key: *key });
        }
        not_now = Some(key);
    }
    if let Some(key) = not_now {
        let (keyid, until) = (key.id.to_string(), key.not_after_ms.map(calendar::format).unwrap_or_default());
        return Err(match now_ms {
            Some(_) => Refused::ExpiredKey { keyid, until },
            None => Refused::ClockNotSet { keyid, until },
        });
    }
    if let Some(key) = signatures.iter().find_map(named) {
        return Err(Refused::WrongSignature { keyid: key.id.to_string() });
    }
    let ids = signatures.iter().map(|signature| signature.keyid.as_deref().map_or("none".to_owned(), excerpt));
    Err(Refused::UnknownKey {
        named: ids.take(4).collect::<Vec<_>>().join(", "),
        trusted: keys.keys().iter().map(|key| key.id.to_string()).collect::<Vec<_>>().join(", "),
    })
}

/// What an envelope holds, whoever signed it or did not: for people who look into a file.
///
/// # Errors
///
/// It is no envelope of this type.
pub fn look_into(bytes: &[u8]) -> Result<Vec<u8>, Refused> {
    let (_, mut signed, payload) = decode(bytes)?;
    Ok(signed.split_off(payload))
}

/// The envelope, the pre-authentication encoding, and where the payload begins in it.
fn decode(bytes: &[u8]) -> Result<(Envelope<'_>, Vec<u8>, usize), Refused> {
    if bytes.len() > MAX_ENVELOPE_BYTES {
        return Err(Refused::TooLarge { bytes: bytes.len() });
    }
    let text = json::text(bytes, MAX_ESCAPED_BYTES).map_err(|fault| Refused::NoEnvelope(fault.to_string()))?;
    // A list or a text at the top would be read, or told, as a whole.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(Refused::NoEnvelope("not a JSON object".to_owned()));
    }
    let envelope: Envelope<'_> =
        serde_json::from_str(text).map_err(|error| Refused::NoEnvelope(excerpt_of_error(&error.to_string())))?;
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(Refused::PayloadType { found: excerpt(&envelope.payload_type) });
    }
    let length = base64::decoded_length(&envelope.payload).ok_or(Refused::Payload)?;
    let mut signed = pre_authentication_head(length).into_bytes();
    let payload = signed.len();
    if !base64::decode_behind(&envelope.payload, Digits::Either, &mut signed) {
        return Err(Refused::Payload);
    }
    Ok((envelope, signed, payload))
}

/// The parser's words, which may quote a text of any length; its place stands at the end.
fn excerpt_of_error(said: &str) -> String {
    match said.rsplit_once(" at line ") {
        Some((what, place)) => format!("{} at line {place}", excerpt(what)),
        None => excerpt(said),
    }
}

fn pre_authentication_head(payload_bytes: usize) -> String {
    format!("DSSEv1 {} {PAYLOAD_TYPE} {payload_bytes} ", PAYLOAD_TYPE.len())
}

/// Who signs.
pub struct Signer {
    pair: Ed25519KeyPair,
    /// The public key.
    pub key: Key,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Signer {
    /// With a private key in PEM: PKCS#8, as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    ///
    /// What was found instead, in words that hold nothing of the key.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        ed25519::key_pair(pem).map(Self::new)
    }

    /// With the key that comes of this seed (RFC 8032, section 5.1.5), for keys that are made again and again: in tests.
    ///
    /// # Panics
    ///
    /// Never: each seed makes a key.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self::new(Ed25519KeyPair::from_seed_unchecked(seed).expect("a seed has 32 bytes"))
    }

    fn new(pair: Ed25519KeyPair) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(pair.public_key().as_ref());
        Self { pair, key: Key::new(bytes) }
    }

    /// The signature over these very bytes: what is to be opened goes through [`sign`].
    #[must_use]
    pub fn sign_bytes(&self, signed: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(self.pair.sign(signed).as_ref());
        signature
    }

    /// As a member of `signatures`.
    fn sign(&self, signed: &[u8]) -> serde_json::Value {
        json!({ "keyid": self.key.id.to_string(), "sig": base64::encode(&self.sign_bytes(signed)) })
    }
}

/// Signs a payload, by each of the signers: one line.
#[must_use]
pub fn sign(payload: &[u8], signers: &[Signer]) -> String {
    let signed = [pre_authentication_head(payload.len()).as_bytes(), payload].concat();
    let signatures: Vec<_> = signers.iter().map(|signer| signer.sign(&signed)).collect();
    let payload = base64::encode(payload);
    // By hand: a tree of JSON would hold the payload once more.
    format!(
        "{{\"payload\":\"{payload}\",\"payloadType\":\"{PAYLOAD_TYPE}\",\"signatures\":{}}}\n",
        serde_json::Value::from(signatures)
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(signers: &[&Signer]) -> Keyring {
        let mut ring = Keyring::default();
        for signer in signers {
            ring.add(signer.key);
        }
        ring
    }

    fn signers() -> [Signer; 3] {
        [1, 2, 3].map(|seed| Signer::from_seed(&[seed; 32]))
    }

    fn refused(envelope: &str, keys: &Keyring) -> String {
        open(envelope.as_bytes(), keys, Some(0)).unwrap_err().to_string()
    }

    #[test]
    fn what_one_signs_the_other_opens() {
        let [ours, theirs, _] = signers();
        for payload in [&b""[..], b"{}", "ü".as_bytes(), &[0; 1000]] {
            let envelope = sign(payload, std::slice::from_ref(&ours));
            let opened = open(envelope.as_bytes(), &ring(&[&theirs, &ours]), None).unwrap();
            assert_eq!((opened.payload(), opened.key), (payload, ours.key));
            assert_eq!(look_into(envelope.as_bytes()).as_deref(), Ok(payload));
        }
    }

    /// Made with openssl 3.0: the page's own lines (docs/policy.md) are run by a scenario; this fixes the bytes.
    #[test]
    fn what_is_signed_is_the_pre_authentication_encoding_of_dsse() {
        // protocol.md of DSSE: PAE("http://example.com/HelloWorld", "hello world") has this form.
        assert_eq!(pre_authentication_head(11), "DSSEv1 36 application/vnd.tidegate.policy+json 11 ");
    }

    #[test]
    fn a_key_id_is_a_hint_only() {
        let [ours, theirs, third] = signers();
        let envelope = sign(b"x", std::slice::from_ref(&ours));
        let id = ours.key.id.to_string();
        let keys = ring(&[&theirs, &third, &ours]);
        for keyid in ["", "unknown", &id.to_uppercase(), &"0".repeat(64)] {
            let renamed = envelope.replace(&id, keyid);
            assert_eq!(open(renamed.as_bytes(), &keys, None).unwrap().key, ours.key, "{keyid}");
        }
        let without = envelope.replace(&format!("\"keyid\":\"{id}\","), "");
        assert!(open(without.as_bytes(), &keys, None).is_ok());
        // It names a key that is trusted, but did not sign.
        let wrong = envelope.replace(&id, &theirs.key.id.to_string());
        assert_eq!(refused(&wrong, &keys), format!("wrong signature: key {} did not sign these bytes", theirs.key.id));
    }

    #[test]
    fn one_valid_signature_of_a_trusted_key_is_enough() {
        let [ours, theirs, third] = signers();
        let both = sign(b"x", &[Signer::from_seed(&[1; 32]), Signer::from_seed(&[2; 32])]);
        for trusted in [&ours, &theirs] {
            assert_eq!(open(both.as_bytes(), &ring(&[trusted]), None).unwrap().key, trusted.key);
        }
        let said = refused(&both, &ring(&[&third]));
        assert!(said.starts_with("unknown key: no signature is of a key that is trusted here; named are "), "{said}");
        assert!(said.contains(&third.key.id.to_string()), "{said}");
        assert_eq!(refused(&both, &Keyring::default()), "no key is trusted here: set [policy] public_keys");
    }

    #[test]
    fn other_bytes_another_type_and_other_forms_are_refused() {
        let [ours, ..] = signers();
        let keys = ring(&[&ours]);
        let envelope = sign(b"{\"version\":1}", std::slice::from_ref(&ours));
        let payload = base64::encode(b"{\"version\":1}");
        let with = |from: &str, to: &str| refused(&envelope.replace(from, to), &keys);
        let wrong = format!("wrong signature: key {} did not sign these bytes", ours.key.id);
        assert_eq!(with(&payload, &base64::encode(b"{\"version\":2}")), wrong);
        assert_eq!(with("\"sig\":\"", "\"sig\":\"AAAA"), wrong);
        let said = with(PAYLOAD_TYPE, "application/vnd.tidegate.update+json");
        assert!(said.starts_with("payloadType: found \"application/vnd.tidegate.update+json\", accepted is"), "{said}");
        assert_eq!(with(&payload, &payload.replace('=', "")), "payload: not base64 with padding");
        assert_eq!(with(&payload, &format!(" {payload}")), "payload: not base64 with padding");
        assert!(with("\"payloadType\"", "\"payload\":\"\",\"payloadType\"").contains("duplicate field `payload`"));
        assert!(with("\"payloadType\"", "\"type\"").contains("missing field `payloadType`"));
        assert!(with("\"sig\"", "\"signature\"").contains("missing field `sig`"));
        assert!(refused("[]", &keys).starts_with("no signed envelope: not a JSON object"));
        assert!(refused("", &keys).starts_with("no signed envelope: not a JSON object"));
        let none = format!("{{\"payload\":\"\",\"payloadType\":\"{PAYLOAD_TYPE}\",\"signatures\":[]}}");
        assert_eq!(refused(&none, &keys), "signatures: there are none");
        let many = none.replace("[]", &format!("[{}]", vec!["{\"sig\":\"\"}"; 17].join(",")));
        assert!(refused(&many, &keys).contains("more than 16 signatures"));
        let large = " ".repeat(MAX_ENVELOPE_BYTES + 1);
        assert!(refused(&large, &keys).starts_with("too-large: an envelope of"));
    }

    #[test]
    fn members_that_nobody_knows_are_ignored_and_both_kinds_of_base64_are_read() {
        let [ours, ..] = signers();
        let envelope = sign(&[0xfb, 0xff, 0xfe], std::slice::from_ref(&ours));
        let other = envelope.replacen('{', "{\"note\":[{}],", 1).replace("+//+", "-__-");
        assert_ne!(other, envelope);
        assert_eq!(open(other.as_bytes(), &ring(&[&ours]), None).unwrap().payload(), [0xfb, 0xff, 0xfe]);
    }

    #[test]
    fn an_expired_key_is_told_apart_from_an_unknown_one() {
        let [ours, ..] = signers();
        let mut keys = Keyring::default();
        keys.add(Key { not_after_ms: Some(1_798_761_600_000), ..ours.key });
        let envelope = sign(b"x", std::slice::from_ref(&ours));
        let open = |now| open(envelope.as_bytes(), &keys, now);
        assert!(open(Some(1_798_761_599_999)).is_ok());
        let late = open(Some(1_798_761_600_000)).unwrap_err();
        let expected = format!("expired key: {} counted until 2027-01-01T00:00:00Z only", ours.key.id);
        assert!(late.to_string().starts_with(&expected) && !late.is_for_want_of_time(), "{late}");
        assert!(open(None).unwrap_err().is_for_want_of_time());
    }

    #[test]
    fn an_envelope_that_wants_much_work_gets_little() {
        let keys: Vec<_> = (0..16).map(|seed| Signer::from_seed(&[seed; 32])).collect();
        let ring = ring(&keys.iter().collect::<Vec<_>>());
        let stranger = Signer::from_seed(&[99; 32]);
        let envelope = sign(b"x", std::slice::from_ref(&stranger));
        let signature = &envelope[envelope.find("[{").unwrap() + 1..=envelope.find("}]").unwrap()];
        let many = envelope.replace(signature, &vec![signature; 16].join(","));
        assert!(refused(&many, &ring).starts_with("unknown key: "));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in r#"\{([{}\[\],:"=A]|"(payload|payloadType|signatures|keyid|sig)":|null){0,30}"#) {
            let _either = open(text.as_bytes(), &Keyring::default(), None);
        }

        #[test]
        fn no_changed_byte_goes_unnoticed(at in 0_usize..1000, to: u8) {
            let [ours, ..] = signers();
            let mut envelope = sign(b"{\"version\":1}", std::slice::from_ref(&ours)).into_bytes();
            let at = at % envelope.len();
            envelope[at] = to;
            if let Ok(opened) = open(&envelope, &ring(&[&ours]), None) {
                prop_assert_eq!(opened.payload(), b"{\"version\":1}");
            }
        }
    }
}
