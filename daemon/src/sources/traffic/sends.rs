//! Time spent in the kernel's `tcp_sendmsg`, as it stands in `telemetry/ebpf` and in the status.

use serde::Serialize;
use tidegate_abi::{SEND_BUCKETS, SEND_FIRST_LOG2, SendTimes};

/// Totals since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sends {
    /// Calls that were timed.
    pub count: u64,
    /// Nanoseconds in all of them.
    pub sum_ns: u64,
    /// Calls whose beginning was not known, and which are in no bucket.
    pub missed: u64,
    /// Calls by their duration, shortest first; those that hold none are absent.
    pub buckets: Vec<Bucket>,
}

/// Calls that took about as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// They took at most this, and more than half of it, the first bucket's less, too; absent of the last, whose took more
    /// than all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub le_ns: Option<u64>,
    /// How many.
    pub count: u64,
}

impl Sends {
    /// From what the kernel counted.
    #[must_use]
    pub(super) fn new(times: &SendTimes) -> Self {
        let bound = |index: usize| (index + 1 < SEND_BUCKETS).then(|| (1 << SEND_FIRST_LOG2) << index);
        let buckets = times.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        Self {
            count: times.buckets.iter().sum(),
            sum_ns: times.sum_ns,
            missed: times.missed,
            buckets: buckets.map(|(index, &count)| Bucket { le_ns: bound(index), count }).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bucket_is_told_by_its_upper_bound_and_the_last_has_none() {
        let mut times = SendTimes { sum_ns: 10_000_000_000, missed: 1, ..SendTimes::default() };
        times.buckets[0] = 2;
        times.buckets[3] = 5;
        times.buckets[SEND_BUCKETS - 2] = 1;
        times.buckets[SEND_BUCKETS - 1] = 1;
        assert_eq!(
            serde_json::to_value(Sends::new(&times)).unwrap(),
            json!({"count": 9, "sum_ns": 10_000_000_000_u64, "missed": 1, "buckets": [
                {"le_ns": 512, "count": 2}, {"le_ns": 4096, "count": 5}, {"le_ns": 8_589_934_592_u64, "count": 1}, {"count": 1},
            ]})
        );
    }
}
