//! What cross asks of rustup, and who answers.
//!
//! cross 0.2.5 asks for the toolchains, the targets and the component `rust-src`, and has rustup download whatever it
//! does not find in the answers. It does not find the toolchain in those of a rustup from 1.28 on (`(active, default)`
//! in place of `(default)`), and `rust-src` is seldom there. So a stand-in answers, which comes first on PATH for this
//! one call. What it says is true of the compiler that will be used: the caller's, or the image's, which goes before
//! the caller's in the container.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::shell;

/// Whether the caller's rustup has the target for the toolchain that is in force here.
pub(super) fn has(target: &str) -> bool {
    let mut list = Command::new("rustup");
    // It may not mend what it finds incomplete.
    list.current_dir(crate::workspace()).env("RUSTUP_AUTO_INSTALL", "0").args(["target", "list", "--installed"]);
    shell::quietly(&mut list).is_ok_and(|(status, said)| status.success() && said.lines().any(|line| line == target))
}

/// Puts the stand-in first on the command's PATH.
///
/// # Errors
///
/// There is no compiler on this machine (cross asks it for its name), or the stand-in cannot be written.
pub(super) fn stand_in(command: &mut Command, target: &str) -> Result<(), String> {
    let sysroot = shell::output(
        Command::new("rustc")
            .current_dir(crate::workspace())
            .env("RUSTUP_AUTO_INSTALL", "0")
            .args(["--print", "sysroot"]),
    )?;
    // cross takes the folder's name for the toolchain's: `usr` with Debian's compiler.
    let toolchain = Path::new(sysroot.trim()).file_name().unwrap_or_default().to_string_lossy();
    let folder = super::folder().join("stand-in");
    let program = folder.join("rustup");
    let failed = |error| format!("{}: {error}", program.display());
    fs::create_dir_all(&folder).map_err(failed)?;
    fs::write(&program, script(&toolchain, target)).map_err(failed)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).map_err(failed)?;

    let path = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder).chain(env::split_paths(&path)).collect::<Vec<PathBuf>>();
    let path = env::join_paths(folders).map_err(|error| format!("PATH: {error}"))?;
    command.env("PATH", path).env("RUSTUP_AUTO_INSTALL", "0");
    Ok(())
}

/// The stand-in.
fn script(toolchain: &str, target: &str) -> String {
    format!(
        "#!/bin/sh
# Written by `cargo xtask cross`: answers what cross asks rustup, and downloads nothing.
case \"$*\" in
'toolchain list'*) echo '{toolchain} (default)' ;;
'target list'*) echo '{target} (installed)' ;;
'component list'*) echo 'rust-src (installed)' ;;
*)
    echo \"cargo xtask cross lets rustup download nothing; cross asked for: rustup $*\" >&2
    exit 1
    ;;
esac
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(arguments: &[&str]) -> (bool, String) {
        let mut sh = Command::new("sh");
        sh.arg("-c").arg(script("stable-x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")).arg("rustup");
        let (status, said) = shell::quietly(sh.args(arguments)).unwrap();
        (status.success(), said)
    }

    #[test]
    fn cross_is_told_that_all_it_asks_for_is_there() {
        let toolchain = "stable-x86_64-unknown-linux-gnu";
        assert_eq!(answer(&["toolchain", "list"]), (true, format!("{toolchain} (default)")));
        let targets = answer(&["target", "list", "--toolchain", toolchain]);
        assert_eq!(targets, (true, "aarch64-unknown-linux-gnu (installed)".to_owned()));
        let components = answer(&["component", "list", "--toolchain", toolchain]);
        assert_eq!(components, (true, "rust-src (installed)".to_owned()));
    }

    #[test]
    fn a_download_is_refused_and_named() {
        let (done, said) = answer(&["--quiet", "target", "add", "aarch64-unknown-linux-gnu"]);
        assert!(!done && said.ends_with("rustup --quiet target add aarch64-unknown-linux-gnu"), "{said}");
    }
}
