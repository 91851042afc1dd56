//! What a request asks for. Pure: a name and a payload in, a command or a refusal out.
//!
//! | command | payload |
//! |---|---|
//! | `status`, `restart` | `{}` |
//! | `flows` | `{"limit":N}`, N from 1 to [`MAX_FLOWS`]; without: [`DEFAULT_FLOWS`] |
//! | `retry` | `{"subject":"config"}`, or `"policy"`, or `"upload"`: files that are parked |
//! | `log-level` | `{"filter":F,"for":"10m"}`, at most [`MAX_LOG_TIME`]; `{}`: the configured filter at once |
//! | `upload-pause` | `{"for":"2h"}`, [`MIN_PAUSE`] to [`MAX_PAUSE`]; `{}`: go on at once |
//!
//! Nothing at all reads as `{}`. A member that a command does not take refuses the request.

use std::time::Duration;

use serde_json::json;
use tidegate_upload::order::{MAX_PAUSE, MIN_PAUSE};

use super::{
    Name,
    members::{Members, unwanted},
    refusal::{Code, Refusal, excerpt},
};
use crate::{
    config::Span,
    control::link::{MAX_REQUEST_BYTES, Subject},
    logging::Filter,
};

/// Most flows in the answers to one request.
pub const MAX_FLOWS: usize = 10_000;
/// Flows where no limit is given.
pub const DEFAULT_FLOWS: usize = 1_000;
/// Longest time for which another filter than the configured one logs.
pub const MAX_LOG_TIME: Duration = Duration::from_hours(24);
/// Shortest: what is over before anybody looks is a slip of the pen.
pub const MIN_LOG_TIME: Duration = Duration::from_secs(1);
/// Longest filter, in bytes.
pub const MAX_FILTER_BYTES: usize = 1024;

/// What `retry` calls the files that are parked: no subject that is desired and reported.
pub(super) const UPLOAD: &str = "upload";

/// A request that can be performed.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Tell the status.
    Status,
    /// Tell at most so many flows.
    Flows {
        /// From 1 to [`MAX_FLOWS`].
        limit: usize,
    },
    /// Try what was rolled back or refused once more.
    Retry {
        /// Of what.
        subject: Subject,
    },
    /// Try files that are parked once more.
    RetryUploads,
    /// Log by this filter for a time.
    LogFor {
        /// What is logged meanwhile.
        filter: Box<Filter>,
        /// From [`MIN_LOG_TIME`] to [`MAX_LOG_TIME`].
        time: Duration,
    },
    /// Log as configured, now.
    LogAsConfigured,
    /// Send no files for so long, from [`MIN_PAUSE`] to [`MAX_PAUSE`].
    PauseUploads(Duration),
    /// Send files, now.
    ResumeUploads,
    /// Stop, to be started again.
    Restart,
}

