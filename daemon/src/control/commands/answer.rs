//! Answers as they go out.
//!
//! ```text
//! {"v":1,"command":"flows","ok":true,"boot":UUID,"ts_ms":T,"data":{…}}
//! {"v":1,"command":"flows","ok":false,"boot":UUID,"ts_ms":T,"error":"disabled","reason":"…"}
//! ```
//!
//! While the clock is not set, `"synced":false` and `up_ms` as in records.

use bytes::Bytes;
use serde::Serialize;

use super::refusal::Refusal;
use crate::{
    control::link::{Answer, Request},
    record::{Stamp, Uuid},
};

/// Most of an unknown command's name that is told back.
const MAX_NAME_CHARS: usize = 64;

/// Where the answers to a request go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The request's name, which need not be a command's.
    command: String,
    topic: String,
    correlation_data: Option<Bytes>,
}

impl Reply {
    /// To whoever sent this; `None` where they want no answer. Whether its topic may be published to is judged before.
    pub(super) fn to(request: &Request) -> Option<Self> {
        Some(Self {
            command: request.name.chars().take(MAX_NAME_CHARS).collect(),
            topic: request.response_topic.clone()?,
            correlation_data: request.correlation_data.clone(),
        })
    }

    /// That it was done, with what it gave.
    #[must_use]
    pub fn done(&self, stamp: &Stamp, data: &impl Serialize) -> Answer {
        self.answer(stamp, Ok(data))
    }

    /// That it was refused.
    #[must_use]
    pub fn refused(&self, stamp: &Stamp, refusal: &Refusal) -> Answer {
        self.answer(stamp, Err::<&(), _>(refusal))
    }

    fn answer<T: Serialize>(&self, stamp: &Stamp, outcome: Result<&T, &Refusal>) -> Answer {
        let told = Told {
            v: 1,
            command: &self.command,
            ok: outcome.is_ok(),
            boot: Uuid(&stamp.boot).to_string(),
            ts_ms: stamp.ts_ms,
            synced: (!stamp.synced).then_some(false),
            up_ms: (!stamp.synced).then_some(stamp.up_ms),
            data: outcome.ok(),
            error: outcome.err().map(|refusal| refusal.code.name()),
            reason: outcome.err().map(|refusal| &*refusal.reason),
        };
        let payload = serde_json::to_vec(&told).expect("structs with named fields and string keys are JSON");
        Answer { topic: self.topic.clone(), correlation_data: self.correlation_data.clone(), payload: payload.into() }
    }
}

#[derive(Serialize)]
struct Told<'a, T> {
    v: u8,
    command: &'a str,
    ok: bool,
    boot: String,
    ts_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    synced: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    up_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::commands::refusal::Code;

    const STAMP: Stamp = Stamp { boot: [7; 16], ts_ms: 1_800_000_000_000, up_ms: 42, synced: true };

    fn reply(name: &str) -> Reply {
        let request = Request {
            name: name.to_owned(),
            response_topic: Some("ops/answers".to_owned()),
            correlation_data: Some(Bytes::from_static(b"\0\xff")),
            ..Request::default()
        };
        Reply::to(&request).unwrap()
    }

    #[test]
    fn an_answer_says_what_became_of_which_command() {
        let answer = reply("retry").done(&STAMP, &json!({"subject": "config"}));
        assert_eq!((&*answer.topic, answer.correlation_data), ("ops/answers", Some(Bytes::from_static(b"\0\xff"))));
        assert_eq!(
            answer.payload,
            r#"{"v":1,"command":"retry","ok":true,"boot":"07070707-0707-0707-0707-070707070707","ts_ms":1800000000000,"data":{"subject":"config"}}"#
        );
        let unset = Stamp { ts_ms: 5, synced: false, ..STAMP };
        assert_eq!(
            reply("flows").refused(&unset, &Refusal::new(Code::Disabled, "no \"flows\"")).payload,
            r#"{"v":1,"command":"flows","ok":false,"boot":"07070707-0707-0707-0707-070707070707","ts_ms":5,"synced":false,"up_ms":42,"error":"disabled","reason":"no \"flows\""}"#
        );
    }

    #[test]
    fn a_name_that_fills_a_topic_is_not_told_back_whole() {
        let answer = reply(&"é\u{1}".repeat(30_000)).refused(&STAMP, &Refusal::new(Code::UnknownCommand, ""));
        assert!(answer.payload.len() < 1000);
    }
}
