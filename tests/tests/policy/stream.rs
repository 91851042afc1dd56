//! A connection through the gateway on which data flows until it is dropped.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tidegate_tests::Gateway;

/// From the left host to the right one, some megabytes a second: it is to notice loss, not to keep the machine busy.
pub(crate) struct Stream {
    sender: TcpStream,
    moved: Arc<AtomicU64>,
    port: u16,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    pub(crate) fn open(net: &Gateway) -> Self {
        let listener = net.right.host.enter(|| TcpListener::bind((net.right.ipv4, 0))).unwrap();
        let server = listener.local_addr().unwrap();
        let sender = net.left.host.enter(|| TcpStream::connect(server)).unwrap();
        let (mut receiver, _peer) = listener.accept().unwrap();
        let moved = Arc::new(AtomicU64::new(0));
        let receiving = thread::spawn({
            let moved = Arc::clone(&moved);
            move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = receiver.read(&mut buffer) {
                    moved.fetch_add(read as u64, Relaxed);
                }
            }
        });
        let mut writer = sender.try_clone().unwrap();
        let sending = thread::spawn(move || {
            while writer.write_all(&[0; 4096]).is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { sender, moved, port: server.port(), threads: vec![sending, receiving] }
    }

    pub(crate) const fn server_port(&self) -> u16 {
        self.port
    }

    /// Bytes that arrived.
    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Relaxed)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ended = self.sender.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}
