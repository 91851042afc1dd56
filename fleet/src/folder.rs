//! The folder that says what every gateway should be.
//!
//! ```text
//! DIR/groups/NAME.toml     for all members of group NAME
//! DIR/gateways/ID.toml     for gateway ID, over what its groups say
//! ```
//!
//! Each file has the sections of `tidegate.toml`. Files whose names begin with a dot, and those that end in `.md`, are
//! notes. Anything else in the two folders is a fault: a file that is called `plant.tml` by a slip would otherwise
//! read as "the group plant is to have no configuration".
//!
//! Everything is judged before anything is published, and all faults are told at once.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use tidegate::config::{ConfigError, MAX_FILE_BYTES, Remote};
use toml::de::{DeTable, DeValue};

use crate::{
    document::Content,
    target::{Target, is_identifier},
};

/// Most files that are read: twice the largest fleet that is meant to have one broker.
const MAX_FILES: usize = 200_000;
/// Syntax errors told of one file: whoever meets more mends these first.
const MAX_SYNTAX_ERRORS: usize = 8;

/// Why a folder cannot be used. All of them are mended in the folder.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The system refused to give a file or folder.
    #[error("{path}: cannot be read: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither subfolder is there: a mistyped name must not withdraw the configuration of a fleet.
    #[error("{path}: holds neither groups/ nor gateways/; name the folder that does, or make one of them")]
    NoFleet {
        /// The folder that was named.
        path: PathBuf,
    },
    /// Something in a subfolder that is no document.
    #[error("{path}: {found}; wanted are files called {wanted}.toml, notes called *.md and hidden files")]
    Misplaced {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        found: &'static str,
        /// What a file's name stands for.
        wanted: &'static str,
    },
    /// More files than are read.
    #[error("{path}: holds over {MAX_FILES} files, the most that is read")]
    TooMany {
        /// The subfolder.
        path: PathBuf,
    },
    /// A file that is no TOML, or larger than any configuration.
    #[error("{place}: {found}")]
    Text {
        /// File, with the line where there is one.
        place: String,
        /// What was found.
        found: String,
    },
    /// Settings that a gateway would refuse.
    #[error(transparent)]
    Setting(#[from] ConfigError),
}

/// What every target should be; what is not in it is to be nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Folder {
    documents: BTreeMap<Target, Content>,
}

impl Folder {
    /// Reads and judges all files below `path`.
    ///
    /// # Errors
    ///
    /// All faults, in the order of the files; at least one.
    pub fn read(path: &Path) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut documents = BTreeMap::new();
        let mut there = false;
        for (name, wanted) in [("groups", "NAME"), ("gateways", "ID")] {
            let folder = path.join(name);
            let files = match files(&folder, wanted, &mut faults) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                files => files,
            };
            there = true;
            match files {
                Ok(files) => {
                    for (stem, file) in files {
                        let target =
                            if name == "groups" { Target::Group(stem.into()) } else { Target::Gateway(stem.into()) };
                        documents.extend(content(path, &file, &mut faults).map(|content| (target, content)));
                    }
                }
                Err(source) => faults.push(Fault::Unreadable { path: folder, source }),
            }
        }
        if !there {
            faults.push(Fault::NoFleet { path: path.to_owned() });
        }
        if faults.is_empty() { Ok(Self { documents }) } else { Err(faults) }
    }

    /// What a target should be.
    #[must_use]
    pub fn get(&self, target: &Target) -> Option<&Content> {
        self.documents.get(target)
    }

    /// All targets that should be something, groups first.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.documents.keys()
    }
}

impl FromIterator<(Target, Content)> for Folder {
    fn from_iter<I: IntoIterator<Item = (Target, Content)>>(documents: I) -> Self {
        Self { documents: documents.into_iter().collect() }
    }
}

