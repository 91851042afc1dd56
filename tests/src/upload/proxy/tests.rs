//! Each fault, before a server of a few lines.

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::mpsc,
};

use super::*;
use crate::eventually;

const SOON: Duration = Duration::from_secs(10);

/// A server that does the same with each connection, until it is dropped.
struct Peer {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            thread::scope(|scope| {
                while !stops.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((stream, _)) => {
                            stream.set_nonblocking(false).unwrap();
                            stream.set_read_timeout(Some(SOON)).unwrap();
                            scope.spawn(|| serve(stream));
                        }
                        Err(_) => sleep(Duration::from_millis(2)),
                    }
                }
            });
        });
        Self { port, stop, thread: Some(thread) }
    }

    /// Sends back what comes, and tells how much of it came before the end, and whether that was in order.
    fn echo() -> (Self, mpsc::Receiver<(u64, bool)>) {
        let (told, ends) = mpsc::channel();
        let peer = Self::start(move |mut stream| {
            let mut buffer = vec![0; 1 << 16];
            let mut came = 0;
            let in_order = loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break true,
                    Err(_) => break false,
                    Ok(count) => {
                        came += count as u64;
                        let _gone = stream.write_all(&buffer[..count]);
                    }
                }
            };
            let _over = told.send((came, in_order));
        });
        (peer, ends)
    }

    /// Answers each request without a body with `answer`, and tells its first line.
    fn http(answer: &'static str) -> (Self, mpsc::Receiver<String>) {
        let (told, requests) = mpsc::channel();
        let peer = Self::start(move |stream| {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            while let Some(first) = lines.next() {
                let _head = lines.by_ref().take_while(|line| !line.is_empty()).count();
                let _over = told.send(first);
                if (&stream).write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
        });
        (peer, requests)
    }

    fn proxy(&self, faults: impl Into<Schedule>) -> FaultProxy {
        FaultProxy::before(self.port).schedule(faults).start()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn connect(proxy: &FaultProxy) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream
}

/// Reads until the end, and says whether that was a reset.
fn read_all(mut stream: &TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => (bytes, false),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => (bytes, true),
        Err(error) => panic!("{error} after {} bytes", bytes.len()),
    }
}

/// Whether bytes go there and come back.
fn echoes(proxy: &FaultProxy) -> bool {
    let mut stream = connect(proxy);
    let mut back = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut back).is_ok() && back == *b"hello"
}

#[test]
fn without_a_fault_all_passes_both_ways_and_is_counted() {
    let (peer, ends) = Peer::echo();
    let proxy = peer.proxy([]);
    let stream = connect(&proxy);
    let sent: Vec<u8> = (0..300_000_u32).map(|it| u8::try_from(it % 251).unwrap()).collect();
    let back = thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(&sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        read_all(&stream)
    });
    assert!(back == (sent, false));
    assert_eq!(ends.recv_timeout(SOON), Ok((300_000, true)), "the end is passed on");
    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.up, counts.down), (1, 300_000, 300_000));
    assert!(counts.applied.is_empty());
}

#[test]
fn a_cut_lets_exactly_so_many_bytes_through() {
    let (peer, ends) = Peer::echo();
    let proxy = peer.proxy([Fault::cut_up(50_000, End::Reset), Fault::cut_up(50_000, End::Orderly)]);
    for resets in [true, false] {
        let mut stream = connect(&proxy);
        // The rest does not arrive, or meets the reset.
        let _cut = stream.write_all(&vec![b'x'; 60_000]);
        let (_, reset) = read_all(&stream);
        assert_eq!(reset, resets);
        assert_eq!(ends.recv_timeout(SOON), Ok((50_000, !resets)));
    }
    assert_eq!((proxy.counts().of("cut"), proxy.counts().up), (2, 100_000));
    assert!(echoes(&proxy), "the third is whole");
}

