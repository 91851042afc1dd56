//! Networks of namespaces, and exactly counted traffic through them.

mod frames;
mod gateway;
mod netns;
mod packet_socket;
mod tcp;
mod udp;

pub use frames::{
    Ip, Mac, TcpFlags, VlanTag, ethernet, icmpv6_echo, ipv4, ipv4_fragments, ipv6, tcp_segment, udp_datagram,
};
pub use gateway::{Gateway, Side};
pub use netns::Netns;
pub use packet_socket::PacketSocket;
pub use tcp::{TcpCounts, TcpTransfer, tcp_transfer};
pub use udp::{UdpSender, UdpSink};
