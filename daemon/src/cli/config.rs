//! `tidegate config show`: what is in force, and which layer decides it.

use std::{collections::BTreeMap, process::ExitCode};

use serde_json::json;

use super::{ConfigArg, check_config, client::SocketArg, table::Table};
use crate::{
    config::{Environment, KEYS, Shown, ShownKey},
    control_socket::Get,
    gather::Gather as _,
    order::sort_by_key,
};

/// Show the configuration that runs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Show(Show),
}

/// Show every key, its value and, with --origin, the layer that decides it.
///
/// The running daemon is asked, so remote configuration is included. Where none runs, the local layers are read: the
/// files and this command's environment.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Layers: default, what was provisioned, tidegate.toml, conf.d/*.toml, TIDEGATE__SECTION__KEY from
the environment, remote configuration of the groups, then of the device; the last one wins.

Examples:
  tidegate config show --origin                everything, and where it comes from
  tidegate config show traffic host.interval   one section and one key
  tidegate config show --local --origin        what the files say now, read or not
  tidegate config show --json | jq '.keys[\"host.interval\"].from'

Exit status: 0 shown, 1 the daemon cannot be asked, 2 usage, 78 the local layers are wrong.")]
struct Show {
    /// Only these: a key (host.interval) or a section (traffic)
    #[arg(value_name = "KEY", value_parser = key_or_section)]
    keys: Vec<String>,
    /// Also where each value comes from: default, a file with its line, a variable or a remote document
    #[arg(long)]
    origin: bool,
    /// One JSON object; origins are always in it
    #[arg(long)]
    json: bool,
    /// What the local layers say now, without asking the daemon; --config FILE does so with that file
    #[arg(long, conflicts_with = "socket")]
    local: bool,
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    socket: SocketArg,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let What::Show(args) = &args.what;
    match show(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

fn show(args: &Show) -> Result<(), ExitCode> {
    let (source, shown) = if args.local || args.config.config.is_some() { local(args)? } else { ask(args)? };
    let keys = Keys { wanted: &args.keys, shown };
    let text = if args.json { keys.as_json(source) } else { keys.as_table(args.origin) };
    super::print(&text)
}

/// Whom the answer is from, as it stands in JSON.
type From = &'static str;

fn ask(args: &Show) -> Result<(From, Shown), ExitCode> {
    match args.socket.ask_one(Get::Config) {
        Ok(shown) => Ok(("daemon", shown)),
        Err(error) if error.is_not_running() => {
            eprintln!("{error}; this is what the local layers say");
            local(args)
        }
        Err(error) => Err(error.report()),
    }
}

fn local(args: &Show) -> Result<(From, Shown), ExitCode> {
    let loaded = args.config.file().load(&Environment::of_process()).map_err(|errors| check_config::report(&errors))?;
    Ok(("local", Shown::new(&loaded, &loaded.config)))
}

struct Keys<'a> {
    wanted: &'a [String],
    shown: Shown,
}

impl Keys<'_> {
    /// Those that are wanted, in the order of [`KEYS`]; then those that only a younger daemon knows.
    fn iter(&self) -> impl Iterator<Item = (&String, &ShownKey)> {
        let place = |name: &str| KEYS.iter().position(|key| key.name == name).unwrap_or(KEYS.len());
        let wanted = |name: &str| self.wanted.is_empty() || self.wanted.iter().any(|wanted| is_within(name, wanted));
        let mut keys: Vec<_> = self.shown.keys.iter().filter(|(name, _)| wanted(name)).collect();
        sort_by_key(&mut keys, |(name, _)| place(name));
        keys.into_iter()
    }

    fn as_json(&self, source: From) -> String {
        let keys: BTreeMap<_, _> = self.iter().gather();
        format!("{}\n", json!({ "source": source, "keys": keys }))
    }

    fn as_table(&self, origin: bool) -> String {
        let value = |key: &ShownKey| match &key.next_start {
            Some(next) => format!("{} (with the next start: {next})", key.value),
            None => key.value.to_string(),
        };
        if origin {
            let mut table = Table::new(["KEY", "VALUE", "FROM"]);
            self.iter().for_each(|(name, key)| table.row([name.clone(), value(key), key.from.clone()]));
            table.render("")
        } else {
            let mut table = Table::new(["KEY", "VALUE"]);
            self.iter().for_each(|(name, key)| table.row([name.clone(), value(key)]));
            table.render("")
        }
    }
}

/// Whether a key is the one that is wanted, or in the section that is.
fn is_within(name: &str, wanted: &str) -> bool {
    name.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn key_or_section(text: &str) -> Result<String, String> {
    if KEYS.iter().any(|key| is_within(key.name, text)) {
        return Ok(text.to_owned());
    }
    let mut sections: Vec<_> = KEYS.iter().map(|key| key.split().0).collect();
    sections.dedup();
    Err(format!("there is no such key and no such section; sections are {}", sections.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Effect;

    fn keys(wanted: &[String]) -> Keys<'_> {
        let key = |value, next_start, from: &str| ShownKey {
            value,
            next_start,
            from: from.to_owned(),
            takes_effect: Effect::Live,
        };
        let shown = [
            ("future.key", key(json!("x"), None, "default")),
            ("log.filter", key(json!("warn"), None, "remote device v7")),
            ("spool.direct", key(json!(false), Some(json!(true)), "/etc/tidegate/tidegate.toml:3")),
            ("spool.shares.event", key(json!(10), None, "default")),
        ];
        Keys { wanted, shown: Shown { keys: shown.map(|(name, key)| (name.to_owned(), key)).into() } }
    }

    #[test]
    fn keys_stand_in_the_order_of_the_files_with_their_origin() {
        let expected = "\
KEY                 VALUE                              FROM
spool.direct        false (with the next start: true)  /etc/tidegate/tidegate.toml:3
spool.shares.event  10                                 default
log.filter          \"warn\"                             remote device v7
future.key          \"x\"                                default
";
        assert_eq!(keys(&[]).as_table(true), expected);
        assert!(!keys(&[]).as_table(false).contains("tidegate.toml"));
    }

    #[test]
    fn a_section_holds_its_keys_and_those_of_the_sections_below() {
        let names = |wanted: &[&str]| {
            let wanted: Vec<_> = wanted.iter().map(|wanted| key_or_section(wanted).unwrap()).collect();
            keys(&wanted).iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&["spool"]), ["spool.direct", "spool.shares.event"]);
        assert_eq!(names(&["spool.shares", "log.filter"]), ["spool.shares.event", "log.filter"]);
        assert!(key_or_section("spoo").is_err() && key_or_section("").is_err() && key_or_section("log.").is_err());
    }

    #[test]
    fn json_says_who_answered() {
        let wanted = ["log.filter".to_owned()];
        let answer: serde_json::Value = serde_json::from_str(&keys(&wanted).as_json("daemon")).unwrap();
        let key = json!({ "value": "warn", "from": "remote device v7", "takes_effect": "live" });
        assert_eq!(answer, json!({ "source": "daemon", "keys": { "log.filter": key } }));
    }
}
