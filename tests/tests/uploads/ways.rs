//! Other ways to the server, and other servers: through proxies, several files at once, a server that forgets in time, one that is
//! slow, and when a gateway may begin.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use serde_json::json;
use tidegate_tests::{
    eventually,
    mqtt::Pki,
    need, requires,
    upload::{Dav, Fault, FaultProxy, Kind, TusNode},
};

use crate::{SEED, SOON, Sender, Told, arrives};

/// An HTTP proxy that connects whom it is asked to (RFC 9110, section 9.3.6).
struct ConnectProxy {
    port: u16,
    /// Whom it was asked for.
    asked: Arc<Mutex<Vec<String>>>,
    ends: Arc<AtomicBool>,
}

impl ConnectProxy {
    fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, ends) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        thread::spawn({
            let (asked, ends) = (Arc::clone(&asked), Arc::clone(&ends));
            move || {
                for client in listener.incoming().map_while(Result::ok) {
                    if ends.load(Ordering::Relaxed) {
                        break;
                    }
                    let asked = Arc::clone(&asked);
                    // Whoever ends first, ends both.
                    thread::spawn(move || drop(tunnel(&client, &asked)));
                }
            }
        });
        Self { port, asked, ends }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _wakes_it = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn tunnel(client: &TcpStream, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut head = BufReader::with_capacity(1, client);
    let mut line = String::new();
    head.read_line(&mut line)?;
    let target = line.strip_prefix("CONNECT ").and_then(|rest| rest.strip_suffix(" HTTP/1.1\r\n"));
    let target = target.ok_or(io::ErrorKind::InvalidData)?.to_owned();
    while line != "\r\n" {
        line.clear();
        head.read_line(&mut line)?;
    }
    let server = TcpStream::connect(&target)?;
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(target);
    let mut up = client;
    up.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    thread::scope(|scope| {
        let (mut from, mut to) = (client, &server);
        scope.spawn(move || {
            let copied = io::copy(&mut from, &mut to);
            let _gone_already = to.shutdown(std::net::Shutdown::Write);
            copied
        });
        let copied = io::copy(&mut &server, &mut up);
        let _gone_already = up.shutdown(std::net::Shutdown::Both);
        copied.map(drop)
    })
}

#[test]
fn a_proxy_is_asked_for_the_server_of_https_and_sees_nothing_of_the_file() {
    requires!(need::dav(), need::program("zstd"));
    let (pki, proxy) = (Pki::new(), ConnectProxy::start());
    let server = Dav::builder().tls(&pki, false).start();
    for version in ["1.1", "2"] {
        let lines = format!(
            "protocol = \"http\"\nhttp_version = \"{version}\"\nca = \"{}\"\nproxy = \"http://127.0.0.1:{}\"",
            pki.ca().display(),
            proxy.port
        );
        let sender = Sender::start(&server.tls_url(), &lines);
        let sample = sender.put(&format!("{version}.log"), 500_000, Kind::Text, SEED);
        arrives(&sample, || server.received());
        sender.is_done();
    }
    assert_eq!(proxy.asked(), [format!("localhost:{}", server.tls_port()), format!("localhost:{}", server.tls_port())]);
}

#[test]
fn a_proxy_is_handed_what_is_for_a_server_without_tls() {
    requires!(need::dav(), need::program("zstd"));
    let server = Dav::start();
    // A name that only the proxy would find: nginx takes whole addresses for its own, whoever they name.
    let proxy = FaultProxy::before(server.port()).start();
    let lines = format!("protocol = \"http\"\nproxy = \"http://127.0.0.1:{}\"", proxy.port());
    let sender = Sender::start("http://files.invalid/", &lines);
    let sample = sender.put("a.log", 500_000, Kind::Text, SEED);
    arrives(&sample, || server.received());
    sender.is_done();
    assert_eq!(server.requests()[0].uri, "/a.log");
    assert_eq!(proxy.counts().connections, 1);
}

#[test]
fn several_files_go_at_once_and_never_more_than_is_configured() {
    requires!(need::tus_node());
    let server = TusNode::start();
    let lines = "compression = \"none\"\nrate_limit = \"1MiB\"\npart_size = \"256KiB\"\nconcurrency = 3";
    let sender = Sender::start(&server.url(), lines);
    let samples: Vec<_> =
        (0..7).map(|seed| sender.put(&format!("{seed}.bin"), 600_000, Kind::Random, SEED + seed)).collect();
    let mut most = 0;
    eventually(SOON, "all are there", || {
        most = most.max(server.unfinished().len());
        if server.received().len() == samples.len() { Ok(()) } else { Err(sender.upload().to_string()) }
    });
    assert_eq!(most, 3);
    for sample in &samples {
        arrives(sample, || server.received());
    }
    sender.is_done();
    assert_eq!(sender.counter("resent_bytes"), 0);
}

