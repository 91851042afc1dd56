//! What makes the program smaller.
//!
//! The eBPF object goes into it deflated, which takes a seventh of the room; it is needed once, at the start.
//!
//! Where panics abort instead of unwinding, what only unwinding needs is left out: a seventh of the program.
//! rustc has a switch for that (`-C force-unwind-tables=no`), which reaches neither the standard library's code nor whoever
//! builds without our `RUSTFLAGS`. The linker sees all of it, in every build. What is lost is the list of calls behind a
//! panic's message; the symbols that would name them are stripped anyway.

use std::{env, fs, io::Write as _, path::PathBuf};

use flate2::{Compression, write::ZlibEncoder};

const OBJECT: &str = "../ebpf/probes/tidegate-probes.o";
const SCRIPT: &str = "without-unwinding.ld";

fn main() {
    println!("cargo::rerun-if-changed={OBJECT}");
    let object = fs::read(OBJECT).expect("the repository has the object");
    let mut deflated = ZlibEncoder::new(Vec::new(), Compression::best());
    deflated.write_all(&object).expect("memory takes it");
    let deflated = deflated.finish().expect("memory takes it");
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(folder.join("tidegate-probes.o.zlib"), deflated).expect("cargo's folder can be written");

    println!("cargo::rerun-if-changed={SCRIPT}");
    // CARGO_CFG_PANIC does not follow the profile; ours for releases has panic = "abort". Tests link another way.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{folder}/{SCRIPT}");
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
    }
}
