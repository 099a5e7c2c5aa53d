//! ● What a service's machine sees of one pool.

use std::time::Duration;

use super::Cause;
use crate::health::{self, Verdict};

/// A pool, summed up from the verdicts of its endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolView {
    pub up: u32,
    pub unknown: u32,
    pub down: u32,
    /// Endpoints an operator drains or has turned off: they count for nothing.
    pub off: u32,
    /// When the last of those was ordered.
    pub ordered: Option<Duration>,
    /// Endpoints that must be up, at least 1.
    pub min_healthy: u32,
    /// The first evidence against the pool: the oldest failure of the runs of failures that cost it
    /// its last healthy endpoints. None unless it is lost, or if an operator's order cost it.
    pub first_failure: Option<Duration>,
    /// When what became that evidence began; it proves nothing before it is known.
    pub first_began: Option<Duration>,
    /// Every down endpoint was found so in a probe that began at this time or later.
    pub failed_anew: Option<Duration>,
    /// `min_healthy` endpoints that are up have answered every probe since this time.
    pub unbroken: Option<Duration>,
    /// `min_healthy` endpoints that are up have succeeded in a probe that began at this time or
    /// later.
    pub proved: Option<Duration>,
}

impl PoolView {
    /// Sums up a pool of endpoints, each with whether it is active. `window`: failures that began
    /// no longer than this before the decisive one belong to the same event; an endpoint that has
    /// been dead for days is not the first evidence of what happened just now.
    pub fn of<'a>(
        min_healthy: u32,
        window: Duration,
        endpoints: impl IntoIterator<Item = (&'a health::State, bool)>,
    ) -> Self {
        let mut view = Self { min_healthy, ..Self::default() };
        let (mut failures, mut successes, mut runs) = (Vec::new(), Vec::new(), Vec::new());
        for (endpoint, active) in endpoints {
            match endpoint.verdict {
                _ if !active => view.off += 1,
                Verdict::Up => {
                    view.up += 1;
                    successes.extend(endpoint.last_success);
                    runs.extend(endpoint.first_success);
                }
                Verdict::Unknown => view.unknown += 1,
                Verdict::Down => {
                    view.down += 1;
                    let known = endpoint.first_failure.unwrap_or(endpoint.since);
                    failures.push((known, endpoint.first_began.unwrap_or(known)));
                    let failed = endpoint.confirmed_down();
                    view.failed_anew = Some(view.failed_anew.map_or(failed, |at| at.min(failed)));
                }
            }
        }
        successes.sort_unstable();
        let newest = successes.len().checked_sub(min_healthy.max(1) as usize);
        view.proved = newest.and_then(|index| successes.get(index).copied());
        runs.sort_unstable();
        view.unbroken = runs.get(min_healthy.max(1) as usize - 1).copied();
        if view.lost() {
            failures.sort_unstable();
            let spare = view.total().saturating_sub(min_healthy);
            let decisive = failures.get(spare as usize).or_else(|| failures.last()).copied();
            let start = decisive.map(|(known, _)| known.saturating_sub(window));
            let event = || failures.iter().filter(|(known, _)| Some(*known) >= start);
            view.first_failure = event().map(|(known, _)| *known).min();
            view.first_began = event().map(|(_, began)| *began).min();
        }
        view
    }

