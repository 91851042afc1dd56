//! `tidegate send`: hands over records, and ends well only when all of them are on disk.

use std::{
    collections::VecDeque,
    future::Future,
    io::{self, BufRead, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::{interval, sleep},
};

use super::NOT_RUNNING;
use crate::sources::ingest::{MAX_LINE_BYTES, MAX_UNANSWERED, default_path, is_name};

/// Exit status of a command that Ctrl-C ended, as shells have it.
const INTERRUPTED: u8 = 130;
/// How often a person sees how far it is.
const PROGRESS: Duration = Duration::from_millis(250);
/// How long a daemon that stopped is waited for, and how often it is looked for.
const RESTART: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(500);

/// Hand records over to the running daemon.
///
/// Reads standard input: every line is one record, any JSON value of up to 64 KiB. The command ends with status 0
/// when all of them are on the gateway's disk, from where they go to the topic ingest/NAME at the broker. It waits
/// where the daemon asks it to (its disk is full, or too many programs are connected), and stops at the first line
/// that the daemon refuses for good. Empty lines are left out.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  echo '{\"kwh\":7.5}' | tidegate send meter     one record
  tidegate send meter < readings.jsonl          a file of them, a line each
  sensor --json | tidegate send sensor --json   as they come; a summary as JSON at the end

Exit status: 0 all on disk, 1 a line was refused or lost its answer (its number is told), 3 tidegate is not running.")]
pub(super) struct Args {
    /// What the records are: 1 to 64 of a-z 0-9 _ -, at most 32 different names a gateway
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    /// The daemon's ingest socket [default: `ingest.sock` in `$RUNTIME_DIRECTORY` or `/run/tidegate`]
    #[arg(long, value_name = "SOCKET")]
    socket: Option<PathBuf>,
    /// At the end, print what was done as one JSON object
    #[arg(long)]
    json: bool,
}

fn name(text: &str) -> Result<String, &'static str> {
    if is_name(text) { Ok(text.to_owned()) } else { Err("a name is 1 to 64 of a-z 0-9 _ -") }
}

pub(super) fn run(args: &Args) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no event queue: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Standard input cannot be read without blocking, and its thread cannot be interrupted: it ends with us.
    let (sender, rows) = mpsc::channel(MAX_UNANSWERED);
    thread::spawn(move || read_rows(io::stdin().lock(), |row| sender.blocking_send(row).is_ok()));
    let path = args.socket.clone().unwrap_or_else(default_path);
    let mut sender = Sender::new(&path, &args.name, io::stderr().is_terminal());
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let result = runtime.block_on(sender.send(rows, interrupted));
    if args.json {
        println!("{}", sender.summary(result.as_ref().err()));
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}\n  {}", sender.state());
            error.status()
        }
    }
}

/// A line of standard input.
#[derive(Debug)]
struct Row {
    /// From 1.
    number: u64,
    data: Vec<u8>,
}

type Rows = mpsc::Receiver<Result<Row, SendError>>;

/// Why not everything is on disk.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("tidegate is not running: nothing answers on {}\n  start it: systemctl start tidegate (or tidegate run)", .0.display())]
    NotRunning(PathBuf),
    #[error("no permission to write to {}\n  become a member of the group tidegate-ingest, or use sudo", .0.display())]
    NotPermitted(PathBuf),
    #[error("line {number}: refused, {error}: {reason}")]
    Refused { number: u64, error: String, reason: String },
    #[error("line {number}: over {MAX_LINE_BYTES} bytes")]
    TooLong { number: u64 },
    #[error("the daemon closed the connection before it answered line {number}")]
    Closed { number: u64 },
    #[error("line {number}: the answer is not one of tidegate's: {answer}")]
    NotAnAnswer { number: u64, answer: String },
    #[error("reading standard input behind line {number}: {source}")]
    Input { number: u64, source: io::Error },
    #[error("connect: {0}")]
    Connect(io::Error),
    #[error("interrupted")]
    Interrupted,
}

