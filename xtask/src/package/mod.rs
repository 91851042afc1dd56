//! `cargo xtask package`: Debian packages for gateways.
//!
//! The list of files is in `daemon/Cargo.toml`, the maintainer scripts are in `cross/debian/`; cargo-deb puts the
//! package together. What it takes from `target/release` is staged below `target/package` first, so that the program
//! may come from anywhere: a cross build, the host's compiler, or `--binary`.
//!
//! The same sources and program make the same bytes: every time in the package is that of the last commit
//! (`SOURCE_DATE_EPOCH`, where it is set).

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cross,
    elf::{Machine, Needs},
    shell::{self, cargo, heading},
    tools::Tool,
};

/// Which packages, and of what.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Processor of the gateway; both where none is named
    #[arg(long, value_enum, value_name = "ARCH")]
    arch: Option<Machine>,
    /// Package this program instead of building one
    #[arg(long, value_name = "PROGRAM")]
    binary: Option<PathBuf>,
    /// Compress less: for a package that goes no further than a test
    #[arg(long)]
    fast: bool,
}

/// Without its own compressor: it calls xz(1), which every Debian has.
const CARGO_DEB: Tool =
    Tool { name: "cargo-deb", version: "=3.8.0", arguments: &["--no-default-features"], takes: "about a minute" };

/// Makes the packages and says where they are.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    let cargo_deb = CARGO_DEB.get()?;
    let given = args.binary.as_deref().map(|program| Ok::<_, String>((program, machine_of(program)?))).transpose()?;
    let machines = match (args.arch, given) {
        (Some(wanted), _) => vec![wanted],
        (None, Some((_, found))) => vec![found],
        (None, None) => vec![Machine::Arm64, Machine::Amd64],
    };
    let mut made = Vec::new();
    for machine in machines {
        made.push(of(&cargo_deb, machine, given.map(|(program, _)| program), args.fast)?);
    }
    heading("Packages");
    for package in made {
        let bytes = fs::metadata(&package).map_err(|error| format!("{}: {error}", package.display()))?.len();
        println!("{} ({bytes} bytes)", package.display());
    }
    Ok(())
}

/// Builds the daemon for `machine` and makes its package; the package's path. A `fast` one is compressed less.
///
/// # Errors
///
/// What failed, having said why.
pub(crate) fn make(machine: Machine, fast: bool) -> Result<PathBuf, String> {
    of(&CARGO_DEB.get()?, machine, None, fast)
}

/// A package of `program`, or of the daemon built now.
fn of(cargo_deb: &Path, machine: Machine, program: Option<&Path>, fast: bool) -> Result<PathBuf, String> {
    let times = Times::get()?;
    let program = program.map_or_else(|| build(machine), |program| Ok(program.to_owned()))?;
    heading(format!("Debian package for {}", machine.debian()));
    let needs = Needs::of(&program)?;
    needs.check(machine).map_err(|error| format!("{}: {error}", program.display()))?;
    println!("{} needs {needs}", program.display());
    stage(machine, &program, &times)?;
    assemble(cargo_deb, machine, &times, fast)
}

fn machine_of(program: &Path) -> Result<Machine, String> {
    let other = || format!("{}: for neither arm64 nor amd64", program.display());
    Needs::of(program)?.machine.ok_or_else(other)
}

/// The daemon as it is shipped.
fn build(machine: Machine) -> Result<PathBuf, String> {
    let host = match env::consts::ARCH {
        "aarch64" => Machine::Arm64,
        "x86_64" => Machine::Amd64,
        other => return Err(format!("packages are made on x86-64 and ARM64; this is {other}")),
    };
    if machine != host {
        return cross::build(machine.target(), false);
    }
    heading("Building the daemon (release)");
    shell::run(&mut cargo(&["build", "--release", "--locked", "--package", "tidegate", "--bin", "tidegate"]))?;
    Ok(crate::target().join("release/tidegate"))
}

/// Where cargo-deb is told that Cargo builds.
fn staging() -> PathBuf {
    crate::target().join("package")
}

/// Puts program, manual and changelogs where `[package.metadata.deb]` names them.
fn stage(machine: Machine, program: &Path, times: &Times) -> Result<(), String> {
    let folder = staging().join(machine.target()).join("release");
    let manual = folder.join("manual");
    let failed = |error| format!("{}: {error}", folder.display());
    // A page of a command that is gone must not stay.
    if manual.exists() {
        fs::remove_dir_all(&manual).map_err(failed)?;
    }
    fs::create_dir_all(&manual).map_err(failed)?;
    fs::copy(program, folder.join("tidegate")).map_err(|error| format!("{}: {error}", program.display()))?;

    let write = ["run", "--quiet", "--package", "xtask", "--features", "package", "--bin", "xtask-manual", "--"];
    shell::run(cargo(&write).arg(&manual).args(["--date", &times.day]))?;
    fs::write(manual.join("THIRD-PARTY"), third_party(machine)?).map_err(failed)?;
    fs::write(manual.join("changelog.Debian"), changelog(&times.mail)).map_err(failed)?;
    // Debian wants these compressed; cargo-deb leaves alone what it takes for built.
    let pages = fs::read_dir(manual.join("man")).map_err(failed)?.filter_map(|page| Some(page.ok()?.path()));
    let mut gzip = Command::new("gzip");
    shell::run(gzip.args(["--best", "--no-name"]).arg(manual.join("changelog.Debian")).args(pages))
}

