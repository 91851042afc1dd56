//! The servers of the upload scenarios, by hand with curl: what they answer, what they keep, and that the harness sees it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tidegate_tests::{
    Process, Scratch, eventually,
    mqtt::Pki,
    need, requires,
    upload::{
        Dav, Encoding, End, Fault, FaultProxy, Kind, Received, Sample, TusChecksum, TusNode, Unfinished, sample,
        sha256, tus_js_client,
    },
};

const SOON: Duration = Duration::from_secs(10);

/// What a server answered.
#[derive(Debug)]
struct Answer {
    /// 0 where there was none.
    status: u16,
    /// Names in lower case.
    headers: BTreeMap<String, String>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Status, and what HEAD and PATCH say of the upload: its offset.
    fn offset(&self) -> (u16, &str) {
        (self.status, self.header("upload-offset"))
    }
}

/// Runs curl with these arguments.
fn curl<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Answer {
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", "20", "--dump-header", "-", "--output", "/dev/null"]).args(arguments);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // A head each, of interim answers and of the last one.
    let last = said.split("\r\n\r\n").filter(|head| head.starts_with("HTTP/")).last().unwrap_or_default();
    let status = last.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let headers = last.lines().filter_map(|line| line.split_once(':'));
    Answer { status, headers: headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect() }
}

/// A request of tus.
fn tus(method: &str, url: &str, headers: &[&str], body: &[&str]) -> Answer {
    let mut arguments = vec!["--header", "Tus-Resumable: 1.0.0"];
    let how = if method == "HEAD" { vec!["--head"] } else { vec!["--request", method] };
    arguments.extend(how);
    arguments.extend(headers.iter().flat_map(|header| ["--header", header]));
    curl(arguments.into_iter().chain(body.iter().copied()).chain([url]))
}

/// Creates an upload and returns its URL.
#[track_caller]
fn create(endpoint: &str, headers: &[&str]) -> String {
    let answer = tus("POST", endpoint, headers, &[]);
    assert_eq!(answer.status, 201, "{answer:?}");
    let location = answer.header("location");
    // Absolute, or a path.
    let (host, _path) = endpoint.split_once("/files").unwrap();
    if location.starts_with('/') { format!("{host}{location}") } else { location.to_owned() }
}

const OCTETS: &str = "Content-Type: application/offset+octet-stream";
const CHUNKED: &str = "Transfer-Encoding: chunked";

/// Sends a file at an offset.
fn patch(url: &str, offset: u64, file: &Path, headers: &[&str]) -> Answer {
    let offset = format!("Upload-Offset: {offset}");
    let headers: Vec<&str> = [OCTETS, &offset].into_iter().chain(headers.iter().copied()).collect();
    tus("PATCH", url, &headers, &["--data-binary", &format!("@{}", file.display())])
}

/// Sends nothing at an offset, and says so by a Content-Length.
fn patch_nothing(url: &str, offset: u64, headers: &[&str]) -> Answer {
    let offset = format!("Upload-Offset: {offset}");
    let headers: Vec<&str> = [OCTETS, &offset].into_iter().chain(headers.iter().copied()).collect();
    tus("PATCH", url, &headers, &["--data-binary", ""])
}

fn head(url: &str) -> Answer {
    tus("HEAD", url, &[], &[])
}

/// The file in two parts.
fn halves(of: &Sample, folder: &Path) -> [(u64, PathBuf); 2] {
    let bytes = fs::read(&of.path).unwrap();
    let half = bytes.len() / 2;
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    [(0, write("first", &bytes[..half])), (half as u64, write("second", &bytes[half..]))]
}

/// `Upload-Metadata` for a file name with a space in it, as base64.
const METADATA: &str = "Upload-Metadata: filename YSBmaWxlLmxvZw==,gateway Z3ctNw==,urgent";

#[track_caller]
fn assert_is(received: &[Received], sample: &Sample) {
    let [received] = received else { panic!("one is received: {received:?}") };
    assert_eq!((received.name.as_str(), received.size), ("a file.log", sample.size));
    assert_eq!(received.metadata["gateway"], "gw-7");
    assert_eq!(received.metadata["urgent"], "");
    assert_eq!(received.content_sha256(), sample.sha256);
}

/// Needs of all tests here.
fn curl_is_there() -> need::Need {
    need::program("curl")
}

