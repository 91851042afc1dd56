//! The machine's interfaces, followed by rtnetlink: one dump at the start, then every change as it happens.
//!
//! Only name and link type of a message are read, so a newer kernel's attributes cannot confuse us. Where the
//! socket's buffer overflowed (`ENOBUFS`) or the kernel says that a dump was interrupted, another dump follows.
//! Needs no privileges.
//!
//! A dump and the changes that happen meanwhile arrive on one socket in the order in which they took place, so
//! both are applied, in that order, to the set that the dump builds; it replaces the old one when it is whole.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use netlink_packet_core::{NetlinkBuffer, NlasIterator};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv, send,
    socket_with, sockopt,
};
use tokio::io::unix::AsyncFd;

/// `linux/rtnetlink.h`: multicast group of link changes.
const RTMGRP_LINK: u32 = 1;
/// `linux/netlink.h`: the dump saw an inconsistent state.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// `linux/netlink.h`
const NLM_F_REQUEST: u16 = 1;
/// `linux/netlink.h`
const NLM_F_DUMP: u16 = 0x300;
/// Size of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Size of `struct ifinfomsg`.
const IFINFOMSG: usize = 16;
/// The kernel sends no dump message above 32 KiB (`netlink_dump`), and one change is a few.
const BUFFER_BYTES: usize = 64 * 1024;
/// Changes that wait for us: about 250, at some 4 KiB of kernel memory each. Beyond that, a dump follows.
const SOCKET_BYTES: usize = 1 << 20;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Name now.
    pub name: String,
    /// `ARPHRD_*`.
    pub link_type: u16,
}

/// The set of interfaces, kept up to date.
#[derive(Debug)]
pub(super) struct Interfaces {
    socket: AsyncFd<OwnedFd>,
    set: LinkSet,
    buffer: Box<[u8]>,
    sequence: u32,
    heard: Instant,
}

impl Interfaces {
    /// Subscribes to changes and asks for all interfaces; they are known once [`Self::changed`] returned.
    ///
    /// # Errors
    ///
    /// Where the system refuses a netlink socket.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // No protocol: 0 is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        // The forced size needs CAP_NET_ADMIN; without it the system's limit holds, and overflows cost a dump.
        if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BYTES).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BYTES)?;
        }
        bind(&socket, &SocketAddrNetlink::new(0, RTMGRP_LINK))?;
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        // SAFETY: the descriptor is owned, and neither replaced nor closed while it is registered.
        let socket = unsafe { AsyncFd::register(socket) }?;
        let mut this = Self { socket, set: LinkSet::default(), buffer, sequence: 0, heard: Instant::now() };
        this.dump()?;
        Ok(this)
    }

    /// The interfaces, by index; `None` until the first dump is whole.
    #[must_use]
    pub(super) fn links(&self) -> Option<&BTreeMap<u32, Link>> {
        self.set.whole.then_some(&self.set.links)
    }

    /// Index of the interface that has this name at the moment.
    #[must_use]
    pub(super) fn index_of(&self, name: &str) -> Option<u32> {
        rustix::net::netdevice::name_to_index(self.socket.get_ref(), name).ok()
    }

    /// When the messages behind the last change began to be read.
    #[must_use]
    pub(super) const fn heard(&self) -> Instant {
        self.heard
    }

    /// Waits until interfaces may have changed. Safe to cancel.
    ///
    /// # Errors
    ///
    /// Where the socket fails for good; open another one.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            self.heard = Instant::now();
            let mut changed = false;
            loop {
                match recv(self.socket.get_ref().as_fd(), &mut self.buffer[..], RecvFlags::TRUNC) {
                    Ok((_, length)) if length > self.buffer.len() => self.set.lost(),
                    Ok((_, length)) => changed |= self.set.apply(&self.buffer[..length])?,
                    Err(rustix::io::Errno::NOBUFS) => self.set.lost(),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
            drop(ready);
            if self.set.wants_dump() {
                self.dump()?;
            }
            if changed {
                return Ok(());
            }
        }
    }

    fn dump(&mut self) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = [0_u8; HEADER + IFINFOMSG];
        let mut header = NetlinkBuffer::new(&mut request);
        header.set_length(u32::try_from(HEADER + IFINFOMSG).expect("32"));
        header.set_message_type(libc::RTM_GETLINK);
        header.set_flags(NLM_F_REQUEST | NLM_F_DUMP);
        header.set_sequence_number(self.sequence);
        send(self.socket.get_ref(), &request, SendFlags::empty())?;
        self.set.dump_started();
        Ok(())
    }
}

