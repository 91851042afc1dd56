//! Sidecars, as any local program could write them.

#![no_main]

#[path = "../src/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::upload_sidecar(bytes));
