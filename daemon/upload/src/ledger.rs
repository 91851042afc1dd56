#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Forbidden,
    NotFound,
    TooLarge,
    Changed,
    Vanished,
    Unreadable,
    BadMetadata,
    Refused,
    LyingServer,
    Corrupted,
}
