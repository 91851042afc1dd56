//! Topics and payloads of one gateway: what a stored record becomes on the wire.

use bytes::Bytes;
use tidegate_spool::Entry;

use super::client::Message;
use crate::record::Stored;

/// Names below `ROOT/ID/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topics {
    gateway: String,
    /// `ROOT/ID/`.
    prefix: String,
}

impl Topics {
    /// Of gateway `id` below `root`.
    pub(super) fn new(root: &str, id: &str) -> Self {
        Self { gateway: id.to_owned(), prefix: format!("{root}/{id}/") }
    }

    /// The retained state, and the will.
    pub(super) fn status(&self) -> String {
        format!("{}status", self.prefix)
    }

    /// Where our own round trip goes and comes back.
    pub(super) fn echo(&self) -> String {
        format!("{}echo", self.prefix)
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
        let message = Topics::new("tidegate/v1", "gw-7").message(&[1; 16], &entry(payload)).unwrap();
        assert_eq!(message.topic, "tidegate/v1/gw-7/telemetry/host");
        let parsed: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!((parsed["seq"].as_u64(), parsed["gateway"].as_str()), (Some(9), Some("gw-7")));
    }

    #[test]
    fn bytes_that_are_no_record_become_no_message() {
        assert_eq!(Topics::new("r", "i").message(&[0; 16], &entry(Bytes::from_static(b"garbage"))), None);
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
