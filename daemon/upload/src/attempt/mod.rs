//! One attempt to bring a file to its endpoint, from what the server has to all of it.
//!
//! ```text
//!   digest (once) ──► begin, or ask how far ──► parts … ──► all of it ──► read back (if asked)
//!        │                     │                   │
//!   no longer the same     forgotten           cut off, refused, silent
//!        ▼                     ▼                   ▼
//!      park                 restart              again
//! ```
//!
//! What follows from a trouble is decided by whoever starts attempts ([`Kind::verdict`]).

#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::Duration,
};

use bytes::Buf as _;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header, request::Builder};
use ring::digest;
use tidegate_storage::Backend;
use tidegate_values::{Digest, base64};
use tokio::time::{Instant, timeout};

use crate::{
    body::{Feed, Pieces},
    codec::{Encoder, Encoding, FRAME_BYTES, shrinks},
    http::{Answer, Clocks, Connection, Hold, get, next, redirected, same_server},
    job::Job,
    journal::{Begin, Journal, NOT_WORTH_A_SYNC},
    pacing::Pacing,
    part::PartSize,
    producer::{Cursor, Made, Producer, encoded},
    progress::Progress,
    retry::PROGRESS_BYTES,
    settings::{Protocol, Settings, Verify},
    slots::Slots,
    source::Source,
    status::Step,
    trouble::{Kind, Trouble},
    tus::{self, Abilities, Algorithm, Length},
};

/// With a checksum a part is made twice, first for its digest: so it is small enough to be cached between.
const MOST_CHECKED_BYTES: u64 = 8 << 20;

/// What is known of a server, for all attempts.
#[derive(Debug, Default)]
pub(crate) struct Server {
    /// What it can do, once it was asked.
    abilities: Option<Abilities>,
    /// It says that a length may come last, and refuses it.
    wants_length: bool,
    /// How much goes into one request.
    part: PartSize,
    /// Troubles so far, by name.
    pub(crate) troubles: BTreeMap<&'static str, u64>,
    /// Bytes that went more than once.
    pub(crate) resent_bytes: u64,
    /// Bytes of bodies that connections took.
    pub(crate) sent_bytes: u64,
}

impl Server {
    pub(crate) fn count(&mut self, kind: Kind) {
        *self.troubles.entry(kind.name()).or_default() += 1;
    }

    /// Asks what the server can do before the next attempt.
    pub(crate) const fn ask_again(&mut self) {
        self.abilities = None;
    }

    /// Forgets what was learnt, but not what was counted: the endpoint is another one.
    pub(crate) fn forget(&mut self) {
        (self.abilities, self.wants_length, self.part) = (None, false, PartSize::default());
    }
}

/// What an attempt works with.
pub(crate) struct Attempt<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) endpoint: &'a Uri,
    pub(crate) backend: Backend,
    pub(crate) job: &'a mut Job,
    pub(crate) server: &'a RefCell<Server>,
    pub(crate) pacing: &'a Pacing,
    pub(crate) progress: &'a Progress,
    /// Whether another file is to go first: looked at between two parts.
    pub(crate) yields: &'a Cell<bool>,
    connection: Option<Connection>,
    slots: Slots,
    /// Bytes of pieces that are in the accounts already.
    accounted: u64,
    unsynced: u64,
    progressed: bool,
}

/// How an attempt ended.
pub(crate) struct Ended {
    pub(crate) result: Result<Arrived, Trouble>,
    /// Whether the server has more than before.
    pub(crate) progressed: bool,
}

/// How an attempt ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// The server has all of it.
    Whole,
    /// Another file is to go first.
    Yielded,
}

/// How much a request takes.
#[derive(Clone, Copy)]
enum Budget {
    /// So many bytes: the request says so.
    Exactly(u64),
    /// Whole frames, until there are so many bytes, or until it takes too long.
    Frames(u64),
    /// Everything.
    All,
}

/// What was given to a request.
#[derive(Clone, Copy, Debug, Default)]
struct Given {
    bytes: u64,
}

impl<'a> Attempt<'a> {
    #[expect(clippy::too_many_arguments, reason = "what an attempt works with, each by its name at the only caller")]
    pub(crate) fn new(
        settings: &'a Settings,
        endpoint: &'a Uri,
        backend: Backend,
        job: &'a mut Job,
        server: &'a RefCell<Server>,
        pacing: &'a Pacing,
        progress: &'a Progress,
        yields: &'a Cell<bool>,
    ) -> Self {
        Self {
            settings,
            endpoint,
            backend,
            job,
            server,
            pacing,
            progress,
            yields,
            connection: None,
            slots: Slots::new(),
            accounted: 0,
            unsynced: 0,
            progressed: false,
        }
    }

