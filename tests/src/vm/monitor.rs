//! qemu's monitor (QMP), for the few things that only the emulator can do.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};

use crate::eventually;

/// Connection to the monitor of one emulator.
#[derive(Debug)]
pub(super) struct Monitor {
    lines: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects, and leaves the negotiation behind.
    pub(super) fn connect(socket: &Path) -> Self {
        let stream =
            eventually(Duration::from_secs(20), "the emulator opens its monitor", || UnixStream::connect(socket));
        let mut monitor = Self { lines: BufReader::new(stream) };
        monitor.line();
        monitor.ask("qmp_capabilities", &json!({}));
        monitor
    }

    /// One command and its answer; events are passed over.
    #[track_caller]
    pub(super) fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        let request = json!({"execute": command, "arguments": arguments}).to_string() + "\n";
        self.lines.get_mut().write_all(request.as_bytes()).expect("the emulator runs");
        loop {
            let mut line = self.line();
            assert!(line.get("error").is_none(), "qemu refuses {command}: {line}");
            if line.get("return").is_some() {
                return line["return"].take();
            }
        }
    }

    /// Writes the machine's memory and devices to a file; the machine stands still afterwards.
    #[track_caller]
    pub(super) fn save(&mut self, file: &Path) {
        // The default is 128 MiB/s at most, which would stretch this for nothing.
        self.ask("migrate-set-parameters", &json!({"max-bandwidth": 4u64 << 30}));
        self.ask("migrate", &json!({"uri": format!("exec:cat > '{}'", file.display())}));
        eventually(Duration::from_mins(2), "the machine is saved", || {
            let state = self.ask("query-migrate", &json!({}));
            match state["status"].as_str() {
                Some("completed") => Ok(()),
                _ => Err(state.to_string()),
            }
        });
    }

    #[track_caller]
    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("the emulator runs");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?} of qemu's monitor"))
    }
}
