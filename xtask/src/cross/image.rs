//! The image that cross builds in where its own cannot be pulled: Debian 12 with Debian's Rust.
//!
//! Debian 12 has glibc 2.36, so what is built needs no newer one. Its `rustc-web` follows Rust's releases, because
//! Debian's browsers do. The machine's own packages and dpkg architectures stay as they are: all of it happens in a
//! root that mmdebstrap makes and the engine imports.

use std::{
    fs,
    process::{Command, Stdio},
};

use sha2::{Digest as _, Sha256};

use super::engine::Engine;
use crate::shell::{self, heading};

const SUITE: &str = "bookworm";

/// A C compiler for build scripts, one for what they build (ring), a linker for each, and Rust.
const PACKAGES: &str =
    "ca-certificates,cargo-web,gcc,gcc-aarch64-linux-gnu,libc6-dev,libc6-dev-arm64-cross,lld-16,rustc-web";

/// Rust's library for ARM64 is unpacked, not installed: its dependencies are a whole ARM64 compiler, 500 MB.
const LIBRARY: &str = r#"chroot "$1" sh -c 'set -e; cd /tmp; apt-get download libstd-rust-web-dev:arm64; dpkg-deb --extract libstd-rust-web-dev_*_arm64.deb /; rm libstd-rust-web-dev_*_arm64.deb'"#;

/// As cross's own images have it: with it, cargo finds the linker.
const LINKER: &str = "ENV CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc";

/// LLVM's linker knows relative relocations for ARM64 (3 KB for all pointers, which take 24 bytes each otherwise; glibc reads
/// them from 2.36 on), and keeps one of functions that came out the same.
const LINKING: &str = "ENV CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS=\"-Clink-arg=-B/usr/lib/llvm-16/bin \
    -Clink-arg=-fuse-ld=lld -Clink-arg=-Wl,-z,pack-relative-relocs,--icf=all\"";

/// Further arguments of mmdebstrap.
const ARGUMENTS: [&str; 6] = [
    "--variant=apt",
    "--architectures=amd64,arm64",
    "--aptopt=APT::Install-Recommends \"false\"",
    "--dpkgopt=force-unsafe-io",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
];

/// Finds the image, or makes it, once; its name.
///
/// # Errors
///
/// mmdebstrap or the engine fails, having said why.
pub(super) fn get(engine: &Engine) -> Result<String, String> {
    let name = name();
    if shell::works(&mut engine.command(&["image", "inspect", &name])) {
        println!("image: {name}, made before");
        return Ok(name);
    }
    heading(format!("Making the image {name} from Debian packages (about two minutes, once)"));
    let folder = super::folder();
    let failed = |error| format!("{}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(failed)?;
    let acquire = folder.join("apt.conf");
    fs::write(&acquire, acquiring(&shell::output(Command::new("apt-config").args(["dump", "Acquire"]))?))
        .map_err(failed)?;

    let mut make = Command::new("mmdebstrap");
    make.args(ARGUMENTS).arg(format!("--include={PACKAGES}")).arg(format!("--customize-hook={LIBRARY}"));
    make.arg(format!("--aptopt={}", acquire.display())).args([SUITE, "-"]);
    let format = "--format=$(ORIGIN)\t$(LABEL)\t$(REPO_URI)";
    let targets = shell::output(Command::new("apt-get").args(["indextargets", format, "Created-By: Packages"]))?;
    make.args(sources(&targets));
    let mut make = make
        .current_dir("/")
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("mmdebstrap: {error}; on Debian: apt-get install mmdebstrap"))?;
    let root = make.stdout.take().expect("standard output was asked for");
    let mut import = engine.command(&["import", "--change", LINKER, "--change", LINKING, "-", &name]);
    let imported = shell::run_with(&mut import, root);
    let ended = make.wait().map_err(|error| format!("mmdebstrap: {error}"))?;
    // A root that ended early is a root that was imported.
    if !ended.success() {
        shell::works(&mut engine.command(&["rmi", &name]));
        return Err(format!("mmdebstrap failed: {ended}"));
    }
    imported?;
    Ok(name)
}

/// Another recipe is another image.
fn name() -> String {
    let mut recipe = Sha256::new();
    for part in ARGUMENTS.into_iter().chain([SUITE, PACKAGES, LIBRARY, LINKER, LINKING]) {
        recipe.update(part);
        recipe.update("\n");
    }
    let digest = recipe.finalize();
    format!("tidegate-cross:{SUITE}-{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3])
}

/// The lines of the machine's `apt-config dump` that say how to get at a mirror, less those of what to get.
fn acquiring(dump: &str) -> String {
    const WANTED: [&str; 4] = ["Acquire::http", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv"];
    let lines = dump.lines().filter(|line| WANTED.iter().any(|prefix| line.starts_with(prefix)));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// Where Debian's packages come from on this machine, as lines for mmdebstrap; none where it is not a Debian, which
/// leaves the choice to mmdebstrap. `targets` has origin, label and address of each index.
fn sources(targets: &str) -> Vec<String> {
    let of = |wanted: &str| {
        targets.lines().find_map(|line| {
            let mut fields = line.split('\t');
            let found = (fields.next()?, fields.next()?, fields.next()?);
            (found.0 == "Debian" && found.1 == wanted).then(|| found.2.to_owned())
        })
    };
    match (of("Debian"), of("Debian-Security")) {
        (Some(main), Some(security)) => {
            vec![format!("deb {main} {SUITE} main"), format!("deb {security} {SUITE}-security main")]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_come_from_where_the_machine_has_its_own() {
        let targets = "\
Somebody\tTools\thttp://tools.example/apt/
Debian\tDebian\thttp://mirror.example/debian/
Debian\tDebian\thttp://mirror.example/debian/
Debian\tDebian-Security\thttp://mirror.example/security/
";
        assert_eq!(
            sources(targets),
            [
                "deb http://mirror.example/debian/ bookworm main",
                "deb http://mirror.example/security/ bookworm-security main"
            ]
        );
        assert_eq!(sources("Ubuntu\tUbuntu\thttp://mirror.example/ubuntu/\n"), Vec::<String>::new());
    }

    #[test]
    fn a_proxy_is_used_and_other_indexes_are_left() {
        let dump = "Acquire \"\";\nAcquire::IndexTargets::deb \"\";\nAcquire::http::Proxy \"http://proxy.example:3128\";\n\
                    Acquire::Check-Valid-Until \"false\";\nAcquire::Languages \"none\";\n";
        assert_eq!(
            acquiring(dump),
            "Acquire::http::Proxy \"http://proxy.example:3128\";\nAcquire::Check-Valid-Until \"false\";\n"
        );
    }
}
