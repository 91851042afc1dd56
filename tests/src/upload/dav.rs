//! A server that takes PUT: nginx with its DAV module, by HTTP/1.1 without TLS and by HTTP/2 and 1.1 with it.
//!
//! It writes what comes to a file beside and renames that when all of it is there: an upload that is cut leaves nothing,
//! and one that takes the place of another does so at once. It answers 201 where the name is new, else 204, and takes no
//! notice of conditions, encodings and digests, all of which its access log tells.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::{Received, Server, Setup, server};
use crate::{mqtt::Pki, need};

/// nginx. See [`need::dav`](crate::need::dav).
pub type Dav = Server<DavBuilder>;

/// How a [`Dav`] is to run.
#[derive(Debug, Default)]
pub struct DavBuilder {
    tls: Option<Tls>,
    max_body: u64,
    headers: Vec<String>,
    lines: String,
}

#[derive(Debug)]
struct Tls {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
    clients: bool,
}

/// A request that it is done with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DavRequest {
    /// Such as `PUT`.
    pub method: String,
    /// Path, decoded.
    pub uri: String,
    /// What it was answered with; 400 also where the connection ended first.
    pub status: u16,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
    /// All bytes of the request, its head included.
    pub request_length: u64,
    /// Whether it came to its end and was answered.
    pub complete: bool,
    /// Subject of the client's certificate, empty without one.
    pub client: String,
    /// Headers of interest that it had, with names in lower case.
    pub headers: BTreeMap<String, String>,
}

/// Headers that are always noted.
const HEADERS: [&str; 7] = [
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "content-digest",
    "repr-digest",
    "unencoded-digest",
];

impl DavBuilder {
    /// TLS on a second port, with the server certificate of `pki`; `clients` demands certificates of it from clients, too.
    #[must_use]
    pub fn tls(mut self, pki: &Pki, clients: bool) -> Self {
        let read = |path: &Path| fs::read(path).expect("the PKI's files are there");
        self.tls =
            Some(Tls { ca: read(pki.ca()), cert: read(&pki.server().cert), key: read(&pki.server().key), clients });
        self
    }

    /// A request with a larger body is answered 413. By default there is no limit.
    #[must_use]
    pub const fn body_at_most(mut self, bytes: u64) -> Self {
        self.max_body = bytes;
        self
    }

    /// Notes a further header.
    #[must_use]
    pub fn note_header(mut self, name: &str) -> Self {
        self.headers.push(name.to_lowercase());
        self
    }

