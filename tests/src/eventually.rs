//! Waiting for something that other processes bring about.

use std::{
    fmt::Display,
    thread::sleep,
    time::{Duration, Instant},
};

/// What a check answers: the value, or why not yet.
pub trait Outcome {
    /// Value of the check that succeeded.
    type Value;
    /// The value, or the reason in words.
    ///
    /// # Errors
    ///
    /// The check does not hold yet.
    fn outcome(self) -> Result<Self::Value, String>;
}

impl Outcome for bool {
    type Value = ();
    fn outcome(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "still false".to_owned())
    }
}

impl<T> Outcome for Option<T> {
    type Value = T;
    fn outcome(self) -> Result<T, String> {
        self.ok_or_else(|| "still none".to_owned())
    }
}

impl<T, E: Display> Outcome for Result<T, E> {
    type Value = T;
    fn outcome(self) -> Result<T, String> {
        self.map_err(|error| error.to_string())
    }
}

/// Checks again and again, every 20 ms, until the check holds, and returns its value.
///
/// # Panics
///
/// At the deadline, saying what was waited for and what the last check found.
#[track_caller]
pub fn eventually<O: Outcome>(deadline: Duration, what: &str, mut check: impl FnMut() -> O) -> O::Value {
    let started = Instant::now();
    loop {
        match check().outcome() {
            Ok(value) => return value,
            Err(last) if started.elapsed() >= deadline => {
                panic!("not within {deadline:?}: {what}; the last check found: {last}")
            }
            Err(_) => sleep(Duration::from_millis(20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_the_first_success_is_returned() {
        let mut tries = 0;
        let value = eventually(Duration::from_secs(5), "three tries", || {
            tries += 1;
            (tries == 3).then_some(tries)
        });
        assert_eq!(value, 3);
    }

    #[test]
    #[should_panic(expected = "the moon is full; the last check found: it is half")]
    fn the_failure_says_what_was_wanted_and_what_was_found() {
        eventually(Duration::ZERO, "the moon is full", || Err::<(), _>("it is half"));
    }
}
