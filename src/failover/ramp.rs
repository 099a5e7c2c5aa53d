//! ● A return by degrees: which share the returning pool gets when, and when it is broken off.

use std::iter::Sum;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Shares of a return, in thousandths, each for an equal part of it; then all.
const STAGES: [u16; 4] = [10, 50, 250, 500];

/// Errors below which nothing is concluded.
const ERRORS_LEAST: u64 = 3;
/// How much more the returning pool may err than the serving one: a percentage point.
const MARGIN: f64 = 0.01;

/// A return that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ramp {
    /// The returning pool.
    pub to: usize,
    pub began: Duration,
    /// All stages together.
    pub length: Duration,
}

impl Ramp {
    pub fn is_over(&self, now: Duration) -> bool {
        now.saturating_sub(self.began) >= self.length
    }

    /// The share of the returning pool at `now`, in thousandths.
    pub fn permille(&self, now: Duration) -> u16 {
        STAGES.get(self.stage(now)).copied().unwrap_or(1000)
    }

    /// When the share changes next.
    pub fn next(&self, now: Duration) -> Duration {
        let stage = u32::try_from(self.stage(now)).unwrap_or(u32::MAX);
        self.end_of(stage).max(now)
    }

    fn stage(&self, now: Duration) -> usize {
        let stages = 0..STAGES.len() as u32;
        stages.take_while(|stage| self.end_of(*stage) <= now).count()
    }

    fn end_of(&self, stage: u32) -> Duration {
        let parts = STAGES.len() as u32;
        let whole = self.length.as_nanos() * u128::from((stage + 1).min(parts));
        let nanos = u64::try_from(whole / u128::from(parts)).unwrap_or(u64::MAX);
        self.began.saturating_add(Duration::from_nanos(nanos))
    }
}

/// What a pool did during a return or a drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    pub requests: u64,
    /// Answers of 500 and above, and requests that got none.
    pub errors: u64,
}

impl Tally {
    pub fn ratio(&self) -> f64 {
        match self.requests {
            0 => 0.0,
            requests => self.errors as f64 / requests as f64,
        }
    }

    /// What came since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
        }
    }

    /// More than this part of the requests erred (0..=1), and that is no chance.
    pub fn exceeds(&self, ratio: f64) -> bool {
        self.errors >= ERRORS_LEAST && self.ratio() > ratio
    }

    /// The returning pool errs more than the one that serves: the return is to be broken off.
    pub fn is_worse_than(&self, serving: &Self) -> bool {
        self.exceeds(serving.ratio() + MARGIN)
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |sum, tally| Self {
            requests: sum.requests + tally.requests,
            errors: sum.errors + tally.errors,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_grows_in_equal_steps_to_all() {
        let ramp = Ramp { to: 0, began: Duration::from_secs(100), length: Duration::from_secs(60) };
        let at = |seconds| ramp.permille(Duration::from_secs(seconds));
        assert_eq!(
            [at(100), at(114), at(115), at(130), at(159), at(160)],
            [10, 10, 50, 250, 500, 1000]
        );
        assert!(!ramp.is_over(Duration::from_secs(159)) && ramp.is_over(Duration::from_secs(160)));
        assert_eq!(ramp.next(Duration::from_secs(100)), Duration::from_secs(115));
        assert_eq!(ramp.next(Duration::from_secs(115)), Duration::from_secs(130));
        assert_eq!(ramp.next(Duration::from_secs(500)), Duration::from_secs(500));
    }

    #[test]
    fn return_is_broken_off_when_it_errs_more_and_not_for_a_chance_error() {
        let tally = |requests, errors| Tally { requests, errors };
        assert!(tally(100, 5).is_worse_than(&tally(10_000, 10)));
        assert!(!tally(20, 2).is_worse_than(&tally(10_000, 0)), "two errors prove nothing");
        assert!(!tally(100, 5).is_worse_than(&tally(10_000, 500)), "both err alike");
        assert!(!tally(1000, 5).is_worse_than(&tally(10_000, 0)), "less than a percentage point");
        assert!(!Tally::default().is_worse_than(&Tally::default()));
    }
}
