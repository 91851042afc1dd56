//! The daemon is killed while it uploads.

use std::{thread, time::Duration};

use tidegate_tests::{
    eventually, need, requires,
    upload::{FaultProxy, Kind, TusNode},
};

use crate::{SOON, Sender, arrives};

/// Gateways that are killed beside each other: each looks at its outbox for a second before it begins.
const GATEWAYS: u64 = 5;
/// Of each file: more than goes at the rate between all kills.
const SIZE: u64 = 8 << 20;
/// More than the heads of requests that come before content.
const HEADS: u64 = 4 << 10;
/// What a kill may cost: heads of requests, and what was handed to the kernel and had not arrived.
const A_KILL: u64 = 8 << 10;

#[test]
fn a_file_arrives_whole_and_is_sent_once_though_the_daemon_is_killed_fifty_times() {
    requires!(need::tus_node(), need::program("zstd"));
    let server = TusNode::start();
    let kills = if need::long() { 40 } else { 10 };
    thread::scope(|scope| {
        for gateway in 0..GATEWAYS {
            // With an encoding, too: a resume then begins within a frame.
            let compression = if gateway % 2 == 0 { "none" } else { "zstd" };
            let server = &server;
            scope.spawn(move || killed(server, kills, compression, gateway));
        }
    });
    assert_eq!(server.received().len() as u64, GATEWAYS);
    // Killed between the request that makes room and the answer that says where: nobody knows of it, and it expires.
    let forlorn = server.unfinished();
    println!("{} uploads were begun and not known to be", forlorn.len());
    assert!(forlorn.len() as u64 <= GATEWAYS * kills / 2, "{forlorn:?}");
    assert!(forlorn.iter().all(|upload| upload.offset == 0), "{forlorn:?}");
}

/// Sends a file with a daemon that is killed so many times on the way.
#[track_caller]
fn killed(server: &TusNode, kills: u64, compression: &str, seed: u64) {
    let proxy = FaultProxy::before(server.port()).start();
    let rate = if need::long() { "32KiB" } else { "128KiB" };
    let lines = format!("compression = \"{compression}\"\nrate_limit = \"{rate}\"");
    let mut sender = Sender::start(&server.url_through(proxy.port()), &lines);
    let sample = sender.put(&format!("{seed}.bin"), SIZE, Kind::Mixed, seed);
    for kill in 0..kills {
        if kill > 0 {
            sender.daemon.start_only();
        }
        // At random, so that kills fall into every phase, most of them into the sending.
        let before = proxy.counts().up;
        if fastrand::u8(..4) > 0 {
            eventually(SOON, "content flows", || proxy.counts().up > before + HEADS);
            thread::sleep(Duration::from_millis(fastrand::u64(..400)));
        } else {
            thread::sleep(Duration::from_millis(fastrand::u64(..2000)));
        }
        sender.daemon.kill();
    }
    sender.daemon.start_again();
    let before = proxy.counts();
    sender.configure("rate_limit = \"\"");
    let received = arrives(&sample, || server.received());
    sender.is_done();
    let counts = proxy.counts();
    let beyond = counts.up - received.size;
    println!(
        "{compression}: {kills} kills, {} of {} bytes before the last start; {} connections; {beyond} bytes beyond the content",
        before.up, received.size, counts.connections,
    );
    assert!((100_000..received.size).contains(&before.up), "kills came on the way: {}", before.up);
    assert!(beyond <= A_KILL * (kills + 1), "{beyond} bytes went beyond the content");
}
