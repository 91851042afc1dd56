//! `cargo xtask budget`: what the ARM64 build costs on its gateway, against `cross/budget.toml`.
//!
//! The stage measures, in the emulated machine, and prints one figure a line; this compares. Under emulation times
//! mean nothing, so there are none, but for one as a ratio to another program's in the same boot.

mod limits;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use self::limits::Limits;
use crate::{
    elf::Machine,
    package, packages,
    privilege::Privilege,
    shell::{self, cargo, heading},
};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Measure this package instead of building one
    #[arg(long, value_name = "DEB")]
    package: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// One figure, as the stage prints it.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
struct Figure {
    name: String,
    value: f64,
}

/// Measures, and fails on excess.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    let limits = Limits::read(&crate::workspace().join("cross/budget.toml"))?;
    let privilege = Privilege::get("the emulated gateway");
    packages::install(&privilege, &packages::DEVICE);
    if let Privilege::None(why) = &privilege {
        return Err(format!("the emulated gateway takes root for its images: {why}"));
    }
    let package = match &args.package {
        Some(package) => package.canonicalize().map_err(|error| format!("{}: {error}", package.display()))?,
        None => package::make(Machine::Arm64, false)?,
    };
    let measured = measure(&package, &privilege)?;

    let mut figures = sizes(&package)?;
    figures.extend(measured);
    let verdicts = limits.judge(&figures);
    if args.json {
        for verdict in &verdicts {
            println!("{}", verdict.json());
        }
    } else {
        heading(format!("Budget: {}", built_with(&package)?));
        println!("{:<34} {:>12} {:>12} {:>12}", "", "is", "may be", "of it");
        for verdict in &verdicts {
            println!("{verdict}");
        }
    }
    match verdicts.iter().filter(|verdict| verdict.exceeds()).count() {
        0 => Ok(()),
        count => Err(format!("{count} figures exceed cross/budget.toml, or are missing")),
    }
}

/// Runs the stage, which shows on standard error what it does.
fn measure(package: &Path, privilege: &Privilege) -> Result<Vec<Figure>, String> {
    heading("Building the stage");
    shell::run(&mut cargo(&["build", "--package", "xtask", "--features", "budget", "--bin", "xtask-budget"]))?;
    heading("Measuring in the emulated gateway (some five minutes)");
    let stage = crate::target().join("debug/xtask-budget");
    let mut variables = vec![("TIDEGATE_DEB", package.display().to_string())];
    let callers = ["TMPDIR", "TIDEGATE_VM", "TIDEGATE_DEBIAN_MIRROR"];
    variables.extend(callers.into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?))));
    let said = shell::output(&mut privilege.command(&stage.to_string_lossy(), &variables))?;
    said.lines().map(|line| serde_json::from_str(line).map_err(|error| format!("{error} in {line:?}"))).collect()
}

/// Sizes of what is shipped.
fn sizes(package: &Path) -> Result<Vec<Figure>, String> {
    const MIB: f64 = 1024.0 * 1024.0;
    let bytes = |path: &Path| {
        let size = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?.len();
        Ok::<_, String>(size as f64)
    };
    let binary = unpack(package)?.join("usr/bin/tidegate");
    let figure = |name: &str, value| Figure { name: name.to_owned(), value };
    Ok(vec![
        figure("size/binary", bytes(&binary)? / MIB),
        figure("size/object", bytes(&crate::workspace().join("ebpf/probes/tidegate-probes.o"))? / 1024.0),
        figure("size/package", bytes(package)? / MIB),
    ])
}

/// Compiler and libc: figures move with them.
fn built_with(package: &Path) -> Result<String, String> {
    let binary = unpack(package)?.join("usr/bin/tidegate");
    let comment = shell::output(Command::new("readelf").args(["--string-dump=.comment"]).arg(&binary))?;
    let compiler = comment.lines().find_map(|line| Some(line[line.find("rustc version")?..].trim()));
    let needs = crate::elf::Needs::of(&binary)?;
    Ok(format!("{}; needs {needs}", compiler.unwrap_or("a compiler that leaves no name")))
}

/// The package's files, below `target/`.
fn unpack(package: &Path) -> Result<PathBuf, String> {
    let folder = crate::target().join("budget");
    shell::run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&folder))?;
    Ok(folder)
}
