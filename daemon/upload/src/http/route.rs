//! Which interface the packets to an address leave by.

use std::{
    ffi::CStr,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    ptr,
};

/// The interface that the system would take to `address`; `None` where that has no address of its own.
///
/// Nothing is sent: connecting a datagram socket makes the kernel choose a source address, and that belongs to an interface.
///
/// # Errors
///
/// No route.
pub(super) fn interface_to(address: SocketAddr) -> io::Result<Option<String>> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    let source = socket.local_addr()?.ip();
    Addresses::get().map(|addresses| addresses.interface_of(source))
}

/// What getifaddrs(3) gave.
struct Addresses(*mut libc::ifaddrs);

impl Addresses {
    fn get() -> io::Result<Self> {
        let mut list = ptr::null_mut();
        // SAFETY: the argument is a place for one pointer, which the call fills where it succeeds.
        match unsafe { libc::getifaddrs(&raw mut list) } {
            0 => Ok(Self(list)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn interface_of(&self, source: IpAddr) -> Option<String> {
        let mut next = self.0;
        while !next.is_null() {
            // SAFETY: the list is whole until it is freed in `drop`, and nobody else has it.
            let entry = unsafe { &*next };
            // SAFETY: as above, for what the entry points to.
            if unsafe { ip_of(entry.ifa_addr) } == Some(source) {
                // SAFETY: a name is a string that ends in a zero.
                let name = unsafe { CStr::from_ptr(entry.ifa_name) };
                return name.to_str().ok().map(str::to_owned);
            }
            next = entry.ifa_next;
        }
        None
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        // SAFETY: made by getifaddrs, freed here only.
        unsafe { libc::freeifaddrs(self.0) }
    }
}

/// The IP address in a socket address of any family.
///
/// # Safety
///
/// `address` is null, or points to a socket address that is as long as its family says.
unsafe fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: every socket address begins with its family; the caller vouches for the rest. Read unaligned: nobody promises more.
    match i32::from(unsafe { ptr::read_unaligned(address) }.sa_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is one of these.
            let address = unsafe { ptr::read_unaligned(address.cast::<libc::sockaddr_in>()) };
            Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr))))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is one of these.
            let address = unsafe { ptr::read_unaligned(address.cast::<libc::sockaddr_in6>()) };
            Some(IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_reached_over_loopback() {
        assert_eq!(interface_to(([127, 0, 0, 1], 9).into()).unwrap().as_deref(), Some("lo"));
    }
}
