//! Losses as records: what will never be delivered is itself delivered, as `event/loss`.
//!
//! The spool remembers what it lost until this source has stored a record of it; a crash in between reports a
//! loss twice, never not at all. Consumers match a gap in a stream's sequence with the range in the event. The
//! schema is `docs/schema/event-loss.json`.

use std::time::Duration;

use serde_json::json;
use tidegate_spool::{Loss, LossReason, Spool};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::Sink;
use crate::record::{Record, Uuid};

/// Between a failed attempt to store a report and the next.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// After a report, before the next: a spool that evicts all the time merges its losses meanwhile, instead of
/// filling the lane of events with one report a segment.
const GATHER_FOR: Duration = Duration::from_secs(1);

/// A range of one stream that will never be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report<'a> {
    /// Stream.
    pub stream: &'a str,
    /// First sequence, inclusive.
    pub from_seq: u64,
    /// Last sequence, inclusive.
    pub to_seq: u64,
    /// Records lost in the range: fewer than it spans where ranges had to be merged.
    pub count: u64,
    /// `evicted`, `damaged`, `unknown` or `refused`.
    pub reason: &'static str,
    /// What a person should know beyond the reason.
    pub detail: Option<String>,
}

impl Report<'_> {
    /// The record that reports it, for the spool of this epoch.
    #[must_use]
    pub fn record(&self, epoch: &[u8; 16]) -> Record {
        let Self { stream, from_seq, to_seq, count, reason, detail } = self;
        let mut data = json!({
            "stream": stream, "from_seq": from_seq, "to_seq": to_seq, "count": count, "reason": reason,
            "epoch": Uuid(epoch).to_string(),
        });
        if let Some(detail) = detail {
            data["detail"] = detail.as_str().into();
        }
        Record::event("loss", &data)
    }
}

/// Reports the spool's losses until shutdown.
pub async fn run(spool: Spool, sink: Sink, shutdown: CancellationToken) {
    shutdown.run_until_cancelled(report_all(spool, sink)).await;
}

async fn report_all(spool: Spool, sink: Sink) {
    let mut stats = spool.stats();
    loop {
        let Ok(epoch) = stats.wait_for(|stats| stats.losses_pending > 0).await.map(|stats| stats.epoch) else { return };
        let losses = spool.losses().await;
        let records: Vec<_> = losses.iter().map(|loss| report_of(loss).record(&epoch)).collect();
        if records.is_empty() {
            sleep(GATHER_FOR).await;
            continue;
        }
        match sink.put(records).await {
            Ok(_) => {
                for Loss { stream, from_seq, to_seq, reason, .. } in &losses {
                    error!(%stream, from_seq, to_seq, ?reason, "records are lost; event/loss reports them");
                }
                spool.losses_reported(losses.iter().map(|loss| loss.id).collect()).await;
                sleep(GATHER_FOR).await;
            }
            Err(error) => {
                warn!(%error, "losses cannot be reported yet; trying again");
                sleep(AGAIN_AFTER).await;
            }
        }
    }
}

fn report_of(loss: &Loss) -> Report<'_> {
    let reason = match loss.reason {
        LossReason::Evicted => "evicted",
        LossReason::Damaged => "damaged",
        LossReason::Unknown => "unknown",
    };
    let Loss { stream, from_seq, to_seq, count, .. } = loss;
    Report { stream, from_seq: *from_seq, to_seq: *to_seq, count: *count, reason, detail: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_carries_range_count_and_epoch() {
        let report = Report { stream: "telemetry", from_seq: 5, to_seq: 9, count: 5, reason: "evicted", detail: None };
        let record = report.record(&[1; 16]);
        assert_eq!(&*record.topic, "event/loss");
        let data: serde_json::Value = serde_json::from_slice(&record.data).unwrap();
        assert_eq!((data["count"].as_u64(), data["reason"].as_str()), (Some(5), Some("evicted")));
        assert_eq!(data["epoch"], "01010101-0101-0101-0101-010101010101");
        assert!(data.get("detail").is_none());
    }
}
