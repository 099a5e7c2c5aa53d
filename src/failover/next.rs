//! ● What a service will do next by itself, or what keeps it where it is: for views.

use std::time::Duration;

use crate::config::Failback;

use super::decide::{DAY, RETURNS_MOST, Trouble, returns};
use super::{Settings, State};

/// What comes next if nothing happens before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The first pool serves: there is nothing to return to.
    Nothing,
    /// The serving pool is lost and yet not left.
    Stuck(Trouble),
    /// An operator holds the service.
    Held,
    /// An operator's order stands until it is released or health forces a move.
    Stands,
    /// Nothing returns by itself: `failback: manual`.
    Manual,
    /// No pool of higher priority is available.
    NoneHigher,
    /// A return by degrees is under way, and complete at that time.
    Returning { to: usize, complete: Duration },
    /// A return is due then, if the pool stays available; the last thing it waits for.
    Return { to: usize, at: Duration, waits: Waits },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// `stable_for`.
    Stable,
    /// Two moves come no closer than this.
    Dwell,
    /// The pool failed too often lately.
    Damped,
    /// It returned as often as it may in a day.
    Capped,
}

impl Trouble {
    pub const LABELS: [&str; 4] = ["none_available", "held", "unproved", "unsure"];

    /// In the status and in metrics; one of [`Trouble::LABELS`].
    pub fn label(self) -> &'static str {
        match self {
            Self::NoneAvailable => "none_available",
            Self::Held => "held",
            Self::Unproved { .. } => "unproved",
            Self::Unsure => "unsure",
        }
    }

    /// For people: why `service` does not leave the pool that serves. `name`: of a pool.
    pub fn told<'a>(
        self,
        service: &str,
        serving: usize,
        name: impl Fn(usize) -> &'a str,
    ) -> String {
        let serving = name(serving);
        match self {
            Self::NoneAvailable => "no pool is available".to_owned(),
            Self::Held => format!(
                "{serving} is lost, but an operator holds the service: \
                 `standfast release {service}`"
            ),
            Self::Unproved { to } => format!(
                "{serving} is lost; {} must first answer a probe begun after that, for it may be \
                 as dead",
                name(to)
            ),
            Self::Unsure => format!(
                "the other pools were silent as well, as if it were us; {serving} must fail anew \
                 before it is left"
            ),
        }
    }
}

/// What the service does next, as [`super::decide()`] would find it at the time.
pub fn next(state: &State, settings: Settings, now: Duration) -> Next {
    if let Some(trouble) = state.trouble {
        return Next::Stuck(trouble);
    }
    if state.held {
        return Next::Held;
    }
    if state.serving == 0 {
        return Next::Nothing;
    }
    if let Some(ramp) = state.ramp {
        return Next::Returning { to: ramp.to, complete: ramp.began.saturating_add(ramp.length) };
    }
    if state.stands {
        return Next::Stands;
    }
    if settings.failback == Failback::Manual {
        return Next::Manual;
    }
    let first = returns(state, settings, now).min_by_key(|(_, due)| (*due).max(now));
    first.map_or(Next::NoneHigher, |(to, at)| {
        let waits = waits(state, settings, to, at, now);
        Next::Return { to, at, waits }
    })
}

/// Which of the conditions of a return is fulfilled last.
fn waits(state: &State, settings: Settings, to: usize, at: Duration, now: Duration) -> Waits {
    let over_cap = state.returns.len().checked_sub(RETURNS_MOST);
    let capped = over_cap.and_then(|index| state.returns.get(index));
    let suppressed = state.penalties.get(to).filter(|penalty| penalty.is_suppressed(now));
    let since = state.available_since.get(to).copied().flatten().unwrap_or_default();
    let stable = match settings.failback {
        Failback::Auto { stable_for, .. } => since.saturating_add(stable_for),
        Failback::Manual => since,
    };
    if capped.is_some_and(|oldest| oldest.saturating_add(DAY) == at) {
        Waits::Capped
    } else if suppressed.is_some_and(|penalty| penalty.reusable_at(now) == at) {
        Waits::Damped
    } else if stable == at {
        Waits::Stable
    } else {
        Waits::Dwell
    }
}

#[cfg(test)]
mod tests {
    use super::super::damping::Penalty;
    use super::super::{Cause, Ramp};
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    const AUTO: Settings = Settings {
        failback: Failback::Auto {
            stable_for: Duration::from_secs(300),
            ramp: Duration::from_secs(60),
        },
    };

    /// Moved from the first pool to the second at 1000 s; the first one is back since 1020 s.
    fn moved() -> State {
        let mut state = State::start(2, Duration::ZERO);
        (state.serving, state.since, state.cause) = (1, seconds(1000), Cause::Health);
        state.available_since = vec![Some(seconds(1020)), Some(seconds(10))];
        state
    }

    fn due(state: &State, settings: Settings) -> (Duration, Waits) {
        match next(state, settings, seconds(1030)) {
            Next::Return { to: 0, at, waits } => (at, waits),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_return_is_due_when_the_last_of_its_conditions_is_fulfilled() {
        assert_eq!(due(&moved(), AUTO), (seconds(1320), Waits::Stable));
        let long_up =
            State { available_since: vec![Some(seconds(1)), Some(seconds(10))], ..moved() };
        assert_eq!(due(&long_up, AUTO), (seconds(1060), Waits::Dwell));
        let returns = vec![seconds(500); 4];
        let capped = State { returns, ..moved() };
        assert_eq!(due(&capped, AUTO), (seconds(500) + DAY, Waits::Capped));
        let penalty = (0..3).fold(Penalty::default(), |penalty, _| penalty.raised(seconds(1000)));
        let damped = State { penalties: vec![penalty, Penalty::default()], ..moved() };
        let (at, waits) = due(&damped, AUTO);
        assert!(at > seconds(1600) && waits == Waits::Damped, "{at:?} {waits:?}");
    }

    #[test]
    fn what_keeps_a_service_where_it_is_comes_before_what_would_move_it() {
        let next = |state: State, settings| next(&state, settings, seconds(1030));
        assert_eq!(next(State { serving: 0, ..moved() }, AUTO), Next::Nothing);
        assert_eq!(next(State { held: true, stands: true, ..moved() }, AUTO), Next::Held);
        assert_eq!(next(State { held: true, serving: 0, ..moved() }, AUTO), Next::Held);
        assert_eq!(next(State { stands: true, ..moved() }, AUTO), Next::Stands);
        assert_eq!(next(moved(), Settings { failback: Failback::Manual }), Next::Manual);
        assert_eq!(
            next(State { available_since: vec![None; 2], ..moved() }, AUTO),
            Next::NoneHigher
        );
        let ramp = Some(Ramp { to: 0, began: seconds(1020), length: seconds(60) });
        let complete = seconds(1080);
        assert_eq!(next(State { ramp, ..moved() }, AUTO), Next::Returning { to: 0, complete });
        let trouble = Trouble::Unproved { to: 0 };
        let lost = State { trouble: Some(trouble), held: true, ..moved() };
        assert_eq!(next(lost, AUTO), Next::Stuck(trouble));
    }

    #[test]
    fn the_time_told_is_the_time_the_machine_wakes() {
        let view = super::super::PoolView { up: 1, min_healthy: 1, ..Default::default() };
        let step = moved().step(&[view, view], AUTO, seconds(1030));
        assert_eq!(seconds(1030) + step.wake.unwrap(), due(&step.state, AUTO).0);
    }
}
