//! What the broker's access list forbids, remembered from connection to connection.
//!
//! mosquitto 2.0 closes the connection over a publish that it denies, where its queues are not limited: what is not
//! indispensable must not be tried again at each connect, or there would be nothing but connects.
//!
//! Our own topics are few. Response topics are chosen by strangers, who could name a new one with each request: so many are
//! remembered, and once these are denied, answers go only where the access list is meant to allow them.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// Until a topic is tried again: the access list may have been mended.
const AGAIN_AFTER: Duration = Duration::from_mins(10);

/// Response topics that are remembered.
const MAX_RESPONSES: usize = 32;

/// Topics that the broker did not let us publish to, and when.
#[derive(Debug, Default)]
pub(super) struct Forbidden {
    ours: BTreeMap<String, Instant>,
    responses: BTreeMap<String, Instant>,
}

impl Forbidden {
    /// The broker denied a publish to a topic of ours.
    pub(super) fn note(&mut self, topic: &str, now: Instant) {
        self.ours.insert(topic.to_owned(), now);
    }

    /// The broker denied an answer.
    pub(super) fn note_response(&mut self, topic: &str, now: Instant) {
        self.responses.retain(|_, denied| still(*denied, now));
        if self.responses.len() < MAX_RESPONSES || self.responses.contains_key(topic) {
            self.responses.insert(topic.to_owned(), now);
        }
    }

    /// Whether a publish to a topic of ours would only be denied again.
    pub(super) fn holds(&self, topic: &str, now: Instant) -> bool {
        self.ours.get(topic).is_some_and(|denied| still(*denied, now))
    }

    /// Whether an answer would be denied, as far as can be told; those below `meant` are the last to be given up.
    pub(super) fn holds_response(&self, topic: &str, meant: &str, now: Instant) -> bool {
        if self.responses.get(topic).is_some_and(|denied| still(*denied, now)) {
            return true;
        }
        let mut denied = self.responses.iter().filter(|(_, denied)| still(**denied, now)).map(|(topic, _)| topic);
        let full = denied.clone().count() >= MAX_RESPONSES;
        full && (!topic.starts_with(meant) || denied.any(|denied| denied.starts_with(meant)))
    }
}

fn still(denied: Instant, now: Instant) -> bool {
    now - denied < AGAIN_AFTER
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEANT: &str = "r/gw-7/response/";

    #[test]
    fn a_denied_topic_is_tried_again_after_ten_minutes() {
        let (mut forbidden, now) = (Forbidden::default(), Instant::now());
        forbidden.note("a", now);
        forbidden.note_response("b", now);
        assert!(forbidden.holds("a", now) && !forbidden.holds("b", now));
        assert!(forbidden.holds_response("b", MEANT, now) && !forbidden.holds_response("a", MEANT, now));
        let later = now + AGAIN_AFTER;
        assert!(!forbidden.holds("a", later) && !forbidden.holds_response("b", MEANT, later));
    }

    #[test]
    fn strangers_cannot_make_it_grow_nor_push_out_ours_nor_go_on_trying() {
        let (mut forbidden, now) = (Forbidden::default(), Instant::now());
        let denied = (0..).map(|number| format!("ops/{number}")).take_while(|topic| {
            let held = forbidden.holds_response(topic, MEANT, now);
            forbidden.note_response(topic, now);
            !held
        });
        assert_eq!(denied.count(), MAX_RESPONSES);
        forbidden.note_response("ops/more", now);
        assert_eq!(forbidden.responses.len(), MAX_RESPONSES);
        forbidden.note("ours", now);
        assert!(forbidden.holds("ours", now));
        assert!(!forbidden.holds_response("r/gw-7/response/anna", MEANT, now), "it is meant for answers");

        let later = now + AGAIN_AFTER;
        assert!(!forbidden.holds_response("ops/new", MEANT, later));
        forbidden.note_response("ops/new", later);
        assert_eq!(forbidden.responses.len(), 1);
    }

    #[test]
    fn where_not_even_the_topics_meant_for_answers_are_allowed_trying_ends_too() {
        let (mut forbidden, now) = (Forbidden::default(), Instant::now());
        for number in 0..MAX_RESPONSES {
            let topic = format!("{MEANT}{number}");
            assert!(!forbidden.holds_response(&topic, MEANT, now));
            forbidden.note_response(&topic, now);
        }
        assert!(forbidden.holds_response("r/gw-7/response/anna", MEANT, now));
    }
}
