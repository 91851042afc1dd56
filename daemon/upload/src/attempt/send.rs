//! Requests: over which connection, fed from where, and what they leave in the accounts.

use std::{pin::pin, rc::Rc, time::Duration};

use bytes::Buf as _;
use http::{Method, Request, StatusCode, Uri, request::Builder};
use tokio::{select, time::Instant};

use super::{Attempt, content_before};
use crate::{
    beside::Worker,
    body::{Feed, Pieces},
    http::{Answer, Clocks, Connection, Hold, redirected, same_server},
    pacing::Pacing,
    producer::{Cursor, Made, Producer},
    progress::Progress,
    source::Source,
    trouble::{Kind, Trouble},
};

/// How much a request takes.
#[derive(Clone, Copy)]
pub(super) enum Budget {
    /// So many bytes: the request says so.
    Exactly(u64),
    /// Whole frames, until there are so many bytes, or until it takes too long.
    Frames(u64),
    /// Everything.
    All,
}

/// What was given to a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given {
    pub(super) bytes: u64,
}

impl Attempt<'_> {
    fn clocks(&self) -> Clocks {
        Clocks { progress_within: self.settings.progress_within, total_within: self.settings.total_within }
    }

    /// The connection to the server of `uri`.
    pub(super) async fn connection(&mut self, uri: &Uri) -> Result<Connection, Trouble> {
        match self.connection.take() {
            Some(connection) if connection.serves(uri) => Ok(connection),
            _ => {
                let tls = Rc::clone(&self.server.borrow().tls);
                Connection::open(self.settings, uri, &tls).await
            }
        }
    }

    /// Sends a request without a body, and follows where it is led; the answer, and whose it is.
    pub(super) async fn ask(&mut self, to: &Uri, make: impl Fn(&Uri) -> Builder) -> Result<(Answer, Uri), Trouble> {
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
    pub(super) async fn exchange(&mut self, uri: &Uri, builder: Builder) -> Result<Answer, Trouble> {
        let mut connection = self.connection(uri).await?;
        let trusted = same_server(self.endpoint, uri);
        let request = request(builder, Pieces::none())?;
        let hold = Hold::default();
        hold.is_whole();
        let answer = connection.exchange(request, async { Ok(()) }, trusted, self.clocks(), &hold, || 0).await?;
        self.keep(connection, &answer);
        Ok(answer)
    }

    /// Keeps a connection for the next request, if it can serve one.
    fn keep(&mut self, connection: Connection, answer: &Answer) {
        let closes = answer.header("connection").is_some_and(|value| value.to_ascii_lowercase().contains("close"));
        self.connection = (!answer.early && !closes).then_some(connection);
    }

    /// Sends a request whose body is what comes at `cursor`.
    pub(super) async fn send(
        &mut self,
        source: &Source,
        encoder: &mut Worker,
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
        let (before, written) = (self.slots.written(), self.slots.counter());
        let mut given = Given::default();
        let (pacing, progress) = (self.pacing, self.progress);
        let answered = {
            let producer = self.producer(source, encoder);
            let feeding = feed_body(producer, feed, cursor, budget, pacing, progress, &hold, &mut given);
            connection.exchange(request, feeding, trusted, clocks, &hold, written).await
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
    pub(super) fn account(&mut self) {
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
}

/// Feeds a request's body from `cursor` on. While a frame is sent, the next one is read and encoded.
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
    let (begun, size) = (Instant::now(), producer.source.size());
    // What is made next: ahead of `cursor` by the frame that was made while the one before was sent.
    let mut next = *cursor;
    let mut ahead = None;
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
        let made = if ahead.is_some() { ahead.take() } else { hold.during(producer.next(&mut next)).await? };
        let Some(Made { index, slot, range }) = made else { break };
        let end = range.end.min(range.start.saturating_add(usize::try_from(room).unwrap_or(usize::MAX)));
        *cursor = if end < range.end {
            // The rest of the frame goes with the next part.
            Cursor { index, skip: end as u64 }
        } else {
            Cursor { index: index + 1, skip: 0 }
        };
        let with_it = given.bytes + (end - range.start) as u64;
        let is_last = match budget {
            Budget::Exactly(most) | Budget::Frames(most) => with_it >= most,
            Budget::All => false,
        };
        let sent = async {
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
        };
        let following = async { if is_last { Ok(None) } else { producer.next(&mut next).await } };
        let (mut sent, mut following) = (pin!(sent), pin!(following));
        ahead = select! {
            made = &mut following => {
                sent.await;
                made
            }
            () = &mut sent => hold.during(following).await,
        }?;
        progress.sent.set(content_before(cursor).min(size));
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

pub(super) fn request(builder: Builder, body: Pieces) -> Result<Request<Pieces>, Trouble> {
    builder
        .body(body)
        .map_err(|error| Trouble::new(Kind::Refused, format!("what should be sent is no request: {error}")))
}

pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
