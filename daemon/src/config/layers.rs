//! One layer: the keys that a file, the environment or somebody afar sets, each with the place where it stands.
//!
//! A layer is read and judged by itself, before layers are put over each other: a value that a later layer
//! happens to hide is still wrong, and would come to light on the day that layer is removed.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use config::{ConfigError as LayerError, Map, Source, Value, ValueKind};
use tidegate_values::excerpt::shorten;
use toml::de::{DeTable, DeValue};

use super::{
    Config, MAX_FILE_BYTES, MAX_FILES, VARIABLE_PREFIX,
    complaints::{is_section, join, not_a_section, not_accepted, printable, unknown_key, unknown_section},
    error::{ConfigError, Problem},
    keys::{self, Key, Kind},
};
use crate::order::sort;

/// Syntax errors told of one file: whoever meets more mends these first.
const MAX_SYNTAX_ERRORS: usize = 8;

/// The valid keys of one layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Layer {
    values: BTreeMap<&'static str, Value>,
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    /// Names are dotted paths, which `config` takes apart again.
    fn collect(&self) -> Result<Map<String, Value>, LayerError> {
        Ok(self.values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }
}

impl Layer {
    /// Reads a TOML file; `None` where it is absent. What is wrong with it goes to `errors`.
    pub(super) fn of_file(path: &Path, errors: &mut Vec<ConfigError>) -> Option<Self> {
        match read(path) {
            Ok(text) => Some(Self::of_text(path, &text, errors)),
            Err(Problem::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(problem) => {
                errors.push(ConfigError::with_layer(path.display().to_string(), problem));
                None
            }
        }
    }

    fn of_text(path: &Path, text: &str, errors: &mut Vec<ConfigError>) -> Self {
        let file = FileText { path, text };
        let mut layer = Self::default();
        let (table, wrong) = DeTable::parse_recoverable(text);
        if wrong.is_empty() {
            layer.take_table(&file, "", table.get_ref(), errors);
        } else {
            // What can be saved of such a file would bring errors that are none.
            errors.extend(wrong.into_iter().take(MAX_SYNTAX_ERRORS).map(|error| {
                let place = file.place(error.span().map_or(0, |span| span.start));
                ConfigError::with_layer(place, Problem::Syntax(error.message().replace('\n', ", ")))
            }));
        }
        layer
    }

    fn take_table(&mut self, file: &FileText, section: &str, table: &DeTable, errors: &mut Vec<ConfigError>) {
        let sections = keys::sections();
        for (key, value) in table {
            let name = join(section, key.get_ref());
            let place = file.place(key.span().start);
            let found = || file.text.get(value.span()).unwrap_or_default();
            match (value.get_ref(), keys::find(&name)) {
                (value, Some(key)) => self.take(key, Value::new(Some(&place), kind_of(&place, value)), found(), errors),
                (DeValue::Table(table), None) if is_section(&sections, &name) => {
                    self.take_table(file, &name, table, errors);
                }
                (_, None) if is_section(&sections, &name) => errors.push(not_a_section(place, &name, found())),
                (DeValue::Table(_), None) => errors.push(unknown_section(place, &name)),
                (_, None) => errors.push(unknown_key(place, section, &printable(key.get_ref()))),
            }
        }
    }

    /// Reads the variables whose names begin with [`VARIABLE_PREFIX`].
    pub(super) fn of_environment(variables: &BTreeMap<OsString, OsString>, errors: &mut Vec<ConfigError>) -> Self {
        let mut layer = Self::default();
        for (variable, value) in variables {
            let Some(path) = variable.to_str().and_then(|variable| variable.strip_prefix(VARIABLE_PREFIX)) else {
                continue;
            };
            let place = variable.to_string_lossy().into_owned();
            let name = path.to_lowercase().replace("__", ".");
            let Some(key) = keys::find(&name) else {
                let (section, key) = name.rsplit_once('.').unwrap_or(("", &name));
                if keys::sections().contains(&section) {
                    errors.push(unknown_key(place, section, &shorten(key)));
                } else {
                    errors.push(unknown_section(place, &shorten(if section.is_empty() { key } else { section })));
                }
                continue;
            };
            let found = value.to_string_lossy();
            let kind = value.to_str().map_or(ValueKind::Nil, |text| kind_of_text(&place, key.kind, text));
            layer.take(key, Value::new(Some(&place), kind), &found, errors);
        }
        layer
    }

    /// The value that it has for a key.
    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.values.get(key.name)
    }

