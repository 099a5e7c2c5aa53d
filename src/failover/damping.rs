//! ● How much a pool's own failures count against a voluntary return to it.
//!
//! After RFC 2439 (route flap damping), with what RFC 7196 learned: only the service's own moves
//! count, never a flap of a probe, and necessity is never damped.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What leaving a pool because it was lost, or an aborted return, adds to its penalty.
pub const PER_MOVE: f64 = 1000.0;
/// A penalty halves in this time.
pub const HALF_LIFE: Duration = Duration::from_secs(15 * 60);
/// From here on nothing returns to the pool …
pub const SUPPRESS: f64 = 2000.0;
/// … until the penalty is below this.
pub const REUSE: f64 = 750.0;
/// It never takes longer than this.
pub const MOST: Duration = Duration::from_secs(60 * 60);

/// A pool's penalty: its value at some time, from where it decays.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Penalty {
    value: f64,
    at: Duration,
    suppressed: bool,
}

impl Penalty {
    /// A penalty that had decayed to this `value` at `now`: how it is carried over a restart.
    pub fn restored(value: f64, suppressed: bool, now: Duration) -> Self {
        let value = if value.is_finite() { value.clamp(0.0, ceiling()) } else { 0.0 };
        Self { value, at: now, suppressed }
    }

    #[must_use]
    pub fn raised(self, now: Duration) -> Self {
        let value = (self.value(now) + PER_MOVE).min(ceiling());
        Self { value, at: now, suppressed: self.is_suppressed(now) || value >= SUPPRESS }
    }

    /// What is left of it at `now`.
    pub fn value(&self, now: Duration) -> f64 {
        let halves = now.saturating_sub(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.value * (-halves).exp2()
    }

    pub fn is_suppressed(&self, now: Duration) -> bool {
        self.suppressed && self.value(now) >= REUSE
    }

    /// When a suppressed pool may be returned to.
    pub fn reusable_at(&self, now: Duration) -> Duration {
        if !self.is_suppressed(now) {
            return now;
        }
        let seconds = (self.value / REUSE).log2() * HALF_LIFE.as_secs_f64();
        // A millisecond more, so that asking again at that time finds it below.
        self.at + Duration::from_secs_f64(seconds.max(0.0)) + Duration::from_millis(1)
    }
}

/// From here it takes [`MOST`] to decay to [`REUSE`].
fn ceiling() -> f64 {
    REUSE * (MOST.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(count * 60)
    }

    #[test]
    fn two_moves_within_a_quarter_of_an_hour_do_not_suppress_but_three_do() {
        let once = Penalty::default().raised(minutes(0));
        assert!(!once.is_suppressed(minutes(0)));
        let twice = once.raised(minutes(7));
        assert!(!twice.is_suppressed(minutes(7)), "{twice:?}");
        let thrice = twice.raised(minutes(14));
        assert!(thrice.is_suppressed(minutes(14)), "{thrice:?}");
    }

    #[test]
    fn suppressed_pool_is_reusable_when_it_says_so_and_not_before() {
        let penalty = [0, 1, 2].into_iter().fold(Penalty::default(), |p, m| p.raised(minutes(m)));
        let until = penalty.reusable_at(minutes(2));
        assert!(until > minutes(20) && until < minutes(60), "{until:?}");
        assert!(penalty.is_suppressed(until - Duration::from_millis(2)));
        assert!(!penalty.is_suppressed(until));
    }

    #[test]
    fn suppressed_pool_that_fails_again_stays_suppressed() {
        let penalty = [0, 1, 2].into_iter().fold(Penalty::default(), |p, m| p.raised(minutes(m)));
        let nearly = minutes(28);
        assert!(penalty.is_suppressed(nearly) && penalty.value(nearly) < SUPPRESS - PER_MOVE);
        assert!(penalty.raised(nearly).is_suppressed(nearly));
    }

    #[test]
    fn no_number_of_moves_suppresses_for_longer_than_an_hour() {
        let penalty = (0..1000).fold(Penalty::default(), |p, _| p.raised(minutes(5)));
        assert!(penalty.reusable_at(minutes(5)) <= minutes(65) + Duration::from_millis(1));
        let broken = Penalty::restored(f64::NAN, true, minutes(1));
        assert_eq!(broken.value(minutes(1)), 0.0);
    }
}