/// The set as messages build it.
#[derive(Debug, Default)]
struct LinkSet {
    links: BTreeMap<u32, Link>,
    /// Whether a dump was whole, ever.
    whole: bool,
    /// What the dump under way has brought.
    dump: Option<BTreeMap<u32, Link>>,
    /// Messages were lost: another dump is needed.
    lost: bool,
}

impl LinkSet {
    fn dump_started(&mut self) {
        self.dump = Some(BTreeMap::new());
        self.lost = false;
    }

    const fn lost(&mut self) {
        self.lost = true;
    }

    /// Only one dump at a time: the kernel answers a second one with `EBUSY`.
    const fn wants_dump(&self) -> bool {
        self.lost && self.dump.is_none()
    }

    /// Applies one datagram; whether [`Self::links`] changed.
    fn apply(&mut self, mut datagram: &[u8]) -> io::Result<bool> {
        let mut changed = false;
        while let Ok(message) = NetlinkBuffer::new_checked(datagram) {
            // The length was checked to lie between the header's and the datagram's.
            let length = message.length() as usize;
            self.lost |= message.flags() & NLM_F_DUMP_INTR != 0;
            match message.message_type() {
                libc::RTM_NEWLINK | libc::RTM_DELLINK => {
                    if let Some((ifindex, link)) = link(message.payload()) {
                        let gone = message.message_type() == libc::RTM_DELLINK;
                        changed |= self.change(ifindex, (!gone).then_some(link));
                    }
                }
                DONE => {
                    if let Some(dumped) = self.dump.take() {
                        changed |= !self.whole || dumped != self.links;
                        self.links = dumped;
                        self.whole = true;
                    }
                }
                ERROR => {
                    let code = message.payload().first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    if code != 0 {
                        return Err(io::Error::from_raw_os_error(-code));
                    }
                }
                _ => {}
            }
            // Messages start at multiples of four (NLMSG_ALIGN).
            datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(changed)
    }

    fn change(&mut self, ifindex: u32, link: Option<Link>) -> bool {
        let (links, live) = match &mut self.dump {
            Some(dump) => (dump, false),
            None => (&mut self.links, true),
        };
        let changed = match link {
            Some(link) if links.get(&ifindex) == Some(&link) => false,
            Some(link) => {
                links.insert(ifindex, link);
                true
            }
            None => links.remove(&ifindex).is_some(),
        };
        changed && live
    }
}

/// `NLMSG_ERROR`
const ERROR: u16 = 2;
/// `NLMSG_DONE`
const DONE: u16 = 3;

/// Reads a link message. `None` for those of another family: a port that leaves its bridge is announced as
/// `RTM_DELLINK` of `AF_BRIDGE`, and the interface lives on.
fn link(payload: &[u8]) -> Option<(u32, Link)> {
    let (info, attributes) = payload.split_at_checked(IFINFOMSG)?;
    if i32::from(info[0]) != libc::AF_UNSPEC {
        return None;
    }
    let link_type = u16::from_ne_bytes([info[2], info[3]]);
    let ifindex = u32::from_ne_bytes([info[4], info[5], info[6], info[7]]);
    let name = NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == libc::IFLA_IFNAME)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned())?;
    Some((ifindex, Link { name, link_type }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(payload);
        let length = u32::try_from(bytes.len()).unwrap();
        let mut header = NetlinkBuffer::new(&mut bytes);
        header.set_length(length);
        header.set_message_type(kind);
        header.set_flags(flags);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn link_message(kind: u16, family: u8, ifindex: u32, name: &str) -> Vec<u8> {
        let mut payload = vec![family, 0, 1, 0];
        payload.extend_from_slice(&ifindex.to_ne_bytes());
        payload.resize(IFINFOMSG, 0);
        // An attribute that is not the name (IFLA_MTU), then the name with its end.
        payload.extend_from_slice(&[8, 0, 4, 0, 0xdc, 5, 0, 0]);
        payload.extend_from_slice(&u16::try_from(4 + name.len() + 1).unwrap().to_ne_bytes());
        payload.extend_from_slice(&libc::IFLA_IFNAME.to_ne_bytes());
        payload.extend_from_slice(name.as_bytes());
        payload.push(0);
        message(kind, 0, &payload)
    }

    fn new(ifindex: u32, name: &str) -> Vec<u8> {
        link_message(libc::RTM_NEWLINK, 0, ifindex, name)
    }

    fn gone(ifindex: u32) -> Vec<u8> {
        link_message(libc::RTM_DELLINK, 0, ifindex, "x")
    }

    fn done(flags: u16) -> Vec<u8> {
        message(DONE, flags, &[0; 4])
    }

    fn names(set: &LinkSet) -> Vec<(u32, &str)> {
        set.links.iter().map(|(&ifindex, link)| (ifindex, link.name.as_str())).collect()
    }

    #[test]
    fn a_dump_replaces_the_set_once_it_is_whole() {
        let mut set = LinkSet::default();
        set.dump_started();
        assert!(!set.apply(&[new(1, "lo"), new(2, "eth0")].concat()).unwrap());
        assert_eq!(names(&set), []);
        assert!(set.apply(&done(0)).unwrap());
        assert_eq!(names(&set), [(1, "lo"), (2, "eth0")]);
    }

    #[test]
    fn changes_during_a_dump_are_in_its_result() {
        let mut set = LinkSet::default();
        set.dump_started();
        let messages = [new(1, "lo"), new(2, "eth0"), gone(1), new(2, "wan0"), new(3, "eth1"), done(0)];
        assert!(set.apply(&messages.concat()).unwrap());
        assert_eq!(names(&set), [(2, "wan0"), (3, "eth1")]);
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_gone() {
        let mut set = LinkSet::default();
        assert!(set.apply(&new(2, "eth0")).unwrap());
        let left = link_message(libc::RTM_DELLINK, u8::try_from(libc::AF_BRIDGE).unwrap(), 2, "eth0");
        assert!(!set.apply(&left).unwrap());
        assert_eq!(names(&set), [(2, "eth0")]);
    }

    #[test]
    fn a_message_that_changes_nothing_wakes_nobody() {
        let mut set = LinkSet::default();
        assert!(set.apply(&new(2, "eth0")).unwrap());
        assert!(!set.apply(&new(2, "eth0")).unwrap());
        assert!(!set.apply(&gone(7)).unwrap());
    }

    #[test]
    fn lost_messages_and_interrupted_dumps_ask_for_one_more_dump() {
        let mut set = LinkSet::default();
        set.dump_started();
        set.lost();
        assert!(!set.wants_dump(), "one dump at a time");
        set.apply(&done(0)).unwrap();
        assert!(set.wants_dump());
        set.dump_started();
        set.apply(&done(NLM_F_DUMP_INTR)).unwrap();
        assert!(set.wants_dump());
    }

    #[test]
    fn garbage_is_not_read_as_interfaces() {
        let whole = new(2, "eth0");
        for end in 0..whole.len() - 3 {
            let mut set = LinkSet::default();
            assert!(!set.apply(&whole[..end]).unwrap(), "cut at {end}");
        }
        let mut set = LinkSet::default();
        assert!(!set.apply(&[0xff; 64]).unwrap());
        assert!(!set.apply(&message(libc::RTM_NEWLINK, 0, &[0; 8])).unwrap());
        assert!(set.apply(&message(ERROR, 0, &(-libc::EBUSY).to_ne_bytes())).is_err());
    }
}
