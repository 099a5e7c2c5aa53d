//! ● When an endpoint is probed next.

use std::time::Duration;

use crate::config::HealthCheck;

use super::State;

/// At a start the first probes are spread by this much for each endpoint: a handful is asked at
/// once, thousands do not all connect in the same instant.
const SPREAD_PER_ENDPOINT: Duration = Duration::from_micros(100);

/// How long to wait after a probe before the next one: the interval while the verdict is settled,
/// the fast interval while it is in doubt; ten percent more or less of it, so that probes of many
/// endpoints (or of many instances) do not march in step. Never less than the fast interval.
///
/// `random` is uniform over all of `u64`.
pub fn next_delay(state: &State, check: &HealthCheck, random: u64) -> Duration {
    let base = if state.in_doubt() { check.fast_interval } else { check.interval };
    let tenth = base / 10;
    (base - tenth + scaled(tenth * 2, random)).max(check.fast_interval)
}

/// How long to wait before the very first probe, when `endpoints` begin to be probed together.
pub fn first_delay(endpoints: usize, check: &HealthCheck, random: u64) -> Duration {
    let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX);
    scaled(SPREAD_PER_ENDPOINT.saturating_mul(endpoints).min(check.interval), random)
}

/// `range` × `random` ÷ 2^64.
fn scaled(range: Duration, random: u64) -> Duration {
    let nanos = (range.as_nanos() * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::CheckKind;
    use crate::health::{Failure, Observation, Thresholds, Verdict};

    fn check() -> HealthCheck {
        HealthCheck {
            kind: CheckKind::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(800),
            fast_interval: Duration::from_millis(100),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
        }
    }

    fn after(observations: &[Observation]) -> State {
        observations.iter().fold(State::default(), |state, observation| {
            let thresholds = Thresholds { unhealthy: 3, healthy: 2 };
            state.step(*observation, Duration::ZERO, Duration::ZERO, thresholds).0
        })
    }

    #[test]
    fn doubt_is_resolved_at_the_fast_interval_and_certainty_at_the_interval() {
        use Observation::Success;
        const REFUSED: Observation = Observation::Failure(Failure::Refused);
        let half = u64::MAX / 2 + 1;
        let cases: [(&[Observation], u64); 8] = [
            (&[], 100),
            (&[REFUSED, REFUSED], 100),
            (&[Success], 1000),
            (&[Success, REFUSED], 100),
            (&[Success, REFUSED, REFUSED, REFUSED], 1000),
            (&[REFUSED, REFUSED, REFUSED, REFUSED, REFUSED], 1000),
            (&[REFUSED, REFUSED, REFUSED, Success], 100),
            (&[REFUSED, REFUSED, REFUSED, Success, Success], 1000),
        ];
        for (observations, millis) in cases {
            let delay = next_delay(&after(observations), &check(), half);
            assert_eq!(delay, Duration::from_millis(millis), "{observations:?}");
        }
    }

    proptest! {
        #[test]
        fn jitter_is_ten_percent_and_never_below_the_fast_interval(
            random: u64,
            fast in 1..5_000u64,
            interval in 1..5_000u64,
            settled: bool,
        ) {
            let check = HealthCheck {
                interval: Duration::from_millis(interval),
                fast_interval: Duration::from_millis(fast),
                ..check()
            };
            let verdict = if settled { Verdict::Up } else { Verdict::Unknown };
            let state = State { verdict, ..State::default() };
            let delay = next_delay(&state, &check, random);
            let base = if settled { check.interval } else { check.fast_interval };
            prop_assert!(delay >= check.fast_interval);
            prop_assert!(delay >= base.mul_f64(0.8999));
            prop_assert!(delay <= base.mul_f64(1.1001).max(check.fast_interval));
        }

        #[test]
        fn a_few_endpoints_are_probed_at_once_and_thousands_within_an_interval(random: u64) {
            prop_assert!(first_delay(6, &check(), random) < Duration::from_millis(1));
            prop_assert!(first_delay(1_000_000, &check(), random) < check().interval);
        }
    }

    #[test]
    fn jitter_uses_its_whole_range() {
        let up = State { verdict: Verdict::Up, ..State::default() };
        assert_eq!(next_delay(&up, &check(), 0), Duration::from_millis(900));
        assert!(next_delay(&up, &check(), u64::MAX) > Duration::from_micros(1_099_990));
    }
}
