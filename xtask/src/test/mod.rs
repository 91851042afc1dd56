//! `cargo xtask test`: one step after the other, all of them even where one fails, and a summary that leaves
//! nothing out.

mod scenarios;
mod tally;
mod tools;

use std::time::Instant;

use self::{
    scenarios::Scenarios,
    tally::{Outcome, Tally},
};
use crate::{
    ebpf, packages,
    privilege::Privilege,
    shell::{self, cargo, heading},
};

/// Runs everything, or only the scenarios whose name contains `filter`.
pub(crate) fn run(filter: Option<&str>) -> Result<(), String> {
    let started = Instant::now();
    heading("What the tests need");
    tools::check()?;
    let privilege = Privilege::get("packages and for the scenario tests");
    if let Privilege::None(why) = &privilege {
        println!("no privileges: {why}; scenarios that need them are skipped");
    }
    packages::install(&privilege, &packages::TESTS);

    let mut tally = Tally::default();
    if filter.is_none() {
        tally.step("formatting", check_format);
        tally.step("clippy", clippy);
        dependencies(&mut tally);
        tally.step("eBPF object", || {
            Outcome::of(ebpf::check().map_err(|error| error.to_string()), "cargo xtask ebpf --check")
        });
        tally.step("unit and property tests", unit_tests);
    }
    tally.step("scenario tests", || Scenarios::build().and_then(|scenarios| scenarios.run(&privilege, filter)));
    tally.summary(started.elapsed())
}

fn check_format() -> Outcome {
    let outcome = Outcome::check(&mut cargo(&["fmt", "--all", "--check"]), "cargo fmt --all");
    // Not a member of the workspace, because it is built for another machine.
    let probes = ["fmt", "--manifest-path", "ebpf/probes/Cargo.toml", "--check"];
    outcome.and(Outcome::check(&mut cargo(&probes), "cargo fmt --manifest-path ebpf/probes/Cargo.toml"))
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
