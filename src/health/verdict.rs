//! ● One endpoint's verdict: state × observation × now → state, and a flip where it changed.

use std::fmt;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Verdict {
    #[default]
    Unknown,
    Up,
    Down,
}

/// The result of a probe, or later of live traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    Success,
    Failure(Failure),
    /// Our own fault (no descriptor, no port, a late timer): never evidence against an endpoint.
    SelfFault,
}

/// How an endpoint failed. All but `Timeout` and `Unreachable` are positive evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Refused,
    Reset,
    Unreachable,
    Timeout,
    Tls,
    /// An HTTP status outside of what is expected.
    Status(u16),
    /// The body or a header was not as expected.
    Content,
    /// The answer was not HTTP.
    Malformed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Failures in a row until down, at least 1.
    pub unhealthy: u32,
    /// Successes in a row until up, at least 1.
    pub healthy: u32,
}

/// What is remembered of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    pub verdict: Verdict,
    /// Observations in a row of the same kind, the last one included.
    pub successes: u32,
    pub failures: u32,
    /// When the verdict was reached.
    pub since: Duration,
    /// The first success of the present run of successes.
    pub first_success: Option<Duration>,
    /// The first failure of the present run of failures.
    pub first_failure: Option<Duration>,
    pub last_success: Option<Duration>,
    pub last_failure: Option<(Duration, Failure)>,
}

/// A verdict that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flip {
    pub from: Verdict,
    pub to: Verdict,
    /// The first observation of the run that led here.
    pub first_evidence: Duration,
}

impl State {
    /// Folds one observation.
    ///
    /// From unknown, one success is enough for up (traffic flows there anyway); the full
    /// `unhealthy` run is needed for down.
    pub fn step(
        self,
        observation: Observation,
        now: Duration,
        thresholds: Thresholds,
    ) -> (Self, Option<Flip>) {
        match observation {
            Observation::Success => self.succeeded(now, thresholds),
            Observation::Failure(failure) => self.failed(failure, now, thresholds),
            Observation::SelfFault => (self, None),
        }
    }

    /// The last observations disagree with the verdict, or there is no verdict yet.
    pub fn in_doubt(&self) -> bool {
        match self.verdict {
            Verdict::Unknown => true,
            Verdict::Up => self.failures > 0,
            Verdict::Down => self.successes > 0,
        }
    }

    fn succeeded(self, now: Duration, thresholds: Thresholds) -> (Self, Option<Flip>) {
        let first = self.first_success.unwrap_or(now);
        let state = Self {
            successes: self.successes.saturating_add(1),
            failures: 0,
            first_success: Some(first),
            first_failure: None,
            last_success: Some(now),
            ..self
        };
        let needed = match self.verdict {
            Verdict::Unknown => 1,
            Verdict::Up | Verdict::Down => thresholds.healthy,
        };
        state.reached(Verdict::Up, state.successes >= needed, first, now)
    }

    fn failed(
        self,
        failure: Failure,
        now: Duration,
        thresholds: Thresholds,
    ) -> (Self, Option<Flip>) {
        let first = self.first_failure.unwrap_or(now);
        let state = Self {
            successes: 0,
            failures: self.failures.saturating_add(1),
            first_success: None,
            first_failure: Some(first),
            last_failure: Some((now, failure)),
            ..self
        };
        state.reached(Verdict::Down, state.failures >= thresholds.unhealthy, first, now)
    }