    /// Endpoints that are not off.
    pub fn total(&self) -> u32 {
        self.up + self.unknown + self.down
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

    /// The pool has succeeded since `evidence` against another one began.
    pub fn proved_since(&self, evidence: Option<Duration>) -> bool {
        evidence.is_none_or(|evidence| self.proved.is_some_and(|proved| proved > evidence))
    }

    /// This pool is lost, and it is not us who hear nothing: it has failed since `other` was heard
    /// again, if that was ever silent. Needs no proof where an operator's order cost it.
    pub fn is_deader_than(&self, other: &Self) -> bool {
        let failed = || self.failed_anew.zip(other.unbroken);
        self.first_failure.is_none() || failed().is_some_and(|(failed, heard)| failed >= heard)
    }

    /// Whether health or an operator's order cost the pool its endpoints: what came last.
    pub fn cause_of_loss(&self) -> Cause {
        let without = self.up + self.unknown + self.off;
        let ordered = self.off > 0 && without >= self.min_healthy;
        let last = |failed| self.ordered.is_some_and(|ordered| ordered >= failed);
        match ordered && self.first_failure.is_none_or(last) {
            true => Cause::Manual,
            false => Cause::Health,
        }
    }

    /// The part of its endpoints that is up, those off included, in thousandths.
    pub fn share_up(&self) -> u32 {
        (self.up * 1000).checked_div(self.total() + self.off).unwrap_or(0)
    }

    /// `0 of 2 endpoints up, needs 1`.
    pub fn shortage(&self) -> String {
        let Self { up, min_healthy, off, .. } = self;
        let off = if *off > 0 { format!(" ({off} drained or off)") } else { String::new() };
        format!("{up} of {} endpoints up{off}, needs {min_healthy}", self.total() + self.off)
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
        let states = states.iter().map(|state| (state, true));
        let view = PoolView::of(min_healthy, Duration::from_secs(2), states);
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
    fn evidence_is_older_than_its_proof_but_not_older_than_the_event() {
        let failed = |began, known| health::State {
            first_began: Some(Duration::from_secs(began)),
            ..endpoint(Verdict::Down, Some(known))
        };
        let states = [failed(100, 104), failed(99, 105), failed(5, 6)];
        let view = PoolView::of(1, Duration::from_secs(2), states.iter().map(|s| (s, true)));
        let seconds = |at: Option<Duration>| at.map(|at| at.as_secs());
        assert_eq!(seconds(view.first_began), Some(99));
        assert_eq!(seconds(view.first_failure), Some(104));
    }

    #[test]
    fn as_many_endpoints_as_are_needed_must_have_answered() {
        let up = |first, last| health::State {
            first_success: Some(Duration::from_secs(first)),
            last_success: Some(Duration::from_secs(last)),
            ..endpoint(Verdict::Up, None)
        };
        let states = [up(50, 60), up(10, 90), up(30, 70)];
        let view = |needed| PoolView::of(needed, Duration::ZERO, states.iter().map(|s| (s, true)));
        let seconds = |at: Option<Duration>| at.map(|at| at.as_secs());
        assert_eq!([1, 2, 3].map(|n| seconds(view(n).proved)), [Some(90), Some(70), Some(60)]);
        assert_eq!([1, 2, 3].map(|n| seconds(view(n).unbroken)), [Some(10), Some(30), Some(50)]);
        assert_eq!((view(4).proved, view(4).unbroken), (None, None));
    }

    #[test]
    fn pool_has_failed_anew_when_the_last_of_its_dead_endpoints_has() {
        let failed = |at| health::State {
            last_failure: Some((Duration::from_secs(at), health::Failure::Timeout)),
            ..endpoint(Verdict::Down, Some(1))
        };
        let states = [failed(20), failed(10), failed(30)];
        let view = PoolView::of(1, Duration::ZERO, states.iter().map(|state| (state, true)));
        assert_eq!(view.failed_anew, Some(Duration::from_secs(10)));
    }

    #[test]
    fn endpoints_turned_off_count_for_nothing_and_what_came_last_is_the_cause() {
        let states = [endpoint(Verdict::Up, None), endpoint(Verdict::Down, Some(100))];
        let view = PoolView::of(1, Duration::ZERO, states.iter().zip([false, true]));
        assert_eq!((view.up, view.off, view.down, view.lost()), (0, 1, 1, true));
        let ordered = |at| PoolView { ordered: Some(Duration::from_secs(at)), ..view };
        assert_eq!(ordered(99).cause_of_loss(), Cause::Health);
        assert_eq!(ordered(101).cause_of_loss(), Cause::Manual);
    }

    #[test]
    fn unknown_endpoints_neither_make_a_pool_available_nor_lose_it() {
        let states = [endpoint(Verdict::Unknown, None), endpoint(Verdict::Down, Some(1))];
        let view = PoolView::of(1, Duration::ZERO, states.iter().map(|state| (state, true)));
        assert!(!view.available() && !view.lost(), "{view:?}");
        assert_eq!((view.up, view.unknown, view.down), (0, 1, 1));
    }
}
