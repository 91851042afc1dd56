//! What a flow's samples say about the flow itself, and how sure that is.
//!
//! A packet that was sampled with probability p stands for w = 1/p packets (Horvitz and Thompson 1952). Over the
//! samples of a flow with sizes x (segments, or bytes):
//!
//! - the volume is estimated by E = Σ w·x, without bias;
//! - the variance of E is estimated by V = Σ (w² − w)·x², without bias, since each packet is drawn on its own;
//! - the standard error is √V.
//!
//! "E ± 1.96 √V" is a poor interval where there are few samples: with one it reaches below zero and still holds
//! the true value too seldom. So the interval is that of Wilson's score: the true volumes T for which E lies
//! within z standard errors of T, the variance being taken at T, not at E. One sample stands for about
//! a = V / (E − P), with P = Σ x, what was seen; at T the variance is a·T to a good approximation, and
//!
//! ```text
//! (E − T)² ≤ z² a T   ⇔   T = E + a z²/2 ± z √(V + a² z²/4)
//! ```
//!
//! No bound is below P: that much was seen. At w = 1 everything was seen, V and a are 0, and the interval is a
//! point. With N the sampling rate, a is at most N / (N − 1) too large: the interval errs to the wide side.

use serde::Serialize;
use tidegate_abi::{FlowValue, VARIANCE_BYTES_UNIT};

/// The 97.5 % quantile of the normal distribution: 95 % lie within.
const Z: f64 = 1.959_964;

/// An estimated volume.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Sum over the samples themselves.
    pub sampled: u64,
    /// What they stand for.
    pub estimate: u64,
    /// Its standard error, rounded up.
    pub standard_error: u64,
    /// Lower end of the interval that holds the true volume with 95 %.
    pub low: u64,
    /// Its upper end.
    pub high: u64,
}

impl Estimate {
    /// Packets (wire segments) of a flow.
    #[must_use]
    pub fn packets(flow: &FlowValue) -> Self {
        Self::new(flow.packets, flow.weight_packets, flow.variance_packets as f64)
    }

    /// Bytes of a flow.
    #[must_use]
    pub fn bytes(flow: &FlowValue) -> Self {
        Self::new(flow.bytes, flow.weight_bytes, flow.variance_bytes as f64 * VARIANCE_BYTES_UNIT as f64)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative by construction, and `as` stops at the largest u64"
    )]
    fn new(sampled: u64, estimate: u64, variance: f64) -> Self {
        let unseen = estimate.saturating_sub(sampled);
        let scale = if unseen == 0 { 0.0 } else { variance / unseen as f64 };
        let middle = estimate as f64 + scale * Z * Z / 2.0;
        let half = Z * (variance + scale * scale * Z * Z / 4.0).sqrt();
        Self {
            sampled,
            estimate,
            standard_error: variance.sqrt().ceil() as u64,
            low: ((middle - half).floor() as u64).max(sampled),
            high: ((middle + half).ceil() as u64).max(sampled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's programs do with one sampled packet.
    fn add(flow: &mut FlowValue, weight: u64, packets: u64, bytes: u64) {
        flow.packets += packets;
        flow.bytes += bytes;
        flow.weight_packets += weight * packets;
        flow.weight_bytes += weight * bytes;
        flow.variance_packets += (weight * weight - weight) * packets * packets;
        flow.variance_bytes += (weight * weight - weight) * (bytes * bytes / VARIANCE_BYTES_UNIT);
        flow.samples += 1;
    }

    #[test]
    fn what_was_seen_whole_is_certain() {
        let mut flow = FlowValue::default();
        for _ in 0..10 {
            add(&mut flow, 1, 1, 1500);
        }
        let certain = |value| Estimate { sampled: value, estimate: value, standard_error: 0, low: value, high: value };
        assert_eq!(Estimate::packets(&flow), certain(10));
        assert_eq!(Estimate::bytes(&flow), certain(15_000));
    }

    #[test]
    fn one_sample_says_little_and_the_interval_says_so() {
        let mut flow = FlowValue::default();
        add(&mut flow, 1000, 1, 1500);
        let packets = Estimate::packets(&flow);
        assert_eq!((packets.sampled, packets.estimate, packets.standard_error), (1, 1000, 1000));
        // A Poisson mean with one event seen: 0.18 to 5.66.
        assert!((150..200).contains(&packets.low) && (5600..5700).contains(&packets.high), "{packets:?}");
    }

    #[test]
    fn forced_samples_add_what_they_are_and_no_error() {
        let mut drawn = FlowValue::default();
        for _ in 0..100 {
            add(&mut drawn, 1000, 1, 1000);
        }
        let mut both = drawn;
        for _ in 0..3 {
            add(&mut both, 1, 1, 60);
        }
        let (drawn, both) = (Estimate::packets(&drawn), Estimate::packets(&both));
        assert_eq!((both.estimate, both.standard_error), (drawn.estimate + 3, drawn.standard_error));
        assert!(both.low.abs_diff(drawn.low + 3) <= 1 && both.high.abs_diff(drawn.high + 3) <= 1, "{both:?} {drawn:?}");
    }

    /// Draws flows as the programs do, and counts how often the interval holds the truth. With 2,000 flows a
    /// coverage of 95 % shows as 95 % ± 1.5 % (three standard errors).
    #[test]
    fn the_interval_holds_the_true_volume_in_95_of_100_flows() {
        const FLOWS: u32 = 2_000;
        let mut random = fastrand::Rng::with_seed(20_261_122);
        for (rate, packets) in [(10, 200), (10, 5_000), (100, 2_000), (1000, 20_000)] {
            let mut covered = [0_u32; 2];
            let mut sum = 0.0;
            for _ in 0..FLOWS {
                let mut flow = FlowValue::default();
                let mut bytes = 0;
                for index in 0..packets {
                    // Three full frames, then an acknowledgement.
                    let size = if index % 4 == 3 { 66 } else { 1514 };
                    bytes += size;
                    if random.u64(0..rate) == 0 {
                        add(&mut flow, rate, 1, size);
                    }
                }
                let (p, b) = (Estimate::packets(&flow), Estimate::bytes(&flow));
                sum += p.estimate as f64;
                covered[0] += u32::from((p.low..=p.high).contains(&packets));
                covered[1] += u32::from((b.low..=b.high).contains(&bytes));
            }
            for (what, covered) in ["packets", "bytes"].into_iter().zip(covered) {
                let share = f64::from(covered) / f64::from(FLOWS);
                assert!(share > 0.935, "1 in {rate} of {packets} packets: {share} of the intervals hold the {what}");
            }
            let mean = sum / f64::from(FLOWS) / packets as f64;
            assert!((mean - 1.0).abs() < 0.02, "1 in {rate} of {packets} packets: estimated {mean} of the truth");
        }
    }
}
