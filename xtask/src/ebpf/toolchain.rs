//! The tools that make the object: Debian's compiler, whose `core` for BPF and LLVM are of one version, and bpf-linker.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use serde::{Deserialize, Serialize};

use super::Error;
use crate::tools::cargo_home;

/// How to get them. rustup has no `core` for BPF, and none of its toolchains is needed.
pub(super) const INSTALL: &str = "\
    apt-get install rustc-web cargo-web libstd-rust-web-dev-bpf llvm-22 llvm-22-dev libpolly-22-dev zlib1g-dev libzstd-dev libxml2-dev
    LLVM_PREFIX=/usr/lib/llvm-22 PATH=/usr/lib/llvm-22/bin:$PATH RUSTFLAGS=\"-L /usr/lib/llvm-22/lib\" \\
        cargo install bpf-linker --version 0.13.0 --no-default-features --features llvm-22";

/// Flags of the compiler, less those that name this machine's folders.
///
/// v3 has 32-bit registers and atomics, and every kernel since 5.12. "Expanding in order" turns each small array's
/// initialisation into a call that sets byte by byte: 20 ns a packet.
pub(super) const FLAGS: [&str; 3] =
    ["-Clink-arg=--btf", "-Clink-arg=--disable-expand-memcpy-in-order", "-Ctarget-cpu=v3"];

/// The object's target.
pub(super) const TARGET: &str = "bpfel-unknown-none";

const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
const LLVM_BIN: &str = "/usr/lib/llvm-22/bin";

/// The tools, found.
#[derive(Debug)]
pub(super) struct Toolchain {
    pub(super) cargo: PathBuf,
    pub(super) rustc: PathBuf,
    pub(super) linker: PathBuf,
    pub(super) objcopy: PathBuf,
    pub(super) objdump: PathBuf,
    pub(super) versions: Versions,
}

/// What they say of themselves.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Versions {
    pub(super) rustc: String,
    pub(super) bpf_linker: String,
    pub(super) llvm: String,
}

impl Toolchain {
    /// Looks for all of them.
    pub(super) fn find() -> Result<Self, Error> {
        let rustc = present(Path::new(RUSTC))?;
        let library = run(Command::new(&rustc).args(["--print", "target-libdir", "--target", TARGET]))?;
        present(Path::new(library.trim()))?;
        let linker = bpf_linker()?;
        let objcopy = present(&Path::new(LLVM_BIN).join("llvm-objcopy"))?;
        let versions = Versions {
            rustc: after(&run(Command::new(&rustc).arg("--version"))?, "rustc "),
            bpf_linker: after(&run(Command::new(&linker).arg("--version"))?, "bpf-linker "),
            llvm: after(&run(Command::new(&objcopy).arg("--version"))?, "LLVM version "),
        };
        Ok(Self {
            cargo: present(Path::new(CARGO))?,
            objdump: present(&Path::new(LLVM_BIN).join("llvm-objdump"))?,
            rustc,
            linker,
            objcopy,
            versions,
        })
    }
}

/// Runs a command to its end; its standard output.
pub(super) fn run(command: &mut Command) -> Result<String, Error> {
    let name = command.get_program().display().to_string();
    let failed = |reason| Error::Command { command: name, reason };
    match command.stderr(std::process::Stdio::inherit()).output() {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(failed(output.status.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// `cargo install` puts it in Cargo's own folder, which root's path may lack.
fn bpf_linker() -> Result<PathBuf, Error> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([cargo_home().join("bin")])
        .map(|folder| folder.join("bpf-linker"))
        .find(|file| file.is_file())
        .ok_or_else(|| Error::Tool { missing: "bpf-linker (in PATH)".to_owned() })
}

fn present(path: &Path) -> Result<PathBuf, Error> {
    if path.exists() { Ok(path.to_owned()) } else { Err(Error::Tool { missing: path.display().to_string() }) }
}

/// The rest of the line that has `prefix`.
fn after(text: &str, prefix: &str) -> String {
    text.lines()
        .find_map(|line| line.split_once(prefix))
        .map_or_else(|| "unknown".to_owned(), |(_, version)| version.trim().to_owned())
}
