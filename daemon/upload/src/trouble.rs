//! What servers and links do, by name, and what follows from it.
//!
//! | what follows | troubles |
//! |---|---|
//! | again later, from what the server has | of the link, and of a server that is busy or broken for now |
//! | again, from the first byte | the server forgot the upload, or is not to be believed about it |
//! | a person is needed | the server refuses this file, or the file is not what it was |

use std::{fmt, time::Duration};

use http::StatusCode;

use crate::ledger::Reason;

/// Something that ended an attempt. Each kind has a name and a counter of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Which.
    pub kind: Kind,
    /// What happened, in words for a person.
    pub text: String,
    /// How long the server asked to be left alone.
    pub retry_after: Option<Duration>,
    /// The status that the server answered with, or 0.
    pub status: u16,
}

/// Kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// No address, or none that accepts.
    Connect,
    /// The handshake failed, or a certificate, key or token cannot be used.
    Tls,
    /// The proxy does not let us through.
    Proxy,
    /// Nothing of the file moved within `progress_within`, and no answer came.
    Stalled,
    /// A request was not over within `total_within`, but for what it was held back by us.
    TooLong,
    /// The server read less than 4 KiB/s for a whole request: counted, and gone on with.
    Slow,
    /// The connection ended before the answer came.
    EarlyClose,
    /// The server answered before it had read what was sent.
    EarlyAnswer,
    /// What came is not HTTP, or lacks what the protocol asks for.
    Garbage,
    /// The server ended the request for taking too long (408): what it has stays.
    RequestTimeout,
    /// 413.
    TooLarge,
    /// 429.
    TooMany,
    /// 503.
    Unavailable,
    /// 423: somebody else, such as a connection of ours that hangs, has the upload.
    Locked,
    /// Any other 5xx.
    ServerError,
    /// 401 or 407.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404 or 410 where something should be made.
    NotFound,
    /// Any other 4xx.
    Refused,
    /// 409 for an upload that was begun: the server's offset is another one.
    Conflict,
    /// 404 or 410 for an upload that was begun.
    Forgotten,
    /// An offset beyond what was ever sent.
    LyingOffset,
    /// An offset before what the server had confirmed.
    LostOffset,
    /// 460: the server received something else (tus, checksum).
    Checksum,
    /// Redirects in a circle, too many, or to where nobody should be sent.
    Redirect,
    /// Read back, the content is another one.
    Corrupted,
    /// A frame that was sent comes out differently now.
    FrameDiffers,
    /// The server does not take an upload whose length comes last, though it says so.
    LengthWanted,
    /// The file cannot be opened for now.
    Busy,
    /// The file cannot be read.
    Unreadable,
    /// The file is not what it was.
    Changed,
    /// The file is gone.
    Vanished,
    /// The journal cannot be written.
    Journal,
    /// The way there is metered.
    Metered,
}

/// What is done about a trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Tried again, from what the server has.
    Again,
    /// Tried again, from the first byte of a new upload.
    Restart,
    /// Put aside for a person.
    Park(Reason),
}