    fn reached(
        self,
        verdict: Verdict,
        enough: bool,
        first_evidence: Duration,
        now: Duration,
    ) -> (Self, Option<Flip>) {
        if !enough || self.verdict == verdict {
            return (self, None);
        }
        let flip = Flip { from: self.verdict, to: verdict, first_evidence };
        (Self { verdict, since: now, ..self }, Some(flip))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const REFUSED: Observation = Observation::Failure(Failure::Refused);

    fn thresholds() -> impl Strategy<Value = Thresholds> {
        (1..=6u32, 1..=6u32).prop_map(|(unhealthy, healthy)| Thresholds { unhealthy, healthy })
    }

    fn observation() -> impl Strategy<Value = Observation> {
        prop_oneof![
            Just(Observation::Success),
            Just(REFUSED),
            Just(Observation::Failure(Failure::Timeout)),
            Just(Observation::SelfFault),
        ]
    }

    /// One observation a second.
    fn run(mut state: State, observations: &[Observation], thresholds: Thresholds) -> State {
        for (second, observation) in (1..).zip(observations) {
            (state, _) = state.step(*observation, Duration::from_secs(second), thresholds);
        }
        state
    }

    proptest! {
        #[test]
        fn a_full_run_settles_any_state(
            thresholds in thresholds(),
            past in prop::collection::vec(observation(), 0..40),
        ) {
            let state = run(State::default(), &past, thresholds);
            let failures = vec![REFUSED; thresholds.unhealthy as usize];
            prop_assert_eq!(run(state, &failures, thresholds).verdict, Verdict::Down);
            let successes = vec![Observation::Success; thresholds.healthy as usize];
            prop_assert_eq!(run(state, &successes, thresholds).verdict, Verdict::Up);
        }

        #[test]
        fn a_verdict_flips_only_after_a_full_run_of_evidence(
            thresholds in thresholds(),
            past in prop::collection::vec(observation(), 0..200),
        ) {
            let mut state = State::default();
            let mut counted = Vec::new();
            for (second, observation) in (1..).zip(past) {
                let now = Duration::from_secs(second);
                let before = state;
                let flip;
                (state, flip) = state.step(observation, now, thresholds);
                if observation != Observation::SelfFault {
                    counted.push((observation == Observation::Success, now));
                }
                prop_assert_eq!(flip.is_some(), before.verdict != state.verdict);
                let Some(flip) = flip else { continue };
                prop_assert_eq!((flip.from, flip.to), (before.verdict, state.verdict));
                prop_assert_eq!(state.since, now);
                let needed = match (flip.from, flip.to) {
                    (Verdict::Unknown, Verdict::Up) => 1,
                    (_, Verdict::Up) => thresholds.healthy,
                    _ => thresholds.unhealthy,
                };
                let run: Vec<_> = counted
                    .iter()
                    .rev()
                    .take_while(|(good, _)| *good == (flip.to == Verdict::Up))
                    .collect();
                prop_assert_eq!(run.len(), needed as usize);
                prop_assert_eq!(flip.first_evidence, run[run.len() - 1].1);
            }
        }

        #[test]
        fn our_own_fault_changes_nothing(
            thresholds in thresholds(),
            past in prop::collection::vec(observation(), 0..40),
        ) {
            let state = run(State::default(), &past, thresholds);
            let after = state.step(Observation::SelfFault, Duration::from_secs(99), thresholds);
            prop_assert_eq!(after, (state, None));
        }
    }

    /// What of a state decides its future: the verdict, and the runs as far as they count.
    fn essence(state: State, thresholds: Thresholds) -> (Verdict, u32, u32) {
        let Thresholds { unhealthy, healthy } = thresholds;
        (state.verdict, state.successes.min(healthy), state.failures.min(unhealthy))
    }

    #[test]
    fn every_reachable_state_keeps_the_rules() {
        for (unhealthy, healthy) in (1..=5).flat_map(|u| (1..=5).map(move |h| (u, h))) {
            let thresholds = Thresholds { unhealthy, healthy };
            let mut seen = HashSet::new();
            let mut open = vec![State::default()];
            while let Some(state) = open.pop() {
                if !seen.insert(essence(state, thresholds)) {
                    continue;
                }
                assert!(state.successes == 0 || state.failures == 0, "{state:?}");
                assert_eq!(state.first_failure.is_some(), state.failures > 0, "{state:?}");
                assert_eq!(state.first_success.is_some(), state.successes > 0, "{state:?}");
                assert!(state.verdict == Verdict::Down || state.failures < unhealthy, "{state:?}");
                assert!(state.verdict == Verdict::Up || state.successes < healthy, "{state:?}");
                for observation in [Observation::Success, REFUSED, Observation::SelfFault] {
                    let (next, _) = state.step(observation, Duration::from_secs(1), thresholds);
                    assert!(
                        next.verdict != Verdict::Unknown || state.verdict == Verdict::Unknown,
                        "{state:?} forgot its verdict"
                    );
                    open.push(next);
                }
            }
            // Unknown with 0..u failures; up with 1..=h successes or 1..u failures; down with 1..=u
            // failures or 1..h successes (only u failures where one success ends it).
            let down = if healthy == 1 { 1 } else { unhealthy + healthy - 1 };
            assert_eq!(seen.len() as u32, unhealthy + (healthy + unhealthy - 1) + down);
        }
    }

    #[test]
    fn doubt_lasts_from_the_first_contradiction_to_the_flip() {
        let thresholds = Thresholds { unhealthy: 3, healthy: 2 };
        let story = [
            (Observation::Success, Verdict::Up, false),
            (REFUSED, Verdict::Up, true),
            (REFUSED, Verdict::Up, true),
            (REFUSED, Verdict::Down, false),
            (Observation::Success, Verdict::Down, true),
            (REFUSED, Verdict::Down, false),
            (Observation::Success, Verdict::Down, true),
            (Observation::Success, Verdict::Up, false),
        ];
        let mut state = State::default();
        assert!(state.in_doubt());
        for (second, (observation, verdict, doubt)) in (1..).zip(story) {
            (state, _) = state.step(observation, Duration::from_secs(second), thresholds);
            assert_eq!((state.verdict, state.in_doubt()), (verdict, doubt), "second {second}");
        }
    }
}
