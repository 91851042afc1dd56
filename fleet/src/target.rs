//! Whom a document is for, and where it stands at the broker.

use std::{fmt, sync::Arc};

/// Whom a document is for. Groups come before gateways, as they apply.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// All members of a group.
    Group(Arc<str>),
    /// One gateway.
    Gateway(Arc<str>),
}

impl Target {
    /// Reads the level of a topic that names whom it is for: `@GROUP` or `ID`.
    #[must_use]
    pub fn of_level(level: &str) -> Option<Self> {
        match level.strip_prefix('@') {
            Some(group) => is_identifier(group).then(|| Self::Group(group.into())),
            None => is_identifier(level).then(|| Self::Gateway(level.into())),
        }
    }

    /// Whether it is a group.
    #[must_use]
    pub const fn is_group(&self) -> bool {
        matches!(self, Self::Group(_))
    }
}

/// `@GROUP` or `ID`: the level of its topics.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(name) => write!(f, "@{name}"),
            Self::Gateway(id) => f.write_str(id),
        }
    }
}

/// Whether it can be a gateway's id or a group's name: `[A-Za-z0-9_.-]{1,64}` (docs/mqtt.md).
#[must_use]
pub fn is_identifier(text: &str) -> bool {
    matches!(text.len(), 1..=64)
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// The topics below one root.
#[derive(Clone, Debug)]
pub struct Topics {
    root: Box<str>,
}

/// What a topic is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// `ROOT/TARGET/config/desired`
    Desired(Target),
    /// `ROOT/ID/config/reported`
    Reported(Arc<str>),
    /// `ROOT/ID/status`
    Status(Arc<str>),
}

impl Topics {
    /// Below `root`, such as `tidegate/v1`.
    #[must_use]
    pub fn below(root: &str) -> Self {
        Self { root: root.into() }
    }

    /// Where the document for a target stands.
    #[must_use]
    pub fn desired(&self, target: &Target) -> String {
        format!("{}/{target}/config/desired", self.root)
    }

    /// What there is to know of a whole fleet. Three filters with one wildcard each: access lists can grant just these.
    #[must_use]
    pub fn filters(&self) -> [String; 3] {
        ["config/desired", "config/reported", "status"].map(|below| format!("{}/+/{below}", self.root))
    }

    /// What a topic is about; `None` for others.
    #[must_use]
    pub fn read(&self, topic: &str) -> Option<Topic> {
        let (level, below) = topic.strip_prefix(&*self.root)?.strip_prefix('/')?.split_once('/')?;
        match (Target::of_level(level)?, below) {
            (target, "config/desired") => Some(Topic::Desired(target)),
            (Target::Gateway(id), "config/reported") => Some(Topic::Reported(id)),
            (Target::Gateway(id), "status") => Some(Topic::Status(id)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_as_they_are_written() {
        let topics = Topics::below("tidegate/v1");
        for target in [Target::Group("plant".into()), Target::Gateway("gw-7".into())] {
            assert_eq!(topics.read(&topics.desired(&target)), Some(Topic::Desired(target)));
        }
        assert_eq!(topics.read("tidegate/v1/gw-7/config/reported"), Some(Topic::Reported("gw-7".into())));
        assert_eq!(topics.read("tidegate/v1/gw-7/status"), Some(Topic::Status("gw-7".into())));
    }

    #[test]
    fn other_topics_are_none_of_ours() {
        let topics = Topics::below("tidegate/v1");
        for topic in [
            "",
            "tidegate/v1",
            "tidegate/v10/gw-7/status",
            "tidegate/v1/gw-7",
            "tidegate/v1/gw-7/echo",
            "tidegate/v1/@plant/status",
            "tidegate/v1/@/config/desired",
            "tidegate/v1/a b/config/desired",
            "tidegate/v1/gw-7/config/desired/x",
        ] {
            assert_eq!(topics.read(topic), None, "{topic}");
        }
    }
}
