//! `bench footprint`: size of the binary, time from start to ready, resident memory idle.
//!
//! References are the budgets of the design for ARM64; here they are measured on this machine.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use tidegate_tests::{Daemon, Gateway};

use crate::{
    Plan,
    row::{Row, summary},
};

const MIB: f64 = 1024.0 * 1024.0;

/// Measures.
pub(crate) fn run(plan: Plan) -> Vec<Row> {
    let binary = PathBuf::from(std::env::var_os("TIDEGATE_BIN").expect("xtask sets it"));
    let size = fs::metadata(&binary).map_or(f64::NAN, |meta| meta.len() as f64 / MIB);
    let net = Gateway::new();
    let mut ready_ms = Vec::new();
    let mut idle_mib = Vec::new();
    let mut peak_mib = Vec::new();
    for round in 0..plan.rounds {
        eprintln!("round {} of {}: start, wait, look", round + 1, plan.rounds);
        let started = Instant::now();
        // `start` returns once the control socket answers: configuration, spool, programs and sources are up.
        let daemon = Daemon::builder().inside(&net.gateway).start();
        ready_ms.push(started.elapsed().as_secs_f64() * 1000.0);
        thread::sleep(plan.window.max(Duration::from_secs(5)));
        let memory = |field| resident(daemon.status()["pid"].as_u64().unwrap_or_default(), field);
        idle_mib.push(memory("VmRSS"));
        peak_mib.push(memory("VmHWM"));
    }
    let row = |case: &str, figures, unit, budget: Option<f64>| {
        let (value, range) = summary(figures);
        let reference = budget.map(|budget| ("the budget".to_owned(), budget));
        Row { bench: "footprint", case: case.to_owned(), value, range, unit, reference }
    };
    vec![
        row("binary", vec![size], "MiB", Some(4.0)),
        row("ready", ready_ms, "ms", Some(500.0)),
        row("rss/idle", idle_mib, "MiB", Some(8.0)),
        // While the programs load: their object, the kernel's type information and the verifier's log.
        row("rss/peak", peak_mib, "MiB", None),
    ]
}

/// A field of `/proc/PID/status` in MiB.
pub(crate) fn resident(pid: u64, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib: Option<f64> = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}
