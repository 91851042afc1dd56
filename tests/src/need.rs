//! What a scenario needs, and how it is skipped where that is missing.
//!
//! A skipped scenario counts as passed for `libtest`, so it must never be silent: it prints `skipped: …`, and
//! adds a line to the file that `TIDEGATE_SKIPPED` names, from which `cargo xtask test` lists and counts it.

use std::{fs::OpenOptions, io::Write as _, panic::Location, path::PathBuf};

/// `Err` says what is missing and what would mend it.
pub type Need = Result<(), String>;

/// The effective user is root, and a root that may make network namespaces, as that of many containers may not.
///
/// # Errors
///
/// It is not.
pub fn root() -> Need {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root: network namespaces and eBPF; run `cargo xtask test`".to_owned());
    }
    // A thread of its own, because only a thread's end undoes its move.
    let tried = std::thread::spawn(|| {
        // SAFETY: a new network namespace invalidates nothing that this thread holds.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
    });
    let made = tried.join().expect("nothing in it panics");
    made.map_err(|error| format!("needs network namespaces, which root may not make here: {error}"))
}

/// A program is on PATH, or where Debian keeps the administrator's.
///
/// # Errors
///
/// It is not.
pub fn program(name: &str) -> Need {
    find(name).map(|_path| ()).ok_or_else(|| format!("needs the program {name}; `cargo xtask test` installs it"))
}

/// Where a program is.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// Node and what [`TusNode`](crate::upload::TusNode) runs: `@tus/server`.
///
/// # Errors
///
/// One of them is not there.
#[cfg(feature = "upload")]
pub fn tus_node() -> Need {
    crate::upload::tus_node()
}

/// Python and what [`TusChecksum`](crate::upload::TusChecksum) runs: `resumable-upload`.
///
/// # Errors
///
/// One of them is not there.
#[cfg(feature = "upload")]
pub fn tus_checksum() -> Need {
    crate::upload::tus_checksum()
}

/// An nginx that can be a [`Dav`](crate::upload::Dav).
///
/// # Errors
///
/// There is none, or it was built without DAV, TLS or HTTP/2.
#[cfg(feature = "upload")]
pub fn dav() -> Need {
    crate::upload::dav()
}

/// Whether the big counts are wanted: `cargo xtask test --long`.
#[must_use]
pub fn long() -> bool {
    std::env::var_os("TIDEGATE_LONG").is_some()
}

/// Says that the running test is skipped, and why. [`requires!`](crate::requires) and [`skip!`](crate::skip)
/// call this and return from the test.
#[track_caller]
pub fn note_skip(why: &str) {
    let thread = std::thread::current();
    let at = Location::caller();
    // libtest names a test's thread after it, except where it runs all on the main thread.
    let test = match thread.name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => format!("{}:{}", at.file(), at.line()),
    };
    // One skip is one line, so that lines can be counted.
    let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
    println!("skipped: {test}: {why}");
    if let Some(file) = std::env::var_os("TIDEGATE_SKIPPED") {
        let line = format!("{test}: {why}\n");
        // One write, so that lines of several processes do not mix.
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .unwrap_or_else(|error| panic!("TIDEGATE_SKIPPED={}: {error}", file.display()));
    }
}

/// Skips the test, saying why.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {{
        $crate::need::note_skip(&format!($($why)*));
        return;
    }};
}

/// Skips the test unless all of these [`Need`]s are met.
#[macro_export]
macro_rules! requires {
    ($($need:expr),+ $(,)?) => {$(
        if let Err(why) = $need {
            $crate::skip!("{why}");
        }
    )+};
}
