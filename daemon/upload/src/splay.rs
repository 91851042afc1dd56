//! Keeps gateways from beginning all at once: each one waits for a share of its own.
//!
//! The share is a hash of the gateway's id: even over a fleet, the same after each restart, and another one for another
//! purpose, so that who is early in one thing is not early in all.

use std::time::Duration;

use tidegate_values::Digest;

use crate::retry::jitter;

/// How long this gateway waits before `what`, below `within`.
#[must_use]
pub fn splay(gateway_id: &str, what: &str, within: Duration) -> Duration {
    // An id holds no NUL: two pairs never make one text.
    let Digest(hash) = Digest::of(&[gateway_id.as_bytes(), what.as_bytes()].join(&0));
    jitter(within, u64::from_le_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn a_gateway_always_waits_alike() {
        // Of another version, too: a fleet is not updated at once.
        assert_eq!(splay("gw-0001", "start", HOUR).as_millis(), 2_646_844);
        assert_eq!(splay("gw-0001", "window", HOUR).as_millis(), 1_576_585);
        assert_eq!(splay("gw-0001", "start", Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_fleet_is_spread_evenly() {
        let mut minutes = [0_u32; 60];
        for gateway in 0..60_000 {
            let wait = splay(&format!("gw-{gateway:05}"), "start", HOUR);
            minutes[usize::try_from(wait.as_secs() / 60).unwrap()] += 1;
        }
        // 1000 each, with a standard deviation of 31.4.
        assert!(minutes.iter().all(|count| (850..=1150).contains(count)), "{minutes:?}");
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_that(gateway in ".{0,40}", what in "[a-z]{0,10}", ms in 1_u64..1 << 40) {
            prop_assert!(splay(&gateway, &what, Duration::from_millis(ms)) < Duration::from_millis(ms));
        }
    }
}
