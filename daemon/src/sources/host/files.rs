//! Reads the small text files of /proc and /sys, in bounded memory.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::order::sort;

/// Most that is read of one file. The longest that is of interest, /proc/net/dev with 256 interfaces, has 32 KiB.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Files below a root, read into one buffer that is used again.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    buffer: Vec<u8>,
}

impl Files {
    /// `/`, or a folder with captured files.
    pub(super) fn below(root: &Path) -> Self {
        Self { root: root.to_owned(), buffer: Vec::with_capacity(4 << 10) }
    }

    /// The text of a file, `path` without the first slash. A file over the bound is cut behind its last whole line.
    pub(super) fn read(&mut self, path: impl AsRef<Path>) -> io::Result<&str> {
        self.buffer.clear();
        File::open(self.root.join(path))?.take(MAX_FILE_BYTES).read_to_end(&mut self.buffer)?;
        if self.buffer.len() as u64 == MAX_FILE_BYTES {
            let end = self.buffer.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
            self.buffer.truncate(end);
        }
        if str::from_utf8(&self.buffer).is_err() {
            // Names of interfaces may hold any byte; one odd name must not hide all others.
            self.buffer.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
        }
        str::from_utf8(&self.buffer).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// A file with one number.
    pub(super) fn number<T: std::str::FromStr>(&mut self, path: impl AsRef<Path>) -> Option<T> {
        self.read(path).ok()?.trim().parse().ok()
    }

    /// A file with one word or line.
    pub(super) fn line(&mut self, path: impl AsRef<Path>) -> Option<String> {
        let line = self.read(path).ok()?.lines().next()?.trim();
        (!line.is_empty()).then(|| line.to_owned())
    }

    /// The names in a folder, sorted, at most `most` of them.
    pub(super) fn names(&self, folder: impl AsRef<Path>, most: usize) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = self
            .root
            .join(folder)
            .read_dir()?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .take(most)
            .collect();
        sort(&mut names);
        Ok(names)
    }

    /// Whether there is something of that name.
    pub(super) fn has(&self, path: impl AsRef<Path>) -> bool {
        self.root.join(path).exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_over_the_bound_is_cut_behind_a_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("long"), "0123456789\n".repeat(10_000)).unwrap();
        std::fs::write(folder.path().join("odd"), b"a\xff b\n").unwrap();
        let mut files = Files::below(folder.path());
        assert_eq!(files.read("odd").unwrap(), "a? b\n");
        let text = files.read("long").unwrap();
        assert!(text.len() < 65_536 && text.lines().all(|line| line == "0123456789"));
        assert_eq!(files.number::<u64>("absent"), None);
    }
}
