//! Policies that must be refused, with a part of the reason that must be given for each.
//!
//! What becomes of most of them depends on nothing but the bytes and on the keys that are trusted: [`trusted`]. The others
//! need a gateway ([`Needs`]): `gw-7` of the groups `plant` and `north`, which saw version [`SEEN`] for itself, the bundle
//! [`seen`].
//!
//! Those that are signed and for the gateway take a place in its sequence, though they are refused: they come last, each with a
//! higher version than the one before.
//!
//! Generated, not recorded: 4 MiB of brackets say more as a line here, and each case says what is wrong with it.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tidegate::policy::{
    CompileError, Options, compile,
    envelope::{self, MAX_ENVELOPE_BYTES, PAYLOAD_TYPE},
    keys::Keyring,
    read,
};
use tidegate_values::base64;

use super::{Key, Policy, sign};

/// Highest version that the gateway saw.
pub const SEEN: u64 = 1_000;

/// A policy that must be refused.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is wrong with it.
    pub name: String,
    /// What is published.
    pub bytes: Vec<u8>,
    /// Part of the reason that must be given.
    pub reason: String,
    /// What it takes to see that it is wrong.
    pub needs: Needs,
}

/// What it takes to see that a policy is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// The bytes and the keys.
    Bytes,
    /// Who the gateway is.
    Identity,
    /// Who the gateway is, and what tables hold.
    Tables,
    /// What time it is.
    Time,
    /// That the time is not known.
    NoTime,
    /// What the gateway saw before.
    Memory,
}

/// The keys that are trusted.
#[must_use]
pub fn trusted() -> [Key; 2] {
    [Key::numbered(1), Key::numbered(2)]
}

/// The bundle of version [`SEEN`] in its envelope; a good one.
#[must_use]
pub fn seen() -> Vec<u8> {
    Policy::new(SEEN).drop("seen", &["192.0.2.0/24"]).signed_by(&ours())
}

/// More than the gateway's largest packet: it never arrives, and nothing changes.
#[must_use]
pub fn beyond_the_largest_packet() -> Vec<u8> {
    vec![b' '; 9 << 20]
}

/// All of them, each with another name.
#[must_use]
pub fn cases() -> Vec<Case> {
    let groups = [
        no_envelopes(),
        envelopes(),
        payloads_in_base64(),
        signatures(),
        no_json(),
        heads(),
        prefixes(),
        conditions(),
        rules(),
        rates(),
        names_and_texts(),
        sizes(),
        for_others(),
        beyond_tables(),
        out_of_time(),
    ];
    groups.into_iter().flatten().collect()
}

impl Case {
    fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>, reason: impl Into<String>) -> Self {
        Self { name: name.into(), bytes: bytes.into(), reason: reason.into(), needs: Needs::Bytes }
    }

    /// A bundle, signed as it should be.
    fn signed(name: impl Into<String>, payload: impl AsRef<[u8]>, reason: impl Into<String>) -> Self {
        Self::new(name, sign(payload.as_ref(), &ours()), reason)
    }

    fn needing(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    /// What is said of it without a gateway; `None` where it is taken.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let mut keys = Keyring::default();
        for key in trusted() {
            keys.add(key.signer().key);
        }
        let opened = match envelope::open(&self.bytes, &keys, None) {
            Ok(opened) => opened,
            Err(refused) => return Some(refused.to_string()),
        };
        let bundle = match read(opened.payload()) {
            Ok(bundle) => bundle,
            Err(refused) => return Some(refused.to_string()),
        };
        let options = Options { number: 1, fragments_allow: false, expired: &|_| false };
        compile(&bundle, &options).err().map(|error: CompileError| error.to_string())
    }
}

fn ours() -> Key {
    Key::numbered(1)
}

/// A good bundle.
fn good() -> Policy {
    Policy::new(SEEN + 1).drop("block", &["192.0.2.0/24"])
}

/// The good bundle's envelope, to be spoilt.
fn envelope() -> Value {
    serde_json::from_slice(&good().signed_by(&ours())).expect("an envelope is JSON")
}

