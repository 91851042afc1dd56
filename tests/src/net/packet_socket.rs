//! Sends frames as they are.

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd},
};

use super::Netns;

/// An `AF_PACKET` socket bound to one interface (packet(7)).
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens one on `interface` inside `namespace`. It receives nothing.
    ///
    /// # Panics
    ///
    /// Without root, or where there is no such interface.
    #[must_use]
    #[track_caller]
    pub fn open(namespace: &Netns, interface: &str) -> Self {
        let ifindex = namespace.ifindex(interface);
        let opened = namespace.enter(|| -> io::Result<OwnedFd> {
            // Protocol 0: nothing is received.
            // SAFETY: no pointers are passed.
            let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the descriptor was just opened and nobody else has it.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: all zero is a value of this plain C structure.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = u16::try_from(libc::AF_PACKET).expect("a small constant");
            address.sll_ifindex = ifindex.cast_signed();
            let length = u32::try_from(size_of::<libc::sockaddr_ll>()).expect("a small structure");
            // SAFETY: the pointer is to a live `sockaddr_ll` of the length given.
            let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
            if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
        });
        Self(opened.unwrap_or_else(|error| panic!("packet socket on {interface} of {}: {error}", namespace.name())))
    }

    /// Sends one frame, Ethernet header first.
    ///
    /// # Errors
    ///
    /// Those of send(2): a frame longer than the MTU allows is `EMSGSIZE`.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.0, frame, rustix::net::SendFlags::empty())?;
        Ok(())
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
