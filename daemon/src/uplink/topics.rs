//! Topics and payloads of one gateway: what a stored record becomes on the wire.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_spool::Entry;

use super::client::Message;
use crate::{
    control::link::{Source, Subject},
    record::Stored,
};

/// Names below `ROOT/ID/`, and those of our groups below `ROOT/@GROUP/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topics {
    gateway: String,
    root: String,
    /// `ROOT/ID/`.
    prefix: String,
    groups: Vec<Arc<str>>,
}

impl Topics {
    /// Of gateway `id`, a member of `groups`, below `root`.
    pub(super) fn new(root: &str, id: &str, groups: &[String]) -> Self {
        let groups = groups.iter().map(|group| group.as_str().into()).collect();
        Self { gateway: id.to_owned(), root: root.to_owned(), prefix: format!("{root}/{id}/"), groups }
    }

    /// The retained state, and the will.
    pub(super) fn status(&self) -> String {
        format!("{}status", self.prefix)
    }

    /// Where our own round trip goes and comes back.
    pub(super) fn echo(&self) -> String {
        format!("{}echo", self.prefix)
    }

    /// Where the nonce goes that comes back behind all desired state.
    pub(super) fn barrier(&self) -> String {
        format!("{}echo/desired", self.prefix)
    }

    /// All desired documents that concern us.
    pub(super) fn desired(&self) -> impl Iterator<Item = (Subject, Source)> {
        let sources = self.groups.iter().cloned().map(Source::Group).chain([Source::Device]);
        sources.flat_map(|source| Subject::ALL.iter().map(move |subject| (*subject, source.clone())))
    }

    /// The topic of one of them.
    pub(super) fn desired_of(&self, subject: Subject, source: &Source) -> String {
        match source {
            Source::Group(group) => format!("{}/@{group}/{}/desired", self.root, subject.name()),
            Source::Device => format!("{}{}/desired", self.prefix, subject.name()),
        }
    }

    /// Where we say what we are.
    pub(super) fn reported(&self, subject: Subject) -> String {
        format!("{}{}/reported", self.prefix, subject.name())
    }

    /// What the topics of requests begin with.
    pub(super) fn requests(&self) -> String {
        format!("{}cmd/", self.prefix)
    }

    /// Where answers are meant to go, and broker.md lets them.
    pub(super) fn responses(&self) -> String {
        format!("{}response/", self.prefix)
    }

    /// The filter for requests.
    pub(super) fn all_requests(&self) -> String {
        format!("{}cmd/+", self.prefix)
    }

    /// The nonce of a round trip.
    pub(super) fn echo_payload(nonce: u64) -> String {
        format!(r#"{{"v":1,"nonce":"{nonce:016x}"}}"#)
    }

    /// The nonce in what came back.
    pub(super) fn nonce_of(payload: &[u8]) -> Option<u64> {
        let digits = payload.strip_prefix(br#"{"v":1,"nonce":""#)?.strip_suffix(br#""}"#)?;
        u64::from_str_radix(str::from_utf8(digits).ok().filter(|digits| digits.len() == 16)?, 16).ok()
    }

    /// The message that carries a record; `None` where its bytes are no record.
    pub(super) fn message(&self, epoch: &[u8; 16], entry: &Entry) -> Option<Message> {
        let stored = Stored::decode(&entry.payload)?;
        let payload = stored.envelope(&self.gateway, epoch, &entry.stream, entry.seq, entry.ts_ms);
        Some(Message { topic: format!("{}{}", self.prefix, stored.topic), payload: Bytes::from(payload) })
    }
}

#[cfg(test)]
mod tests {
    use tidegate_spool::Position;

    use super::*;
    use crate::record::{Record, Stamp};

    fn entry(payload: Bytes) -> Entry {
        Entry {
            position: Position { segment: 1, offset: 64 },
            stream: "telemetry".into(),
            seq: 9,
            ts_ms: 1_800_000_000_000,
            payload,
        }
    }

    #[test]
    fn record_becomes_its_topic_and_envelope() {
        let stamp = Stamp { boot: [7; 16], ts_ms: 1, up_ms: 1, synced: true };
        let payload = Record::telemetry("host", Bytes::from_static(b"{\"load\":1}")).encode(&stamp);
        let message = Topics::new("tidegate/v1", "gw-7", &[]).message(&[1; 16], &entry(payload)).unwrap();
        assert_eq!(message.topic, "tidegate/v1/gw-7/telemetry/host");
        let parsed: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!((parsed["seq"].as_u64(), parsed["gateway"].as_str()), (Some(9), Some("gw-7")));
    }

    #[test]
    fn a_gateway_is_told_by_its_groups_and_by_itself() {
        let topics = Topics::new("tidegate/v1", "gw-7", &["plant".to_owned(), "pilot".to_owned()]);
        let desired: Vec<_> = topics.desired().map(|(subject, source)| topics.desired_of(subject, &source)).collect();
        let whose = ["@plant", "@pilot", "gw-7"];
        let expected =
            whose.map(|whose| ["config", "policy"].map(|what| format!("tidegate/v1/{whose}/{what}/desired")));
        assert_eq!(desired, expected.concat());
        assert_eq!(topics.reported(Subject::Config), "tidegate/v1/gw-7/config/reported");
    }

    #[test]
    fn bytes_that_are_no_record_become_no_message() {
        assert_eq!(Topics::new("r", "i", &[]).message(&[0; 16], &entry(Bytes::from_static(b"garbage"))), None);
    }

    #[test]
    fn nonce_comes_back_as_it_went() {
        for nonce in [0, 1, u64::MAX] {
            assert_eq!(Topics::nonce_of(Topics::echo_payload(nonce).as_bytes()), Some(nonce));
        }
        for foreign in ["", "{}", r#"{"v":1,"nonce":""}"#, r#"{"v":1,"nonce":"+000000000000001"}x"#] {
            assert_eq!(Topics::nonce_of(foreign.as_bytes()), None, "{foreign}");
        }
    }
}
