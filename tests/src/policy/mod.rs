//! Signed policies for scenarios: keys, bundles, envelopes, and those that must be refused ([`hostile`]).
//!
//! ```no_run
//! # use serde_json::json;
//! # use tidegate_tests::policy::{Key, Policy};
//! let key = Key::numbered(1);
//! let config = format!("[policy]\npublic_keys = [\"{}\"]\n", key.literal());
//! let envelope = Policy::new(7).gateway("gw-7").drop("block", &["192.0.2.0/24"]).signed_by(&key);
//! ```
//!
//! Keys are made from small numbers, so that the same scenario always signs the same bytes.

pub mod hostile;

use serde_json::{Value, json};
use tidegate::policy::envelope::{self, Signer};
use tidegate_values::{PublicKey, base64, ed25519};

/// A key pair.
#[derive(Debug)]
pub struct Key {
    seed: [u8; 32],
}

impl Key {
    /// The same number makes the same key.
    #[must_use]
    pub const fn numbered(number: u8) -> Self {
        Self { seed: [number; 32] }
    }

    /// To sign with.
    #[must_use]
    pub fn signer(&self) -> Signer {
        Signer::from_seed(&self.seed)
    }

    /// The public half's id.
    #[must_use]
    pub fn id(&self) -> String {
        self.signer().key.id.to_string()
    }

    /// The public half as `[policy] public_keys` has it: `ed25519:…`.
    #[must_use]
    pub fn literal(&self) -> String {
        PublicKey::Ed25519(self.signer().key.bytes).to_string()
    }

    /// The public half as a PEM file.
    #[must_use]
    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &ed25519::spki(&self.signer().key.bytes))
    }

    /// The private half as a PEM file, as `openssl genpkey -algorithm ed25519` writes it.
    #[must_use]
    pub fn private_pem(&self) -> String {
        // RFC 8410, section 7: version, algorithm, and the seed as an octet string in an octet string.
        let head = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
        pem("PRIVATE KEY", &[&head[..], &self.seed].concat())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64::encode(der))
}

/// A bundle that is being made.
#[derive(Clone, Debug)]
pub struct Policy(Value);

impl Policy {
    /// Without rules, for the gateway `gw-7`, with everything allowed.
    #[must_use]
    pub fn new(version: u64) -> Self {
        Self(json!({ "version": version, "scope": { "gateway": "gw-7" }, "default": "allow", "rules": [] }))
    }

    /// For that gateway.
    #[must_use]
    pub fn gateway(self, id: &str) -> Self {
        self.with("scope", json!({ "gateway": id }))
    }

    /// For that group.
    #[must_use]
    pub fn group(self, name: &str) -> Self {
        self.with("scope", json!({ "group": name }))
    }

    /// With this member of the bundle, instead of what it was.
    #[must_use]
    pub fn with(mut self, member: &str, value: Value) -> Self {
        self.0[member] = value;
        self
    }

    /// With a rule more.
    #[must_use]
    pub fn rule(mut self, rule: Value) -> Self {
        self.0["rules"].as_array_mut().expect("rules are a list").push(rule);
        self
    }

    /// With a rule more that drops all from and to these prefixes.
    #[must_use]
    pub fn drop(self, name: &str, cidrs: &[&str]) -> Self {
        self.rule(json!({ "name": name, "cidrs": cidrs, "action": "drop", "reason": format!("test of {name}") }))
    }

    /// That many addresses, each of another /24.
    pub fn many(count: u32) -> impl Iterator<Item = String> {
        (0..count).map(|n| format!("{}.{}.{}.7", 20 + (n >> 16), n >> 8 & 255, n & 255))
    }

    /// With a rule more of [`Self::many`] addresses.
    #[must_use]
    pub fn drop_many(self, name: &str, count: u32) -> Self {
        let cidrs: Vec<_> = Self::many(count).collect();
        self.rule(json!({ "name": name, "cidrs": cidrs, "action": "drop" }))
    }

    /// The bundle's bytes.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        self.0.to_string().into_bytes()
    }

    /// In an envelope.
    #[must_use]
    pub fn signed_by(&self, key: &Key) -> Vec<u8> {
        sign(&self.payload(), key)
    }
}

/// An envelope around any payload.
#[must_use]
pub fn sign(payload: &[u8], key: &Key) -> Vec<u8> {
    envelope::sign(payload, &[key.signer()]).into_bytes()
}
