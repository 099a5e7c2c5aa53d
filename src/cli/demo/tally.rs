//! ○ What the demo's clients saw, by phase of the story. Reads no clock and touches nothing.

use std::collections::BTreeMap;
use std::time::Duration;

/// Where the story is, as the clients' latencies are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Phase {
    /// Hot serves.
    #[default]
    Before,
    /// Hot is dead and the service has not moved: requests are saved one by one.
    During,
    /// Standby serves.
    OnStandby,
    /// Hot serves again.
    After,
}

impl Phase {
    pub(super) const ALL: [(Self, &'static str); 4] = [
        (Self::Before, "before"),
        (Self::During, "during the failover"),
        (Self::OnStandby, "on standby"),
        (Self::After, "after the return"),
    ];
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answered by this pool, whole and right.
    Ok(String),
    /// Anything else, and why.
    Lost(String),
}

/// All requests of a load.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) phase: Phase,
    pub(super) sent: u64,
    pub(super) lost: u64,
    /// Answers by pool.
    pub(super) by_pool: BTreeMap<String, u64>,
    /// When each pool answered for the first time, since the process's origin.
    pub(super) first_by_pool: BTreeMap<String, Duration>,
    /// Why requests were lost, and how many.
    pub(super) reasons: BTreeMap<String, u64>,
    /// Microseconds of every answer, by phase.
    latencies: [Vec<u32>; Phase::ALL.len()],
}

/// Answers kept for each phase, oldest forgotten first: more than a demo has.
const KEPT: usize = 100_000;

impl Tally {
    pub(super) fn begin(&mut self) {
        self.sent += 1;
    }

    /// `at`: now, since the process's origin.
    pub(super) fn end(&mut self, outcome: Outcome, took: Duration, at: Duration) {
        match outcome {
            Outcome::Ok(pool) => {
                if !self.first_by_pool.contains_key(&pool) {
                    self.first_by_pool.insert(pool.clone(), at);
                }
                *self.by_pool.entry(pool).or_default() += 1;
                let latencies = &mut self.latencies[self.phase as usize];
                if latencies.len() < KEPT {
                    latencies.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
                }
            }
            Outcome::Lost(why) => {
                self.lost += 1;
                *self.reasons.entry(why).or_default() += 1;
            }
        }
    }

    pub(super) fn ok(&self) -> u64 {
        self.by_pool.values().sum()
    }

    pub(super) fn answered_by(&self, pool: &str) -> u64 {
        self.by_pool.get(pool).copied().unwrap_or(0)
    }

    /// Percentiles of the latency in a phase, each 0..=100 (nearest rank); `None` if it had no
    /// answer.
    pub(super) fn latency<const N: usize>(
        &self,
        phase: Phase,
        percentiles: [u32; N],
    ) -> Option<[Duration; N]> {
        let mut sorted = self.latencies[phase as usize].clone();
        if sorted.is_empty() {
            return None;
        }
        sorted.sort_unstable();
        Some(percentiles.map(|percentile| {
            let rank = (sorted.len() * percentile as usize).div_ceil(100);
            let micros = sorted[rank.clamp(1, sorted.len()) - 1];
            Duration::from_micros(u64::from(micros))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_losses_are_told_apart() {
        let mut tally = Tally::default();
        for outcome in [
            Outcome::Ok("hot".into()),
            Outcome::Ok("hot".into()),
            Outcome::Ok("standby".into()),
            Outcome::Lost("GET: 502".into()),
        ] {
            tally.begin();
            tally.end(outcome, Duration::from_millis(1), Duration::from_secs(tally.sent));
        }
        assert_eq!((tally.sent, tally.ok(), tally.lost), (4, 3, 1));
        assert_eq!((tally.answered_by("hot"), tally.answered_by("moon")), (2, 0));
        assert_eq!(tally.reasons["GET: 502"], 1);
        assert_eq!(tally.first_by_pool["hot"], Duration::from_secs(1));
    }

    #[test]
    fn a_percentile_is_the_nearest_rank_of_its_own_phase() {
        let mut tally = Tally::default();
        for millis in (1..=200).rev() {
            tally.end(Outcome::Ok("hot".into()), Duration::from_millis(millis), Duration::ZERO);
        }
        tally.phase = Phase::During;
        tally.end(Outcome::Ok("standby".into()), Duration::from_secs(1), Duration::ZERO);
        let millis =
            |phase| tally.latency(phase, [50, 99, 100]).map(|found| found.map(|d| d.as_millis()));
        assert_eq!(millis(Phase::Before), Some([100, 198, 200]));
        assert_eq!(millis(Phase::During), Some([1000; 3]));
        assert_eq!(millis(Phase::After), None);
    }
}
