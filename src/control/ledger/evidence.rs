//! ● What was last seen of each endpoint, and which of it speaks for a move.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::failover::record::{Clock, Evidence, Phases, Source};
use crate::table::{Endpoint, EndpointId, Pool};

/// Observations kept of an endpoint.
const KEPT: usize = 16;
/// Of each endpoint of the pool before, so many of the last failures become evidence.
const FAILURES_TOLD: usize = 3;
/// Of a pool, so many observations at the most: a record is read by people.
const TOLD: usize = 32;

/// One observation as control folded it; what came of our own faults is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    pub source: Source,
    pub success: bool,
    /// `connection refused`, `no answer within 400ms`, `200`.
    pub result: String,
    pub phases: Option<Phases>,
    /// When the probe began, or the request failed.
    pub began: Duration,
    /// When it was known.
    pub at: Duration,
}

/// Observations of live traffic of one kind that came one after the other are one entry.
#[derive(Debug, Clone)]
struct Entry {
    noted: Noted,
    /// When the first of them began.
    first: Duration,
    count: u64,
}

/// The last observations of every endpoint.
#[derive(Debug, Default)]
pub(super) struct Observations(HashMap<EndpointId, VecDeque<Entry>>);

impl Observations {
    pub(super) fn note(&mut self, id: EndpointId, noted: Noted) {
        let ring = self.0.entry(id).or_default();
        if let Some(last) = ring.back_mut().filter(|last| last.is_continued_by(&noted)) {
            last.count += 1;
            last.noted.at = noted.at;
            return;
        }
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(Entry { first: noted.began, noted, count: 1 });
    }

    /// Forgets endpoints that are gone.
    pub(super) fn retain(&mut self, keep: impl Fn(EndpointId) -> bool) {
        self.0.retain(|id, _| keep(*id));
    }

    /// The first failure live traffic met at one of these endpoints since `since`.
    pub(super) fn first_live(&self, pool: &Pool, since: Duration) -> Option<Duration> {
        let entries = pool.endpoints.iter().filter_map(|endpoint| self.0.get(&endpoint.id));
        let live = entries.flatten().filter(|entry| {
            entry.noted.source == Source::Live && !entry.noted.success && entry.first >= since
        });
        live.map(|entry| entry.first).min()
    }

    /// The last failures of each endpoint of a pool that is `blamed`, and the last success of each
    /// endpoint of one that is `proved`; oldest first.
    pub(super) fn of_move(
        &self,
        blamed: Option<&Arc<Pool>>,
        proved: Option<&Arc<Pool>>,
        clock: Clock,
    ) -> Vec<Evidence> {
        let endpoints = |pool: Option<&'_ Arc<Pool>>| -> Vec<Arc<Endpoint>> {
            pool.map(|pool| pool.endpoints.to_vec()).unwrap_or_default()
        };
        let (blamed, proved) = (endpoints(blamed), endpoints(proved));
        let against = blamed.iter().flat_map(|endpoint| {
            let failures = self.ring(endpoint).filter(|entry| !entry.noted.success);
            failures.take(FAILURES_TOLD).map(move |entry| (endpoint, entry))
        });
        let proof = proved.iter().filter_map(|endpoint| {
            let success = self.ring(endpoint).find(|entry| entry.noted.success)?;
            Some((endpoint, success))
        });
        let mut told = newest(against.collect());
        told.extend(newest(proof.collect()));
        told.sort_by_key(|(_, entry)| entry.noted.at);
        told.into_iter().map(|(endpoint, entry)| entry.evidence(endpoint, clock)).collect()
    }

    /// The newest first.
    fn ring(&self, endpoint: &Endpoint) -> impl Iterator<Item = &Entry> {
        self.0.get(&endpoint.id).into_iter().flatten().rev()
    }
}

fn newest<T>(mut told: Vec<(T, &Entry)>) -> Vec<(T, &Entry)> {
    told.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.noted.at));
    told.truncate(TOLD);
    told
}

impl Entry {
    fn is_continued_by(&self, noted: &Noted) -> bool {
        let same = |noted: &Noted| (noted.source, noted.success, noted.result.clone());
        noted.source == Source::Live && same(&self.noted) == same(noted)
    }

    fn evidence(&self, endpoint: &Endpoint, clock: Clock) -> Evidence {
        Evidence {
            pool: endpoint.pool.to_string(),
            endpoint: endpoint.config.name.to_string(),
            source: self.noted.source,
            result: self.noted.result.clone(),
            success: self.noted.success,
            count: self.count,
            at: clock.stamp(self.noted.at),
            phases: self.noted.phases,
        }
    }
}
