//! ● Whether a return by degrees goes well, and what the pools of a service did since some moment.

use std::collections::HashMap;
use std::time::Duration;

use crate::failover::Ramp;
use crate::failover::ramp::Tally;
use crate::table::{Endpoint, EndpointId, Pool, Service};

/// How often the two pools are compared at the least; a short return has eight comparisons.
const PAUSE: Duration = Duration::from_secs(1);

/// Watches one return.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    /// Which return: a new one is watched anew.
    began: Duration,
    /// When the pools are compared next.
    pub(super) next: Duration,
    before: Baseline,
}

/// What each endpoint of a service had done at some moment. An endpoint that goes later takes with
/// it what it did; one that comes did nothing before.
#[derive(Debug, Clone, Default)]
pub(super) struct Baseline(HashMap<EndpointId, Tally>);

impl Baseline {
    pub(super) fn of(service: &Service) -> Self {
        let endpoints = service.pools.iter().flat_map(|pool| pool.endpoints.iter());
        Self(endpoints.map(|endpoint| (endpoint.id, done_by(endpoint))).collect())
    }

    /// What the endpoints of a pool did since then.
    pub(super) fn since(&self, pool: &Pool) -> Tally {
        let before = |id| self.0.get(&id).copied().unwrap_or_default();
        pool.endpoints.iter().map(|known| done_by(known).since(before(known.id))).sum()
    }
}

impl Guard {
    pub(super) fn new(ramp: Ramp, service: &Service, now: Duration) -> Self {
        let before = Baseline::of(service);
        Self { began: ramp.began, next: now + pause(ramp), before }
    }

    pub(super) fn is_of(&self, ramp: Option<Ramp>) -> bool {
        ramp.is_some_and(|ramp| ramp.began == self.began)
    }

    /// Compares the pools. Why the return is to be broken off, if it is.
    pub(super) fn compare(
        &mut self,
        ramp: Ramp,
        service: &Service,
        serving: usize,
        now: Duration,
    ) -> Option<String> {
        self.next = now + pause(ramp);
        let (returning, serving) = (service.pools.get(ramp.to)?, service.pools.get(serving)?);
        let (there, here) = (self.before.since(returning), self.before.since(serving));
        let said = |tally: Tally| format!("{} of {} requests", tally.errors, tally.requests);
        there.is_worse_than(&here).then(|| {
            let (to, from) = (&returning.config.name, &serving.config.name);
            format!("{to} failed {}, {from} {}", said(there), said(here))
        })
    }
}

fn pause(ramp: Ramp) -> Duration {
    PAUSE.min(ramp.length / 8)
}

/// Since it came into the table, all workers together.
fn done_by(endpoint: &Endpoint) -> Tally {
    let by_worker = endpoint.counters.workers.iter().map(|cells| {
        let answers: u64 = cells.responses.iter().map(|class| class.value()).sum();
        let unanswered: u64 = cells.errors.iter().map(|kind| kind.value()).sum();
        let errors = cells.responses[4].value() + unanswered;
        Tally { requests: answers + unanswered, errors }
    });
    by_worker.sum()
}
