//! Why a request is not performed.

/// Longest reason that is told and logged; ours are shorter, but some quote the request.
const MAX_REASON_CHARS: usize = 300;
/// Most that is quoted of a request.
const MAX_EXCERPT_CHARS: usize = 60;

/// What is wrong, for programs: the member `error` of the answer, and the counters in the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// There is no such command.
    UnknownCommand,
    /// It is not in `[commands] enabled`.
    Disabled,
    /// The payload is over [`crate::control::link::MAX_REQUEST_BYTES`].
    TooLarge,
    /// The payload is not what the command takes.
    BadRequest,
    /// Too many requests; only some are told so.
    RateLimited,
    /// The answer would go where it may not; nobody is told so.
    BadResponseTopic,
    /// It was published with the retain flag: it would come again with each connect. Nobody is told so.
    Retained,
    /// The same command is still being answered.
    Busy,
    /// Nobody would start the daemon again.
    Unsupervised,
    /// It was tried.
    Failed,
}

impl Code {
    /// As it stands in answers and in the status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownCommand => "unknown-command",
            Self::Disabled => "disabled",
            Self::TooLarge => "too-large",
            Self::BadRequest => "bad-request",
            Self::RateLimited => "rate-limited",
            Self::BadResponseTopic => "bad-response-topic",
            Self::Retained => "retained",
            Self::Busy => "busy",
            Self::Unsupervised => "unsupervised",
            Self::Failed => "failed",
        }
    }
}

/// A request that is not performed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong, for programs.
    pub code: Code,
    /// What is wrong, for people: what was wanted, what was found, what to do. Bounded, without control characters.
    pub reason: String,
}

impl Refusal {
    /// A refusal with its reason, which is cut where it is too long.
    #[must_use]
    pub fn new(code: Code, reason: &str) -> Self {
        let shown = |char: char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char };
        Self { code, reason: reason.chars().take(MAX_REASON_CHARS).map(shown).collect() }
    }

    pub(super) fn bad_request(reason: &str) -> Self {
        Self::new(Code::BadRequest, reason)
    }
}

/// What somebody else wrote, in quotes: the beginning of it, with all escaped that a terminal or a journal could take
/// for something else.
#[must_use]
pub(super) fn excerpt(text: &str) -> String {
    let mut chars = text.chars();
    let mut quoted: String = chars.by_ref().take(MAX_EXCERPT_CHARS).collect();
    if chars.next().is_some() {
        quoted.push('…');
    }
    format!("{quoted:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_short_and_cannot_pose_as_something_else() {
        assert_eq!(excerpt("a\u{1b}[2Jb\n"), r#""a\u{1b}[2Jb\n""#);
        assert_eq!(excerpt("user\u{202e}"), r#""user\u{202e}""#);
        assert_eq!(excerpt(&"x".repeat(1000)).chars().count(), MAX_EXCERPT_CHARS + 3);
        let refusal = Refusal::new(Code::Failed, &format!("\r{}", "y".repeat(1000)));
        assert_eq!(refusal.reason.chars().count(), MAX_REASON_CHARS);
        assert!(refusal.reason.starts_with("\u{fffd}y"));
    }
}
