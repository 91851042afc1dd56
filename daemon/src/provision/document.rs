//! `provision.toml`, read and judged. Pure, so that it can be fuzzed: whoever can put a file on a boot partition
//! writes what is read here as root.
//!
//! # Format
//!
//! ```toml
//! url = "mqtts://broker.example:8883"     # the one that is required
//! ca = "ca.pem"                           # PEM: as text, or the name of a file beside this one
//! cert = "gw-7.pem"
//! key = "gw-7.key"
//! gateway_id = "gw-7"
//! groups = ["plant"]
//! policy_keys = ["ed25519:…", "policy.pem"]
//! ```
//!
//! Each value is judged by the configuration's own table; beyond that, PEM must be what its member needs, and the
//! certificate must be of this key. Dates are not judged: the clock of a new gateway may not be set yet.
//!
//! Messages name the line and the member, and never quote a value: the file holds a private key.

use std::fmt;

use tidegate_values::ed25519;
use toml::de::{DeTable, DeValue};

use crate::{
    config::{Config, PublicKey, judge},
    order::sort_by_key,
    pki,
};

/// Most that is read of `provision.toml`, and of each file that it names: a bundle of all public authorities has
/// 220 KiB, and what is usual 5 KiB.
pub const MAX_BYTES: usize = 256 << 10;
/// Faults told of one file: whoever meets more mends these first.
const MAX_FAULTS: usize = 16;
const MEMBERS: &str = "url, ca, cert, key, gateway_id, groups, policy_keys";
const WANTED_POLICY_KEY: &str = r#"accepted is a list of at most 16 different ed25519 keys: "ed25519:BASE64", PEM (-----BEGIN PUBLIC KEY-----), or the name of such a file beside it"#;

/// Reads a file beside `provision.toml` by its name, at most [`MAX_BYTES`] of it; the error says why not.
pub type Beside<'a> = dyn FnMut(&str) -> Result<Vec<u8>, String> + 'a;

/// A valid `provision.toml`, with all that it names.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// `mqtt://…` or `mqtts://…`.
    pub url: String,
    /// Certificates of the authorities to trust.
    pub ca: Option<Pem>,
    /// The gateway's certificate chain and its key.
    pub identity: Option<(Pem, Pem)>,
    /// Who the gateway is.
    pub gateway_id: Option<String>,
    /// What it belongs to.
    pub groups: Vec<String>,
    /// Whose policies count.
    pub policy_keys: Vec<PublicKey>,
}

/// PEM; perhaps of a key, so that it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem(pub String);

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pem({} bytes)", self.0.len())
    }
}

/// One thing wrong with a `provision.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line, from 1; absent where it is about the file as a whole.
    pub line: Option<usize>,
    /// Member, where it is about one.
    pub member: Option<String>,
    /// What is wrong, and what is accepted.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if let Some(member) = &self.member {
            write!(f, "{member}: ")?;
        }
        f.write_str(&self.what)
    }
}

impl Document {
    /// Reads and judges a file's bytes; `beside` gives the files that it names.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, at least one fault.
    pub fn read(bytes: &[u8], beside: &mut Beside<'_>) -> Result<Self, Vec<Fault>> {
        let whole = |what: String| vec![Fault { line: None, member: None, what }];
        if bytes.len() > MAX_BYTES {
            return Err(whole(format!("it is over {} KiB, the most that is read", MAX_BYTES >> 10)));
        }
        let text = str::from_utf8(bytes).map_err(|error| {
            whole(format!("it is not UTF-8 text (first wrong byte at offset {})", error.valid_up_to()))
        })?;
        let mut reader = Reader { text, beside, faults: Vec::new() };
        let (table, wrong) = DeTable::parse_recoverable(text);
        for error in wrong.iter().take(MAX_FAULTS) {
            let place = error.span().map_or(0, |span| span.start);
            reader.fault(place, None, format!("it is not TOML: {}", error.message().replace('\n', ", ")));
        }
        if reader.faults.is_empty() {
            let document = reader.document(table.get_ref());
            if let (Some(document), true) = (document, reader.faults.is_empty()) {
                return Ok(document);
            }
        }
        sort_by_key(&mut reader.faults, |fault| fault.line);
        reader.faults.truncate(MAX_FAULTS);
        Err(reader.faults)
    }
}

