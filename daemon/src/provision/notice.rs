//! What the daemon reports of provisioning, as `event/config`: it may have happened without it, and before there was a
//! broker to tell.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{task::spawn_blocking, time::sleep};
use tracing::warn;

use super::state;
use crate::{record::Record, sources::Sink};

/// For the spool to accept records again.
const TRY_AGAIN_AFTER: Duration = Duration::from_mins(1);
/// Characters of a reason; the whole stands in the refused file.
const MAX_REASON_CHARS: usize = 1000;

/// One file that was taken in or refused; the data of `event/config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub(super) enum Notice {
    Provisioned {
        file: PathBuf,
        /// Broker; it never has credentials in it.
        url: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        gateway_id: Option<String>,
    },
    ProvisioningRefused {
        file: PathBuf,
        reason: String,
    },
}

impl Notice {
    pub(super) fn refused(file: &Path, reasons: &[String]) -> Self {
        let reason = reasons.join("; ").chars().take(MAX_REASON_CHARS).collect();
        Self::ProvisioningRefused { file: file.to_owned(), reason }
    }
}

/// Reports what was taken in or refused since the last time, once the spool takes it.
///
/// # Panics
///
/// Never: texts have a form in JSON.
pub async fn report(state: PathBuf, sink: Sink) {
    let folder = state.clone();
    let Ok(notices) = spawn_blocking(move || state::notices(&folder)).await else { return };
    if notices.is_empty() {
        return;
    }
    let events = || {
        let data = |notice| serde_json::to_value(notice).expect("texts have a form in JSON");
        notices.iter().map(|notice| Record::event("config", &data(notice))).collect::<Vec<_>>()
    };
    while sink.put(events()).await.is_err() {
        sleep(TRY_AGAIN_AFTER).await;
    }
    // Reported twice at worst, never not at all.
    if let Ok(Err(error)) = spawn_blocking(move || state::forget_notices(&state)).await {
        warn!(%error, "what was provisioned is reported again at the next start");
    }
}
