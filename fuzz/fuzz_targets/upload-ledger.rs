//! Ledgers of uploads, as a crash or a rotten disk could leave them.

#![no_main]

#[path = "../src/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::upload_ledger(bytes));
