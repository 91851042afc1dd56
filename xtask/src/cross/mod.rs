//! `cargo xtask cross`: the daemon for gateways, by a true `cross build`.
//!
//! | what is here | compiler | image |
//! |---|---|---|
//! | a rustup that has the target, and a registry that has cross's images | rustup's | cross's own |
//! | neither, or `--debian` | Debian's, in the image | made here from Debian packages |
//!
//! Nothing is downloaded through rustup: cross would, and unasked, so a stand-in answers its questions
//! ([`rustup`]). `docs/decisions/0005-cross-building.md` says why it is so.

mod engine;
mod image;
mod rustup;

use std::{path::PathBuf, process::Command};

use engine::Engine;

use crate::{
    elf::{Machine, Needs},
    packages,
    privilege::Privilege,
    shell::{self, cargo, heading},
    tools::Tool,
};

/// What to build.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// aarch64-unknown-linux-musl makes a static program; it takes a rustup that has it
    #[arg(long, value_name = "TARGET", default_value = GNU, value_parser = [GNU, MUSL])]
    target: String,
    /// Use Debian's compiler, in an image made of Debian packages, even where rustup has the target
    #[arg(long)]
    debian: bool,
}

const GNU: &str = "aarch64-unknown-linux-gnu";
const MUSL: &str = "aarch64-unknown-linux-musl";

/// The version that users have: the last one released.
const CROSS: Tool = Tool { name: "cross", version: "=0.2.5", arguments: &[], takes: "about a minute" };

/// What `docker run` and `podman run` exit with where the container could not be started, such as for want of its
/// image; what ran in it never does.
const NOT_STARTED: i32 = 125;

/// Builds, and says what the program needs.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    let program = build(&args.target, args.debian)?;
    let needs = Needs::of(&program)?;
    needs.check(Machine::Arm64).map_err(|error| format!("{}: {error}", program.display()))?;
    println!("\n{} needs {needs}", program.display());
    Ok(())
}

/// Builds; the program's path.
///
/// # Errors
///
/// What is missing, and what to do; or that cross failed, having said why.
pub(crate) fn build(target: &str, debian: bool) -> Result<PathBuf, String> {
    heading(format!("Cross-building for {target}"));
    if std::env::consts::ARCH == "aarch64" {
        return Err("this machine is ARM64 itself: cargo build --release".to_owned());
    }
    let privilege = Privilege::get("packages");
    let engine = Engine::get(&privilege)?;
    let cross = Cross { program: CROSS.get()?, target, engine };
    // Here, where the caller's proxy and credentials are; the container has neither.
    shell::run(&mut cargo(&["fetch", "--quiet", "--locked", "--target", target]))?;

    if !debian && rustup::has(target) {
        println!("compiler: rustup's; image: cross's own");
        match cross.build(None)? {
            NOT_STARTED => println!("cross's image could not be started: going on with Debian's compiler"),
            0 => return Ok(cross.built()),
            status => return Err(format!("cross build failed: exit status {status}")),
        }
    }
    if target != GNU || std::env::consts::ARCH != "x86_64" {
        return Err(format!(
            "this takes a rustup that has {target} and an image that cross can pull, and here is not both; \
             `rustup target add {target}` downloads the target"
        ));
    }
    println!("compiler: Debian's; image: made of Debian packages");
    packages::install(&privilege, &packages::CROSS);
    let image = image::get(&cross.engine)?;
    let engine = cross.engine.that_starts(&image, &privilege)?;
    let cross = Cross { engine, ..cross };
    match cross.build(Some(&image))? {
        0 => Ok(cross.built()),
        status => Err(format!("cross build failed: exit status {status}")),
    }
}

/// What a build takes.
struct Cross<'a> {
    program: PathBuf,
    target: &'a str,
    engine: Engine,
}

impl Cross<'_> {
    /// One `cross build`; its exit status.
    fn build(&self, image: Option<&str>) -> Result<i32, String> {
        let mut command = Command::new(&self.program);
        command.current_dir(crate::workspace()).args(["build", "--release", "--locked", "--target", self.target]);
        self.engine.configure(&mut command);
        command.env("CROSS_CONTAINER_ENGINE", self.engine.name()).env("CARGO_TARGET_DIR", folder());
        if let Some(image) = image {
            command.env(image_variable(self.target), image);
        }
        rustup::stand_in(&mut command, self.target)?;
        println!("{}", shell::line(&command));
        let status = command.status().map_err(|error| format!("{}: {error}", self.program.display()))?;
        Ok(status.code().unwrap_or(1))
    }

    fn built(&self) -> PathBuf {
        folder().join(self.target).join("release/tidegate")
    }
}

/// A folder of its own: build scripts that the host compiled need the host's glibc, which the image may not have.
fn folder() -> PathBuf {
    crate::target().join("cross")
}

/// The variable that names cross an image for a target: it goes before `Cross.toml` and before cross's own.
fn image_variable(target: &str) -> String {
    format!("CROSS_TARGET_{}_IMAGE", target.replace('-', "_").to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_for_one_target() {
        assert_eq!(image_variable(GNU), "CROSS_TARGET_AARCH64_UNKNOWN_LINUX_GNU_IMAGE");
    }
}
