//! What the machines themselves promise; every scenario here leans on it.

use std::{sync::Arc, time::Duration};

use tidegate_tests::{
    Broker, need, requires,
    vm::{self, Kernel, Machine, StateDisk},
};

#[test]
fn the_images_are_there() {
    requires!(need::root(), need::program("qemu-system-aarch64"));
    assert!(vm::images().root().is_file());
}

#[test]
fn a_resumed_machine_is_up_has_the_hosts_time_and_reaches_its_loopback() {
    requires!(vm::available());
    let broker = Broker::start();
    let machine = Machine::debian().resume();
    assert_eq!(machine.run("systemctl is-system-running").ok(), "running");
    let drift = machine
        .run("date +%s")
        .ok()
        .parse::<u64>()
        .unwrap()
        .abs_diff(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs());
    assert!(drift <= 30, "{drift} s away from the host's clock");
    machine
        .until(Duration::from_secs(30), &format!("mosquitto_pub -h 10.0.2.2 -p {} -t hello -m world", broker.port()));
}

#[test]
fn what_was_not_flushed_is_lost_with_the_power() {
    requires!(vm::available());
    let disk = Arc::new(StateDisk::new(64, 7));
    let mut machine = Machine::bare().state(&disk).boot();
    machine
        .run(
            "set -e; mount /dev/vdb /mnt; seq 1000 >/mnt/synced; sync /mnt/synced; \
             seq 2000 >/mnt/cached",
        )
        .ok();
    machine.cut_power();
    machine.boot_again();
    machine.run("mount /dev/vdb /mnt").ok();
    assert_eq!(machine.run("wc -l </mnt/synced").ok(), "1000");
    let cached = machine.run("wc -l </mnt/cached 2>/dev/null || echo 0").ok();
    assert_eq!(cached, "0", "the page cache, at least, is lost");
}

#[test]
fn what_the_disk_took_and_did_not_flush_is_lost_with_its_cache() {
    requires!(vm::available());
    let disk = Arc::new(StateDisk::new(64, 7));
    let mut machine = Machine::bare().state(&disk).boot();
    // Past the page cache: the disk has answered each write, and was asked for no flush.
    machine.run("dd if=/dev/zero of=/dev/vdb bs=64k seek=512 count=64 oflag=direct 2>/dev/null").ok();
    let (lost, held) = machine.cut_power();
    assert_eq!(held, 64);
    assert!((1..64).contains(&lost), "{lost} of {held}: some are lost, some are not");
}

#[test]
fn the_bare_machine_boots_on_the_older_kernel() {
    requires!(vm::available());
    let machine = Machine::bare().kernel(Kernel::Linux6_1).boot();
    assert!(machine.run("uname -r").ok().starts_with("6.1."));
    machine.run("modprobe -a veth 8021q sch_ingress cls_bpf && ip link add v0 type veth peer name v1").ok();
}
