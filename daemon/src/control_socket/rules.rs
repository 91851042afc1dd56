//! `{"get":"rules"}`: the policy in force, rule by rule.
//!
//! ```text
//! {"policy":{"version":42,…,"source":"device","state":"confirmed",…},"keys":["…"]}
//! {"rule":"block-malicious","action":"drop","reason":"…","packets":7,"bytes":420,"dropped_packets":7,…}
//! {"action":"drop","packets":3,…}                  the default, where it drops
//! ```
//!
//! Rules come in the bundle's order. Names and reasons are those that the kernel side holds anyway; counters and times come
//! in chunks, so that 65,536 rules take the memory of some thousand. Where another policy is enforced meanwhile, its
//! rules have other numbers: the answer then ends with `{"error":"…"}`.

use std::{io, sync::Arc, time::Duration};

use serde::Serialize;
use tidegate_values::Digest;
use tokio::{io::AsyncWrite, sync::mpsc, time::sleep};

use super::{asked, send};
use crate::{
    control::policy::{Ask, Provenance, Standing, TimeLeft},
    kernel::{DEFAULT_RULE, Kernel, PolicyCounts, RuleAction, RuleCounts, Rules},
    sources::policy::{Entry, InForceStatus},
    status::Board,
};

/// Rules whose times are asked for at once: 24 KB while they are sent.
const TIMES: u32 = 1024;
/// Between two looks at whether kernel and control speak of the same policy: control hears of a switch right after it.
const LOOK: Duration = Duration::from_millis(10);
/// After that many looks somebody publishes faster than anybody can read.
const LOOKS: u32 = 100;

#[derive(Serialize)]
struct Head<'a> {
    policy: Option<Shown<'a>>,
    /// Ids of the keys whose signatures count.
    keys: &'a [Digest],
    #[serde(skip_serializing_if = "Option::is_none")]
    open_until_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_enforced: Option<&'a str>,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    in_force: InForceStatus<'a>,
    #[serde(flatten)]
    of: &'a Provenance,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    entry: Entry<'a>,
    /// Present where the rule has a `ttl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_left_s: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    expired: bool,
}

/// Sends the policy and all its rules, or an error.
pub(super) async fn send_all(
    out: &mut (impl AsyncWrite + Unpin),
    board: &Board,
    control: &mpsc::Sender<Ask>,
) -> io::Result<()> {
    let sender = Sender { out, kernel: board.kernel(), control };
    match sender.send_all().await {
        Ok(()) => Ok(()),
        Err(Failed::Client(error)) => Err(error),
        Err(Failed::Answer(reason)) => send(out, &serde_json::json!({ "error": reason })).await,
    }
}

/// Why an answer is not whole.
enum Failed {
    /// The client left.
    Client(io::Error),
    /// The client is to know.
    Answer(String),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Client(error)
    }
}

struct Sender<'a, W> {
    out: &'a mut W,
    kernel: &'a Kernel,
    control: &'a mpsc::Sender<Ask>,
}

impl<W: AsyncWrite + Unpin> Sender<'_, W> {
    async fn send_all(self) -> Result<(), Failed> {
        let (mut part, Standing { enforced, open_until_ms, not_enforced, keys }) = self.begin().await?;
        let in_force = part.in_force.take();
        let shown = in_force.as_ref().zip(enforced.as_ref());
        let policy = shown.map(|(in_force, of)| Shown { in_force: InForceStatus::of(in_force), of });
        send(self.out, &Head { policy, keys: &keys, open_until_ms, not_enforced: not_enforced.as_deref() }).await?;
        let Some(in_force) = in_force else { return Ok(()) };

        let rules = in_force.rules;
        let end = DEFAULT_RULE + 1 + u32::try_from(rules.len()).expect("a bundle has at most 65,536 rules");
        let default = part.counts.first().filter(|(rule, _)| *rule == DEFAULT_RULE).map(|(_, counts)| *counts);
        let mut from = DEFAULT_RULE + 1;
        loop {
            let until = part.next.unwrap_or(end);
            let mut counts = part.counts.into_iter().filter(|(rule, _)| *rule != DEFAULT_RULE).peekable();
            while from < until {
                let numbers = from..until.min(from + TIMES);
                let (of, asked_for) = (Arc::clone(&rules), numbers.clone());
                let times = asked(self.control, |reply| Ask::TimeLeft { rules: of, numbers: asked_for, reply });
                let mut times = times.await.map_err(Failed::Answer)?.into_iter().peekable();
                from = numbers.end;
                for rule in numbers {
                    let counts = counts.next_if(|(counted, _)| *counted == rule).map(|(_, counts)| counts);
                    let time = times.next_if(|time| time.rule == rule);
                    send(self.out, &line(&rules, rule, counts, time)).await?;
                }
            }
            let Some(next) = part.next else { break };
            part = self.counts(next).await?;
            if !part.in_force.as_ref().is_some_and(|in_force| Arc::ptr_eq(&in_force.rules, &rules)) {
                return Err(Failed::Answer("another policy was enforced meanwhile; ask again".to_owned()));
            }
        }
        if rules.action(DEFAULT_RULE) == RuleAction::Drop {
            send(self.out, &line(&rules, DEFAULT_RULE, default, None)).await?;
        }
        Ok(())
    }

    /// The first counters, and how the policy stands that they are of.
    async fn begin(&self) -> Result<(PolicyCounts, Standing), Failed> {
        for _ in 0..LOOKS {
            let part = self.counts(DEFAULT_RULE).await?;
            let standing = asked(self.control, |reply| Ask::Standing { reply }).await.map_err(Failed::Answer)?;
            let of_kernel = part.in_force.as_ref().map(|in_force| in_force.rules.version());
            if of_kernel == standing.enforced.as_ref().map(|enforced| enforced.version) {
                return Ok((part, standing));
            }
            sleep(LOOK).await;
        }
        Err(Failed::Answer("the policy is being replaced; ask again".to_owned()))
    }

    async fn counts(&self, from: u32) -> Result<PolicyCounts, Failed> {
        self.kernel.policy_counts(from).await.map_err(|error| Failed::Answer(error.to_string()))
    }
}

fn line(rules: &Rules, rule: u32, counts: Option<RuleCounts>, time: Option<TimeLeft>) -> Line<'_> {
    Line {
        entry: Entry::new(rules, rule, counts.unwrap_or_default()),
        // A rule with half a second left still counts.
        ttl_left_s: time.map(|time| u64::try_from(time.left.as_millis()).unwrap_or(u64::MAX).div_ceil(1000)),
        expired: time.is_some_and(|time| time.expired),
    }
}
