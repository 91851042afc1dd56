//! The digest of what the object is made of.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{Error, read};

/// What the compiler reads, folders with all that is in them.
const SOURCES: [&str; 5] =
    ["ebpf/abi/Cargo.toml", "ebpf/abi/src", "ebpf/probes/Cargo.toml", "ebpf/probes/Cargo.lock", "ebpf/probes/src"];

/// SHA-256 over path, length and content of each source, in the order of their paths.
pub(super) fn digest(root: &Path) -> Result<String, Error> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&root.join(source), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let bytes = read(&file)?;
        let path = file.strip_prefix(root).expect("collected below the root");
        hash.update(format!("{}\0{}\0", path.display(), bytes.len()));
        hash.update(bytes);
    }
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of `bytes`.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(failed)? {
        collect(&entry.map_err(failed)?.path(), files)?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}
