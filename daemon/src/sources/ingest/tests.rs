//! The socket with clients that behave and clients that do not.

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    task::JoinHandle,
};

use super::*;
use crate::sources::testing::{Memory, Mood};

/// A running socket.
struct Server {
    path: PathBuf,
    memory: Memory,
    status: watch::Receiver<IngestStatus>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        Self::with_connections(MAX_CONNECTIONS)
    }

    fn with_connections(max_connections: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ingest.sock");
        let mut ingest = bind(&path).unwrap();
        ingest.max_connections = max_connections;
        let (sink, memory) = Sink::into_memory();
        let (sender, status) = watch::channel(IngestStatus::default());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(ingest, sink, sender, Pulse::unasked(), shutdown.clone()));
        Self { path, memory, status, shutdown, task, _folder: folder }
    }

    async fn connect(&self) -> Client {
        let (reader, writer) = UnixStream::connect(&self.path).await.unwrap().into_split();
        Client { reader: BufReader::new(reader), writer }
    }

    async fn status(&mut self, is: impl FnMut(&IngestStatus) -> bool) -> IngestStatus {
        self.status.wait_for(is).await.unwrap().clone()
    }

    async fn stop(self) -> IngestStatus {
        self.shutdown.cancel();
        self.task.await.unwrap();
        assert!(!self.path.exists());
        self.status.borrow().clone()
    }
}

struct Client {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Client {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.writer.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next answer; null at the end of the connection.
    async fn answer(&mut self) -> Value {
        let mut line = String::new();
        match self.reader.read_line(&mut line).await {
            Ok(0) | Err(_) => Value::Null,
            Ok(_) => serde_json::from_str(&line).unwrap(),
        }
    }