/// The documents of a subfolder by what they are called, in the order of their names.
fn files(folder: &Path, wanted: &'static str, faults: &mut Vec<Fault>) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if name.as_encoded_bytes().starts_with(b".") || name.as_encoded_bytes().ends_with(b".md") {
            continue;
        }
        if files.len() == MAX_FILES {
            faults.push(Fault::TooMany { path: folder.to_owned() });
            break;
        }
        let found = match name.to_str().and_then(|name| name.strip_suffix(".toml")) {
            None => "is not called *.toml",
            Some(stem) if !is_identifier(stem) => "is not named by 1 to 64 of A-Z a-z 0-9 _ . -",
            Some(_) if !path.is_file() => "is not a file",
            Some(stem) => {
                files.insert(stem.to_owned(), path);
                continue;
            }
        };
        faults.push(Fault::Misplaced { path, found, wanted });
    }
    Ok(files)
}

/// What a file says, where nothing is wrong with it. Faults name it relative to the `root` that the user gave.
fn content(root: &Path, path: &Path, faults: &mut Vec<Fault>) -> Option<Content> {
    let shown = path.strip_prefix(root).unwrap_or(path).display().to_string();
    let before = faults.len();
    let text = match text(path) {
        Ok(Ok(text)) => text,
        Ok(Err(found)) => {
            faults.push(Fault::Text { place: shown, found });
            return None;
        }
        Err(source) => {
            faults.push(Fault::Unreadable { path: path.to_owned(), source });
            return None;
        }
    };
    let place = |offset: usize| {
        let line = text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
        format!("{shown}:{line}")
    };
    let (table, wrong) = DeTable::parse_recoverable(&text);
    faults.extend(wrong.into_iter().take(MAX_SYNTAX_ERRORS).map(|error| Fault::Text {
        place: place(error.span().map_or(0, |span| span.start)),
        found: format!("is not TOML: {}", error.message().replace('\n', ", ")),
    }));
    if faults.len() > before {
        return None;
    }
    let mut offsets = BTreeMap::new();
    let mut unusable = Vec::new();
    let config = object(table.get_ref(), "", &mut offsets, &mut unusable);
    faults.extend(unusable.into_iter().map(|(offset, found)| Fault::Text { place: place(offset), found }));
    let content = Content::new(&config);
    // Judged by the daemon's own table of keys. A gateway's daemon may be older than this program; what that one does
    // not know it refuses itself, and its report says so.
    let errors = Remote::read(&shown, content.as_json()).err().unwrap_or_default();
    faults.extend(errors.into_iter().map(|mut error| {
        let name = if error.section.is_empty() { &error.key } else { &format!("{}.{}", error.section, error.key) };
        let offset = offsets.get(name.trim_end_matches('.')).or_else(|| offsets.get(&error.section));
        if let Some(offset) = offset {
            error.layer = place(*offset);
        }
        Fault::Setting(error)
    }));
    (faults.len() == before).then_some(content)
}

/// The text of a file, never more than [`MAX_FILE_BYTES`] of it; `Err` inside says what it is instead.
fn text(path: &Path) -> io::Result<Result<String, String>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Ok(Err(format!("is over {MAX_FILE_BYTES} bytes; configuration files are a few kilobytes")));
    }
    Ok(String::from_utf8(bytes).map_err(|error| {
        format!("is not UTF-8 text (first wrong byte at offset {})", error.utf8_error().valid_up_to())
    }))
}

/// A table as JSON. `offsets` learns where each key stands, `unusable` what JSON cannot say.
fn object(
    table: &DeTable,
    prefix: &str,
    offsets: &mut BTreeMap<String, usize>,
    unusable: &mut Vec<(usize, String)>,
) -> Value {
    let mut members = Map::new();
    for (key, value) in table {
        let name = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        offsets.insert(name.clone(), key.span().start);
        let json = match value.get_ref() {
            DeValue::Table(table) => Some(object(table, &name, offsets, unusable)),
            value => scalar_or_list(value),
        };
        match json {
            Some(json) => {
                members.insert(key.get_ref().to_string(), json);
            }
            None => unusable.push((key.span().start, format!("{name}: no key accepts a date or such a number"))),
        }
    }
    Value::Object(members)
}

