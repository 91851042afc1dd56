//! The power goes while records flow. The disk's write cache goes with it.

use std::sync::Arc;

use tidegate_tests::{
    Broker, Tap, eventually,
    mqtt::Ledger,
    need::long,
    requires,
    vm::{self, Machine, StateDisk},
};

use crate::{
    LONG_WAIT,
    storm::{DISK_MIB, Producers, all_arrive, report, storm},
};

/// A machine without systemd, whose daemon has its state on the state disk.
pub(super) fn bare(disk: &Arc<StateDisk>, port: u16, more: &str) -> Machine {
    let machine = Machine::bare().with_tidegate().state(disk).boot();
    machine.configure_port(port, &format!("{QUIET}{more}"));
    // What is told of the root file system is not the subject: it is kept.
    machine.run("sync").ok();
    machine
}

/// Records of each stream flow; traffic has scenarios of its own.
const QUIET: &str = "[traffic]\ninterfaces = []\n[host]\ninterval = \"1s\"\n";

const MOUNT: &str = "set -e; mkdir -p /run/tidegate; mount /dev/vdb /var/lib/tidegate";
const RUN: &str = "export RUNTIME_DIRECTORY=/run/tidegate STATE_DIRECTORY=/var/lib/tidegate";
const READY: &str = "until [ -S /run/tidegate/ingest.sock ]; do sleep 0.05; done";

/// Mounts the state, and starts the daemon through `wrapper`.
fn start_with(machine: &Machine, wrapper: &str) {
    let start = format!("{wrapper} tidegate run </dev/null >/run/tidegate.log 2>&1 &");
    machine.run_within(LONG_WAIT, &format!("{MOUNT}\n{RUN}\n{start}\n{READY}")).ok();
}

/// Mounts the state, and starts the daemon.
pub(super) fn start(machine: &Machine) {
    start_with(machine, "");
}

#[test]
fn every_answered_record_arrives_though_the_power_is_cut_twenty_times() {
    requires!(vm::available());
    let broker = Broker::builder().quiet().start();
    let tap = Tap::before(&broker);
    let seed = fastrand::u64(..);
    println!("seed of the disk: {seed}");
    let disk = Arc::new(StateDisk::new(DISK_MIB, seed));
    let mut machine = bare(&disk, tap.port(), "");
    start(&machine);

    let cuts = if long() { 100 } else { 20 };
    let producers = Producers::default();
    let cache = storm(&mut machine, cuts, &producers, start);
    producers.stop();
    let ledger = all_arrive(&tap, &producers.accepted());
    report(cuts, cache, &producers, &ledger);
    assert!(producers.count() > 20 * cuts, "{} answered records prove little", producers.count());
}

/// Answers fsync(2) and fdatasync(2) with success, and does nothing: a seccomp filter, inherited by what it starts.
const WITHOUT_SYNC: &str = r#"perl -e '
my %arm64 = (prctl => 167, seccomp => 277, fsync => 82, fdatasync => 83);
my @filter = (
    [0x20, 0, 0, 0],                      # load the number of the system call
    [0x15, 1, 0, $arm64{fsync}],          # fsync: skip one
    [0x15, 0, 1, $arm64{fdatasync}],      # not fdatasync: skip one
    [0x06, 0, 0, 0x00050000],             # fail with error 0, which is success
    [0x06, 0, 0, 0x7fff0000],             # allow
);
my $filter = join "", map { pack "S C C L", @$_ } @filter;
my $program = pack "S x6 P", scalar @filter, $filter;
syscall($arm64{prctl}, 38, 1, 0, 0, 0) == 0 or die "no_new_privs: $!";
syscall($arm64{seccomp}, 1, 0, $program) == 0 or die "seccomp: $!";
exec @ARGV;'"#;

/// Else the kernel syncs by itself every 5 s, which pass where the host is busy.
const WITHOUT_WRITEBACK: &str = "set -e
mount -o remount,commit=3600 /var/lib/tidegate
echo 0 >/proc/sys/vm/dirty_writeback_centisecs";

#[test]
fn without_syncs_a_power_cut_takes_answered_records() {
    requires!(vm::available());
    let broker = Broker::start();
    let tap = Tap::before(&broker);
    let disk = Arc::new(StateDisk::new(DISK_MIB, 1));
    // Threads: io_uring's syncs are no system calls.
    let mut machine = bare(&disk, tap.port(), "[spool]\nio = \"threads\"\n");
    // Nothing is delivered before the cut.
    machine.run("ip link set eth0 down").ok();
    start_with(&machine, WITHOUT_SYNC);
    machine.run(WITHOUT_WRITEBACK).ok();
    machine.send("meter", 1, 100);
    machine.cut_power();

    machine.boot_again();
    start(&machine);
    machine.send("door", 1, 1);
    eventually(LONG_WAIT, "what is left arrives", || {
        Ledger::of(&tap.acknowledged()).stream("ingest/door").next().is_some()
    });
    let left = Ledger::of(&tap.acknowledged()).stream("ingest/meter").count();
    assert!(left < 100, "all {left} are there, so that the other scenario would not notice a missing sync");
}
