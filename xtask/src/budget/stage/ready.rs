//! From the start of the process to READY, as systemd saw it, over the same of mosquitto in the same boot.

use tidegate_tests::{Broker, vm::Machine};

use crate::Figure;

const ROUNDS: usize = 5;

pub(crate) fn measure() -> Vec<Figure> {
    let broker = Broker::start();
    let machine = Machine::debian().with_tidegate().resume();
    machine.configure(&broker, "");
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let mosquitto = started(&machine, "mosquitto");
            started(&machine, "tidegate") / mosquitto
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    vec![("ready/mosquitto".to_owned(), ratios[ROUNDS / 2])]
}

/// Microseconds of one start.
fn started(machine: &Machine, unit: &str) -> f64 {
    machine.run(&format!("systemctl restart {unit}")).ok();
    let at = |property: &str| machine.unit(unit, property).parse::<f64>().unwrap_or(f64::NAN);
    at("ActiveEnterTimestampMonotonic") - at("ExecMainStartTimestampMonotonic")
}
