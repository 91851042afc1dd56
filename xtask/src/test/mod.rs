//! `cargo xtask test [--device]`: one step after the other, all of them even where one fails, and a summary that leaves
//! nothing out.

mod libtest;
mod retry;
mod scenarios;
mod skips;
mod tally;
mod tools;

use std::time::Instant;

use self::{
    scenarios::{Choice, Scenarios},
    tally::{Outcome, Tally},
};
use crate::{
    ebpf,
    elf::Machine,
    fuzz, mutants, packages, peers,
    privilege::Privilege,
    shell::{self, cargo, heading},
};

/// What to test.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only scenario tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    scenario: Option<String>,
    /// Test the package on emulated ARM64 gateways instead: cross build, Debian, systemd, power cuts
    #[arg(long)]
    device: bool,
    /// With the big counts: takes hours
    #[arg(long)]
    long: bool,
}

/// Runs what was asked for.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    let started = Instant::now();
    let choice = Choice { filter: args.scenario.as_deref(), long: args.long };
    heading("What the tests need");
    tools::check()?;
    let privilege = Privilege::get("packages and for the scenario tests");
    if let Privilege::None(why) = &privilege {
        println!("no privileges: {why}; scenarios that need them are skipped");
    }
    packages::install(&privilege, &packages::TESTS);
    let mut tally = Tally::default();
    if args.device {
        packages::install(&privilege, &packages::DEVICE);
        on_device(&mut tally, &privilege, choice);
    } else {
        here(&mut tally, &privilege, choice);
    }
    tally.summary(started.elapsed())
}

/// What needs no gateway.
fn here(tally: &mut Tally, privilege: &Privilege, choice: Choice<'_>) {
    if choice.filter.is_none() {
        tally.step("formatting", check_format);
        tally.step("clippy", clippy);
        dependencies(tally);
        tally.step("eBPF object", || {
            Outcome::of(ebpf::check().map_err(|error| error.to_string()), "cargo xtask ebpf --check")
        });
        tally.step("unit and property tests", unit_tests);
        if choice.long {
            tally.step("mutants of the policy compiler", || Outcome::of(mutants::run(), "cargo xtask mutants"));
            tally.step("fuzzing, a minute for each target", || Outcome::of(fuzz::all(60), "cargo xtask fuzz --for 1m"));
        }
    }
    let peers = peers::install();
    tally.step("scenario tests", || {
        let mut scenarios = Scenarios::build()?;
        for (variable, folder) in &peers {
            scenarios.tell(variable, folder.clone());
        }
        scenarios.run(privilege, choice)
    });
}

/// The package, on gateways. The cross build and the machines' images are made at the same time: each waits for one
/// processor most of the while.
fn on_device(tally: &mut Tally, privilege: &Privilege, choice: Choice<'_>) {
    let mut images = None;
    let mut scenarios = None;
    tally.step("device tests: their program", || {
        let built = Scenarios::build_device()?;
        images = Some(built.start_images(privilege)?);
        scenarios = Some(built);
        Ok(Outcome { passed: 1, ..Outcome::default() })
    });
    let (Some(mut scenarios), Some(mut images)) = (scenarios, images) else { return };
    let mut package = None;
    tally.step("cross build and package", || {
        let made = crate::package::make(Machine::Arm64, true).map(|path| package = Some(path));
        Outcome::of(made, "cargo xtask package --arch arm64 --fast")
    });
    tally.step("images of the gateways", || {
        let built = images.wait().map_err(|error| error.to_string());
        let built = built.and_then(|status| if status.success() { Ok(()) } else { Err(status.to_string()) });
        Outcome::of(built, "cargo xtask test --device --scenario the_images_are_there")
    });
    let Some(package) = package else { return };
    scenarios.tell("TIDEGATE_DEB", package.display().to_string());
    tally.step("device tests", || scenarios.run(privilege, choice));
}

fn check_format() -> Outcome {
    let outcome = Outcome::check(&mut cargo(&["fmt", "--all", "--check"]), "cargo fmt --all");
    // No members of the workspace: one is built for another machine, the other by cargo-fuzz.
    let check = |outcome: Outcome, manifest: &str| {
        let command = &mut cargo(&["fmt", "--manifest-path", manifest, "--check"]);
        outcome.and(Outcome::check(command, &format!("cargo fmt --manifest-path {manifest}")))
    };
    ["ebpf/probes/Cargo.toml", "fuzz/Cargo.toml"].into_iter().fold(outcome, check)
}

fn clippy() -> Outcome {
    let all = ["clippy", "--workspace", "--all-targets", "--all-features", "--", "--deny", "warnings"];
    let mut command = cargo(&all);
    let again = shell::line(&command);
    Outcome::check(&mut command, &again)
}

/// Licenses, bans and sources are judged by what is here; advisories by a database that must be fetched.
fn dependencies(tally: &mut Tally) {
    let deny = match tools::cargo_deny() {
        Ok(deny) => deny,
        Err(why) => {
            tally.skip("cargo-deny", &why);
            return;
        }
    };
    let check = |what: &[&str]| {
        let mut command = deny.command();
        // Warnings are not failures, and deny.toml says which findings are warnings.
        command.args(["--all-features", "check", "--hide-inclusion-graph"]).args(what);
        let again = shell::line(&command);
        Outcome::check(&mut command, &again)
    };
    tally.step("dependencies: licenses, bans, sources", || check(&["licenses", "bans", "sources"]));
    match shell::quietly(deny.command().args(["fetch", "db"])) {
        Ok((status, _)) if status.success() => tally.step("dependencies: advisories", || check(&["advisories"])),
        Ok((_, said)) => {
            let reason = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
            tally.skip("dependencies: advisories", &format!("the database cannot be had here: {}", reason.trim()));
        }
        Err(error) => tally.skip("dependencies: advisories", &error),
    }
}

fn unit_tests() -> Outcome {
    let all = Outcome::tests(&mut cargo(&["test", "--workspace", "--exclude", "tidegate-tests", "--no-fail-fast"]));
    all.and(Outcome::tests(&mut cargo(&["test", "--package", "tidegate-tests", "--doc"])))
}
