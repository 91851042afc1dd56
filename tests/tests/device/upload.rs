//! The power goes in the middle of an upload, and with it the disk's write cache.

use std::{sync::Arc, thread::sleep, time::Duration};

use tidegate_tests::{
    Broker, eventually,
    need::{self, long},
    requires,
    upload::{FaultProxy, TusNode},
    vm::{self, StateDisk},
};

use crate::{
    LONG_WAIT,
    power::{bare, start},
    storm::DISK_MIB,
};

/// Of the file: at the rate it is on its way for a minute and a half.
const SIZE: u64 = 12 << 20;
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
    let put = format!(
        "set -e; mount /dev/vdb /var/lib/tidegate; cd /var/lib/tidegate; mkdir outbox; \
         head -c {SIZE} /dev/urandom >outbox/a.bin; sync; sha256sum outbox/a.bin; cd /; umount /var/lib/tidegate"
    );
    let said = machine.run(&put).ok();
    let sha256 = said.split_whitespace().next().expect("sha256sum writes the hash first");

    let cuts = if long() { 10 } else { 3 };
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
    let beyond = proxy.counts().up.saturating_sub(SIZE);
    println!("{cuts} power cuts: {beyond} bytes beyond the content; {unfinished:?}");
    assert_eq!(received, 1);
    assert!(beyond <= A_CUT * (cuts + 1), "{beyond} bytes went beyond the content");
}