fn scalar_or_list(value: &DeValue) -> Option<Value> {
    match value {
        DeValue::String(text) => Some(Value::from(text.as_ref())),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(Value::from),
        DeValue::Float(number) => {
            number.as_str().parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::from)
        }
        DeValue::Boolean(flag) => Some(Value::from(*flag)),
        DeValue::Array(items) => items.iter().map(|item| scalar_or_list(item.get_ref())).collect(),
        DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn faults(files: &[(&str, &str)]) -> Vec<String> {
        let folder = folder(files);
        let faults = Folder::read(folder.path()).expect_err("it has faults");
        let prefix = format!("{}/", folder.path().display());
        faults.into_iter().map(|fault| fault.to_string().replace(&prefix, "")).collect()
    }

    #[test]
    fn files_become_documents_of_groups_and_gateways() {
        let folder = folder(&[
            ("groups/plant.toml", "[traffic]\nsample_rate = 10\ninterfaces = ['eth0']\n[host]\ninterval = \"10s\"\n"),
            ("groups/README.md", "notes"),
            ("groups/.plant.toml.swp", "an editor's"),
            ("gateways/gw-7.toml", "# nothing of its own\n"),
        ]);
        let read = Folder::read(folder.path()).unwrap();
        let plant = json!({"traffic": {"sample_rate": 10, "interfaces": ["eth0"]}, "host": {"interval": "10s"}});
        let expected = [
            (Target::Group("plant".into()), Content::new(&plant)),
            (Target::Gateway("gw-7".into()), Content::new(&json!({}))),
        ];
        assert_eq!(read, expected.into_iter().collect());
    }

    #[test]
    fn a_folder_that_is_none_of_a_fleet_is_refused() {
        let found = faults(&[("group/plant.toml", "")]);
        assert!(found.len() == 1 && found[0].contains("neither groups/ nor gateways/"), "{found:?}");
        let absent = Folder::read(Path::new("/nonexistent/fleet")).unwrap_err();
        assert!(matches!(absent[..], [Fault::NoFleet { .. }]), "{absent:?}");
    }

    #[test]
    fn a_slip_in_a_files_name_is_no_withdrawal() {
        let found = faults(&[
            ("groups/plant.tml", ""),
            ("groups/a b.toml", ""),
            ("gateways/site/gw-7.toml", ""),
            ("gateways/folder.toml/x", ""),
        ]);
        assert_eq!(found.len(), 4, "{found:?}");
        for name in [
            "groups/plant.tml: is not called *.toml",
            "groups/a b.toml",
            "gateways/site",
            "gateways/folder.toml: is not a file",
        ] {
            assert!(found.iter().any(|fault| fault.starts_with(name)), "{name}: {found:?}");
        }
    }

    #[test]
    fn every_fault_names_its_file_and_line() {
        let found = faults(&[
            ("groups/a.toml", "[traffic]\n\nsampel_rate = 10\n"),
            ("groups/b.toml", "[traffic\n"),
            ("groups/c.toml", "[host]\ninterval = 1979-05-27\n"),
            ("gateways/d.toml", "[nothing]\nx = 1\n"),
            ("gateways/e.toml", "[host]\ninterval = \"5m\"\n[mqtt]\nurl = \"mqtt://u:s3cret@h\"\n"),
            ("gateways/f.toml", "[log]\n\nfilter = \"trace\"\n"),
        ]);
        let starts = [
            "groups/a.toml:3: [traffic] sampel_rate: there is no such key",
            "groups/b.toml:1: is not TOML",
            "groups/c.toml:2: host.interval: no key accepts a date",
            "gateways/d.toml:1: [nothing]: there is no such section",
            "gateways/e.toml:4: [mqtt] url: can be set on the gateway only",
            "gateways/f.toml:3: [log] filter: ",
        ];
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for (fault, start) in found.iter().zip(starts) {
            assert!(fault.starts_with(start), "{fault}");
        }
    }

    #[test]
    fn a_file_that_is_no_text_or_too_large_is_refused() {
        let dir = folder(&[("groups/large.toml", &"#".repeat(1 << 21))]);
        fs::write(dir.path().join("groups/bytes.toml"), b"a = \"\xff\"").unwrap();
        let found = Folder::read(dir.path()).unwrap_err();
        assert!(found[0].to_string().contains("not UTF-8 text (first wrong byte at offset 5)"), "{found:?}");
        assert!(found[1].to_string().contains("is over 1048576 bytes"), "{found:?}");
    }
}
