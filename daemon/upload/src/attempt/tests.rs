use std::{fs, fs::File, io::Read as _, sync::Arc, time::Duration};

use http::HeaderValue;
use tempfile::TempDir;
use tidegate_storage::{IoPreference, block_on, choose};
use tidegate_values::{Digest, Patterns, base64};
use tokio::sync::watch;

use super::{
    server::{Mood, Server as TestServer, Upload},
    *,
};
use crate::{
    journal::Begin,
    outbox::Identity,
    settings::{After, Compression, Credentials, HttpVersion, Verify},
    window::Windows,
};

const ALL: &str = "creation,creation-defer-length,termination,expiration";

#[derive(Debug)]
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

/// A file, a server and what is kept between attempts.
struct Stage {
    dir: TempDir,
    settings: Settings,
    server: TestServer,
    kept: RefCell<Server>,
}

impl Stage {
    fn new(content: &[u8], protocol: Protocol, compression: Compression, mood: Mood) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("log.csv"), content).unwrap();
        let server = TestServer::start(mood);
        let second = Duration::from_secs(1);
        let settings = Settings {
            gateway: "gw-7".to_owned(),
            outboxes: vec![dir.path().to_owned()],
            state_dir: dir.path().to_owned(),
            endpoint: Some(server.url()),
            protocol,
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
            connect_within: 5 * second,
            progress_within: 5 * second,
            total_within: 60 * second,
            credentials: Arc::new(Nothing),
        };
        Self { dir, settings, server, kept: RefCell::default() }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("log.csv")
    }

    fn job(&self) -> Job {
        let path = self.path();
        let identity = Identity::of(std::os::fd::AsFd::as_fd(&File::open(&path).unwrap())).unwrap();
        let open = move || File::open(&path).map_err(|error| Trouble::new(Kind::Vanished, error.to_string()));
        let journal = self.dir.path().join("journal");
        Job::new(self.dir.path().to_owned(), "log.csv".to_owned(), identity, Box::new(open), journal)
    }

    /// One attempt on a thread as the engine has it.
    fn attempt(&self, job: &mut Job) -> Result<Arrived, Trouble> {
        self.attempt_at(&self.server.url(), job)
    }

    fn attempt_at(&self, endpoint: &Uri, job: &mut Job) -> Result<Arrived, Trouble> {
        self.attempt_at_rate(endpoint, job, None)
    }

    fn attempt_at_rate(&self, endpoint: &Uri, job: &mut Job, rate: Option<u64>) -> Result<Arrived, Trouble> {
        let backend = choose(IoPreference::Auto).unwrap().backend;
        let (_important, first) = watch::channel(false);
        let (pacing, progress, yields) = (Pacing::new(first, rate), Progress::new(), Cell::new(false));
        let attempt = Attempt::new(&self.settings, endpoint, backend, job, &self.kept, &pacing, &progress, &yields);
        block_on(backend, attempt.run(std::future::pending())).unwrap().unwrap().result
    }

    /// An attempt at this many bytes a second that is told to stop after a while.
    fn stopped_attempt(&self, job: &mut Job, rate: u64, after: Duration) {
        let backend = choose(IoPreference::Auto).unwrap().backend;
        let endpoint = self.server.url();
        let (_important, first) = watch::channel(false);
        let (pacing, progress, yields) = (Pacing::new(first, Some(rate)), Progress::new(), Cell::new(false));
        let attempt = Attempt::new(&self.settings, &endpoint, backend, job, &self.kept, &pacing, &progress, &yields);
        assert!(block_on(backend, attempt.run(async { tokio::time::sleep(after).await })).unwrap().is_none());
    }

    /// An attempt that is told to stop once the server has so much.
    fn attempt_until(&self, job: &mut Job, bytes: usize) {
        let backend = choose(IoPreference::Auto).unwrap().backend;
        let endpoint = self.server.url();
        let (_important, first) = watch::channel(false);
        let (pacing, progress, yields) = (Pacing::new(first, Some(1 << 20)), Progress::new(), Cell::new(false));
        let attempt = Attempt::new(&self.settings, &endpoint, backend, job, &self.kept, &pacing, &progress, &yields);
        let enough = async {
            while progress.sent.get() < bytes as u64 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(block_on(backend, attempt.run(enough)).unwrap().is_none());
    }

    /// Attempts until it is there; the kinds of trouble on the way.
    fn bring(&self, job: &mut Job) -> Vec<Kind> {
        let mut troubles = Vec::new();
        loop {
            match self.attempt(job) {
                Ok(_) => return troubles,
                Err(trouble) => {
                    if trouble.kind.verdict(1) == crate::trouble::Verdict::Restart {
                        job.journal.take().unwrap().remove().unwrap();
                        (job.sent_end, job.farthest) = (None, None);
                    }
                    troubles.push(trouble.kind);
                    assert!(troubles.len() < 200, "{troubles:?}");
                }
            }
        }
    }
}

