//! The spool's own figures as `telemetry/spool`, each `[host] interval`.

use std::sync::Arc;

use tidegate_spool::Spool;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::Sink;
use crate::{config::Config, record::Record, status::SpoolStatus};

/// Publishes until shutdown. A record that the spool does not take is left out: the next one says more.
pub async fn run(spool: Spool, mut config: watch::Receiver<Arc<Config>>, sink: Sink, shutdown: CancellationToken) {
    let publish = async {
        loop {
            let interval = config.borrow_and_update().host.interval;
            tokio::select! {
                () = sleep(interval) => {}
                Ok(()) = config.changed() => continue,
            }
            let figures = SpoolStatus::from(&*spool.stats().borrow());
            match serde_json::to_vec(&figures) {
                Ok(data) => {
                    if let Err(error) = sink.put([Record::telemetry("spool", data.into())]).await {
                        tracing::debug!(%error, "telemetry/spool left out");
                    }
                }
                Err(error) => tracing::warn!(%error, "telemetry/spool cannot be written"),
            }
        }
    };
    shutdown.run_until_cancelled(publish).await;
}
