//! Leaves out of the program what only unwinding needs, where panics abort instead: a seventh of it.
//!
//! rustc has a switch for that (`-C force-unwind-tables=no`), which reaches neither the standard library's code nor whoever
//! builds without our `RUSTFLAGS`. The linker sees all of it, in every build. What is lost is the list of calls behind a
//! panic's message; the symbols that would name them are stripped anyway.

use std::env;

const SCRIPT: &str = "without-unwinding.ld";

fn main() {
    println!("cargo::rerun-if-changed={SCRIPT}");
    // CARGO_CFG_PANIC does not follow the profile; ours for releases has panic = "abort". Tests link another way.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{folder}/{SCRIPT}");
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
    }
}