fn no_envelopes() -> Vec<Case> {
    let good = String::from_utf8(good().signed_by(&ours())).expect("an envelope is text");
    let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let object = "no signed envelope: not a JSON object";
    let mut cases = vec![
        Case::new("white space", " \n ", object),
        Case::new("null", "null", object),
        Case::new("a number", "7", object),
        Case::new("a text", "\"envelope\"", object),
        Case::new("a list of envelopes", format!("[{good}]"), object),
        Case::new("brackets without end", "[".repeat(1 << 20), object),
        Case::new("braces without end", "{\"a\":".repeat(1 << 19), "no signed envelope"),
        Case::new("an envelope behind a byte order mark", format!("\u{feff}{good}"), object),
        Case::new("UTF-16", utf16, "not UTF-8 text"),
        Case::new("zeros", vec![0; 1000], object),
        Case::new("bytes of no text", vec![0xff; 1000], "not UTF-8 text (first wrong byte at offset 0)"),
        Case::new("a compressed file", b"\x1f\x8b\x08\0".to_vec(), "not UTF-8 text"),
        Case::new("an envelope that was cut", good[..good.len() / 2].to_owned(), "no signed envelope: EOF"),
        Case::new("an envelope without its last brace", good.trim_end()[..good.len() - 2].to_owned(), "no signed"),
        Case::new("two envelopes", format!("{good}{good}"), "trailing characters"),
        Case::new("an envelope with a comment", format!("{} // signed", good.trim_end()), "trailing characters"),
        Case::new("single quotes", good.replace('"', "'"), "no signed envelope"),
        Case::new("a bundle that nobody signed", Policy::new(SEEN + 1).payload(), "missing field `payload`"),
        Case::new("an empty object", "{}", "missing field `payload`"),
        Case::new("TOML", "version = 7\n", object),
        Case::new("a JWS", "eyJhbGciOiJub25lIn0.e30.", object),
    ];
    let wide: String = (0..200_000).fold("{".to_owned(), |mut text, n| {
        let _infallible = write!(text, "\"m{n}\":[],");
        text
    });
    cases.push(Case::new("200,000 members", wide + "\"z\":0}", "missing field `payload`"));
    cases.push(Case::new(
        "a long text with escapes",
        format!("{{\"a\":\"{}\"}}", "\\n".repeat(1 << 20)),
        "too much text",
    ));
    cases
}

fn envelopes() -> Vec<Case> {
    let mut cases = Vec::new();
    for member in ["payload", "payloadType", "signatures"] {
        let mut without = envelope();
        without.as_object_mut().expect("it is an object").remove(member);
        cases.push(Case::new(format!("no {member}"), without.to_string(), format!("missing field `{member}`")));
        for (what, value) in
            [("null", json!(null)), ("a number", json!(7)), ("an object", json!({})), ("true", json!(true))]
        {
            let mut with = envelope();
            with[member] = value;
            cases.push(Case::new(format!("{member} is {what}"), with.to_string(), "no signed envelope: invalid type"));
        }
        let twice = envelope().to_string().replacen('{', &format!("{{\"{member}\":{},", envelope()[member]), 1);
        cases.push(Case::new(format!("{member} twice"), twice, format!("duplicate field `{member}`")));
    }
    for kind in [
        "",
        "application/json",
        "application/vnd.tidegate.config+json",
        "application/vnd.tidegate.policy+json ",
        "application/vnd.tidegate.policy+JSON",
        "application/vnd.tidegate.policy+json\u{0}",
        "аpplication/vnd.tidegate.policy+json",
        "application/vnd.in-toto+json",
    ] {
        let mut with = envelope();
        with["payloadType"] = json!(kind);
        cases.push(Case::new(format!("payloadType {kind:?}"), with.to_string(), "payloadType: found"));
    }
    cases
}

fn payloads_in_base64() -> Vec<Case> {
    let payload = Policy::new(SEEN + 1).drop("block", &["192.0.2.0/24"]).with("default", json!("allow")).payload();
    // One byte more than a multiple of three, so that there is padding.
    let padded = [&payload[..], &b"  "[..(4 - payload.len() % 3) % 3]].concat();
    let text = base64::encode(&padded);
    let hex = padded.iter().fold(String::new(), |mut hex, byte| {
        let _infallible = write!(hex, "{byte:02x}");
        hex
    });
    let mut digits = text.trim_end_matches('=').to_owned();
    digits.pop();
    let with = |name: &str, payload: String| {
        let mut envelope: Value = serde_json::from_slice(&sign(&padded, &ours())).expect("an envelope is JSON");
        envelope["payload"] = json!(payload);
        Case::new(format!("payload {name}"), envelope.to_string(), "payload: not base64 with padding")
    };
    vec![
        with("without padding", text.trim_end_matches('=').to_owned()),
        with("with too much padding", format!("{text}==")),
        with("of padding", "====".to_owned()),
        with("of one digit", "A".to_owned()),
        with("with bits behind its last byte", format!("{digits}B==")),
        with("with a line break", format!("{}\n{}", &text[..76], &text[76..])),
        with("behind a blank", format!(" {text}")),
        with("of both kinds of digits", format!("-/{}", &text[2..])),
        with("with percent signs", text.replace('=', "%3D")),
        with("in other characters", text.replacen('e', "ｅ", 1)),
        with("in plain text", String::from_utf8(padded.clone()).expect("a bundle is text")),
        with("in hexadecimal digits with a mark", format!("0x{hex}")),
    ]
}

