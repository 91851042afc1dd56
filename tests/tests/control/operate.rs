//! `docs/operate.md`, line by line: what is typed there runs against a real broker and a real daemon, and what comes back is
//! what the page says.

use std::{process::Command, time::Duration};

use tidegate_tests::{Broker, Daemon, NotifySocket, Scratch, eventually, need, requires};

use crate::SOON;

const PAGE: &str = include_str!("../../../docs/operate.md");

/// Commands that are typed one after the other, and what they print.
#[derive(Debug, Default)]
struct Session {
    heading: &'static str,
    commands: Vec<&'static str>,
    output: Vec<&'static str>,
}

/// The page's indented blocks, in order.
fn sessions() -> Vec<Session> {
    let mut sessions: Vec<Session> = Vec::new();
    let (mut heading, mut inside) = ("", false);
    for line in PAGE.lines() {
        heading = line.strip_prefix("## ").unwrap_or(heading);
        let Some(text) = line.strip_prefix("    ") else {
            inside = false;
            continue;
        };
        if !inside {
            sessions.push(Session { heading, ..Session::default() });
        }
        inside = true;
        let session = sessions.last_mut().expect("one was begun");
        match text.strip_prefix("$ ") {
            Some(command) => session.commands.push(command),
            None => session.output.push(text),
        }
    }
    sessions
}

/// Whether `text` is what `pattern` says, where `…` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('…');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn ellipses_stand_for_anything_and_the_rest_for_itself() {
    assert!(matches(r#"{"v":1,…"state":"online",…}"#, r#"{"v":1,"boot":"x","state":"online","ts_ms":1}"#));
    assert!(matches("plain", "plain") && !matches("plain", "plainer") && !matches("a…b", "ac"));
    assert!(!matches(r#"…"version":1,…"reason":…"#, r#"{"reason":"version","version":1}"#));
}

impl Session {
    /// Types it; what came back, where it is not as the page says.
    fn run(&self, place: &Place) -> Result<(), String> {
        let script = place.translate(&self.commands.join("\n"));
        let output = Command::new("bash")
            .args(["-c", &script])
            .current_dir(place.folder.path())
            .output()
            .expect("bash is there");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let expected: Vec<String> = self.output.iter().map(|line| place.translate(line)).collect();
        let found: Vec<&str> = out.lines().collect();
        let as_said =
            expected.len() == found.len() && expected.iter().zip(&found).all(|(line, found)| matches(line, found));
        // What only listens for a time prints what there is, which may be nothing.
        let listens = expected.is_empty() && self.commands.last().is_some_and(|last| last.contains(" -W "));
        // How a listener says that its time is over.
        let complaint = err.replace("Timed out", "");
        if (as_said || listens) && complaint.trim().is_empty() {
            return Ok(());
        }
        Err(format!("{script}\n→ {out}{complaint}\nwanted: {expected:#?}"))
    }
}

/// What the page's names stand for here.
struct Place {
    port: u16,
    gateway: &'static str,
    folder: Scratch,
}

impl Place {
    fn translate(&self, text: &str) -> String {
        text.replace("-h broker.example.com", &format!("-h 127.0.0.1 -p {}", self.port)).replace("gw-7", self.gateway)
    }
}

#[test]
fn each_line_of_the_page_for_operators_yields_what_the_page_says() {
    requires!(
        need::program("mosquitto"),
        need::program("mosquitto_pub"),
        need::program("mosquitto_sub"),
        need::program("mosquitto_rr"),
        need::program("jq")
    );
    let broker = Broker::start();
    let systemd = NotifySocket::open();
    let mut daemon = Daemon::builder()
        .broker(broker.port())
        .config("[host]\ninterval = \"45s\"\n\n[traffic]\ninterfaces = []")
        .log("info")
        .env("NOTIFY_SOCKET", systemd.path())
        .prepare();
    daemon.scratch().write("conf.d/groups.toml", "[gateway]\ngroups = [\"plant\"]\n");
    daemon.start_again();
    daemon.until_connected();
    let place = Place { port: broker.port(), gateway: daemon.id(), folder: Scratch::new("operator") };

    let sessions = sessions();
    assert!(sessions.len() >= 15, "the page has its lines: {sessions:#?}");
    for session in sessions {
        let what = format!("what the page says under {:?}", session.heading);
        // A change takes its time; a reader who looks too early looks again.
        eventually(SOON, &what, || session.run(&place));
        if session.heading == "Restart" {
            let status = daemon.running().wait(Duration::from_secs(10));
            assert_eq!(status.code(), Some(75), "{status}");
            daemon.start_again();
            daemon.until_connected();
        }
    }
}
