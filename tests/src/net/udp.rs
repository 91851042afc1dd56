//! UDP senders that know how many datagrams they sent.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use super::Netns;

/// A connected UDP socket.
#[derive(Debug)]
pub struct UdpSender {
    socket: UdpSocket,
    /// Datagrams sent: wire segments, unless they exceed the MTU.
    pub datagrams: u64,
    /// Their payload.
    pub payload_bytes: u64,
}

impl UdpSender {
    /// A socket inside `from` that sends to `to`.
    ///
    /// # Panics
    ///
    /// Where there is no route.
    #[must_use]
    #[track_caller]
    pub fn connect(from: &Netns, to: SocketAddr) -> Self {
        let any: IpAddr = if to.is_ipv6() { [0; 16].into() } else { [0; 4].into() };
        Self::connect_as(from, any, to)
    }

    /// The same, by one of the addresses of `from`.
    ///
    /// # Panics
    ///
    /// Where it has no such address, or no route.
    #[must_use]
    #[track_caller]
    pub fn connect_as(from: &Netns, source: IpAddr, to: SocketAddr) -> Self {
        let socket = from
            .enter(|| {
                let socket = UdpSocket::bind((source, 0))?;
                socket.connect(to)?;
                io::Result::Ok(socket)
            })
            .unwrap_or_else(|error| panic!("UDP from {} to {to}: {error}", from.name()));
        Self { socket, datagrams: 0, payload_bytes: 0 }
    }

    /// Own address.
    ///
    /// # Panics
    ///
    /// Never: a bound socket has one.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket has an address")
    }

    /// Sends one datagram.
    ///
    /// # Panics
    ///
    /// Where the socket refuses. A closed port answers with an error of the *next* call, so have a [`UdpSink`].
    #[track_caller]
    pub fn send(&mut self, payload: &[u8]) {
        let sent = self.socket.send(payload).expect("send a datagram");
        self.datagrams += 1;
        self.payload_bytes += sent as u64;
    }

    /// Sends `payload` as datagrams of `size` bytes in one buffer: `UDP_SEGMENT` (udp(7)).
    ///
    /// # Panics
    ///
    /// Where the kernel refuses: over 64 KiB or 64 segments.
    #[track_caller]
    pub fn send_segmented(&mut self, payload: &[u8], size: u16) {
        self.segment(size);
        let sent = self.socket.send(payload).expect("send a segmented buffer");
        assert_eq!(sent, payload.len());
        self.segment(0);
        self.datagrams += sent.div_ceil(usize::from(size)) as u64;
        self.payload_bytes += sent as u64;
    }

    fn segment(&self, size: u16) {
        let value = libc::c_int::from(size);
        // SAFETY: pointer and length describe a live integer.
        let set = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                (&raw const value).cast(),
                u32::try_from(size_of_val(&value)).expect("a small integer"),
            )
        };
        assert_eq!(set, 0, "UDP_SEGMENT: {}", io::Error::last_os_error());
    }
}

/// A socket that swallows datagrams, so that no ICMP "port unreachable" joins the traffic.
#[derive(Debug)]
pub struct UdpSink {
    address: SocketAddr,
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl UdpSink {
    /// Opens one on a free port of `address` inside `host`.
    ///
    /// # Panics
    ///
    /// Where the address is not the host's.
    #[must_use]
    #[track_caller]
    pub fn open(host: &Netns, address: IpAddr) -> Self {
        let socket = host
            .enter(|| UdpSocket::bind((address, 0)))
            .unwrap_or_else(|error| panic!("UDP socket on {address} in {}: {error}", host.name()));
        let address = socket.local_addr().expect("a bound socket has an address");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("not zero");
        let (received, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (received, stop) = (Arc::clone(&received), Arc::clone(&stop));
            move || {
                let mut buffer = vec![0; 1 << 16];
                while !stop.load(Ordering::Relaxed) {
                    if socket.recv(&mut buffer).is_ok() {
                        received.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        Self { address, received, stop, thread: Some(thread) }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Datagrams received; a full buffer drops some, so this is no measure of what was sent.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for UdpSink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
