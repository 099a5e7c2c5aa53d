//! ● A service's counters at one moment: the cost of a move is the difference between two of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::failover::record::Cost;
use crate::table::counters::{Codes, Counter, Loss, Proof, RouteCells, UpstreamError};
use crate::table::{Endpoint, EndpointId, Pool, Table};

/// Samples kept of a service. The youngest lie a second apart, older ones ever further.
const KEPT: usize = 24;
/// So many of the youngest are never thinned out.
const DENSE: usize = 12;
/// How far before the first evidence the cost may begin, so that a service that loses a request now
/// and then all day long does not count the day.
const BEFORE_EVIDENCE: Duration = Duration::from_secs(10);

/// Totals since the counters were made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sample {
    pub(super) at: Duration,
    pub(super) requests: u64,
    pub(super) rescued: [u64; Proof::ALL.len()],
    pub(super) lost: [u64; Loss::ALL.len()],
    pub(super) held: u64,
    pub(super) wait_micros: u64,
    /// Failures of requests at each endpoint.
    pub(super) failures: Vec<(EndpointId, [u64; UpstreamError::ALL.len()])>,
}

impl Sample {
    /// Of the service of this index. A request is counted when it has ended.
    pub(super) fn of(table: &Table, index: usize, at: Duration) -> Self {
        let Some(service) = table.services.get(index) else { return Self::default() };
        let cells = &service.counters.workers;
        let targets = table.listeners.iter().flat_map(|listener| listener.targets.iter());
        let requests = targets
            .filter(|target| target.service as usize == index)
            .map(|target| target.counters.workers.sum(total))
            .sum();
        let endpoints = service.pools.iter().flat_map(|pool| pool.endpoints.iter());
        let failures = endpoints.map(|endpoint| {
            let cells = &endpoint.counters.workers;
            let of = |kind: usize| cells.sum(|cells| cells.errors[kind].value());
            (endpoint.id, std::array::from_fn(of))
        });
        Self {
            at,
            requests,
            rescued: std::array::from_fn(|i| cells.sum(|cells| cells.rescued[i].value())),
            lost: std::array::from_fn(|i| cells.sum(|cells| cells.lost[i].value())),
            held: cells.sum(|cells| cells.held.value()),
            wait_micros: cells.sum(|cells| cells.rescue_wait_micros.value()),
            failures: failures.collect(),
        }
    }

    /// No request was rescued, lost or held since `earlier`.
    pub(super) fn is_calm_since(&self, earlier: &Self) -> bool {
        (self.rescued, self.lost, self.held) == (earlier.rescued, earlier.lost, earlier.held)
    }

    /// What happened since `earlier`; a counter that shrank, because its listener is gone, counts
    /// as none.
    pub(super) fn cost_since(&self, earlier: &Self, in_flight: u64, most_micros: u64) -> Cost {
        let rescued = grown(&self.rescued, &earlier.rescued, |i| Proof::ALL[i].1);
        let count: u64 = rescued.values().sum();
        let waited = self.wait_micros.saturating_sub(earlier.wait_micros);
        Cost {
            requests: self.requests.saturating_sub(earlier.requests),
            in_flight,
            held: self.held.saturating_sub(earlier.held),
            lost: grown(&self.lost, &earlier.lost, |i| Loss::ALL[i].1),
            added_latency_mean_micros: waited.checked_div(count).unwrap_or(0),
            // What was measured before this time began may be longer than anything within it.
            added_latency_most_micros: if count > 0 { most_micros.min(waited) } else { 0 },
            rescued,
        }
    }

