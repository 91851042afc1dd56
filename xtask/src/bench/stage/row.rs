//! A line of a result, and what several rounds come to.

use std::{fmt, time::Duration};

/// One line of the result, as the contract of `tidegate bench --json` has it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Group, such as `traffic`.
    pub(crate) bench: &'static str,
    /// Case, such as `throughput/none`.
    pub(crate) case: String,
    /// Median over the rounds.
    pub(crate) value: f64,
    /// Smallest and largest round.
    pub(crate) range: (f64, f64),
    /// Unit of all figures.
    pub(crate) unit: &'static str,
    /// Name and value of what it is compared with.
    pub(crate) reference: Option<(String, f64)>,
}

impl Row {
    /// As the contract of `tidegate bench --json` has it.
    pub(crate) fn json(&self) -> serde_json::Value {
        let mut row = serde_json::json!({
            "bench": self.bench, "case": self.case, "value": self.value, "unit": self.unit,
            "min": self.range.0, "max": self.range.1,
        });
        if let Some((name, value)) = &self.reference {
            row["reference"] = name.as_str().into();
            row["reference_value"] = (*value).into();
            row["ratio"] = (self.value / value).into();
        }
        row
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, value, range: (low, high), unit, .. } = self;
        write!(f, "{case:<24} {value:>10.3} {unit:<10} ({low:.3} to {high:.3})")?;
        if let Some((name, reference)) = &self.reference {
            write!(f, "   {:.3} of {name}", value / reference)?;
        }
        Ok(())
    }
}

/// Median, smallest and largest.
pub(crate) fn summary(mut figures: Vec<f64>) -> (f64, (f64, f64)) {
    figures.sort_by(f64::total_cmp);
    match figures.as_slice() {
        [] => (f64::NAN, (f64::NAN, f64::NAN)),
        sorted => (sorted[sorted.len() / 2], (sorted[0], sorted[sorted.len() - 1])),
    }
}

/// Busy processor time of the whole machine: kernel-side work is not charged to a process.
pub(crate) fn busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    // `proc_stat(5)`: user nice system idle iowait irq softirq steal, in clock ticks of 1/100 s.
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .map_while(|word| word.parse().ok())
        .collect();
    let busy: u64 = ticks.iter().enumerate().filter(|(index, _)| !matches!(index, 3 | 4 | 8 | 9)).map(|(_, n)| n).sum();
    Duration::from_millis(busy * 10)
}
