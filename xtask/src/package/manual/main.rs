//! Writes the man pages and the shells' completions into a folder, from the command line's own definition and the
//! table of the configuration's keys.
//!
//! A program of its own, because it is linked with the daemon's library, and `cargo xtask` must start without that.

mod commands;
mod configuration;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser};
use clap_complete::Shell;
use tidegate::cli::Cli;

#[derive(Parser)]
#[command(about = "Run by `cargo xtask package`")]
struct Arguments {
    /// Where to write: `man/` and `completions/` are made in it
    folder: PathBuf,
    /// Date of the pages, YYYY-MM-DD
    #[arg(long, value_name = "DATE")]
    date: String,
}

fn main() -> ExitCode {
    let Arguments { folder, date } = Arguments::parse();
    match pages(&folder.join("man"), &date).and_then(|()| completions(&folder.join("completions"))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

/// `tidegate(1)`, a page for each subcommand, and `tidegate.toml(5)`.
fn pages(folder: &Path, date: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    commands::write(&command, folder, date)?;
    fs::write(folder.join("tidegate.toml.5"), configuration::page(date))
}

/// By the names under which bash, zsh and fish look for them.
fn completions(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (shell, file) in [(Shell::Bash, "tidegate"), (Shell::Zsh, "_tidegate"), (Shell::Fish, "tidegate.fish")] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut text);
        fs::write(folder.join(file), text)?;
    }
    Ok(())
}
