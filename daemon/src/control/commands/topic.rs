//! Where an answer may go: whoever asks chooses the topic, and the gateway publishes there with its own rights.
//!
//! So a response topic must not be one on which the gateway itself is believed, or by which it or another gateway could
//! be told what to do.

/// Longest response topic, in bytes.
pub const MAX_TOPIC_BYTES: usize = 512;

/// First levels below `ROOT/ID/` that have a meaning of their own.
const OURS: &[&str] = &["status", "echo", "telemetry", "event", "ingest", "cmd"];
/// Last levels that have one.
const STATES: &[&str] = &["desired", "reported"];

/// The topics of one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Realm<'a> {
    /// `[mqtt] root`.
    pub root: &'a str,
    /// `[gateway] id`.
    pub id: &'a str,
}

impl Realm<'_> {
    /// Judges a response topic.
    ///
    /// # Errors
    ///
    /// Why nothing is published there.
    pub fn judge(&self, topic: &str) -> Result<(), &'static str> {
        if topic.is_empty() || topic.len() > MAX_TOPIC_BYTES {
            return Err("wanted 1 to 512 bytes");
        }
        if topic.starts_with('$') {
            return Err("topics that begin with $ are the broker's");
        }
        if topic.contains(['+', '#']) {
            return Err("wildcards are for subscriptions");
        }
        if topic.chars().any(is_refused_by_brokers) {
            return Err("control characters and non-characters end the connection (MQTT 5, 1.5.4)");
        }
        let Some(below_root) = topic.strip_prefix(self.root).and_then(|rest| rest.strip_prefix('/')) else {
            return Ok(());
        };
        let Some(below_id) = below_root.strip_prefix(self.id).and_then(|rest| rest.strip_prefix('/')) else {
            return Err("it is another gateway's, or a group's");
        };
        let mut levels = below_id.split('/');
        if levels.next().is_some_and(|first| OURS.contains(&first)) {
            return Err("the gateway itself speaks or listens there");
        }
        if levels.next_back().is_some_and(|last| STATES.contains(&last)) {
            return Err("desired and reported state has its own publishers");
        }
        Ok(())
    }
}

/// What MQTT 5, 1.5.4, lets a receiver close the connection for; mosquitto does.
fn is_refused_by_brokers(char: char) -> bool {
    char.is_control() || matches!(u32::from(char), 0xFDD0..=0xFDEF) || u32::from(char) & 0xFFFE == 0xFFFE
}

#[cfg(test)]
mod tests {
    use super::*;

    const REALM: Realm<'_> = Realm { root: "tidegate/v1", id: "gw-7" };

    #[test]
    fn answers_go_to_response_topics_and_to_those_of_others_on_the_broker() {
        for topic in [
            "tidegate/v1/gw-7/response/laptop",
            "tidegate/v1/gw-7/response",
            "ops/answers/4711",
            "tidegate/v10/anything",
            "tidegate",
            "antworten/für/Jürgen",
        ] {
            assert_eq!(REALM.judge(topic), Ok(()), "{topic}");
        }
    }

    #[test]
    fn nobody_has_the_gateway_publish_where_it_is_believed_or_obeyed() {
        for topic in [
            "",
            "$SYS/broker",
            "$share/group/topic",
            "ops/+",
            "ops/#",
            "ops/\u{0}",
            "ops/\u{7f}",
            "ops/\u{fdd0}",
            "ops/\u{1ffff}",
            "tidegate/v1/",
            "tidegate/v1/gw-7",
            "tidegate/v1/gw-8/response/laptop",
            "tidegate/v1/gw-77/response/laptop",
            "tidegate/v1/@plant/config/desired",
            "tidegate/v1/@plant/response",
            "tidegate/v1/gw-7/status",
            "tidegate/v1/gw-7/echo",
            "tidegate/v1/gw-7/telemetry/host",
            "tidegate/v1/gw-7/event/loss",
            "tidegate/v1/gw-7/ingest/meter",
            "tidegate/v1/gw-7/cmd/restart",
            "tidegate/v1/gw-7/cmd",
            "tidegate/v1/gw-7/config/desired",
            "tidegate/v1/gw-7/config/reported",
            "tidegate/v1/gw-7/policy/desired",
            "tidegate/v1/gw-7/anything/else/reported",
        ] {
            assert!(REALM.judge(topic).is_err(), "{topic}");
        }
        assert!(REALM.judge(&"x".repeat(513)).is_err());
    }
}
