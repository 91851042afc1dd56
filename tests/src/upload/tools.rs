//! Where the servers' programs are.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::need::{self, Need};

/// Folder with npm's packages: `TIDEGATE_TUS_NODE`, or where xtask puts them.
pub(crate) fn node_folder() -> Option<PathBuf> {
    folder("TIDEGATE_TUS_NODE", "tus-node")
}

/// Folder with PyPI's packages: `TIDEGATE_TUS_PYTHON`, or where xtask puts them.
pub(crate) fn python_folder() -> Option<PathBuf> {
    folder("TIDEGATE_TUS_PYTHON", "tus-python")
}

/// The one that `variable` names, or `target/tools/NAME`; xtask writes the file `installed` last.
fn folder(variable: &str, name: &str) -> Option<PathBuf> {
    let told = std::env::var_os(variable).map(PathBuf::from);
    let found = told.or_else(|| {
        // target/debug/deps/TEST, or target/release/PROGRAM.
        let running = std::env::current_exe().ok()?;
        let above = running.ancestors().skip(1).take(3);
        above.map(|folder| folder.join("tools").join(name)).find(|folder| folder.is_dir())
    });
    found.filter(|folder| folder.join("installed").is_file())
}

/// What [`super::TusNode`] runs in.
pub(crate) fn tus_node() -> Need {
    need::program("node")?;
    installed(node_folder(), "@tus/server of npm")
}

/// What [`super::TusChecksum`] runs in.
pub(crate) fn tus_checksum() -> Need {
    need::program("python3")?;
    installed(python_folder(), "resumable-upload of PyPI")
}

fn installed(folder: Option<PathBuf>, what: &str) -> Need {
    folder.map(drop).ok_or_else(|| format!("needs {what}; `cargo xtask test` installs it, or says why it cannot"))
}

/// What [`super::Dav`] is.
pub(crate) fn dav() -> Need {
    need::program("nginx")?;
    let nginx = need::find("nginx").unwrap_or_default();
    let output = Command::new(nginx).arg("-V").output().map_err(|error| format!("needs nginx -V: {error}"))?;
    let built = String::from_utf8_lossy(&output.stderr).into_owned();
    let missing: Vec<&str> =
        ["http_dav_module", "http_ssl_module", "http_v2_module"].into_iter().filter(|it| !built.contains(it)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("needs an nginx with {}", missing.join(", "))) }
}

/// A command that uploads `file` to the tus server at `url` with tus-js-client, in PATCH requests of `part` bytes where
/// that is given. It prints the URL of the upload and exits with 0 when the server has all of it.
///
/// # Panics
///
/// Where it is not installed; see [`need::tus_node`].
#[must_use]
#[track_caller]
pub fn tus_js_client(url: &str, file: &Path, part: Option<u64>) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("upload/tus-js-client.mjs");
    let mut command = Command::new("node");
    command.arg(script).arg(url).arg(file).args(part.map(|part| part.to_string())).stdin(Stdio::null());
    command.env("TIDEGATE_TUS_NODE", node_folder().expect("tus-js-client is installed"));
    command
}
