//! A system error with the call and the file it came from.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::api::{OpenError, ReadError};

#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) call: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.call, self.path.display(), self.source)
    }
}

impl From<Fault> for OpenError {
    fn from(Fault { call, path, source }: Fault) -> Self {
        Self::Io { call, path, source }
    }
}

impl From<Fault> for ReadError {
    fn from(Fault { call, path, source }: Fault) -> Self {
        Self::Io { call, path, source }
    }
}

/// Names the call and the file of an [`io::Result`].
pub(crate) trait At<T> {
    fn at(self, call: &'static str, path: &Path) -> Result<T, Fault>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, call: &'static str, path: &Path) -> Result<T, Fault> {
        self.map_err(|source| Fault { call, path: path.to_owned(), source })
    }
}
