//! Resident and proportional memory of the process, and all that its cgroup pays for: maps, too.

use std::time::Duration;

use tidegate_tests::{Broker, vm::Machine};

use crate::Figure;

const FLOWS: u32 = 10_000;
const MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn measure() -> Vec<Figure> {
    let broker = Broker::start();
    let machine = Machine::debian().with_tidegate().resume();
    // Every packet is a sample, so that every flow is seen; the table holds them all until they are looked at.
    machine.configure(
        &broker,
        &format!(
            "[traffic]\ninterfaces = [\"veth*\"]\nsample_rate = 1\nflow_capacity = {}\nexport_interval = \"1h\"\n",
            2 * FLOWS
        ),
    );
    machine
        .run(
            "set -e
             ip netns add plant
             ip link add veth0 type veth peer name veth1 netns plant
             ip address add 192.0.2.1/24 dev veth0
             ip link set veth0 up
             ip -n plant address add 192.0.2.2/24 dev veth1
             ip -n plant link set veth1 up
             systemctl start tidegate",
        )
        .ok();
    machine.until(
        Duration::from_mins(1),
        "tidegate status --json | grep -q '\"name\":\"veth0\"\\|\"interface\":\"veth0\"'",
    );
    // What starting took has been given back by then, and the first telemetry has gone.
    machine.run("sleep 60").ok();
    let mut figures = look(&machine, "idle");
    machine.run(&format!("for port in {{1..{FLOWS}}}; do echo x >/dev/udp/192.0.2.2/$port; done")).ok();
    let seen = machine.run("tidegate flows --json | wc -l").ok();
    assert!(seen.trim().parse::<u32>().is_ok_and(|seen| seen >= FLOWS), "{seen} flows in the table, wanted {FLOWS}");
    machine.run("tidegate flows >/dev/null").ok();
    figures.extend(look(&machine, "flows"));
    let number = |script: &str| machine.run(script).ok().trim().parse::<f64>().unwrap_or(f64::NAN);
    figures.push((
        "memory/cgroup/peak".to_owned(),
        number("cat /sys/fs/cgroup/system.slice/tidegate.service/memory.peak") / MIB,
    ));
    figures.push(("threads".to_owned(), number("ls /proc/$(pidof tidegate)/task | wc -l")));
    figures
}

/// `proc_pid_smaps(5)`, rolled up, in MiB.
fn look(machine: &Machine, when: &str) -> Vec<Figure> {
    let rollup = machine.run("cat /proc/$(pidof tidegate)/smaps_rollup").ok();
    let mib = |field: &str| {
        let kib =
            rollup.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse::<f64>().ok());
        kib.map_or(f64::NAN, |kib| kib / 1024.0)
    };
    vec![(format!("memory/rss/{when}"), mib("Rss:")), (format!("memory/pss/{when}"), mib("Pss:"))]
}
