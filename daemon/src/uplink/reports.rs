//! Publishes what control reports: the latest of each subject, retained.
//!
//! A report that is superseded before it could go is never sent. One at a time is with the broker, so that an older one
//! never arrives after a newer one.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{client::Outcome, refusal::Refusal};
use crate::control::link::Subject;

/// Between two reports: five a second. While a change is tried, its states follow each other in milliseconds.
const SPACING: Duration = Duration::from_millis(200);

/// Until a report goes again that the broker refused: its access list may have been mended.
const REFUSED_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// What this connection's broker knows of our reports.
#[derive(Debug, Default)]
pub(super) struct Reports {
    posted: BTreeMap<Subject, Posted>,
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Posted {
    report: Bytes,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Sent,
    Known,
    Refused { again_at: Instant },
}

impl Reports {
    /// The next report to send at `now`, of those that control `wants` there to be.
    pub(super) fn due(&mut self, wanted: &BTreeMap<Subject, Bytes>, now: Instant) -> Option<(Subject, Bytes)> {
        if self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        let (subject, report) = wanted.iter().find(|(subject, report)| self.is_due(**subject, report, now))?;
        self.posted.insert(*subject, Posted { report: report.clone(), state: State::Sent });
        self.not_before = Some(now + SPACING);
        Some((*subject, report.clone()))
    }

    fn is_due(&self, subject: Subject, report: &Bytes, now: Instant) -> bool {
        self.posted.get(&subject).is_none_or(|posted| match posted.state {
            State::Sent => false,
            State::Known => posted.report != *report,
            State::Refused { again_at } => again_at <= now,
        })
    }

    /// The broker answered.
    pub(super) fn answered(&mut self, subject: Subject, outcome: Outcome, now: Instant) {
        let Some(posted) = self.posted.get_mut(&subject) else { return };
        match outcome {
            Outcome::Acknowledged => posted.state = State::Known,
            Outcome::Refused(_) => posted.state = State::Refused { again_at: now + REFUSED_AGAIN_AFTER },
            // The connection is ending; the next one begins anew.
            Outcome::Unknown => {}
        }
    }

    /// A report cannot be sent as it is.
    pub(super) fn unsendable(&mut self, subject: Subject, now: Instant) {
        self.answered(subject, Outcome::Refused(Refusal::TooLarge), now);
    }

    /// When [`Self::due`] may have something to send though nothing happens.
    pub(super) fn wakes_at(&self, wanted: &BTreeMap<Subject, Bytes>) -> Option<Instant> {
        let waits_until = |(subject, report): (&Subject, &Bytes)| match self.posted.get(subject) {
            Some(Posted { state: State::Sent, .. }) => None,
            Some(Posted { state: State::Known, report: known }) if known == report => None,
            Some(Posted { state: State::Refused { again_at }, .. }) => Some(*again_at),
            _ => self.not_before,
        };
        wanted.iter().filter_map(waits_until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(report: &'static str) -> BTreeMap<Subject, Bytes> {
        BTreeMap::from([(Subject::Config, report.into())])
    }

    fn due(reports: &mut Reports, report: &'static str, now: Instant) -> Option<Bytes> {
        reports.due(&wanted(report), now).map(|(_, report)| report)
    }

    #[test]
    fn each_connection_is_told_once() {
        let (mut reports, now) = (Reports::default(), Instant::now());
        assert_eq!(due(&mut reports, "1", now), Some("1".into()));
        reports.answered(Subject::Config, Outcome::Acknowledged, now);
        assert_eq!(due(&mut reports, "1", now + SPACING), None);
        assert_eq!(reports.wakes_at(&wanted("1")), None);
        assert_eq!(due(&mut Reports::default(), "1", now), Some("1".into()), "the next connection is told again");
    }

    #[test]
    fn five_go_in_a_second_and_the_latest_wins() {
        let (mut reports, now) = (Reports::default(), Instant::now());
        due(&mut reports, "1", now);
        reports.answered(Subject::Config, Outcome::Acknowledged, now);
        assert_eq!(due(&mut reports, "2", now), None);
        assert_eq!(reports.wakes_at(&wanted("3")), Some(now + SPACING));
        assert_eq!(due(&mut reports, "3", now + SPACING), Some("3".into()));
    }

    #[test]
    fn no_report_overtakes_another() {
        let (mut reports, now) = (Reports::default(), Instant::now());
        due(&mut reports, "1", now);
        let later = now + 5 * SPACING;
        assert_eq!(due(&mut reports, "2", later), None, "the first is still with the broker");
        assert_eq!(reports.wakes_at(&wanted("2")), None, "its answer will wake us");
        reports.answered(Subject::Config, Outcome::Acknowledged, later);
        assert_eq!(due(&mut reports, "2", later), Some("2".into()));
    }

    #[test]
    fn a_refused_report_goes_again_after_a_minute_as_it_is_then() {
        let (mut reports, now) = (Reports::default(), Instant::now());
        due(&mut reports, "1", now);
        reports.answered(Subject::Config, Outcome::Refused(Refusal::NotAuthorized), now);
        assert_eq!(due(&mut reports, "2", now + SPACING), None);
        assert_eq!(reports.wakes_at(&wanted("2")), Some(now + REFUSED_AGAIN_AFTER));
        assert_eq!(due(&mut reports, "2", now + REFUSED_AGAIN_AFTER), Some("2".into()));
    }
}
