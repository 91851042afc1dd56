//! The TCP connection below: behind everything else that leaves the gateway, and with little of it on the way.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Most bytes of one write: with more, what a bad link has to send again at once is more, and so is what stands before
/// everybody else in the queue.
const MOST_WRITTEN: usize = 64 * 1024;
/// Bytes that may wait in the kernel unsent: so that little is lost with a connection, and what has to go first is not behind them.
const NOT_SENT_BYTES: u32 = 128 * 1024;
/// `TC_PRIO_BULK` (`linux/pkt_sched.h`): the last band of `pfifo_fast`.
const PRIORITY_BULK: u32 = 2;
/// DSCP "lower effort" (RFC 8622) in the byte that holds it.
const LOWER_EFFORT: u8 = 1 << 2;

/// A connection that writes little at a time, and whose end is told by reading alone.
///
/// A server that objects says why and closes. Whoever writes then fails before the reason is read, and would take for a
/// bad link what was an answer. So a write to a peer that has closed succeeds, as one a moment earlier would have: what
/// came from it is read, and then the end.
#[derive(Debug)]
pub(crate) struct Tcp {
    stream: TcpStream,
}

impl Tcp {
    /// Connects, by `interface` alone where one is named.
    pub(crate) async fn connect(
        address: SocketAddr,
        interface: Option<&str>,
        dead_after: Duration,
    ) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        if let Some(interface) = interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        let stream = socket.connect(address).await?;
        configure(&stream, address, dead_after)?;
        Ok(Self { stream })
    }
}

fn configure(stream: &TcpStream, address: SocketAddr, dead_after: Duration) -> io::Result<()> {
    let socket = stream.as_fd();
    // The end of a part is a small packet, and it is waited for.
    stream.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(socket, u32::try_from(dead_after.as_millis()).unwrap_or(u32::MAX))?;
    // What a kernel or a sandbox does not grant is not worth a transfer.
    let _best_effort = match address {
        SocketAddr::V4(_) => sockopt::set_ip_tos(socket, LOWER_EFFORT),
        SocketAddr::V6(_) => sockopt::set_ipv6_tclass(socket, LOWER_EFFORT.into()),
    };
    set_option(socket, libc::SOL_SOCKET, libc::SO_PRIORITY, PRIORITY_BULK);
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, NOT_SENT_BYTES);
    Ok(())
}

/// Sets an option that rustix does not know; refused, the connection works all the same.
fn set_option(socket: impl AsFd, level: libc::c_int, option: libc::c_int, value: u32) {
    use std::os::fd::AsRawFd as _;
    let length = libc::socklen_t::try_from(size_of_val(&value)).expect("four bytes");
    // SAFETY: the descriptor is open for the borrow's lifetime, and the kernel reads `length` bytes of `value`.
    let _best_effort = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const value).cast::<libc::c_void>(), length)
    };
}

/// What writing to a peer that has closed says, turned into success: see [`Tcp`].
fn closed_is_read(written: Poll<io::Result<usize>>, length: usize) -> Poll<io::Result<usize>> {
    match written {
        Poll::Ready(Err(error))
            if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
        {
            Poll::Ready(Ok(length))
        }
        other => other,
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(MOST_WRITTEN)];
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        closed_is_read(written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // As many as fit, the last one in part. Eight are what a head, chunks and their ends come in.
        let mut fitting = [IoSlice::new(&[]); 8];
        let mut room = MOST_WRITTEN;
        for (place, slice) in fitting.iter_mut().zip(slices) {
            *place = IoSlice::new(&slice[..slice.len().min(room)]);
            room -= place.len();
        }
        let count = slices.len().min(fitting.len());
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, &fitting[..count]);
        closed_is_read(written, MOST_WRITTEN - room)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn no_write_takes_more_than_64_kib() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tcp = Tcp::connect(address, None, Duration::from_secs(5)).await.unwrap();
        let _peer = listener.accept().await.unwrap();
        let large = vec![7; 1 << 20];
        let written = poll_fn(|context| Pin::new(&mut tcp).poll_write(context, &large)).await.unwrap();
        assert!(written <= MOST_WRITTEN, "{written}");
        let slices = [&large[..10], &large[..60_000], &large[..60_000], &large[..]].map(IoSlice::new);
        let more = poll_fn(|context| Pin::new(&mut tcp).poll_write_vectored(context, &slices)).await.unwrap();
        assert!(more <= MOST_WRITTEN, "{more}");
    }

    #[tokio::test]
    async fn it_stands_behind_everything_else_in_the_gateway() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tcp = Tcp::connect(address, Some("lo"), Duration::from_secs(5)).await.unwrap();
        assert_eq!(sockopt::ip_tos(tcp.stream.as_fd()).unwrap(), LOWER_EFFORT);
        assert_eq!(sockopt::tcp_user_timeout(tcp.stream.as_fd()).unwrap(), 5000);
    }
}
