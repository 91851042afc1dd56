//! A second chance for scenarios.
//!
//! They run against real kernels, brokers and clocks, and on a machine that others keep busy one of hundreds may miss a
//! deadline that says nothing of tidegate. One that fails is run once more, alone. It is named even where it passes
//! then, and few of a run may be so: what fails every other time is to be mended, not to be tried until it passes.

/// Of one run. What fails beyond these is not tried again, and so fails the run.
const FLAKY_AT_MOST: usize = 3;

/// The second chances that a run has left.
#[derive(Debug)]
pub(crate) struct Retries {
    left: usize,
}

impl Retries {
    /// For a whole run.
    pub(crate) fn new() -> Self {
        Self { left: FLAKY_AT_MOST }
    }

    /// Those of the failures that pass when `passes` runs them once more.
    pub(crate) fn flaky(&mut self, failures: &[String], mut passes: impl FnMut(&str) -> bool) -> Vec<String> {
        let tried = failures.len().min(self.left);
        self.left -= tried;
        failures[..tried].iter().filter(|name| passes(name)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_failure_that_passes_once_more_is_flaky_and_one_that_fails_again_is_not() {
        let mut tried = Vec::new();
        let flaky = Retries::new().flaky(&names(&["late", "broken"]), |name| {
            tried.push(name.to_owned());
            name == "late"
        });
        assert_eq!(flaky, ["late"]);
        assert_eq!(tried, ["late", "broken"], "each once");
    }

    #[test]
    fn of_all_programs_together_no_more_than_three_are_tried_again() {
        let mut retries = Retries::new();
        assert_eq!(retries.flaky(&names(&["a", "b"]), |_| true), ["a", "b"]);
        assert_eq!(retries.flaky(&names(&["c", "d"]), |_| true), ["c"]);
        assert_eq!(retries.flaky(&names(&["e"]), |_| true), [""; 0]);
    }
}
