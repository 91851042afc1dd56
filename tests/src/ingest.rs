//! A local program that hands over its data.

use std::{
    io::{self, BufRead as _, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{Daemon, eventually};

/// A connection to the ingest socket.
#[derive(Debug)]
pub struct Ingest {
    stream: BufReader<Box<dyn Stream>>,
}

trait Stream: Read + Write + Send + std::fmt::Debug {}
impl<T: Read + Write + Send + std::fmt::Debug> Stream for T {}

/// For an answer: a commit on a slow disk.
const PATIENCE: Duration = Duration::from_secs(30);

/// A line that was not taken, or a connection that ended before the answer.
#[derive(Debug)]
pub enum Refused {
    /// `{"ok":false,…}`: what the daemon says.
    Error(Value),
    /// The connection ended: whether the line is on disk is unknown.
    Gone(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

impl Ingest {
    /// Connects to the daemon's socket, waiting until it is there.
    ///
    /// # Panics
    ///
    /// Where that takes over 10 seconds.
    #[must_use]
    #[track_caller]
    pub fn connect(daemon: &Daemon) -> Self {
        let path = daemon.ingest_socket();
        eventually(Duration::from_secs(10), "the ingest socket accepts", || Self::try_connect(&path))
    }

    /// Connects once.
    ///
    /// # Errors
    ///
    /// Nobody listens.
    pub fn try_connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(Box::new(stream)) })
    }

    /// Through a connection whose other end passes all on to the socket.
    ///
    /// # Errors
    ///
    /// The connection has ended.
    pub fn through(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(Box::new(stream)) })
    }

    /// Hands over one record and waits for its answer; returns the sequence of a record that is on disk.
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub fn put(&mut self, name: &str, data: &Value) -> Result<u64, Refused> {
        self.send(name, data, None)?;
        let answer = self.answer()?;
        if answer["ok"] == true {
            answer["seq"].as_u64().ok_or(Refused::Error(answer))
        } else {
            Err(Refused::Error(answer))
        }
    }

    /// Writes one record without waiting.
    ///
    /// # Errors
    ///
    /// The connection ended.
    pub fn send(&mut self, name: &str, data: &Value, id: Option<u64>) -> io::Result<()> {
        let mut line = json!({"name": name, "data": data});
        if let Some(id) = id {
            line["id"] = id.into();
        }
        self.send_raw(format!("{line}\n").as_bytes())
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    ///
    /// The connection ended.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// The next answer.
    ///
    /// # Errors
    ///
    /// The connection ended, or there was none within 30 seconds.
    pub fn answer(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{error}: {line}")))
    }
}
