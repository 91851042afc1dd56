//! A bad link between a client and its server.
//!
//! ```text
//!   daemon ──── up ────► proxy ──── up ────► server
//!          ◄── down ────   │   ◄── down ────
//!                          └─ one fault a connection, as its schedule says
//! ```
//!
//! Each connection to the proxy becomes one to the server. Bytes pass unchanged, and are counted as they are handed on,
//! until the connection's fault does what [`Fault`] says. An orderly end of one way is passed on as one, and a reset as
//! one. Buffers are small, so that little is under way when a connection is cut. While the server is away, a connection to
//! the proxy ends at once.

mod answers;
mod fault;
mod pace;
mod relay;
mod requests;
mod schedule;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use rustix::net::sockopt;

use self::pace::Pace;
pub use self::{
    fault::{At, End, Fault},
    schedule::{Protocol, Schedule},
};

/// How often a thread that waits looks whether it is to end.
const TICK: Duration = Duration::from_millis(20);
/// Of each of a connection's four socket buffers. The kernel doubles it for its own books.
const SOCKET_BUFFER: usize = 32 << 10;

/// How a proxy is to behave.
#[derive(Debug)]
pub struct FaultProxyBuilder {
    server: SocketAddr,
    schedule: Schedule,
    rate: Option<u64>,
    random_cuts: Option<(Duration, u64)>,
}

impl FaultProxyBuilder {
    /// One fault for each connection, in this order. By default there is none.
    #[must_use]
    pub fn schedule(mut self, schedule: impl Into<Schedule>) -> Self {
        self.schedule = schedule.into();
        self
    }

    /// All connections together pass this many bytes a second at most, each way.
    #[must_use]
    pub const fn rate(mut self, bytes_per_s: u64) -> Self {
        self.rate = Some(bytes_per_s);
        self
    }

    /// Resets all connections that there are at random times, `mean` apart on average: times between are distributed
    /// exponentially, and the same for the same seed.
    #[must_use]
    pub const fn cut_at_random(mut self, mean: Duration, seed: u64) -> Self {
        self.random_cuts = Some((mean, seed));
        self
    }

    /// Starts it on a free port.
    ///
    /// # Panics
    ///
    /// Where there is none.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> FaultProxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        // Accepted sockets inherit it, and announce no larger window from their first segment on.
        sockopt::set_socket_recv_buffer_size(&listener, SOCKET_BUFFER).expect("a buffer's size can be set");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let link = Arc::new(Link {
            server: self.server,
            schedule: self.schedule,
            pace_up: self.rate.map(Pace::new),
            pace_down: self.rate.map(Pace::new),
            counts: Mutex::default(),
            cuts: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let mut threads = vec![thread::spawn({
            let link = Arc::clone(&link);
            move || accept(&listener, &link)
        })];
        if let Some((mean, seed)) = self.random_cuts {
            let link = Arc::clone(&link);
            threads.push(thread::spawn(move || cut_at_random(&link, mean, seed)));
        }
        FaultProxy { port, link, threads }
    }
}

/// A proxy that makes faults.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    link: Arc<Link>,
    threads: Vec<JoinHandle<()>>,
}

/// What passed, and what was done to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were accepted.
    pub connections: u64,
    /// Bytes that were handed on to the server, heads included.
    pub up: u64,
    /// Bytes that were handed on to clients, of the server and of the proxy itself.
    pub down: u64,
    /// Connections to which a fault happened, by [`Fault::name`], and by `random cut` those that were cut at random or by
    /// [`FaultProxy::cut`]. A fault whose place is never reached does not happen.
    pub applied: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// How often this fault happened.
    #[must_use]
    pub fn of(&self, name: &str) -> u64 {
        self.applied.get(name).copied().unwrap_or_default()
    }
}

/// What all connections share.
#[derive(Debug)]
struct Link {
    server: SocketAddr,
    schedule: Schedule,
    pace_up: Option<Pace>,
    pace_down: Option<Pace>,
    counts: Mutex<Counts>,
    /// How often all connections were cut: one that remembers another number is to end.
    cuts: AtomicU64,
    stop: AtomicBool,
}

impl FaultProxy {
    /// One before whatever listens on this port of the loopback, still to be described.
    #[must_use]
    pub fn before(port: u16) -> FaultProxyBuilder {
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        FaultProxyBuilder { server, schedule: Schedule::default(), rate: None, random_cuts: None }
    }

    /// Where the client is to connect, on the loopback.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What passed so far, and what was done to it.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.link.counts(|counts| counts.clone())
    }

    /// Resets all connections that there are; the client may connect again.
    pub fn cut(&self) {
        self.link.cuts.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.link.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

impl Link {
    fn counts<T>(&self, change: impl FnOnce(&mut Counts) -> T) -> T {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Sleeps until then, or until the proxy ends or `also` says so.
    fn wait_until(&self, then: Instant, also: impl Fn() -> bool) {
        while !self.stops() && !also() {
            let left = then.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            sleep(left.min(TICK));
        }
    }
}

fn accept(listener: &TcpListener, link: &Link) {
    listener.set_nonblocking(true).expect("a socket can be made non-blocking");
    thread::scope(|scope| {
        while !link.stops() {
            match listener.accept() {
                Ok((client, _)) => {
                    let number = link.counts(|counts| {
                        counts.connections += 1;
                        counts.connections - 1
                    });
                    let fault = link.schedule.of(number);
                    scope.spawn(move || {
                        // Peers come and go: an error ends this connection and nothing else.
                        let _ended: io::Result<()> = relay::relay(&client, fault, link);
                    });
                }
                Err(_) => sleep(TICK / 4),
            }
        }
    });
}

fn cut_at_random(link: &Link, mean: Duration, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut next = Instant::now();
    while !link.stops() {
        // Never of zero, which has no logarithm.
        next += mean.mul_f64(-(1.0 - random.f64()).ln());
        link.wait_until(next, || false);
        link.cuts.fetch_add(1, Ordering::Relaxed);
    }
}