impl Kind {
    /// Its name, as counters and logs have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Proxy => "proxy",
            Self::Stalled => "stalled",
            Self::TooLong => "too-long",
            Self::Slow => "slow",
            Self::EarlyClose => "early-close",
            Self::EarlyAnswer => "early-answer",
            Self::Garbage => "garbage",
            Self::RequestTimeout => "request-timeout",
            Self::TooLarge => "too-large",
            Self::TooMany => "too-many-requests",
            Self::Unavailable => "unavailable",
            Self::Locked => "locked",
            Self::ServerError => "server-error",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not-found",
            Self::Refused => "refused",
            Self::Conflict => "conflict",
            Self::Forgotten => "forgotten",
            Self::LyingOffset => "lying-offset",
            Self::LostOffset => "lost-offset",
            Self::Checksum => "checksum",
            Self::Redirect => "redirect",
            Self::Corrupted => "corrupted",
            Self::FrameDiffers => "frame-differs",
            Self::LengthWanted => "length-wanted",
            Self::Busy => "busy",
            Self::Unreadable => "unreadable",
            Self::Changed => "changed",
            Self::Vanished => "vanished",
            Self::Journal => "journal",
            Self::Metered => "metered",
        }
    }

    /// Whether the endpoint as a whole is to be left alone for a while, and not only this file.
    #[must_use]
    pub const fn is_of_the_endpoint(self) -> bool {
        matches!(
            self,
            Self::Connect
                | Self::Tls
                | Self::Proxy
                | Self::Stalled
                | Self::TooLong
                | Self::EarlyClose
                | Self::EarlyAnswer
                | Self::Garbage
                | Self::RequestTimeout
                | Self::TooMany
                | Self::Unavailable
                | Self::ServerError
                | Self::Unauthorized
                | Self::Redirect
        )
    }

    /// Whether nobody but the file is to blame: there is nothing to wait for.
    #[must_use]
    pub const fn is_of_the_file(self) -> bool {
        matches!(self, Self::FrameDiffers | Self::LengthWanted | Self::Unreadable | Self::Changed | Self::Vanished)
    }

    /// Whether it is about the file at the gateway, and came before or without a word from the endpoint.
    #[must_use]
    pub const fn says_nothing_of_the_endpoint(self) -> bool {
        matches!(self, Self::Busy | Self::Unreadable | Self::Changed | Self::Vanished)
    }

    /// Whether an attempt goes on from what the server has.
    #[must_use]
    pub const fn keeps_what_is_there(self) -> bool {
        matches!(self.verdict(1), Verdict::Again)
    }

    /// What follows, after this many of this kind in a row for the file, without progress between, this one included.
    #[must_use]
    pub const fn verdict(self, in_a_row: u32) -> Verdict {
        match self {
            Self::Forbidden => Verdict::Park(Reason::Forbidden),
            Self::NotFound => Verdict::Park(Reason::NotFound),
            Self::TooLarge => Verdict::Park(Reason::TooLarge),
            Self::Changed => Verdict::Park(Reason::Changed),
            Self::Vanished => Verdict::Park(Reason::Vanished),
            Self::Unreadable => Verdict::Park(Reason::Unreadable),
            // A server may be in the middle of something: so each gets its chances.
            Self::Refused if in_a_row >= TRIES => Verdict::Park(Reason::Refused),
            Self::LyingOffset if in_a_row >= TRIES => Verdict::Park(Reason::LyingServer),
            Self::Forgotten if in_a_row >= FORGOTTEN_TRIES => Verdict::Park(Reason::LyingServer),
            Self::Corrupted | Self::Checksum if in_a_row >= TRIES => Verdict::Park(Reason::Corrupted),
            Self::Forgotten | Self::LyingOffset | Self::Corrupted | Self::FrameDiffers | Self::LengthWanted => {
                Verdict::Restart
            }
            _ => Verdict::Again,
        }
    }
}

/// Attempts that a file gets where the server may yet think better of it.
const TRIES: u32 = 3;
/// Times that a server may forget a file that it never remembered between: a restart, or uploads that it keeps for less time than the link
/// is away, are no reason to give up at once.
const FORGOTTEN_TRIES: u32 = 5;

impl Trouble {
    /// One that no answer belongs to.
    #[must_use]
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), retry_after: None, status: 0 }
    }

    /// What a status means to somebody who asked for something to be made or filled.
    #[must_use]
    pub fn of_status(status: StatusCode, begun: bool, said: &str) -> Self {
        let kind = match status.as_u16() {
            401 | 407 => Kind::Unauthorized,
            403 => Kind::Forbidden,
            404 | 410 if begun => Kind::Forgotten,
            404 | 410 => Kind::NotFound,
            408 => Kind::RequestTimeout,
            409 if begun => Kind::Conflict,
            413 => Kind::TooLarge,
            423 => Kind::Locked,
            429 => Kind::TooMany,
            460 => Kind::Checksum,
            503 => Kind::Unavailable,
            500..=599 => Kind::ServerError,
            400..=499 => Kind::Refused,
            _ => Kind::Garbage,
        };
        let reason = status.canonical_reason().unwrap_or_default();
        let space = if reason.is_empty() { "" } else { " " };
        let colon = if said.is_empty() { "" } else { ": " };
        let text = format!("the server answers {}{space}{reason}{colon}{said}", status.as_u16());
        Self { kind, text, retry_after: None, status: status.as_u16() }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_is_about_offsets_only_where_there_are_some() {
        let kind = |begun| Trouble::of_status(StatusCode::CONFLICT, begun, "").kind;
        assert_eq!(kind(true), Kind::Conflict);
        // A PUT to where a folder is: no time mends that.
        assert_eq!(kind(false).verdict(3), Verdict::Park(Reason::Refused));
    }
}