    /// Makes the attempt; `None`: it was told to stop.
    pub(crate) async fn run(mut self, stopped: impl Future<Output = ()>) -> Option<Ended> {
        self.job.attempts += 1;
        self.job.begun.get_or_insert_with(Instant::now);
        let source = match (self.job.open)().and_then(|file| Source::new(self.backend, file, self.job.identity)) {
            Ok(source) => source,
            Err(trouble) => return Some(Ended { result: Err(trouble), progressed: false }),
        };
        let result = tokio::select! {
            result = self.bring(&source) => Some(result),
            () = stopped => None,
        };
        // Of a request that was stopped: the server may have all of that, and will say so.
        self.account();
        // Before the body's feeder is gone: see `Pieces`.
        self.connection = None;
        source.close().await;
        let progressed = self.progressed;
        result.map(|result| Ended { result, progressed })
    }

    async fn bring(&mut self, source: &Source) -> Result<Arrived, Trouble> {
        self.open_journal();
        let arrived = match self.settings.protocol {
            Protocol::Tus => self.by_tus(source).await?,
            Protocol::Http => self.by_put(source).await?,
        };
        // What was read last was read before this: a file that was changed since is not what arrived.
        source.check()?;
        Ok(arrived)
    }

    /// What the upload is, for the journal: another target is another upload.
    fn target(&self) -> String {
        let protocol = match self.settings.protocol {
            Protocol::Tus => "tus",
            Protocol::Http => "http",
        };
        format!("{protocol} {}", self.endpoint)
    }

    /// Goes on with the journal that there is, if it is of this upload.
    fn open_journal(&mut self) {
        if self.job.journal.is_none() {
            match Journal::open(&self.job.journal_path) {
                Ok(journal) => self.job.journal = journal,
                Err(error) => tracing::warn!(%error, name = self.job.name, "the journal of an upload cannot be read"),
            }
        }
        let fits = self.job.journal.as_ref().is_none_or(|journal| {
            let begin = &journal.known().begin;
            begin.identity.same_content(&self.job.identity)
                && begin.name == self.job.name
                && begin.target == self.target()
                && usize::try_from(begin.frame_bytes) == Ok(FRAME_BYTES)
                && begin.encoding().is_some()
        });
        if !fits {
            self.job.journal = None;
        }
    }

    // -- What is to be sent

