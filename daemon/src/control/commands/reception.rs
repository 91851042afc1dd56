//! What becomes of a request: performed, refused and told so, or refused in silence. Pure: time comes in.
//!
//! ```text
//! request ─ retained? ─ may we answer there? ─ too many? ─ known? ─ enabled? ─ readable? ─► command
//! ```
//!
//! In silence goes what nobody waits for (retained, or without a response topic), what may not be answered where it wants to
//! be, and most of what is too much: a flood of requests is not to become a flood of answers.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Name,
    answer::Reply,
    bucket::Bucket,
    command::Command,
    refusal::{Code, Refusal, excerpt},
    topic::Realm,
};
use crate::control::link::Request;

/// Requests in the long run: one in this time, …
const REQUEST_PERIOD: Duration = Duration::from_millis(100);
/// … after so many at once: a person's script, or a console that opens.
const REQUEST_BURST: u32 = 20;
/// Requests beyond that are answered so often.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(1);

/// Judges requests.
#[derive(Clone, Debug)]
pub struct Reception {
    requests: Bucket,
    complaints: Bucket,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// What it asks for, or why it is refused.
    pub outcome: Result<Command, Refusal>,
    /// Where that is told; `None`: nowhere.
    pub reply: Option<Reply>,
}

impl Default for Reception {
    fn default() -> Self {
        Self { requests: Bucket::new(REQUEST_PERIOD, REQUEST_BURST), complaints: Bucket::new(COMPLAINT_PERIOD, 1) }
    }
}

impl Reception {
    /// Judges a request to this gateway, of which the `enabled` commands are performed.
    pub fn judge(&mut self, now: Instant, realm: Realm<'_>, enabled: &[Name], request: &Request) -> Judged {
        let silence = |code, reason: &str| Judged { outcome: Err(Refusal::new(code, reason)), reply: None };
        if request.retained {
            return silence(
                Code::Retained,
                "it was published with the retain flag, and would come again; publish requests without",
            );
        }
        let in_time = self.requests.take(now);
        if let Some(Err(why)) = request.response_topic.as_deref().map(|topic| realm.judge(topic)) {
            let topic = excerpt(request.response_topic.as_deref().unwrap_or_default());
            return silence(Code::BadResponseTopic, &format!("no answer goes to {topic}: {why}"));
        }
        let reply = Reply::to(request);
        if !in_time {
            let reply = reply.filter(|_| self.complaints.take(now));
            let refusal = Refusal::new(Code::RateLimited, "more than 10 requests a second; ask again later");
            return Judged { outcome: Err(refusal), reply };
        }
        Judged { outcome: read(enabled, request), reply }
    }
}

fn read(enabled: &[Name], request: &Request) -> Result<Command, Refusal> {
    let Some(name) = Name::find(&request.name) else {
        let known: Vec<_> = Name::ALL.iter().map(|name| name.name()).collect();
        let reason = format!("no command {}; there are: {}", excerpt(&request.name), known.join(", "));
        return Err(Refusal::new(Code::UnknownCommand, &reason));
    };
    if !enabled.contains(&name) {
        let reason = format!("{name} is not among [commands] enabled in the gateway's local configuration");
        return Err(Refusal::new(Code::Disabled, &reason));
    }
    Command::read(name, request.payload.as_deref())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const REALM: Realm<'_> = Realm { root: "tidegate/v1", id: "gw-7" };

    fn request(name: &str) -> Request {
        Request {
            name: name.to_owned(),
            payload: Some(Bytes::new()),
            response_topic: Some("tidegate/v1/gw-7/response/laptop".to_owned()),
            correlation_data: Some(Bytes::from_static(b"4711")),
            ..Request::default()
        }
    }

    fn code(judged: &Judged) -> Option<Code> {
        judged.outcome.as_ref().err().map(|refusal| refusal.code)
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_performed_where_it_is_known_enabled_and_readable() {
        let mut reception = Reception::default();
        let mut judge = |enabled: &[Name], request| reception.judge(Instant::now(), REALM, enabled, &request);
        let judged = judge(Name::ALL, request("status"));
        assert_eq!(judged.outcome, Ok(Command::Status));
        assert!(judged.reply.is_some());
        assert_eq!(code(&judge(Name::ALL, request("reboot"))), Some(Code::UnknownCommand));
        assert_eq!(code(&judge(&[Name::Flows], request("status"))), Some(Code::Disabled));
        assert_eq!(code(&judge(&[], request("flows"))), Some(Code::Disabled));
        let bad = Request { payload: Some(Bytes::from_static(b"[]")), ..request("status") };
        assert_eq!(code(&judge(Name::ALL, bad)), Some(Code::BadRequest));
        let large = Request { payload: None, ..request("status") };
        assert_eq!(code(&judge(Name::ALL, large)), Some(Code::TooLarge));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_response_topic_is_performed_and_not_answered() {
        let quiet = Request { response_topic: None, ..request("status") };
        let judged = Reception::default().judge(Instant::now(), REALM, Name::ALL, &quiet);
        assert_eq!(judged, Judged { outcome: Ok(Command::Status), reply: None });
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_broker_kept_and_what_would_be_answered_in_the_wrong_place_is_neither_performed_nor_answered() {
        let mut reception = Reception::default();
        let kept = Request { retained: true, ..request("restart") };
        let misled = Request { response_topic: Some("tidegate/v1/gw-7/status".to_owned()), ..request("restart") };
        for (request, expected) in [(kept, Code::Retained), (misled, Code::BadResponseTopic)] {
            let judged = reception.judge(Instant::now(), REALM, Name::ALL, &request);
            assert_eq!((code(&judged), judged.reply), (Some(expected), None));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_requests_becomes_a_trickle_of_answers() {
        let mut reception = Reception::default();
        let begun = Instant::now();
        let (mut performed, mut complaints, mut silent) = (0, 0, 0);
        // A thousand requests a second for ten seconds.
        for ms in 0..10_000 {
            let judged = reception.judge(begun + Duration::from_millis(ms), REALM, Name::ALL, &request("status"));
            match (judged.outcome, judged.reply) {
                (Ok(_), _) => performed += 1,
                (Err(_), Some(_)) => complaints += 1,
                (Err(_), None) => silent += 1,
            }
        }
        assert_eq!((performed, complaints), (20 + 99, 10));
        assert_eq!(silent, 10_000 - performed - complaints);
    }
}
