//! Bodies of requests: pieces that come through a small channel, so that the connection asks for them as it can take them.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

use crate::slots::Piece;

/// Pieces between the feeder and the connection: one is being written, one waits.
const WAITING: usize = 2;

/// What goes through the channel.
enum Part {
    Piece(Piece),
    /// There is no more, and that is in order.
    End(Option<HeaderMap>),
}

/// A body. One whose feeder goes away before it ends is an error, never a short body: a server that was told no length would take
/// that for the whole.
pub(crate) struct Pieces {
    parts: Option<mpsc::Receiver<Part>>,
    left: Option<u64>,
}

/// Feeds a body.
pub(crate) struct Feed(mpsc::Sender<Part>);

/// The connection no longer takes the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotWanted;

/// The body was given up.
#[derive(Debug)]
pub(crate) struct GivenUp;

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body was given up")
    }
}

impl std::error::Error for GivenUp {}

impl From<Infallible> for GivenUp {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl Pieces {
    /// No body.
    pub(crate) const fn none() -> Self {
        Self { parts: None, left: Some(0) }
    }

    /// A body of that length, or of one that nobody knows yet.
    pub(crate) fn fed(length: Option<u64>) -> (Feed, Self) {
        let (sender, parts) = mpsc::channel(WAITING);
        (Feed(sender), Self { parts: Some(parts), left: length })
    }
}

impl Feed {
    pub(crate) async fn piece(&self, piece: Piece) -> Result<(), NotWanted> {
        self.0.send(Part::Piece(piece)).await.map_err(|_| NotWanted)
    }

    /// Ends the body, with trailers where there are some.
    pub(crate) async fn end(self, trailers: Option<HeaderMap>) -> Result<(), NotWanted> {
        self.0.send(Part::End(trailers)).await.map_err(|_| NotWanted)
    }
}

impl http_body::Body for Pieces {
    type Data = Piece;
    type Error = GivenUp;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, GivenUp>>> {
        use bytes::Buf as _;
        let Some(parts) = &mut self.parts else { return Poll::Ready(None) };
        Poll::Ready(match ready!(parts.poll_recv(context)) {
            Some(Part::Piece(piece)) => {
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(piece.remaining() as u64);
                }
                Some(Ok(Frame::data(piece)))
            }
            Some(Part::End(trailers)) => {
                self.parts = None;
                trailers.map(|trailers| Ok(Frame::trailers(trailers)))
            }
            None => {
                self.parts = None;
                Some(Err(GivenUp))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
