//! In the middle of an upload the power goes, and with it the disk's write cache; or the wall clock jumps.

use std::{sync::Arc, thread::sleep, time::Duration};

use tidegate_tests::{
    Broker, eventually,
    need::{self, long},
    requires,
    upload::{FaultProxy, TusNode},
    vm::{self, Machine, StateDisk},
};

use crate::{
    LONG_WAIT,
    clock::{now_ms, set_clock},
    power::{bare, start},
    storm::DISK_MIB,
};

/// What a power cut may cost: what was under way, and the heads of requests.
const A_CUT: u64 = 256 << 10;

#[test]
fn an_upload_goes_on_where_the_server_is_though_the_power_is_cut() {
    requires!(vm::available(), need::tus_node());
    let (server, broker) = (TusNode::start(), Broker::builder().quiet().start());
    let proxy = FaultProxy::before(server.port()).start();
    let seed = fastrand::u64(..);
    println!("seed of the disk: {seed}");
    let disk = Arc::new(StateDisk::new(DISK_MIB, seed));
    // The host's loopback, as machines see it.
    let upload = format!(
        "[upload]\nendpoint = \"http://10.0.2.2:{}/files\"\noutbox = [\"/var/lib/tidegate/outbox\"]\n\
         compression = \"none\"\nrate_limit = \"128KiB\"\nsplay = \"0s\"\nsettle = \"1s\"\n",
        proxy.port()
    );
    let mut machine = bare(&disk, broker.port(), &upload);
    // At that rate it is on its way for longer than between all cuts.
    let (cuts, size) = if long() { (10, 24_u64 << 20) } else { (3, 6 << 20) };
    let put = format!(
        "set -e; mount /dev/vdb /var/lib/tidegate; cd /var/lib/tidegate; mkdir outbox; \
         head -c {size} /dev/urandom >outbox/a.bin; sync; sha256sum outbox/a.bin; cd /; umount /var/lib/tidegate"
    );
    let said = machine.run(&put).ok();
    let sha256 = said.split_whitespace().next().expect("sha256sum writes the hash first");

    let mut offset = 0;
    for _cut in 0..cuts {
        start(&machine);
        eventually(LONG_WAIT, "it goes on", || server.unfinished().iter().any(|upload| upload.offset > offset));
        sleep(Duration::from_millis(fastrand::u64(..5000)));
        offset = server.unfinished().iter().map(|upload| upload.offset).max().unwrap_or_default();
        machine.cut_power();
        machine.boot_again();
    }
    start(&machine);
    let received = eventually(LONG_WAIT * 2, "it arrives", || {
        server.received().into_iter().next().ok_or_else(|| format!("{:?}", server.unfinished()))
    });
    assert_eq!(received.content_sha256(), sha256);
    machine.until(LONG_WAIT, "[ ! -e /var/lib/tidegate/outbox/a.bin ]");
    let (received, unfinished) = (server.received().len(), server.unfinished());
    let beyond = proxy.counts().up.saturating_sub(size);
    println!("{cuts} power cuts: {beyond} bytes beyond the content; {unfinished:?}");
    assert_eq!(received, 1);
    assert!(beyond <= A_CUT * (cuts + 1), "{beyond} bytes went beyond the content");
}

#[test]
fn an_upload_goes_on_though_the_clock_jumps_and_files_are_of_the_future() {
    const SIZE: u64 = 3 << 20;
    requires!(vm::available(), need::tus_node());
    let (server, broker) = (TusNode::start(), Broker::builder().quiet().start());
    let proxy = FaultProxy::before(server.port()).start();
    let machine = Machine::debian().with_tidegate().resume();
    let upload = format!(
        "[upload]\nendpoint = \"http://10.0.2.2:{}/files\"\ncompression = \"none\"\nrate_limit = \"128KiB\"\n\
         splay = \"0s\"\nsettle = \"2s\"\n",
        proxy.port()
    );
    machine.configure(&broker, &upload);
    machine.run("systemctl start tidegate").ok();
    let put = format!("head -c {SIZE} /dev/urandom >/root/a.bin; tidegate put /root/a.bin; sha256sum /root/a.bin");
    let said = machine.run(&put).ok();
    let sha256 = said.lines().last().and_then(|line| line.split(' ').next()).expect("sha256sum writes the hash first");

    let (now, day) = (now_ms(), 86_400_000);
    let mut offset = 0;
    for clock in [now + 30 * day, 86_400_000, now] {
        let goes_on = || server.unfinished().iter().any(|upload| upload.offset > offset);
        eventually(LONG_WAIT, "it goes on", goes_on);
        offset = server.unfinished().iter().map(|upload| upload.offset).max().unwrap_or_default();
        set_clock(&machine, clock);
    }
    // Written in place while the clock was a year ahead: settled all the same.
    set_clock(&machine, now + 365 * day);
    machine.run("cp /root/a.bin /var/spool/tidegate/b.bin; chmod 644 /var/spool/tidegate/b.bin").ok();
    set_clock(&machine, now);
    let received = eventually(LONG_WAIT, "both arrive", || {
        let received = server.received();
        if received.len() == 2 { Ok(received) } else { Err(format!("{:?}", server.unfinished())) }
    });
    for received in &received {
        assert_eq!(received.content_sha256(), sha256);
    }
    let beyond = proxy.counts().up.saturating_sub(2 * SIZE);
    assert!(beyond <= A_CUT, "{beyond} bytes went beyond the content");
    assert_eq!(machine.unit("tidegate", "NRestarts"), "0");
}
