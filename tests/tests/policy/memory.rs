//! What policies cost in memory, as the memory cgroup accounts for it: what a map says of itself is less.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use tidegate::{
    config::Attach,
    heap,
    kernel::{Generation, Options},
};
use tidegate_abi::policy::LARGE_BLOCKS;
use tidegate_tests::{Gateway, faults::MemoryGroup, need, policy::Policy, requires};

use crate::{Guard, guard::generation, needs};

const MIB: u64 = 1 << 20;
/// Tells the scenario's process that it is in the group.
const INSIDE: &str = "TIDEGATE_TEST_MEMORY_GROUP";

/// The largest that there are: 65,536 prefixes, and tables as long as tables get.
fn largest(small: &Generation) -> Generation {
    let mut large = small.clone();
    large.blocks.resize(LARGE_BLOCKS as usize, [0; 8]);
    large
}

#[test]
fn after_each_switch_there_is_the_memory_of_one_policy_and_64_mib_are_enough() {
    requires!(needs());
    if let Some(folder) = std::env::var_os(INSIDE) {
        let group = MemoryGroup::enter(folder.into());
        // As the daemon does.
        heap::stay_small();
        return switch_within(&group);
    }
    let group = match MemoryGroup::limited(64 * MIB) {
        Ok(group) => group,
        Err(why) => tidegate_tests::skip!("{why}"),
    };
    let name = "memory::after_each_switch_there_is_the_memory_of_one_policy_and_64_mib_are_enough";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, group.folder())
        .output()
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    assert!(output.status.success(), "{}\n{said}\n{errors}", output.status);
}

fn switch_within(group: &MemoryGroup) {
    let net = Gateway::new();
    let pair = [1, 2].map(|version| generation(&Policy::new(version).drop_many("many", 65_536)));
    let guard = Guard::start(&net.gateway, Options { flow_capacity: Some(4096), pins: None });
    guard.enforce(Some(largest(&pair[0])));
    guard.watch(&["eth*"], Attach::Auto);
    std::thread::sleep(Duration::from_millis(500));
    let base = group.usage();
    let (mut highest, mut slowest) = (0, Duration::ZERO);
    let switches = if need::long() { 1_000 } else { 200 };
    for switch in 1..=switches {
        guard.enforce(Some(largest(&pair[switch % 2])));
        // The map before is freed when no program uses it, and its memory given back a grace period later.
        let begun = Instant::now();
        loop {
            let usage = group.usage();
            if usage <= base + 2 * MIB {
                highest = highest.max(usage);
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "switch {switch}: {usage} bytes, {base} at the first");
            std::thread::sleep(Duration::from_millis(2));
        }
        slowest = slowest.max(begun.elapsed());
    }
    println!(
        "{switches} switches: {} KiB at the first, {} KiB at most after one, the peak {} KiB; given back after {slowest:?}",
        base >> 10,
        highest >> 10,
        group.peak() >> 10
    );
}
