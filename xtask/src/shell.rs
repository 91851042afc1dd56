//! Running programs so that a person can follow.

use std::{
    fmt::Display,
    io::{BufRead as _, BufReader, IsTerminal as _, Read},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread,
};

/// Prints the heading of a step.
pub(crate) fn heading(text: impl Display) {
    if std::io::stdout().is_terminal() {
        println!("\n\x1b[1m== {text}\x1b[0m");
    } else {
        println!("\n== {text}");
    }
}

/// A cargo command in the workspace, of the cargo that runs xtask.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(crate::workspace());
    // Those that cargo set for xtask itself would make every build script run again.
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("CARGO_PKG_") || key == "CARGO_MANIFEST_DIR" {
            command.env_remove(key);
        }
    }
    command
}

/// The command line, to be copied into a shell; cargo by its name, wherever it is.
pub(crate) fn line(command: &Command) -> String {
    let program = match Path::new(command.get_program()).file_name() {
        Some(name) if name == "cargo" => name,
        _ => command.get_program(),
    };
    let words = std::iter::once(program).chain(command.get_args());
    words
        .map(|word| {
            let word = word.to_string_lossy();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
            if !word.is_empty() && word.chars().all(plain) {
                word.into_owned()
            } else {
                format!("'{}'", word.replace('\'', r"'\''"))
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs it with its output on the terminal.
///
/// # Errors
///
/// It cannot be started, or fails: with the command line to run it again.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("{}: {error}", line(command)))?;
    judge(command, status)
}

/// Runs it and returns what it wrote to standard output; standard error goes to the terminal.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| format!("{}: {error}", line(command)))?;
    judge(command, output.status)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether it can be run and succeeds; its output is dropped.
pub(crate) fn works(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs it with its output on the terminal, and shows each line of standard output to `see` as well.
///
/// # Errors
///
/// It cannot be started.
pub(crate) fn watch(command: &mut Command, mut see: impl FnMut(&str)) -> Result<ExitStatus, String> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| format!("{}: {error}", line(command)))?;
    let pipe = child.stdout.take().expect("standard output was asked for");
    for text in lines(pipe) {
        println!("{text}");
        see(&text);
    }
    child.wait().map_err(|error| error.to_string())
}

/// Runs it with `input`; its standard output is dropped, standard error goes to the terminal.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn run_with(command: &mut Command, input: impl Into<Stdio>) -> Result<(), String> {
    let status = command.stdin(input).stdout(Stdio::null()).status();
    let status = status.map_err(|error| format!("{}: {error}", line(command)))?;
    judge(command, status)
}

/// Runs it, and returns how it ended with both its outputs, which are not shown.
///
/// # Errors
///
/// It cannot be started.
pub(crate) fn quietly(command: &mut Command) -> Result<(ExitStatus, String), String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", line(command)))?;
    let errors = child.stderr.take().expect("standard error was asked for");
    let errors = thread::spawn(move || lines(errors).collect::<Vec<_>>());
    let mut text: Vec<String> = lines(child.stdout.take().expect("standard output was asked for")).collect();
    text.extend(errors.join().expect("nothing in it panics"));
    Ok((child.wait().map_err(|error| error.to_string())?, text.join("\n")))
}

fn judge(command: &Command, status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(format!("{status}: {}", line(command))) }
}

fn lines(pipe: impl Read) -> impl Iterator<Item = String> {
    BufReader::new(pipe).split(b'\n').map_while(Result::ok).map(|line| String::from_utf8_lossy(&line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_pasted_into_a_shell() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo it's", "--a=b", ""]);
        assert_eq!(line(&command), r"sh -c 'echo it'\''s' --a=b ''");
    }
}
