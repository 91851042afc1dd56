//! One request and its answer, with an end to every wait.

use std::{
    cell::Cell,
    pin::pin,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use tidegate_values::excerpt;
use tokio::{
    select,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::connection::Connection;
use crate::{
    body::Pieces,
    retry::parse_retry_after,
    trouble::{Kind, Trouble},
};

/// Bytes of an answer's body that are kept, for a person to read.
const MAX_EXCERPT_BYTES: usize = 256;
/// Bytes of an answer's body that are read so that the connection can serve again.
const MAX_DRAINED_BYTES: usize = 64 * 1024;
/// Between two looks at whether something moves.
const LOOK: Duration = Duration::from_millis(500);
/// Bytes a second below which a server is called slow.
const SLOW: u64 = 4096;
/// How long it must have been so.
const SLOW_AFTER: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    /// From one byte of the body to the next, and from the last one to the answer.
    pub(crate) progress_within: Duration,
    /// Altogether, but for what it was held back by us.
    pub(crate) total_within: Duration,
}

/// What the one who feeds a body tells the one who waits for the answer: since when, and for how long altogether, it is us who hold it
/// back, since that silence is not the server's; and when it is whole.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    since: Cell<Option<Instant>>,
    held: Cell<Duration>,
    slow: Cell<bool>,
    whole: Cell<bool>,
}

impl Hold {
    /// Waits for something of ours.
    pub(crate) async fn during<T>(&self, wait: impl Future<Output = T>) -> T {
        self.since.set(Some(Instant::now()));
        let output = wait.await;
        self.held.set(self.held());
        self.since.set(None);
        output
    }

    /// How long it was held back so far.
    fn held(&self) -> Duration {
        self.held.get() + self.since.get().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// All of the body is on its way: from now on an answer is not early.
    pub(crate) fn is_whole(&self) {
        self.whole.set(true);
    }

    /// Whether the server was slow.
    pub(crate) const fn was_slow(&self) -> bool {
        self.slow.get()
    }
}

/// A server's answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// The beginning of its body, fit to be shown.
    pub said: String,
    /// It came before the body had gone.
    pub early: bool,
}

impl Answer {
    /// A header's value, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What it means where it is not what was hoped for.
    #[must_use]
    pub fn trouble(&self, begun: bool) -> Trouble {
        let mut trouble = Trouble::of_status(self.status, begun, &self.said);
        trouble.retry_after = self.header("retry-after").and_then(|text| parse_retry_after(text, SystemTime::now()));
        if self.early && trouble.kind == Kind::Garbage {
            trouble.kind = Kind::EarlyAnswer;
        }
        trouble
    }
}

impl Connection {
    /// Sends `request`, whose body `feed` feeds, and gives the answer. Where the answer comes first, feeding ends.
    ///
    /// `written` says how many bytes of bodies went, and that alone is movement: a server that is alive (PING of RFC 9113, 6.7; answers
    /// of 1xx) does not get anywhere by it. For how long we held the body back is nobody's fault, and does not count.
    ///
    /// # Errors
    ///
    /// Those of the connection and of the clocks, and what `feed` says. The connection is not to be used again then.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Pieces>,
        feed: impl Future<Output = Result<(), Trouble>>,
        trusted: bool,
        clocks: Clocks,
        hold: &Hold,
        written: impl Fn() -> u64,
    ) -> Result<Answer, Trouble> {
        let head = request.method() == http::Method::HEAD;
        let begun = (Instant::now(), written());
        let mut whole = false;
        let response = {
            let mut feed = pin!(feed);
            let mut sending = pin!(self.send(request, trusted));
            let (mut last, mut window) = (begun, begun);
            loop {
                select! {
                    biased;
                    answered = &mut sending => break answered.map_err(|error| lost(&error))?,
                    result = &mut feed, if !whole => {
                        result?;
                        whole = true;
                    }
                    () = sleep(LOOK) => {
                        let now = (Instant::now(), written());
                        if now.1 != last.1 || hold.since.get().is_some() {
                            last = now;
                        } else if now.0 - last.0 >= clocks.progress_within {
                            let text = format!("nothing moved for {:?}", clocks.progress_within);
                            return Err(Trouble::new(Kind::Stalled, text));
                        }
                        let lasted = (now.0 - begun.0).saturating_sub(hold.held());
                        if lasted >= clocks.total_within {
                            let text = format!("the request was not over within {:?}", clocks.total_within);
                            return Err(Trouble::new(Kind::TooLong, text));
                        }
                        if hold.since.get().is_some() || whole {
                            window = now;
                        } else if now.0 - window.0 >= SLOW_AFTER {
                            let enough = SLOW * (now.0 - window.0).as_secs();
                            hold.slow.set(hold.slow.get() || now.1 - window.1 < enough);
                            window = now;
                        }
                    }
                }
            }
        };
        let (parts, body) = response.into_parts();
        let said = if head { String::new() } else { read(body, clocks.progress_within).await? };
        Ok(Answer { status: parts.status, headers: parts.headers, said, early: !whole && !hold.whole.get() })
    }
}

/// Reads an answer's body to its end, so that the connection can serve again; its beginning, fit to be shown. All of it within
/// that time: a byte now and then, or frames that hold none, would go on for ever.
async fn read(body: Incoming, within: Duration) -> Result<String, Trouble> {
    let mut body = pin!(body);
    let mut kept = Vec::new();
    let mut length = 0;
    let end = Instant::now() + within;
    loop {
        let frame = timeout_at(end, std::future::poll_fn(|context| body.as_mut().poll_frame(context))).await;
        match frame {
            Err(_) => return Err(Trouble::new(Kind::Stalled, format!("the answer was not over within {within:?}"))),
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(lost(&error)),
            Ok(Some(Ok(frame))) => {
                let Some(data) = frame.data_ref() else { continue };
                length += data.len();
                let room = MAX_EXCERPT_BYTES - kept.len();
                kept.extend_from_slice(&data[..data.len().min(room)]);
                if length > MAX_DRAINED_BYTES {
                    // Whatever it is, nobody wants it; the connection ends with the response.
                    break;
                }
            }
        }
    }
    let said = String::from_utf8_lossy(&kept);
    Ok(match said.trim() {
        "" => String::new(),
        said => excerpt(said),
    })
}

/// What an error of the HTTP library means.
fn lost(error: &hyper::Error) -> Trouble {
    let kind = if error.is_parse() { Kind::Garbage } else { Kind::EarlyClose };
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Trouble::new(kind, text)
}

/// Reads a body of content: what is read back.
pub(crate) async fn next(body: &mut Incoming, within: Duration) -> Result<Option<bytes::Bytes>, Trouble> {
    let mut body = std::pin::Pin::new(body);
    loop {
        match timeout(within, std::future::poll_fn(|context| body.as_mut().poll_frame(context))).await {
            Err(_) => return Err(Trouble::new(Kind::Stalled, format!("nothing was read back for {within:?}"))),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(lost(&error)),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Gets the head of an answer whose body is wanted.
pub(crate) async fn get(
    connection: &mut Connection,
    request: Request<Pieces>,
    trusted: bool,
    within: Duration,
) -> Result<Response<Incoming>, Trouble> {
    match timeout(within, connection.send(request, trusted)).await {
        Err(_) => Err(Trouble::new(Kind::Stalled, format!("no answer within {within:?}"))),
        Ok(answered) => answered.map_err(|error| lost(&error)),
    }
}
