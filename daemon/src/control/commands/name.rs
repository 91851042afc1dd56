//! Which commands there are.

use std::fmt;

/// A command: the last level of the topic `cmd/NAME`, and a word in `[commands] enabled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// Tells all that `tidegate status` shows.
    Status,
    /// Tells the flows in the kernel's table.
    Flows,
    /// Tries what was rolled back or refused once more.
    Retry,
    /// Logs more, or less, for a time.
    LogLevel,
    /// Sends no files for a time.
    UploadPause,
    /// Stops in order, for the supervisor to start it again.
    Restart,
}

impl Name {
    /// All of them.
    pub const ALL: &[Self] =
        &[Self::Status, Self::Flows, Self::Retry, Self::LogLevel, Self::UploadPause, Self::Restart];

    /// As it stands in topics and in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Flows => "flows",
            Self::Retry => "retry",
            Self::LogLevel => "log-level",
            Self::UploadPause => "upload-pause",
            Self::Restart => "restart",
        }
    }

    /// The command of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|command| command.name() == name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
