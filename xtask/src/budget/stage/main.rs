//! The stage of `cargo xtask budget`: measures the installed package in the emulated gateway.
//!
//! One figure a line on standard output, as JSON; what it does on standard error.

mod idle;
mod memory;
mod programs;
mod ready;

use tidegate_tests::vm::{self, Kernel};

/// A name of `cross/budget.toml`, and the figure in its unit.
type Figure = (String, f64);
type Measure = fn() -> Vec<Figure>;

fn main() {
    if let Err(why) = vm::available() {
        eprintln!("error: {why}");
        std::process::exit(1);
    }
    let parts: [(&str, Measure); 5] = [
        ("memory, idle and with 10,000 flows", memory::measure),
        ("instructions that the verifier walks through, on 6.12", || programs::measure(Kernel::Linux6_12)),
        ("the same on 6.1", || programs::measure(Kernel::Linux6_1)),
        ("start to ready, beside mosquitto", ready::measure),
        ("ten idle minutes", idle::measure),
    ];
    // For whoever changes one of them: only those whose description contains this.
    let wanted = std::env::args().nth(1).unwrap_or_default();
    for (what, measure) in parts.into_iter().filter(|(what, _)| what.contains(&wanted)) {
        eprintln!("-- {what}");
        for (name, value) in measure() {
            println!("{}", serde_json::json!({"name": name, "value": value}));
        }
    }
}
