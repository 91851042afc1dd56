//! Pressure stall information: /proc/pressure/{cpu,memory,io} (Documentation/accounting/psi.rst).

use serde::Serialize;

/// How much of the time tasks waited for a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// Some task waited.
    pub some: Stall,
    /// All tasks waited; absent for the processor on older kernels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full: Option<Stall>,
}

/// A share of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stall {
    /// Percent of the last 10 seconds.
    pub percent_10s: f64,
    /// Percent of the last minute.
    pub percent_60s: f64,
    /// Seconds since boot.
    pub total_seconds: f64,
}

/// `some avg10=0.12 avg60=0.05 avg300=0.00 total=51422`, and the same for `full`.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let stall = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let field = |name: &str| {
            let value = line.split_ascii_whitespace().find_map(|field| field.strip_prefix(name)?.strip_prefix('='))?;
            value.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0)
        };
        Some(Stall { percent_10s: field("avg10")?, percent_60s: field("avg60")?, total_seconds: field("total")? / 1e6 })
    };
    Some(Pressure { some: stall("some")?, full: stall("full") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn captured_files_are_read_with_and_without_full() {
        let some = "some avg10=12.50 avg60=3.10 avg300=0.70 total=1500000\n";
        let read = pressure(some).unwrap();
        assert_eq!(read.some, Stall { percent_10s: 12.5, percent_60s: 3.1, total_seconds: 1.5 });
        assert_eq!(read.full, None);
        let both = format!("{some}full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
        assert_eq!(pressure(&both).unwrap().full, Some(Stall::default()));
    }

    proptest! {
        #[test]
        fn hostile_text_is_not_read(text in "((some|full) (avg10|avg60|total)=[0-9.eEnainf-]{0,12} ?){0,6}|.{0,80}") {
            let _either = pressure(&text);
        }
    }
}
