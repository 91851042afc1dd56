//! A tus server that compares checksums: `resumable-upload` of PyPI.
//!
//! It takes a PATCH into memory before it writes any of it: one that is cut leaves nothing, except that of one with a
//! Content-Length and without a checksum what came before an orderly end stays. A wrong checksum is answered 460. It has
//! the extensions creation, creation-with-upload, creation-defer-length, termination, checksum, checksum-trailer,
//! expiration and concatenation; of an upload of unknown length it wants to know the length with the first PATCH.

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use serde_json::Value;

use super::{
    Received, Server, Setup, Unfinished,
    server::{self, files},
    tools,
};

/// A tus server. See [`need::tus_checksum`](crate::need::tus_checksum).
pub type TusChecksum = Server<TusChecksumBuilder>;

/// How a [`TusChecksum`] is to run.
#[derive(Debug)]
pub struct TusChecksumBuilder {
    algorithms: String,
    expires_after: Duration,
    silent_for: Duration,
    patch_at_most: u64,
}

impl TusChecksumBuilder {
    /// The checksum algorithms that it knows, with commas. By default `sha1,sha256,sha512,md5`, which are all.
    #[must_use]
    pub fn algorithms(mut self, algorithms: &str) -> Self {
        algorithms.clone_into(&mut self.algorithms);
        self
    }

    /// Uploads expire this long after they were created, finished ones too: 410. By default an hour; whole seconds.
    #[must_use]
    pub const fn expires_after(mut self, time: Duration) -> Self {
        self.expires_after = time;
        self
    }

    /// A connection without a byte for this long is ended. By default 30 seconds; whole seconds.
    #[must_use]
    pub const fn silent_for(mut self, time: Duration) -> Self {
        self.silent_for = time;
        self
    }

    /// A PATCH of more bytes is answered 413. By default there is no limit.
    #[must_use]
    pub const fn patch_at_most(mut self, bytes: u64) -> Self {
        self.patch_at_most = bytes;
        self
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// Where it does not listen within 20 seconds, with what it wrote.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> TusChecksum {
        Server::launch(self)
    }
}

impl Setup for TusChecksumBuilder {
    const NAME: &'static str = "tus-checksum";
    const READY: &'static str = "TUS server listening on ";

    fn command(&self, folder: &Path, ports: &[u16]) -> Command {
        let mut command = python();
        command.args(["-m", "resumable_upload", "serve", "--host", "127.0.0.1", "--port", &ports[0].to_string()]);
        command.arg("--upload-dir").arg(files(folder)).arg("--db-path").arg(folder.join(DATABASE));
        command.args(["--checksum-algorithms", &self.algorithms]);
        command.args(["--upload-expiry", &self.expires_after.as_secs().to_string()]);
        command.args(["--request-timeout", &self.silent_for.as_secs().to_string()]);
        command.args(["--max-chunk-size", &self.patch_at_most.to_string()]);
        command
    }
}

/// Its database, beside the folder with the uploads.
const DATABASE: &str = "uploads.db";

fn python() -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", tools::python_folder().expect("resumable-upload is installed"));
    // Tests may run as root, and the folder is the caller's.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

impl TusChecksum {
    /// One with all algorithms, whose uploads expire after an hour.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// One that is to be described.
    #[must_use]
    pub fn builder() -> TusChecksumBuilder {
        TusChecksumBuilder {
            algorithms: "sha1,sha256,sha512,md5".to_owned(),
            expires_after: Duration::from_hours(1),
            silent_for: Duration::from_secs(30),
            patch_at_most: 0,
        }
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
    ///
    /// # Panics
    ///
    /// Where its database cannot be read.
    #[must_use]
    #[track_caller]
    pub fn received(&self) -> Vec<Received> {
        let complete = self.uploads().into_iter().filter(|(upload, _)| upload.size == Some(upload.offset));
        complete
            .map(|(Unfinished { id, offset, .. }, metadata)| {
                let path = self.folder().join(&id);
                Received::by_tus(id, metadata, path, offset)
            })
            .collect()
    }

    /// Uploads that are not.
    ///
    /// # Panics
    ///
    /// As [`Self::received`].
    #[must_use]
    #[track_caller]
    pub fn unfinished(&self) -> Vec<Unfinished> {
        let uploads = self.uploads().into_iter().map(|(upload, _)| upload);
        uploads.filter(|upload| upload.size != Some(upload.offset)).collect()
    }

    #[track_caller]
    fn uploads(&self) -> Vec<(Unfinished, BTreeMap<String, String>)> {
        // Not by way of a file: threads that ask at the same time would write it while Python reads it.
        let script = include_str!("../../upload/tus-uploads.py");
        let output = python().args(["-c", script]).arg(self.scratch().join(DATABASE)).output().expect("run python3");
        let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "the database of tus-checksum cannot be read: {complaint}");
        let read = |line: &str| {
            let json: Value = serde_json::from_str(line).expect("a JSON object a line");
            let upload = Unfinished {
                id: json["id"].as_str().expect("each has an id").to_owned(),
                offset: json["offset"].as_u64().expect("each has an offset"),
                size: json["size"].as_u64(),
            };
            (upload, server::metadata(&json["metadata"]))
        };
        said.lines().map(read).collect()
    }
}
