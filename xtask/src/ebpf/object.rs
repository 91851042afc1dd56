//! Building the object, and reading what is in it.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    Error,
    manifest::Program,
    toolchain::{FLAGS, TARGET, Toolchain, run},
};
use crate::tools::cargo_home;

/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: char = '\x1f';

/// What of the caller's environment would change the object, or the compiler that makes it: the toolchain's own
/// libraries (set by the `cargo` that runs this program) and settings of Cargo and rustc.
const FOREIGN: [&str; 6] =
    ["LD_LIBRARY_PATH", "RUST", "CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "CARGO_ENCODED_"];

/// Builds the object below `target` and strips it; its path.
///
/// Equal sources and tools make equal bytes in any folder: paths that the compiler writes into types are mapped to
/// names of no machine, and symbols are [told apart without the folder](plain). BTF stays, for the kernel types maps by it; DWARF goes, and so does `.BTF.ext`, half of the
/// object's size for line numbers in a verifier's log, which the unstripped object below `target` still has.
pub(super) fn build(root: &Path, target: &Path, toolchain: &Toolchain) -> Result<PathBuf, Error> {
    let probes = root.join("ebpf/probes");
    // First, as the flags name the folders that the sources of dependencies lie in.
    run(cargo(toolchain, &probes).args(["fetch", "--quiet", "--locked", "--target", TARGET]))?;
    run(cargo(toolchain, &probes)
        .args(["build", "--quiet", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(target)
        // Two crates use unstable features: inline assembly, and atomic intrinsics.
        .env("RUSTC_BOOTSTRAP", "aya_ebpf,tidegate_probes")
        // Layouts of kernel structures differ by machine; none of those used here does, but their file's name would.
        .env("AYA_BPF_TARGET_ARCH", "x86_64")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root, &toolchain.linker)?))?;

    let folder = target.join(TARGET).join("release");
    let stripped = folder.join("tidegate-probes.o");
    run(Command::new(&toolchain.objcopy)
        .args(["--strip-debug", "--remove-section=.BTF.ext", "--remove-section=.rel.BTF.ext"])
        .args([&folder.join("tidegate-probes"), &stripped]))?;
    let symbols = run(Command::new(&toolchain.objdump).arg("--syms").arg(&stripped))?;
    let renamed = symbols.split_whitespace().filter_map(|name| Some(format!("--redefine-sym={name}={}", plain(name)?)));
    run(Command::new(&toolchain.objcopy).args(renamed).arg(&stripped))?;
    Ok(stripped)
}

/// A function's name without what tells its crate from others of that name (`Cs`, digits of base 62, `_` in
/// [RFC 2603](https://rust-lang.github.io/rfcs/2603-rust-symbol-name-mangling-v0.html)), which Cargo makes of the folder;
/// `None` where there is nothing of that in it.
fn plain(name: &str) -> Option<String> {
    let (before, after) = name.strip_prefix("_R")?.split_once("Cs")?;
    let (_disambiguator, path) = after.split_once('_')?;
    Some(format!("_R{before}C{path}"))
}

/// Cargo in `folder`, with nothing of the caller's that would change the object.
fn cargo(toolchain: &Toolchain, folder: &Path) -> Command {
    let mut command = Command::new(&toolchain.cargo);
    command.current_dir(folder);
    for (name, _) in env::vars_os() {
        if FOREIGN.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.env("RUSTC", &toolchain.rustc);
    command
}

fn flags(root: &Path, linker: &Path) -> Result<OsString, Error> {
    let mut flags = OsString::from(format!("-Clinker={}", linker.display()));
    let mut push = |flag: String| {
        flags.push(SEPARATOR.to_string());
        flags.push(flag);
    };
    for flag in FLAGS {
        push(flag.to_owned());
    }
    push(format!("--remap-path-prefix={}=/tidegate", root.display()));
    // Its folders carry a name that differs between machines.
    let registry = cargo_home().join("registry/src");
    let entries = fs::read_dir(&registry).into_iter().flatten();
    for entry in entries {
        let entry = entry.map_err(|source| Error::File { path: registry.clone(), source })?;
        push(format!("--remap-path-prefix={}=/registry", entry.path().display()));
    }
    Ok(flags)
}

/// The programs of an object, from its symbols.
pub(super) fn programs(object: &Path, toolchain: &Toolchain) -> Result<BTreeMap<String, Program>, Error> {
    /// Of one instruction; the few that are twice as long count as two, as in the kernel.
    const INSTRUCTION_BYTES: u64 = 8;

    let symbols = run(Command::new(&toolchain.objdump).arg("--syms").arg(object))?;
    Ok(symbols
        .lines()
        .filter_map(|line| {
            // Address, flags, then: `F SECTION<TAB>SIZE NAME`.
            let (section, rest) = line.split_once(" F ")?.1.split_once('\t')?;
            let (kind, _function) = section.split_once('/').unwrap_or((section, ""));
            if !["classifier", "fentry", "fexit"].contains(&kind) {
                return None;
            }
            let (size, name) = rest.split_once(' ')?;
            let bytes = u64::from_str_radix(size, 16).ok()?;
            Some((name.to_owned(), Program { instructions: bytes / INSTRUCTION_BYTES, bytes }))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_functions_do_not_tell_the_folder_they_were_built_in() {
        assert_eq!(
            plain("_RNvNtCseq4ue0uym2h_15tidegate_probes7headers8identify").as_deref(),
            Some("_RNvNtC15tidegate_probes7headers8identify")
        );
        assert_eq!(plain("tidegate_ingress"), None);
    }
}
