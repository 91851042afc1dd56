//! Bundles, as anybody whose signature counts could write them.

#![no_main]

#[path = "../src/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::bundle(bytes));
