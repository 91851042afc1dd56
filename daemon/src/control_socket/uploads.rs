//! `{"get":"uploads"}`: files on their way, and `{"upload":…}`: what becomes of them.
//!
//! ```text
//! {"outboxes":["/var/spool/tidegate"],"endpoint":"https://…","status":{…}}
//! {"name":"a.csv","outbox":"/var/spool/tidegate","bytes":4711,"priority":"normal","state":"active","active":{…}}
//! {"name":"b.csv","outbox":"/var/spool/tidegate","bytes":4711,"priority":"low","state":"parked","reason":"…"}
//! ```
//!
//! The engine hands its files over one by one, and nobody holds all of them.

use std::{io, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use tidegate_upload::{
    ask::{Ask, LISTED},
    order::{MAX_PAUSE, MIN_PAUSE, Order},
    status::UploadStatus,
};
use tokio::{
    io::AsyncWrite,
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::send;
use crate::status::Board;

/// For the engine to come round; to list a large folder on a slow disk takes it seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// What a client may do about uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UploadRequest {
    /// Send nothing for a time.
    Pause {
        /// Seconds.
        for_s: u64,
    },
    /// No longer.
    Resume,
    /// Try parked files once more.
    Retry,
}

/// The first line of a list.
#[derive(Serialize)]
struct Head {
    outboxes: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    status: UploadStatus,
}

/// Sends where files are handed over and where they go, then each file.
pub(super) async fn send_all(
    out: &mut (impl AsyncWrite + Unpin),
    board: &Board,
    uploads: &mpsc::Sender<Ask>,
) -> io::Result<()> {
    let config = board.running();
    let endpoint = config.upload.endpoint.as_ref().map(|endpoint| endpoint.of(&config.gateway.id).to_string());
    let outboxes = config.upload.outboxes.clone();
    send(out, &Head { outboxes, endpoint, status: board.uploads() }).await?;
    match list(out, uploads).await {
        Ok(sent) => sent,
        Err(reason) => send(out, &serde_json::json!({ "error": reason })).await,
    }
}

/// Sends each file; the outer error is for the client.
async fn list(
    out: &mut (impl AsyncWrite + Unpin),
    uploads: &mpsc::Sender<Ask>,
) -> Result<io::Result<()>, &'static str> {
    let (reply, mut listed) = mpsc::channel(LISTED);
    answered(async { uploads.send(Ask::List { reply }).await.ok() }).await?;
    // A closed channel is the end of the list.
    while let Some(file) = timeout(ANSWER_WITHIN, listed.recv()).await.map_err(|_| SILENT)? {
        if let Err(error) = send(out, &file).await {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

/// Has an order carried out; the answer, or an error for the client.
pub(super) async fn order(request: UploadRequest, orders: &mpsc::Sender<Order>) -> Result<serde_json::Value, String> {
    let give = async |order| orders.send(order).await.ok();
    match request {
        UploadRequest::Pause { for_s } => {
            let (time, accepted) = (Duration::from_secs(for_s), MIN_PAUSE..=MAX_PAUSE);
            if !accepted.contains(&time) {
                return Err(format!("for_s: accepted is {} to {}", MIN_PAUSE.as_secs(), MAX_PAUSE.as_secs()));
            }
            answered(give(Order::Pause(time))).await?;
        }
        UploadRequest::Resume => answered(give(Order::Resume)).await?,
        UploadRequest::Retry => {
            let (reply, files) = oneshot::channel();
            let tried = async {
                give(Order::Retry { reply }).await?;
                files.await.ok()
            };
            return Ok(serde_json::json!({ "files": answered(tried).await? }));
        }
    }
    Ok(serde_json::json!({}))
}

const SILENT: &str = "uploads do not come round; tidegate status says what they do";

/// Waits for the engine; `None` of it says that it has ended.
async fn answered<T>(answer: impl Future<Output = Option<T>>) -> Result<T, &'static str> {
    timeout(ANSWER_WITHIN, answer).await.map_err(|_| SILENT)?.ok_or("the daemon is stopping")
}

#[cfg(test)]
mod tests {
    use tidegate_upload::ask::{Listed, Standing};
    use tokio::time::{Instant, sleep};

    use super::*;

    fn file(name: String) -> Listed {
        Listed {
            name,
            outbox: "/var/spool/tidegate".to_owned(),
            bytes: 7,
            priority: "normal",
            state: Standing::Waiting,
            reason: None,
            active: None,
            finished_up_ms: None,
            url: None,
        }
    }

    #[tokio::test]
    async fn any_number_of_files_is_listed_a_line_each() {
        let (uploads, mut asked) = mpsc::channel(1);
        tokio::spawn(async move {
            let Some(Ask::List { reply }) = asked.recv().await else { return };
            for index in 0..1000 {
                reply.send(file(format!("{index}.csv"))).await.unwrap();
            }
        });
        let mut out = Vec::new();
        list(&mut out, &uploads).await.unwrap().unwrap();
        let lines: Vec<_> = str::from_utf8(&out).unwrap().lines().collect();
        assert_eq!(lines.len(), 1000);
        assert_eq!(
            lines[999],
            r#"{"name":"999.csv","outbox":"/var/spool/tidegate","bytes":7,"priority":"normal","state":"waiting"}"#
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_has_ended_or_hangs_is_told() {
        let (uploads, mut asked) = mpsc::channel(1);
        let hanging = tokio::spawn(async move {
            let Some(Ask::List { reply }) = asked.recv().await else { return };
            reply.send(file("a.csv".to_owned())).await.unwrap();
            sleep(Duration::from_mins(1)).await;
        });
        let begun = Instant::now();
        assert_eq!(list(&mut Vec::new(), &uploads).await.err(), Some(SILENT));
        assert_eq!(begun.elapsed(), ANSWER_WITHIN);
        hanging.await.unwrap();
        assert_eq!(list(&mut Vec::new(), &uploads).await.err(), Some("the daemon is stopping"));
    }

    #[tokio::test]
    async fn orders_are_given_within_their_bounds_and_answered() {
        let (orders, mut ordered) = mpsc::channel(4);
        for for_s in [0, 7 * 86_400 + 1] {
            let refused = order(UploadRequest::Pause { for_s }, &orders).await;
            assert_eq!(refused, Err("for_s: accepted is 1 to 604800".to_owned()));
        }
        let request: UploadRequest = serde_json::from_str(r#"{"pause":{"for_s":600}}"#).unwrap();
        assert_eq!(order(request, &orders).await, Ok(serde_json::json!({})));
        assert_eq!(order(UploadRequest::Resume, &orders).await, Ok(serde_json::json!({})));
        assert!(matches!(ordered.recv().await, Some(Order::Pause(time)) if time == Duration::from_mins(10)));
        assert!(matches!(ordered.recv().await, Some(Order::Resume)));
        tokio::spawn(async move {
            let Some(Order::Retry { reply }) = ordered.recv().await else { return };
            reply.send(3).unwrap();
        });
        assert_eq!(order(UploadRequest::Retry, &orders).await, Ok(serde_json::json!({ "files": 3 })));
    }
}