struct Reader<'a, 'b> {
    text: &'a str,
    beside: &'a mut Beside<'b>,
    faults: Vec<Fault>,
}

impl Reader<'_, '_> {
    fn fault(&mut self, place: usize, member: Option<&str>, what: String) {
        let line = self.text.bytes().take(place).filter(|byte| *byte == b'\n').count() + 1;
        self.faults.push(Fault { line: Some(line), member: member.map(str::to_owned), what });
    }

    /// `None`, or faults, where something is wrong.
    fn document(&mut self, table: &DeTable<'_>) -> Option<Document> {
        // What is judged together is taken over into one configuration.
        let mut config = Config::defaults("judge");
        let mut url = None;
        let (mut ca, mut cert, mut key) = (None, None, None);
        let (mut gateway_id, mut groups, mut policy_keys) = (None, Vec::new(), Vec::new());
        for (name, value) in table {
            let (place, value) = (name.span().start, value.get_ref());
            match name.get_ref().as_ref() {
                "url" => url = self.text_of(&mut config, place, "url", "mqtt.url", value).map(|url| (place, url)),
                "gateway_id" => gateway_id = self.text_of(&mut config, place, "gateway_id", "gateway.id", value),
                "groups" => groups = self.groups(&mut config, place, value),
                "policy_keys" => policy_keys = self.policy_keys(place, value),
                "ca" => ca = self.pem(place, "ca", value).map(|pem| (place, pem)),
                "cert" => cert = self.pem(place, "cert", value).map(|pem| (place, pem)),
                "key" => key = self.pem(place, "key", value).map(|pem| (place, pem)),
                other => {
                    let name: String = other.chars().take(40).flat_map(char::escape_debug).collect();
                    self.fault(place, Some(&name), format!("there is no such member; there are {MEMBERS}"));
                }
            }
        }
        if url.is_none() && !table.contains_key("url") {
            let what = r#"it is missing; where is the broker? "mqtts://HOST[:PORT]""#.to_owned();
            self.faults.push(Fault { line: None, member: Some("url".to_owned()), what });
        }
        if let Some((place, _)) = &url
            && config.mqtt.broker.as_ref().is_some_and(|broker| !broker.tls)
            && ["ca", "cert", "key"].iter().any(|member| table.contains_key(*member))
        {
            let what = "the connection is not encrypted; accepted is an mqtts:// url, or no ca, cert and key";
            self.fault(*place, Some("url"), what.to_owned());
        }
        self.authorities(ca.as_ref());
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => self.identity(cert, key),
            // The other one is there, and a fault says what is wrong with it.
            (Some(_), None) if table.contains_key("key") => None,
            (None, Some(_)) if table.contains_key("cert") => None,
            (Some((place, _)), None) => {
                self.fault(
                    place,
                    Some("cert"),
                    "it stands there without its key; accepted are both, or neither".into(),
                );
                None
            }
            (None, Some((place, _))) => {
                self.fault(
                    place,
                    Some("key"),
                    "it stands there without its cert; accepted are both, or neither".into(),
                );
                None
            }
            (None, None) => None,
        };
        let (_, url) = url?;
        Some(Document { url, ca: ca.map(|(_, pem)| pem), identity, gateway_id, groups, policy_keys })
    }

    /// A text that a key of the configuration accepts, and not an empty one, which would be as if it were absent.
    fn text_of(
        &mut self,
        config: &mut Config,
        place: usize,
        member: &str,
        key: &str,
        value: &DeValue<'_>,
    ) -> Option<String> {
        let judged = match value {
            DeValue::String(text) if text.is_empty() => Err("it is empty; leave it out instead".to_owned()),
            DeValue::String(text) => judge(config, key, text.as_ref()).map(|()| text.clone().into_owned()),
            other => Err(format!("found {}, accepted is a text", kind(other))),
        };
        judged.map_err(|what| self.fault(place, Some(member), what)).ok()
    }

    fn groups(&mut self, config: &mut Config, place: usize, value: &DeValue<'_>) -> Vec<String> {
        let judged = texts(value).and_then(|groups| {
            judge(config, "gateway.groups", groups.clone())?;
            Ok(groups)
        });
        judged.map_err(|what| self.fault(place, Some("groups"), what)).unwrap_or_default()
    }

    fn policy_keys(&mut self, place: usize, value: &DeValue<'_>) -> Vec<PublicKey> {
        let mut keys = Vec::new();
        match texts(value) {
            Ok(texts) if texts.len() <= 16 => {
                for text in texts {
                    match self.policy_key(&text) {
                        Ok(key) if keys.contains(&key) => {
                            let what = format!("the same key stands there twice; {WANTED_POLICY_KEY}");
                            self.fault(place, Some("policy_keys"), what);
                        }
                        Ok(key) => keys.push(key),
                        Err(what) => self.fault(place, Some("policy_keys"), format!("{what}; {WANTED_POLICY_KEY}")),
                    }
                }
            }
            Ok(texts) => {
                let what = format!("it has {} entries; {WANTED_POLICY_KEY}", texts.len());
                self.fault(place, Some("policy_keys"), what);
            }
            Err(what) => self.fault(place, Some("policy_keys"), format!("{what}; {WANTED_POLICY_KEY}")),
        }
        keys
    }

    /// The key itself, wherever it stands: the configuration then needs no file for it.
    fn policy_key(&mut self, text: &str) -> Result<PublicKey, String> {
        if text.starts_with("ed25519:") {
            return PublicKey::parse(text).map_err(str::to_owned);
        }
        let pem = self.contents(text)?;
        ed25519::public_key(pem.as_bytes()).map(PublicKey::Ed25519)
    }

    fn pem(&mut self, place: usize, member: &'static str, value: &DeValue<'_>) -> Option<Pem> {
        let text = match value {
            DeValue::String(text) => self.contents(text),
            other => Err(format!("found {}, accepted is PEM, or the name of a file beside it", kind(other))),
        };
        text.map(Pem).map_err(|what| self.fault(place, Some(member), what)).ok()
    }

    /// PEM that stands there, or in the file of that name.
    fn contents(&mut self, text: &str) -> Result<String, String> {
        if text.contains("-----BEGIN ") {
            return Ok(text.to_owned());
        }
        let is_name = matches!(text.len(), 1..=255)
            && !text.starts_with('.')
            && !text.contains(|c: char| c == '/' || c == '\\' || c.is_control());
        if !is_name {
            return Err("it is neither PEM (-----BEGIN …) nor the name of a file beside provision.toml".to_owned());
        }
        let bytes = (self.beside)(text)?;
        String::from_utf8(bytes).map_err(|_| format!("{text} is not text; wanted is PEM (-----BEGIN …)"))
    }

    fn authorities(&mut self, ca: Option<&(usize, Pem)>) {
        let Some((place, Pem(pem))) = ca else { return };
        let judged = pki::certificates(pem.as_bytes())
            .map_err(|found| format!("{found}; wanted are {}", pki::WANTED_CERTIFICATES))
            .and_then(|certificates| {
                pki::trust_anchors(certificates)
                    .map_err(|found| format!("{found}; wanted are {}", pki::WANTED_AUTHORITIES))
            });
        if let Err(what) = judged {
            self.fault(*place, Some("ca"), what);
        }
    }

    fn identity(&mut self, (cert_place, cert): (usize, Pem), (key_place, key): (usize, Pem)) -> Option<(Pem, Pem)> {
        let chain = pki::certificates(cert.0.as_bytes());
        let private = pki::private_key(key.0.as_bytes());
        if let Err(found) = &chain {
            self.fault(cert_place, Some("cert"), format!("{found}; wanted are {}", pki::WANTED_CERTIFICATES));
        }
        if let Err(found) = &private {
            self.fault(key_place, Some("key"), format!("{found}; wanted is {}", pki::WANTED_KEY));
        }
        if let Err(what) = pki::belong_together(chain.ok()?, private.ok()?) {
            self.fault(cert_place, Some("cert"), what);
            return None;
        }
        Some((cert, key))
    }
}

