//! The names in use, at most as many as the contract allows, and what each counted.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use crate::gather::Gather as _;

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
    /// The stream of a name; `None` where it would be one too many. `in_spool` tells the streams that the spool
    /// has numbered: it is asked for a name that is new here, since the spool may have been opened after us.
    pub(super) fn stream(&mut self, name: &str, in_spool: impl FnOnce() -> Vec<Arc<str>>) -> Option<Arc<str>> {
        let wanted = format!("ingest/{name}");
        if let Some((stream, _)) = self.by_stream.get_key_value(wanted.as_str()) {
            return Some(Arc::clone(stream));
        }
        for stream in in_spool() {
            self.by_stream.entry(stream).or_default();
        }
        if self.by_stream.len() >= MAX_NAMES && !self.by_stream.contains_key(wanted.as_str()) {
            return None;
        }
        let stream: Arc<str> = wanted.into();
        self.by_stream.entry(Arc::clone(&stream)).or_default();
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
        self.by_stream.iter().map(|(stream, counts)| (name(stream), *counts)).gather()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_33rd_name_is_refused_and_the_32_others_go_on() {
        let in_spool = || vec!["ingest/old".into(), "ingest/older".into()];
        let mut names = Names::default();
        for index in 2..MAX_NAMES {
            assert!(names.stream(&format!("n{index}"), in_spool).is_some());
        }
        assert_eq!(names.stream("one-more", in_spool), None);
        assert_eq!(names.stream("old", Vec::new).as_deref(), Some("ingest/old"));
        names.count(&"ingest/old".into(), 10);
        assert_eq!(names.counts()["old"], NameCounts { accepted: 1, bytes: 10 });
    }
}
