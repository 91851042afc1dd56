//! `tidegate.toml(5)`, from the table of keys.

use clap_mangen::roff::{Roff, bold, italic, roman};
use tidegate::config::{DEFAULT_PATH, Effect, KEYS, Reach, VARIABLE_PREFIX};

/// The page.
pub(crate) fn page(date: &str) -> String {
    let version = concat!("tidegate ", env!("CARGO_PKG_VERSION"));
    let mut page = Roff::new();
    page.control("TH", ["tidegate.toml", "5", date, version, "tidegate"]);
    page.control("SH", ["NAME"]);
    page.text([roman("tidegate.toml - configuration of the edge gateway daemon tidegate")]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([italic(DEFAULT_PATH)]);
    page.control("br", []);
    page.text([italic("/etc/tidegate/conf.d/*.toml")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([
        roman("The files are TOML. Those in "),
        italic("conf.d"),
        roman(" are read after the main file, in the order of their names, and variables of the environment, such as "),
        bold(format!("{VARIABLE_PREFIX}MQTT__URL")),
        roman(", after those; remote configuration comes on top, but for local keys. The last one wins. A key that stands "),
        roman("nowhere has its default. "),
        bold("tidegate config show --origin"),
        roman(" says what came from where."),
    ]);
    page.control("PP", []);
    page.text([
        bold("tidegate check-config"),
        roman(" says what is wrong with them, all at once; "),
        bold("systemctl reload tidegate"),
        roman(" makes the running daemon take over what needs no restart."),
    ]);
    let mut section = "";
    for key in KEYS {
        let (of, name) = key.split();
        if of != section {
            section = of;
            page.control("SH", [format!("SECTION [{section}]").as_str()]);
        }
        page.control("TP", []);
        page.text([bold(name)]);
        page.text([roman(key.about)]);
        page.control("IP", []);
        page.text([roman(format!("Accepted: {}.", key.accepted))]);
        page.control("br", []);
        page.text([roman(format!("Default: {}", key.default))]);
        if key.effect == Effect::Restart {
            page.control("br", []);
            page.text([roman("A change needs a restart.")]);
        }
        if let Reach::Local(_) = key.reach {
            page.control("br", []);
            page.text([roman("Local: no remote configuration sets it.")]);
        }
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("tidegate"),
        roman("(1), "),
        bold("tidegate-check-config"),
        roman("(1), "),
        bold("tidegate-config-show"),
        roman("(1)"),
    ]);
    page.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_place() {
        let page = page("2026-01-31");
        for key in KEYS {
            let (_, name) = key.split();
            assert!(page.contains(&format!("\\fB{}\\fR", name.replace('-', "\\-"))), "{name}");
        }
        assert!(page.contains(".SH \"SECTION [mqtt]\"\n"), "{page}");
    }
}
