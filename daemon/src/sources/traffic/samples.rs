//! Where samples went: into flows that were drained, to a refusal that was counted, or lost.
//!
//! The kernel's table forgets flows without a word when it is full (least recently used first), so lost samples
//! are derived:
//!
//! ```text
//! lost = sampled − without a flow − refused − drained − still in the table
//! ```
//!
//! The counters are read *before* the table is drained to its end. What is then still in it was sampled after
//! that reading, so with the last two terms swapped for what was drained the difference is a lower bound. It is
//! exact when nothing is sampled during the drain, and otherwise catches up with the next one: a loss is told late
//! by an interval at most, and nothing is ever told as lost that was not.

use serde::Serialize;
use tidegate_abi::SampleCounters;

/// Sums since the programs were loaded. Together: `taken = drained + no_flow + over_limit + refused + lost` and
/// what is in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Samples {
    /// Samples taken.
    pub taken: u64,
    /// Of them SYN, FIN and RST.
    pub forced: u64,
    /// SYN, FIN and RST beyond the bound of 2,000 a second and CPU, left to the draw.
    pub forced_over_limit: u64,
    /// Samples whose flow is in telemetry.
    pub drained: u64,
    /// Samples that have no flow: ARP, other `EtherTypes`, malformed packets.
    pub no_flow: u64,
    /// Samples of new flows beyond the bound of 10,000 a second and CPU.
    pub over_limit: u64,
    /// Samples that the table refused.
    pub refused: u64,
    /// Samples that the table forgot, being full.
    pub lost: u64,
}

impl Samples {
    /// Takes in counters that were read just before the table was drained, and the samples it gave.
    pub fn drained(&mut self, before: &SampleCounters, samples: u64) {
        self.read(before);
        self.drained += samples;
        let told = self.drained + self.no_flow + self.over_limit + self.refused;
        // Never less than before: a drain also brings what was sampled behind the reading.
        self.lost = self.lost.max(self.taken.saturating_sub(told));
    }

    /// Takes in counters alone.
    pub fn read(&mut self, counters: &SampleCounters) {
        self.taken = counters.sampled;
        self.forced = counters.forced;
        self.forced_over_limit = counters.forced_over_limit;
        self.no_flow = counters.no_flow;
        self.over_limit = counters.inserts_over_limit;
        self.refused = counters.insert_failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(sampled: u64) -> SampleCounters {
        SampleCounters { sampled, no_flow: 5, inserts_over_limit: 3, insert_failed: 2, ..SampleCounters::default() }
    }

    #[test]
    fn what_was_drained_or_refused_is_not_lost() {
        let mut samples = Samples::default();
        samples.drained(&counters(100), 90);
        assert_eq!((samples.lost, samples.drained), (0, 90));
    }

    #[test]
    fn what_the_table_forgot_is_lost() {
        let mut samples = Samples::default();
        samples.drained(&counters(100), 70);
        assert_eq!(samples.lost, 20);
    }

    #[test]
    fn samples_taken_during_a_drain_delay_a_loss_but_do_not_hide_it() {
        let mut samples = Samples::default();
        // 20 were lost, and the drain brought 15 that came behind the reading.
        samples.drained(&counters(100), 85);
        assert_eq!(samples.lost, 5);
        samples.drained(&counters(115), 0);
        assert_eq!(samples.lost, 20);
    }

    #[test]
    fn a_loss_once_told_stays_told() {
        let mut samples = Samples::default();
        samples.drained(&counters(100), 80);
        assert_eq!(samples.lost, 10);
        samples.drained(&counters(100), 5);
        assert_eq!(samples.lost, 10);
    }
}
