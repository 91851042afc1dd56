//! A small server for tests, as obliging or as wicked as they ask for: tus and `PUT`, one request at a time.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// What it does otherwise than it should.
#[derive(Clone, Debug, Default)]
pub(super) struct Mood {
    /// Extensions that it says it has.
    pub(super) extensions: &'static str,
    /// Closes each connection after so many bytes of a body, having kept them.
    pub(super) cut_after: Option<usize>,
    /// Answers so at once, to the method, the next time.
    pub(super) answers: Vec<(&'static str, &'static str)>,
    /// What it adds to the offsets that it tells.
    pub(super) lies: isize,
    /// Refuses a first part that does not say the length.
    pub(super) wants_length: bool,
    /// Turns around a bit of what it receives.
    pub(super) rots: bool,
}

/// A request, for tests to look at.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body_bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) mood: Mood,
    pub(super) uploads: BTreeMap<String, Upload>,
    pub(super) seen: Vec<Seen>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Upload {
    pub(super) bytes: Vec<u8>,
    pub(super) length: Option<usize>,
    pub(super) metadata: String,
}

#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) state: Arc<Mutex<State>>,
    port: u16,
}

impl Server {
    pub(super) fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State { mood, ..State::default() }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                thread::spawn(move || while serve(&stream, &state).is_some() {});
            }
        });
        Self { state, port }
    }

    pub(super) fn url(&self) -> http::Uri {
        format!("http://127.0.0.1:{}/files", self.port).parse().unwrap()
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.state.lock().unwrap().mood);
    }

    pub(super) fn only(&self) -> Upload {
        let state = self.state.lock().unwrap();
        assert_eq!(state.uploads.len(), 1, "{:?}", state.uploads.keys());
        state.uploads.values().next().unwrap().clone()
    }

    pub(super) fn seen(&self, method: &str) -> Vec<Seen> {
        let state = self.state.lock().unwrap();
        state.seen.iter().filter(|seen| seen.method == method).cloned().collect()
    }
}

/// Serves one request; `None`: the connection is over.
fn serve(stream: &TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mood = state.lock().unwrap().mood.clone();
    let number = |name: &str| headers.get(name).and_then(|value: &String| value.parse::<usize>().ok());
    if let Some(at) = mood.answers.iter().position(|(which, _)| *which == method) {
        let (_, answer) = state.lock().unwrap().mood.answers.remove(at);
        let _gone = (&mut &*stream)
            .write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes());
        // Whoever closes with bytes unread resets the connection, and the answer with it.
        let _rest = reader.take(64 << 20).read_to_end(&mut Vec::new());
        return None;
    }
    let chunked = headers.get("transfer-encoding").is_some_and(|value| value == "chunked");
    let mut body = Vec::new();
    let cut = read_body(&mut reader, chunked, number("content-length").unwrap_or(0), mood.cut_after, &mut body);
    if mood.rots && !body.is_empty() {
        body[0] ^= 1;
    }
    let mut shared = state.lock().unwrap();
    shared.seen.push(Seen { method: method.clone(), headers: headers.clone(), body_bytes: body.len() });
    let told = |offset: usize| format!("upload-offset: {}\r\n", offset.cast_signed() + mood.lies);
    let count = shared.uploads.len();
    let upload = shared.uploads.get_mut(&path);
    let (status, more) = match (method.as_str(), upload) {
        ("OPTIONS", _) => (
            "204 No Content",
            format!(
                "tus-version: 1.0.0\r\ntus-extension: {}\r\ntus-checksum-algorithm: sha1,sha256\r\n",
                mood.extensions
            ),
        ),
        ("POST", _) => {
            let location = format!("/files/{count}");
            let metadata = headers.get("upload-metadata").cloned().unwrap_or_default();
            let upload = Upload { bytes: Vec::new(), length: number("upload-length"), metadata };
            shared.uploads.insert(location.clone(), upload);
            ("201 Created", format!("location: {location}\r\n"))
        }
        ("HEAD", Some(upload)) => {
            let length = upload
                .length
                .map_or("upload-defer-length: 1\r\n".to_owned(), |length| format!("upload-length: {length}\r\n"));
            ("200 OK", told(upload.bytes.len()) + &length)
        }
        ("PATCH", Some(upload)) if number("upload-offset") != Some(upload.bytes.len()) => {
            ("409 Conflict", String::new())
        }
        ("PATCH", Some(upload)) if mood.wants_length && upload.length.is_none() => ("400 Bad Request", String::new()),
        ("PATCH", Some(upload)) => {
            upload.length = upload.length.or(number("upload-length"));
            let wrong = headers.get("upload-checksum").is_some_and(|wanted| {
                let digest = ring::digest::digest(&ring::digest::SHA256, &body);
                *wanted != format!("sha256 {}", tidegate_values::base64::encode(digest.as_ref()))
            });
            if wrong {
                ("460 Checksum Mismatch", String::new())
            } else {
                upload.bytes.append(&mut body);
                ("204 No Content", told(upload.bytes.len()))
            }
        }
        ("DELETE", Some(_)) => {
            shared.uploads.remove(&path);
            ("204 No Content", String::new())
        }
        ("PUT", _) if !cut => {
            shared.uploads.insert(path, Upload { length: Some(body.len()), bytes: body, metadata: String::new() });
            ("201 Created", String::new())
        }
        ("GET", Some(upload)) => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", upload.bytes.len());
            (&mut &*stream).write_all(&[head.as_bytes(), &upload.bytes].concat()).ok()?;
            return Some(());
        }
        _ => ("404 Not Found", String::new()),
    };
    drop(shared);
    if cut {
        return None;
    }
    let length = if status.starts_with("204") { "" } else { "content-length: 0\r\n" };
    (&mut &*stream).write_all(format!("HTTP/1.1 {status}\r\n{more}{length}\r\n").as_bytes()).ok()
}

/// Reads a body; whether it was cut off.
fn read_body(
    reader: &mut BufReader<&TcpStream>,
    chunked: bool,
    length: usize,
    cut: Option<usize>,
    body: &mut Vec<u8>,
) -> bool {
    let most = cut.unwrap_or(usize::MAX);
    if !chunked {
        let _short = reader.take(length.min(most) as u64).read_to_end(body);
        return body.len() < length;
    }
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() {
            return true;
        }
        let Ok(size) = usize::from_str_radix(line.trim_end(), 16) else { return true };
        let _short = reader.take(size.min(most - body.len()) as u64).read_to_end(body);
        if body.len() >= most && size > 0 {
            return true;
        }
        let mut end = String::new();
        if reader.read_line(&mut end).is_err() {
            return true;
        }
        if size == 0 {
            return false;
        }
    }
}
