//! One connection: a thread for each way, and what becomes of both sides when it ends.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::fd::AsRawFd as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use rustix::net::sockopt;

use super::{
    Link, SOCKET_BUFFER, TICK,
    answers::Liar,
    fault::{At, End, Fault},
    pace::Pace,
    requests::{Requests, Seen},
};

/// Bytes that are handed on at a time.
const PORTION: usize = 16 << 10;
/// How long the proxy takes what a client still sends after the answer that it got.
const READS_ON: Duration = Duration::from_secs(30);
/// How long what was handed on before a cut may take to arrive.
const ARRIVES: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// Why a connection is over.
#[derive(Clone, Debug)]
enum Over {
    /// The proxy is, or a side is gone.
    Gone,
    Cut(End),
    Garbage(Vec<u8>),
    Answer {
        text: String,
        reads_on: bool,
    },
}

/// Whether bytes pass.
#[derive(Clone, Copy, Debug)]
enum Stall {
    None,
    Until(Instant),
    ForEver,
}

/// What both ways know of their connection.
#[derive(Debug)]
struct Connection<'a> {
    link: &'a Link,
    fault: Fault,
    /// Of [`Link::cuts`], when it began.
    cuts: u64,
    pace: Option<Pace>,
    stall: Mutex<Stall>,
    /// Set once, with [`Connection::why`].
    over: AtomicBool,
    why: Mutex<Over>,
    applied: AtomicBool,
}

pub(super) fn relay(client: &TcpStream, fault: Fault, link: &Link) -> io::Result<()> {
    if fault == Fault::Refuse {
        link.counts(|counts| *counts.applied.entry(fault.name()).or_default() += 1);
        return reset(client);
    }
    let server = TcpStream::connect_timeout(&link.server, Duration::from_secs(1))?;
    for stream in [client, &server] {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(TICK))?;
        sockopt::set_socket_send_buffer_size(stream, SOCKET_BUFFER)?;
        sockopt::set_socket_recv_buffer_size(stream, SOCKET_BUFFER)?;
    }
    let pace = if let Fault::Slow { bytes_per_s } = fault { Some(Pace::new(bytes_per_s)) } else { None };
    let connection = Connection {
        link,
        fault,
        cuts: link.cuts.load(Ordering::Relaxed),
        pace,
        stall: Mutex::new(Stall::None),
        over: AtomicBool::new(false),
        why: Mutex::new(Over::Gone),
        applied: AtomicBool::new(false),
    };
    if connection.pace.is_some() {
        connection.note();
    }
    thread::scope(|scope| {
        scope.spawn(|| Pump::new(Way::Up, client, &server, &connection).run());
        Pump::new(Way::Down, &server, client, &connection).run();
    });
    let why = connection.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
    connection.end(why, client, &server)
}

