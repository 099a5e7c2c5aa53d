//! ● What a service's machine sees of one pool.

use std::time::Duration;

use crate::health::{self, Verdict};

/// A pool, summed up from the verdicts of its endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolView {
    pub up: u32,
    pub unknown: u32,
    pub down: u32,
    /// Endpoints that must be up, at least 1.
    pub min_healthy: u32,
    /// The first evidence against the pool: the oldest failure of the runs of failures that cost it
    /// its last healthy endpoints. None unless it is lost.
    pub first_failure: Option<Duration>,
}

impl PoolView {
    /// Sums up a pool. `window`: failures that began no longer than this before the decisive one
    /// belong to the same event; an endpoint that has been dead for days is not the first evidence
    /// of what happened just now.
    pub fn of<'a>(
        min_healthy: u32,
        window: Duration,
        endpoints: impl IntoIterator<Item = &'a health::State>,
    ) -> Self {
        let mut view = Self { min_healthy, ..Self::default() };
        let mut failures = Vec::new();
        for endpoint in endpoints {
            match endpoint.verdict {
                Verdict::Up => view.up += 1,
                Verdict::Unknown => view.unknown += 1,
                Verdict::Down => {
                    view.down += 1;
                    // A down endpoint that has begun to succeed has no run of failures any more.
                    failures.push(endpoint.first_failure.unwrap_or(endpoint.since));
                }
            }
        }
        if view.lost() {
            failures.sort_unstable();
            let spare = (view.up + view.unknown + view.down).saturating_sub(min_healthy);
            let decisive = failures.get(spare as usize).copied();
            view.first_failure = decisive.and_then(|decisive| {
                let start = decisive.saturating_sub(window);
                failures.iter().copied().find(|failure| *failure >= start)
            });
        }
        view
    }

    /// Enough endpoints are known to be up.
    pub fn available(&self) -> bool {
        self.up >= self.min_healthy
    }

    /// Too few endpoints can be up: those not heard of yet count in the pool's favour, because no
    /// evidence is not evidence.
    pub fn lost(&self) -> bool {
        self.up.saturating_add(self.unknown) < self.min_healthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(verdict: Verdict, first_failure: Option<u64>) -> health::State {
        health::State {
            verdict,
            first_failure: first_failure.map(Duration::from_secs),
            ..health::State::default()
        }
    }

    fn first_failure(min_healthy: u32, failures: &[Option<u64>]) -> Option<u64> {
        let states: Vec<_> = failures
            .iter()
            .map(|failure| match failure {
                Some(_) => endpoint(Verdict::Down, *failure),
                None => endpoint(Verdict::Up, None),
            })
            .collect();
        let view = PoolView::of(min_healthy, Duration::from_secs(2), &states);
        view.first_failure.map(|at| at.as_secs())
    }

    #[test]
    fn the_first_evidence_is_the_oldest_failure_of_the_event_that_cost_the_pool() {
        assert_eq!(first_failure(1, &[Some(100), Some(101)]), Some(100));
        assert_eq!(first_failure(1, &[Some(5), Some(101)]), Some(101), "dead long before");
        assert_eq!(first_failure(2, &[Some(100), None, Some(5)]), Some(100), "the second of three");
        assert_eq!(first_failure(1, &[Some(100), None]), None, "not lost");
        assert_eq!(first_failure(3, &[Some(100), Some(102), Some(107)]), Some(100));
    }

    #[test]
    fn unknown_endpoints_neither_make_a_pool_available_nor_lose_it() {
        let states = [endpoint(Verdict::Unknown, None), endpoint(Verdict::Down, Some(1))];
        let view = PoolView::of(1, Duration::ZERO, &states);
        assert!(!view.available() && !view.lost(), "{view:?}");
        assert_eq!((view.up, view.unknown, view.down), (0, 1, 1));
    }
}