    /// Failures of requests at the endpoints of a pool since `earlier`, by endpoint and kind.
    pub(super) fn failures_since<'a>(
        &'a self,
        earlier: &'a Self,
        pool: &'a Pool,
    ) -> impl Iterator<Item = (EndpointId, (UpstreamError, &'static str), u64)> + 'a {
        let of = |sample: &'a Self, id: EndpointId| {
            sample.failures.iter().find(|(known, _)| *known == id).map(|(_, counts)| counts)
        };
        let none = &[0; UpstreamError::ALL.len()];
        let counts =
            pool.endpoints.iter().flat_map(move |endpoint| {
                let now = of(self, endpoint.id).unwrap_or(none);
                let before = of(earlier, endpoint.id).unwrap_or(none);
                UpstreamError::ALL.iter().zip(now).zip(before).map(move |((kind, now), before)| {
                    (endpoint.id, *kind, now.saturating_sub(*before))
                })
            });
        counts.filter(|(.., count)| *count > 0)
    }
}

/// How a request failed, for people.
pub(super) fn words(kind: UpstreamError) -> &'static str {
    match kind {
        UpstreamError::Refused => "connection refused",
        UpstreamError::Unreachable => "no way to it",
        UpstreamError::ConnectTimeout => "no connection in time",
        UpstreamError::Tls => "TLS failed",
        UpstreamError::Reset => "connection reset",
        UpstreamError::Timeout => "no answer in time",
        UpstreamError::Malformed => "the answer was not HTTP",
    }
}

/// When a request last failed like this at an endpoint; none if only warm connections did.
pub(super) fn last_failure(endpoint: &Endpoint, kind: UpstreamError) -> Option<Duration> {
    let cells = endpoint.counters.workers.iter();
    let last = cells.map(|cells| cells.last_errors[kind as usize].load(Ordering::Relaxed)).max()?;
    Some(Duration::from_micros(last.checked_sub(1)?))
}

/// Requests, and connections that were to be passed on.
fn total(cells: &RouteCells) -> u64 {
    let requests: u64 = (0..Codes::LABELS.len()).map(|index| cells.codes.value(index)).sum();
    requests + cells.connections.iter().map(Counter::value).sum::<u64>()
}

/// What grew, by its label.
fn grown<const N: usize>(
    now: &[u64; N],
    before: &[u64; N],
    label: impl Fn(usize) -> &'static str,
) -> BTreeMap<String, u64> {
    let by = now.iter().zip(before).map(|(now, before)| now.saturating_sub(*before)).enumerate();
    by.filter(|(_, by)| *by > 0).map(|(index, by)| (label(index).to_owned(), by)).collect()
}

/// The samples of one service, oldest first.
#[derive(Debug, Default)]
pub(super) struct Samples(VecDeque<Sample>);

impl Samples {
    /// Takes the next one; true where nothing went wrong since the one before.
    pub(super) fn push(&mut self, sample: Sample) -> bool {
        let calm = self.0.back().is_some_and(|last| sample.is_calm_since(last));
        let now = sample.at;
        self.0.push_back(sample);
        if self.0.len() > KEPT {
            self.thin_out(now);
        }
        calm
    }

    pub(super) fn last_at(&self) -> Option<Duration> {
        self.0.back().map(|sample| sample.at)
    }

    /// The last sample before `evidence` began to show: the youngest that is not younger than it,
    /// or an earlier one if requests were rescued, lost or held already while it was taken.
    pub(super) fn before(&self, evidence: Duration) -> Option<&Sample> {
        let young = self.0.iter().rposition(|sample| sample.at <= evidence).unwrap_or(0);
        let earliest = evidence.saturating_sub(BEFORE_EVIDENCE);
        let mut index = young;
        while let Some(before) = index.checked_sub(1).and_then(|before| self.0.get(before)) {
            if self.0[index].is_calm_since(before) || before.at < earliest {
                break;
            }
            index -= 1;
        }
        self.0.get(index)
    }