fn signatures() -> Vec<Case> {
    let payload = good().payload();
    let stranger = Key::numbered(99);
    let mut cases = Vec::new();
    let ours_id = ours().id();
    let wrong = format!("wrong signature: key {ours_id} did not sign these bytes");
    let unknown = "unknown key: no signature is of a key that is trusted here";
    let with = |name: &str, signatures: Value, reason: &str| {
        let mut envelope = envelope();
        envelope["signatures"] = signatures;
        Case::new(name, envelope.to_string(), reason)
    };
    let own = envelope()["signatures"][0]["sig"].as_str().expect("it is signed").to_owned();
    let sig = |text: &str| json!([{ "keyid": ours_id, "sig": text }]);
    let bytes = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        assert!(base64::decode_behind(&own, base64::Digits::Standard, &mut bytes));
        change(&mut bytes);
        sig(&base64::encode(&bytes))
    };
    cases.extend([
        with("an empty list of signatures", json!([]), "signatures: there are none"),
        with("17 signatures", json!(vec![json!({ "sig": own }); 17]), "more than 16 signatures"),
        with("1,000 signatures", json!(vec![json!({ "sig": "" }); 1000]), "more than 16 signatures"),
        with("signatures in a list", json!([[{ "sig": own }]]), "no signed envelope"),
        with("a signature that is a text", json!([own]), "no signed envelope"),
        with("a signature without sig", json!([{ "keyid": ours_id }]), "missing field `sig`"),
        with("a sig that is null", json!([{ "keyid": ours_id, "sig": null }]), "no signed envelope"),
        with("a keyid that is a number", json!([{ "keyid": 7, "sig": own }]), "no signed envelope"),
        with("an empty sig", sig(""), &wrong),
        with("a sig without padding", sig(own.trim_end_matches('=')), &wrong),
        with("a sig in two lines", sig(&format!("{}\n{}", &own[..40], &own[40..])), &wrong),
        with("a sig of zeros", sig(&base64::encode(&[0; 64])), &wrong),
        with("a sig of ones", sig(&base64::encode(&[0xff; 64])), &wrong),
        with("a sig of 63 bytes", bytes(&|bytes| bytes.truncate(63)), &wrong),
        with("a sig of 65 bytes", bytes(&|bytes| bytes.push(0)), &wrong),
        with("a sig with its halves exchanged", bytes(&|bytes| bytes.rotate_left(32)), &wrong),
        with("a sig with its first bit changed", bytes(&|bytes| bytes[0] ^= 1), &wrong),
        with("a sig with its last bit changed", bytes(&|bytes| bytes[63] ^= 0x80), &wrong),
        with("a sig with the order of the group added", bytes(&|bytes| add_order(&mut bytes[32..])), &wrong),
        with(
            "a keyid of another trusted key",
            json!([{ "keyid": Key::numbered(2).id(), "sig": own }]),
            "wrong signature",
        ),
    ]);
    cases.push(Case::new("an unknown key", sign(&payload, &stranger), unknown));
    cases.push(Case::new(
        "an unknown key under the name of a trusted one",
        String::from_utf8_lossy(&sign(&payload, &stranger)).replace(&stranger.id(), &ours_id),
        wrong.clone(),
    ));
    let itself = good().with("keys", json!({ "add": [stranger.literal()] }));
    cases.push(Case::new("a key that vouches for itself", sign(&itself.payload(), &stranger), unknown));
    let mut replayed = envelope();
    replayed["payload"] = json!(base64::encode(&good().with("version", json!(SEEN + 2)).payload()));
    cases.push(Case::new("a signature of another version", replayed.to_string(), wrong.clone()));
    // What looks as if it had been signed. With a valid signature over the bytes that stand there.
    let length = payload.len();
    let encoded = |head: String| [head.as_bytes(), &payload].concat();
    for (name, signed) in [
        ("the payload alone", payload.clone()),
        ("the payload in base64", base64::encode(&payload).into_bytes()),
        ("the payload and a line end", [&payload[..], b"\n"].concat()),
        ("another payload type", encoded(format!("DSSEv1 36 application/vnd.tidegate.update+json {length} "))),
        ("an empty payload type", encoded(format!("DSSEv1 0  {length} "))),
        ("another version of DSSE", encoded(format!("DSSEv2 36 {PAYLOAD_TYPE} {length} "))),
        ("another length", encoded(format!("DSSEv1 36 {PAYLOAD_TYPE} {} ", length + 1))),
        ("another length of the type", encoded(format!("DSSEv1 35 {PAYLOAD_TYPE} {length} "))),
        ("no blank before the payload", encoded(format!("DSSEv1 36 {PAYLOAD_TYPE} {length}"))),
    ] {
        let own = base64::encode(&ours().signer().sign_bytes(&signed));
        cases.push(with(&format!("signed is {name}"), sig(&own), &wrong));
    }
    cases
}

/// Adds the order of ed25519's group (RFC 8032, section 5.1): the same signature to whoever does not look closely.
fn add_order(scalar: &mut [u8]) {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0;
    for (byte, order) in scalar.iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
}

