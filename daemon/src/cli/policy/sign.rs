//! `tidegate policy sign`: a bundle into an envelope.

use std::{fs, path::PathBuf, process::ExitCode};

use super::{failed, input, input::Input, print};
use crate::policy::envelope::{self, Signer};

/// Check a bundle as a gateway would, and sign it.
///
/// The envelope goes to standard output, or to --out. Publish it as it is, retained, on tidegate/v1/ID/policy/desired or
/// tidegate/v1/@GROUP/policy/desired.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  openssl genpkey -algorithm ed25519 -out policy.key      a key to sign with; keep it off the gateways
  tidegate policy sign --key policy.key bundle.json > policy.json
  tidegate policy sign --key old.key --key new.key --out policy.json bundle.json
  tidegate policy sign --key policy.key bundle.json |
      mosquitto_pub -h broker.example.com -t tidegate/v1/gw-7/policy/desired -q 1 -r -s

Exit status: 0 signed, 1 the bundle or a key cannot be used, 2 usage.")]
pub(super) struct Args {
    /// Private ed25519 key in PEM (PKCS#8); several sign one envelope, of which a gateway must trust one
    #[arg(long = "key", value_name = "FILE", required = true)]
    keys: Vec<PathBuf>,
    /// Where the envelope goes [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The bundle; - is standard input
    #[arg(value_name = "BUNDLE")]
    bundle: Input,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match sign(args) {
        Ok(envelope) => match &args.out {
            None => print(&envelope),
            Some(path) => match fs::write(path, envelope) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failed(&format!("{}: {error}", path.display())),
            },
        },
        Err(what) => failed(&what),
    }
}

fn sign(args: &Args) -> Result<String, String> {
    let signers = args.keys.iter().map(|path| {
        let told = |what: String| format!("{}: {what}", path.display());
        let pem = fs::read(path).map_err(|error| told(error.to_string()))?;
        let wanted = "wanted is a private ed25519 key in PEM, as openssl genpkey -algorithm ed25519 writes it";
        Signer::from_pem(&pem).map_err(|what| told(format!("{what}; {wanted}")))
    });
    let signers: Vec<Signer> = signers.collect::<Result<_, String>>()?;
    let complaint = |what: &str| args.bundle.complaint(what);
    if signers.len() > envelope::MAX_SIGNATURES {
        return Err(format!("{} keys, an envelope has at most {} signatures", signers.len(), envelope::MAX_SIGNATURES));
    }
    let document = args.bundle.document()?;
    if document.is_signed {
        return Err(complaint("it is signed already; sign the bundle (tidegate policy show --json prints it)"));
    }
    input::tables(&document.bundle).map_err(|what| complaint(&what))?;
    if let Some(what) = input::expired(&document.bundle) {
        return Err(complaint(&what));
    }
    Ok(envelope::sign(&document.payload, &signers))
}
