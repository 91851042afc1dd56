//! How far each program is from the verifier's limit of a million instructions.

use std::time::Duration;

use tidegate_tests::{
    Broker,
    vm::{Kernel, Machine},
};

use crate::Figure;

pub(crate) fn measure(kernel: Kernel) -> Vec<Figure> {
    let broker = Broker::start();
    let machine = Machine::debian().kernel(kernel).with_tidegate().resume();
    machine.configure(&broker, "[traffic]\ninterfaces = [\"eth0\", \"tun0\"]\nexport_interval = \"5s\"\n");
    // A link without Ethernet, so that its programs are loaded, too.
    machine
        .run("set -e; modprobe tun; ip tuntap add dev tun0 mode tun; ip link set tun0 up; systemctl start tidegate")
        .ok();
    let script = format!(
        "mosquitto_sub -h 10.0.2.2 -p {} -W 60 -C 3 -t tidegate/v1/gw-test/telemetry/ebpf | tail -n 1",
        broker.port()
    );
    // The third report: the last programs load some seconds after the start.
    let report = machine.run_within(Duration::from_mins(2), &script).json();
    let programs = report["data"]["programs"].as_array().cloned().unwrap_or_default();
    let name = match kernel {
        Kernel::Linux6_1 => "6.1",
        Kernel::Linux6_12 => "6.12",
    };
    programs
        .iter()
        .map(|program| {
            let case = format!("instructions/{name}/{}", program["name"].as_str().unwrap_or_default());
            (case, program["verified_instructions"].as_f64().unwrap_or(f64::NAN))
        })
        .collect()
}