impl Connection<'_> {
    /// Counts the fault, once for this connection.
    fn note(&self) {
        if !self.applied.swap(true, Ordering::Relaxed) {
            self.link.counts(|counts| *counts.applied.entry(self.fault.name()).or_default() += 1);
        }
    }

    /// Ends both ways; the first reason stands.
    fn finish(&self, why: Over) {
        let mut reason = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.over.swap(true, Ordering::Relaxed) {
            *reason = why;
        }
    }

    fn is_over(&self) -> bool {
        if self.link.cuts.load(Ordering::Relaxed) != self.cuts && !self.over.load(Ordering::Relaxed) {
            self.finish(Over::Cut(End::Reset));
            self.link.counts(|counts| *counts.applied.entry("random cut").or_default() += 1);
        }
        self.over.load(Ordering::Relaxed) || self.link.stops()
    }

    /// Waits while nothing is to pass.
    fn wait_out_stall(&self) {
        while !self.is_over() {
            match *self.stall.lock().unwrap_or_else(PoisonError::into_inner) {
                Stall::Until(until) if until > Instant::now() => {}
                Stall::ForEver => {}
                Stall::None | Stall::Until(_) => break,
            }
            sleep(TICK);
        }
    }

    fn end(&self, why: Over, client: &TcpStream, server: &TcpStream) -> io::Result<()> {
        match why {
            Over::Gone => {}
            Over::Cut(End::Reset) => {
                arrive(server);
                arrive(client);
                reset(client)?;
                reset(server)?;
            }
            Over::Cut(End::Orderly) => {
                for stream in [client, server] {
                    stream.shutdown(Shutdown::Write)?;
                }
                // What is unread when a socket is closed makes a reset of it.
                self.drain([client, server], ARRIVES);
            }
            Over::Garbage(bytes) => {
                self.write_down(client, &bytes)?;
                client.shutdown(Shutdown::Write)?;
                self.drain([client, server], ARRIVES);
            }
            Over::Answer { text, reads_on } => {
                server.shutdown(Shutdown::Both)?;
                self.write_down(client, text.as_bytes())?;
                client.shutdown(Shutdown::Write)?;
                if reads_on {
                    self.drain([client], READS_ON);
                }
            }
        }
        Ok(())
    }

    fn write_down(&self, mut client: &TcpStream, bytes: &[u8]) -> io::Result<()> {
        client.set_write_timeout(Some(ARRIVES))?;
        client.write_all(bytes)?;
        self.link.counts(|counts| counts.down += bytes.len() as u64);
        Ok(())
    }

    /// Reads and forgets until each side has ended, or the time is up.
    fn drain<const N: usize>(&self, streams: [&TcpStream; N], time: Duration) {
        let started = Instant::now();
        let mut buffer = vec![0; PORTION];
        let mut open = streams.to_vec();
        while !open.is_empty() && started.elapsed() < time && !self.link.stops() {
            open.retain_mut(|stream| match stream.read(&mut buffer) {
                Ok(count) => count > 0,
                Err(error) => is_timeout(&error),
            });
        }
    }
}

/// What a side sends next.
#[derive(Clone, Copy, Debug)]
enum Comes {
    Byte,
    Nothing,
    End,
}

/// One way.
struct Pump<'a> {
    way: Way,
    from: &'a TcpStream,
    to: &'a TcpStream,
    connection: &'a Connection<'a>,
    moved: u64,
    /// Where the fault is to happen on this way; none once it has.
    place: Option<u64>,
    /// After a half-close.
    throws_away: bool,
}

impl<'a> Pump<'a> {
    fn new(way: Way, from: &'a TcpStream, to: &'a TcpStream, connection: &'a Connection<'a>) -> Self {
        let place = match (connection.fault.at(), way) {
            (Some(At::Up(bytes)), Way::Up) | (Some(At::Down(bytes)), Way::Down) => Some(bytes),
            _ => None,
        };
        Self { way, from, to, connection, moved: 0, place, throws_away: false }
    }