#[test]
fn an_upload_that_expired_on_the_server_begins_anew() {
    requires!(need::tus_node(), need::program("mosquitto"));
    let server = TusNode::builder().expires_after(Duration::from_secs(4)).start();
    // Longer under way than the server waits.
    let lines = "compression = \"none\"\nrate_limit = \"256KiB\"\npart_size = \"256KiB\"";
    let mut told = Told::start(&server.url(), lines);
    let sample = told.sender.put("a.bin", 4 << 20, Kind::Random, SEED);
    let event = told.event("a.bin", "restarted");
    let reason = event["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("410") && reason.contains("it was to be kept until"), "{event}");
    told.sender.configure("rate_limit = \"\"");
    arrives(&sample, || server.received());
    told.event("a.bin", "sent");
    told.sender.is_done();
    assert!(told.sender.counter("restarts")["forgotten"].as_u64() > Some(0));
}

#[test]
fn a_gateway_waits_its_own_time_after_a_start_and_when_a_window_opens() {
    requires!(need::dav());
    let server = Dav::start();
    let mut sender = Sender::start(&server.url(), "protocol = \"http\"");
    // Its part of these ten seconds follows from its id, gw-test: 4.9 s. Of the twenty when a window opens it is 4.0 s.
    sender.configure("splay = \"10s\"");
    sender.daemon.kill();
    let first = sender.put("first", 1000, Kind::Text, SEED);
    sender.daemon.start_again();
    is_splayed(&sender, &server);
    arrives(&first, || server.received());
    sender.is_done();
    sender.configure(&format!("splay = \"20s\"\nwindow = [\"{}\"]", crate::kind::far_away()));
    eventually(SOON, "it is closed", || sender.upload()["state"] == "closed");
    let second = sender.put("second", 1000, Kind::Text, SEED);
    sender.configure("splay = \"20s\"\nwindow = []");
    is_splayed(&sender, &server);
    arrives(&second, || server.received());
}

/// Waits until nothing is put off any more, and sees that nothing was sent meanwhile.
#[track_caller]
fn is_splayed(sender: &Sender, server: &Dav) {
    let before = server.requests().len();
    let upload = eventually(SOON, "it is put off", || {
        let upload = sender.upload();
        if upload["state"] == "splayed" { Ok(upload) } else { Err(upload.to_string()) }
    });
    assert!(upload["until_ms"].is_u64(), "{upload}");
    while sender.upload()["state"] == "splayed" {
        assert_eq!(server.requests().len(), before);
        sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_pause_outlasts_a_restart() {
    requires!(need::dav(), need::program("mosquitto"));
    let server = Dav::start();
    let mut told = Told::start(&server.url(), "protocol = \"http\"");
    let mut operator = told.operator();
    operator.request(&told.sender.daemon.topic("cmd/upload-pause"), r#"{"for":"1h"}"#);
    eventually(SOON, "it pauses", || told.sender.upload()["state"] == "paused");
    told.sender.daemon.kill();
    let sample = told.sender.put("a.log", 1000, Kind::Text, SEED);
    told.sender.daemon.start_again();
    sleep(Duration::from_secs(2));
    assert_eq!((&told.sender.upload()["state"], server.requests().len()), (&json!("paused"), 0));
    operator.request(&told.sender.daemon.topic("cmd/upload-pause"), "");
    arrives(&sample, || server.received());
}

#[test]
fn requests_that_take_too_long_and_answers_without_an_end_are_counted() {
    requires!(need::dav());
    let server = Dav::start();
    let endless =
        Fault::Garbage { after: 0, bytes: [b"HTTP/1.1 201 Created\r\nx: ", &vec![b'x'; 1 << 20][..]].concat() };
    let proxy = FaultProxy::before(server.port()).schedule([Fault::Slow { bytes_per_s: 2000 }, endless]).start();
    let sender = Sender::start(
        &server.url_through(proxy.port()),
        "protocol = \"http\"\ncompression = \"none\"\ntotal_within = \"4s\"",
    );
    let sample = sender.put("a.bin", 200_000, Kind::Random, SEED);
    let started = Instant::now();
    arrives(&sample, || server.received());
    eventually(SOON, "it is sent", || {
        sender.retry();
        sender.outbox().is_empty()
    });
    println!("{:?}: {}", started.elapsed(), sender.upload());
    let troubles = sender.counter("troubles");
    assert_eq!((&troubles["too-long"], &troubles["garbage"]), (&json!(1), &json!(1)), "{troubles}");
}
