//! Where the demo's file goes: a server of tus 1.0.0 (core and *creation*), as small as that can be.
//!
//! It keeps one upload, of bounded length, in a file, and what a connection brought stays there however it ends. It reads a
//! connection at a time: the gateway has one, and goes on after a cut with the next. A request that it does not understand ends the
//! connection with 400.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, sleep},
    time::Duration,
};

use tidegate_tests::Scratch;

/// The longest upload.
const MAX_BYTES: u64 = 64 << 20;
/// Of a request's head: many times what the gateway sends.
const MAX_HEAD_BYTES: u64 = 16 << 10;
/// Bytes of an upload in memory.
const PORTION: usize = 64 << 10;
/// How often it looks whether it is to end.
const TICK: Duration = Duration::from_millis(20);

/// Runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Receiver {
    folder: Scratch,
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Receiver {
    /// Starts it on the loopback of the namespace that this is called in.
    pub(crate) fn start() -> Self {
        let folder = Scratch::new("receiver");
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let mut uploads = Uploads { path: stored(&folder), length: None };
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        // A connection that is cut is no concern of the next one.
                        Ok((stream, _)) => drop(uploads.serve(&stream, &stop)),
                        Err(_) => sleep(TICK),
                    }
                }
            }
        });
        Self { folder, port, stop, thread: Some(thread) }
    }

    /// Where it listens.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// The file that it received.
    pub(crate) fn file(&self) -> PathBuf {
        stored(&self.folder)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn stored(folder: &Scratch) -> PathBuf {
    folder.path().join("upload")
}

/// What was received.
struct Uploads {
    path: PathBuf,
    /// Of the upload, once it was begun.
    length: Option<u64>,
}

/// A request without its body.
#[derive(Debug, Default)]
struct Head {
    method: String,
    path: String,
    /// `Upload-Length`.
    length: Option<u64>,
    /// `Upload-Offset`.
    offset: Option<u64>,
    /// `Content-Length`.
    body: u64,
}

/// A connection that is given up when the server is to end.
struct Patient<'a> {
    stream: &'a TcpStream,
    stop: &'a AtomicBool,
}

impl Uploads {
    /// Answers what comes on a connection, until that ends.
    fn serve(&mut self, stream: &TcpStream, stop: &AtomicBool) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
        let mut reader = BufReader::with_capacity(PORTION, Patient { stream, stop });
        while let Some(head) = Head::read(&mut reader)? {
            let (status, headers) = self.answer(&head, &mut reader)?;
            let answer = format!("HTTP/1.1 {status}\r\nTus-Resumable: 1.0.0\r\n{headers}Content-Length: 0\r\n\r\n");
            (&*stream).write_all(answer.as_bytes())?;
            if status == BAD {
                break;
            }
        }
        Ok(())
    }

    /// Status and headers.
    fn answer(&mut self, head: &Head, body: &mut BufReader<Patient<'_>>) -> io::Result<(&'static str, String)> {
        let has = || fs::metadata(&self.path).map(|metadata| metadata.len());
        Ok(match (head.method.as_str(), head.path.as_str(), self.length) {
            ("OPTIONS", "/files", _) => (
                "204 No Content",
                format!("Tus-Version: 1.0.0\r\nTus-Extension: creation\r\nTus-Max-Size: {MAX_BYTES}\r\n"),
            ),
            ("POST", "/files", _) => match head.length {
                Some(length) if length <= MAX_BYTES => {
                    File::create(&self.path)?;
                    self.length = Some(length);
                    ("201 Created", "Location: /files/1\r\n".to_owned())
                }
                Some(_) => ("413 Content Too Large", String::new()),
                None => (BAD, String::new()),
            },
            ("HEAD", "/files/1", Some(length)) => (
                "200 OK",
                format!("Upload-Offset: {}\r\nUpload-Length: {length}\r\nCache-Control: no-store\r\n", has()?),
            ),
            ("PATCH", "/files/1", Some(length)) => {
                let before = has()?;
                if head.offset != Some(before) || head.body > length - before {
                    return Ok((BAD, String::new()));
                }
                let mut file = File::options().append(true).open(&self.path)?;
                io::copy(&mut body.take(head.body), &mut file)?;
                ("204 No Content", format!("Upload-Offset: {}\r\n", has()?))
            }
            (_, "/files/1", None) => ("404 Not Found", String::new()),
            _ => (BAD, String::new()),
        })
    }
}

const BAD: &str = "400 Bad Request";

impl Head {
    /// `None`: there is no further one.
    fn read(reader: &mut BufReader<Patient<'_>>) -> io::Result<Option<Self>> {
        let mut lines = reader.take(MAX_HEAD_BYTES);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
        let mut head = Self { method: method.to_owned(), path: path.to_owned(), ..Self::default() };
        loop {
            line.clear();
            if lines.read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { return Ok(Some(head)) };
            let number = || value.trim().parse().ok();
            match name.to_ascii_lowercase().as_str() {
                "upload-length" => head.length = number(),
                "upload-offset" => head.offset = number(),
                "content-length" => head.body = number().unwrap_or_default(),
                _ => {}
            }
        }
    }
}

impl io::Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&*self.stream).read(buffer) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if self.stop.load(Ordering::Relaxed) {
                        return Err(ErrorKind::ConnectionAborted.into());
                    }
                }
                read => return read,
            }
        }
    }
}