/// Uploads in two parts, the second one chunked, with HEAD in between.
#[track_caller]
fn by_parts(endpoint: &str, unfinished: impl Fn() -> Vec<Unfinished>, received: impl Fn() -> Vec<Received>) {
    let scratch = Scratch::new("outbox");
    let sample = sample(scratch.path(), "sent", 300_000, Kind::Mixed, 1);
    let [(_, first), (half, second)] = halves(&sample, scratch.path());
    let url = create(endpoint, &["Upload-Length: 300000", METADATA]);
    assert_eq!(patch(&url, 0, &first, &[]).offset(), (204, "150000"));
    assert_eq!(received(), []);
    let id = url.rsplit('/').next().unwrap().to_owned();
    assert_eq!(unfinished(), [Unfinished { id, offset: 150_000, size: Some(300_000) }]);
    assert_eq!(head(&url).offset(), (200, "150000"));
    assert_eq!(patch(&url, 7, &second, &[]).status, 409, "another offset than the server's");
    assert_eq!(patch(&url, half, &second, &[CHUNKED]).offset(), (204, "300000"));
    assert_eq!(unfinished(), []);
    assert_is(&received(), &sample);
}

#[test]
fn a_tus_node_receives_by_parts() {
    requires!(need::tus_node(), curl_is_there());
    let server = TusNode::start();
    by_parts(&server.url(), || server.unfinished(), || server.received());
    eventually(SOON, "all are noted", || server.requests().len() == 5);
    let answered: Vec<(String, Option<u16>)> =
        server.requests().into_iter().map(|request| (request.method, request.status)).collect();
    let expected = [("POST", 201), ("PATCH", 204), ("HEAD", 200), ("PATCH", 409), ("PATCH", 204)];
    assert_eq!(answered, expected.map(|(method, status)| (method.to_owned(), Some(status))));
    assert_eq!(server.requests()[4].headers["transfer-encoding"], "chunked");
}

#[test]
fn a_tus_checksum_receives_by_parts() {
    requires!(need::tus_checksum(), curl_is_there());
    let server = TusChecksum::start();
    by_parts(&server.url(), || server.unfinished(), || server.received());
}

#[test]
fn tus_servers_say_what_they_can() {
    requires!(need::tus_node(), need::tus_checksum(), curl_is_there());
    let (node, checksum) = (TusNode::start(), TusChecksum::builder().algorithms("sha1,sha256").start());
    let asked = |url: &str| tus("OPTIONS", url, &[], &[]);
    let extensions = asked(&node.url()).header("tus-extension").to_owned();
    assert_eq!(extensions, "creation,creation-with-upload,creation-defer-length,termination,expiration");
    let can = asked(&checksum.url());
    assert!(can.header("tus-extension").contains("termination,checksum,expiration"), "{can:?}");
    assert_eq!(can.header("tus-checksum-algorithm"), "sha1,sha256");
}

#[test]
fn a_tus_checksum_compares_and_a_tus_node_does_not() {
    requires!(need::tus_node(), need::tus_checksum(), curl_is_there(), need::program("openssl"));
    let scratch = Scratch::new("outbox");
    let file = scratch.write("file", "hello");
    // Of "hello", and of "world".
    let right = "Upload-Checksum: sha256 LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=";
    let wrong = "Upload-Checksum: sha256 SG6kYiTR+0z7R+h5j+cZ9xlSXCvnYlC7HiqRZyw6nlA=";

    let server = TusChecksum::start();
    let url = create(&server.url(), &["Upload-Length: 5"]);
    assert_eq!(patch(&url, 0, &file, &[wrong]).status, 460);
    assert_eq!(patch(&url, 0, &file, &["Upload-Checksum: crc32 AAAAAA=="]).status, 400);
    assert_eq!(head(&url).offset(), (200, "0"), "nothing of it is kept");
    assert_eq!(patch(&url, 0, &file, &[right]).offset(), (204, "5"));
    assert_eq!(server.received().len(), 1);

    let server = TusNode::start();
    let url = create(&server.url(), &["Upload-Length: 5"]);
    assert_eq!(patch(&url, 0, &file, &[wrong]).offset(), (204, "5"));
}

