//! The TCP connection below the session.
//!
//! It goes first: its packets have [`PRIORITY`] in the gateway's own queues, those of uploads the lowest (`TC_PRIO_BULK`, and
//! DSCP LE for the routers behind, RFC 8622). A queueing discipline with bands, such as `pfifo_fast`, which many links have
//! by default, then sends what waits here before what waits there; `fq_codel` keeps the two apart anyhow.

use std::{
    io,
    os::fd::AsRawFd as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
    time::timeout,
};

use crate::config::Broker;

/// For one address to accept: three SYNs (1 s + 2 s + 4 s, RFC 6298) and some.
const ACCEPT_WITHIN: Duration = Duration::from_secs(10);

/// `TC_PRIO_INTERACTIVE` of `linux/pkt_sched.h`: the highest that needs no privilege (socket(7), `SO_PRIORITY`).
const PRIORITY: libc::c_int = 6;

/// Connects to the first address of the broker that accepts.
///
/// The system gives up on data that nobody acknowledges after `dead_after`: the kernel's default is 15 minutes,
/// which a half-open connection (a modem that got a new address) would live on.
///
/// # Errors
///
/// The last address's, with what was tried.
pub(super) async fn connect(broker: &Broker, dead_after: Duration) -> io::Result<Stream> {
    let Broker { host, port, .. } = broker;
    let addresses = lookup_host((host.as_str(), *port))
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("{host} does not resolve to an address: {error}")))?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} does not resolve to an address"));
    for address in addresses {
        let attempt = match timeout(ACCEPT_WITHIN, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => configure(stream, dead_after),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {ACCEPT_WITHIN:?}"))),
        };
        match attempt {
            Ok(stream) => return Ok(Stream(stream)),
            Err(error) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
        }
    }
    Err(last)
}

fn configure(stream: TcpStream, dead_after: Duration) -> io::Result<TcpStream> {
    // Acknowledgements are small and each waits for one: Nagle's algorithm would hold them back.
    stream.set_nodelay(true)?;
    let dead_after_ms = u32::try_from(dead_after.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(&stream, dead_after_ms)?;
    // Where it is not permitted the connection works as well, among equals.
    if let Err(error) = set_priority(&stream, PRIORITY) {
        tracing::debug!(%error, "records do not go before other traffic: SO_PRIORITY");
    }
    Ok(stream)
}

fn set_priority(stream: &TcpStream, priority: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&priority)).expect("an int is small");
    // SAFETY: the descriptor is open for as long as `stream` is borrowed, and the kernel reads `length` bytes from where
    // `priority` lies, which are its own.
    let set = unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PRIORITY, (&raw const priority).cast(), length)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A connection whose end is told by reading alone.
///
/// A broker that objects says why and closes. Whoever writes then fails before the reason is read, and would take for a
/// bad link what was an answer. So a write to a peer that has closed succeeds, as one a moment earlier would have: what
/// came from it is read, and then the end.
#[derive(Debug)]
pub(super) struct Stream(TcpStream);

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.0).poll_write(cx, bytes) {
            Poll::Ready(Err(error))
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                Poll::Ready(Ok(bytes.len()))
            }
            written => written,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_the_peer_said_before_it_closed_is_read_though_writing_goes_on() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let broker = Broker { host: "127.0.0.1".to_owned(), port, tls: false };
        let mut stream = connect(&broker, Duration::from_secs(9)).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        stream.write_all(b"never read: closing resets the connection").await.unwrap();
        peer.readable().await.unwrap();
        peer.write_all(b"last words").await.unwrap();
        drop(peer);
        for _ in 0..100 {
            stream.write_all(b"too late").await.unwrap();
        }
        let mut said = [0; 10];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"last words");
        assert!(matches!(stream.read(&mut said).await, Ok(0) | Err(_)), "and then it ends");
    }

    #[tokio::test]
    async fn its_packets_go_before_others() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let broker = Broker { host: "127.0.0.1".to_owned(), port, tls: false };
        let Stream(stream) = connect(&broker, Duration::from_secs(9)).await.unwrap();
        let mut priority: libc::c_int = 0;
        let mut length = libc::socklen_t::try_from(size_of_val(&priority)).unwrap();
        // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes to where `priority` lies.
        let got = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PRIORITY,
                (&raw mut priority).cast(),
                &raw mut length,
            )
        };
        assert_eq!((got, priority), (0, PRIORITY));
    }

    #[tokio::test]
    async fn a_closed_port_is_named() {
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let broker = Broker { host: "127.0.0.1".to_owned(), port, tls: false };
        let error = connect(&broker, Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    }

    #[tokio::test]
    async fn an_ipv6_address_needs_no_brackets() {
        let Ok(listener) = tokio::net::TcpListener::bind("[::1]:0").await else { return };
        let broker = Broker { host: "::1".to_owned(), port: listener.local_addr().unwrap().port(), tls: false };
        assert!(connect(&broker, Duration::from_secs(1)).await.is_ok());
    }
}
