//! What is done with fuzzed bytes, and what must hold whatever they are.
//!
//! Used by the fuzz targets, and by a plain test of the daemon that goes through the committed corpora
//! (`daemon/tests/corpora.rs`). Each takes what its part of the daemon takes from strangers.

#![allow(dead_code, unused_imports, reason = "each target uses one of them")]

mod compiler;
mod policies;
mod uploads;

use bytes::Bytes;
use tidegate::{
    control::{
        commands::{Name, Realm, Reception},
        desired,
        link::{MAX_REQUEST_BYTES, Request, Source},
    },
    provision::Document,
    record::Clock,
};

pub(crate) use self::{
    compiler::compiler,
    policies::{bundle, envelope},
    uploads::{journal as upload_journal, ledger as upload_ledger, server as upload_server, sidecar as upload_sidecar},
};

/// Longest thing that is said of any input: it goes into reports, events and logs.
const MAX_SAID_BYTES: usize = 64 << 10;

/// A desired document, for this gateway and for a group.
pub(crate) fn desired(bytes: &[u8]) {
    let head = desired::head(bytes, "config").map(|head| head.version).map_err(|refused| refused.version);
    for source in [Source::Device, Source::Group("plant".into())] {
        match desired::read(&source, bytes) {
            Ok(document) => {
                assert_eq!(head, Ok(document.version), "both readers see the same version");
                assert!((1..=desired::MAX_VERSION).contains(&document.version));
            }
            Err(refused) => {
                let version = head.unwrap_or_else(Option::unwrap_or_default);
                assert_eq!(refused.version.unwrap_or_default(), version, "what is refused counts, too");
                // A line for each thing that is wrong.
                let said = refused.to_string();
                assert!(said.len() <= MAX_SAID_BYTES);
                for line in said.lines() {
                    is_fit_to_be_told(line);
                }
            }
        }
    }
}

/// A request: its name, the response topic and the payload, each on a line (the payload to the end).
pub(crate) fn command(bytes: &[u8]) {
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let name = String::from_utf8_lossy(next()).into_owned();
    let topic = String::from_utf8_lossy(next()).into_owned();
    let payload = next();
    let request = Request {
        name,
        payload: (payload.len() <= MAX_REQUEST_BYTES).then(|| Bytes::copy_from_slice(payload)),
        response_topic: (!topic.is_empty()).then_some(topic),
        correlation_data: Some(Bytes::from_static(b"4711")),
        ..Request::default()
    };
    let realm = Realm { root: "tidegate/v1", id: "gw-7" };
    let judged = Reception::default().judge(tokio::time::Instant::now(), realm, Name::ALL, &request);
    if let Err(refusal) = &judged.outcome {
        is_fit_to_be_told(&refusal.reason);
        if let Some(reply) = &judged.reply {
            let answer = reply.refused(&Clock::new([7; 16]).now(), refusal);
            let json: serde_json::Value = serde_json::from_slice(&answer.payload).expect("an answer is JSON");
            assert_eq!(json["ok"], false);
        }
    }
    if judged.reply.is_some() {
        let topic = request.response_topic.as_deref().expect("an answer goes where it was asked for");
        assert!(!topic.contains(['+', '#']) && !topic.starts_with('$'), "{topic}");
        if let Some(below) = topic.strip_prefix("tidegate/v1/") {
            let own = below.strip_prefix("gw-7/");
            let own = own.unwrap_or_else(|| panic!("{topic} is another gateway's or a group's"));
            let taken = own.ends_with("/desired") || own.ends_with("/reported") || ["status", "echo"].contains(&own);
            assert!(!taken, "{topic} is nobody's to answer on");
        }
    }
}

/// A `provision.toml`. The file that it may name beside it holds the same bytes.
pub(crate) fn provisioning(bytes: &[u8]) {
    let mut beside = |name: &str| {
        if name == "beside.pem" { Ok(bytes.to_vec()) } else { Err(format!("{name} is not there")) }
    };
    match Document::read(bytes, &mut beside) {
        Ok(document) => {
            assert!(document.url.starts_with("mqtt") && !document.url.contains('@'), "no password in an url");
            let encrypted = document.url.starts_with("mqtts://");
            assert!(encrypted || (document.ca.is_none() && document.identity.is_none()));
            assert!(document.groups.len() <= 16 && document.policy_keys.len() <= 16);
        }
        Err(faults) => {
            assert!((1..=16).contains(&faults.len()));
            for fault in &faults {
                is_fit_to_be_told(&fault.to_string());
            }
        }
    }
}

/// Of bounded length, and on one line: as a comment in a file it must not end the comment.
fn is_fit_to_be_told(text: &str) {
    assert!(!text.is_empty() && text.len() <= MAX_SAID_BYTES, "{} bytes", text.len());
    assert!(!text.contains(char::is_control), "{text:?}");
}