#[test]
fn what_was_sent_before_a_stop_is_counted_and_gone_on_from() {
    for compression in [Compression::None, Compression::Zstd(1)] {
        let content = random(2 << 20);
        let stage = Stage::new(&content, Protocol::Tus, compression, mood(ALL));
        let mut job = stage.job();
        stage.attempt_until(&mut job, 1 << 20);
        // The server sees the end of the connection a little later.
        while stage.server.only().bytes.is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let before = stage.server.only().bytes.len() as u64;
        assert!(job.sent_bytes >= before && job.farthest >= Some(before), "{before} of {:?}", job.farthest);
        assert_eq!(stage.bring(&mut job), [], "the server is believed");
        assert!(stage.server.only().bytes == content);
    }
}

fn text(bytes: usize) -> Vec<u8> {
    let lines =
        (0_u64..).flat_map(|n| format!("temperature={};humidity={};door=closed\n", n % 977, n * n % 131).into_bytes());
    lines.take(bytes).collect()
}

fn random(bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(bytes as u64);
    std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
}

fn decoded(upload: &Upload, coding: &str) -> Vec<u8> {
    let mut content = Vec::new();
    match coding {
        "gzip" => drop(flate2::read::MultiGzDecoder::new(&upload.bytes[..]).read_to_end(&mut content).unwrap()),
        "zstd" => {
            let mut rest = &upload.bytes[..];
            while !rest.is_empty() {
                let length = zstd_safe::find_frame_compressed_size(rest).unwrap();
                let mut frame = Vec::with_capacity(FRAME_BYTES);
                zstd_safe::decompress(&mut frame, &rest[..length]).unwrap();
                content.append(&mut frame);
                rest = &rest[length..];
            }
        }
        _ => content.clone_from(&upload.bytes),
    }
    content
}

fn mood(extensions: &'static str) -> Mood {
    Mood { extensions, ..Mood::default() }
}

#[test]
fn content_of_every_size_arrives_with_its_digest_and_what_it_is() {
    for size in [0, 1, 1000, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES + 77] {
        for (compression, coding) in
            [(Compression::None, "identity"), (Compression::Zstd(1), "zstd"), (Compression::Gzip(1), "gzip")]
        {
            for extensions in [ALL, "creation"] {
                let content = text(size);
                let stage = Stage::new(&content, Protocol::Tus, compression, mood(extensions));
                assert_eq!(stage.bring(&mut stage.job()), [], "{size} {coding} {extensions}");
                let upload = stage.server.only();
                assert_eq!(upload.length, Some(upload.bytes.len()), "{size} {coding} {extensions}: it is complete");
                let coding = if size < 1000 { "identity" } else { coding };
                assert!(decoded(&upload, coding) == content, "{size} {coding} {extensions}");
                let digest = Digest::of(&content).to_string();
                let pair = format!("sha256 {}", base64::encode(digest.as_bytes()));
                assert!(upload.metadata.contains(&pair), "{}", upload.metadata);
                assert_eq!(upload.metadata.contains("encoding "), coding != "identity", "{}", upload.metadata);
            }
        }
    }
}

#[test]
fn a_put_says_its_digest_and_its_coding() {
    for (compression, coding) in [(Compression::None, None), (Compression::Zstd(3), Some("zstd"))] {
        let content = text(700_000);
        let stage = Stage::new(&content, Protocol::Http, compression, Mood::default());
        assert_eq!(stage.bring(&mut stage.job()), []);
        assert!(decoded(&stage.server.only(), coding.unwrap_or_default()) == content);
        let seen = stage.server.seen("PUT").remove(0);
        assert_eq!(seen.headers.get("content-encoding").map(String::as_str), coding);
        let digest = format!("sha-256=:{}:", base64::encode(&Digest::of(&content).0));
        assert_eq!(seen.headers["unencoded-digest"], digest);
        assert_eq!(seen.headers.contains_key("repr-digest"), coding.is_none());
        assert_eq!(seen.headers.contains_key("transfer-encoding"), coding.is_some());
    }
}

#[test]
fn what_does_not_shrink_is_sent_as_it_is() {
    let content = random(600_000);
    let stage = Stage::new(&content, Protocol::Tus, Compression::Zstd(1), mood(ALL));
    assert_eq!(stage.bring(&mut stage.job()), []);
    assert!(stage.server.only().bytes == content);
}

