//! Talking to `guest/agent` through a virtio-serial port.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use crate::eventually;

/// How a script ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    script: String,
    /// Exit status.
    pub status: i32,
    /// Standard output, without the line ends at its end.
    pub stdout: String,
    /// Standard error, without the line ends at its end.
    pub stderr: String,
}

impl Output {
    /// Standard output of a script that succeeded.
    ///
    /// # Panics
    ///
    /// Where it failed, with what it wrote.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "that it succeeded is often all")]
    pub fn ok(self) -> String {
        let Self { script, status, stdout, stderr } = self;
        assert_eq!(status, 0, "in the machine: {script}\n{stdout}\n{stderr}");
        stdout
    }

    /// Standard output of a script that succeeded, read as JSON.
    ///
    /// # Panics
    ///
    /// Where it failed, or wrote no JSON.
    #[must_use]
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
    }
}

/// Exit status, standard output, standard error.
type Answer = (i32, Vec<u8>, Vec<u8>);
type Waiting = Arc<Mutex<HashMap<u64, Sender<Answer>>>>;

/// Connection to the agent of one machine.
#[derive(Debug)]
pub(super) struct Agent {
    port: Mutex<UnixStream>,
    waiting: Waiting,
    next: AtomicU64,
    ready: Mutex<Receiver<()>>,
}

impl Agent {
    /// Connects to the emulator's end of the port, which appears as the emulator starts.
    pub(super) fn connect(socket: &Path) -> Self {
        let port =
            eventually(Duration::from_secs(20), "the emulator opens the agent's port", || UnixStream::connect(socket));
        let waiting = Waiting::default();
        let (tell_ready, ready) = channel();
        let lines = BufReader::new(port.try_clone().expect("a socket can be cloned")).lines();
        let answers = Arc::clone(&waiting);
        // Ends when the emulator does, and with it all who wait: their senders are dropped.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line == "ready" {
                    let _nobody_waits = tell_ready.send(());
                } else if let Some((id, answer)) = parse(&line)
                    && let Some(waiting) = answers.lock().expect("no holder panics").remove(&id)
                {
                    let _gave_up = waiting.send(answer);
                }
            }
            answers.lock().expect("no holder panics").clear();
        });
        Self { port: Mutex::new(port), waiting, next: AtomicU64::new(0), ready: Mutex::new(ready) }
    }

    /// Waits until the agent has started.
    pub(super) fn wait_ready(&self, deadline: Duration) -> Result<(), String> {
        let ready = self.ready.lock().expect("no holder panics");
        ready.recv_timeout(deadline).map_err(|error| format!("the agent says nothing: {error}"))
    }

    /// Runs a script; scripts run beside each other.
    pub(super) fn run(&self, script: &str, deadline: Duration) -> Result<Output, String> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = channel();
        self.waiting.lock().expect("no holder panics").insert(id, answer);
        let line = format!("{id} {}\n", base64(script.as_bytes()));
        self.port.lock().expect("no holder panics").write_all(line.as_bytes()).map_err(|error| error.to_string())?;
        let answer = answered.recv_timeout(deadline);
        self.waiting.lock().expect("no holder panics").remove(&id);
        let (status, stdout, stderr) = answer.map_err(|error| format!("no answer within {deadline:?}: {error}"))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
        Ok(Output { script: script.to_owned(), status, stdout: text(stdout), stderr: text(stderr) })
    }
}

/// `ID STATUS =BASE64 =BASE64`.
fn parse(line: &str) -> Option<(u64, Answer)> {
    let mut fields = line.split(' ');
    let id = fields.next()?.parse().ok()?;
    let status = fields.next()?.parse().ok()?;
    let stdout = unbase64(fields.next()?.strip_prefix('=')?)?;
    let stderr = unbase64(fields.next()?.strip_prefix('=')?)?;
    Some((id, (status, stdout, stderr)))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, &byte| group << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let value = (group >> (18 - 6 * digit)) & 63;
            text.push(if digit <= chunk.len() { ALPHABET[value as usize].into() } else { '=' });
        }
    }
    text
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in text.trim_end_matches('=').as_bytes().chunks(4) {
        let mut group = 0u32;
        for digit in chunk {
            let value = ALPHABET.iter().position(|letter| letter == digit)?;
            group = group << 6 | u32::try_from(value).ok()?;
        }
        group <<= 6 * (4 - chunk.len());
        bytes.extend_from_slice(&group.to_be_bytes()[1..chunk.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("fooba", "Zm9vYmE=")] {
            assert_eq!(base64(plain.as_bytes()), coded);
            assert_eq!(unbase64(coded).unwrap(), plain.as_bytes());
        }
    }

    #[test]
    fn an_answer_may_be_empty() {
        assert_eq!(parse("7 1 = =Zg=="), Some((7, (1, Vec::new(), b"f".to_vec()))));
    }
}