    fn run(mut self) {
        let mut buffer = vec![0; PORTION];
        let mut liar = match (&self.connection.fault, self.way) {
            (Fault::Lie { delta }, Way::Down) => Some(Liar::new(*delta)),
            _ => None,
        };
        let mut requests = match (&self.connection.fault, self.way) {
            (Fault::Forget { .. }, Way::Up) => Some(Requests::default()),
            _ => None,
        };
        loop {
            self.connection.wait_out_stall();
            if self.place == Some(self.moved) {
                match self.way {
                    Way::Up => self.happen(),
                    Way::Down => match self.comes() {
                        Comes::Byte => self.happen(),
                        Comes::End => self.place = None,
                        Comes::Nothing => {}
                    },
                }
            }
            if self.connection.is_over() {
                return;
            }
            if self.place == Some(self.moved) {
                continue;
            }
            let limit = self.portion();
            let count = match self.from.read(&mut buffer[..limit]) {
                Ok(0) => {
                    let rest = liar.as_mut().map(Liar::rest).unwrap_or_default();
                    let _gone = self.pass(&rest);
                    // The other way may go on.
                    let _gone = self.to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(count) => count,
                Err(error) if is_timeout(&error) => continue,
                Err(_) => return self.connection.finish(Over::Cut(End::Reset)),
            };
            let bytes = &buffer[..count];
            let passed = if let Some(liar) = &mut liar {
                let (bytes, lied) = liar.pass(bytes);
                if lied {
                    self.connection.note();
                }
                self.pass(&bytes)
            } else if let Some(requests) = &mut requests {
                match requests.read(bytes) {
                    Seen::Pass(bytes) => self.pass(&bytes),
                    Seen::Found(bytes) => {
                        let passed = self.pass(&bytes);
                        self.forget();
                        passed
                    }
                }
            } else {
                self.pass(bytes)
            };
            if passed.is_err() {
                return self.connection.finish(Over::Cut(End::Reset));
            }
        }
    }

    /// Bytes to read next: not beyond the place of the fault, and no more than flow at once.
    fn portion(&self) -> usize {
        let to_place = self.place.map_or(u64::MAX, |place| place.saturating_sub(self.moved));
        let to_place = usize::try_from(to_place).unwrap_or(usize::MAX);
        self.paces().map(Pace::portion).chain([to_place]).fold(PORTION, usize::min)
    }

    fn paces(&self) -> impl Iterator<Item = &Pace> {
        let link = match self.way {
            Way::Up => &self.connection.link.pace_up,
            Way::Down => &self.connection.link.pace_down,
        };
        [&self.connection.pace, link].into_iter().flatten()
    }

    /// The fault's place is reached.
    fn happen(&mut self) {
        let connection = self.connection;
        match &connection.fault {
            Fault::Cut { end, .. } => connection.finish(Over::Cut(*end)),
            Fault::Stall { lasts, .. } => {
                let stall = lasts.map_or(Stall::ForEver, |lasts| Stall::Until(Instant::now() + lasts));
                *connection.stall.lock().unwrap_or_else(PoisonError::into_inner) = stall;
            }
            Fault::HalfClose { .. } => {
                arrive(self.to);
                let _gone = self.to.shutdown(Shutdown::Write);
                self.throws_away = true;
            }
            Fault::Answer { status, headers, reads_on, .. } => {
                connection.finish(Over::Answer { text: answer(*status, headers), reads_on: *reads_on });
            }
            Fault::Garbage { bytes, .. } => connection.finish(Over::Garbage(bytes.clone())),
            Fault::None | Fault::Slow { .. } | Fault::Refuse | Fault::Lie { .. } | Fault::Forget { .. } => return,
        }
        self.place = None;
        connection.note();
        connection.wait_out_stall();
    }

    /// Waits a little for what comes, and does not take it.
    fn comes(&self) -> Comes {
        match self.from.peek(&mut [0]) {
            Ok(0) => Comes::End,
            Ok(_) => Comes::Byte,
            Err(error) if is_timeout(&error) => Comes::Nothing,
            Err(_) => Comes::End,
        }
    }

    fn forget(&self) {
        if let Fault::Forget { status } = self.connection.fault {
            self.connection.note();
            self.connection.finish(Over::Answer { text: answer(status, &[]), reads_on: true });
        }
    }

    /// Hands bytes on and counts them. An error means that the other side is gone.
    fn pass(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if self.throws_away {
            return Ok(());
        }
        for pace in self.paces() {
            self.connection.link.wait_until(pace.grant(bytes.len()), || self.connection.is_over());
        }
        while !bytes.is_empty() && !self.connection.is_over() {
            match self.to.write(bytes) {
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.moved += count as u64;
                    self.connection.link.counts(|counts| match self.way {
                        Way::Up => counts.up += count as u64,
                        Way::Down => counts.down += count as u64,
                    });
                }
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The head of an answer without a body, after which the connection ends.
fn answer(status: u16, headers: &[(String, String)]) -> String {
    let headers = headers.iter().fold(String::new(), |all, (name, value)| all + &format!("{name}: {value}\r\n"));
    format!(
        "HTTP/1.1 {status} Made up\r\nTus-Resumable: 1.0.0\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

/// Makes a reset of the socket's end, whenever it is closed.
fn reset(stream: &TcpStream) -> io::Result<()> {
    Ok(sockopt::set_socket_linger(stream, Some(Duration::ZERO))?)
}

/// Waits until the peer has acknowledged what was sent to it, which a reset would throw away.
fn arrive(stream: &TcpStream) {
    let started = Instant::now();
    while started.elapsed() < ARRIVES {
        let mut unacknowledged: libc::c_int = 0;
        // SAFETY: the descriptor is open, and the kernel writes one integer (tcp(7), SIOCOUTQ).
        let done = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut unacknowledged) };
        if done < 0 || unacknowledged == 0 {
            break;
        }
        sleep(Duration::from_millis(1));
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
