//! `tidegate provision`: takes a `provision.toml` in.

use std::{path::PathBuf, process::ExitCode};

use serde_json::json;

use super::{CONFIG, ConfigArg, table::printable};
use crate::{
    config::Environment,
    provision::{Outcome, take_in},
};

/// Take in a provision.toml: broker, certificates and name of this gateway, from one file.
///
/// The service does this at each start, so a file put into /etc/tidegate/ or onto the boot partition is all that a new
/// gateway needs. A good file replaces all that was provisioned before, and is removed, with the private key that it
/// names. A bad one changes nothing: it is renamed to provision.toml.refused, with the reasons on top.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
A provision.toml:
  url = \"mqtts://broker.example:8883\"   the broker; all else may be left out
  ca = \"ca.pem\"                         authorities to trust: PEM text, or a file beside this one
  cert = \"gw-7.pem\"                     the gateway's certificate, and its private key
  key = \"gw-7.key\"
  gateway_id = \"gw-7\"
  groups = [\"plant\"]
  policy_keys = [\"ed25519:BASE64\"]      whose policies count

It becomes a layer of the configuration, below /etc/tidegate/tidegate.toml, which wins. A running daemon takes it over
when it is restarted: systemctl restart tidegate.

Exit status: 0 taken in, or nothing to take in; 78 refused; 1 cannot be read, or not be kept.")]
pub(super) struct Args {
    /// The file [default: those of /etc/tidegate, /boot/firmware, /boot and /efi, the first counts most]
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
    /// One JSON object with all outcomes instead of text
    #[arg(long)]
    json: bool,
    /// Silent where there is nothing to take in
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let files = args.file.clone().map_or_else(|| args.config.provision_files(), |file| vec![file]);
    let missing = args.file.as_ref().filter(|file| !file.exists());
    let outcomes = take_in(&files, &Environment::of_process().state_dir());
    if args.json {
        println!("{}", json!({ "ok": outcomes.iter().all(is_well) && missing.is_none(), "files": outcomes }));
    } else {
        outcomes.iter().for_each(print);
    }
    if let Some(file) = missing {
        eprintln!("error: {}: there is no such file", printable(&file.to_string_lossy()));
        return ExitCode::FAILURE;
    }
    if outcomes.is_empty() && !args.quiet && !args.json {
        let places: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        println!("nothing to take in: there is no {}", places.join(", no "));
    }
    if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Failed { .. })) {
        ExitCode::FAILURE
    } else if outcomes.iter().all(is_well) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(CONFIG)
    }
}

/// [`run`] at the daemon's start, for whoever runs it without the unit, which does so with more rights. Nothing of it
/// keeps the daemon from running.
pub(super) fn at_start(config: &ConfigArg) {
    let outcomes = take_in(&config.provision_files(), &Environment::of_process().state_dir());
    // What the unit's user may not read was dealt with before, and a state that is not there yet was never written.
    let is_news =
        |outcome: &&Outcome| !matches!(outcome, Outcome::Failed { forbidden: true, .. } | Outcome::Known { .. });
    outcomes.iter().filter(is_news).for_each(print);
}

const fn is_well(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Provisioned { .. } | Outcome::Known { .. })
}

fn print(outcome: &Outcome) {
    let stays = |remains: &Option<String>| {
        remains.as_ref().map(|why| format!("; it could not be removed ({why}), and is not taken in again"))
    };
    match outcome {
        Outcome::Provisioned { file, url, gateway_id, remains } => {
            let id = gateway_id.as_ref().map(|id| format!("gateway {id}, ")).unwrap_or_default();
            println!(
                "{}: taken in: {id}broker {url}; it holds from the daemon's next start on{}",
                file.display(),
                stays(remains).unwrap_or_default()
            );
        }
        Outcome::Known { file, remains } => {
            println!("{}: dealt with before{}", file.display(), stays(remains).unwrap_or_default());
        }
        Outcome::Refused { file, reasons, kept_as, remains } => {
            for reason in reasons {
                eprintln!("error: {}: {}", file.display(), printable(reason));
            }
            match (kept_as, remains) {
                (Some(kept_as), _) => eprintln!("it is {} now; nothing else has changed", kept_as.display()),
                (None, remains) => {
                    eprintln!("it could not be renamed ({})", remains.as_deref().unwrap_or("no reason given"));
                }
            }
        }
        Outcome::Failed { file, reason, .. } => eprintln!("error: {}: {reason}", file.display()),
    }
}