    /// A further line of the configuration, for each of its servers.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push_str(line);
        self.lines.push('\n');
        self
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// Where it does not listen within 20 seconds, with what it wrote.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Dav {
        Server::launch(self)
    }

    fn config(&self, folder: &Path, ports: &[u16]) -> String {
        let headers = HEADERS.into_iter().chain(self.headers.iter().map(String::as_str));
        let headers = headers.map(|name| format!(r#""{name}":"$http_{}""#, name.replace('-', "_")));
        let headers = headers.collect::<Vec<_>>().join(",");
        let folder = folder.display();
        let mut config = format!(
            "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr notice;
events {{}}
http {{
    log_format requests escape=json '{{\"method\":\"$request_method\",\"uri\":\"$uri\",\"status\":\"$status\",\
             \"protocol\":\"$server_protocol\",\"request_length\":$request_length,\
             \"complete\":\"$request_completion\",\"client\":\"$ssl_client_s_dn\",\"headers\":{{{headers}}}}}';
    access_log {folder}/{ACCESS_LOG} requests;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/unused; fastcgi_temp_path {folder}/unused;
    uwsgi_temp_path {folder}/unused; scgi_temp_path {folder}/unused;
    client_max_body_size {}; root {folder}/files; dav_methods PUT DELETE; create_full_put_path on;
",
            self.max_body
        );
        let mut server = |listen: std::fmt::Arguments<'_>| {
            writeln!(config, "server {{ listen 127.0.0.1:{listen}\n{} }}", self.lines).expect("a string takes all");
        };
        server(format_args!("{};", ports[0]));
        if let Some(tls) = &self.tls {
            let verify = if tls.clients { "on" } else { "off" };
            server(format_args!(
                "{} ssl http2; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    ssl_client_certificate {folder}/ca.pem; ssl_verify_client {verify};",
                ports[1]
            ));
        }
        config.push('}');
        config
    }
}

/// Beside the folder with the files.
const ACCESS_LOG: &str = "access.log";

impl Setup for DavBuilder {
    const NAME: &'static str = "dav";
    /// `nginx/VERSION`, which it says when its sockets are there.
    const READY: &'static str = "nginx/";

    fn command(&self, folder: &Path, ports: &[u16]) -> Command {
        let write = |name: &str, content: &[u8]| fs::write(folder.join(name), content).expect("the folder is ours");
        write("nginx.conf", self.config(folder, ports).as_bytes());
        if let Some(tls) = &self.tls {
            write("ca.pem", &tls.ca);
            write("cert.pem", &tls.cert);
            write("key.pem", &tls.key);
        }
        let mut command = Command::new(need::find("nginx").unwrap_or_else(|| "nginx".into()));
        command.args(["-e", "stderr", "-p"]).arg(folder).arg("-c").arg(folder.join("nginx.conf"));
        command
    }

    fn ports(&self) -> usize {
        1 + usize::from(self.tls.is_some())
    }
}

impl Dav {
    /// One without TLS.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// One that is to be described.
    #[must_use]
    pub fn builder() -> DavBuilder {
        DavBuilder::default()
    }

    /// Its root without TLS, with the slash at its end.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_through(self.port())
    }

    /// The same, by way of a proxy before [`Self::port`].
    #[must_use]
    pub fn url_through(&self, port: u16) -> String {
        format!("http://127.0.0.1:{port}/")
    }

    /// Its port with TLS.
    ///
    /// # Panics
    ///
    /// Where it was started without.
    #[must_use]
    #[track_caller]
    pub fn tls_port(&self) -> u16 {
        *self.ports().get(1).expect("it has TLS")
    }

    /// Its root with TLS, with the slash at its end.
    ///
    /// # Panics
    ///
    /// As [`Self::tls_port`].
    #[must_use]
    #[track_caller]
    pub fn tls_url(&self) -> String {
        self.tls_url_through(self.tls_port())
    }

    /// The same, by way of a proxy before [`Self::tls_port`].
    #[must_use]
    pub fn tls_url_through(&self, port: u16) -> String {
        format!("https://localhost:{port}/")
    }

    /// Requests since it was wiped, in the order in which it was done with them. A request is noted just after it is
    /// answered.
    ///
    /// # Panics
    ///
    /// Where its log cannot be read.
    #[must_use]
    #[track_caller]
    pub fn requests(&self) -> Vec<DavRequest> {
        let log = fs::read_to_string(self.scratch().join(ACCESS_LOG)).expect("nginx makes its log as it starts");
        // The last line may be half written.
        log.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(DavRequest::read).collect()
    }

    /// Files that it has, each with the last request that put it there, in the order of these requests.
    ///
    /// # Panics
    ///
    /// As [`Self::requests`].
    #[must_use]
    #[track_caller]
    pub fn received(&self) -> Vec<Received> {
        let mut last: BTreeMap<String, (usize, DavRequest)> = BTreeMap::new();
        for (index, request) in self.requests().into_iter().enumerate() {
            if request.method == "PUT" && request.complete && matches!(request.status, 201 | 204) {
                last.insert(request.uri.clone(), (index, request));
            }
        }
        let mut last: Vec<_> = last.into_values().collect();
        last.sort_by_key(|(index, _)| *index);
        last.into_iter().filter_map(|(_, request)| self.stored(request)).collect()
    }

    /// None where the file was deleted.
    fn stored(&self, request: DavRequest) -> Option<Received> {
        let name = request.uri.trim_start_matches('/').to_owned();
        let path: PathBuf = self.folder().join(&name);
        let size = fs::metadata(&path).ok()?.len();
        let id = name.rsplit('/').next().unwrap_or_default().to_owned();
        Some(Received { id, metadata: request.headers, path, size, name })
    }
}

impl DavRequest {
    #[track_caller]
    fn read(line: &str) -> Self {
        let json: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        let mut headers = server::metadata(&json["headers"]);
        headers.retain(|_, value| !value.is_empty());
        Self {
            method: text("method"),
            uri: text("uri"),
            status: text("status").parse().unwrap_or_default(),
            protocol: text("protocol"),
            request_length: json["request_length"].as_u64().unwrap_or_default(),
            complete: text("complete") == "OK",
            client: text("client"),
            headers,
        }
    }
}