    async fn put(&mut self, line: &str) -> Value {
        self.send(format!("{line}\n")).await;
        self.answer().await
    }
}

#[tokio::test]
async fn a_record_is_stored_as_it_was_written_and_answered_with_its_sequence() {
    let server = Server::start();
    let mut client = server.connect().await;
    assert_eq!(
        client.put(r#"{"name":"meter","data":{"kwh" : 1.50},"id":"a"}"#).await,
        json!({"ok": true, "seq": 1, "id": "a"})
    );
    assert_eq!(client.put(r#"{"name":"meter","data":null}"#).await, json!({"ok": true, "seq": 2}));
    assert_eq!(client.put(r#"{"name":"door","data":"open"}"#).await["seq"], 1);
    let records = server.memory.records();
    assert_eq!(records[0], ("ingest/meter".into(), "ingest/meter".into(), r#"{"kwh" : 1.50}"#.into()));
    let status = server.stop().await;
    assert_eq!((status.accepted, status.names["meter"].accepted, status.names["door"].bytes), (3, 2, 6));
}

#[tokio::test]
async fn answers_keep_the_order_of_the_lines_good_and_bad_ones() {
    let server = Server::start();
    let mut client = server.connect().await;
    let line = |index: u32| match index % 4 {
        0 => format!("{{\"name\":\"A\",\"data\":1,\"id\":{index}}}\n"),
        _ => format!("{{\"name\":\"a\",\"data\":{index},\"id\":{index}}}\n"),
    };
    let lines = (0..1_000).map(line).collect::<Vec<_>>().concat();
    let writer = async {
        client.writer.write_all(lines.as_bytes()).await.unwrap();
    };
    let reader = async {
        let mut seq = 0;
        for index in 0..1_000 {
            let mut line = String::new();
            client.reader.read_line(&mut line).await.unwrap();
            let answer: Value = serde_json::from_str(&line).unwrap();
            assert_eq!((answer["id"].as_u64(), answer["ok"].as_bool()), (Some(index), Some(index % 4 != 0)));
            if index % 4 != 0 {
                seq += 1;
                assert_eq!(answer["seq"], seq);
            }
        }
    };
    tokio::join!(writer, reader);
    assert_eq!(server.memory.records().len(), 750);
}

#[tokio::test]
async fn a_line_of_64_kib_passes_and_one_byte_more_is_too_large_and_disturbs_nothing_behind_it() {
    let server = Server::start();
    let mut client = server.connect().await;
    let wrapping = r#"{"name":"a","data":""}"#.len();
    let line = |bytes: usize| format!(r#"{{"name":"a","data":"{}"}}"#, "x".repeat(bytes - wrapping));
    assert_eq!(client.put(&line(65_536)).await["ok"], true);
    assert_eq!(client.put(&line(65_537)).await["error"], "too_large");
    assert_eq!(client.put(&line(5_000_000)).await["error"], "too_large");
    assert_eq!(client.put(r#"{"name":"a","data":1}"#).await["seq"], 2);
    assert_eq!(server.stop().await.refused.too_large, 2);
}

#[tokio::test]
async fn the_last_line_may_lack_its_line_feed() {
    let server = Server::start();
    for (line, ok) in [(r#"{"name":"a","data":1}"#, true), (r#"{"name":"a","da"#, false)] {
        let mut client = server.connect().await;
        client.send(line).await;
        client.writer.shutdown().await.unwrap();
        assert_eq!(client.answer().await["ok"], ok);
        assert_eq!(client.answer().await, Value::Null);
    }
}

#[tokio::test]
async fn a_paused_spool_is_full_and_the_connection_goes_on() {
    let server = Server::start();
    let mut client = server.connect().await;
    server.memory.set(Mood::Paused);
    let refused = client.put(r#"{"name":"a","data":1,"id":7}"#).await;
    assert_eq!((&refused["error"], &refused["retry_ms"], &refused["id"]), (&json!("full"), &json!(1000), &json!(7)));
    server.memory.set(Mood::Works);
    assert_eq!(client.put(r#"{"name":"a","data":1,"id":7}"#).await["seq"], 1);
}

#[tokio::test]
async fn the_33rd_name_is_refused() {
    let server = Server::start();
    let mut client = server.connect().await;
    for index in 0..32 {
        assert_eq!(client.put(&format!(r#"{{"name":"n{index}","data":1}}"#)).await["ok"], true);
    }
    assert_eq!(client.put(r#"{"name":"n32","data":1}"#).await["error"], "bad_name");
    assert_eq!(client.put(r#"{"name":"n0","data":1}"#).await["seq"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_with_half_a_line_is_cut_off_and_a_silent_one_is_not() {
    let mut server = Server::start();
    let (mut silent, mut slow) = (server.connect().await, server.connect().await);
    assert_eq!(silent.put(r#"{"name":"a","data":1}"#).await["ok"], true);
    // A byte now and then does not help: the line as a whole has a deadline.
    for byte in b"{\"name\":\"a\"" {
        if slow.writer.write_all(&[*byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_secs(4)).await;
    }
    assert_eq!(slow.answer().await, Value::Null);
    assert_eq!(server.status(|status| status.cut_off == 1).await.connections, 1);
    sleep(Duration::from_hours(24)).await;
    assert_eq!(silent.put(r#"{"name":"a","data":1}"#).await["ok"], true);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_answers_is_cut_off() {
    let mut server = Server::start();
    let mut client = server.connect().await;
    let lines = "{\"name\":\"a\",\"data\":1}\n".repeat(100_000);
    let cut = timeout(Duration::from_mins(1), client.writer.write_all(lines.as_bytes())).await.unwrap();
    assert!(cut.is_err(), "the connection was closed while it was written to");
    server.status(|status| status.cut_off == 1).await;
}

#[tokio::test(start_paused = true)]
async fn long_lines_that_hold_all_large_buffers_do_not_hold_up_short_ones() {
    let server = Server::start();
    let mut hogs = Vec::new();
    for _ in 0..LARGE_BUFFERS + 8 {
        let mut hog = server.connect().await;
        hog.send("x".repeat(60_000)).await;
        hogs.push(hog);
    }
    let mut client = server.connect().await;
    let begun = tokio::time::Instant::now();
    assert_eq!(client.put(r#"{"name":"a","data":1}"#).await["ok"], true);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_a_place_that_becomes_free_is_given_away() {
    let mut server = Server::with_connections(2);
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.put(r#"{"name":"a","data":1}"#).await["ok"], true);
    }
    let mut third = server.connect().await;
    let refused = third.answer().await;
    assert_eq!((&refused["error"], &refused["retry_ms"]), (&json!("busy"), &json!(1000)));
    assert_eq!(third.answer().await, Value::Null);
    drop(first);
    server.status(|status| status.connections == 1 && status.turned_away == 1).await;
    assert_eq!(server.connect().await.put(r#"{"name":"a","data":1}"#).await["ok"], true);
}

#[tokio::test]
async fn a_stop_finishes_the_commit_under_way_and_answers_later_lines_busy() {
    let server = Server::start();
    let (mut working, mut idle) = (server.connect().await, server.connect().await);
    assert_eq!(idle.put(r#"{"name":"a","data":0}"#).await["ok"], true);
    server.memory.set(Mood::Hangs);
    working.send("{\"name\":\"a\",\"data\":1,\"id\":1}\n").await;
    sleep(Duration::from_millis(50)).await;
    working.send("{\"name\":\"a\",\"data\":2,\"id\":2}\n").await;
    let memory = server.memory.clone();
    let stopped = tokio::spawn(server.stop());
    sleep(Duration::from_millis(50)).await;
    memory.set(Mood::Works);
    assert_eq!(working.answer().await, json!({"ok": true, "seq": 2, "id": 1}));
    let refused = working.answer().await;
    assert_eq!((&refused["error"], &refused["id"]), (&json!("busy"), &json!(2)));
    assert_eq!((working.answer().await, idle.answer().await), (Value::Null, Value::Null));
    assert_eq!(stopped.await.unwrap().refused.busy, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn every_line_gets_one_answer_however_it_is_cut_up(
        lines in proptest::collection::vec(prop_oneof![
            Just(&b"{\"name\":\"a\",\"data\":1}"[..]), Just(&b""[..]), Just(&b"\xff\x00"[..]), Just(&b"{\"name\":\"a\""[..]),
        ], 1..40),
        piece in 1_usize..50,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::start();
            let client = server.connect().await;
            let (mut writer, mut reader) = (client.writer, client.reader);
            let mut bytes = lines.join(&b'\n');
            bytes.push(b'\n');
            let wanted = lines.len();
            let sent = tokio::spawn(async move {
                for piece in bytes.chunks(piece) {
                    writer.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            });
            sent.await.unwrap();
            let mut answers = String::new();
            reader.read_to_string(&mut answers).await.unwrap();
            assert_eq!(answers.lines().count(), wanted);
        });
    }
}