/// Signed, but no JSON, or no bundle at all.
fn no_json() -> Vec<Case> {
    let good = String::from_utf8(good().payload()).expect("a bundle is text");
    let mut cases: Vec<Case> = [
        ("nothing", "", "not JSON"),
        ("null", "null", "found null, accepted is {\"version\":N"),
        ("a list", "[]", "found a list, accepted is"),
        ("a text", "\"bundle\"", "found \"bundle\", accepted is"),
        ("a number", "1e999", "not JSON: number out of range"),
        ("an open brace", "{", "not JSON: EOF"),
        ("not a number", r#"{"version":NaN}"#, "not JSON: expected value"),
        ("infinity", r#"{"version":Infinity}"#, "not JSON: expected value"),
        ("a comma too many", r#"{"version":7,}"#, "not JSON: trailing comma"),
        ("a leading zero", r#"{"version":07}"#, "not JSON"),
        ("a hexadecimal number", r#"{"version":0x7}"#, "version: found 0"),
        ("a plus sign", r#"{"version":+7}"#, "not JSON"),
        ("a comment", "/* */{}", "not JSON: expected value"),
        ("a name without quotes", "{version:7}", "not JSON: key must be a string"),
        ("a lone high surrogate", r#"{"default":"\ud800"}"#, "not JSON"),
        ("a lone low surrogate", r#"{"default":"\udc00"}"#, "not JSON"),
        ("surrogates in the wrong order", r#"{"default":"\udc00\ud800"}"#, "not JSON"),
        ("a control character in a text", "{\"default\":\"\u{1}\"}", "not JSON: control character"),
        ("an unknown escape", r#"{"default":"\x61"}"#, "not JSON: invalid escape"),
        ("a name with an unknown escape", r#"{"\v":1}"#, "not JSON: invalid escape"),
        ("a NUL behind the end", "{}\0", "is missing"),
    ]
    .into_iter()
    .map(|(name, text, reason)| Case::signed(format!("the bundle is {name}"), text, reason))
    .collect();
    let levels = 1 << 20;
    let deep = |open: &str, close: &str| open.repeat(levels) + &close.repeat(levels);
    let rule = |value: String| good.replace("\"name\":\"block\"", &format!("\"name\":{value}"));
    cases.extend([
        Case::signed("the bundle is brackets", deep("[", "]"), "found a list, accepted is"),
        Case::signed(
            "the bundle has brackets for rules",
            good.replace("[{", &format!("[{}{{", "[".repeat(levels))),
            "rule 1: found a list",
        ),
        Case::signed(
            "the bundle has braces for rules",
            good.replace("[{", &"[{\"name\":".repeat(1 << 18)),
            "found a list",
        ),
        Case::signed("a name is a million brackets", rule(deep("[", "]")), "name: found a list, accepted is"),
        Case::signed(
            "the bundle is overlong UTF-8",
            b"{\"version\xc0\xae\":1}",
            "not UTF-8 text (first wrong byte at offset 9)",
        ),
        Case::signed(
            "the bundle has a surrogate in UTF-8",
            b"{\"\xed\xa0\x80\":1}",
            "not UTF-8 text (first wrong byte at offset 2)",
        ),
        Case::signed(
            "the bundle is cut within a character",
            b"{\"a\xc3",
            "not UTF-8 text (first wrong byte at offset 3)",
        ),
        Case::signed("the bundle begins with a byte order mark", format!("\u{feff}{good}"), "not JSON: expected value"),
        Case::signed("the bundle stands twice", format!("{good}{good}"), "not JSON: trailing characters"),
        Case::signed(
            "a name is a long text with escapes",
            rule(format!("\"\\n{}\"", "x".repeat(1 << 20))),
            "too much text",
        ),
        Case::signed("a bundle in an envelope in an envelope", sign(good.as_bytes(), &ours()), "unknown member"),
    ]);
    cases
}

/// What stands around the rules.
fn heads() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut with = |member: &str, value: Value, reason: &str| {
        let bundle = good().with(member, value.clone()).payload();
        let value: String = value.to_string().chars().take(80).collect();
        cases.push(Case::signed(format!("{member} is {value}"), bundle, format!("{member}{reason}")));
    };
    let huge: Value = serde_json::from_str("123456789012345678901234567890").expect("a number");
    for version in [
        json!(0),
        json!(-1),
        json!(1.5),
        json!("7"),
        json!(null),
        json!([7]),
        json!(1_u64 << 53),
        json!(u64::MAX),
        huge,
        json!(true),
    ] {
        with("version", version, ": found ");
    }
    for (scope, reason) in [
        (json!(null), ": found null"),
        (json!("gw-7"), ": found \"gw-7\""),
        (json!([]), ": found a list"),
        (json!({}), ": found an empty object"),
        (json!({ "gateway": "gw-7", "group": "plant" }), ".group: a bundle is for one gateway or for one group"),
        (json!({ "gateway": "" }), ".gateway: found"),
        (json!({ "gateway": null }), ".gateway: found null"),
        (json!({ "gateway": ["gw-7"] }), ".gateway: found a list"),
        (json!({ "gateway": "#" }), ".gateway: found \"#\""),
        (json!({ "gateway": "gw-7/policy" }), ".gateway: found \"gw-7/policy\""),
        (json!({ "gateway": "g".repeat(65) }), ".gateway: found"),
        (json!({ "gateway": "gw-7\u{200b}" }), ".gateway: found"),
        (json!({ "group": "@plant" }), ".group: found \"@plant\""),
        (json!({ "fleet": "all" }), ": unknown member fleet"),
    ] {
        with("scope", scope, reason);
    }
    for moment in [
        json!(null),
        json!(1_798_761_600),
        json!(""),
        json!("tomorrow"),
        json!("2099-01-01"),
        json!("2099-01-01T00:00:00"),
        json!("2099-01-01T00:00:00+02:00"),
        json!("2099-02-29T00:00:00Z"),
        json!("2099-01-01T24:00:00Z"),
        json!("99999-01-01T00:00:00Z"),
    ] {
        with("not_after", moment, ": found ");
    }
    for default in [json!(null), json!("deny"), json!("DROP"), json!(false), json!("drop ")] {
        with("default", default, ": found ");
    }
    let key = Key::numbered(3).literal();
    let keys: Vec<_> = (10..27).map(|number| Key::numbered(number).literal()).collect();
    for (value, reason) in [
        (json!(null), ": found null"),
        (json!({ "trust": [] }), ": unknown member trust"),
        (json!({ "add": key }), ".add: found"),
        (json!({ "add": [7] }), ".add: found 7"),
        (json!({ "add": ["/etc/key.pem"] }), ".add: found"),
        (json!({ "add": ["ed25519:AAAA"] }), ".add: found"),
        (json!({ "add": [key, key] }), ".add: ed25519:"),
        (json!({ "add": keys }), ".add: more than 16 keys"),
        (json!({ "add": [{ "not_after": "2099-01-01T00:00:00Z" }] }), ".add.key: is missing"),
        (json!({ "add": [{ "key": key, "not_after": 7 }] }), ".add.not_after: found 7"),
        (json!({ "remove": ["all"] }), ".remove: found \"all\""),
        (json!({ "remove": [ours().id().to_uppercase()] }), ".remove: found"),
        (json!({ "remove": [ours().id(), ours().id()] }), ".remove: "),
    ] {
        with("keys", value, reason);
    }
    with("rules", json!({}), ": found an object");
    with("rules", json!(null), ": found null");
    for member in ["version", "scope", "default", "rules"] {
        let mut bundle: Value = serde_json::from_slice(&good().payload()).expect("a bundle is JSON");
        let value = bundle.as_object_mut().expect("it is an object").remove(member).expect("it is there");
        cases.push(Case::signed(format!("no {member}"), bundle.to_string(), format!("{member}: is missing")));
        let text = String::from_utf8(good().payload()).expect("a bundle is text");
        let twice = text.replacen('{', &format!("{{\"{member}\":{value},"), 1);
        cases.push(Case::signed(format!("{member} twice"), twice, format!("{member}: stands twice")));
    }
    let escaped =
        String::from_utf8(good().payload()).expect("a bundle is text").replacen('{', "{\"\\u0076ersion\":1,", 1);
    cases.push(Case::signed("version twice, once with an escape", escaped, "version: stands twice"));
    let unknown = good().with("comment", json!("hello"));
    cases.push(Case::signed("an unknown member", unknown.payload(), "unknown member comment"));
    cases
}

/// A good rule with these members instead.
fn rule_with(changes: &Value, reason: &str) -> Case {
    let mut rule = json!({ "name": "block", "cidrs": ["192.0.2.0/24"], "action": "drop" });
    for (member, value) in changes.as_object().expect("changes are an object") {
        rule[member] = value.clone();
    }
    let name: String = changes.to_string().chars().take(80).collect();
    Case::signed(format!("a rule with {name}"), Policy::new(SEEN + 1).rule(rule).payload(), reason)
}

/// What is no list of prefixes.
fn prefixes() -> Vec<Case> {
    let mut cases = Vec::new();
    for cidr in [
        "",
        "0",
        "10",
        "10/8",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "10.0.0.0/08",
        "10.0.0.0/8/8",
        "10.0.0.0/255.0.0.0",
        "010.0.0.0/8",
        "0x0a.0.0.0/8",
        "10.0.0.256",
        "::/129",
        "fe80::1%eth0",
        "[::1]",
        "example.com",
        "*",
        "１0.0.0.0/8",
        "10.0.0.0/8 ",
    ] {
        cases.push(rule_with(&json!({ "cidrs": [cidr] }), "rule 1"));
    }
    for (cidrs, reason) in [
        (json!(["192.0.2.1/24"]), "192.0.2.1/24 has bits behind its length; was 192.0.2.0/24 meant?"),
        (json!(["2001:db8::1/32"]), "was 2001:db8::/32 meant?"),
        (json!(["255.255.255.255/0"]), "was 0.0.0.0/0 meant?"),
        (json!([]), "cidrs: found an empty list"),
        (json!("192.0.2.0/24"), "cidrs: found \"192.0.2.0/24\""),
        (json!([3_221_225_984_u32]), "cidrs: found 3221225984"),
        (json!([null]), "cidrs: found null"),
        (json!([["192.0.2.0/24"]]), "cidrs: found a list"),
        (json!(["192.0.2.0/24", "192.0.2.0/24"]), "192.0.2.0/24 stands there twice"),
        (json!(["192.0.2.1", "192.0.2.1/32"]), "192.0.2.1/32 stands there twice"),
        (json!(["2001:db8::1", "2001:DB8:0::1/128"]), "2001:db8::1/128 stands there twice"),
    ] {
        cases.push(rule_with(&json!({ "cidrs": cidrs }), reason));
    }
    cases
}

/// What is no condition, and no action.
fn conditions() -> Vec<Case> {
    let cases = [
        (json!({ "direction": "in" }), "direction: found \"in\""),
        (json!({ "direction": ["ingress"] }), "direction: found a list"),
        (json!({ "protocol": "TCP" }), "protocol: found \"TCP\""),
        (json!({ "protocol": "6" }), "protocol: found \"6\""),
        (json!({ "protocol": 256 }), "protocol: found 256"),
        (json!({ "protocol": -1 }), "protocol: found -1"),
        (json!({ "protocol": 6.0 }), "protocol: found 6.0"),
        (json!({ "ports": ["443"] }), "ports: wants \"protocol\":\"tcp\""),
        (json!({ "protocol": "icmp", "ports": ["443"] }), "ports: wants \"protocol\":\"tcp\""),
        (json!({ "protocol": "any", "peer_ports": ["443"] }), "peer_ports: wants \"protocol\":\"tcp\""),
        (json!({ "protocol": "tcp", "icmp_types": [8] }), "icmp_types: wants \"protocol\":\"icmp\""),
        (json!({ "protocol": "tcp", "ports": [443] }), "ports: found 443"),
        (json!({ "protocol": "tcp", "ports": ["65536"] }), "ports: found \"65536\""),
        (json!({ "protocol": "tcp", "ports": ["-1"] }), "ports: found \"-1\""),
        (json!({ "protocol": "tcp", "ports": ["90-80"] }), "ports: found \"90-80\""),
        (json!({ "protocol": "tcp", "ports": ["80-"] }), "ports: found \"80-\""),
        (json!({ "protocol": "tcp", "ports": ["80–90"] }), "ports: found \"80–90\""),
        (json!({ "protocol": "tcp", "ports": ["http"] }), "ports: found \"http\""),
        (json!({ "protocol": "tcp", "ports": ["80", "80"] }), "80 stands there twice"),
        (json!({ "protocol": "tcp", "ports": [] }), "ports: found an empty list"),
        (
            json!({ "protocol": "tcp", "ports": (0..1025).map(|n| (n * 2).to_string()).collect::<Vec<_>>() }),
            "more than 1024",
        ),
        (json!({ "protocol": "icmp", "icmp_types": [256] }), "icmp_types: found 256"),
        (json!({ "protocol": "icmp", "icmp_types": ["8"] }), "icmp_types: found \"8\""),
        (json!({ "protocol": "icmp", "icmp_types": vec![0; 100_000] }), "icmp_types: 0 stands there twice"),
        (json!({ "interfaces": ["!eth0"] }), "interfaces: found an exclusion"),
        (json!({ "interfaces": [] }), "interfaces: found an empty list"),
        (json!({ "interfaces": ["eth[0"] }), "interfaces: found interface pattern"),
        (json!({ "interfaces": ["../eth0"] }), "interfaces: found interface pattern"),
        (json!({ "interfaces": ["eth0", "eth0"] }), "interfaces: eth0 stands there twice"),
        (
            json!({ "interfaces": (0..65).map(|n| format!("eth{n}")).collect::<Vec<_>>() }),
            "interfaces: found \"eth64\"",
        ),
        (json!({ "action": "deny" }), "action: found \"deny\""),
        (json!({ "action": null }), "action: found null"),
        (json!({ "ttl": "0s" }), "ttl: found \"0s\""),
        (json!({ "ttl": "366d" }), "ttl: found \"366d\""),
        (json!({ "ttl": "-1h" }), "ttl: found \"-1h\""),
        (json!({ "ttl": "1500ms" }), "ttl: found \"1500ms\""),
        (json!({ "ttl": 3600 }), "ttl: found 3600"),
        (json!({ "ttl": "99999999999999999999d" }), "ttl: found"),
        (json!({ "reason": 7 }), "reason: found 7"),
        (json!({ "reason": "x".repeat(257) }), "reason: found"),
        (json!({ "priority": 1 }), "unknown member priority"),
        (json!({ "cidr": ["192.0.2.0/24"] }), "unknown member cidr, was cidrs meant?"),
    ];
    cases.iter().map(|(changes, reason)| rule_with(changes, reason)).collect()
}

/// What a rule must have, and have once.
fn rules() -> Vec<Case> {
    let mut cases = Vec::new();
    for member in ["name", "cidrs", "action"] {
        let mut rule = json!({ "name": "block", "cidrs": ["192.0.2.0/24"], "action": "drop" });
        let value = rule.as_object_mut().expect("it is an object").remove(member).expect("it is there");
        let bundle = Policy::new(SEEN + 1).rule(rule);
        cases.push(Case::signed(format!("a rule without {member}"), bundle.payload(), format!("{member}: is missing")));
        let text = String::from_utf8(good().payload()).expect("a bundle is text");
        let twice = text.replace("[{", &format!("[{{\"{member}\":{value},"));
        cases.push(Case::signed(format!("a rule with {member} twice"), twice, format!("{member}: stands twice")));
    }
    let one = |rule: Value| Policy::new(SEEN + 1).rule(rule).payload();
    cases.push(Case::signed("a rule that is null", one(json!(null)), "rule 1: found null"));
    cases.push(Case::signed("a rule that is a text", one(json!("drop")), "rule 1: found \"drop\""));
    let again = good().drop("other", &["::1"]).drop("block", &["::2"]);
    cases.push(Case::signed(
        "two rules of one name",
        again.payload(),
        "rule 3 (block): name: rule 1 has this name, too",
    ));
    cases
}

fn rates() -> Vec<Case> {
    let limits = [
        (json!(null), "limit: found null"),
        (json!(100), "limit: found 100"),
        (json!({}), "limit.pps: is missing"),
        (json!({ "pps": 0 }), "limit.pps: found 0"),
        (json!({ "pps": 1_000_001 }), "limit.pps: found 1000001"),
        (json!({ "pps": 1e3 }), "limit.pps: found 1000.0"),
        (json!({ "pps": "100" }), "limit.pps: found \"100\""),
        (json!({ "pps": 5, "burst": 0 }), "limit.burst: found 0"),
        (json!({ "pps": 5, "burst": u64::MAX }), "limit.burst: found 18446744073709551615"),
        (json!({ "pps": 5, "per": "host" }), "limit.per: found \"host\""),
        (json!({ "bps": 5 }), "limit: unknown member bps"),
    ];
    let rule =
        |limit: &Value, action: &str| json!({ "name": "slow", "cidrs": ["::/0"], "action": action, "limit": limit });
    let bundle = |rule: Value| Policy::new(SEEN + 1).rule(rule).payload();
    let mut cases: Vec<_> = limits
        .iter()
        .map(|(limit, reason)| Case::signed(format!("limit {limit}"), bundle(rule(limit, "limit")), *reason))
        .collect();
    let aside = bundle(rule(&json!({ "pps": 5 }), "drop"));
    cases.push(Case::signed("a limit beside drop", aside, "limit: has a meaning with \"action\":\"limit\" only"));
    let without = bundle(json!({ "name": "slow", "cidrs": ["::/0"], "action": "limit" }));
    cases.push(Case::signed("a limit without a rate", without, "limit: is missing"));
    cases
}

/// What looks like something else.
fn names_and_texts() -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, name) in [
        ("empty", ""),
        ("of 65 bytes", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ("with a Cyrillic letter", "bl\u{43e}ck"),
        ("with a letter of no width", "block\u{200b}"),
        ("with an accent of its own", "u\u{308}ber"),
        ("with a wide letter", "ｂlock"),
        ("with a blank", "block all"),
        ("with a slash", "a/b"),
        ("with a NUL", "block\0"),
        ("with an escape of terminals", "\u{1b}[2J"),
        ("of pictures", "🚫"),
        ("with quotes", "\"block\""),
    ] {
        let bundle = Policy::new(SEEN + 1).drop(name, &["::1"]).payload();
        cases.push(Case::signed(format!("a name {what}"), bundle, "rule 1: name: found"));
    }
    for (what, reason) in [
        ("with a line break", "a\nb"),
        ("with an escape of terminals", "\u{1b}]0;title\u{7}"),
        ("that turns its direction", "\u{202e}pord"),
        ("with an isolate of direction", "\u{2066}x"),
        ("with a line separator", "a\u{2028}b"),
        ("with a control character of C1", "a\u{9b}2J"),
        ("of 129 letters of two bytes", &"ü".repeat(129)),
    ] {
        let rule = json!({ "name": "x", "cidrs": ["::1"], "action": "drop", "reason": reason });
        let bundle = Policy::new(SEEN + 1).rule(rule).payload();
        cases.push(Case::signed(format!("a reason {what}"), bundle, "rule 1 (x): reason: found"));
    }
    for (what, member) in [
        ("with a Cyrillic letter", "\u{430}ction"),
        ("with a letter of no width", "action\u{200b}"),
        ("in capitals", "ACTION"),
    ] {
        let mut rule = json!({ "name": "x", "cidrs": ["::1"] });
        rule[member] = json!("drop");
        let bundle = Policy::new(SEEN + 1).rule(rule).payload();
        cases.push(Case::signed(format!("a member {what}"), bundle, "unknown member"));
    }
    cases
}

/// Beyond what there may be.
fn sizes() -> Vec<Case> {
    let many = |count: u32, rule: &dyn Fn(u32) -> Value| {
        (0..count).fold(Policy::new(SEEN + 1), |policy, n| policy.rule(rule(n))).payload()
    };
    let short = |n: u32| format!("{{\"name\":\"{n}\",\"cidrs\":[\"::1\"],\"action\":\"drop\"}}");
    let rules = (0..65_537).map(short).collect::<Vec<_>>().join(",");
    let text = String::from_utf8(Policy::new(SEEN + 1).payload()).expect("a bundle is text");
    let interfaces = |n: u32| json!({ "name": format!("i{n}"), "cidrs": ["::1"], "action": "drop", "interfaces": [format!("eth{n}")] });
    let million = format!("[{}]", vec!["\"::1\""; 1_000_000].join(","));
    let million =
        String::from_utf8(good().payload()).expect("a bundle is text").replace("[\"192.0.2.0/24\"]", &million);
    let all_names = format!("[{}]", vec!["\"::1\""; 690_000].join(","));
    let half = String::from_utf8(good().payload()).expect("a bundle is text").replace("[\"192.0.2.0/24\"]", &all_names);
    let blanks = |bytes: usize| [&good().payload()[..], &vec![b' '; bytes]].concat();
    vec![
        Case::signed("1,000,000 prefixes", million, "too-large"),
        Case::signed("690,000 prefixes", half, "more than 65536 prefixes"),
        Case::signed(
            "65,537 prefixes",
            Policy::new(SEEN + 1).drop_many("many", 65_537).payload(),
            "more than 65536 prefixes",
        ),
        Case::signed("65,537 rules", text.replace("[]", &format!("[{rules}]")), "rule 65537: more than 65536 rules"),
        Case::signed("17 lists of interfaces", many(17, &interfaces), "more than 16 different lists of interfaces"),
        Case::signed("4 MiB and a bundle", blanks(4 << 20), "too-large"),
        Case::signed("a byte more than 4 MiB", blanks((4 << 20) + 1 - good().payload().len()), "too-large"),
        Case::new("an envelope of 6 MiB", vec![b' '; 6 << 20], "too-large"),
        Case::new("an envelope with a byte too many", vec![b' '; MAX_ENVELOPE_BYTES + 1], "too-large"),
    ]
}

/// A good bundle, and more than tables hold.
fn beyond_tables() -> Vec<Case> {
    let nested = |n: u32| json!({ "name": format!("n{n}"), "cidrs": [format!("::/{n}")], "action": "drop" });
    let ports = |n: u32| json!({ "name": format!("p{n}"), "cidrs": ["192.0.2.0/24"], "action": "drop", "protocol": "tcp", "ports": [n.to_string()] });
    let protocols = |n: u32| json!({ "name": format!("q{n}"), "cidrs": [format!("10.0.{n}.0/24")], "action": "drop", "protocol": n });
    let case = |place: u64, name: &str, count: u32, rule: &dyn Fn(u32) -> Value, reason: &str| {
        let bundle = (0..count).fold(Policy::new(SEEN + place), |policy, n| policy.rule(rule(n)));
        Case::signed(name, bundle.payload(), reason).needing(Needs::Tables)
    };
    vec![
        case(1, "65 candidates by length", 65, &nested, "face 65 rules, at most 64"),
        case(2, "65 candidates on one prefix", 65, &ports, "face 65 rules, at most 64"),
        case(3, "16 protocols", 16, &protocols, "rules name 16 different protocols, at most 15"),
    ]
}

fn for_others() -> Vec<Case> {
    let mut cases = Vec::new();
    for gateway in ["gw-8", "gw-70", "gw-", "GW-7", "plant", "gw_7"] {
        let case = Case::new(format!("for gateway {gateway}"), good().gateway(gateway).signed_by(&ours()), "scope");
        cases.push(case.needing(Needs::Identity));
    }
    for group in ["south", "gw-7", "Plant", "plant.2"] {
        let case = Case::new(format!("for group {group}"), good().group(group).signed_by(&ours()), "scope");
        cases.push(case.needing(Needs::Identity));
    }
    // It is a member, but this is what is meant for it alone.
    let group = Case::new("for its group, on its own topic", good().group("plant").signed_by(&ours()), "scope");
    cases.push(group.needing(Needs::Identity));
    let stale = |version| good().with("version", json!(version)).signed_by(&ours());
    for version in [1, SEEN - 1] {
        cases.push(Case::new(format!("version {version} again"), stale(version), "stale").needing(Needs::Memory));
    }
    cases.push(Case::new("another bundle of the same version", stale(SEEN), "conflict").needing(Needs::Memory));
    cases
}

fn out_of_time() -> Vec<Case> {
    let until = |version: u64, moment: &str| {
        good().with("version", json!(version)).with("not_after", json!(moment)).signed_by(&ours())
    };
    let mut cases: Vec<_> = (SEEN + 100..)
        .zip(["1970-01-01T00:00:00Z", "2020-02-29T12:00:00Z", "2026-01-01T00:00:00Z"])
        .map(|(version, moment)| {
            Case::new(format!("not after {moment}"), until(version, moment), "expired").needing(Needs::Time)
        })
        .collect();
    let unset = Case::new("a time, while none is known", until(SEEN + 200, "2099-01-01T00:00:00Z"), "clock");
    cases.push(unset.needing(Needs::NoTime));
    cases
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn there_are_two_hundred_of_them_and_each_is_refused_for_its_own_reason() {
        let cases = cases();
        assert!(cases.len() >= 200, "{}", cases.len());
        let names: HashSet<_> = cases.iter().map(|case| &case.name).collect();
        assert_eq!(names.len(), cases.len(), "each has a name of its own");
        let mut wrong = Vec::new();
        for case in &cases {
            let said = case.refusal();
            let is_right = match (case.needs, &said) {
                (Needs::Bytes | Needs::Tables, Some(said)) => {
                    said.contains(&case.reason) && said.len() < 2_000 && said.lines().count() == 1
                }
                (Needs::Bytes | Needs::Tables, None) => false,
                // All that is wrong with it is whose it is, or when.
                (_, said) => said.is_none(),
            };
            if !is_right {
                wrong.push(format!("{} ({:?}): {said:?}, wanted: {}", case.name, case.needs, case.reason));
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    }

    #[test]
    fn what_is_good_is_taken() {
        for bytes in [seen(), good().signed_by(&ours()), good().signed_by(&Key::numbered(2))] {
            let case = Case::new("good", bytes, "");
            assert_eq!(case.refusal(), None);
        }
    }
}