#[test]
fn content_is_read_twice_and_no_more() {
    // Bytes that this thread had from files (proc_pid_io(5)); sockets are not among them.
    let had = || {
        let io = fs::read_to_string("/proc/thread-self/io").ok()?;
        io.lines().find_map(|line| line.strip_prefix("rchar: "))?.parse::<usize>().ok()
    };
    for compression in [Compression::None, Compression::Zstd(1)] {
        let content = text(10 * FRAME_BYTES);
        let stage = Stage::new(&content, Protocol::Tus, compression, mood(ALL));
        let Some(before) = had() else { return };
        assert_eq!(stage.bring(&mut stage.job()), []);
        let read = had().unwrap() - before;
        assert!(read < 2 * content.len() + FRAME_BYTES, "{read} of {}", content.len());
    }
}

#[test]
fn samples_say_whether_content_is_compressed_also_where_its_length_is_to_be_known() {
    for extensions in [ALL, "creation"] {
        // The first frame shrinks, the others do not; and the other way round.
        for shrinking in [&[true, false, false, false][..], &[false, true, true, true]] {
            let frames: Vec<Vec<u8>> = shrinking
                .iter()
                .map(|shrinks| if *shrinks { text(FRAME_BYTES) } else { random(FRAME_BYTES) })
                .collect();
            let content = frames.concat();
            let stage = Stage::new(&content, Protocol::Tus, Compression::Zstd(1), mood(extensions));
            assert_eq!(stage.bring(&mut stage.job()), []);
            let upload = stage.server.only();
            assert!(upload.metadata.contains("encoding "), "{extensions} {shrinking:?}: {}", upload.metadata);
            assert!(decoded(&upload, "zstd") == content);
        }
        let content = random(5 * FRAME_BYTES);
        let stage = Stage::new(&content, Protocol::Tus, Compression::Zstd(1), mood(extensions));
        assert_eq!(stage.bring(&mut stage.job()), []);
        assert!(stage.server.only().bytes == content);
    }
}

#[test]
fn an_upload_that_is_cut_again_and_again_goes_on_at_each_last_byte() {
    for (compression, coding) in
        [(Compression::None, "identity"), (Compression::Zstd(1), "zstd"), (Compression::Gzip(1), "gzip")]
    {
        for extensions in [ALL, "creation"] {
            let content = text(1_500_000);
            let stage =
                Stage::new(&content, Protocol::Tus, compression, Mood { cut_after: Some(70_001), ..mood(extensions) });
            let mut troubles = Vec::new();
            loop {
                // As after a crash: nothing is kept but what is on disk.
                let mut job = stage.job();
                match stage.attempt(&mut job) {
                    Ok(_) => break,
                    Err(trouble) => troubles.push(trouble.kind),
                }
                assert!(troubles.len() < 100, "{troubles:?}");
            }
            let upload = stage.server.only();
            assert!(decoded(&upload, coding) == content, "{coding} {extensions}");
            let cuts = upload.bytes.len() / 70_001;
            assert_eq!(troubles, vec![Kind::EarlyClose; cuts], "{coding} {extensions}");
            let received: usize = stage.server.seen("PATCH").iter().map(|seen| seen.body_bytes).sum();
            assert_eq!(received, upload.bytes.len(), "not one byte twice");
        }
    }
}

#[test]
fn a_lost_tail_of_the_journal_costs_no_byte() {
    let content = text(1_500_000);
    let stage =
        Stage::new(&content, Protocol::Tus, Compression::Zstd(1), Mood { cut_after: Some(20_000), ..mood(ALL) });
    assert!(stage.attempt(&mut stage.job()).is_err());
    // Up to where the upload is: what stands first.
    let path = stage.dir.path().join("journal");
    let journal = fs::read(&path).unwrap();
    let url = stage.server.url().to_string();
    let found = journal.windows(url.len()).rposition(|window| window == url.as_bytes()).unwrap();
    fs::write(&path, &journal[..found + url.len() + "/0".len() + 4]).unwrap();
    stage.server.set(|mood| mood.cut_after = None);
    assert_eq!(stage.bring(&mut stage.job()), []);
    assert!(decoded(&stage.server.only(), "zstd") == content);
}

#[test]
fn a_frame_that_comes_out_differently_begins_the_upload_anew() {
    let content = text(1_500_000);
    let stage =
        Stage::new(&content, Protocol::Tus, Compression::Zstd(1), Mood { cut_after: Some(20_000), ..mood(ALL) });
    assert!(stage.attempt(&mut stage.job()).is_err());
    let path = stage.dir.path().join("journal");
    // Another version of the library wrote this one.
    let known = Journal::open(&path).unwrap().unwrap().known().clone();
    let begin = Begin { codec_version: known.begin.codec_version ^ 1, ..known.begin };
    Journal::create(&path, begin, false).unwrap().located(&known.location.unwrap(), false).unwrap();
    stage.server.set(|mood| mood.cut_after = None);
    let mut job = stage.job();
    assert_eq!(stage.bring(&mut job), [Kind::FrameDiffers]);
    assert_eq!(stage.server.state.lock().unwrap().uploads.len(), 2);
}

