//! `cargo xtask ebpf [--check]`: builds the committed eBPF object, or checks that it is the one its sources make.
//!
//! The object and its manifest stand beside the sources, so that building the daemon takes stable Rust alone:
//! `docs/decisions/0001-committed-ebpf-object.md`.

mod manifest;
mod object;
mod sources;
mod toolchain;

use std::{
    io,
    path::{Path, PathBuf},
};

use manifest::Manifest;
use toolchain::{Toolchain, Versions};

/// What the object may weigh: the design's budget.
const BUDGET_BYTES: usize = 200 * 1024;

/// Why there is no object, or not the right one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The manifest is not one.
    #[error("{} is no manifest ({source}); `cargo xtask ebpf` writes a new one", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Where it fails.
        source: serde_json::Error,
    },
    /// A tool is not installed.
    #[error("{missing} not found; it takes, on Debian 12:\n{}", toolchain::INSTALL)]
    Tool {
        /// The tool, and where it was looked for.
        missing: String,
    },
    /// A tool failed, having said why.
    #[error("{command} failed: {reason}")]
    Command {
        /// What was run.
        command: String,
        /// Its status, or why it could not be started.
        reason: String,
    },
    /// The object outgrew its budget.
    #[error("the object is {found} bytes; the budget is {BUDGET_BYTES}")]
    Budget {
        /// Its size.
        found: usize,
    },
    /// Sources, object and manifest do not belong together.
    #[error(
        "{what} is not what the manifest was written for (wanted {wanted}, found {found}); run `cargo xtask ebpf` and commit what it writes"
    )]
    Stale {
        /// Which of them.
        what: &'static str,
        /// What the manifest says.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// The same tools made other bytes.
    #[error("rebuilt with the manifest's tools, the object differs from the committed one; compare it with {}", rebuilt.display())]
    Differs {
        /// What was built.
        rebuilt: PathBuf,
    },
}

/// Where things are.
struct Paths {
    root: PathBuf,
    object: PathBuf,
    manifest: PathBuf,
    /// Where an object is built before it replaces the committed one.
    target: PathBuf,
}

impl Paths {
    fn new() -> Self {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace").to_owned();
        let probes = root.join("ebpf/probes");
        Self {
            object: probes.join("tidegate-probes.o"),
            manifest: probes.join("manifest.json"),
            target: probes.join("target"),
            root,
        }
    }
}

/// Builds the object and writes it and its manifest.
///
/// # Errors
///
/// Where a tool is missing or fails, or the object is over its budget; the committed files are then as they were.
pub(crate) fn build() -> Result<(), Error> {
    let paths = Paths::new();
    let toolchain = Toolchain::find()?;
    let built = object::build(&paths.root, &paths.target, &toolchain)?;
    let bytes = read(&built)?;
    if bytes.len() > BUDGET_BYTES {
        return Err(Error::Budget { found: bytes.len() });
    }
    let manifest = Manifest {
        sources: sources::digest(&paths.root)?,
        object: sources::digest_of(&bytes),
        size: bytes.len(),
        tools: toolchain.versions.clone(),
        flags: toolchain::FLAGS.map(str::to_owned).to_vec(),
        programs: object::programs(&built, &toolchain)?,
    };
    write(&paths.object, &bytes)?;
    write(&paths.manifest, manifest.to_json().as_bytes())?;
    println!("{} ({} bytes of {BUDGET_BYTES})", paths.object.display(), bytes.len());
    for (name, program) in &manifest.programs {
        println!("  {name:<20} {:>5} instructions", program.instructions);
    }
    Ok(())
}

/// Checks that sources, object and manifest belong together, and rebuilds the object where the manifest's tools are
/// installed.
///
/// # Errors
///
/// The first thing that does not fit. Tools that are absent or of other versions are none: that is said and left.
pub(crate) fn check() -> Result<(), Error> {
    let paths = Paths::new();
    let manifest = Manifest::parse(&paths.manifest, &read(&paths.manifest)?)?;
    let object = read(&paths.object)?;
    fits("ebpf/abi or ebpf/probes", &manifest.sources, &sources::digest(&paths.root)?)?;
    fits("the list of flags", &manifest.flags.join(" "), &toolchain::FLAGS.join(" "))?;
    fits("tidegate-probes.o", &manifest.object, &sources::digest_of(&object))?;
    if object.len() > BUDGET_BYTES {
        return Err(Error::Budget { found: object.len() });
    }
    println!("sources, object and manifest belong together");

    let toolchain = match Toolchain::find() {
        Ok(toolchain) if toolchain.versions == manifest.tools => toolchain,
        Ok(Toolchain { versions, .. }) => {
            println!("not rebuilt: the manifest names {}; installed are {versions}", manifest.tools);
            return Ok(());
        }
        Err(Error::Tool { missing }) => {
            println!("not rebuilt: {missing} not found");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let rebuilt = object::build(&paths.root, &paths.target, &toolchain)?;
    if read(&rebuilt)? != object {
        return Err(Error::Differs { rebuilt });
    }
    println!("rebuilt with the same tools: equal bytes");
    Ok(())
}

fn fits(what: &'static str, wanted: &str, found: &str) -> Result<(), Error> {
    if wanted == found {
        return Ok(());
    }
    Err(Error::Stale { what, wanted: wanted.to_owned(), found: found.to_owned() })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    std::fs::write(path, bytes).map_err(|source| Error::File { path: path.to_owned(), source })
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rustc {}, bpf-linker {}, LLVM {}", self.rustc, self.bpf_linker, self.llvm)
    }
}