#[test]
fn a_cut_can_keep_an_answer_from_the_client() {
    let (peer, requests) = Peer::http("HTTP/1.1 204 No Content\r\n\r\n");
    let proxy = peer.proxy([Fault::cut_down(0, End::Reset), Fault::cut_down(12, End::Orderly)]);
    let mut stream = connect(&proxy);
    stream.write_all(b"PATCH / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(read_all(&stream), (Vec::new(), true));
    assert_eq!(requests.recv_timeout(SOON).unwrap(), "PATCH / HTTP/1.1", "which the server gave");

    let mut stream = connect(&proxy);
    stream.write_all(b"PATCH / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(read_all(&stream), (b"HTTP/1.1 204".to_vec(), false));
    assert_eq!(proxy.counts().of("cut"), 2);
}

#[test]
fn a_stall_ends_or_does_not() {
    let (peer, _ends) = Peer::echo();
    let lasts = Duration::from_millis(500);
    let proxy = peer.proxy([Fault::Stall { at: At::Up(3), lasts: Some(lasts) }, Fault::stall_up(3)]);
    let started = Instant::now();
    assert!(echoes(&proxy));
    assert!(started.elapsed() >= lasts, "{:?}", started.elapsed());

    let mut stream = connect(&proxy);
    stream.write_all(b"hello").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    // What was under way before may have come back.
    let read = stream.read_exact(&mut [0; 5]);
    assert!(read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "no more, and not the end");
    assert_eq!(proxy.counts().of("stall"), 2);
}

#[test]
fn little_is_under_way_when_a_connection_stalls() {
    let (peer, _ends) = Peer::echo();
    let proxy = peer.proxy([Fault::stall_up(0)]);
    let mut stream = connect(&proxy);
    sockopt::set_socket_send_buffer_size(&stream, SOCKET_BUFFER).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut taken = 0;
    while let Ok(count) = stream.write(&[0; 4096]) {
        taken += count;
    }
    assert!(taken <= 6 * SOCKET_BUFFER, "{taken}");
}

#[test]
fn a_slow_connection_takes_its_time() {
    let (peer, _ends) = Peer::echo();
    let proxy = peer.proxy([Fault::Slow { bytes_per_s: 1 << 10 }]);
    let started = Instant::now();
    let mut stream = connect(&proxy);
    stream.write_all(&[7; 1 << 10]).unwrap();
    let mut back = [0; 1 << 10];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, [7; 1 << 10]);
    // Each way takes a second, one beside the other.
    let took = started.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(8)).contains(&took), "{took:?}");
    assert_eq!(proxy.counts().of("slow"), 1);
}

