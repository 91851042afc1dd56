//! What `systemctl status` shows beside "Status:", in one line. Pure: a status in, a line out.

use std::fmt;

use crate::{status::Status, uplink::LinkState};

/// One line: what matters, and figures that may be told less often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// The worst problem and what to do; or that all is well.
    pub(super) state: String,
    /// Figures that move all the time.
    pub(super) figures: String,
}

impl Line {
    pub(super) fn of(status: &Status) -> Self {
        let state = match status.problems.split_first() {
            Some((worst, [])) => format!("{}: {}", worst.what, worst.next_step),
            Some((worst, rest)) => format!("{}: {} (and {} more)", worst.what, worst.next_step, rest.len()),
            None => {
                let link = if status.uplink.state == LinkState::Connected { "online" } else { "connecting" };
                format!("{link}, {}", count(status.traffic.interfaces.len() as u64, "interface"))
            }
        };
        let records = count(status.spool.pending_records, "record");
        let figures = match status.upload.waiting_files {
            0 => format!("{records} waiting"),
            files => format!("{records} and {} waiting", count(files, "file")),
        };
        // The protocol is one assignment a line (sd_notify(3)).
        Self { state: state.replace('\n', " "), figures }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.state, self.figures)
    }
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use tidegate_upload::status::State;

    use super::*;
    use crate::status::{Problem, Severity};

    #[test]
    fn a_gateway_that_is_well_says_so_with_its_figures() {
        let mut status = Status::default();
        status.uplink.state = LinkState::Connected;
        status.spool.pending_records = 12;
        assert_eq!(Line::of(&status).to_string(), "online, 0 interfaces, 12 records waiting");
        status.spool.pending_records = 1;
        assert_eq!(Line::of(&status).to_string(), "online, 0 interfaces, 1 record waiting");
        status.upload.waiting_files = 3;
        status.upload.state = State::Sending;
        assert_eq!(Line::of(&status).to_string(), "online, 0 interfaces, 1 record and 3 files waiting");
    }

    #[test]
    fn the_worst_problem_comes_first_with_its_next_step_and_in_one_line() {
        let problem =
            |what: &str| Problem { severity: Severity::Down, what: what.to_owned(), next_step: "mend\nit".to_owned() };
        let problems = vec![problem("no broker"), problem("no clock")];
        let line = Line::of(&Status { problems, ..Status::default() });
        assert_eq!(line.to_string(), "no broker: mend it (and 1 more), 0 records waiting");
    }
}
