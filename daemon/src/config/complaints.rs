//! What is said about names and values that are wrong: one line each, of bounded length, without control characters
//! and without passwords, for it goes to logs and to the broker.

use tidegate_values::{
    excerpt::{excerpt, shorten},
    suggest::nearest,
};

use super::{
    error::{ConfigError, Problem},
    keys::{self, Key, Refused},
};

/// A value that its key does not accept.
pub(super) fn not_accepted(layer: String, key: &Key, found: &str, Refused(reason): Refused) -> ConfigError {
    let found = if key.is_secret() { "what is not shown here".to_owned() } else { excerpt(found) };
    let problem = Problem::NotAccepted {
        found,
        accepted: key.accepted.to_owned(),
        reason: reason.map(|reason| excerpt(&reason)),
    };
    ConfigError::with_key(layer, key.name, problem)
}

/// Something else that stands where the keys of a section belong.
pub(super) fn not_a_section(layer: String, name: &str, found: &str) -> ConfigError {
    let problem = Problem::NotAccepted {
        found: excerpt(found),
        accepted: format!("a section: [{name}] and its keys below"),
        reason: None,
    };
    ConfigError::with_key(layer, name, problem)
}

pub(super) fn unknown_section(layer: String, name: &str) -> ConfigError {
    let sections = keys::sections();
    let problem = Problem::UnknownSection {
        suggestion: nearest(name, sections.iter().copied()).map(|section| format!("[{section}]")),
        accepted: sections.iter().map(|section| format!("[{section}]")).collect::<Vec<_>>().join(" "),
    };
    ConfigError { layer, section: name.to_owned(), key: String::new(), problem }
}

pub(super) fn unknown_key(layer: String, section: &str, key: &str) -> ConfigError {
    let names = || keys::KEYS.iter().map(Key::split);
    let siblings: Vec<&str> = names().filter(|(of, _)| *of == section).map(|(_, key)| key).collect();
    let elsewhere = || names().find(|(_, name)| *name == key).map(|(section, key)| format!("{key} in [{section}]"));
    let problem = Problem::UnknownKey {
        suggestion: nearest(key, siblings.iter().copied()).map(ToOwned::to_owned).or_else(elsewhere),
        accepted: if siblings.is_empty() { "none outside of sections".to_owned() } else { siblings.join(", ") },
    };
    ConfigError { layer, section: section.to_owned(), key: key.to_owned(), problem }
}

/// Whether `name` is a section, or one above sections.
pub(super) fn is_section(sections: &[&str], name: &str) -> bool {
    sections
        .iter()
        .any(|section| *section == name || section.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// The dotted path of a member of `section`, as [`printable`] has it.
pub(super) fn join(section: &str, key: &str) -> String {
    let key = printable(key);
    if section.is_empty() { key } else { format!("{section}.{key}") }
}

/// A key as it stands in messages. One that had to be quoted stays so: a dot in it makes no path.
pub(super) fn printable(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if bare { shorten(key) } else { format!("\"{}\"", shorten(key)) }
}