    /// Begins a journal: digests the content, and decides how it is encoded. `planned`: its length as it is sent must be known.
    async fn begin(&mut self, source: &Source, planned: bool) -> Result<Encoder, Trouble> {
        self.progress.step.set(Step::Digesting);
        let mut encoder = self.encoder_for(source).await?;
        let planned = planned && !encoder.encoding().is_identity();
        let codec_version = encoder.version().map_err(|error| codec_trouble(&error))?;
        let encoding = encoder.encoding();
        let mut context = digest::Context::new(&digest::SHA256);
        let known = planned || source.frames() <= 1;
        let mut length = 0;
        for index in 0..source.frames() {
            let mut slot = self.slots.take().await;
            source.read(index, &mut slot).await?;
            context.update(slot.buffer());
            if known && !encoding.is_identity() {
                length += encoded(&self.slots, &mut encoder, &mut slot).await?.buffer().len() as u64;
            }
            tokio::task::yield_now().await;
        }
        let length = if encoding.is_identity() { Some(source.size()) } else { known.then_some(length) };
        let begin = Begin {
            outbox: self.job.outbox.clone(),
            name: self.job.name.clone(),
            identity: self.job.identity,
            sha256: Digest(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")),
            target: self.target(),
            coding: encoding.name().to_owned(),
            level: encoding.level,
            codec_version,
            frame_bytes: u32::try_from(FRAME_BYTES).unwrap_or_default(),
            length,
        };
        let durable = source.size() > NOT_WORTH_A_SYNC;
        let journal = Journal::create(&self.job.journal_path, begin.clone(), durable).unwrap_or_else(|error| {
            self.server.borrow_mut().count(Kind::Journal);
            tracing::warn!(%error, name = self.job.name, "an upload is begun without a journal");
            Journal::in_memory(begin)
        });
        self.job.journal = Some(journal);
        self.job.farthest = Some(0);
        self.job.sent_end = None;
        Ok(encoder)
    }

    /// The configured encoder, or none where samples from the beginning, the middle and the end do not shrink.
    async fn encoder_for(&self, source: &Source) -> Result<Encoder, Trouble> {
        let new = |encoding| Encoder::new(encoding).map_err(|error| codec_trouble(&error));
        let mut encoder = new(Encoding::of(self.settings.compression))?;
        if encoder.encoding().is_identity() || source.size() == 0 {
            return new(Encoding::IDENTITY);
        }
        let (mut content, mut remains) = (0, 0);
        let last = source.frames() - 1;
        let mut samples = [0, last / 2, last].to_vec();
        samples.dedup();
        for index in samples {
            let mut slot = self.slots.take().await;
            source.read(index, &mut slot).await?;
            content += slot.buffer().len();
            remains += encoded(&self.slots, &mut encoder, &mut slot).await?.buffer().len();
        }
        if shrinks(content, remains) { Ok(encoder) } else { new(Encoding::IDENTITY) }
    }

    /// The encoder of the journal that there is.
    ///
    /// # Errors
    ///
    /// It makes other bytes now than it did.
    fn encoder(&self) -> Result<Encoder, Trouble> {
        let begin = &self.journal().known().begin;
        let encoding = begin.encoding().unwrap_or(Encoding::IDENTITY);
        let mut encoder = Encoder::new(encoding).map_err(|error| codec_trouble(&error))?;
        if encoder.version().map_err(|error| codec_trouble(&error))? == begin.codec_version {
            return Ok(encoder);
        }
        let text = format!("{} compresses in another way than when the upload was begun", encoding.name());
        Err(Trouble::new(Kind::FrameDiffers, text))
    }

    fn journal(&self) -> &Journal {
        self.job.journal.as_ref().expect("it was begun")
    }

    /// What goes with the file: what says what it is, then what its sidecar says.
    fn metadata(&self) -> HeaderValue {
        let begin = &self.journal().known().begin;
        let sha256 = begin.sha256.to_string();
        let size = self.job.identity.size.to_string();
        let mtime = (self.job.identity.mtime_ns / 1_000_000_000).to_string();
        let content_type = self.job.content_type.as_deref();
        let encoding = (begin.coding != "identity").then_some(begin.coding.as_str());
        let ours = [
            Some(("filename", self.job.name.as_str())),
            content_type.map(|content_type| ("filetype", content_type)),
            Some(("sha256", sha256.as_str())),
            Some(("size", size.as_str())),
            encoding.map(|encoding| ("encoding", encoding)),
            Some(("gateway", self.settings.gateway.as_str())),
            Some(("mtime", mtime.as_str())),
        ];
        let theirs = self.job.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        tus::metadata(ours.into_iter().flatten().chain(theirs))
    }

    // -- Requests

    fn clocks(&self) -> Clocks {
        Clocks { progress_within: self.settings.progress_within, total_within: self.settings.total_within }
    }

    /// The connection to the server of `uri`.
    async fn connection(&mut self, uri: &Uri) -> Result<Connection, Trouble> {
        match self.connection.take() {
            Some(connection) if connection.serves(uri) => Ok(connection),
            _ => Connection::open(self.settings, uri).await,
        }
    }

    /// Sends a request without a body, and follows where it is led; the answer, and whose it is.
    async fn ask(&mut self, to: &Uri, make: impl Fn(&Uri) -> Builder) -> Result<(Answer, Uri), Trouble> {
        let mut uri = to.clone();
        for hops in 0.. {
            let reused = self.connection.is_some();
            let answer = match self.exchange(&uri, make(&uri)).await {
                // A server may close a connection between two requests, and says so to nobody.
                Err(trouble) if reused && trouble.kind == Kind::EarlyClose => self.exchange(&uri, make(&uri)).await?,
                answered => answered?,
            };
            if !is_redirect(answer.status) {
                return Ok((answer, uri));
            }
            let keeps_method = matches!(answer.status.as_u16(), 307 | 308);
            let post = make(&uri).method_ref() == Some(&Method::POST) && !keeps_method;
            uri = redirected(&uri, answer.status, answer.header("location"), post, hops)?;
        }
        unreachable!("redirects are bounded")
    }

    /// Sends a request without a body.
    async fn exchange(&mut self, uri: &Uri, builder: Builder) -> Result<Answer, Trouble> {
        let mut connection = self.connection(uri).await?;
        let trusted = same_server(self.endpoint, uri);
        let request = request(builder, Pieces::none())?;
        let hold = Hold::default();
        hold.is_whole();
        let answer = connection.exchange(request, async { Ok(()) }, trusted, self.clocks(), &hold).await?;
        self.keep(connection, &answer);
        Ok(answer)
    }

    /// Keeps a connection for the next request, if it can serve one.
    fn keep(&mut self, connection: Connection, answer: &Answer) {
        let closes = answer.header("connection").is_some_and(|value| value.to_ascii_lowercase().contains("close"));
        self.connection = (!answer.early && !closes).then_some(connection);
    }

    /// Sends a request whose body is what comes at `cursor`.
    async fn send(
        &mut self,
        source: &Source,
        encoder: &mut Encoder,
        uri: &Uri,
        builder: Builder,
        cursor: &mut Cursor,
        budget: Budget,
    ) -> Result<(Answer, Given), Trouble> {
        let mut connection = self.connection(uri).await?;
        let trusted = same_server(self.endpoint, uri);
        let length = if let Budget::Exactly(length) = budget { Some(length) } else { None };
        let (feed, body) = Pieces::fed(length);
        let request = request(builder, body)?;
        let hold = Hold::default();
        let clocks = self.clocks();
        let before = self.slots.written();
        let mut given = Given::default();
        let answered = {
            let producer = Producer {
                source,
                slots: &self.slots,
                encoder,
                journal: self.job.journal.as_mut().expect("it was begun"),
                unsynced: &mut self.unsynced,
            };
            let feeding = feed_body(producer, feed, cursor, budget, self.pacing, self.progress, &hold, &mut given);
            connection.exchange(request, feeding, trusted, clocks, &hold).await
        };
        self.account();
        if hold.was_slow() {
            self.server.borrow_mut().count(Kind::Slow);
        }
        let mut answer = answered?;
        // Pieces that a connection still has are in the way of the next ones, and for a good answer they are too many.
        answer.early |= self.slots.written() - before < given.bytes;
        self.keep(connection, &answer);
        if !answer.early {
            return Ok((answer, given));
        }
        if answer.status.is_success() {
            return Err(Trouble::new(
                Kind::EarlyAnswer,
                format!("the server answers {} before it has everything", answer.status),
            ));
        }
        self.server.borrow_mut().count(Kind::EarlyAnswer);
        Ok((answer, given))
    }

    /// Takes down what connections have taken since the last time.
    fn account(&mut self) {
        let written = self.slots.written() - self.accounted;
        self.accounted += written;
        if written == 0 {
            return;
        }
        self.job.sent_bytes += written;
        self.server.borrow_mut().sent_bytes += written;
        let end = self.job.sent_end.unwrap_or(0) + written;
        self.job.sent_end = Some(end);
        self.job.farthest = self.job.farthest.map(|farthest| farthest.max(end));
    }

    // -- tus

    async fn by_tus(&mut self, source: &Source) -> Result<Arrived, Trouble> {
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
            let now = tus::patched(&answer).map_err(|trouble| self.expired(trouble))?;
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
            let standing = tus::standing(&answer).map_err(|trouble| self.expired(trouble))?;
            self.standing_is_possible(standing.offset, total)?;
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

    /// Says of an upload that is no longer there until when the server meant to keep it.
    fn expired(&self, mut trouble: Trouble) -> Trouble {
        if let (Kind::Forgotten, Some(expires)) = (trouble.kind, &self.job.expires) {
            trouble.text = format!("{}; it was to be kept until {expires}", trouble.text);
        }
        trouble
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

    fn finished(&mut self, durable: bool) {
        let journal = self.job.journal.as_mut().expect("it was begun");
        self.progress.confirmed.set(self.job.identity.size);
        if let Err(error) = journal.finished(durable) {
            tracing::debug!(%error, "the journal of an upload cannot be written");
        }
    }

    /// Where byte `offset` of what is sent comes from; `None`: it is the end.
    ///
    /// # Errors
    ///
    /// The server says that it has more than there is; or the file is not what it was.
    async fn cursor(&mut self, source: &Source, encoder: &mut Encoder, offset: u64) -> Result<Option<Cursor>, Trouble> {
        if encoder.encoding().is_identity() {
            let frame = FRAME_BYTES as u64;
            let cursor = Cursor { index: offset / frame, skip: offset % frame };
            self.progress.confirmed.set(offset);
            return Ok((offset < source.size()).then_some(cursor));
        }
        let journal = self.job.journal.as_mut().expect("it was begun");
        let place = journal.resume(offset).unwrap_or_else(|error| {
            tracing::debug!(%error, "the journal of an upload cannot be read");
            crate::journal::Place { index: 0, start: 0, frame: None }
        });
        let mut cursor = Cursor { index: place.index, skip: offset - place.start.min(offset) };
        if place.frame.is_none() && cursor.skip > 0 {
            // The journal's tail is lost: its frames are made again, up to where the server is.
            let mut producer = Producer { source, slots: &self.slots, encoder, journal, unsynced: &mut self.unsynced };
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
        encoder: &mut Encoder,
        mut cursor: Cursor,
        most: u64,
        exact: bool,
        algorithm: Algorithm,
    ) -> Result<(u64, HeaderValue), Trouble> {
        let mut context = digest::Context::new(match algorithm {
            Algorithm::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::Sha256 => &digest::SHA256,
        });
        let mut producer = Producer {
            source,
            slots: &self.slots,
            encoder,
            journal: self.job.journal.as_mut().expect("it was begun"),
            unsynced: &mut self.unsynced,
        };
        let mut bytes = 0;
        while bytes < most {
            let Some(Made { mut slot, range }) = producer.next(&mut cursor).await? else { break };
            let room = usize::try_from(most - bytes).unwrap_or(usize::MAX);
            let end = if exact { range.end.min(range.start.saturating_add(room)) } else { range.end };
            context.update(&slot.buffer()[range.start..end]);
            bytes += (end - range.start) as u64;
        }
        Ok((bytes, tus::checksum(algorithm, context.finish().as_ref())))
    }

    // -- PUT

    async fn by_put(&mut self, source: &Source) -> Result<Arrived, Trouble> {
        let mut encoder = match &self.job.journal {
            Some(journal) if journal.known().finished => return Ok(Arrived::Whole),
            Some(_) => self.encoder()?,
            None => self.begin(source, false).await?,
        };
        self.progress.encoding.set(encoder.encoding().name());
        if let Some(end) = self.job.sent_end.take() {
            self.server.borrow_mut().resent_bytes += end;
        }
        // Nothing of an earlier attempt counts.
        if let Err(error) = self.job.journal.as_mut().expect("it was begun").resume(0) {
            tracing::debug!(%error, "the journal of an upload cannot be read");
        }
        let mut uri = self.put_address()?;
        for hops in 0.. {
            self.job.sent_end = Some(0);
            self.progress.from.set(None);
            self.progress.sending(0);
            let builder = self.put_request(&uri, encoder.encoding());
            let budget = self.journal().known().begin.length.map_or(Budget::All, Budget::Exactly);
            let mut cursor = Cursor { index: 0, skip: 0 };
            let (answer, given) = self.send(source, &mut encoder, &uri, builder, &mut cursor, budget).await?;
            if is_redirect(answer.status) {
                uri = redirected(&uri, answer.status, answer.header("location"), true, hops)?;
                self.server.borrow_mut().resent_bytes += self.job.sent_end.take().unwrap_or(0);
                continue;
            }
            if !answer.status.is_success() {
                return Err(answer.trouble(false));
            }
            self.progressed = true;
            let journal = self.job.journal.as_mut().expect("it was begun");
            let _tolerable = journal.confirmed(given.bytes);
            self.verified(source, &mut encoder, &uri).await?;
            return Ok(Arrived::Whole);
        }
        unreachable!("redirects are bounded")
    }

    /// Where the file goes: below the endpoint, by its name.
    fn put_address(&self) -> Result<Uri, Trouble> {
        let endpoint = self.endpoint.to_string();
        let (path, query) =
            endpoint.split_once('?').map_or((endpoint.as_str(), None), |(path, query)| (path, Some(query)));
        let question = if query.is_some() { "?" } else { "" };
        let address = format!(
            "{}/{}{question}{}",
            path.trim_end_matches('/'),
            escaped(&self.job.name),
            query.unwrap_or_default()
        );
        address.parse().map_err(|error| Trouble::new(Kind::Refused, format!("{address} is no address: {error}")))
    }

    fn put_request(&self, uri: &Uri, encoding: Encoding) -> Builder {
        let digest = content_digest(self.journal().known().begin.sha256);
        let mut builder = Request::builder()
            .method(Method::PUT)
            .uri(uri.clone())
            .header("unencoded-digest", digest.clone())
            .header("tidegate-metadata", self.metadata())
            .header(header::CONTENT_TYPE, self.job.content_type.as_deref().unwrap_or("application/octet-stream"));
        builder = if encoding.is_identity() {
            builder.header("repr-digest", digest)
        } else {
            builder.header(header::CONTENT_ENCODING, encoding.name())
        };
        builder
    }

    // -- After

    /// Reads back what is to be read back. Only then is it written down that the file has arrived: else an attempt after one that
    /// was cut off in the middle of it, or a start after a crash, would take it for verified.
    async fn verified(&mut self, source: &Source, encoder: &mut Encoder, uri: &Uri) -> Result<(), Trouble> {
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
    async fn read_back(&mut self, source: &Source, encoder: &mut Encoder, uri: &Uri) -> Result<(), Trouble> {
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
        let mut producer = Producer {
            source,
            slots: &self.slots,
            encoder,
            journal: self.job.journal.as_mut().expect("it was begun"),
            unsynced: &mut self.unsynced,
        };
        let mut cursor = Cursor { index: 0, skip: 0 };
        let mut made: Option<Made> = None;
        while let Some(data) = next(&mut body, self.settings.progress_within).await? {
            let mut rest = &data[..];
            while !rest.is_empty() {
                if made.is_none() {
                    made = producer.next(&mut cursor).await?;
                }
                let Some(Made { slot, range }) = &mut made else { return Err(differs()) };
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

/// Feeds a request's body from `cursor` on.
#[expect(clippy::too_many_arguments, reason = "borrowed part by part from what an attempt has")]
async fn feed_body(
    mut producer: Producer<'_>,
    feed: Feed,
    cursor: &mut Cursor,
    budget: Budget,
    pacing: &Pacing,
    progress: &Progress,
    hold: &Hold,
    given: &mut Given,
) -> Result<(), Trouble> {
    /// A part of whole frames ends after this, however little went through.
    const LONGEST: Duration = Duration::from_mins(2);
    let begun = Instant::now();
    loop {
        let room = match budget {
            Budget::Exactly(length) => length - given.bytes,
            Budget::Frames(least) if given.bytes >= least || begun.elapsed() >= LONGEST => 0,
            Budget::Frames(_) | Budget::All => u64::MAX,
        };
        if room == 0 {
            break;
        }
        // What the disk and the encoder take is ours.
        let at = *cursor;
        let Some(Made { slot, range }) = producer.next(cursor).await? else {
            break;
        };
        let end = range.end.min(range.start.saturating_add(usize::try_from(room).unwrap_or(usize::MAX)));
        if end < range.end {
            // The rest of the frame goes with the next part.
            let skip = at.skip + (end - range.start) as u64;
            *cursor = Cursor { index: at.index, skip };
        }
        for mut piece in slot.pieces(range.start, end) {
            while piece.has_remaining() {
                let may = pacing.may_send(piece.remaining(), hold).await;
                if feed.piece(piece.split_to(may)).await.is_err() {
                    // The connection has ended, or the answer has come: whoever waits for that says which.
                    std::future::pending::<()>().await;
                }
                given.bytes += may as u64;
                if matches!(budget, Budget::Exactly(length) if length == given.bytes) {
                    // Told the length, a server need not wait for an end.
                    hold.is_whole();
                }
            }
        }
        progress.sent.set(content_before(cursor).min(producer.source.size()));
    }
    if let Budget::Exactly(length) = budget
        && given.bytes != length
    {
        return Err(Trouble::new(Kind::FrameDiffers, "the content is encoded to another length than it was"));
    }
    if feed.end(None).await.is_err() {
        std::future::pending::<()>().await;
    }
    hold.is_whole();
    Ok(())
}

fn request(builder: Builder, body: Pieces) -> Result<Request<Pieces>, Trouble> {
    builder
        .body(body)
        .map_err(|error| Trouble::new(Kind::Refused, format!("what should be sent is no request: {error}")))
}

const fn content_before(cursor: &Cursor) -> u64 {
    cursor.index * FRAME_BYTES as u64
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn codec_trouble(error: &std::io::Error) -> Trouble {
    Trouble::new(Kind::Unreadable, format!("cannot be compressed: {error}"))
}

/// `sha-256=:…:` (RFC 9530).
fn content_digest(sha256: Digest) -> HeaderValue {
    HeaderValue::try_from(format!("sha-256=:{}:", base64::encode(&sha256.0))).expect("base64 is a header")
}

/// A name as it stands in a path (RFC 3986, section 3.3).
fn escaped(name: &str) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    name.bytes().map(|byte| if kept(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