    /// Keeps the value where it is accepted.
    pub(super) fn take(&mut self, key: &'static Key, value: Value, found: &str, errors: &mut Vec<ConfigError>) {
        match (key.set)(&mut Config::defaults("judge"), &value) {
            Ok(()) => {
                self.values.insert(key.name, value);
            }
            Err(refused) => {
                errors.push(not_accepted(value.origin().unwrap_or_default().to_owned(), key, found, refused));
            }
        }
    }
}

/// The files of `conf.d`, in the order of their names; none where the folder is absent.
pub(super) fn fragments(folder: &Path, errors: &mut Vec<ConfigError>) -> Vec<PathBuf> {
    let list = || -> Result<Vec<PathBuf>, Problem> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(Problem::Unreadable)? {
            let path = entry.map_err(Problem::Unreadable)?.path();
            let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            if !hidden && path.extension() == Some(OsStr::new("toml")) {
                files.push(path);
            }
        }
        if files.len() > MAX_FILES {
            return Err(Problem::TooManyFiles { found: files.len(), limit: MAX_FILES });
        }
        sort(&mut files);
        Ok(files)
    };
    match list() {
        Ok(files) => files,
        Err(Problem::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(problem) => {
            errors.push(ConfigError::with_layer(folder.display().to_string(), problem));
            Vec::new()
        }
    }
}

/// The text of a file, never more than [`MAX_FILE_BYTES`] of it, and without waiting for the other end of a pipe.
fn read(path: &Path) -> Result<String, Problem> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(Problem::Unreadable)?;
    if !file.metadata().map_err(Problem::Unreadable)?.is_file() {
        return Err(Problem::NotAFile);
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(Problem::Unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Problem::FileTooLarge { limit_bytes: MAX_FILE_BYTES });
    }
    String::from_utf8(bytes).map_err(|error| Problem::NotUtf8 { offset: error.utf8_error().valid_up_to() })
}

struct FileText<'a> {
    path: &'a Path,
    text: &'a str,
}

impl FileText<'_> {
    /// `PATH:LINE` of a byte offset.
    fn place(&self, offset: usize) -> String {
        let line = self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
        format!("{}:{line}", self.path.display())
    }
}

/// A value of the file as `config` holds it. What no key accepts (dates, numbers beyond 64 bits, nested lists)
/// becomes nil, and is refused as the text it was.
fn kind_of(place: &String, value: &DeValue) -> ValueKind {
    match value {
        DeValue::String(text) => ValueKind::String(text.clone().into_owned()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(ValueKind::Nil, ValueKind::I64)
        }
        DeValue::Boolean(flag) => ValueKind::Boolean(*flag),
        DeValue::Array(items) => ValueKind::Array(
            items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::Array(_) => Value::new(Some(place), ValueKind::Nil),
                    item => Value::new(Some(place), kind_of(place, item)),
                })
                .collect(),
        ),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => ValueKind::Nil,
    }
}

/// A variable's text as a value of the key's kind; text that is none stays text, and is refused as such.
fn kind_of_text(place: &String, kind: Kind, text: &str) -> ValueKind {
    let as_text = || ValueKind::String(text.to_owned());
    match kind {
        Kind::Text => as_text(),
        Kind::Integer | Kind::IntegerOrText => text.trim().parse().map_or_else(|_| as_text(), ValueKind::I64),
        Kind::Boolean => text.trim().parse().map_or_else(|_| as_text(), ValueKind::Boolean),
        Kind::List => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            ValueKind::Array(items.map(|item| Value::new(Some(place), item)).collect())
        }
    }
}
