//! What the daemon may use.

use std::time::Duration;

use tidegate_tests::{
    Broker, Tap, eventually, requires,
    vm::{self, Machine},
};

use crate::gateway;

const FLOWS: u64 = 12_000;
const RECORDS: u64 = 20_000;

#[test]
fn the_memory_limit_holds_under_load() {
    requires!(vm::available());
    let mut broker = Broker::start();
    let tap = Tap::before(&broker);
    let machine = Machine::debian().with_tidegate().resume();
    let load =
        "[traffic]\nsample_rate = 1\nflow_capacity = 32768\nexport_interval = \"20s\"\n\n[host]\ninterval = \"5s\"\n";
    machine.configure_port(tap.port(), load);
    gateway::connect_plant(&machine);
    machine.run("systemctl start tidegate").ok();
    gateway::until_watched(&machine, "eth1");
    broker.kill();

    let flows = format!("for ((port = 10000; port < 10000 + {FLOWS}; port++)); do echo >/dev/udp/10.9.0.1/$port; done");
    machine.write("/root/flows", &flows);
    let records = format!("seq {RECORDS} | sed 's/.*/{{\"n\":&,\"text\":\"0123456789abcdefghijklmnopqrstuvwxyz\"}}/'");
    machine
        .run(&format!(
            "ip netns exec plant bash /root/flows 2>/dev/null & {records} | tidegate send meter || exit 1; wait"
        ))
        .ok();
    eventually(Duration::from_mins(1), "the flows are exported", || {
        let samples = machine.status()["traffic"]["samples"].clone();
        if samples["drained"].as_u64() >= Some(FLOWS) { Ok(()) } else { Err(samples.to_string()) }
    });
    broker.start_again();
    gateway::until_delivered(&tap, "ingest/meter", RECORDS);
    let flows = tap.acknowledged().iter().filter(|message| message.topic.ends_with("/telemetry/flows")).count();

    let group = "/sys/fs/cgroup/system.slice/tidegate.service";
    let read = |file: &str| machine.run(&format!("cat {group}/{file}")).ok();
    let number = |file: &str, name: &str| -> u64 {
        let text = read(file);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} in {text}"))
    };
    assert_eq!(read("memory.max"), (64 << 20).to_string());
    for event in ["oom", "oom_kill"] {
        assert_eq!(number("memory.events", event), 0, "{event}");
    }
    assert_eq!(machine.unit("tidegate", "NRestarts"), "0");
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let peak: u64 = read("memory.peak").parse().unwrap();
    println!(
        "memory.peak {:.1} MiB, page cache included; now {:.1} MiB anonymous, {:.1} MiB page cache, {:.1} MiB kernel; \
         resident at most {}; {flows} messages of flows; limit met {} times",
        mib(peak),
        mib(number("memory.stat", "anon")),
        mib(number("memory.stat", "file")),
        mib(number("memory.stat", "kernel")),
        machine.run("sed -n 's/^VmHWM:\\s*//p' /proc/$(systemctl show --value -p MainPID tidegate)/status").ok(),
        number("memory.events", "max"),
    );
}
