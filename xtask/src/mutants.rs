//! `cargo xtask mutants`: changes one comparison of the policy compiler after the other, and shows that its tests notice.
//!
//! A test that never fails proves nothing. Each change below makes a compiler that judges some packet otherwise than the
//! bundle says, or refuses what it should take; the tests of `daemon/policy/src/compile` must fail with each, and pass
//! without any.
//!
//! The changes are made in a copy of the compiler below `target/mutants`, in a tree of links to all other sources. Built
//! is its crate with its tests, once for each.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::shell::{self, cargo, heading};

/// What is mutated.
const COMPILER: &str = "daemon/policy/src/compile";
/// Its tests.
const TESTS: &str = "compile::";

/// A change: the file, what stands there exactly once, and what stands there instead.
struct Mutant {
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

const MUTANTS: [Mutant; 14] = [
    // A prefix ends before one that begins with its last address.
    Mutant { file: "sweep.rs", from: "*last < first", to: "*last <= first" },
    // A last interval of one address is left out.
    Mutant { file: "sweep.rs", from: "next <= last", to: "next < last" },
    // Nested prefixes that begin together are one.
    Mutant { file: "sweep.rs", from: "(a.first, a.length) == (b.first, b.length)", to: "a.first == b.first" },
    // What is on a prefix twice, by nested prefixes, counts twice; all others do not count.
    Mutant { file: "families.rs", from: "entry.part.rule != outer.rule", to: "entry.part.rule == outer.rule" },
    // Any address between two others of its class is told apart, as if no others lay beside it.
    Mutant { file: "families.rs", from: "before + 1 == low", to: "before + 1 <= low" },
    // The high half in which an interval ends is not begun.
    Mutant { file: "families.rs", from: "if high > self.next {\n", to: "if high >= self.next {\n" },
    // 64 rules are too many.
    Mutant { file: "families.rs", from: "found > MAX_CANDIDATES", to: "found >= MAX_CANDIDATES" },
    // The last port of a range is not in it.
    Mutant { file: "decide.rs", from: "range.last < port", to: "range.last <= port" },
    // The first port is not.
    Mutant { file: "decide.rs", from: "range.first <= port", to: "range.first < port" },
    // Of two rules for the same interfaces the second decides, too.
    Mutant { file: "decide.rs", from: "seen >> list & 1 == 0", to: "seen >> list & 1 != 0" },
    // A decision by port is given up though it differs where no port is known.
    Mutant { file: "decide.rs", from: "segments.decisions == [unknown]", to: "segments.decisions.len() == 1" },
    // A rule without further conditions does not end what is asked.
    Mutant { file: "decide.rs", from: "if !part.is_open {", to: "if part.is_open {" },
    // A node's eighth interval has no upper end.
    Mutant { file: "space.rs", from: "intervals < greatest.len()", to: "intervals + 1 < greatest.len()" },
    // Decisions that differ by protocol or direction are taken for one.
    Mutant { file: "classes.rs", from: "|decision| *decision == first", to: "|decision| *decision >= first" },
];

/// Tries all.
///
/// # Errors
///
/// A mutant passes the tests, or does not build; or the tests fail without one.
pub(crate) fn run() -> Result<(), String> {
    let root = crate::target().join("mutants");
    plant(&root).map_err(|error| format!("{}: {error}", root.display()))?;
    heading("No mutant");
    if !passes(&root)? {
        return Err(format!("the tests of {COMPILER} fail without a change"));
    }
    let mut survivors = Vec::new();
    for mutant in &MUTANTS {
        heading(format!("{}: {} -> {}", mutant.file, mutant.from.trim(), mutant.to.trim()));
        let path = root.join(COMPILER).join(mutant.file);
        let original = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let write = |text: &str| fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()));
        write(&mutant.applied(&original)?)?;
        if passes(&root)? {
            println!("survived");
            survivors.push(format!("{}: {}", mutant.file, mutant.to.trim()));
        } else {
            println!("caught");
        }
        write(&original)?;
    }
    if survivors.is_empty() {
        println!("\nall {} mutants are caught", MUTANTS.len());
        Ok(())
    } else {
        Err(format!("no test notices: {}", survivors.join("; ")))
    }
}

impl Mutant {
    /// The source with the change.
    fn applied(&self, source: &str) -> Result<String, String> {
        match source.matches(self.from).count() {
            1 => Ok(source.replace(self.from, self.to)),
            count => Err(format!("{}: {:?} stands there {count} times, and should once", self.file, self.from)),
        }
    }
}

/// Whether the tests pass. That they build is checked by itself, so that what does not build is not taken for caught.
fn passes(root: &Path) -> Result<bool, String> {
    let tests = |arguments: &[&str]| {
        let mut command = cargo(&[&["test", "--quiet", "--package", "tidegate-policy", "--lib"], arguments].concat());
        command.current_dir(root).env("CARGO_TARGET_DIR", crate::target()).env("RUST_BACKTRACE", "0");
        command
    };
    shell::run(&mut tests(&["--no-run"]))?;
    Ok(shell::quietly(&mut tests(&[TESTS]))?.0.success())
}

/// Makes the tree: all is links to what stands in the workspace, but for the compiler and the folders on the way to it.
fn plant(root: &Path) -> io::Result<()> {
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    let (mut from, mut to) = (crate::workspace().to_owned(), root.to_owned());
    for step in Path::new(COMPILER) {
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(&from)? {
            let name = entry?.file_name();
            // What fails here must not be written down as if the compiler itself had failed.
            if name != step && !["target", ".git", "proptest-regressions"].iter().any(|left_out| name == *left_out) {
                symlink(from.join(&name), to.join(&name))?;
            }
        }
        from.push(step);
        to.push(step);
    }
    copy(&from, &to)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to: PathBuf = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mutant_has_its_place_in_the_compiler() {
        for mutant in &MUTANTS {
            let path = crate::workspace().join(COMPILER).join(mutant.file);
            let source = fs::read_to_string(path).unwrap();
            assert_ne!(mutant.applied(&source).unwrap(), source);
        }
    }
}