#[test]
fn a_server_that_forgot_an_upload_gets_it_anew() {
    let content = text(900_000);
    let stage = Stage::new(&content, Protocol::Tus, Compression::None, Mood { cut_after: Some(300_000), ..mood(ALL) });
    let mut job = stage.job();
    assert!(stage.attempt(&mut job).is_err());
    stage.server.state.lock().unwrap().uploads.clear();
    stage.server.set(|mood| mood.cut_after = None);
    assert_eq!(stage.bring(&mut job), [Kind::Forgotten]);
    assert!(stage.server.only().bytes == content);
}

#[test]
fn a_server_that_forgets_every_time_is_waited_for_longer_each_time_and_then_left_to_a_person() {
    use crate::{ledger::Reason, trouble::Verdict};
    // Less than the smallest part.
    let cuts = Mood { cut_after: Some(100_000), ..mood(ALL) };
    let stage = Stage::new(&text(900_000), Protocol::Tus, Compression::None, cuts);
    let mut job = stage.job();
    let (mut waits, mut verdict) = (Vec::new(), Verdict::Again);
    while !matches!(verdict, Verdict::Park(_)) {
        let trouble = stage.attempt(&mut job).unwrap_err();
        if trouble.kind == Kind::Forgotten {
            waits.push(trouble.retry_after.map_or(0, |wait| wait.as_secs()));
        } else {
            assert_eq!(trouble.kind, Kind::EarlyClose);
            stage.server.state.lock().unwrap().uploads.clear();
        }
        // What is cut off had got somewhere.
        verdict = trouble.kind.verdict(job.failed(&trouble, trouble.kind == Kind::EarlyClose));
        if verdict == Verdict::Restart {
            job.journal.take().unwrap().remove().unwrap();
            (job.sent_end, job.farthest) = (None, None);
        }
        assert!(waits.len() < 20, "{waits:?}");
    }
    assert_eq!(verdict, Verdict::Park(Reason::LyingServer));
    assert_eq!(waits, [0, 60, 120, 240, 480]);
    // What it forgot of that file holds no other one back.
    let mut job = stage.job();
    let _gone = fs::remove_file(stage.dir.path().join("journal"));
    assert_eq!(stage.attempt(&mut job).unwrap_err().kind, Kind::EarlyClose);
    stage.server.state.lock().unwrap().uploads.clear();
    let trouble = stage.attempt(&mut job).unwrap_err();
    assert_eq!((trouble.kind, trouble.retry_after), (Kind::Forgotten, None));
    // One that remembers between is not to be blamed.
    let mut job = stage.job();
    job.forgotten = 4;
    let _gone = fs::remove_file(stage.dir.path().join("journal"));
    for _ in 0..2 {
        assert_eq!(stage.attempt(&mut job).unwrap_err().kind, Kind::EarlyClose);
    }
    stage.server.state.lock().unwrap().uploads.clear();
    let trouble = stage.attempt(&mut job).unwrap_err();
    assert_eq!((trouble.kind, trouble.retry_after), (Kind::Forgotten, None));
    assert_eq!(trouble.kind.verdict(job.failed(&trouble, false)), Verdict::Restart);
}

#[test]
fn a_server_that_tells_more_than_it_was_sent_is_not_believed() {
    let content = text(900_000);
    let stage = Stage::new(&content, Protocol::Tus, Compression::None, Mood { cut_after: Some(300_000), ..mood(ALL) });
    let mut job = stage.job();
    assert!(stage.attempt(&mut job).is_err());
    stage.server.set(|mood| mood.lies = 700_000);
    assert_eq!(stage.attempt(&mut job).unwrap_err().kind, Kind::LyingOffset);
    // And after a part that went through.
    let stage = Stage::new(&content, Protocol::Tus, Compression::None, Mood { lies: 1, ..mood(ALL) });
    assert_eq!(stage.attempt(&mut stage.job()).unwrap_err().kind, Kind::LyingOffset);
}

#[test]
fn a_server_that_has_less_than_it_said_gets_it_again() {
    let content = text(900_000);
    let stage = Stage::new(&content, Protocol::Tus, Compression::Zstd(1), Mood { cut_after: Some(8_000), ..mood(ALL) });
    let mut job = stage.job();
    assert!(stage.attempt(&mut job).is_err());
    assert!(stage.attempt(&mut job).is_err());
    for upload in stage.server.state.lock().unwrap().uploads.values_mut() {
        upload.bytes.truncate(7);
    }
    stage.server.set(|mood| mood.cut_after = None);
    assert_eq!(stage.bring(&mut job), []);
    assert!(decoded(&stage.server.only(), "zstd") == content);
    assert_eq!(stage.kept.borrow().troubles.get("lost-offset"), None, "nothing was confirmed but by being asked");
}