impl SendError {
    fn status(&self) -> ExitCode {
        match self {
            Self::NotRunning(_) => ExitCode::from(NOT_RUNNING),
            Self::Interrupted => ExitCode::from(INTERRUPTED),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Gives the lines of `input` to `take`, until it is not wanted any more; one too long or an error ends it.
fn read_rows(mut input: impl BufRead, mut take: impl FnMut(Result<Row, SendError>) -> bool) {
    let mut number = 0;
    loop {
        let mut data = Vec::new();
        // A line without end must not fill the memory.
        match input.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut data) {
            Ok(0) => return,
            Ok(_) => {}
            Err(source) => {
                take(Err(SendError::Input { number, source }));
                return;
            }
        }
        number += 1;
        if data.len() > MAX_LINE_BYTES && data.last() != Some(&b'\n') {
            take(Err(SendError::TooLong { number }));
            return;
        }
        let data = data.trim_ascii();
        if !data.is_empty() && !take(Ok(Row { number, data: data.to_vec() })) {
            return;
        }
    }
}

/// The daemon's answer to a line.
#[derive(Deserialize)]
struct Answer {
    ok: bool,
    seq: Option<u64>,
    id: Option<u64>,
    error: Option<String>,
    reason: Option<String>,
    retry_ms: Option<u64>,
}

/// Sends rows in order, at most [`MAX_UNANSWERED`] ahead of their answers.
struct Sender<'a> {
    path: &'a Path,
    name: &'a str,
    show_progress: bool,
    begun: Instant,
    /// Sent, not answered.
    unanswered: VecDeque<Row>,
    /// To be sent again, before any new row.
    again: VecDeque<Row>,
    /// How long the daemon asked to wait before that.
    pause: Duration,
    /// A row was answered `busy`: the daemon takes no more on this connection.
    turned_away: bool,
    on_disk: u64,
    /// Number of the last line that is.
    last_line: u64,
    first_seq: Option<u64>,
    last_seq: Option<u64>,
}

struct Connection {
    answers: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl<'a> Sender<'a> {
    fn new(path: &'a Path, name: &'a str, show_progress: bool) -> Self {
        Self {
            path,
            name,
            show_progress,
            begun: Instant::now(),
            unanswered: VecDeque::new(),
            again: VecDeque::new(),
            pause: Duration::ZERO,
            turned_away: false,
            on_disk: 0,
            last_line: 0,
            first_seq: None,
            last_seq: None,
        }
    }

    async fn send(&mut self, mut rows: Rows, interrupted: impl Future<Output = ()>) -> Result<(), SendError> {
        let mut ticks = interval(PROGRESS);
        let shows = self.show_progress;
        let result = {
            let mut sending = std::pin::pin!(self.send_all(&mut rows, &mut ticks));
            tokio::select! {
                biased;
                () = interrupted => Err(SendError::Interrupted),
                result = &mut sending => result,
            }
        };
        if shows {
            self.progress();
            eprintln!();
        }
        result
    }

    async fn send_all(&mut self, rows: &mut Rows, ticks: &mut tokio::time::Interval) -> Result<(), SendError> {
        let mut connection = self.connect().await?;
        // What stops the sending; what is under way is still answered.
        let mut failure = None;
        let mut ended = false;
        loop {
            if self.unanswered.is_empty() {
                if let Some(failure) = failure {
                    return Err(failure);
                }
                if self.again.is_empty() && ended {
                    return Ok(());
                }
                if self.turned_away || !self.again.is_empty() {
                    sleep(self.pause).await;
                }
                if self.turned_away {
                    connection = self.reconnect().await?;
                }
                self.unanswered.append(&mut self.again);
                connection.write(self.name, self.unanswered.iter()).await;
            }
            let window = MAX_UNANSWERED - self.unanswered.len();
            let may_send = !ended && failure.is_none() && self.again.is_empty() && !self.turned_away && window > 0;
            tokio::select! {
                answer = connection.answers.next_line() => {
                    // A connection that was reset has ended, too.
                    match self.take(answer.unwrap_or_default()) {
                        Ok(()) => {}
                        Err(refused @ SendError::Refused { .. }) => failure = failure.or(Some(refused)),
                        Err(error) => return Err(error),
                    }
                }
                more = next_rows(rows, window), if may_send => {
                    let (more, end) = more;
                    ended = end.is_some();
                    failure = end.flatten();
                    let known = self.unanswered.len();
                    self.unanswered.extend(more);
                    connection.write(self.name, self.unanswered.range(known..)).await;
                }
                _ = ticks.tick(), if self.show_progress => self.progress(),
            }
        }
    }

    async fn connect(&self) -> Result<Connection, SendError> {
        match UnixStream::connect(self.path).await {
            Ok(stream) => {
                let (reader, writer) = stream.into_split();
                Ok(Connection { answers: BufReader::new(reader).lines(), writer })
            }
            Err(error) => Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    SendError::NotRunning(self.path.to_owned())
                }
                io::ErrorKind::PermissionDenied => SendError::NotPermitted(self.path.to_owned()),
                _ => SendError::Connect(error),
            }),
        }
    }

    /// Connects to a daemon that was there a moment ago, and may be on its way back from a restart.
    async fn reconnect(&mut self) -> Result<Connection, SendError> {
        let begun = tokio::time::Instant::now();
        loop {
            match self.connect().await {
                Ok(connection) => {
                    self.turned_away = false;
                    self.pause = Duration::ZERO;
                    return Ok(connection);
                }
                Err(SendError::NotRunning(_)) if begun.elapsed() < RESTART => sleep(RETRY).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the answer to the oldest row that has none, or the end of the connection.
    fn take(&mut self, line: Option<String>) -> Result<(), SendError> {
        let Some(line) = line else {
            return match self.unanswered.front() {
                // Behind a `busy` the daemon takes nothing and closes.
                Some(row) if !self.turned_away => Err(SendError::Closed { number: row.number }),
                _ => {
                    self.turned_away = true;
                    self.again.append(&mut self.unanswered);
                    Ok(())
                }
            };
        };
        let row = self.unanswered.pop_front();
        let number = row.as_ref().map_or(0, |row| row.number);
        let not_an_answer = || SendError::NotAnAnswer { number, answer: line.chars().take(120).collect() };
        match serde_json::from_str(&line).map_err(|_| not_an_answer())? {
            Answer { ok: true, seq: Some(seq), id: Some(id), .. } if row.is_some() && id == number => {
                self.on_disk += 1;
                self.last_line = number;
                self.first_seq = self.first_seq.or(Some(seq));
                self.last_seq = Some(seq);
                Ok(())
            }
            Answer { ok: false, error: Some(error), retry_ms: Some(retry_ms), .. } => {
                self.turned_away |= error == "busy";
                self.pause = Duration::from_millis(retry_ms);
                self.again.extend(row);
                Ok(())
            }
            Answer { ok: false, error: Some(error), reason, .. } => {
                Err(SendError::Refused { number, error, reason: reason.unwrap_or_default() })
            }
            Answer { .. } => Err(not_an_answer()),
        }
    }

    /// What is known about the lines, when not all are on disk.
    fn state(&self) -> String {
        let on_disk = match self.on_disk {
            0 => "nothing is on disk".to_owned(),
            1 => format!("1 line is on disk, line {}", self.last_line),
            lines => format!("{lines} lines are on disk, the last of them line {}", self.last_line),
        };
        match (self.unanswered.front(), self.unanswered.back()) {
            (Some(first), Some(last)) => {
                format!("{on_disk}; of lines {} to {} it is not known", first.number, last.number)
            }
            _ => on_disk,
        }
    }

    fn summary(&self, error: Option<&SendError>) -> serde_json::Value {
        json!({
            "name": self.name,
            "on_disk": self.on_disk,
            "first_seq": self.first_seq,
            "last_seq": self.last_seq,
            "unknown": self.unanswered.len(),
            "last_line": self.last_line,
            "error": error.map(ToString::to_string),
        })
    }

    fn progress(&self) {
        let rate = self.on_disk as f64 / self.begun.elapsed().as_secs_f64().max(0.001);
        let waiting = if self.again.is_empty() { "" } else { ", the daemon asks to wait" };
        eprint!("\r\x1b[K{} lines on disk, {rate:.0} a second{waiting}", self.on_disk);
    }
}

impl Connection {
    /// Writes rows; the number of each is its id. What became of them only the answers tell, so a failure says
    /// nothing that they do not: the connection has ended.
    async fn write(&mut self, name: &str, rows: impl Iterator<Item = &Row>) {
        let mut out = Vec::new();
        for row in rows {
            out.extend_from_slice(format!(r#"{{"id":{},"name":"{name}","data":"#, row.number).as_bytes());
            out.extend_from_slice(&row.data);
            out.extend_from_slice(b"}\n");
        }
        let _told_by_the_answers = self.writer.write_all(&out).await;
    }
}

/// What waits, at least one row and at most `most`; then the end, with the error where it is one.
async fn next_rows(rows: &mut Rows, most: usize) -> (Vec<Row>, Option<Option<SendError>>) {
    let mut found = Vec::new();
    let mut next = rows.recv().await;
    loop {
        match next {
            Some(Ok(row)) => found.push(row),
            Some(Err(error)) => return (found, Some(Some(error))),
            None => return (found, Some(None)),
        }
        if found.len() >= most {
            return (found, None);
        }
        next = match rows.try_recv() {
            Ok(row) => Some(row),
            Err(mpsc::error::TryRecvError::Disconnected) => None,
            Err(mpsc::error::TryRecvError::Empty) => return (found, None),
        };
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        sources::{
            Sink, ingest,
            testing::{Memory, Mood},
        },
        supervisor::Pulse,
    };

    struct Daemon {
        path: PathBuf,
        memory: Memory,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
        folder: tempfile::TempDir,
    }

    impl Daemon {
        fn start() -> Self {
            let (_, memory) = Sink::into_memory();
            Self::start_in(tempfile::tempdir().unwrap(), memory)
        }

        fn start_in(folder: tempfile::TempDir, memory: Memory) -> Self {
            let path = folder.path().join("ingest.sock");
            let (status, _) = tokio::sync::watch::channel(ingest::IngestStatus::default());
            let stop = CancellationToken::new();
            let task = tokio::spawn(ingest::run(
                ingest::bind(&path).unwrap(),
                memory.sink(),
                status,
                Pulse::unasked(),
                stop.clone(),
            ));
            Self { path, memory, stop, task, folder }
        }

        /// What became of the lines, and how many are on disk.
        async fn send(&self, input: &str) -> (Result<(), String>, String) {
            let mut sender = Sender::new(&self.path, "a", false);
            let result = sender.send(rows_of(input), std::future::pending()).await;
            (result.map_err(|error| error.to_string()), sender.state())
        }
    }

    fn rows_of(input: &str) -> Rows {
        let (sender, rows) = mpsc::channel(10_000);
        read_rows(input.as_bytes(), |row| sender.try_send(row).is_ok());
        rows
    }

    #[tokio::test]
    async fn all_lines_are_on_disk_in_their_order_when_it_ends() {
        let daemon = Daemon::start();
        let input = (0..5_000).map(|index| format!("{{\"n\":{index}}}\n\n")).collect::<Vec<_>>().concat();
        assert_eq!(
            daemon.send(&input).await,
            (Ok(()), "5000 lines are on disk, the last of them line 9999".to_owned())
        );
        let records = daemon.memory.records();
        assert!(records.iter().enumerate().all(|(index, record)| record.2 == format!("{{\"n\":{index}}}")));
    }

    #[tokio::test]
    async fn the_line_that_is_refused_is_named_and_those_before_it_are_on_disk() {
        let daemon = Daemon::start();
        for (line, complaint) in [
            ("{\"a\":", "line 3: refused, bad_json: "),
            ("1,\"name\":\"b\"", "line 3: refused, bad_json: duplicate field"),
            (&"x".repeat(70_000), "line 3: over 65536 bytes"),
            (&format!("\"{}\"", "x".repeat(65_530)), "line 3: refused, too_large: "),
        ] {
            let (result, state) = daemon.send(&format!("1\n\n{line}\n")).await;
            assert!(result.as_ref().unwrap_err().starts_with(complaint), "{result:?}");
            assert_eq!(state, "1 line is on disk, line 1");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_spool_is_waited_for() {
        let daemon = Daemon::start();
        daemon.memory.set(Mood::Paused);
        let memory = daemon.memory.clone();
        tokio::spawn(async move {
            sleep(Duration::from_mins(1)).await;
            memory.set(Mood::Works);
        });
        assert_eq!(daemon.send("1\n2\n3\n").await, (Ok(()), "3 lines are on disk, the last of them line 3".to_owned()));
        let data: Vec<_> = daemon.memory.records().into_iter().map(|record| record.2).collect();
        assert_eq!(data, ["1", "2", "3"]);
    }

    #[tokio::test]
    async fn a_restart_between_two_lines_loses_and_doubles_nothing() {
        let daemon = Daemon::start();
        let (lines, rows) = mpsc::channel(10);
        let row = |number| Ok(Row { number, data: number.to_string().into_bytes() });
        lines.send(row(1)).await.unwrap();
        let path = daemon.path.clone();
        let sending = tokio::spawn(async move {
            let mut sender = Sender::new(&path, "a", false);
            let result = sender.send(rows, std::future::pending()).await;
            (result.map_err(|error| error.to_string()), sender.state())
        });
        while daemon.memory.records().is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
        // The commit under way is finished, the line behind it is told `busy`.
        daemon.memory.set(Mood::Hangs);
        lines.send(row(2)).await.unwrap();
        sleep(Duration::from_millis(50)).await;
        lines.send(row(3)).await.unwrap();
        sleep(Duration::from_millis(50)).await;
        daemon.stop.cancel();
        daemon.memory.set(Mood::Works);
        daemon.task.await.unwrap();
        let daemon = Daemon::start_in(daemon.folder, daemon.memory);
        drop(lines);
        assert_eq!(sending.await.unwrap(), (Ok(()), "3 lines are on disk, the last of them line 3".to_owned()));
        assert_eq!(daemon.memory.records().len(), 3);
    }

    #[tokio::test]
    async fn a_daemon_that_restarts_while_nothing_is_to_be_sent_is_found_again() {
        let daemon = Daemon::start();
        let (lines, rows) = mpsc::channel(10);
        let path = daemon.path.clone();
        let sending = tokio::spawn(async move {
            let mut sender = Sender::new(&path, "a", false);
            sender.send(rows, std::future::pending()).await.map_err(|error| error.to_string())
        });
        lines.send(Ok(Row { number: 1, data: b"1".to_vec() })).await.unwrap();
        while daemon.memory.records().is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
        daemon.stop.cancel();
        daemon.task.await.unwrap();
        let daemon = Daemon::start_in(daemon.folder, daemon.memory);
        sleep(Duration::from_millis(50)).await;
        lines.send(Ok(Row { number: 2, data: b"2".to_vec() })).await.unwrap();
        drop(lines);
        assert_eq!(sending.await.unwrap(), Ok(()));
        assert_eq!(daemon.memory.records().len(), 2);
    }

    #[tokio::test]
    async fn a_daemon_that_is_not_there_or_dies_is_told() {
        let mut sender = Sender::new(Path::new("/nonexistent/ingest.sock"), "a", false);
        let result = sender.send(rows_of("1\n"), std::future::pending()).await;
        assert!(matches!(result, Err(SendError::NotRunning(_))));

        let daemon = Daemon::start();
        daemon.memory.set(Mood::Hangs);
        let task = daemon.task.abort_handle();
        tokio::spawn(async move {
            sleep(Duration::from_millis(50)).await;
            task.abort();
        });
        let (result, state) = daemon.send("1\n2\n").await;
        assert_eq!(result, Err("the daemon closed the connection before it answered line 1".to_owned()));
        assert_eq!(state, "nothing is on disk; of lines 1 to 2 it is not known");
    }

    #[tokio::test]
    async fn an_interrupt_says_what_is_on_disk() {
        let daemon = Daemon::start();
        let mut sender = Sender::new(&daemon.path, "a", false);
        daemon.memory.set(Mood::Hangs);
        let result = sender.send(rows_of("1\n"), sleep(Duration::from_millis(50))).await;
        assert!(matches!(result, Err(SendError::Interrupted)));
        assert_eq!(sender.state(), "nothing is on disk; of lines 1 to 1 it is not known");
    }
}
