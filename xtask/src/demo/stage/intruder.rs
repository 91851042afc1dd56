//! An address of the right host that nobody wants to hear from.

use std::{
    net::{IpAddr, Ipv4Addr},
    thread::sleep,
    time::Duration,
};

use tidegate_tests::{
    Gateway, eventually,
    net::{UdpSender, UdpSink},
};

/// Beside the right host's own address, which goes on talking.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 66);

/// Between two datagrams.
const PAUSE: Duration = Duration::from_millis(2);
/// By then a datagram has crossed the gateway, or never will.
const CROSSED: Duration = Duration::from_millis(300);

/// Sends datagrams to the left host, which counts those that arrive.
#[derive(Debug)]
pub(crate) struct Intruder {
    sender: UdpSender,
    sink: UdpSink,
}

impl Intruder {
    /// Takes the address.
    pub(crate) fn new(net: &Gateway) -> Self {
        net.right.host.run(&format!("ip addr add {ADDRESS}/24 dev eth0"));
        let sink = UdpSink::open(&net.left.host, net.left.ipv4.into());
        let sender = UdpSender::connect_as(&net.right.host, IpAddr::V4(ADDRESS), sink.address());
        Self { sender, sink }
    }

    /// Sends so many datagrams, each of which must arrive.
    pub(crate) fn passes(&mut self, count: u64) {
        let before = self.sink.received();
        self.send(count);
        eventually(Duration::from_secs(5), "each datagram of the intruder arrives", || {
            let arrived = self.sink.received() - before;
            if arrived == count { Ok(()) } else { Err(format!("{arrived} of {count}")) }
        });
    }

    /// Sends so many datagrams, none of which may arrive.
    pub(crate) fn is_blocked(&mut self, count: u64) {
        let before = self.sink.received();
        self.send(count);
        sleep(CROSSED);
        let arrived = self.sink.received() - before;
        assert_eq!(arrived, 0, "{arrived} of {count} datagrams passed that the policy drops");
    }

    fn send(&mut self, count: u64) {
        for _ in 0..count {
            self.sender.send(b"let me in");
            sleep(PAUSE);
        }
    }
}
