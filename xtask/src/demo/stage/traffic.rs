//! Real traffic between the two hosts, counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tidegate_tests::{
    Gateway,
    net::{Side, UdpSender, UdpSink, tcp_transfer},
};

/// Transfers and datagrams, both ways, both families, until it is finished or dropped.
#[derive(Debug)]
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<Sent>>,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    /// TCP segments, retransmits included, without the listener's SYN-ACKs.
    pub(crate) segments: u64,
    /// UDP datagrams.
    pub(crate) datagrams: u64,
}

impl Traffic {
    /// Starts to talk.
    pub(crate) fn start(net: &Gateway) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (left, right) = (&net.left, &net.right);
        let spawn = |from: &Side, to: &Side, talk: fn(&Side, &Side, &AtomicBool) -> Sent| {
            let (from, to, stop) = (from.clone(), to.clone(), Arc::clone(&stop));
            thread::spawn(move || talk(&from, &to, &stop))
        };
        let threads = vec![spawn(left, right, transfers), spawn(right, left, transfers), spawn(left, right, datagrams)];
        Self { stop, threads }
    }

    /// Ends it and says what was sent.
    pub(crate) fn finish(mut self) -> Sent {
        self.join()
    }

    fn join(&mut self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Sent::default();
        for thread in self.threads.drain(..) {
            let sent = thread.join().expect("the traffic between the hosts goes through");
            all.segments += sent.segments;
            all.datagrams += sent.datagrams;
        }
        all
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.join();
        }
    }
}

fn transfers(from: &Side, to: &Side, stop: &AtomicBool) -> Sent {
    let mut sent = Sent::default();
    for ipv6 in [false, true].into_iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let transfer = tcp_transfer(&from.host, &to.host, to.address(ipv6), 500_000);
        sent.segments += transfer.sender.segments_out + transfer.receiver.segments_out;
        thread::sleep(Duration::from_millis(100));
    }
    sent
}

fn datagrams(from: &Side, to: &Side, stop: &AtomicBool) -> Sent {
    let sink = UdpSink::open(&to.host, to.ipv4.into());
    let mut sender = UdpSender::connect(&from.host, sink.address());
    while !stop.load(Ordering::Relaxed) {
        sender.send(&[0x55; 200]);
        thread::sleep(Duration::from_millis(2));
    }
    Sent { segments: 0, datagrams: sender.datagrams }
}
