//! `tidegate check-config`: is the configuration right, and what is in force?

use std::process::ExitCode;

use serde_json::json;

use super::{CONFIG, ConfigArg, print, table::Table};
use crate::{
    config::{ConfigError, Environment, KEYS, Loaded},
    gather::Gather as _,
};

/// Check the configuration and show what is in force: every key, its value and the layer that decides it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Only the exit status, and errors
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match args.config.file().load(&Environment::of_process()) {
        Ok(_) if args.quiet => ExitCode::SUCCESS,
        Ok(loaded) => {
            let text = if args.json { format!("{}\n", as_json(&loaded)) } else { as_table(&loaded) };
            print(&text).err().unwrap_or(ExitCode::SUCCESS)
        }
        Err(errors) if args.json => {
            let errors: Vec<_> = errors.iter().map(error_as_json).collect();
            let text = format!("{}\n", json!({ "ok": false, "errors": errors }));
            print(&text).err().unwrap_or(ExitCode::from(CONFIG))
        }
        Err(errors) => report(&errors),
    }
}

/// Prints what is wrong, each error on a line of its own.
pub(super) fn report(errors: &[ConfigError]) -> ExitCode {
    for error in errors {
        eprintln!("error: {}", super::table::printable(&error.to_string()));
    }
    ExitCode::from(CONFIG)
}

fn as_table(loaded: &Loaded) -> String {
    let mut table = Table::new(["KEY", "VALUE", "FROM"]);
    for key in KEYS {
        table.row([key.name.to_owned(), key.get(&loaded.config).to_string(), loaded.origin(key).to_owned()]);
    }
    table.render("")
}

fn as_json(loaded: &Loaded) -> serde_json::Value {
    let keys = KEYS.iter().map(|key| {
        let row = json!({ "value": key.get(&loaded.config), "from": loaded.origin(key), "takes_effect": key.effect });
        (key.name.to_owned(), row)
    });
    json!({ "ok": true, "keys": keys.gather::<serde_json::Map<_, _>>() })
}

fn error_as_json(error: &ConfigError) -> serde_json::Value {
    json!({
        "layer": error.layer,
        "section": error.section,
        "key": error.key,
        "problem": error.problem.to_string(),
    })
}
