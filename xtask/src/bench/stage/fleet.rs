//! `bench fleet`: a change for 1,000 and 10,000 gateways, from the start of `tidegate-fleet apply` to its end, and the
//! memory that it takes. The gateways are simulated: the daemon's own control code, a connection each.

use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use tidegate_tests::{
    Broker,
    fleet::{Flaw, Operator, Simulation},
};

use crate::{
    Plan,
    footprint::resident,
    row::{Row, summary},
};

const SIZES: [usize; 2] = [1_000, 10_000];
/// For all gateways of the largest fleet to connect, and to report.
const PATIENCE: Duration = Duration::from_mins(5);

/// Measures.
pub(crate) fn run(plan: Plan) -> Vec<Row> {
    SIZES.into_iter().flat_map(|size| of_size(plan, size)).collect()
}

fn of_size(plan: Plan, size: usize) -> [Row; 2] {
    let broker = Broker::builder().quiet().start();
    let operator = Operator::of(&broker);
    let simulation = Simulation::start(&broker, size, &["plant"], |_| Flaw::None);
    let (mut seconds, mut mebibytes) = (Vec::new(), Vec::new());
    wait_for_all(&operator, size);
    for round in 0..=plan.rounds {
        let interval = 10 + round;
        operator.write("groups/plant.toml", &format!("[host]\ninterval = \"{interval}s\"\n"));
        let (took, peak) = apply(&operator);
        let changed = |index| simulation.running(index).config.host.interval.as_secs() == interval as u64;
        assert!((0..size).all(changed), "apply has ended well, so all of them run it");
        // The first one only says who is there.
        if round > 0 {
            eprintln!("{size} gateways, round {round} of {}: {took:.2} s, {peak:.1} MiB", plan.rounds);
            seconds.push(took);
            mebibytes.push(peak);
        }
    }
    let row = |case: &str, figures, unit| {
        let (value, range) = summary(figures);
        Row { bench: "fleet", case: format!("{case}/{size}"), value, range, unit, reference: None }
    };
    [row("converge", seconds, "s"), row("memory", mebibytes, "MiB")]
}

fn wait_for_all(operator: &Operator, size: usize) {
    operator.write("groups/none.toml", "");
    let started = Instant::now();
    loop {
        let status = operator.run("status", &["--bad"]);
        let gateways = &status.summary()["gateways"];
        let there: u64 = gateways
            .as_object()
            .into_iter()
            .flat_map(|counts| counts.values())
            .filter_map(serde_json::Value::as_u64)
            .sum();
        eprintln!("{there} of {size} gateways are there");
        if there == size as u64 {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}");
        thread::sleep(Duration::from_secs(1));
    }
    operator.remove("groups/none.toml");
}

/// Seconds, and MiB at the peak.
fn apply(operator: &Operator) -> (f64, f64) {
    let mut command = operator.command("apply", &["--timeout", "5m"]);
    let started = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn().expect("the program can be run");
    let mut peak = f64::NAN;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        // Grows only; gone with the process.
        let now = resident(child.id().into(), "VmHWM");
        peak = if now.is_nan() { peak } else { now };
        thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "apply: {status}");
    (started.elapsed().as_secs_f64(), peak)
}
