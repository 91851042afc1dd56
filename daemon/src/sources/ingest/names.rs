//! The names in use, at most as many as the contract allows, and what each counted.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

/// Names in use at the same time, and for as long as the spool lives: each is a stream with a sequence of its own
/// that must never start again.
pub(super) const MAX_NAMES: usize = 32;

/// What one name counted since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NameCounts {
    /// Records on disk.
    pub accepted: u64,
    /// Bytes of their `data`.
    pub bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Names {
    /// By stream, `ingest/NAME`.
    by_stream: BTreeMap<Arc<str>, NameCounts>,
}

impl Names {
    /// With the streams that the spool holds already.
    pub(super) fn new(streams: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self { by_stream: streams.into_iter().map(|stream| (stream, NameCounts::default())).collect() }
    }

    /// The stream of a name; `None` where it would be one too many.
    pub(super) fn stream(&mut self, name: &str) -> Option<Arc<str>> {
        let wanted = format!("ingest/{name}");
        if let Some((stream, _)) = self.by_stream.get_key_value(wanted.as_str()) {
            return Some(Arc::clone(stream));
        }
        if self.by_stream.len() >= MAX_NAMES {
            return None;
        }
        let stream: Arc<str> = wanted.into();
        self.by_stream.insert(Arc::clone(&stream), NameCounts::default());
        Some(stream)
    }

    pub(super) fn count(&mut self, stream: &Arc<str>, bytes: usize) {
        let counts = self.by_stream.entry(Arc::clone(stream)).or_default();
        counts.accepted += 1;
        counts.bytes += bytes as u64;
    }

    /// By name.
    pub(super) fn counts(&self) -> BTreeMap<String, NameCounts> {
        let name = |stream: &Arc<str>| stream.strip_prefix("ingest/").unwrap_or(stream).to_owned();
        self.by_stream.iter().map(|(stream, counts)| (name(stream), *counts)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_33rd_name_is_refused_and_the_32_others_go_on() {
        let mut names = Names::new(["ingest/old".into()]);
        for index in 1..MAX_NAMES {
            assert!(names.stream(&format!("n{index}")).is_some());
        }
        assert_eq!(names.stream("one-more"), None);
        assert_eq!(names.stream("old").as_deref(), Some("ingest/old"));
        names.count(&"ingest/old".into(), 10);
        assert_eq!(names.counts()["old"], NameCounts { accepted: 1, bytes: 10 });
    }
}
