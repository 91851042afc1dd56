//! Large files in little memory, and disks that are full.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tidegate_tests::{
    Broker, Daemon, Subscriber, eventually,
    faults::{Disk, MemoryGroup},
    memory_kib, need, requires, skip,
    upload::{Dav, Kind, Sample, TusNode, sample, sha256},
};

use crate::{SEED, SOON, Sender, Told, arrives};

const MIB: u64 = 1 << 20;

/// A large file: a small one again and again, each time behind its number.
#[track_caller]
fn large(folder: &Path, name: &str) -> Sample {
    let size = if need::long() { 2 << 30 } else { 256 * MIB };
    let part = sample(folder, "part", 8 * MIB - 8, Kind::Mixed, SEED);
    let content = fs::read(&part.path).unwrap();
    let path = folder.join(name);
    let mut file = File::create(&path).unwrap();
    for number in 0..size / (8 * MIB) {
        file.write_all(&number.to_le_bytes()).and_then(|()| file.write_all(&content)).unwrap();
    }
    file.sync_all().unwrap();
    let sha256 = sha256(&path);
    Sample { path, name: name.to_owned(), size, sha256 }
}

/// Takes what is cached of a file from memory: whoever reads it next pays for it.
fn uncache(path: &Path) {
    let file = File::open(path).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// Bytes of the file that are cached, by fincore(1).
fn cached(path: &Path) -> Option<u64> {
    let output = Command::new("fincore").args(["--bytes", "--noheadings", "--output", "RES"]).arg(path).output();
    let output = output.expect("fincore can be run");
    // It may be gone.
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

#[test]
fn a_large_file_arrives_with_24_mib_of_memory() {
    requires!(need::root(), need::dav(), need::program("zstd"));
    let group = match MemoryGroup::limited(24 * MIB) {
        Ok(group) => group,
        Err(why) => skip!("{why}"),
    };
    let server = Dav::start();
    let mut sender = Sender::of(Daemon::builder().log("info").within(&group), &server.url(), "protocol = \"http\"");
    let (idle, started) = (memory_kib(sender.daemon.running().pid(), "RssAnon"), Instant::now());
    let made = large(sender.daemon.scratch().path(), "large");
    uncache(&made.path);
    let path = sender.daemon.outbox().join("large");
    fs::rename(&made.path, &path).unwrap();
    let mut most = 0;
    eventually(Duration::from_mins(5), "it is sent", || {
        most = most.max(memory_kib(sender.daemon.running().pid(), "RssAnon"));
        if path.exists() { Err(sender.upload().to_string()) } else { Ok(()) }
    });
    println!(
        "{} MiB in {:.1?}: the group's peak {} KiB; anonymous memory {idle} KiB idle, {most} KiB at most",
        made.size / MIB,
        started.elapsed(),
        group.peak() >> 10
    );
    arrives(&made, || server.received());
}

#[test]
fn an_upload_does_not_fill_the_page_cache() {
    requires!(need::dav(), need::program("fincore"));
    let server = Dav::start();
    thread::scope(|scope| {
        let server = &server;
        for io in ["auto", "threads"] {
            scope.spawn(move || caches_little(server, io));
        }
    });
}

#[track_caller]
fn caches_little(server: &Dav, io: &str) {
    let sender = Sender::of(
        Daemon::builder().log("info").config(&format!("[spool]\nio = \"{io}\"")),
        &server.url(),
        "protocol = \"http\"\ncompression = \"none\"",
    );
    let made = large(sender.daemon.scratch().path(), io);
    uncache(&made.path);
    let path = sender.daemon.outbox().join(io);
    fs::rename(&made.path, &path).unwrap();
    let before = cached(&path).unwrap();
    let mut most = 0;
    eventually(Duration::from_mins(5), "it is sent", || {
        most = most.max(cached(&path).unwrap_or_default());
        if path.exists() { Err(sender.upload().to_string()) } else { Ok(()) }
    });
    println!("{io}: {} KiB of {} MiB were cached before, {} KiB at most", before >> 10, made.size / MIB, most >> 10);
    assert!(before < MIB && most < 32 * MIB, "{most} bytes of the file are cached");
    arrives(&made, || server.received());
}

#[test]
fn with_a_full_disk_a_file_arrives_and_what_became_of_it_is_told_when_there_is_room() {
    requires!(need::root(), need::tus_node(), need::program("mosquitto"));
    let disk = match Disk::ext4(96) {
        Ok(disk) => disk,
        Err(why) => skip!("{why}"),
    };
    let (server, broker) = (TusNode::start(), Broker::start());
    let seen = Subscriber::start(broker.port(), "tidegate/v1/gw-test/#");
    let sender = Sender::of(Daemon::builder().broker(broker.port()).on(&disk), &server.url(), "");
    let told = Told { sender, seen, broker };
    disk.fill();
    let sample = told.sender.put("a.log", 3 << 20, Kind::Text, SEED);
    arrives(&sample, || server.received());
    let troubles = eventually(SOON, "it is counted", || {
        let troubles = told.sender.counter("troubles");
        if troubles["journal"].as_u64() > Some(0) { Ok(troubles) } else { Err(troubles.to_string()) }
    });
    println!("{troubles}");
    disk.free();
    assert_eq!(told.event("a.log", "sent")["sha256"], sample.sha256);
    told.sender.is_done();
    assert_eq!((server.received().len(), server.unfinished().len()), (1, 0));
}
