//! TCP transfers whose packets are known from the kernel's own counters.

use std::{
    io::{self, Read as _, Write as _},
    mem::{offset_of, size_of},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use super::Netns;
use crate::eventually;

/// What one end of a connection sent and received, from `TCP_INFO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpCounts {
    /// `tcpi_segs_out`: wire segments, retransmits included.
    pub segments_out: u64,
    /// `tcpi_segs_in`.
    pub segments_in: u64,
    /// `tcpi_total_retrans`.
    pub retransmits: u64,
    /// `tcpi_bytes_sent`: payload, retransmits included.
    pub bytes_sent: u64,
}

/// A finished transfer.
#[derive(Clone, Copy, Debug)]
pub struct TcpTransfer {
    /// Its sender's end, which connected.
    pub sender: TcpCounts,
    /// Its receiver's end, which listened. Its SYN-ACK was sent by the listening socket and is not in
    /// `segments_out`: the receiver sent `segments_out + 1` segments.
    pub receiver: TcpCounts,
    /// Client's address, as the flow shows it.
    pub client: SocketAddr,
    /// Server's address.
    pub server: SocketAddr,
}

/// Sends `bytes` from one host to `address` on the other and closes the connection in order, so that every
/// segment stands in one end's counters.
///
/// # Panics
///
/// Where the transfer fails.
#[must_use]
#[track_caller]
pub fn tcp_transfer(from: &Netns, to: &Netns, address: IpAddr, bytes: u64) -> TcpTransfer {
    let listener = to.enter(|| TcpListener::bind((address, 0))).expect("listen on the host's own address");
    let server = listener.local_addr().expect("a bound socket has an address");
    let stream = from.enter(|| TcpStream::connect(server)).unwrap_or_else(|error| panic!("connect {server}: {error}"));
    let client = stream.local_addr().expect("a connected socket has an address");
    let (receiving, _peer) = listener.accept().expect("the connection that was just made");

    let drained = thread::scope(|scope| {
        let drain = scope.spawn(|| -> io::Result<u64> {
            let mut buffer = vec![0; 1 << 18];
            let mut total = 0;
            loop {
                match (&receiving).read(&mut buffer)? {
                    0 => return Ok(total),
                    count => total += count as u64,
                }
            }
        });
        let chunk = vec![0x55; 1 << 18];
        let mut left = bytes;
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            (&stream).write_all(&chunk[..count]).expect("send");
            left -= count as u64;
        }
        stream.shutdown(Shutdown::Write).expect("close the sender's half");
        drain.join().expect("nothing in it panics").expect("receive")
    });
    assert_eq!(drained, bytes, "everything sent was received");
    receiving.shutdown(Shutdown::Write).expect("close the receiver's half");
    assert_eq!((&stream).read(&mut [0]).expect("the end of the stream"), 0);
    // Both FINs are acknowledged once the passive end is closed: nothing is sent after that.
    eventually(Duration::from_secs(5), "the connection is closed at both ends", || {
        (state(&stream) == CLOSED && state(&receiving) == CLOSED).then_some(())
    });
    TcpTransfer { sender: counts(&stream), receiver: counts(&receiving), client, server }
}

/// `TCP_CLOSE` of the kernel's `net/tcp_states.h`; a socket in `TIME_WAIT` reports it, too.
const CLOSED: u8 = 7;

/// `struct tcp_info` of `linux/tcp.h` as far as it is read here. libc's copy ends before these fields on glibc.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpInfo {
    state: u8,
    flags: [u8; 7],
    rto_to_total_retrans: [u32; 24],
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate: u64,
    busy_time: u64,
    rwnd_limited: u64,
    sndbuf_limited: u64,
    delivered: u32,
    delivered_ce: u32,
    bytes_sent: u64,
}

const _: () = assert!(offset_of!(TcpInfo, segs_out) == 136 && offset_of!(TcpInfo, bytes_sent) == 200);

fn info(stream: &TcpStream) -> TcpInfo {
    // SAFETY: integers only: all zero is a value.
    let mut info: TcpInfo = unsafe { std::mem::zeroed() };
    let mut length = u32::try_from(size_of::<TcpInfo>()).expect("a small structure");
    // SAFETY: pointer and length describe the live structure above; the kernel writes that much at most.
    let got = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    assert_eq!(got, 0, "TCP_INFO: {}", io::Error::last_os_error());
    info
}

fn state(stream: &TcpStream) -> u8 {
    info(stream).state
}

fn counts(stream: &TcpStream) -> TcpCounts {
    let info = info(stream);
    TcpCounts {
        segments_out: info.segs_out.into(),
        segments_in: info.segs_in.into(),
        retransmits: info.rto_to_total_retrans[23].into(),
        bytes_sent: info.bytes_sent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Gateway, need, requires};

    /// Without offloads every buffer is one segment, so that the host's own count of arrived buffers, whichever
    /// socket they were for, must agree with the sockets' count of segments.
    #[test]
    fn segments_are_those_that_the_other_host_receives() {
        requires!(need::root(), need::program("ip"), need::program("ethtool"));
        for ipv6 in [false, true] {
            let net = Gateway::new();
            net.offload(false);
            let before = (received(&net.left.host), received(&net.right.host));
            let transfer = tcp_transfer(&net.left.host, &net.right.host, net.right.address(ipv6), 3_000_000);
            let after = (received(&net.left.host), received(&net.right.host));
            let case = format!("IPv6 {ipv6}: {transfer:?}");
            assert_eq!(after.1 - before.1, transfer.sender.segments_out, "left to right, {case}");
            assert_eq!(after.0 - before.0, transfer.receiver.segments_out + 1, "right to left, {case}");
        }
    }

    /// `Tcp: InSegs` of /proc/net/snmp, for both families.
    fn received(host: &Netns) -> u64 {
        let snmp = host.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap();
        let mut tcp = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (tcp.next().unwrap(), tcp.next().unwrap());
        let column = names.split(' ').position(|name| name == "InSegs").unwrap();
        values.split(' ').nth(column).unwrap().parse().unwrap()
    }
}
