//! Whether MQTT has something to send: uploads wait for that.
//!
//! A few records on their way are what a working link always has. More of them that wait mean that the link gives MQTT less
//! than it wants, and then uploads have no business on it. While there is no broker to be had, nobody waits for it.

use tidegate_spool::Stats;
use tokio::{select, sync::watch};

use super::status::{LinkState, UplinkStatus};

/// Records that may wait while an upload goes on: less than what is in flight at once.
const FEW: u64 = 32;

/// Says so from now on; ends when nobody listens.
#[must_use]
pub fn watch(mut uplink: watch::Receiver<UplinkStatus>, mut spool: watch::Receiver<Stats>) -> watch::Receiver<bool> {
    let (sender, busy) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            let now = wants_the_link(&uplink.borrow_and_update(), &spool.borrow_and_update());
            sender.send_if_modified(|before| std::mem::replace(before, now) != now);
            select! {
                changed = uplink.changed() => if changed.is_err() { return },
                changed = spool.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    });
    busy
}

fn wants_the_link(uplink: &UplinkStatus, spool: &Stats) -> bool {
    // Those that are held back wait for something else than the link.
    let pending: u64 = spool.lanes.iter().map(|lane| lane.pending_records).sum();
    uplink.state == LinkState::Connected && pending.saturating_sub(uplink.held as u64) > FEW
}

#[cfg(test)]
mod tests {
    use tidegate_spool::LaneStats;

    use super::*;

    #[test]
    fn only_records_that_a_broker_would_take_now_go_before_uploads() {
        let lane = LaneStats { pending_records: FEW + 5, ..LaneStats::default() };
        let spool = Stats { lanes: vec![lane], ..Stats::default() };
        let connected = UplinkStatus { state: LinkState::Connected, ..UplinkStatus::default() };
        assert!(wants_the_link(&connected, &spool));
        assert!(!wants_the_link(&UplinkStatus::default(), &spool), "there is no broker");
        assert!(
            !wants_the_link(&UplinkStatus { held: 5, ..connected.clone() }, &spool),
            "the others wait for something else"
        );
        assert!(!wants_the_link(&connected, &Stats::default()));
    }
}
