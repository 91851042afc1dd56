//! `cargo xtask fuzz [TARGET] [--for 30s]`: throws bytes at what strangers can reach.
//!
//! libFuzzer without a sanitizer, so that the stable compiler will do: safe Rust cannot be made to misuse memory by bytes, and
//! what the targets look for are panics, broken promises (`fuzz/src/targets.rs`), time and memory without bound.
//!
//! `fuzz/corpus` is committed, and only read: what a run finds worth keeping goes below `target/fuzz`, and from there
//! into the next run. An input that fails is written to `fuzz/artifacts`; once it is mended it belongs into the corpus, which
//! a plain test of the daemon goes through each time.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    shell::{self, heading},
    tools::Tool,
};

/// The targets, as in `fuzz/Cargo.toml`.
const TARGETS: [&str; 10] = [
    "desired",
    "command",
    "provisioning",
    "envelope",
    "bundle",
    "compiler",
    "upload-server",
    "upload-sidecar",
    "upload-journal",
    "upload-ledger",
];
/// Longest input: four times what libFuzzer takes by itself.
const MAX_INPUT_BYTES: u32 = 16 << 10;
/// Seconds for one input: milliseconds are usual.
const MAX_INPUT_S: u32 = 5;
/// MiB for the whole process: the daemon's own bounds are far below.
const MAX_MEMORY_MIB: u32 = 512;

const CARGO_FUZZ: Tool = Tool { name: "cargo-fuzz", version: "^0.13", arguments: &[], takes: "half a minute" };

/// What to fuzz.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// One target instead of all
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
    /// How long each: seconds, or with a unit (30s, 5m, 2h)
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = seconds)]
    time_s: u64,
}

/// Runs what was asked for.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    let targets = TARGETS.into_iter().filter(|target| args.target.as_deref().is_none_or(|only| only == *target));
    for target in targets {
        heading(format!("fuzz {target}, {} s", args.time_s));
        fuzz(target, args.time_s)?;
    }
    Ok(())
}

/// Each target for a while.
///
/// # Errors
///
/// An input fails, or the fuzzer cannot be had; the rest is not run then.
pub(crate) fn all(time_s: u64) -> Result<(), String> {
    run(&Args { target: None, time_s })
}

fn fuzz(target: &str, time_s: u64) -> Result<(), String> {
    let program = CARGO_FUZZ.get()?;
    let built = crate::target().join("fuzz");
    let found = built.join("corpus").join(target);
    fs::create_dir_all(&found).map_err(|error| format!("{}: {error}", found.display()))?;
    let mut command = Command::new(program);
    command.current_dir(crate::workspace()).args(["fuzz", "run", "--sanitizer", "none", "--target-dir"]).arg(&built);
    command.arg(target).arg(&found).arg(committed(target)).arg("--");
    command.args([
        format!("-max_total_time={time_s}"),
        format!("-max_len={MAX_INPUT_BYTES}"),
        format!("-timeout={MAX_INPUT_S}"),
        format!("-rss_limit_mb={MAX_MEMORY_MIB}"),
        // Not each input that is worth keeping.
        "-verbosity=0".to_owned(),
        "-print_final_stats=1".to_owned(),
    ]);
    if let Some(words) = dictionary(target)? {
        command.arg(format!("-dict={}", words.display()));
    }
    shell::run(&mut command)
}

fn committed(target: &str) -> PathBuf {
    Path::new("fuzz/corpus").join(target)
}

/// Words of the language that a target reads, where there is such a list.
fn dictionary(target: &str) -> Result<Option<PathBuf>, String> {
    let path = Path::new("fuzz/words").join(target);
    match fs::metadata(crate::workspace().join(&path)) {
        Ok(_) => Ok(Some(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn seconds(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("the unit is s, m or h".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "not a whole number".to_owned())?;
    number.checked_mul(unit).filter(|time| *time > 0).ok_or_else(|| "at least one second".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_unit() {
        assert_eq!(["7", "30s", "5m", "2h"].map(|text| seconds(text).unwrap()), [7, 30, 300, 7200]);
        assert!(["", "s", "0", "1d", "-1s", "1.5m"].into_iter().all(|text| seconds(text).is_err()));
    }

    #[test]
    fn each_target_has_a_program_and_a_corpus() {
        let manifest = fs::read_to_string(crate::workspace().join("fuzz/Cargo.toml")).unwrap();
        for target in TARGETS {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
            assert!(crate::workspace().join(committed(target)).is_dir(), "{target}");
        }
    }
}
