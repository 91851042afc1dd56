//! The binary: arguments in, exit status out. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use tidegate_fleet::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
