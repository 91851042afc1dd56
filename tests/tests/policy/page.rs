//! `docs/policy.md`, line by line: what is typed there runs, with openssl and without a daemon, and prints what the page says.

use std::{env, path::Path, process::Command};

use tidegate_tests::{Daemon, Scratch, need, requires};

const PAGE: &str = include_str!("../../../docs/policy.md");

/// What is typed on the page, and what comes back; `…` stands for anything.
fn typed_and_printed() -> (String, Vec<&'static str>) {
    let (mut typed, mut printed, mut is_session) = (String::from("set -eu\n"), Vec::new(), false);
    for line in PAGE.lines() {
        let Some(text) = line.strip_prefix("    ") else {
            is_session = false;
            continue;
        };
        is_session |= text.starts_with("$ ");
        if !is_session {
            continue;
        }
        match text.strip_prefix("$ ").or_else(|| text.strip_prefix("> ")) {
            Some(command) => typed += &format!("{command}\n"),
            None => printed.push(text),
        }
    }
    (typed, printed)
}

fn is_as_said(said: &str, found: &str) -> bool {
    match said.split_once('…') {
        Some((begin, end)) => found.starts_with(begin) && found.ends_with(end),
        None => said == found,
    }
}

#[test]
fn each_line_of_the_page_about_policies_prints_what_the_page_says() {
    requires!(need::program("openssl"), need::program("bash"));
    let daemon = Daemon::builder().prepare();
    let program = Path::new(daemon.command(&[]).get_program()).to_owned();
    let folder = Scratch::new("author");
    let path =
        format!("{}:{}", program.parent().expect("it has a folder").display(), env::var("PATH").expect("it is set"));
    let (typed, printed) = typed_and_printed();
    let output = Command::new("bash")
        .args(["-c", &typed])
        .env("PATH", path)
        .current_dir(folder.path())
        .output()
        .expect("bash is there");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{typed}\n→ {out}{err}");
    let found: Vec<_> = out.lines().collect();
    let alike = printed.len() == found.len() && printed.iter().zip(&found).all(|(said, found)| is_as_said(said, found));
    assert!(alike && found.len() >= 10, "{out}\nwanted: {printed:#?}");
}