fn texts(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let DeValue::Array(items) = value else {
        return Err(format!("found {}, accepted is a list of texts", kind(value)));
    };
    items
        .iter()
        .map(|item| match item.get_ref() {
            DeValue::String(text) => Ok(text.clone().into_owned()),
            other => Err(format!("found {} in the list, accepted are texts", kind(other))),
        })
        .collect()
}

const fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::pki::samples::{CA, CERT, KEY, OTHER_KEY, POLICY_KEY, POLICY_KEY_LITERAL};

    fn beside(name: &str) -> Result<Vec<u8>, String> {
        let files = BTreeMap::from([
            ("ca.pem", CA.as_bytes()),
            ("gw.pem", CERT.as_bytes()),
            ("gw.key", KEY.as_bytes()),
            ("other.key", OTHER_KEY.as_bytes()),
            ("policy.pem", POLICY_KEY.as_bytes()),
            ("binary", &[0xff, 0xfe]),
        ]);
        files.get(name).map(|text| text.to_vec()).ok_or_else(|| format!("{name} is not there"))
    }

    fn read(text: &str) -> Result<Document, Vec<Fault>> {
        Document::read(text.as_bytes(), &mut beside)
    }

    #[track_caller]
    fn refused(text: &str, wanted: &str) {
        let faults = read(text).expect_err("it is refused");
        assert!(faults.len() <= MAX_FAULTS);
        let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|told| told.starts_with(wanted)), "{wanted} is not in {told:#?}");
        let body = KEY.lines().nth(1).unwrap();
        assert!(!told.concat().contains(body), "the key is told: {told:?}");
    }

    #[test]
    fn a_whole_file_is_read_with_pem_inside_or_beside() {
        let names = "url = \"mqtts://broker.example\"\nca = \"ca.pem\"\ncert = \"gw.pem\"\nkey = \"gw.key\"\n\
                     gateway_id = \"gw-7\"\ngroups = [\"plant\", \"north\"]\npolicy_keys = [\"policy.pem\"]\n";
        let document = read(names).unwrap();
        assert_eq!(document.ca, Some(Pem(CA.to_owned())));
        assert_eq!(document.identity, Some((Pem(CERT.to_owned()), Pem(KEY.to_owned()))));
        assert_eq!((document.gateway_id.as_deref(), document.groups.len()), (Some("gw-7"), 2));
        let texts = format!(
            "url = \"mqtts://broker.example\"\nca = \"\"\"\n{CA}\"\"\"\ncert = '''\n{CERT}'''\nkey = \"\"\"\n{KEY}\"\"\"\n\
             gateway_id = \"gw-7\"\ngroups = [\"plant\", \"north\"]\npolicy_keys = [\"{POLICY_KEY_LITERAL}\"]\n"
        );
        assert_eq!(read(&texts).unwrap(), document);
        assert_eq!(document.policy_keys[0].to_string(), POLICY_KEY_LITERAL);
    }

    #[test]
    fn the_url_alone_is_enough() {
        let document = read("url = \"mqtt://10.0.0.1\"").unwrap();
        assert_eq!((document.url.as_str(), document.identity, document.gateway_id), ("mqtt://10.0.0.1", None, None));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let url = "url = \"mqtts://b\"\n";
        for (text, wanted) in [
            ("", "url: it is missing"),
            ("gateway_id = \"gw-7\"", "url: it is missing"),
            ("\nurl = 7", "line 2: url: found a number, accepted is a text"),
            ("url = \"\"", "line 1: url: it is empty"),
            ("url = \"http://b\"", "line 1: url: accepted is"),
            ("url = \"mqtt://user:secret@b\"", "line 1: url: accepted is"),
            ("url = ", "line 1: it is not TOML"),
            ("url = \"mqtt://b\"\nca = \"ca.pem\"", "line 1: url: the connection is not encrypted"),
            (&format!("{url}id = \"gw-7\""), "line 2: id: there is no such member; there are url,"),
            (&format!("{url}gateway_id = \"gw 7\""), "line 2: gateway_id: accepted is 1 to 64"),
            (&format!("{url}gateway_id = [\"gw-7\"]"), "line 2: gateway_id: found a list"),
            (&format!("{url}groups = \"plant\""), "line 2: groups: found a text, accepted is a list"),
            (&format!("{url}groups = [\"a\", 7]"), "line 2: groups: found a number in the list"),
            (&format!("{url}groups = [\"a\", \"a\"]"), "line 2: groups: accepted is a list of at most 16"),
            (&format!("{url}ca = \"none.pem\""), "line 2: ca: none.pem is not there"),
            (&format!("{url}ca = \"binary\""), "line 2: ca: binary is not text"),
            (&format!("{url}ca = \"../ca.pem\""), "line 2: ca: it is neither PEM"),
            (&format!("{url}ca = \"/etc/shadow\""), "line 2: ca: it is neither PEM"),
            (&format!("{url}ca = \"gw.key\""), "line 2: ca: no certificate"),
            (&format!("{url}ca = \"-----BEGIN CERTIFICATE-----\\nAAAA\""), "line 2: ca: not well-formed PEM"),
            (
                &format!("{url}ca = \"-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\""),
                "line 2: ca: a certificate that cannot be a trust anchor",
            ),
            (&format!("{url}cert = \"gw.pem\""), "line 2: cert: it stands there without its key"),
            (&format!("{url}key = \"gw.key\""), "line 2: key: it stands there without its cert"),
            (&format!("{url}cert = \"gw.pem\"\nkey = \"gw.pem\""), "line 3: key: no private key"),
            (&format!("{url}cert = \"gw.pem\"\nkey = 1"), "line 3: key: found a number"),
            (
                &format!("{url}key = \"other.key\"\ncert = \"gw.pem\""),
                "line 3: cert: the certificate is not of this key",
            ),
            (&format!("{url}policy_keys = [\"ed25519:AAAA\"]"), "line 2: policy_keys: it is not 32 bytes"),
            (&format!("{url}policy_keys = [\"gw.pem\"]"), "line 2: policy_keys: no public key in PEM"),
            (
                &format!("{url}policy_keys = [\"policy.pem\", \"{POLICY_KEY_LITERAL}\"]"),
                "line 2: policy_keys: the same key stands there twice",
            ),
            (&format!("{url}[mqtt]\nurl = \"mqtt://c\""), "line 2: mqtt: there is no such member"),
        ] {
            refused(text, wanted);
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let faults = read("url = 7\ngateway_id = \"\"\nkey = \"gw.key\"\nkex = 1\n").unwrap_err();
        let lines: Vec<_> = faults.iter().map(|fault| fault.line).collect();
        assert_eq!(lines, [Some(1), Some(2), Some(3), Some(4)], "{faults:#?}");
        let many: Vec<String> = (0..100).map(|number| format!("k{number} = 1\n")).collect();
        assert_eq!(read(&many.concat()).unwrap_err().len(), MAX_FAULTS);
    }

    #[test]
    fn bytes_that_are_no_text_and_files_that_are_too_large_are_refused() {
        let told = |bytes: &[u8]| Document::read(bytes, &mut beside).unwrap_err()[0].to_string();
        assert_eq!(told(b"url = \"\xff\""), "it is not UTF-8 text (first wrong byte at offset 7)");
        assert_eq!(told(&vec![b'#'; MAX_BYTES + 1]), "it is over 256 KiB, the most that is read");
        let nested = format!("url = {}", "[".repeat(100_000));
        assert!(told(nested.as_bytes()).contains("it is not TOML"));
    }

    #[test]
    fn the_key_is_not_shown_by_accident() {
        let document = read("url = \"mqtts://b\"\ncert = \"gw.pem\"\nkey = \"gw.key\"").unwrap();
        assert!(!format!("{document:?}").contains("BEGIN"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "((url|ca|cert|key|groups|policy_keys|gateway_id) = [\"'\\[]{0,3}.{0,20}[\"'\\]]{0,3}\n){0,6}") {
            let _either = read(&text);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _either = Document::read(&bytes, &mut beside);
        }
    }
}
