//! A root that is read-only, a state partition that is full, or is not there.

use std::sync::Arc;

use serde_json::json;
use tidegate_tests::{
    Broker, Refused, Tap, eventually,
    need::long,
    requires,
    vm::{self, Machine, StateDisk},
};

use crate::{
    LONG_WAIT,
    storm::{DISK_MIB, Producers, all_arrive, report, storm},
};

/// The problems that `tidegate status` names, as one text.
#[track_caller]
fn problems(machine: &Machine) -> String {
    machine.status()["problems"].to_string()
}

/// After a boot systemd starts the daemon by itself.
fn wait_for_the_daemon(machine: &Machine) {
    machine.until(LONG_WAIT, "systemctl is-active tidegate && [ -S /run/tidegate/ingest.sock ]");
}

#[test]
fn on_a_read_only_root_the_state_partition_is_enough_even_full_and_through_power_cuts() {
    requires!(vm::available());
    let mut broker = Broker::builder().quiet().start();
    let tap = Tap::before(&broker);
    let disk = Arc::new(StateDisk::new(DISK_MIB, fastrand::u64(..)));
    let mut machine = Machine::bare().with_tidegate().state(&disk).boot();
    machine.configure_port(tap.port(), "[host]\ninterval = \"1s\"\n[spool]\nmax_size = \"48MiB\"\n");
    machine.run("echo '/dev/vdb /var/lib/tidegate ext4 noatime 0 2' >>/etc/fstab").ok();
    machine.shut_down();
    machine.next_time(|how| how.systemd().root_read_only());
    machine.boot_again();
    wait_for_the_daemon(&machine);
    let refused = machine.run("touch /etc/tidegate/written");
    assert!(refused.stderr.contains("Read-only file system"), "{refused:?}");

    // It does all of its work.
    let producers = Producers::default();
    producers.feed(&machine);
    eventually(LONG_WAIT, "records are answered", || producers.count() > 100);
    producers.stop();
    all_arrive(&tap, &producers.accepted());
    let status = machine.status();
    assert_eq!((&status["ok"], &status["problems"]), (&true.into(), &json!([])));
    assert!(machine.unit("tidegate", "StatusText").starts_with("online, 1 interface"));

    // The disk is full, and with the broker away nothing makes room.
    broker.kill();
    machine.run("cat /dev/zero >/var/lib/tidegate/fill 2>/dev/null; sync; [ -s /var/lib/tidegate/fill ]").ok();
    let mut ingest = machine.ingest();
    let text = "x".repeat(60_000);
    let mut accepted = producers.accepted();
    let mut number = 1_000_000;
    let mut put = |text: &str| {
        number += 1;
        match ingest.put("meter", &json!({"number": number, "text": text})) {
            Ok(seq) => {
                accepted.insert(seq, number);
                Ok(())
            }
            Err(Refused::Error(answer)) => Err(answer.to_string()),
            Err(Refused::Gone(error)) => panic!("the connection ended: {error}"),
        }
    };
    let refused = (0..300).find_map(|_| put(&text).err()).expect("a full disk takes no 18 MB");
    assert!(refused.contains("\"full\""), "{refused}");
    let named = problems(&machine);
    assert!(named.contains("No space left on device"), "{named}");
    machine.until(LONG_WAIT, "systemctl show --value --property=StatusText tidegate | grep 'No space left'");
    machine.run("rm /var/lib/tidegate/fill").ok();
    eventually(LONG_WAIT, "intake goes on when there is room", || put(""));
    broker.start_again();
    let ledger = all_arrive(&tap, &accepted);
    assert_eq!(ledger.losses(), []);

    // The power goes, and systemd brings all of it back.
    let cuts = if long() { 20 } else { 2 };
    producers.also_accepted(accepted);
    let cache = storm(&mut machine, cuts, &producers, wait_for_the_daemon);
    producers.stop();
    let ledger = all_arrive(&tap, &producers.accepted());
    report(cuts, cache, &producers, &ledger);
    assert_eq!(machine.unit("tidegate", "NRestarts"), "0");
}

