//! By tus: asks how far the server is, and sends parts from there on.

use std::time::Duration;

use http::{HeaderValue, StatusCode, Uri};
use ring::digest;
use tokio::time::Instant;

use super::{Arrived, Attempt, content_before, send::Budget};
use crate::{
    beside::Worker,
    codec::{Encoding, FRAME_BYTES},
    journal::{NOT_WORTH_A_SYNC, Place},
    producer::{Cursor, Made},
    retry::{MAX_RETRY_AFTER, PROGRESS_BYTES},
    source::Source,
    status::Step,
    trouble::{Kind, Trouble},
    tus::{self, Abilities, Algorithm, Length},
};

/// With a checksum a part is made twice, first for its digest: so it is small enough to be cached between.
const MOST_CHECKED_BYTES: u64 = 8 << 20;
/// How long a server is left alone that forgets for the second time; each further time twice as long.
const FORGOTTEN_WAIT: Duration = Duration::from_mins(1);

impl Attempt<'_> {
    pub(super) async fn by_tus(&mut self, source: &Source) -> Result<Arrived, Trouble> {
        if self.job.journal.as_ref().is_some_and(|journal| journal.known().finished) {
            return Ok(Arrived::Whole);
        }
        let abilities = self.abilities().await?;
        let mut encoder = if self.job.journal.is_some() {
            self.encoder()?
        } else {
            let deferred = abilities.defer_length && !self.server.borrow().wants_length;
            self.begin(source, !deferred).await?
        };
        self.progress.encoding.set(encoder.encoding().name());
        let (location, mut offset, mut length) = self.located(source, abilities).await?;
        // Where the next part comes from, if the one before was taken whole: without a journal that is known from here only, short
        // of making all again that was sent.
        let mut following: Option<Cursor> = None;
        loop {
            let total = self.journal().known().begin.length;
            if Some(offset) == total && total == length {
                break;
            }
            let cursor = match following.take() {
                Some(cursor) => Some(cursor).filter(|cursor| cursor.index < source.frames()),
                None => self.cursor(source, &mut encoder, offset).await?,
            };
            let Some(mut cursor) = cursor else {
                if let Some(length) = length.filter(|length| *length != offset) {
                    let text = format!("the server waits for {length} bytes, and all there are is {offset}");
                    return Err(Trouble::new(Kind::LyingOffset, text));
                }
                // All of it is there, and the server waits to be told so.
                if length.is_none() {
                    let builder = tus::patch(&location, offset, Some(offset), None);
                    let answer = self.exchange(&location, builder).await?;
                    if tus::patched(&answer)? != offset {
                        return Err(Trouble::new(Kind::LostOffset, "the server has less than it said"));
                    }
                }
                break;
            };
            let most = self.server.borrow().part.bytes(self.settings.part_size_bytes);
            let (budget, checksum) = match (total, abilities.checksum) {
                (Some(total), None) => (Budget::Exactly(most.min(total - offset)), None),
                (None, None) => (Budget::Frames(most), None),
                (total, Some(algorithm)) => {
                    let most = most.min(MOST_CHECKED_BYTES);
                    let most = total.map_or(most, |total| most.min(total - offset));
                    let exact = total.is_some();
                    let (bytes, checksum) = self.checksum(source, &mut encoder, cursor, most, exact, algorithm).await?;
                    (Budget::Exactly(bytes), Some(checksum))
                }
            };
            self.job.sent_end = Some(offset);
            self.progress.sending(content_before(&cursor));
            let begun = Instant::now();
            // The last part may say the length, if that was not said before.
            let builder = tus::patch(&location, offset, total.filter(|_| length.is_none()), checksum.as_ref());
            let (answer, given) = self.send(source, &mut encoder, &location, builder, &mut cursor, budget).await?;
            if answer.status == StatusCode::BAD_REQUEST && total.is_none() && offset == 0 {
                self.server.borrow_mut().wants_length = true;
                return Err(Trouble::new(Kind::LengthWanted, answer.trouble(true).text));
            }
            let now = tus::patched(&answer).map_err(|trouble| self.forgotten(trouble))?;
            self.job.expires = tus::expires(&answer).map(tidegate_values::excerpt).or(self.job.expires.take());
            self.confirmed(now, offset + given.bytes, encoder.encoding(), &cursor)?;
            if now <= offset {
                // Sent once more at once, it would be sent for ever.
                let text = format!("the server took a part and has {now} bytes, after {offset} before");
                return Err(Trouble::new(Kind::LostOffset, text));
            }
            self.server.borrow_mut().part.went_through(
                now - offset.min(now),
                begun.elapsed(),
                self.settings.part_size_bytes,
            );
            following = Some(cursor).filter(|_| now == offset + given.bytes);
            offset = now;
            length = length.or(total);
            if self.yields.get() {
                return Ok(Arrived::Yielded);
            }
        }
        self.remembered();
        self.verified(source, &mut encoder, &location).await?;
        Ok(Arrived::Whole)
    }

    async fn abilities(&mut self) -> Result<Abilities, Trouble> {
        let known = self.server.borrow().abilities;
        if let Some(known) = known {
            return Ok(known);
        }
        self.progress.step.set(Step::Asking);
        let endpoint = self.endpoint.clone();
        let (answer, _) = self.ask(&endpoint, tus::options).await?;
        let abilities = tus::abilities(&answer)?;
        self.server.borrow_mut().abilities = Some(abilities);
        Ok(abilities)
    }

    /// Where the upload is and how far, having begun it where it was not; what the server knows of its length.
    async fn located(&mut self, source: &Source, abilities: Abilities) -> Result<(Uri, u64, Option<u64>), Trouble> {
        self.progress.step.set(Step::Asking);
        let known = self.journal().known();
        let total = known.begin.length;
        let location = known.location.as_deref().and_then(|location| location.parse::<Uri>().ok());
        if let Some(location) = location {
            let (answer, location) = self.ask(&location, tus::head).await?;
            let standing = tus::standing(&answer).map_err(|trouble| self.forgotten(trouble))?;
            self.standing_is_possible(standing.offset, total)?;
            if standing.offset > 0 {
                self.remembered();
            }
            return Ok((location, standing.offset, standing.length));
        }
        if let (Some(total), Some(most)) = (total, abilities.max_size)
            && total > most
        {
            let text = format!("the server takes {most} bytes at most, these are {total}");
            return Err(Trouble::new(Kind::TooLarge, text));
        }
        let length = total.map_or(Length::Deferred, Length::Known);
        let metadata = self.metadata();
        let endpoint = self.endpoint.clone();
        let (answer, asked) = self.ask(&endpoint, |uri| tus::create(uri, length, &metadata)).await?;
        let location = tus::created(&asked, &answer)?;
        self.job.expires = tus::expires(&answer).map(tidegate_values::excerpt);
        let durable = source.size() > NOT_WORTH_A_SYNC;
        let journal = self.job.journal.as_mut().expect("it was begun");
        if let Err(error) = journal.located(&location.to_string(), durable) {
            self.server.borrow_mut().count(Kind::Journal);
            tracing::warn!(%error, name = self.job.name, "where an upload is cannot be written down");
        }
        Ok((location, 0, total))
    }

    /// Of an upload that is no longer there: says until when the server meant to keep it, and has a server that forgets one again and
    /// again left alone for longer each time.
    fn forgotten(&self, mut trouble: Trouble) -> Trouble {
        if trouble.kind != Kind::Forgotten {
            return trouble;
        }
        if let Some(expires) = &self.job.expires {
            trouble.text = format!("{}; it was to be kept until {expires}", trouble.text);
        }
        // Once, as when it was started anew, is no reason to wait.
        if let Some(again) = self.job.forgotten.checked_sub(1) {
            let wait = FORGOTTEN_WAIT.saturating_mul(1 << again.min(10)).min(MAX_RETRY_AFTER);
            trouble.retry_after = trouble.retry_after.max(Some(wait));
        }
        trouble
    }

    /// It has kept something from one connection to the next.
    fn remembered(&mut self) {
        self.job.forgotten = 0;
    }

    /// Counts what the server says that it has against what it was sent.
    fn standing_is_possible(&mut self, offset: u64, total: Option<u64>) -> Result<(), Trouble> {
        let most = [total, self.job.farthest].into_iter().flatten().min();
        if most.is_some_and(|most| offset > most) {
            let text =
                format!("the server says that it has {offset} bytes, and was sent {} at most", most.unwrap_or(0));
            return Err(Trouble::new(Kind::LyingOffset, text));
        }
        if let Some(end) = self.job.sent_end.take() {
            let lost = end.saturating_sub(offset);
            let mut server = self.server.borrow_mut();
            server.resent_bytes += lost;
            server.part.was_cut(lost);
        }
        let confirmed = self.journal().known().confirmed;
        if offset < confirmed {
            self.server.borrow_mut().count(Kind::LostOffset);
            tracing::warn!(name = self.job.name, offset, confirmed, "the server has less of an upload than it said");
        }
        self.progressed |= offset >= confirmed + PROGRESS_BYTES;
        Ok(())
    }

    /// The server has confirmed `now`, where `end` was sent.
    fn confirmed(&mut self, now: u64, end: u64, encoding: Encoding, cursor: &Cursor) -> Result<(), Trouble> {
        if now > end {
            let text = format!("the server says that it has {now} bytes, and was sent {end}");
            return Err(Trouble::new(Kind::LyingOffset, text));
        }
        let journal = self.job.journal.as_mut().expect("it was begun");
        self.progressed |= now >= journal.known().confirmed + PROGRESS_BYTES;
        if let Err(error) = journal.confirmed(now) {
            tracing::debug!(%error, "the journal of an upload cannot be written");
        }
        self.server.borrow_mut().resent_bytes += end - now;
        let content = if encoding.is_identity() { now } else { content_before(cursor) };
        self.progress.confirmed.set(content.min(self.job.identity.size));
        Ok(())
    }

    /// Where byte `offset` of what is sent comes from; `None`: it is the end.
    ///
    /// # Errors
    ///
    /// The server says that it has more than there is; or the file is not what it was.
    async fn cursor(&mut self, source: &Source, encoder: &mut Worker, offset: u64) -> Result<Option<Cursor>, Trouble> {
        if encoder.encoding().is_identity() {
            let frame = FRAME_BYTES as u64;
            let cursor = Cursor { index: offset / frame, skip: offset % frame };
            self.progress.confirmed.set(offset);
            return Ok((offset < source.size()).then_some(cursor));
        }
        let journal = self.job.journal.as_mut().expect("it was begun");
        let place = journal.resume(offset).unwrap_or_else(|error| {
            tracing::debug!(%error, "the journal of an upload cannot be read");
            Place { index: 0, start: 0, frame: None }
        });
        let mut cursor = Cursor { index: place.index, skip: offset - place.start.min(offset) };
        if place.frame.is_none() && cursor.skip > 0 {
            // The journal's tail is lost: its frames are made again, up to where the server is.
            let mut producer = self.producer(source, encoder);
            loop {
                let Some(mut slot) = producer.frame(cursor.index).await? else {
                    if cursor.skip == 0 {
                        break;
                    }
                    let text = format!("the server says that it has {offset} bytes, which is more than there are");
                    return Err(Trouble::new(Kind::LyingOffset, text));
                };
                let length = slot.buffer().len() as u64;
                if cursor.skip < length {
                    break;
                }
                cursor = Cursor { index: cursor.index + 1, skip: cursor.skip - length };
            }
        }
        self.progress.confirmed.set(content_before(&cursor).min(source.size()));
        Ok((cursor.index < source.frames()).then_some(cursor))
    }

    /// The digest of the part that begins at `cursor`, and how long it is: `most` bytes where `exact`, else whole frames.
    async fn checksum(
        &mut self,
        source: &Source,
        encoder: &mut Worker,
        mut cursor: Cursor,
        most: u64,
        exact: bool,
        algorithm: Algorithm,
    ) -> Result<(u64, HeaderValue), Trouble> {
        let mut context = digest::Context::new(match algorithm {
            Algorithm::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::Sha256 => &digest::SHA256,
        });
        let mut producer = self.producer(source, encoder);
        let mut bytes = 0;
        while bytes < most {
            let Some(Made { mut slot, range, .. }) = producer.next(&mut cursor).await? else { break };
            let room = usize::try_from(most - bytes).unwrap_or(usize::MAX);
            let end = if exact { range.end.min(range.start.saturating_add(room)) } else { range.end };
            context.update(&slot.buffer()[range.start..end]);
            bytes += (end - range.start) as u64;
        }
        Ok((bytes, tus::checksum(algorithm, context.finish().as_ref())))
    }

    /// Tells the server that nobody will go on with what was begun, where it wants to know.
    pub(crate) async fn give_up(mut self, location: &str) {
        let Ok(location) = location.parse::<Uri>() else { return };
        let removed = async {
            // Asked anew after an answer that was none of the best, and after a start.
            if self.abilities().await?.termination {
                let (answer, _) = self.ask(&location, tus::terminate).await?;
                if !answer.status.is_success() {
                    return Err(answer.trouble(true));
                }
            }
            Ok(())
        };
        if let Err(trouble) = removed.await {
            tracing::debug!(%trouble, "an upload that is given up cannot be removed from the server");
        }
    }
}
