//! Whether uploads may go on. Pure: everything is handed in.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    breaker::Barred,
    status::State,
    window::{LocalTime, Windows},
};

/// What there is to know.
#[derive(Clone, Debug)]
pub(super) struct Facts<'a> {
    pub(super) now: Instant,
    pub(super) endpoint: bool,
    pub(super) paused_until: Option<Instant>,
    pub(super) windows: &'a Windows,
    pub(super) local: LocalTime,
    /// Until when a start, or a window's opening, is put off.
    pub(super) splayed_until: Option<Instant>,
    /// What the breaker says.
    pub(super) barred: Option<Barred>,
    /// Until when the last failure is waited out, and whether it was that the way is metered.
    pub(super) not_before: Instant,
    pub(super) metered: bool,
    /// Why the last attempt failed.
    pub(super) last_error: Option<&'a str>,
}

/// Whether uploads may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// They may.
    Open,
    /// They may not.
    Shut {
        state: State,
        reason: Option<String>,
        /// When that may change.
        until: Option<Instant>,
        /// Whether what is under way stops, too.
        stops: bool,
    },
}

impl Gate {
    /// The first that holds counts: what a person decided before what the network did.
    pub(super) fn of(facts: &Facts<'_>) -> Self {
        let later = |until: Option<Instant>| until.filter(|until| *until > facts.now);
        if !facts.endpoint {
            return Self::Shut { state: State::Off, reason: None, until: None, stops: true };
        }
        if let Some(until) = later(facts.paused_until) {
            return Self::Shut { state: State::Paused, reason: None, until: Some(until), stops: true };
        }
        if !facts.windows.contains(facts.local) {
            let until = facts.now + facts.windows.opens_in(facts.local);
            return Self::Shut { state: State::Closed, reason: None, until: Some(until), stops: true };
        }
        let reason = facts.last_error.map(str::to_owned);
        let waits = |state, until| Self::Shut { state, reason: reason.clone(), until: Some(until), stops: false };
        if let Some(until) = later(facts.splayed_until) {
            return Self::Shut { state: State::Splayed, reason: None, until: Some(until), stops: false };
        }
        if let Some(until) = later(Some(facts.not_before)).filter(|_| facts.metered) {
            return waits(State::Metered, until);
        }
        match facts.barred {
            Some(Barred::Until(until)) => return waits(State::Broken, until.into()),
            // Its end decides.
            Some(Barred::Probing) => return waits(State::Broken, facts.now + Duration::from_mins(1)),
            None => {}
        }
        later(Some(facts.not_before)).map_or(Self::Open, |until| waits(State::BackingOff, until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn state(change: impl FnOnce(&mut Facts<'_>)) -> (Option<State>, bool) {
        let windows = Windows::default();
        let now = Instant::now() + SECOND;
        let mut facts = Facts {
            now,
            endpoint: true,
            paused_until: None,
            windows: &windows,
            local: LocalTime::of_week(0),
            splayed_until: None,
            barred: None,
            not_before: now,
            metered: false,
            last_error: None,
        };
        change(&mut facts);
        match Gate::of(&facts) {
            Gate::Open => (None, false),
            Gate::Shut { state, stops, .. } => (Some(state), stops),
        }
    }

    #[test]
    fn nothing_in_the_way_opens_it() {
        assert_eq!(state(|_| ()), (None, false));
        assert_eq!(state(|facts| facts.paused_until = Some(facts.now)), (None, false), "a pause that is over");
    }

    #[test]
    fn what_people_decide_stops_what_is_under_way() {
        assert_eq!(state(|facts| facts.endpoint = false), (Some(State::Off), true));
        assert_eq!(state(|facts| facts.paused_until = Some(facts.now + SECOND)), (Some(State::Paused), true));
        let night = Windows::parse(&["01:00-05:00"]).unwrap();
        assert_eq!(state(|facts| facts.windows = Box::leak(Box::new(night))), (Some(State::Closed), true));
    }

    #[test]
    fn what_the_network_does_only_puts_off_the_next_attempt() {
        assert_eq!(state(|facts| facts.splayed_until = Some(facts.now + SECOND)), (Some(State::Splayed), false));
        assert_eq!(state(|facts| facts.not_before = facts.now + SECOND), (Some(State::BackingOff), false));
        assert_eq!(state(|facts| facts.barred = Some(Barred::Probing)), (Some(State::Broken), false));
        let metered = |facts: &mut Facts<'_>| (facts.metered, facts.not_before) = (true, facts.now + SECOND);
        assert_eq!(state(metered), (Some(State::Metered), false));
    }
}