/// The state partition of docs/systemd.md that may be missing.
const DATA: &str = "set -e
mkdir -p /data /etc/systemd/system/tidegate.service.d
echo 'LABEL=state /data ext4 noatime,nofail,x-systemd.device-timeout=2s 0 2' >>/etc/fstab
printf '[Service]\\nReadWritePaths=-/data\\n' >/etc/systemd/system/tidegate.service.d/data.conf
systemctl daemon-reload";

/// A disk with the label `state` appears, which has the daemon's folder already. Its file is not in memory (`/run`): there
/// writes to it failed once the spool had filled it. `mkfs.ext4` fills it, as a mount for that would take a loop device that goes
/// by itself once udev has let go of it: that one could be found under the label and be gone after the next unmount.
const DISK_APPEARS: &str = "set -e
modprobe loop
install -d -m 700 -o tidegate -g tidegate /run/content/tidegate
mkfs.ext4 -q -L state -d /run/content /var/lib/state.img 64M
losetup /dev/loop0 /var/lib/state.img
udevadm settle";

#[test]
fn without_its_state_partition_the_daemon_watches_and_goes_on_once_that_is_mounted() {
    requires!(vm::available());
    let broker = Broker::builder().quiet().start();
    let tap = Tap::before(&broker);
    let machine = Machine::debian().with_tidegate().resume();
    machine.run(DATA).ok();
    machine.configure_port(tap.port(), "[spool]\ndir = \"/data/tidegate/spool\"\nmax_size = \"48MiB\"\n");
    machine.run("systemctl start tidegate").ok();
    eventually(LONG_WAIT, "it watches", || {
        let traffic = &machine.status()["traffic"];
        let watched = traffic["interfaces"].as_array().is_some_and(|interfaces| !interfaces.is_empty());
        if watched { Ok(()) } else { Err(traffic.to_string()) }
    });
    let named = problems(&machine);
    assert!(named.contains("/data/tidegate") && named.contains("mount"), "{named}");
    let line = machine.unit("tidegate", "StatusText");
    assert!(line.contains("/data/tidegate"), "{line}");
    assert_eq!(machine.run("ls -A /data").ok(), "", "nothing goes to the root file system");

    machine.run(DISK_APPEARS).ok();
    machine.run("systemctl start data.mount").ok();
    machine.send("meter", 1, 10);
    eventually(LONG_WAIT, "what was handed over arrives", || {
        tap.acknowledged().iter().filter(|message| message.topic.ends_with("/ingest/meter")).count() == 10
    });
    machine.run("[ -e /data/tidegate/spool/lock ]").ok();
    eventually(LONG_WAIT, "nothing is wrong any more", || {
        let named = problems(&machine);
        if named == "[]" { Ok(()) } else { Err(named) }
    });

    // Where the partition is mounted on the state directory itself, systemd waits for it.
    machine.run("systemctl stop tidegate && rm /etc/tidegate/conf.d/test.toml").ok();
    let line = "LABEL=absent /var/lib/tidegate ext4 noatime,nofail,x-systemd.device-timeout=2s 0 2";
    machine.run(&format!("echo '{line}' >>/etc/fstab && systemctl daemon-reload")).ok();
    let refused = machine.run("systemctl start tidegate");
    assert!(refused.status != 0 && refused.stderr.contains("dependency"), "{refused:?}");
    machine.run("umount /data && e2label /dev/loop0 absent && udevadm trigger --settle /dev/loop0").ok();
    // systemd hears of the label from udev, which may take longer than the two seconds that it waits for the device.
    eventually(LONG_WAIT, "it starts once the partition is there", || {
        let started = machine.run("systemctl start tidegate");
        if started.status == 0 { Ok(()) } else { Err(started.stderr) }
    });
    assert_eq!(machine.run("findmnt --noheadings --output FSTYPE /var/lib/tidegate").ok(), "ext4");
}