impl Command {
    /// Reads a request to `cmd/NAME`; `payload` is `None` where it was too large to be kept.
    ///
    /// # Errors
    ///
    /// The reason names the member, what is wanted and what was found.
    pub fn read(name: Name, payload: Option<&[u8]>) -> Result<Self, Refusal> {
        let payload = payload
            .ok_or_else(|| Refusal::new(Code::TooLarge, &format!("the payload is over {MAX_REQUEST_BYTES} bytes")))?;
        match name {
            Name::Status => Members::read(payload, &[]).map(|_| Self::Status),
            Name::Flows => flows(&Members::read(payload, &["limit"])?),
            Name::Retry => retry(&Members::read(payload, &["subject"])?),
            Name::LogLevel => log_level(&Members::read(payload, &["filter", "for"])?),
            Name::UploadPause => upload_pause(&Members::read(payload, &["for"])?),
            Name::Restart => Members::read(payload, &[]).map(|_| Self::Restart),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> Name {
        match self {
            Self::Status => Name::Status,
            Self::Flows { .. } => Name::Flows,
            Self::Retry { .. } | Self::RetryUploads => Name::Retry,
            Self::LogFor { .. } | Self::LogAsConfigured => Name::LogLevel,
            Self::PauseUploads(_) | Self::ResumeUploads => Name::UploadPause,
            Self::Restart => Name::Restart,
        }
    }

    /// Whether it does more than tell.
    #[must_use]
    pub const fn changes_something(&self) -> bool {
        !matches!(self, Self::Status | Self::Flows { .. })
    }
}

fn flows(members: &Members) -> Result<Command, Refusal> {
    let wanted = format!("a whole number from 1 to {MAX_FLOWS}");
    let Some(limit) = members.number("limit", &wanted)? else { return Ok(Command::Flows { limit: DEFAULT_FLOWS }) };
    match usize::try_from(limit) {
        Ok(limit @ 1..=MAX_FLOWS) => Ok(Command::Flows { limit }),
        _ => Err(unwanted("limit", &wanted, &json!(limit))),
    }
}

fn retry(members: &Members) -> Result<Command, Refusal> {
    let names: Vec<_> = Subject::ALL.iter().map(|subject| subject.name()).chain([UPLOAD]).collect();
    let wanted = format!("one of: {}", names.join(", "));
    let name = members
        .text("subject", &wanted)?
        .ok_or_else(|| Refusal::bad_request(&format!("subject is missing: {wanted}")))?;
    if name == UPLOAD {
        return Ok(Command::RetryUploads);
    }
    let subject = Subject::ALL.iter().copied().find(|subject| subject.name() == name);
    subject.map(|subject| Command::Retry { subject }).ok_or_else(|| unwanted("subject", &wanted, &json!(name)))
}

fn upload_pause(members: &Members) -> Result<Command, Refusal> {
    const TIME: &str = r#"a duration from "1s" to "7d""#;
    let Some(time) = members.text("for", TIME)? else { return Ok(Command::ResumeUploads) };
    match time.parse() {
        Ok(Span(time)) if (MIN_PAUSE..=MAX_PAUSE).contains(&time) => Ok(Command::PauseUploads(time)),
        _ => Err(unwanted("for", TIME, &json!(time))),
    }
}

fn log_level(members: &Members) -> Result<Command, Refusal> {
    const FILTER: &str = r#"a level or directives such as "info,tidegate::uplink=debug", at most 1024 bytes"#;
    const TIME: &str = r#"a duration from "1s" to "24h""#;
    let (filter, time) = match (members.text("filter", FILTER)?, members.text("for", TIME)?) {
        (Some(filter), Some(time)) => (filter, time),
        (None, None) => return Ok(Command::LogAsConfigured),
        (Some(_), None) => return Err(Refusal::bad_request(&format!("for is missing: {TIME}"))),
        (None, Some(_)) => return Err(Refusal::bad_request(&format!("filter is missing: {FILTER}"))),
    };
    if filter.is_empty() || filter.len() > MAX_FILTER_BYTES {
        return Err(unwanted("filter", FILTER, &json!(filter)));
    }
    let parsed = Filter::parse(filter)
        .map_err(|error| Refusal::bad_request(&format!("filter: {error}; found {}", excerpt(filter))))?;
    match time.parse() {
        Ok(Span(time)) if (MIN_LOG_TIME..=MAX_LOG_TIME).contains(&time) => {
            Ok(Command::LogFor { filter: Box::new(parsed), time })
        }
        _ => Err(unwanted("for", TIME, &json!(time))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(name: Name, payload: &str) -> Result<Command, Refusal> {
        Command::read(name, Some(payload.as_bytes()))
    }

    #[test]
    fn each_command_takes_what_its_table_says() {
        let debug = Filter::parse("info,tidegate::uplink=debug").unwrap();
        for (name, payload, command) in [
            (Name::Status, "", Command::Status),
            (Name::Status, " {} ", Command::Status),
            (Name::Flows, "{}", Command::Flows { limit: 1_000 }),
            (Name::Flows, r#"{"limit":10000}"#, Command::Flows { limit: 10_000 }),
            (Name::Retry, r#"{"subject":"config"}"#, Command::Retry { subject: Subject::Config }),
            (
                Name::LogLevel,
                r#"{"filter":"info,tidegate::uplink=debug","for":"24h"}"#,
                Command::LogFor { filter: Box::new(debug), time: Duration::from_hours(24) },
            ),
            (Name::LogLevel, "", Command::LogAsConfigured),
            (Name::Retry, r#"{"subject":"upload"}"#, Command::RetryUploads),
            (Name::UploadPause, r#"{"for":"2h"}"#, Command::PauseUploads(Duration::from_hours(2))),
            (Name::UploadPause, r#"{"for":"7d"}"#, Command::PauseUploads(MAX_PAUSE)),
            (Name::UploadPause, "{}", Command::ResumeUploads),
            (Name::UploadPause, "", Command::ResumeUploads),
            (Name::Restart, "{}", Command::Restart),
        ] {
            assert_eq!(read(name, payload), Ok(command), "{name} {payload}");
        }
    }

    #[test]
    fn what_a_command_does_not_take_is_refused_by_the_name_of_the_member() {
        for (name, payload, reason) in [
            (Name::Status, r#"{"all":true}"#, r#"unknown member "all"; accepted: none"#),
            (Name::Restart, r#"{"force":1}"#, r#"unknown member "force"; accepted: none"#),
            (Name::Flows, r#"{"limit":0}"#, "limit: wanted a whole number from 1 to 10000, found 0"),
            (Name::Flows, r#"{"limit":10001}"#, "limit: wanted a whole number from 1 to 10000"),
            (Name::Flows, r#"{"limit":-1}"#, "limit: wanted a whole number from 1 to 10000"),
            (Name::Flows, r#"{"limit":1e2}"#, "limit: wanted a whole number from 1 to 10000"),
            (Name::Flows, r#"{"limit":"5"}"#, "limit: wanted a whole number from 1 to 10000"),
            (Name::Flows, r#"{"limit":null}"#, "limit: wanted a whole number from 1 to 10000"),
            (Name::Retry, "", "subject is missing: one of: config, policy, upload"),
            (
                Name::Retry,
                r#"{"subject":"update"}"#,
                r#"subject: wanted one of: config, policy, upload, found "update""#,
            ),
            (Name::UploadPause, r#"{"for":"8d"}"#, r#"for: wanted a duration from "1s" to "7d", found "8d""#),
            (Name::UploadPause, r#"{"for":"0s"}"#, "for: wanted a duration"),
            (Name::UploadPause, r#"{"for":3600}"#, "for: wanted a duration"),
            (Name::UploadPause, r#"{"until":"5m"}"#, r#"unknown member "until"; accepted: for"#),
            (Name::LogLevel, r#"{"filter":"debug"}"#, "for is missing: a duration"),
            (Name::LogLevel, r#"{"for":"1m"}"#, "filter is missing: a level"),
            (Name::LogLevel, r#"{"filter":"debug","for":"25h"}"#, r#"for: wanted a duration from "1s" to "24h""#),
            (Name::LogLevel, r#"{"filter":"debug","for":"0s"}"#, "for: wanted a duration"),
            (Name::LogLevel, r#"{"filter":"debug","for":600}"#, "for: wanted a duration"),
            (Name::LogLevel, r#"{"filter":"","for":"1m"}"#, "filter: wanted a level"),
            (Name::LogLevel, r#"{"filter":"tidegate=loud","for":"1m"}"#, "filter: "),
        ] {
            let refusal = read(name, payload).unwrap_err();
            assert_eq!(refusal.code, Code::BadRequest);
            assert!(refusal.reason.contains(reason), "{name} {payload}: {}", refusal.reason);
        }
        let long = format!(r#"{{"filter":"{}","for":"1m"}}"#, "a".repeat(MAX_FILTER_BYTES + 1));
        assert_eq!(read(Name::LogLevel, &long).unwrap_err().code, Code::BadRequest);
        assert_eq!(Command::read(Name::Status, None).unwrap_err().code, Code::TooLarge);
    }

    proptest! {
        #[test]
        fn no_payload_makes_a_reader_panic_or_its_reason_long(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            for name in Name::ALL {
                if let Err(refusal) = Command::read(*name, Some(&payload)) {
                    prop_assert!(refusal.reason.chars().count() <= 300);
                    prop_assert!(!refusal.reason.chars().any(char::is_control));
                }
            }
        }
    }
}
