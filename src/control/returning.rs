//! ● Whether a return by degrees goes well: what each of the two pools did since it began.

use std::time::Duration;

use crate::failover::Ramp;
use crate::failover::ramp::Tally;
use crate::table::{Pool, Service};

/// How often the two pools are compared.
const PAUSE: Duration = Duration::from_secs(1);

/// Watches one return.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    /// Which return: a new one is watched anew.
    began: Duration,
    /// When the pools are compared next.
    pub(super) next: Duration,
    /// What both had done before it.
    returning: Tally,
    serving: Tally,
}

impl Guard {
    pub(super) fn new(ramp: Ramp, service: &Service, serving: usize, now: Duration) -> Self {
        let of = |pool: usize| service.pools.get(pool).map(|pool| tally(pool)).unwrap_or_default();
        let (returning, serving) = (of(ramp.to), of(serving));
        Self { began: ramp.began, next: now + PAUSE, returning, serving }
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
        self.next = now + PAUSE;
        let (returning, serving) = (service.pools.get(ramp.to)?, service.pools.get(serving)?);
        let there = since(tally(returning), self.returning);
        let here = since(tally(serving), self.serving);
        let said = |tally: Tally| format!("{} of {} requests", tally.errors, tally.requests);
        there.is_worse_than(&here).then(|| {
            let (to, from) = (&returning.config.name, &serving.config.name);
            format!("{to} failed {}, {from} {}", said(there), said(here))
        })
    }
}

/// What a pool did since the process started, all workers together.
pub(super) fn tally(pool: &Pool) -> Tally {
    let mut tally = Tally::default();
    let workers = pool.endpoints.iter().flat_map(|endpoint| endpoint.counters.workers.iter());
    for cells in workers {
        let answers: u64 = cells.responses.iter().map(|class| class.value()).sum();
        let unanswered: u64 = cells.errors.iter().map(|kind| kind.value()).sum();
        tally.requests += answers + unanswered;
        tally.errors += cells.responses[4].value() + unanswered;
    }
    tally
}

/// What came since `before`.
pub(super) fn since(now: Tally, before: Tally) -> Tally {
    Tally {
        requests: now.requests.saturating_sub(before.requests),
        errors: now.errors.saturating_sub(before.errors),
    }
}
