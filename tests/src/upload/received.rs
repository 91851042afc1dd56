//! What a server received, and whether it is what was sent.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A complete upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// tus: `filename` of the metadata, or `name`, or the id. PUT: the path below the server's root.
    pub name: String,
    /// The last part of its URL.
    pub id: String,
    /// tus: `Upload-Metadata`, decoded; a key without a value has an empty one. PUT: the request's headers, with names in
    /// lower case, of those that the server notes.
    pub metadata: BTreeMap<String, String>,
    /// Where the bytes lie, as they were sent.
    pub path: PathBuf,
    /// How many they are.
    pub size: u64,
}

/// How bytes were made smaller on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// zstd(1).
    Zstd,
    /// gzip(1).
    Gzip,
}

impl Encoding {
    /// By its name in HTTP.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "" | "identity" => Some(Self::Identity),
            "zstd" => Some(Self::Zstd),
            "gzip" => Some(Self::Gzip),
            _ => None,
        }
    }

    /// The program that undoes it.
    fn decoder(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Identity => None,
            Self::Zstd => Some(["zstd", "-dcq"]),
            Self::Gzip => Some(["gunzip", "-c"]),
        }
    }
}

/// Where a sender says how it encoded: the header of a PUT, the metadata of a tus upload.
const SAID_IN: [&str; 2] = ["content-encoding", "encoding"];

impl Received {
    pub(super) fn by_tus(id: String, metadata: BTreeMap<String, String>, path: PathBuf, size: u64) -> Self {
        let name = ["filename", "name"].iter().find_map(|key| metadata.get(*key)).unwrap_or(&id).clone();
        Self { name, id, metadata, path, size }
    }

    /// How it is encoded, by what the sender says.
    ///
    /// # Panics
    ///
    /// Where that is unknown here.
    #[must_use]
    #[track_caller]
    pub fn encoding(&self) -> Encoding {
        let said = SAID_IN.iter().find_map(|key| self.metadata.get(*key)).map_or("", String::as_str);
        Encoding::named(said).unwrap_or_else(|| panic!("{} is encoded as {said:?}", self.name))
    }

    /// SHA-256, in hexadecimal, of the content: after the real zstd or gunzip undid the encoding.
    ///
    /// # Panics
    ///
    /// Where the bytes are not in the encoding that the sender says.
    #[must_use]
    #[track_caller]
    pub fn content_sha256(&self) -> String {
        self.content_sha256_of(self.encoding())
    }

    /// The same, whatever the sender says of the encoding.
    ///
    /// # Panics
    ///
    /// As [`Self::content_sha256`].
    #[must_use]
    #[track_caller]
    pub fn content_sha256_of(&self, encoding: Encoding) -> String {
        let Some([program, argument]) = encoding.decoder() else { return sha256(&self.path) };
        let mut decoder = Command::new(program)
            .arg(argument)
            .stdin(open(&self.path))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("run {program}: {error}"));
        let content = decoder.stdout.take().expect("standard output was asked for");
        let hash = sha256sum(content.into());
        let status = decoder.wait().expect("a child can be waited for");
        assert!(
            status.success(),
            "{} is not as its encoding {encoding:?} says: {program}: {status}",
            self.path.display()
        );
        hash
    }
}

/// SHA-256 of a file, in hexadecimal, by sha256sum(1).
///
/// # Panics
///
/// Where it cannot be read.
#[must_use]
#[track_caller]
pub fn sha256(path: &Path) -> String {
    sha256sum(open(path).into())
}

#[track_caller]
fn sha256sum(input: Stdio) -> String {
    let output =
        Command::new("sha256sum").stdin(input).output().unwrap_or_else(|error| panic!("run sha256sum: {error}"));
    assert!(output.status.success(), "sha256sum: {}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    said.split_whitespace().next().expect("sha256sum writes the hash first").to_owned()
}

#[track_caller]
fn open(path: &Path) -> File {
    File::open(path).unwrap_or_else(|error| panic!("open {}: {error}", path.display()))
}
