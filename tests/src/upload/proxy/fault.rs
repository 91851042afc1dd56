//! What can happen to a connection.

use std::{
    fmt::{self, Display},
    time::Duration,
};

/// What happens to one connection. Bytes are counted as they pass the proxy, from the connection's first one on, heads and
/// TLS included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Both sides' connections end.
    Cut {
        /// When.
        at: At,
        /// How.
        end: End,
    },
    /// Nothing passes any more, either way, while the connections stay open.
    Stall {
        /// When it begins.
        at: At,
        /// How long; none means for ever.
        lasts: Option<Duration>,
    },
    /// All passes, but slowly.
    Slow {
        /// Each way.
        bytes_per_s: u64,
    },
    /// When so many bytes have come down and more come, the client gets these instead, then the end.
    Garbage {
        /// Bytes down before.
        after: u64,
        /// What comes instead.
        bytes: Vec<u8>,
    },
    /// When so many bytes, and at least one, have gone up, the server's connection ends, and the proxy answers the client
    /// in its place, without a body.
    Answer {
        /// Bytes up before.
        after: u64,
        /// Such as 503.
        status: u16,
        /// Such as `Retry-After`, with its value.
        headers: Vec<(String, String)>,
        /// Takes what the client goes on to send until it ends, at most 30 seconds; else the connection is closed at
        /// once, which resets it, and may rob the client of the answer, where it still sends.
        reads_on: bool,
    },
    /// One way ends in order, and what still comes that way is thrown away; the other way stays open.
    HalfClose {
        /// When, and which way.
        at: At,
    },
    /// The connection is accepted and reset at once.
    Refuse,
    /// Each `Upload-Offset` of an answer is changed by this.
    Lie {
        /// Added to it; the result is not below zero.
        delta: i64,
    },
    /// The first HEAD or PATCH is answered by the proxy with this, without its reaching the server; then the connection
    /// ends.
    Forget {
        /// 404 or 410.
        status: u16,
    },
}

/// A place in a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// When so many bytes went from the client to the server.
    Up(u64),
    /// When so many came from the server to the client, and one more comes: after 0 when the first answer does.
    Down(u64),
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// FIN: as if the peer were done.
    Orderly,
    /// RST: as by a router that lost its table, or a process that was killed.
    Reset,
}

impl Fault {
    /// A cut when so many bytes went up.
    #[must_use]
    pub const fn cut_up(bytes: u64, end: End) -> Self {
        Self::Cut { at: At::Up(bytes), end }
    }

    /// A cut when so many bytes came down and one more comes: 0 keeps a first answer from the client that the server gave.
    #[must_use]
    pub const fn cut_down(bytes: u64, end: End) -> Self {
        Self::Cut { at: At::Down(bytes), end }
    }

    /// A stall for ever when so many bytes went up.
    #[must_use]
    pub const fn stall_up(bytes: u64) -> Self {
        Self::Stall { at: At::Up(bytes), lasts: None }
    }

    /// An answer of the proxy's own when so many bytes went up, after which it reads on.
    #[must_use]
    pub const fn answer(after: u64, status: u16) -> Self {
        Self::Answer { after, status, headers: Vec::new(), reads_on: true }
    }

    /// Its name in [`Counts::applied`](super::Counts::applied).
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Cut { .. } => "cut",
            Self::Stall { .. } => "stall",
            Self::Slow { .. } => "slow",
            Self::Garbage { .. } => "garbage",
            Self::Answer { .. } => "answer",
            Self::HalfClose { .. } => "half-close",
            Self::Refuse => "refuse",
            Self::Lie { .. } => "lie",
            Self::Forget { .. } => "forget",
        }
    }

    /// The place where it happens, for those that have one.
    pub(super) fn at(&self) -> Option<At> {
        match self {
            Self::Cut { at, .. } | Self::Stall { at, .. } | Self::HalfClose { at } => Some(*at),
            Self::Garbage { after, .. } => Some(At::Down(*after)),
            Self::Answer { after, .. } => Some(At::Up((*after).max(1))),
            Self::None | Self::Slow { .. } | Self::Refuse | Self::Lie { .. } | Self::Forget { .. } => None,
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::None | Self::Refuse => Ok(()),
            Self::Cut { at, end } => write!(f, " {at}, {end:?}"),
            Self::Stall { at, lasts: Some(lasts) } => write!(f, " {at} for {lasts:?}"),
            Self::Stall { at, lasts: None } => write!(f, " {at} for ever"),
            Self::Slow { bytes_per_s } => write!(f, " {bytes_per_s} B/s"),
            Self::Garbage { after, bytes } => write!(f, " {}, {} bytes", At::Down(*after), bytes.len()),
            Self::Answer { after, status, headers, reads_on } => {
                write!(f, " {status} {}", At::Up(*after))?;
                headers.iter().try_for_each(|(name, value)| write!(f, ", {name}: {value}"))?;
                f.write_str(if *reads_on { ", reads on" } else { ", closes" })
            }
            Self::HalfClose { at } => write!(f, " {at}"),
            Self::Lie { delta } => write!(f, " {delta:+}"),
            Self::Forget { status } => write!(f, " {status}"),
        }
    }
}

impl Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up(bytes) => write!(f, "after {bytes} up"),
            Self::Down(bytes) => write!(f, "after {bytes} down"),
        }
    }
}