#[test]
fn a_tus_node_takes_an_upload_whose_length_is_told_last() {
    requires!(need::tus_node(), curl_is_there());
    let scratch = Scratch::new("outbox");
    let sample = sample(scratch.path(), "sent", 200_000, Kind::Mixed, 2);
    let [(_, first), (half, second)] = halves(&sample, scratch.path());
    let server = TusNode::start();
    let url = create(&server.url(), &["Upload-Defer-Length: 1", METADATA]);
    assert_eq!(head(&url).header("upload-defer-length"), "1");
    assert_eq!(patch(&url, 0, &first, &[CHUNKED]).offset(), (204, "100000"));
    assert_eq!(patch(&url, half, &second, &[CHUNKED]).offset(), (204, "200000"));
    let [ref unfinished] = server.unfinished()[..] else { panic!("one is unfinished") };
    assert_eq!((unfinished.offset, unfinished.size), (200_000, None), "its length is still unknown");

    assert_eq!(patch_nothing(&url, 200_000, &["Upload-Length: 200000"]).offset(), (204, "200000"));
    assert_eq!(head(&url).header("upload-length"), "200000");
    assert_is(&server.received(), &sample);
    let again = patch_nothing(&url, 200_000, &["Upload-Length: 200000"]);
    assert_eq!(again.status, 400, "who lost the answer must ask with HEAD");
}

#[test]
fn a_tus_checksum_wants_the_length_with_the_first_bytes() {
    requires!(need::tus_checksum(), curl_is_there());
    let scratch = Scratch::new("outbox");
    let file = scratch.write("file", "hello");
    let server = TusChecksum::start();
    let url = create(&server.url(), &["Upload-Defer-Length: 1"]);
    assert_eq!(head(&url).header("upload-defer-length"), "1");
    for headers in [&[CHUNKED][..], &[]] {
        assert_eq!(patch(&url, 0, &file, headers).status, 400);
    }
    assert_eq!(head(&url).offset(), (200, "0"));
    // Which may be an empty one.
    assert_eq!(patch_nothing(&url, 0, &["Upload-Length: 5"]).offset(), (204, "0"));
    assert_eq!(patch(&url, 0, &file, &[CHUNKED]).offset(), (204, "5"));
    assert_eq!(server.received().len(), 1);
    assert_eq!(patch_nothing(&url, 5, &["Upload-Length: 5"]).status, 403, "it is complete");
}

/// Sends a file through a proxy that cuts after 100,000 bytes, and returns the offset that the server has then.
#[track_caller]
fn offset_after_a_cut(port: u16, headers: &[&str], end: End) -> u64 {
    let scratch = Scratch::new("outbox");
    let sample = sample(scratch.path(), "sent", 400_000, Kind::Random, 3);
    let direct = format!("http://127.0.0.1:{port}/files");
    let url = create(&direct, &["Upload-Length: 400000"]);
    let proxy = FaultProxy::before(port).schedule([Fault::cut_up(100_000, end)]).start();
    let through = url.replace(&port.to_string(), &proxy.port().to_string());
    assert_eq!(patch(&through, 0, &sample.path, headers).status, 0);
    assert_eq!(proxy.counts().of("cut"), 1);
    // It may be about to notice.
    std::thread::sleep(Duration::from_millis(500));
    head(&url).header("upload-offset").parse().unwrap()
}

/// 100,000 bytes less the request's head and chunks' lengths.
const ALMOST_ALL: std::ops::Range<u64> = 99_000..100_000;

#[test]
fn a_tus_node_keeps_what_came_before_any_cut() {
    requires!(need::tus_node(), curl_is_there());
    let server = TusNode::start();
    for headers in [&[CHUNKED][..], &[]] {
        for end in [End::Orderly, End::Reset] {
            let offset = offset_after_a_cut(server.port(), headers, end);
            assert!(ALMOST_ALL.contains(&offset), "{offset} of a PATCH with {headers:?} that ended {end:?}");
        }
    }
}

#[test]
fn a_tus_checksum_keeps_what_came_before_an_orderly_end_of_a_known_length_only() {
    requires!(need::tus_checksum(), curl_is_there());
    let server = TusChecksum::start();
    let kept = |headers: &[&str], end| offset_after_a_cut(server.port(), headers, end);
    assert!(ALMOST_ALL.contains(&kept(&[], End::Orderly)));
    assert_eq!(kept(&[], End::Reset), 0);
    assert_eq!(kept(&[CHUNKED], End::Orderly), 0);
    assert_eq!(kept(&[CHUNKED], End::Reset), 0);
    assert_eq!(kept(&["Upload-Checksum: sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA="], End::Orderly), 0);
}