    /// Drops the sample that is missed least: the one whose neighbours lie close to each other,
    /// measured by how long ago it was.
    fn thin_out(&mut self, now: Duration) {
        let gap = |index: &usize| {
            let (before, after) = (self.0[index - 1].at, self.0[index + 1].at);
            let ago = now.saturating_sub(self.0[*index].at).as_secs_f64().max(1.0);
            after.saturating_sub(before).as_secs_f64() / ago
        };
        let old = 1..self.0.len().saturating_sub(DENSE);
        let least = old.min_by(|one, other| gap(one).total_cmp(&gap(other)));
        if let Some(index) = least {
            self.0.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(at: u64, rescued: u64, lost: u64) -> Sample {
        let mut sample = Sample { at: Duration::from_secs(at), ..Sample::default() };
        sample.rescued[Proof::Idempotent as usize] = rescued;
        sample.lost[Loss::NotIdempotent as usize] = lost;
        sample
    }

    fn samples(of: impl IntoIterator<Item = (u64, u64, u64)>) -> Samples {
        let mut samples = Samples::default();
        for (at, rescued, lost) in of {
            samples.push(sample(at, rescued, lost));
        }
        samples
    }

    #[test]
    fn the_cost_begins_before_the_first_request_that_paid() {
        let of = |evidence: u64, samples: &Samples| {
            samples.before(Duration::from_millis(evidence)).unwrap().at.as_secs()
        };
        let calm = samples((0..6).map(|at| (at, 7, 1)));
        assert_eq!(of(3_500, &calm), 3);
        assert_eq!(of(3_000, &calm), 3);
        // Rescued from second 3 on, and only at second 5 was it known why.
        let early = samples((0..6).map(|at| (at, if at > 2 { at } else { 2 }, 0)));
        assert_eq!(of(5_000, &early), 2);
        // It loses a request each second of the day.
        let noisy = samples((0..20).map(|at| (at, 0, at)));
        assert_eq!(of(19_000, &noisy), 9);
    }

    #[test]
    fn what_grew_is_the_cost_and_what_did_not_is_not_named() {
        let mut before = sample(1, 5, 0);
        (before.requests, before.wait_micros) = (1000, 70);
        let mut after = sample(4, 9, 2);
        (after.requests, after.held, after.wait_micros) = (1500, 3, 470);
        let cost = after.cost_since(&before, 12, 250);
        assert_eq!((cost.requests, cost.in_flight, cost.held), (500, 12, 3));
        assert_eq!(cost.rescued, BTreeMap::from([("idempotent".to_owned(), 4)]));
        assert_eq!(cost.lost, BTreeMap::from([("not_idempotent".to_owned(), 2)]));
        assert_eq!((cost.added_latency_mean_micros, cost.added_latency_most_micros), (100, 250));
        assert_eq!(before.cost_since(&before, 0, 250), Cost::default());
    }

    proptest! {
        #[test]
        fn two_times_that_meet_cost_what_the_whole_costs(
            counts in proptest::collection::vec((0u64..1 << 40, 0u64..1 << 40), 3),
            cut in 0usize..3,
        ) {
            let mut sum = (0, 0);
            let samples: Vec<_> = counts
                .iter()
                .enumerate()
                .map(|(at, (rescued, lost))| {
                    sum = (sum.0 + rescued, sum.1 + lost);
                    sample(at as u64, sum.0, sum.1)
                })
                .collect();
            let whole = samples[2].cost_since(&samples[0], 0, 0);
            let first = samples[cut].cost_since(&samples[0], 0, 0);
            let second = samples[2].cost_since(&samples[cut], 0, 0);
            prop_assert_eq!(whole.lost_total(), first.lost_total() + second.lost_total());
            prop_assert_eq!(
                whole.rescued_total(),
                first.rescued_total() + second.rescued_total()
            );
        }

        #[test]
        fn samples_are_bounded_dense_of_late_and_reach_far_back(seconds in 40u64..5000) {
            let samples = samples((0..seconds).map(|at| (at, 0, 0)));
            prop_assert!(samples.0.len() <= KEPT);
            let ages: Vec<_> =
                samples.0.iter().map(|s| seconds - 1 - s.at.as_secs()).collect();
            for late in 0..DENSE as u64 {
                prop_assert!(ages.contains(&late), "{:?}", ages);
            }
            prop_assert_eq!(ages[0], seconds - 1);
            for age in 12..seconds - 1 {
                let older = ages.iter().rev().find(|known| **known >= age).unwrap();
                prop_assert!(*older <= age * 4 + 8, "{} is {} in {:?}", age, older, ages);
            }
        }
    }
}
