//! What the user sees.

use std::{
    fmt::Display,
    io::IsTerminal as _,
    thread::sleep,
    time::{Duration, Instant},
};

use tidegate_tests::{Daemon, Message, Subscriber, mqtt::Envelope};

/// Prints acts and what happens in them, each line with the seconds since the beginning.
#[derive(Debug)]
pub(crate) struct Screen {
    started: Instant,
    colours: bool,
    /// Messages of the subscriber that were shown.
    seen: usize,
}

/// Messages shown each second of an act: more than that nobody reads.
const LINES_PER_SECOND: usize = 4;
/// Characters of a payload that are shown.
const EXCERPT: usize = 100;

impl Screen {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), colours: std::io::stdout().is_terminal(), seen: 0 }
    }

    /// Heading of an act.
    pub(crate) fn act(&self, title: &str) {
        println!("\n{}", self.paint("1", format_args!("== {title}")));
    }

    /// One line.
    pub(crate) fn say(&self, what: impl Display) {
        println!("{:5.1} s  {what}", self.started.elapsed().as_secs_f32());
    }

    /// Text of a file or of a program.
    pub(crate) fn quote(&self, text: &str) {
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            println!("         {}", self.paint("2", line));
        }
    }

    /// What `tidegate status` says.
    pub(crate) fn status(&self, daemon: &Daemon) {
        self.say("tidegate status:");
        match daemon.command(&["status"]).output() {
            Ok(output) => {
                self.quote(&String::from_utf8_lossy(&output.stdout));
                self.quote(&String::from_utf8_lossy(&output.stderr));
            }
            Err(error) => self.quote(&error.to_string()),
        }
    }

    /// Shows for a while what reaches the subscriber.
    pub(crate) fn follow(&mut self, subscriber: &Subscriber, duration: Duration) {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            sleep(Duration::from_secs(1));
            let messages = subscriber.messages_after(self.seen);
            self.seen += messages.len();
            // One of each topic first: ingest would else hide the rest.
            let mut shown: Vec<&Message> = Vec::new();
            for message in messages.iter().rev() {
                if shown.len() < LINES_PER_SECOND && shown.iter().all(|other| other.topic != message.topic) {
                    shown.push(message);
                }
            }
            for message in shown.iter().rev() {
                self.say(self.message(message));
            }
            if messages.len() > shown.len() {
                self.say(format_args!("… and {} more messages", messages.len() - shown.len()));
            }
        }
    }

    fn message(&self, message: &Message) -> String {
        let text = match Envelope::of(message) {
            Some(envelope) => format!("#{} {}", envelope.seq, envelope.data),
            None => String::from_utf8_lossy(&message.payload).into_owned(),
        };
        let mut excerpt: String = text.chars().take(EXCERPT).collect();
        if excerpt.len() < text.len() {
            excerpt.push('…');
        }
        format!("{}  {excerpt}", self.paint("36", &message.topic))
    }

    fn paint(&self, code: &str, text: impl Display) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}