#[test]
fn tus_servers_delete_and_remember_until_they_are_wiped() {
    requires!(need::tus_node(), need::tus_checksum(), curl_is_there());
    let (mut node, mut checksum) = (TusNode::start(), TusChecksum::start());
    let uploads = [node.url(), checksum.url()].map(|endpoint| {
        let deleted = create(&endpoint, &["Upload-Length: 5"]);
        assert_eq!(tus("DELETE", &deleted, &[], &[]).status, 204);
        assert_eq!(head(&deleted).status, 404);
        create(&endpoint, &["Upload-Length: 5"])
    });
    let all_answer = |status| uploads.iter().all(|url| head(url).status == status);
    assert!(all_answer(200));
    node.kill();
    checksum.kill();
    assert!(all_answer(0));
    node.start_again();
    checksum.start_again();
    assert!(all_answer(200), "they remember");
    node.wipe();
    checksum.wipe();
    assert!(all_answer(404));
    assert_eq!((node.unfinished(), checksum.unfinished()), (Vec::new(), Vec::new()));
}

#[test]
fn tus_servers_say_that_an_upload_has_expired_even_if_it_was_complete() {
    requires!(need::tus_node(), need::tus_checksum(), curl_is_there());
    let scratch = Scratch::new("outbox");
    let file = scratch.write("file", "hello");
    let time = Duration::from_secs(2);
    let node = TusNode::builder().expires_after(time).start();
    let checksum = TusChecksum::builder().expires_after(time).start();
    for endpoint in [node.url(), checksum.url()] {
        let unfinished = create(&endpoint, &["Upload-Length: 6"]);
        let complete = create(&endpoint, &["Upload-Length: 5"]);
        assert_eq!(patch(&complete, 0, &file, &[]).status, 204);
        for url in [&unfinished, &complete] {
            eventually(SOON, "it expires", || head(url).status == 410);
        }
        assert_eq!(patch(&unfinished, 0, &file, &[]).status, 410);
    }
}

#[test]
fn tus_js_client_gets_a_file_across_a_bad_link() {
    requires!(need::tus_node());
    let scratch = Scratch::new("outbox");
    let sample = sample(scratch.path(), "big.bin", 3_000_000, Kind::Random, 4);
    let server = TusNode::start();
    let faults = [Fault::cut_up(700_000, End::Reset), Fault::cut_down(0, End::Orderly), Fault::answer(50_000, 503)];
    let proxy = FaultProxy::before(server.port()).schedule(faults).start();
    let command = tus_js_client(&server.url_through(proxy.port()), &sample.path, Some(1_000_000));
    let mut client = Process::start("tus-js-client", command);
    assert!(client.wait(Duration::from_mins(1)).success());
    let [ref received] = server.received()[..] else { panic!("one is received") };
    assert_eq!((received.name.as_str(), received.content_sha256()), ("big.bin", sample.sha256));
    let counts = proxy.counts();
    assert!(counts.of("cut") >= 1 && counts.connections >= 2 && counts.up > 3_000_000, "{counts:?}");
}

/// Encodes a file.
fn encode(program: &str, file: &Path, to: &Path) {
    let output = Command::new(program).args(["-c", "-q"]).arg(file).output().unwrap();
    assert!(output.status.success());
    fs::write(to, output.stdout).unwrap();
}

#[test]
fn a_dav_receives_what_is_encoded_and_the_content_is_compared() {
    requires!(need::dav(), curl_is_there(), need::program("zstd"), need::program("gunzip"));
    let scratch = Scratch::new("outbox");
    let sample = sample(scratch.path(), "sent", 500_000, Kind::Text, 5);
    let server = Dav::builder().note_header("X-Gateway").start();
    for (program, encoding) in [("zstd", Encoding::Zstd), ("gzip", Encoding::Gzip)] {
        let encoded = scratch.path().join(program);
        encode(program, &sample.path, &encoded);
        // Of standard input curl does not know the length: chunked.
        let file = fs::File::open(&encoded).unwrap();
        let status = Command::new("curl")
            .args(["--silent", "--upload-file", "-", "--header", &format!("Content-Encoding: {program}")])
            .args(["--header", "X-Gateway: gw-7", "--header", "Repr-Digest: sha-256=:AA==:"])
            .arg(format!("{}a/b/{program}", server.url()))
            .stdin(file)
            .status();
        assert!(status.unwrap().success());
        let name = format!("a/b/{program}");
        let received = eventually(SOON, "it is noted", || server.received().into_iter().find(|it| it.name == name));
        assert_eq!((received.encoding(), received.id.as_str()), (encoding, program));
        assert_eq!(received.content_sha256(), sample.sha256);
        assert_eq!(sha256(&received.path), sha256(&encoded), "stored as it was sent");
        assert!(received.size < sample.size / 3, "{}", received.size);
        let said = |name: &str| received.metadata.get(name).map_or("", String::as_str);
        assert_eq!((said("x-gateway"), said("repr-digest")), ("gw-7", "sha-256=:AA==:"));
        assert_eq!((said("transfer-encoding"), said("content-length")), ("chunked", ""));
    }
}