#[test]
fn garbage_comes_in_the_place_of_an_answer() {
    let (peer, _requests) = Peer::http("HTTP/1.1 204 No Content\r\n\r\n");
    let garbage = |after| Fault::Garbage { after, bytes: b"\xff\x00junk".to_vec() };
    let proxy = peer.proxy([garbage(0), garbage(8)]);
    for expected in [&b"\xff\x00junk"[..], b"HTTP/1.1\xff\x00junk"] {
        let mut stream = connect(&proxy);
        stream.write_all(b"PATCH / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(read_all(&stream), (expected.to_vec(), false));
    }
    assert_eq!(proxy.counts().of("garbage"), 2);
}

#[test]
fn the_proxy_answers_early_and_reads_on_or_closes() {
    let (peer, ends) = Peer::echo();
    let answer = |reads_on| Fault::Answer {
        after: 1000,
        status: 503,
        headers: vec![("Retry-After".to_owned(), "2".to_owned())],
        reads_on,
    };
    let expected = "HTTP/1.1 503 Made up\r\nTus-Resumable: 1.0.0\r\nRetry-After: 2\r\nContent-Length: 0\r\n\
                    Connection: close\r\n\r\n";
    let proxy = peer.proxy([answer(true), answer(false)]);
    let mut stream = connect(&proxy);
    stream.write_all(&vec![b'x'; 2_000_000]).expect("it reads on");
    stream.shutdown(Shutdown::Write).unwrap();
    let (said, reset) = read_all(&stream);
    // The echo of the first bytes may have passed before.
    assert!(String::from_utf8_lossy(&said).ends_with(expected) && !reset);
    assert_eq!(ends.recv_timeout(SOON).unwrap().0, 1000);

    let mut stream = connect(&proxy);
    let _closed = stream.write_all(&vec![b'x'; 2_000_000]);
    let _said = read_all(&stream);
    assert_eq!(ends.recv_timeout(SOON).unwrap().0, 1000);
    assert_eq!(proxy.counts().of("answer"), 2);
}

#[test]
fn one_way_can_end_alone() {
    let (peer, ends) = Peer::echo();
    let proxy = peer.proxy([Fault::HalfClose { at: At::Up(10) }, Fault::HalfClose { at: At::Down(10) }]);
    let mut stream = connect(&proxy);
    stream.write_all(&[b'x'; 100]).unwrap();
    assert_eq!(read_all(&stream), (vec![b'x'; 10], false), "the server answered what came before the end");
    assert_eq!(ends.recv_timeout(SOON), Ok((10, true)));

    let mut stream = connect(&proxy);
    stream.write_all(&[b'x'; 100]).unwrap();
    assert_eq!(read_all(&stream), (vec![b'x'; 10], false));
    stream.write_all(&[b'y'; 100]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ends.recv_timeout(SOON), Ok((200, true)), "the server got all");
    assert_eq!(proxy.counts().of("half-close"), 2);
}

#[test]
fn a_refused_connection_is_reset_and_the_server_does_not_see_it() {
    let (peer, ends) = Peer::echo();
    let proxy = peer.proxy([Fault::Refuse]);
    let stream = connect(&proxy);
    assert_eq!(read_all(&stream), (Vec::new(), true));
    assert_eq!(proxy.counts().of("refuse"), 1);
    assert!(ends.try_recv().is_err());
    assert!(echoes(&proxy));
}

#[test]
fn a_lie_is_told_in_every_answer_of_its_connection() {
    let (peer, _requests) = Peer::http("HTTP/1.1 204 No Content\r\nUpload-Offset: 1000\r\n\r\n");
    let proxy = peer.proxy([Fault::Lie { delta: 24 }]);
    let mut stream = connect(&proxy);
    let lie = b"HTTP/1.1 204 No Content\r\nUpload-Offset: 1024\r\n\r\n";
    for _ in 0..2 {
        stream.write_all(b"HEAD / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = [0; 48];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *lie, "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(proxy.counts().of("lie"), 1, "one connection");
}

#[test]
fn what_is_forgotten_does_not_reach_the_server() {
    let (peer, requests) = Peer::http("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    let proxy = peer.proxy([Fault::Forget { status: 410 }]);
    let mut stream = connect(&proxy);
    stream.write_all(b"POST /files HTTP/1.1\r\n\r\n").unwrap();
    let mut created = [0; 43];
    stream.read_exact(&mut created).unwrap();
    stream.write_all(b"PATCH /files/1 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    let (said, reset) = read_all(&stream);
    assert!(said.starts_with(b"HTTP/1.1 410 ") && !reset, "{}", String::from_utf8_lossy(&said));
    assert_eq!(requests.try_iter().collect::<Vec<_>>(), ["POST /files HTTP/1.1"]);
    assert_eq!(proxy.counts().of("forget"), 1);
}

#[test]
fn all_connections_share_one_rate() {
    let (peer, _ends) = Peer::echo();
    let proxy = FaultProxy::before(peer.port).rate(100_000).start();
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let stream = connect(&proxy);
                (&stream).write_all(&vec![0; 50_000]).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(read_all(&stream).0.len(), 50_000);
            });
        }
    });
    let took = started.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(8)).contains(&took), "{took:?}");
}

#[test]
fn connections_are_cut_at_random_and_by_hand() {
    let (peer, ends) = Peer::echo();
    let proxy = FaultProxy::before(peer.port).cut_at_random(Duration::from_millis(200), 7).start();
    let stream = connect(&proxy);
    assert!(read_all(&stream).1);
    assert!(!ends.recv_timeout(SOON).unwrap().1, "the server sees a reset, too");

    let proxy = peer.proxy([]);
    let mut stream = connect(&proxy);
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    proxy.cut();
    assert!(read_all(&stream).1);
    eventually(SOON, "the cut is counted", || proxy.counts().of("random cut") == 1);
    assert!(echoes(&proxy), "a later one is whole");
}

#[test]
fn an_absent_server_ends_the_connection_at_once() {
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let proxy = FaultProxy::before(port).start();
    let started = Instant::now();
    assert!(read_all(&connect(&proxy)).0.is_empty());
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_proxy_ends_soon_whatever_its_schedule() {
    let (peer, _ends) = Peer::echo();
    for seed in 0..40 {
        let schedule = Schedule::random(seed, Protocol::Tus, &(0..=20_000));
        let said = schedule.to_string();
        let connections = schedule.faults().len() + 1;
        let proxy = peer.proxy(schedule);
        let streams: Vec<TcpStream> = (0..connections).map(|_| connect(&proxy)).collect();
        for mut stream in &streams {
            stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
            let _cut = stream.write_all(&[b'x'; 10_000]);
        }
        eventually(SOON, &said, || proxy.counts().connections == connections as u64);
        let started = Instant::now();
        drop(proxy);
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}: {said}", started.elapsed());
    }
}
