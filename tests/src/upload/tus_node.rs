//! A tus server that streams to disk and takes uploads of unknown length: `@tus/server` of npm with its file store.
//!
//! What a connection brought stays, however it ends. It has the extensions creation, creation-with-upload,
//! creation-defer-length, termination and expiration; no checksums: an `Upload-Checksum` is not looked at. A request that
//! finds another one at work on its upload waits 3 seconds, then the other is ended.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use super::{
    Received, Server, Setup, Unfinished,
    server::{self, files},
    tools,
};

/// A tus server. See [`need::tus_node`](crate::need::tus_node).
pub type TusNode = Server<TusNodeBuilder>;

/// How a [`TusNode`] is to run.
#[derive(Debug)]
pub struct TusNodeBuilder {
    expires_after: Duration,
    request_within: Duration,
}

/// A request that it is done with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TusRequest {
    /// Such as `PATCH`.
    pub method: String,
    /// Path.
    pub url: String,
    /// Status that it was answered with in full; none where the connection ended first.
    pub status: Option<u16>,
    /// Headers, with names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl TusNodeBuilder {
    /// Uploads expire this long after they were created, finished ones too: 410. By default an hour.
    #[must_use]
    pub const fn expires_after(mut self, time: Duration) -> Self {
        self.expires_after = time;
        self
    }

    /// A request that is not there whole after this time is answered 408, looked at every 30 seconds. By default 5
    /// minutes, as Node has it; zero means never.
    #[must_use]
    pub const fn request_within(mut self, time: Duration) -> Self {
        self.request_within = time;
        self
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// Where it does not listen within 20 seconds, with what it wrote.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> TusNode {
        Server::launch(self)
    }
}

impl Setup for TusNodeBuilder {
    const NAME: &'static str = "tus-node";
    const READY: &'static str = "listening ";

    fn command(&self, folder: &Path, ports: &[u16]) -> Command {
        let script = folder.join("tus-node.mjs");
        fs::write(&script, include_str!("../../upload/tus-node.mjs")).expect("the folder is ours");
        let mut command = Command::new("node");
        command.arg(script).arg(files(folder)).arg(ports[0].to_string());
        command.args([self.expires_after, self.request_within].map(|time| time.as_millis().to_string()));
        command.env("TIDEGATE_TUS_NODE", tools::node_folder().expect("@tus/server is installed"));
        command
    }
}

impl TusNode {
    /// One whose uploads expire after an hour.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// One that is to be described.
    #[must_use]
    pub fn builder() -> TusNodeBuilder {
        TusNodeBuilder { expires_after: Duration::from_hours(1), request_within: Duration::from_mins(5) }
    }

    /// Where uploads are created.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_through(self.port())
    }

    /// The same, by way of a proxy.
    #[must_use]
    pub fn url_through(&self, port: u16) -> String {
        server::url(port)
    }

    /// Uploads that are complete, by the time of their creation.
    #[must_use]
    #[track_caller]
    pub fn received(&self) -> Vec<Received> {
        self.uploads().into_iter().filter(|upload| upload.size == Some(upload.offset)).map(Upload::received).collect()
    }

    /// Uploads that are not.
    #[must_use]
    #[track_caller]
    pub fn unfinished(&self) -> Vec<Unfinished> {
        let uploads = self.uploads().into_iter().filter(|upload| upload.size != Some(upload.offset));
        uploads.map(|Upload { id, offset, size, .. }| Unfinished { id, offset, size }).collect()
    }

    /// Requests since it was last started, in the order in which it was done with them.
    #[must_use]
    pub fn requests(&self) -> Vec<TusRequest> {
        self.log().iter().filter_map(|line| TusRequest::read(line)).collect()
    }

    /// What its store says: for each upload a file `ID` with the bytes, and `ID.json`.
    fn uploads(&self) -> Vec<Upload> {
        let entries = fs::read_dir(self.folder()).expect("the folder is there").map_while(Result::ok);
        let mut uploads: Vec<Upload> = entries.filter_map(|entry| Upload::read(&entry.path())).collect();
        uploads.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
        uploads
    }
}

struct Upload {
    id: String,
    offset: u64,
    size: Option<u64>,
    /// RFC 3339, of one length.
    created: String,
    metadata: BTreeMap<String, String>,
    path: PathBuf,
}

impl Upload {
    /// None where the file is no description of an upload, or is just being written.
    fn read(path: &Path) -> Option<Self> {
        let id = path.file_name()?.to_str()?.strip_suffix(".json")?.to_owned();
        let json: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        let path = path.with_extension("");
        Some(Self {
            offset: fs::metadata(&path).ok()?.len(),
            size: json["size"].as_u64(),
            created: json["creation_date"].as_str().unwrap_or_default().to_owned(),
            metadata: server::metadata(&json["metadata"]),
            path,
            id,
        })
    }

    fn received(self) -> Received {
        Received::by_tus(self.id, self.metadata, self.path, self.offset)
    }
}

impl TusRequest {
    fn read(line: &str) -> Option<Self> {
        let json: Value = serde_json::from_str(line).ok()?;
        Some(Self {
            method: json["method"].as_str()?.to_owned(),
            url: json["url"].as_str()?.to_owned(),
            status: json["status"].as_u64().and_then(|status| status.try_into().ok()),
            headers: server::metadata(&json["headers"]),
        })
    }
}