#[test]
fn a_dav_replaces_deletes_and_forgets() {
    requires!(need::dav(), curl_is_there());
    let scratch = Scratch::new("outbox");
    let [one, two] = ["one", "two"].map(|text| scratch.write(text, text).display().to_string());
    let mut server = Dav::start();
    let url = format!("{}file", server.url());
    assert_eq!(curl(["--upload-file", &one, &url]).status, 201);
    assert_eq!(curl(["--upload-file", &two, &url]).status, 204);
    eventually(SOON, "both are noted", || server.requests().len() == 2);
    assert_eq!(fs::read_to_string(&server.received()[0].path).unwrap(), "two");
    server.kill();
    assert_eq!(curl([url.as_str()]).status, 0);
    server.start_again();
    assert_eq!(server.received().len(), 1, "it remembers");

    assert_eq!(curl(["--request", "DELETE", &url]).status, 204);
    assert_eq!(server.received(), []);
    assert_eq!(curl(["--upload-file", &one, &url]).status, 201);
    server.wipe();
    assert_eq!(curl([url.as_str()]).status, 404);
    assert_eq!(server.received(), []);
}

#[test]
fn a_dav_speaks_http_2_to_clients_with_a_certificate() {
    requires!(need::dav(), curl_is_there(), need::program("openssl"));
    let scratch = Scratch::new("outbox");
    let sample = sample(scratch.path(), "sent", 300_000, Kind::Random, 6);
    let pki = Pki::new();
    let client = pki.client("gw-7");
    let server = Dav::builder().tls(&pki, true).start();
    let text = |path: &Path| path.display().to_string();
    let (ca, file) = (text(pki.ca()), text(&sample.path));
    let (cert, key) = (text(&client.cert), text(&client.key));
    let put = |name: &str, arguments: &[&str]| {
        let url = format!("{}{name}", server.tls_url());
        let all = ["--cacert", &ca, "--upload-file", &file].into_iter();
        curl(all.chain(arguments.iter().copied()).chain([url.as_str()])).status
    };
    assert_eq!(put("two", &["--http2", "--cert", &cert, "--key", &key]), 201);
    assert_eq!(put("one", &["--http1.1", "--cert", &cert, "--key", &key]), 201);
    assert_eq!(put("none", &[]), 400, "who has no certificate");
    eventually(SOON, "all are noted", || server.requests().len() == 3);
    let requests: Vec<_> = server.requests().into_iter().map(|it| (it.protocol, it.client, it.status)).collect();
    let known = "CN=gw-7".to_owned();
    assert_eq!(requests[..2], [("HTTP/2.0".to_owned(), known.clone(), 201), ("HTTP/1.1".to_owned(), known, 201)]);
    assert_eq!((requests[2].1.as_str(), requests[2].2), ("", 400));
    let received: Vec<_> = server.received().iter().map(|it| (it.name.clone(), it.content_sha256())).collect();
    assert_eq!(received, ["two", "one"].map(|name| (name.to_owned(), sample.sha256.clone())));
}

#[test]
fn a_dav_keeps_nothing_of_an_upload_that_is_cut() {
    requires!(need::dav(), curl_is_there());
    let scratch = Scratch::new("outbox");
    let sample = sample(scratch.path(), "sent", 400_000, Kind::Random, 7);
    let file = sample.path.display().to_string();
    let server = Dav::start();
    for headers in [&["--header", CHUNKED][..], &[]] {
        for end in [End::Orderly, End::Reset] {
            let proxy = FaultProxy::before(server.port()).schedule([Fault::cut_up(100_000, end)]).start();
            let url = format!("{}file", server.url_through(proxy.port()));
            let all = ["--header", "Expect:", "--upload-file", &file].into_iter().chain(headers.iter().copied());
            assert_eq!(curl(all.chain([url.as_str()])).status, 0);
            assert_eq!(proxy.counts().of("cut"), 1);
        }
    }
    eventually(SOON, "all are noted", || server.requests().len() == 4);
    assert!(server.requests().iter().all(|it| it.status == 400 && !it.complete), "{:?}", server.requests());
    assert_eq!(server.received(), []);
    assert_eq!(fs::read_dir(server.folder()).unwrap().count(), 0);
}
