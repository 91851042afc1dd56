//! `tidegate policy verify`: would a gateway take this?

use std::{fs, process::ExitCode};

use serde_json::json;
use tidegate_values::calendar;

use super::{failed, input, input::Input, print};
use crate::{
    cli::{ConfigArg, check_config, table},
    config::{Environment, PublicKey},
    policy::{Bundle, envelope, keys::Keyring, read, show},
};

/// Check a signed policy as a gateway would: signature, content, and what it takes to enforce.
///
/// Keys are those of --public-key, else of `[policy] public_keys` of this machine's configuration. The version that a
/// gateway saw last, and its name, are not looked at.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate policy verify policy.json                         by the keys that this machine trusts
  tidegate policy verify --public-key policy.pem policy.json
  tidegate policy verify --public-key ed25519:BASE64 - < policy.json

Exit status: 0 a gateway takes it, 1 it does not, 2 usage, 78 the configuration is wrong.")]
pub(super) struct Args {
    /// A key that counts, instead of those of the configuration: a PEM file, or ed25519:BASE64
    #[arg(long = "public-key", value_name = "KEY")]
    public_keys: Vec<String>,
    #[command(flatten)]
    config: ConfigArg,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// The envelope; - is standard input
    #[arg(value_name = "FILE")]
    envelope: Input,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let keys = match keys(args) {
        Ok(keys) => keys,
        Err(code) => return code,
    };
    match verify(args, &keys) {
        Ok(verified) if args.json => print(&format!("{}\n", verified.as_json())),
        Ok(verified) => print(&verified.as_text()),
        Err(what) if args.json => {
            let printed = print(&format!("{}\n", json!({ "ok": false, "error": what.trim_end() })));
            if printed == ExitCode::SUCCESS { ExitCode::FAILURE } else { printed }
        }
        Err(what) => failed(&what),
    }
}

fn keys(args: &Args) -> Result<Keyring, ExitCode> {
    let keys = if args.public_keys.is_empty() {
        let loaded = args.config.file().load(&Environment::of_process());
        loaded.map_err(|errors| check_config::report(&errors))?.config.policy.public_keys
    } else {
        // Unlike the configuration's, these may be relative: they are this shell's.
        let parsed = args.public_keys.iter().map(|text| match text.strip_prefix("ed25519:") {
            Some(_) => PublicKey::parse(text).map_err(|what| format!("{text}: {what}")),
            None => Ok(PublicKey::File(text.into())),
        });
        parsed.collect::<Result<_, _>>().map_err(|what| failed(&what))?
    };
    let (ring, problems) = Keyring::configured(&keys, |path| fs::read(path));
    if problems.is_empty() { Ok(ring) } else { Err(failed(&problems.join("\n"))) }
}

struct Verified {
    bundle: Bundle,
    keyid: String,
    table_bytes: usize,
}

fn verify(args: &Args, keys: &Keyring) -> Result<Verified, String> {
    let complaint = |what: &str| args.envelope.complaint(what);
    let bytes = args.envelope.bytes()?;
    let opened =
        envelope::open(&bytes, keys, Some(input::now_ms())).map_err(|refused| complaint(&refused.to_string()))?;
    let bundle = read(opened.payload()).map_err(|refused| complaint(&refused.to_string()))?;
    let tables = input::tables(&bundle).map_err(|what| complaint(&what))?;
    match input::expired(&bundle) {
        Some(what) => Err(complaint(&what)),
        None => Ok(Verified { keyid: opened.key.id.to_string(), table_bytes: size_of_val(&tables.blocks[..]), bundle }),
    }
}

impl Verified {
    fn as_json(&self) -> serde_json::Value {
        let Self { bundle, keyid, table_bytes } = self;
        let mut verified = json!({
            "ok": true,
            "version": bundle.version,
            "keyid": keyid,
            "rules": bundle.rules.len(),
            "prefixes": bundle.prefix_count(),
            "table_bytes": table_bytes,
        });
        for (member, value) in show::head(bundle) {
            verified[member] = value;
        }
        verified
    }

    fn as_text(&self) -> String {
        let Self { bundle, keyid, table_bytes } = self;
        let until = bundle.not_after_ms.map_or("for ever".to_owned(), |ms| format!("until {}", calendar::format(ms)));
        format!(
            "good: version {} for {}, {until}\n  signed by {keyid}\n  rules: {}, prefixes: {}, default: {}, tables: {}\n",
            bundle.version,
            bundle.scope,
            bundle.rules.len(),
            bundle.prefix_count(),
            show::default(bundle.default),
            table::bytes(*table_bytes as u64),
        )
    }
}
