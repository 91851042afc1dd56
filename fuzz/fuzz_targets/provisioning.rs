//! `provision.toml`, as anybody who reaches the boot partition could write it.

#![no_main]

#[path = "../src/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::provisioning(bytes));
