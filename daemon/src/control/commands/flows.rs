//! The kernel's flow table as answers, in parts: what is in memory is one part, whatever the table holds.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    answer::Reply,
    outbox::Outbox,
    refusal::{Code, Refusal},
};
use crate::{
    chunks::Chunks,
    sources::traffic::{BootClock, Flow},
    status::Board,
};

/// Bytes of one part, about.
const PART_BYTES: usize = 48 << 10;

#[derive(Serialize)]
struct Head {}

/// What only the last part has.
#[derive(Serialize)]
struct Tail {
    /// Flows in all parts.
    count: usize,
    /// Whether the table holds more.
    more: bool,
}

/// Tells at most `limit` flows, in the table's order. Ends early where nobody takes the answers.
pub(super) async fn tell(board: &Board, limit: usize, reply: &Reply, outbox: &Outbox) {
    let (names, clock) = (board.interface_names(), BootClock::now());
    let mut chunks = Chunks::new(&Head {}, "flows", PART_BYTES);
    let (mut count, mut from) = (0, None);
    let more = 'table: loop {
        let chunk = match board.kernel().peek(from).await {
            Ok(chunk) => chunk,
            Err(error) => {
                let refusal = Refusal::new(Code::Failed, &error.to_string());
                outbox.count(&refusal);
                // Whoever did not take it has been counted.
                let _counted = outbox.refused(reply, &refusal).await;
                return;
            }
        };
        for (key, value) in &chunk.flows {
            if count == limit {
                break 'table true;
            }
            count += 1;
            let name = names.get(&key.ifindex).map(String::as_str);
            let part = chunks.push(&Flow::new(key, value, name, &clock));
            if let Some(part) = part
                && outbox.done(reply, &raw(part)).await.is_err()
            {
                return;
            }
        }
        match chunk.next {
            Some(next) => from = Some(next),
            None => break false,
        }
    };
    let _counted = outbox.done(reply, &raw(chunks.finish(&Tail { count, more }))).await;
}

/// A part as it is.
fn raw(part: Bytes) -> Box<RawValue> {
    let text = String::from_utf8(part.into()).expect("JSON is UTF-8");
    RawValue::from_string(text).expect("a part is one JSON object")
}
