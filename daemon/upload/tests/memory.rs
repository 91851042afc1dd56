//! What an upload allocates: how often, and how much at its largest moment. By itself, since it counts what all threads allocate but
//! its own.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use http::HeaderValue;
use tidegate_storage::IoPreference;
use tidegate_upload::{
    engine,
    event::{Outcome, Told},
    ports::Ports,
    settings::{After, Compression, Credentials, HttpVersion, Protocol, Settings, Verify},
    status::UploadStatus,
    window::Windows,
};
use tidegate_values::Patterns;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The system's allocator; what the upload's threads ask of it is counted.
struct Counting;

/// Whether it is counted.
static WATCHED: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);
static IN_USE: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

thread_local! {
    /// Whether the thread is the server's or the test's own.
    static NOT_THE_UPLOAD_S: Cell<bool> = const { Cell::new(false) };
}

fn count(bytes: i64) {
    if !WATCHED.load(Relaxed) || NOT_THE_UPLOAD_S.get() {
        return;
    }
    if bytes > 0 {
        CALLS.fetch_add(1, Relaxed);
    }
    PEAK.fetch_max(IN_USE.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: all is done by the system's allocator, with what was handed in; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed() as i64);
        // SAFETY: the caller keeps to the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size().cast_signed() as i64));
        // SAFETY: the pointer came from `alloc` above, so from the system's, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Nothing;

impl Credentials for Nothing {
    fn tls(&self) -> Result<rustls::ClientConfig, String> {
        Err("no TLS here".to_owned())
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, String> {
        Ok(None)
    }

    fn explain(&self, error: &rustls::Error) -> String {
        error.to_string()
    }
}

/// A server that takes a `PUT` of any length, chunked or not, and keeps nothing.
fn sink() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        NOT_THE_UPLOAD_S.set(true);
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                NOT_THE_UPLOAD_S.set(true);
                while take(&stream).is_some() {}
            });
        }
    });
    port
}

fn take(stream: &TcpStream) -> Option<()> {
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let mut length = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse::<u64>().ok();
        }
        if line.is_empty() {
            break;
        }
    }
    match length {
        Some(length) => drop(std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).ok()?),
        None => loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = u64::from_str_radix(size.trim_end(), 16).ok()?;
            std::io::copy(&mut reader.by_ref().take(size + 2), &mut std::io::sink()).ok()?;
            if size == 0 {
                break;
            }
        },
    }
    (&mut &*stream).write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").ok()
}

/// Lines that compress, as long as wanted, without two frames that are alike.
fn write_lines(path: &Path, bytes: usize) {
    let mut file = std::io::BufWriter::new(File::create(path).unwrap());
    let (mut written, mut n) = (0, 0_u64);
    while written < bytes {
        n += 1;
        let line = format!("{n},temperature={},humidity={},door=closed\n", n * 7919 % 1009, n * n % 131);
        file.write_all(line.as_bytes()).unwrap();
        written += line.len();
    }
}

/// What the upload's threads did while a file was uploaded.
struct Cost {
    allocations: u64,
    /// Most that it had in use, beyond what it had when it was idle.
    peak_bytes: i64,
}

fn upload(bytes: usize, compression: Compression) -> Cost {
    let dir = tempfile::tempdir().unwrap();
    let outbox = dir.path().join("outbox");
    fs::create_dir(&outbox).unwrap();
    write_lines(&dir.path().join("content"), bytes);
    let second = Duration::from_secs(1);
    let settings = Settings {
        gateway: "gw-7".to_owned(),
        outboxes: vec![outbox.clone()],
        state_dir: dir.path().join("state"),
        endpoint: Some(format!("http://127.0.0.1:{}/in", sink()).parse().unwrap()),
        protocol: Protocol::Http,
        http: HttpVersion::Auto,
        part_size_bytes: 64 << 20,
        compression,
        rate_limit: None,
        windows: Windows::default(),
        concurrency: 1,
        metered: Patterns::default(),
        splay: Duration::ZERO,
        settle: second,
        after: After::Remove,
        verify: Verify::No,
        proxy: None,
        connect_within: 10 * second,
        progress_within: 30 * second,
        total_within: 300 * second,
        credentials: Arc::new(Nothing),
    };
    let (_settings, settings) = watch::channel(Arc::new(settings));
    let (_orders, orders) = mpsc::channel(1);
    let (_asks, asks) = mpsc::channel(1);
    let (status, mut shown) = watch::channel(UploadStatus::default());
    let (events, mut told) = mpsc::channel::<Told>(1);
    let (_first, first) = watch::channel(false);
    let shutdown = CancellationToken::new();
    let ports = Ports { settings, orders, asks, status, events, first, shutdown: shutdown.clone() };
    let engine = engine::start(ports, IoPreference::Auto).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        shown.changed().await.unwrap();
        IN_USE.store(0, Relaxed);
        PEAK.store(0, Relaxed);
        CALLS.store(0, Relaxed);
        WATCHED.store(true, Relaxed);
        fs::rename(dir.path().join("content"), outbox.join("content.csv")).unwrap();
        let Told { event, stored } = told.recv().await.unwrap();
        assert_eq!(event.state, Outcome::Sent);
        stored.send(()).unwrap();
        WATCHED.store(false, Relaxed);
    });
    shutdown.cancel();
    engine.join().unwrap();
    Cost { allocations: CALLS.load(Relaxed), peak_bytes: PEAK.load(Relaxed) }
}

#[test]
fn an_upload_takes_a_megabyte_at_most_and_hardly_allocates_on_its_way() {
    const SHORT: usize = 16 << 20;
    const LONG: usize = 80 << 20;
    NOT_THE_UPLOAD_S.set(true);
    for compression in [Compression::None, Compression::Zstd(1), Compression::Gzip(1)] {
        let (short, long) = (upload(SHORT, compression), upload(LONG, compression));
        // What both do once is not what a megabyte costs.
        let more_mib = (LONG - SHORT) as u64 >> 20;
        let a_mib = (long.allocations.saturating_sub(short.allocations)) as f64 / more_mib as f64;
        println!(
            "{compression:?}: {} allocations, {a_mib:.2} a MiB, peak {} KiB",
            long.allocations,
            long.peak_bytes / 1024
        );
        assert!(a_mib <= 2.0, "{compression:?}: {a_mib:.2} allocations a MiB");
        // gzip's context is in Rust's memory, zstd's is C's: 0.3 and 0.5 MiB.
        let context = if matches!(compression, Compression::Gzip(_)) { 512 << 10 } else { 0 };
        // Two buffers for what is sent as it is, else three.
        let most = if matches!(compression, Compression::None) { 640 << 10 } else { (1 << 20) + context };
        assert!(long.peak_bytes <= most, "{compression:?}: {} bytes", long.peak_bytes);
    }
}