#[test]
fn a_server_that_wants_the_length_first_gets_it() {
    let content = text(900_000);
    let stage = Stage::new(&content, Protocol::Tus, Compression::Zstd(1), Mood { wants_length: true, ..mood(ALL) });
    let mut job = stage.job();
    assert_eq!(stage.bring(&mut job), [Kind::LengthWanted]);
    let shared = stage.server.state.lock().unwrap();
    assert!(decoded(&shared.uploads["/files/1"], "zstd") == content);
    assert!(shared.uploads["/files/1"].length.is_some());
}

#[test]
fn parts_carry_their_checksum_where_the_server_offers_that() {
    for (compression, coding) in [(Compression::None, "identity"), (Compression::Zstd(1), "zstd")] {
        let content = text(1_200_000);
        let stage = Stage::new(&content, Protocol::Tus, compression, mood("creation,creation-defer-length,checksum"));
        let mut job = stage.job();
        stage.server.set(|mood| mood.rots = true);
        assert_eq!(stage.attempt(&mut job).unwrap_err().kind, Kind::Checksum);
        stage.server.set(|mood| mood.rots = false);
        assert_eq!(stage.bring(&mut job), [], "{coding}");
        assert!(decoded(&stage.server.only(), coding) == content);
        assert!(
            stage
                .server
                .seen("PATCH")
                .iter()
                .all(|seen| seen.body_bytes == 0 || seen.headers.contains_key("upload-checksum"))
        );
    }
}

#[test]
fn refusals_are_told_apart_also_while_the_body_is_on_its_way() {
    for (method, answer, kind) in [
        ("OPTIONS", "503 Service Unavailable\r\nretry-after: 7", Kind::Unavailable),
        ("POST", "413 Content Too Large", Kind::TooLarge),
        ("POST", "403 Forbidden", Kind::Forbidden),
        ("POST", "404 Not Found", Kind::NotFound),
        ("POST", "429 Too Many Requests", Kind::TooMany),
        ("PATCH", "423 Locked", Kind::Locked),
        ("PATCH", "500 Internal Server Error", Kind::ServerError),
        ("PATCH", "403 Forbidden", Kind::Forbidden),
        ("PATCH", "408 Request Timeout", Kind::RequestTimeout),
    ] {
        let stage = Stage::new(&text(5_000_000), Protocol::Tus, Compression::None, mood(ALL));
        stage.server.set(|mood| mood.answers.push((method, answer)));
        let trouble = stage.attempt(&mut stage.job()).unwrap_err();
        assert_eq!(trouble.kind, kind, "{method} {answer}: {trouble}");
        assert_eq!(trouble.retry_after, answer.contains("retry-after").then_some(Duration::from_secs(7)));
    }
    for (answer, kind) in [("413 Content Too Large", Kind::TooLarge), ("401 Unauthorized", Kind::Unauthorized)] {
        let stage = Stage::new(&text(5_000_000), Protocol::Http, Compression::None, Mood::default());
        stage.server.set(|mood| mood.answers.push(("PUT", answer)));
        let trouble = stage.attempt(&mut stage.job()).unwrap_err();
        assert_eq!(trouble.kind, kind, "{answer}: {trouble}");
        assert_eq!(stage.kept.borrow().troubles.get("early-answer"), Some(&1));
    }
}

#[test]
fn a_redirect_is_followed_with_the_body_from_its_beginning() {
    let content = text(2_000_000);
    let stage = Stage::new(&content, Protocol::Http, Compression::Gzip(1), Mood::default());
    stage.server.set(|mood| mood.answers.push(("PUT", "307 Temporary Redirect\r\nlocation: /elsewhere/log.csv")));
    assert_eq!(stage.bring(&mut stage.job()), []);
    assert!(decoded(&stage.server.state.lock().unwrap().uploads["/elsewhere/log.csv"], "gzip") == content);
}

#[test]
fn a_file_that_is_not_what_it_was_is_not_sent_on() {
    let stage =
        Stage::new(&text(900_000), Protocol::Tus, Compression::None, Mood { cut_after: Some(300_000), ..mood(ALL) });
    let mut job = stage.job();
    assert!(stage.attempt(&mut job).is_err());
    fs::OpenOptions::new().append(true).open(stage.path()).unwrap().set_len(400_000).unwrap();
    assert_eq!(stage.attempt(&mut job).unwrap_err().kind, Kind::Changed);
    fs::rename(stage.path(), stage.dir.path().join("gone")).unwrap();
    assert_eq!(stage.attempt(&mut job).unwrap_err().kind, Kind::Vanished);
}

