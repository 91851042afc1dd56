//! The data of `telemetry/ebpf`: what our own programs and maps cost.
//!
//! Counting run times costs two clock readings a packet, so it is done for a short window in each export interval,
//! and only the window's figures are told.

use std::time::{Duration, Instant};

use serde::Serialize;
use tidegate_abi::ABI_VERSION;

use super::sends::Sends;
use crate::kernel::{AttachMode, Cost, Kernel, KernelError, ProgramCost, Readings, Unavailable};

/// The last window, and the one that is open.
#[derive(Debug, Default)]
pub(super) struct Meter {
    open: Option<(Instant, Vec<ProgramCost>)>,
    unavailable: Option<Unavailable>,
    window: Option<(Duration, Vec<Window>)>,
}

/// Runs of one program in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    name: &'static str,
    runs: u64,
    run_ns: u64,
}

impl Meter {
    /// Begins a window.
    pub(super) async fn begin(&mut self, kernel: &Kernel) {
        // Refused without CAP_SYS_ADMIN; the counts grow all the same where `kernel.bpf_stats_enabled` is set.
        self.unavailable = match kernel.count_run_times(true).await {
            Err(KernelError::Unavailable(unavailable)) => Some(unavailable),
            _ => None,
        };
        self.open = kernel.cost().await.ok().map(|cost| (Instant::now(), cost.programs));
    }

    /// Ends the window that is open, where it is at least so long.
    pub(super) async fn end(&mut self, kernel: &Kernel, at_least: Duration) {
        let Some((since, before)) = self.open.take_if(|(since, _)| since.elapsed() >= at_least) else { return };
        let Ok(cost) = kernel.cost().await else { return };
        self.window = Some((since.elapsed(), runs(&before, &cost.programs)));
        // Where it was not on, there is nothing to turn off.
        let _off = kernel.count_run_times(false).await;
    }

    /// What is to be told.
    #[must_use]
    pub(super) fn report(&self, cost: &Cost, readings: &Readings) -> Report {
        let (window, runs) = match &self.window {
            Some((window, runs)) => (*window, runs.as_slice()),
            None => (Duration::ZERO, &[][..]),
        };
        let counted = runs.iter().any(|program| program.runs > 0);
        Report {
            abi: ABI_VERSION,
            attach: readings.attach,
            window_ms: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
            programs: cost.programs.iter().map(|program| Program::new(program, runs, window)).collect(),
            map_memory_bytes: cost.maps.iter().map(|map| map.memory_bytes).sum(),
            maps: cost
                .maps
                .iter()
                .map(|map| Map { name: map.name, capacity: map.capacity, memory_bytes: map.memory_bytes })
                .collect(),
            run_times_unavailable: self.unavailable.clone().filter(|_| !counted),
            tcp_sendmsg: readings.sends.as_ref().and_then(|sends| sends.as_ref().ok()).map(Sends::new),
            tcp_sendmsg_unavailable: readings.sends.clone().and_then(Result::err),
        }
    }
}

fn runs(before: &[ProgramCost], after: &[ProgramCost]) -> Vec<Window> {
    let window = |after: &ProgramCost| {
        // One that was loaded meanwhile began at zero.
        let before = before.iter().find(|before| before.name == after.name);
        let (runs, run_ns) = before.map_or((0, 0), |before| (before.runs, before.run_ns));
        Window { name: after.name, runs: after.runs.saturating_sub(runs), run_ns: after.run_ns.saturating_sub(run_ns) }
    };
    after.iter().map(window).collect()
}

/// `telemetry/ebpf`.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    /// Version of the layout that programs and daemon share.
    pub abi: u32,
    /// How programs are attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attach: Option<AttachMode>,
    /// Length of the window in which runs were counted.
    pub window_ms: u64,
    /// By program.
    pub programs: Vec<Program>,
    /// By map.
    pub maps: Vec<Map>,
    /// All maps.
    pub map_memory_bytes: u64,
    /// Why runs are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_times_unavailable: Option<Unavailable>,
    /// Time spent in `tcp_sendmsg`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_sendmsg: Option<Sends>,
    /// Why that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_sendmsg_unavailable: Option<Unavailable>,
}

/// One program.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Program {
    /// Name in the object.
    pub name: &'static str,
    /// Runs (buffers) in the window.
    pub runs: u64,
    /// Nanoseconds a run, mean; the clock readings that count them included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_per_run: Option<f64>,
    /// Share of one CPU.
    pub cpu_percent: f64,
    /// Instructions that the verifier walked through.
    pub verified_instructions: u64,
    /// Kernel memory.
    pub memory_bytes: u64,
}

impl Program {
    fn new(program: &ProgramCost, runs: &[Window], window: Duration) -> Self {
        let (runs, run_ns) =
            runs.iter().find(|run| run.name == program.name).map_or((0, 0), |run| (run.runs, run.run_ns));
        let window_ns = window.as_nanos().max(1) as f64;
        Self {
            name: program.name,
            runs,
            ns_per_run: (runs > 0).then(|| round(run_ns as f64 / runs as f64)),
            cpu_percent: round(100.0 * run_ns as f64 / window_ns),
            verified_instructions: program.verified_instructions,
            memory_bytes: program.memory_bytes,
        }
    }
}

/// Three digits behind the point.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// One map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Map {
    /// Name in the object.
    pub name: &'static str,
    /// Entries.
    pub capacity: u64,
    /// Kernel memory.
    pub memory_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(runs: u64, run_ns: u64) -> Cost {
        let program = ProgramCost { name: "ingress", runs, run_ns, ..ProgramCost::default() };
        Cost { programs: vec![program], ..Cost::default() }
    }

    #[test]
    fn only_the_window_is_told() {
        let window = Duration::from_secs(2);
        let meter = Meter {
            window: Some((window, runs(&cost(100, 9_000).programs, &cost(300, 29_000).programs))),
            ..Meter::default()
        };
        let report = meter.report(&cost(300, 29_000), &Readings::default());
        let program = &report.programs[0];
        assert_eq!((program.runs, program.ns_per_run, program.cpu_percent), (200, Some(100.0), 0.001));
    }

    #[test]
    fn run_times_are_unavailable_only_where_nothing_was_counted() {
        let unavailable = Some(Unavailable { what: "a".into(), why: "b".into(), fix: "c".into() });
        let window =
            |before, after| Some((Duration::from_secs(1), runs(&cost(before, 0).programs, &cost(after, 9).programs)));
        let silent = Meter { unavailable: unavailable.clone(), window: window(0, 0), open: None };
        assert!(silent.report(&cost(0, 0), &Readings::default()).run_times_unavailable.is_some());
        let by_sysctl = Meter { unavailable, window: window(0, 5), open: None };
        assert!(by_sysctl.report(&cost(5, 9), &Readings::default()).run_times_unavailable.is_none());
    }
}