/// The crates that the program is linked with.
fn third_party(machine: Machine) -> Result<String, String> {
    let tree = ["tree", "--locked", "--package", "tidegate", "--edges", "normal,no-proc-macro", "--prefix", "none"];
    let tree = shell::output(cargo(&tree).args(["--format", "{p}\t{l}\t{r}", "--target", machine.target()]))?;
    let mut crates: Vec<_> = tree.lines().filter_map(crate_line).collect();
    crates.sort_unstable();
    crates.dedup();
    Ok(format!("tidegate is linked with these Rust crates, under the licences named.\n\n{}\n", crates.join("\n")))
}

/// `bytes 1.11.1: MIT, https://…` of cargo tree's `bytes v1.11.1<TAB>MIT<TAB>https://…`; nothing of our own packages,
/// which stand with their folder: `tidegate v0.1.0 (/…)`.
fn crate_line(line: &str) -> Option<String> {
    let (package, rest) = line.split_once('\t')?;
    let (licence, repository) = rest.split_once('\t')?;
    let (name, version) = package.split_once(" v")?;
    // A repeated line ends with ` (*)`.
    let repository = repository.trim_end_matches(" (*)");
    (!version.contains(" (/")).then(|| format!("{name} {version}: {licence}, {repository}"))
}

/// What Debian wants in `changelog.Debian`: the package's own changes, of which there are none but releases.
fn changelog(date: &str) -> String {
    const MAINTAINER: &str = "The tidegate authors <tidegate@users.noreply.github.com>";
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "tidegate ({version}-1) unstable; urgency=medium\n\n  * Release {version}; changelog.gz beside this file says \
         what changed.\n\n -- {MAINTAINER}  {date}\n"
    )
}

/// One cargo-deb run; the package's path.
fn assemble(cargo_deb: &Path, machine: Machine, times: &Times, fast: bool) -> Result<PathBuf, String> {
    let mut command = Command::new(cargo_deb);
    command.current_dir(crate::workspace()).args(["--package", "tidegate", "--target", machine.target()]);
    command.args(["--no-build", "--no-strip", "--locked", "--output"]).arg(crate::target().join("debian/"));
    if fast {
        command.arg("--fast");
    }
    command.env("CARGO_TARGET_DIR", staging()).env("SOURCE_DATE_EPOCH", &times.epoch);
    shell::output(&mut command)?.lines().last().map(PathBuf::from).ok_or_else(|| "cargo-deb made no package".to_owned())
}

/// When the package says that it was made.
struct Times {
    /// Seconds since 1970.
    epoch: String,
    /// 2026-01-31.
    day: String,
    /// Sat, 31 Jan 2026 12:00:00 +0000.
    mail: String,
}

impl Times {
    /// `SOURCE_DATE_EPOCH`, else the last commit, else now (in an archive of the sources).
    fn get() -> Result<Self, String> {
        let date = |arguments: &[&str]| {
            let said = shell::output(Command::new("date").env("LC_ALL", "C").arg("--utc").args(arguments))?;
            Ok::<_, String>(said.trim().to_owned())
        };
        let commit = || {
            let mut git = Command::new("git");
            let output = git.current_dir(crate::workspace()).args(["log", "-1", "--format=%ct"]).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let epoch = match env::var("SOURCE_DATE_EPOCH").ok().or_else(commit) {
            Some(epoch) => epoch,
            None => date(&["+%s"])?,
        };
        let at = format!("--date=@{epoch}");
        Ok(Self { day: date(&[&at, "+%Y-%m-%d"])?, mail: date(&[&at, "--rfc-email"])?, epoch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_listed_without_any_folder_of_the_build_machine() {
        let line = "bytes v1.11.1\tMIT\thttps://github.com/tokio-rs/bytes (*)";
        assert_eq!(crate_line(line).unwrap(), "bytes 1.11.1: MIT, https://github.com/tokio-rs/bytes");
        assert_eq!(crate_line("tidegate v0.1.0 (/home/somebody/tidegate/daemon)\tApache-2.0 OR MIT\thttps://x"), None);
    }
}
