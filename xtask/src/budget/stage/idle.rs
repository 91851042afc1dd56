//! An idle gateway: what it writes, because the SD card is what dies first, and how often it wakes.
//!
//! The machine's idle time passes as fast as the host can, so that these minutes do not take as long. The broker is
//! in the machine, too: the host's network would seem slow to it.

use std::time::Duration;

use tidegate_tests::vm::Machine;

use crate::Figure;

const MINUTES: u32 = 10;

pub(crate) fn measure() -> Vec<Figure> {
    let machine = Machine::debian().with_tidegate().idle_passes_quickly().resume();
    machine.write(
        "/etc/tidegate/conf.d/test.toml",
        "[gateway]\nid = \"gw-test\"\n\n[mqtt]\nurl = \"mqtt://127.0.0.1:1883\"\n",
    );
    machine.run("systemctl start mosquitto; mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null || true").ok();
    let without = written(&machine);
    machine.run("systemctl start tidegate; sleep 60").ok();
    let with = written(&machine);
    // For an hour. Not `max`, which would make zero of what could not be read.
    let more = if with < without { 0.0 } else { with - without };
    let kib = more * 60.0 / f64::from(MINUTES) / 1024.0;
    vec![("idle/written".to_owned(), kib), ("idle/syscalls".to_owned(), syscalls(&machine))]
}

/// Bytes that reached the disk in the idle minutes, of the whole machine: the file system's own come with ours.
fn written(machine: &Machine) -> f64 {
    let sectors = |script: &str| machine.run(script).ok().trim().parse::<f64>().unwrap_or(f64::NAN);
    let read = "sync; awk '{ print $7 }' /sys/block/vda/stat";
    let before = sectors(read);
    machine.run_within(Duration::from_mins(10), &format!("sleep {}", MINUTES * 60)).ok();
    (sectors(read) - before) * 512.0
}

/// System calls a second of the daemon's threads, counted by the kernel's own tracing.
fn syscalls(machine: &Machine) -> f64 {
    let script = "set -e
        cd /sys/kernel/tracing/events/raw_syscalls/sys_enter
        echo 'hist:keys=common_pid' >trigger
        sleep 120
        for thread in $(ls /proc/$(pidof tidegate)/task); do
            awk -v thread=$thread '$1 == \"{\" && $3 == thread\",\" || $3 == thread { print $NF }' hist
        done | awk '{ sum += $1 } END { print sum / 120 }'
        echo '!hist:keys=common_pid' >trigger";
    let rate = machine.run_within(Duration::from_mins(10), script).ok();
    // None at all is no daemon, or no counting.
    rate.lines().last().and_then(|line| line.trim().parse().ok()).filter(|rate| *rate > 0.0).unwrap_or(f64::NAN)
}
