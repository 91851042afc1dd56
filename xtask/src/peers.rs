//! Peers of the upload scenarios that are no Debian packages: a tus server and a tus client of npm's, and a tus server
//! with checksums of PyPI's.
//!
//! `tests/upload` pins them, by version and hash. They are installed below `target/tools`, in a folder each with the
//! SHA-256 of its pins in the file `installed`, which is written last: nothing is done where it fits. Registries are those
//! that npm and pip are configured for.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest as _, Sha256};

use crate::shell;

/// Installs what is missing, and returns the variables by which scenarios find it. What cannot be had here is told;
/// scenarios that need it are skipped then.
pub(crate) fn install() -> Vec<(&'static str, String)> {
    let mut variables = Vec::new();
    for peer in [NODE, PYTHON] {
        match peer.get() {
            Ok(folder) => variables.push((peer.variable, folder.display().to_string())),
            Err(why) => println!("{} left out: {why}", peer.what),
        }
    }
    variables
}

/// Packages that are installed into one folder.
#[derive(Clone, Copy, Debug)]
struct Peer {
    what: &'static str,
    /// Tells scenarios the folder.
    variable: &'static str,
    /// Its name below `target/tools`.
    folder: &'static str,
    /// Files of `tests/upload` that say what is installed; they are copied into the folder.
    pins: &'static [&'static str],
    /// The programs that it takes, each with a version that is new enough.
    programs: &'static [(&'static str, [u32; 2])],
    /// Run in the folder.
    command: &'static [&'static str],
}

const NODE: Peer = Peer {
    what: "tus server and client of npm",
    variable: "TIDEGATE_TUS_NODE",
    folder: "tus-node",
    pins: &["package.json", "package-lock.json"],
    programs: &[("node", [20, 19]), ("npm", [9, 0])],
    command: &["npm", "ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund"],
};

/// Without a virtual environment, for which Debian has a package of its own: nothing here has dependencies.
const PYTHON: Peer = Peer {
    what: "tus server of PyPI",
    variable: "TIDEGATE_TUS_PYTHON",
    folder: "tus-python",
    pins: &["requirements.txt"],
    programs: &[("python3", [3, 9])],
    command: &[
        "python3",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--require-hashes",
        "--target=.",
        "--requirement=requirements.txt",
    ],
};

impl Peer {
    /// Its folder, in which it is installed.
    fn get(&self) -> Result<PathBuf, String> {
        let folder = crate::target().join("tools").join(self.folder);
        let pinned = self.pinned().map_err(|error| format!("tests/upload: {error}"))?;
        let installed = folder.join("installed");
        if fs::read_to_string(&installed).is_ok_and(|found| found == pinned) {
            return Ok(folder);
        }
        for (program, wanted) in self.programs {
            new_enough(program, *wanted)?;
        }
        println!("{}: installing it below {}", self.what, folder.display());
        self.empty(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let [program, arguments @ ..] = self.command else { unreachable!("each has a command") };
        shell::run(Command::new(program).args(arguments).current_dir(&folder))?;
        fs::write(&installed, pinned).map_err(|error| format!("{}: {error}", installed.display()))?;
        Ok(folder)
    }

    /// Hash of the pins.
    fn pinned(&self) -> io::Result<String> {
        let mut hash = Sha256::new();
        for pin in self.pins {
            hash.update(fs::read(pins().join(pin))?);
        }
        Ok(format!("{:x}", hash.finalize()))
    }

    /// Makes the folder anew, with the pins in it.
    fn empty(&self, folder: &Path) -> io::Result<()> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        self.pins.iter().try_for_each(|pin| fs::copy(pins().join(pin), folder.join(pin)).map(drop))
    }
}

fn pins() -> PathBuf {
    crate::workspace().join("tests/upload")
}

/// Whether a program is there and says `--version` of at least this.
fn new_enough(program: &str, wanted: [u32; 2]) -> Result<(), String> {
    let said = Command::new(program).arg("--version").output();
    let said = said.map_err(|error| format!("{program} cannot be run: {error}"))?.stdout;
    let said = String::from_utf8_lossy(&said);
    let found = version(&said).ok_or_else(|| format!("{program} --version says {:?}", said.trim()))?;
    if found < wanted {
        return Err(format!("needs {program} {}.{} or newer, this is {}", wanted[0], wanted[1], said.trim()));
    }
    Ok(())
}

/// The first two numbers of `v20.19.2` or `Python 3.11.2`.
fn version(said: &str) -> Option<[u32; 2]> {
    let start = said.find(|c: char| c.is_ascii_digit())?;
    let mut numbers = said[start..].trim().split('.').map_while(|part| part.parse().ok());
    Some([numbers.next()?, numbers.next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_programs_say_them() {
        assert_eq!(version("v20.19.2\n"), Some([20, 19]));
        assert_eq!(version("Python 3.11.2\n"), Some([3, 11]));
        assert_eq!(version("9.2\n"), Some([9, 2]));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn pins_name_versions_and_hashes_and_no_registry() {
        let lock = fs::read_to_string(pins().join("package-lock.json")).unwrap();
        let lock: serde_json::Value = serde_json::from_str(&lock).unwrap();
        for (name, package) in lock["packages"].as_object().unwrap().iter().filter(|(name, _)| !name.is_empty()) {
            assert!(package["integrity"].is_string() && package["resolved"].is_null(), "{name}: {package}");
        }
        let requirements = fs::read_to_string(pins().join("requirements.txt")).unwrap();
        assert!(requirements.contains("--hash=sha256:") && !requirements.contains("://"));
    }
}
