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
    count: u64,
}

/// What was last seen of one endpoint.
#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Entry>,
    /// When requests first met silence or a broken connection there, unless a probe that began
    /// later succeeded.
    sign: Option<Sign>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Sign {
    at: Duration,
    what: &'static str,
}

/// The last observations of every endpoint.
#[derive(Debug, Default)]
pub(super) struct Observations(HashMap<EndpointId, Ring>);

impl Observations {
    pub(super) fn note(&mut self, id: EndpointId, noted: Noted) {
        let Ring { entries: ring, sign } = self.0.entry(id).or_default();
        if noted.success {
            *sign = sign.filter(|sign| sign.at > noted.began);
        }
        if let Some(last) = ring.back_mut().filter(|last| last.is_continued_by(&noted)) {
            last.count += 1;
            last.noted.at = noted.at;
            return;
        }
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(Entry { noted, count: 1 });
    }

    /// Requests met there what is no evidence by itself.
    pub(super) fn sighted(&mut self, id: EndpointId, what: &'static str, at: Duration) {
        let (sign, new) = (&mut self.0.entry(id).or_default().sign, Sign { at, what });
        *sign = Some(sign.map_or(new, |first| first.min(new)));
    }

    /// Forgets endpoints that are gone.
    pub(super) fn retain(&mut self, keep: impl Fn(EndpointId) -> bool) {
        self.0.retain(|id, _| keep(*id));
    }

    /// When requests first met the event that cost a pool its endpoints, no earlier than `since`.
    pub(super) fn first_sign(&self, pool: &Pool, since: Duration) -> Option<Duration> {
        let rings = pool.endpoints.iter().filter_map(|endpoint| self.0.get(&endpoint.id));
        rings.filter_map(|ring| ring.sign).map(|sign| sign.at).filter(|at| *at >= since).min()
    }

    /// What the last probe of an endpoint that failed met, if that was no earlier than `since`.
    pub(super) fn last_probe_met(&self, id: EndpointId, since: Duration) -> Option<&str> {
        let failed = |entry: &&Entry| !entry.noted.success && entry.noted.source != Source::Live;
        let last = self.0.get(&id)?.entries.iter().rev().find(failed)?;
        (last.noted.at >= since).then_some(&*last.noted.result)
    }

    /// The last failures of each endpoint of a pool that is `blamed`, and the last success of each
    /// endpoint of one that is `proved`; oldest first. With what requests met since it `began`.
    pub(super) fn of_move(
        &self,
        blamed: Option<&Arc<Pool>>,
        proved: Option<&Arc<Pool>>,
        began: Duration,
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
        let told = told.into_iter().map(|(endpoint, entry)| entry.evidence(endpoint, clock));
        let signs = blamed.iter().filter_map(|endpoint| {
            let sign = self.0.get(&endpoint.id)?.sign.filter(|sign| sign.at >= began)?;
            Some(sign.evidence(endpoint, clock))
        });
        let mut told: Vec<_> = told.chain(signs.take(TOLD)).collect();
        told.sort_by_key(|seen| seen.at);
        told
    }

    /// The newest first.
    fn ring(&self, endpoint: &Endpoint) -> impl Iterator<Item = &Entry> {
        let ring = self.0.get(&endpoint.id);
        ring.into_iter().flat_map(|ring| &ring.entries).rev()
    }
}

fn newest<T>(mut told: Vec<(T, &Entry)>) -> Vec<(T, &Entry)> {
    told.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.noted.at));
    told.truncate(TOLD);
    told
}

impl Sign {
    fn evidence(self, endpoint: &Endpoint, clock: Clock) -> Evidence {
        Evidence {
            pool: endpoint.pool.to_string(),
            endpoint: endpoint.config.name.to_string(),
            source: Source::Live,
            result: self.what.to_owned(),
            success: false,
            count: 1,
            at: clock.stamp(self.at),
            phases: None,
        }
    }
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