#[test]
fn what_is_read_back_is_compared_byte_by_byte() {
    for compression in [Compression::None, Compression::Zstd(1)] {
        for protocol in [Protocol::Tus, Protocol::Http] {
            let mut stage = Stage::new(&text(900_000), protocol, compression, mood(ALL));
            stage.settings.verify = Verify::ReadBack;
            assert_eq!(stage.attempt(&mut stage.job()), Ok(Arrived::Whole));
            let _gone = fs::remove_file(stage.dir.path().join("journal"));
            stage.server.set(|mood| mood.rots = true);
            assert_eq!(stage.attempt(&mut stage.job()).unwrap_err().kind, Kind::Corrupted, "{protocol:?}");
        }
    }
}

#[test]
fn where_no_journal_can_be_written_an_upload_goes_on_all_the_same() {
    let content = text(1_500_000);
    let stage =
        Stage::new(&content, Protocol::Tus, Compression::Zstd(1), Mood { cut_after: Some(70_000), ..mood(ALL) });
    let mut job = stage.job();
    job.journal_path = stage.dir.path().join("no-such-folder/journal");
    let troubles = stage.bring(&mut job);
    assert!(!troubles.is_empty() && troubles.iter().all(|kind| *kind == Kind::EarlyClose), "{troubles:?}");
    assert!(decoded(&stage.server.only(), "zstd") == content);
    assert!(stage.kept.borrow().troubles["journal"] >= 1);
}

#[test]
fn an_upload_that_was_told_to_stop_in_the_middle_of_a_part_goes_on_there() {
    let content = random(2_000_000);
    let stage = Stage::new(&content, Protocol::Tus, Compression::None, mood(ALL));
    let mut job = stage.job();
    stage.stopped_attempt(&mut job, 200_000, Duration::from_millis(1500));
    assert!(job.sent_bytes >= 64 << 10, "{}", job.sent_bytes);
    let kept = || stage.server.only().bytes.len();
    while kept() == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let before = kept();
    assert_eq!(stage.bring(&mut job), []);
    assert!(stage.server.only().bytes == content);
    let second = stage.server.seen("PATCH").iter().map(|seen| seen.body_bytes).sum::<usize>() - before;
    assert_eq!(second, content.len() - before, "not one byte twice");
}

#[test]
fn the_next_frame_is_made_while_one_is_sent() {
    // A frame of this takes more than the bucket gives at once.
    let mut random = fastrand::Rng::with_seed(5);
    let content: Vec<u8> = std::iter::repeat_with(|| random.u8(b'a'..b'q')).take(1_500_000).collect();
    let stage = Stage::new(&content, Protocol::Tus, Compression::Zstd(1), mood(ALL));
    let mut job = stage.job();
    stage.stopped_attempt(&mut job, 1, Duration::from_secs(1));
    assert_eq!(job.journal.unwrap().known().frames, 2, "one is on its way, and one has been made");
    assert!(job.sent_bytes <= 64 << 10, "{}", job.sent_bytes);
}

#[test]
fn what_was_not_read_back_has_not_arrived() {
    for protocol in [Protocol::Tus, Protocol::Http] {
        let mut stage = Stage::new(&text(900_000), protocol, Compression::Zstd(1), mood(ALL));
        stage.settings.verify = Verify::ReadBack;
        stage.server.set(|mood| mood.answers.push(("GET", "500 Internal Server Error")));
        let mut job = stage.job();
        assert_eq!(stage.attempt(&mut job).unwrap_err().kind, Kind::ServerError);
        let journal = Journal::open(&stage.dir.path().join("journal")).unwrap().unwrap();
        assert!(!journal.known().finished, "a start after a crash would let go of the file");
        // Meanwhile the server's disk rots.
        for upload in stage.server.state.lock().unwrap().uploads.values_mut() {
            upload.bytes[0] ^= 1;
        }
        stage.server.set(|mood| mood.rots = true);
        assert_eq!(stage.attempt(&mut job).unwrap_err().kind, Kind::Corrupted, "{protocol:?}");

        let mut stage = Stage::new(b"a", protocol, Compression::None, mood(ALL));
        stage.settings.verify = Verify::ReadBack;
        stage.server.set(|mood| mood.answers.push(("GET", "404 Not Found")));
        let trouble = stage.attempt(&mut stage.job()).unwrap_err();
        assert_eq!(trouble.kind, Kind::NotFound, "a server that gives nothing back: {trouble}");
    }
}

#[test]
fn a_server_that_keeps_nothing_of_a_part_is_left_alone_for_a_while() {
    let content = text(600_000);
    let stage = Stage::new(&content, Protocol::Tus, Compression::None, Mood { lies: -600_000, ..mood(ALL) });
    assert_eq!(stage.attempt(&mut stage.job()).unwrap_err().kind, Kind::LostOffset);
    assert_eq!(stage.server.seen("PATCH").len(), 1);
}

