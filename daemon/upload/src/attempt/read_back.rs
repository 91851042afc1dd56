//! After the last byte: what arrived is read back where that is wanted, and the end is written down.

use http::{Method, Request, Uri, header};
use tokio::time::timeout;

use super::{Attempt, send::request};
use crate::{
    beside::Worker,
    body::Pieces,
    http::{get, next, same_server},
    journal::NOT_WORTH_A_SYNC,
    producer::{Cursor, Made},
    settings::Verify,
    source::Source,
    status::Step,
    trouble::{Kind, Trouble},
};

impl Attempt<'_> {
    /// Reads back what is to be read back. Only then is it written down that the file has arrived: else an attempt after one that
    /// was cut off in the middle of it, or a start after a crash, would take it for verified.
    pub(super) async fn verified(&mut self, source: &Source, encoder: &mut Worker, uri: &Uri) -> Result<(), Trouble> {
        if self.settings.verify == Verify::ReadBack {
            let within = self.settings.total_within;
            let text = || format!("the content was not read back within {within:?}");
            timeout(within, self.read_back(source, encoder, uri))
                .await
                .unwrap_or_else(|_| Err(Trouble::new(Kind::TooLong, text())))?;
        }
        self.finished(source.size() > NOT_WORTH_A_SYNC);
        Ok(())
    }

    /// Fetches what the server has, and compares it with what is sent, byte by byte.
    async fn read_back(&mut self, source: &Source, encoder: &mut Worker, uri: &Uri) -> Result<(), Trouble> {
        self.progress.step.set(Step::Verifying);
        let mut connection = self.connection(uri).await?;
        let trusted = same_server(self.endpoint, uri);
        let builder =
            Request::builder().method(Method::GET).uri(uri.clone()).header(header::ACCEPT_ENCODING, "identity");
        let response =
            get(&mut connection, request(builder, Pieces::none())?, trusted, self.settings.progress_within).await?;
        if !response.status().is_success() {
            // One that gives nothing back (404, 405) will not do so later, either: that is for a person.
            let trouble = Trouble::of_status(response.status(), false, "");
            let text = format!("the content cannot be read back: {}", trouble.text);
            return Err(Trouble { text, ..trouble });
        }
        let differs = || Trouble::new(Kind::Corrupted, "what the server has is not what was sent");
        let mut body = response.into_body();
        let within = self.settings.progress_within;
        let mut producer = self.producer(source, encoder);
        let mut cursor = Cursor { index: 0, skip: 0 };
        let mut made: Option<Made> = None;
        while let Some(data) = next(&mut body, within).await? {
            let mut rest = &data[..];
            while !rest.is_empty() {
                if made.is_none() {
                    made = producer.next(&mut cursor).await?;
                }
                let Some(Made { slot, range, .. }) = &mut made else { return Err(differs()) };
                let count = rest.len().min(range.len());
                if slot.buffer()[range.start..range.start + count] != rest[..count] {
                    return Err(differs());
                }
                rest = &rest[count..];
                range.start += count;
                if range.start == range.end {
                    made = None;
                }
            }
        }
        let more = if made.is_some() { made } else { producer.next(&mut cursor).await? };
        if more.is_some() { Err(differs()) } else { Ok(()) }
    }

    fn finished(&mut self, durable: bool) {
        let journal = self.job.journal.as_mut().expect("it was begun");
        self.progress.confirmed.set(self.job.identity.size);
        if let Err(error) = journal.finished(durable) {
            tracing::debug!(%error, "the journal of an upload cannot be written");
        }
    }
}
