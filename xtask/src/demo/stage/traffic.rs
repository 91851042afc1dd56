//! Real traffic between the two hosts, counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
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
    finished: Arc<AtomicU64>,
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
        let (stop, finished) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (left, right) = (&net.left, &net.right);
        let spawn = |from: &Side, to: &Side, talk: fn(&Side, &Side, &AtomicBool, &AtomicU64) -> Sent| {
            let (from, to) = (from.clone(), to.clone());
            let (stop, finished) = (Arc::clone(&stop), Arc::clone(&finished));
            thread::spawn(move || talk(&from, &to, &stop, &finished))
        };
        let threads = vec![spawn(left, right, transfers), spawn(right, left, transfers), spawn(left, right, datagrams)];
        Self { stop, finished, threads }
    }

    /// Transfers whose every byte arrived so far.
    pub(crate) fn transfers(&self) -> u64 {
        self.finished.load(Ordering::Relaxed)
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

fn transfers(from: &Side, to: &Side, stop: &AtomicBool, finished: &AtomicU64) -> Sent {
    let mut sent = Sent::default();
    for ipv6 in [false, true].into_iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let transfer = tcp_transfer(&from.host, &to.host, to.address(ipv6), 500_000);
        finished.fetch_add(1, Ordering::Relaxed);
        sent.segments += transfer.sender.segments_out + transfer.receiver.segments_out;
        thread::sleep(Duration::from_millis(100));
    }
    sent
}

fn datagrams(from: &Side, to: &Side, stop: &AtomicBool, _finished: &AtomicU64) -> Sent {
    let sink = UdpSink::open(&to.host, to.ipv4.into());
    let mut sender = UdpSender::connect(&from.host, sink.address());
    while !stop.load(Ordering::Relaxed) {
        sender.send(&[0x55; 200]);
        thread::sleep(Duration::from_millis(2));
    }
    Sent { segments: 0, datagrams: sender.datagrams }
}
