//! `docs/policy.md`, line by line: what is typed there runs, with openssl, and prints what the page says. What is typed at the
//! gateway needs a daemon, and all else none.

use std::{env, path::Path, process::Command};

use tidegate_tests::{Daemon, Gateway, Scratch, need, requires};

const PAGE: &str = include_str!("../../../docs/policy.md");

/// The section of what is typed at a gateway.
const AT_THE_GATEWAY: &str = "## At the gateway";

/// What is typed in that section of the page, or in all others, and what comes back; `…` stands for anything.
fn typed_and_printed(at_the_gateway: bool) -> (String, Vec<&'static str>) {
    let (mut typed, mut printed, mut is_session) = (String::from("set -eu\n"), Vec::new(), false);
    let mut section = "";
    for line in PAGE.lines() {
        if line.starts_with("## ") {
            section = line;
        }
        if (section == AT_THE_GATEWAY) != at_the_gateway {
            continue;
        }
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

/// Types that part of the page in a folder, where `daemon` runs or not, and compares what it prints.
#[track_caller]
fn type_in(folder: &Scratch, daemon: &Daemon, at_the_gateway: bool) {
    let tidegate = daemon.command(&[]);
    let program = Path::new(tidegate.get_program());
    let path =
        format!("{}:{}", program.parent().expect("it has a folder").display(), env::var("PATH").expect("it is set"));
    let (typed, printed) = typed_and_printed(at_the_gateway);
    let output = Command::new("bash")
        .args(["-c", &typed])
        .envs(tidegate.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("PATH", path)
        .current_dir(folder.path())
        .output()
        .expect("bash is there");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{typed}\n→ {out}{err}");
    let found: Vec<_> = out.lines().collect();
    let alike = printed.len() == found.len() && printed.iter().zip(&found).all(|(said, found)| is_as_said(said, found));
    assert!(alike && found.len() >= 9, "{out}\nwanted: {printed:#?}");
}

#[test]
fn each_line_of_the_page_about_policies_prints_what_the_page_says() {
    requires!(need::program("openssl"), need::program("bash"));
    type_in(&Scratch::new("author"), &Daemon::builder().prepare(), false);
}

#[test]
fn each_line_that_is_typed_at_the_gateway_prints_what_the_page_says() {
    requires!(crate::needs(), need::program("openssl"), need::program("bash"));
    let folder = Scratch::new("author");
    type_in(&folder, &Daemon::builder().prepare(), false);
    let net = Gateway::new();
    let key = folder.path().join("policy.pem");
    let daemon = Daemon::builder()
        .inside(&net.gateway)
        .nameless()
        .config(&format!("[gateway]\nid = \"gw-7\"\n[policy]\npublic_keys = [\"{}\"]", key.display()))
        .config("[traffic]\ninterfaces = [\"eth*\"]")
        .start();
    type_in(&folder, &daemon, true);
}
