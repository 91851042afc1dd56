//! Packets that the programs tell of as they drop them, from the ring buffer.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
};

use aya::maps::{MapData, RingBuf};
use tidegate_abi::{direction, policy::Dropped};
use tokio::io::unix::AsyncFd;

use super::Rules;

/// A packet that was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedPacket {
    /// The policy that it met.
    pub rules: Arc<Rules>,
    /// Number of the rule in it.
    pub rule: u32,
    /// Name of the interface; its number where it is watched no longer.
    pub interface: String,
    /// Whether it was received; else it was to be sent.
    pub ingress: bool,
    /// Source of a received packet, destination of one to be sent.
    pub peer: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source and destination port of TCP and UDP, where they are known.
    pub ports: Option<(u16, u16)>,
    /// Whether it was over a rate.
    pub limited: bool,
}

impl DroppedPacket {
    pub(super) fn new(dropped: &Dropped, rules: Arc<Rules>, interface: String) -> Self {
        let peer = Ipv6Addr::from(dropped.peer);
        let peer = if dropped.ip_version == 4 { peer.to_canonical() } else { peer.into() };
        let ports = (dropped.source_port, dropped.destination_port);
        let has_ports = matches!(i32::from(dropped.protocol), libc::IPPROTO_TCP | libc::IPPROTO_UDP) && ports != (0, 0);
        Self {
            rules,
            rule: dropped.rule,
            interface,
            ingress: dropped.direction == direction::INGRESS,
            peer,
            protocol: dropped.protocol,
            ports: has_ports.then_some(ports),
            limited: dropped.limited != 0,
        }
    }
}

/// The reader's end of the ring buffer.
pub(in crate::kernel) struct Ring(AsyncFd<Buffer>);

struct Buffer(RingBuf<MapData>);

impl AsRawFd for Buffer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Ring {
    /// Begins to read, on the runtime that runs this.
    ///
    /// # Errors
    ///
    /// Where the runtime cannot wait for it.
    pub(in crate::kernel) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the descriptor is owned by the buffer, and neither replaced nor closed while it is registered.
        Ok(Self(unsafe { AsyncFd::register(Buffer(ring)) }?))
    }

    /// Waits until programs told of dropped packets, and takes what they told. Safe to cancel.
    pub(in crate::kernel) async fn read(&mut self) -> Vec<Dropped> {
        let Ok(mut ready) = self.0.readable_mut().await else {
            // A runtime that ends, and nothing else, says so.
            return std::future::pending().await;
        };
        let mut told = Vec::new();
        while let Some(entry) = ready.get_inner_mut().0.next() {
            if entry.len() >= size_of::<Dropped>() {
                // SAFETY: so many bytes are there, and `Dropped` takes any (`Pod`).
                told.push(unsafe { entry.as_ptr().cast::<Dropped>().read_unaligned() });
            }
        }
        ready.clear_ready();
        told
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}