#[test]
fn a_server_that_waits_for_more_than_there_is_does_not_have_the_file() {
    for (compression, extensions) in [(Compression::None, "creation"), (Compression::Zstd(1), ALL)] {
        let content = text(600_000);
        let stage =
            Stage::new(&content, Protocol::Tus, compression, Mood { cut_after: Some(1000), ..mood(extensions) });
        let mut job = stage.job();
        assert!(stage.attempt(&mut job).is_err());
        for upload in stage.server.state.lock().unwrap().uploads.values_mut() {
            upload.length = Some(600_001);
        }
        stage.server.set(|mood| mood.cut_after = None);
        assert_eq!(stage.attempt(&mut job).unwrap_err().kind, Kind::LyingOffset, "{extensions}");
    }
}

#[test]
fn an_answer_that_drips_is_not_waited_for_without_end() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint: Uri = format!("http://{}/files", listener.local_addr().unwrap()).parse().unwrap();
    std::thread::spawn(move || {
        use std::io::Write as _;
        let (mut stream, _) = listener.accept().unwrap();
        let _head = stream.read(&mut [0; 1000]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n").unwrap();
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let mut stage = Stage::new(b"a", Protocol::Tus, Compression::None, mood(ALL));
    stage.settings.progress_within = Duration::from_secs(1);
    let begun = std::time::Instant::now();
    assert_eq!(stage.attempt_at(&endpoint, &mut stage.job()).unwrap_err().kind, Kind::Stalled);
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn what_we_hold_back_ourselves_does_not_count_as_time_that_a_request_took() {
    let content = random(200_000);
    for protocol in [Protocol::Tus, Protocol::Http] {
        let mut stage = Stage::new(&content, protocol, Compression::None, mood(ALL));
        stage.settings.total_within = Duration::from_secs(1);
        let begun = std::time::Instant::now();
        // A bucket of 64 KiB goes at once, and the rest in two seconds.
        assert_eq!(stage.attempt_at_rate(&stage.server.url(), &mut stage.job(), Some(64 << 10)), Ok(Arrived::Whole));
        assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
        assert!(stage.server.only().bytes == content);
    }
    // But that a server takes does.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint: Uri = format!("http://{}/files", listener.local_addr().unwrap()).parse().unwrap();
    let mut stage = Stage::new(&content, Protocol::Http, Compression::None, mood(ALL));
    stage.settings.total_within = Duration::from_secs(1);
    let trouble = stage.attempt_at_rate(&endpoint, &mut stage.job(), Some(1 << 30)).unwrap_err();
    assert_eq!(trouble.kind, Kind::TooLong, "{trouble}");
}

#[test]
fn a_server_that_reads_slowly_is_counted_once_a_request_and_gets_all_of_it() {
    let content = random(3_000_000);
    for (rests, slow) in [(Duration::from_secs(4), Some(1)), (Duration::ZERO, None)] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint: Uri = format!("http://{}/files", listener.local_addr().unwrap()).parse().unwrap();
        let length = content.len();
        let server = std::thread::spawn(move || {
            use std::io::Write as _;
            let (mut stream, _) = listener.accept().unwrap();
            std::thread::sleep(rests);
            let (mut read, mut buffer) = (0, vec![0; 64 << 10]);
            while read < length {
                read += stream.read(&mut buffer).unwrap();
            }
            stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").unwrap();
        });
        let stage = Stage::new(&content, Protocol::Http, Compression::None, Mood::default());
        assert_eq!(stage.attempt_at(&endpoint, &mut stage.job()), Ok(Arrived::Whole));
        server.join().unwrap();
        assert_eq!(stage.kept.borrow().troubles.get(Kind::Slow.name()).copied(), slow);
    }
}

#[test]
fn a_server_that_only_shows_that_it_is_alive_gets_nowhere() {
    /// `SETTINGS_INITIAL_WINDOW_SIZE` (4) of 0: nothing may be sent (RFC 9113, section 6.5.2).
    const SETTINGS: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    /// Section 6.7.
    const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const PROCESSING: &[u8] = b"HTTP/1.1 102 Processing\r\n\r\n";
    for (version, first, then) in [(HttpVersion::Http2, SETTINGS, PING), (HttpVersion::Http1, PROCESSING, PROCESSING)] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint: Uri = format!("http://{}/files", listener.local_addr().unwrap()).parse().unwrap();
        std::thread::spawn(move || {
            use std::io::Write as _;
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = stream.try_clone().unwrap();
            // What comes before there is a request would be no answer.
            let _begun = reader.read(&mut [0; 1000]).unwrap();
            std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
            let mut written = stream.write_all(first);
            while written.is_ok() {
                std::thread::sleep(Duration::from_millis(100));
                written = stream.write_all(then);
            }
        });
        let mut stage = Stage::new(&text(900), Protocol::Http, Compression::None, Mood::default());
        (stage.settings.http, stage.settings.progress_within) = (version, Duration::from_secs(1));
        let begun = std::time::Instant::now();
        let trouble = stage.attempt_at(&endpoint, &mut stage.job()).unwrap_err();
        assert_eq!(trouble.kind, Kind::Stalled, "{version:?}: {trouble}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{version:?}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_server_that_is_content_before_it_was_sent_everything_is_not_believed() {
    // More than sockets hold.
    let stage = Stage::new(&random(12_000_000), Protocol::Http, Compression::None, Mood::default());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint: Uri = format!("http://{}/files", listener.local_addr().unwrap()).parse().unwrap();
    std::thread::spawn(move || {
        use std::io::Write as _;
        let (mut stream, _) = listener.accept().unwrap();
        let _head = stream.read(&mut [0; 1000]).unwrap();
        stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").unwrap();
        std::thread::sleep(Duration::from_secs(10));
    });
    assert_eq!(stage.attempt_at(&endpoint, &mut stage.job()).unwrap_err().kind, Kind::EarlyAnswer);
}

#[test]
fn what_is_given_up_is_removed_from_the_server_also_by_one_that_has_not_asked_it_before() {
    for (extensions, left) in [(ALL, 0), ("creation", 1)] {
        let stage = Stage::new(
            &text(900_000),
            Protocol::Tus,
            Compression::None,
            Mood { cut_after: Some(300_000), ..mood(extensions) },
        );
        let mut job = stage.job();
        assert!(stage.attempt(&mut job).is_err());
        stage.server.set(|mood| mood.cut_after = None);
        stage.kept.borrow_mut().ask_again();
        let location = job.journal.unwrap().known().location.clone().unwrap();
        let backend = choose(IoPreference::Auto).unwrap().backend;
        let (endpoint, mut nobody) = (stage.server.url(), Job::nobody());
        let (_important, first) = watch::channel(false);
        let (pacing, progress, yields) = (Pacing::new(first, None), Progress::new(), Cell::new(false));
        let attempt =
            Attempt::new(&stage.settings, &endpoint, backend, &mut nobody, &stage.kept, &pacing, &progress, &yields);
        block_on(backend, attempt.give_up(&location)).unwrap();
        assert_eq!(stage.server.state.lock().unwrap().uploads.len(), left, "{extensions}");
    }
}

#[test]
fn a_server_of_http_2_may_send_little_unread_and_is_let_go_of_at_once() {
    use std::io::Write as _;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint: Uri = format!("http://{}/files", listener.local_addr().unwrap()).parse().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // Settings that let nothing be sent: SETTINGS_INITIAL_WINDOW_SIZE (4) is 0 (RFC 9113, section 6.5.2).
        stream.write_all(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut sent = Vec::new();
        stream.read_to_end(&mut sent).expect("it ends");
        sent
    });
    let mut stage = Stage::new(&text(900_000), Protocol::Http, Compression::None, Mood::default());
    (stage.settings.http, stage.settings.progress_within) = (HttpVersion::Http2, Duration::from_secs(1));
    assert_eq!(stage.attempt_at(&endpoint, &mut stage.job()).unwrap_err().kind, Kind::Stalled);
    let sent = server.join().unwrap();
    // The preface, and settings: length (3), type (1), flags (1), stream (4), then pairs of 2 and 4 bytes.
    let frame = &sent[24..];
    assert_eq!(frame[3], 4);
    let length = usize::from(frame[2]);
    let window = frame[9..9 + length].chunks(6).find(|pair| pair[..2] == [0, 4]).unwrap();
    assert_eq!(window[2..], (64_u32 << 10).to_be_bytes());
}

#[test]
fn parts_follow_one_another_whether_they_are_written_down_or_not() {
    for (compression, coding) in [(Compression::None, "identity"), (Compression::Gzip(1), "gzip")] {
        for extensions in [ALL, "creation", "creation,checksum"] {
            for has_journal in [true, false] {
                let content = text(2_500_000);
                let mut stage = Stage::new(&content, Protocol::Tus, compression, mood(extensions));
                // In the middle of frames, and of several.
                stage.settings.part_size_bytes = 256 << 10;
                let mut job = stage.job();
                if !has_journal {
                    job.journal_path = stage.dir.path().join("no-such-folder/journal");
                }
                assert_eq!(stage.bring(&mut job), [], "{coding} {extensions} {has_journal}");
                assert!(decoded(&stage.server.only(), coding) == content, "{coding} {extensions} {has_journal}");
            }
        }
    }
}
