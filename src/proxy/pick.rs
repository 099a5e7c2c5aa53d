//! ○ The next endpoint for a request: trusted ones first, through the service's order of pools; two
//! endpoints of a pool at the most before the next pool; each endpoint once.

use std::sync::Arc;

use super::local::{Local, Snapshot};
use crate::balance::Moment;
use crate::clock;
use crate::health::Verdict;
use crate::table::{Endpoint, EndpointId, Mode, Pool, Service};
use crate::upstream::lease::Chosen;

/// Endpoints a request has been tried on.
#[derive(Debug, Default)]
pub struct Tried {
    ids: [Option<EndpointId>; Self::MAX],
    count: usize,
    /// The name of a pool that is tried again only after all others.
    left: Option<Arc<str>>,
}

impl Tried {
    /// Endpoints one request is tried on at the most.
    pub const MAX: usize = 16;
    /// Endpoints of one pool that fail a request before it goes to the next pool.
    const PER_POOL: usize = 2;

    pub fn add(&mut self, id: EndpointId) {
        if self.contains(id) {
            return;
        }
        if let Some(free) = self.ids.get_mut(self.count) {
            *free = Some(id);
            self.count += 1;
        }
    }

    /// The other pools come first from now on.
    pub fn leave(&mut self, pool: &Pool) {
        self.left = Some(Arc::clone(&pool.config.name));
    }

    pub fn contains(&self, id: EndpointId) -> bool {
        self.ids[..self.count].contains(&Some(id))
    }

    /// The request's way leads on to the next pool.
    fn is_done_with(&self, pool: &Pool) -> bool {
        if self.left.as_ref().is_some_and(|left| *left == pool.config.name) {
            return true;
        }
        // Most requests have tried nothing yet.
        self.count >= Self::PER_POOL
            && pool.endpoints.iter().filter(|endpoint| self.contains(endpoint.id)).count()
                >= Self::PER_POOL
    }
}

/// What a request asks of the endpoints.
#[derive(Debug, Clone, Copy)]
pub struct Asks<'a> {
    pub tried: &'a Tried,
    /// It can be rescued where it was processed already, so it may try a doubted endpoint.
    pub resendable: bool,
    /// The index of a pool that stands before all others for this request.
    pub first: Option<usize>,
    /// Rather none than one that is doubted.
    pub trusted_only: bool,
}

/// `None` when nothing is left to try.
pub fn choose(
    local: &Local,
    table: &Snapshot,
    service_index: usize,
    asks: &Asks<'_>,
) -> Option<Chosen> {
    if asks.tried.count == Tried::MAX {
        return None;
    }
    let search = Search { local, service: &table.services[service_index], asks };
    let (pool, endpoint) = search.run()?;
    let chosen = Chosen { table: Snapshot::clone(table), service: service_index, pool, endpoint };
    Some(chosen)
}

/// Endpoints that would take a request have as many as they may: the service is busy, not ill.
pub fn is_full(service: &Service) -> bool {
    let mut pools = service.order.iter().map(|index| &service.pools[*index]);
    pools.any(|pool| {
        let standing = pool.endpoints().zip(&pool.modes);
        let mut takes = standing
            .filter(|((_, verdict), mode)| **mode == Mode::Active && *verdict != Verdict::Down);
        takes.any(|((endpoint, _), _)| endpoint.live.is_trusted() && has_no_room(pool, endpoint))
    })
}

fn has_no_room(pool: &Pool, endpoint: &Endpoint) -> bool {
    endpoint.in_flight() >= pool.config.upstream.max_requests
}

struct Search<'a> {
    local: &'a Local,
    service: &'a Service,
    asks: &'a Asks<'a>,
}

impl Search<'_> {
    fn run(&self) -> Option<(usize, usize)> {
        let found = self.look(true, false).or_else(|| self.look(true, true));
        if let Some((pool, endpoint)) = found {
            let live = &self.service.pools[pool].endpoints[endpoint].live;
            if !live.is_trusted() {
                live.begin_trial(clock::now());
            }
            return found;
        }
        if self.asks.trusted_only {
            return None;
        }
        self.look(false, false).or_else(|| self.look(false, true))
    }

    /// In the pools the request is not done with, or in the others.
    fn look(&self, trusted: bool, done: bool) -> Option<(usize, usize)> {
        let Asks { tried, first, .. } = *self.asks;
        let first = first.filter(|_| !self.service.order.is_empty());
        let order = self.service.order.iter().copied().filter(|index| Some(*index) != first);
        first.into_iter().chain(order).find_map(|index| {
            let pool = &*self.service.pools[index];
            if tried.is_done_with(pool) != done {
                return None;
            }
            let mut moment = Now { search: self, pool, trusted };
            let endpoint = pool.candidates.pick(self.service.config.balance, &mut moment)?;
            Some((index, endpoint as usize))
        })
    }
}

struct Now<'a> {
    search: &'a Search<'a>,
    pool: &'a Pool,
    /// Doubted ones are not usable.
    trusted: bool,
}

impl Moment for Now<'_> {
    fn usable(&self, endpoint: u32) -> bool {
        let endpoint = &self.pool.endpoints[endpoint as usize];
        let asks = self.search.asks;
        let trusted = !self.trusted
            || endpoint.live.is_trusted()
            || endpoint.live.may_try(asks.resendable, clock::now());
        trusted && !has_no_room(self.pool, endpoint) && !asks.tried.contains(endpoint.id)
    }

    fn load(&self, endpoint: u32) -> u32 {
        self.pool.endpoints[endpoint as usize].in_flight()
    }

    fn random(&mut self) -> u64 {
        self.search.local.random()
    }

    fn position(&mut self) -> u64 {
        let service = self.search.service;
        let cursor = &service.counters.workers.of(self.search.local.worker).cursor;
        cursor.increment();
        cursor.value()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fixture::Worker;
    use super::*;
    use crate::table::live::{Doubt, Live};

    fn asks(tried: &Tried) -> Asks<'_> {
        Asks { tried, resendable: true, first: None, trusted_only: false }
    }

    /// Every place that comes up in some picks.
    fn places(worker: &Worker, asks: &Asks<'_>) -> Vec<(usize, usize)> {
        let pick = || choose(&worker.local, &worker.table, 0, asks).map(|c| (c.pool, c.endpoint));
        let mut places: Vec<_> = (0..10).filter_map(|_| pick()).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    #[test]
    fn doubted_ones_are_avoided_across_pools_until_none_is_trusted() {
        let worker = Worker::new();
        let nothing = Tried::default();
        assert_eq!(places(&worker, &asks(&nothing)), [(0, 0), (0, 1)]);
        worker.doubt((0, 0), Doubt::Silent);
        assert_eq!(places(&worker, &asks(&nothing)), [(0, 1)]);
        worker.doubt((0, 1), Doubt::Errors);
        assert_eq!(places(&worker, &asks(&nothing)), [(1, 0), (1, 1)]);
        worker.doubt((1, 0), Doubt::Silent);
        worker.doubt((1, 1), Doubt::Silent);
        assert_eq!(places(&worker, &asks(&nothing)), [(0, 0), (0, 1)]);
        assert_eq!(places(&worker, &Asks { trusted_only: true, ..asks(&nothing) }), []);
    }

    #[test]
    fn one_gateway_error_deters_only_what_could_not_be_rescued() {
        let worker = Worker::new();
        let nothing = Tried::default();
        worker.doubt((0, 0), Doubt::Error);
        worker.doubt((0, 1), Doubt::Error);
        assert_eq!(places(&worker, &asks(&nothing)), [(0, 0), (0, 1)]);
        let post = Asks { resendable: false, ..asks(&nothing) };
        assert_eq!(places(&worker, &post), [(1, 0), (1, 1)]);
    }

    #[test]
    fn two_of_a_pool_are_tried_then_the_next_pool_and_each_endpoint_once() {
        let worker = Worker::new();
        let mut tried = Tried::default();
        let mut way = Vec::new();
        while let Some(chosen) = choose(&worker.local, &worker.table, 0, &asks(&tried)) {
            way.push(chosen.pool);
            tried.add(chosen.endpoint().id);
            tried.add(chosen.endpoint().id);
        }
        assert_eq!(way, [0, 0, 1, 1]);
    }

    #[test]
    fn a_pool_that_was_left_is_the_last_resort() {
        let worker = Worker::new();
        let mut tried = Tried::default();
        tried.leave(&worker.table.services[0].pools[0]);
        assert_eq!(places(&worker, &asks(&tried)), [(1, 0), (1, 1)]);
        tried.add(worker.endpoint(1, 0).id);
        tried.add(worker.endpoint(1, 1).id);
        assert_eq!(places(&worker, &asks(&tried)), [(0, 0), (0, 1)]);
    }

    #[test]
    fn a_share_puts_its_pool_first_and_the_others_behind_it() {
        let worker = Worker::new();
        let mut tried = Tried::default();
        assert_eq!(places(&worker, &Asks { first: Some(1), ..asks(&tried) }), [(1, 0), (1, 1)]);
        tried.add(worker.endpoint(1, 0).id);
        tried.add(worker.endpoint(1, 1).id);
        assert_eq!(places(&worker, &Asks { first: Some(1), ..asks(&tried) }), [(0, 0), (0, 1)]);
    }

    #[test]
    fn a_doubted_endpoint_is_given_one_request_when_its_trial_is_due() {
        let worker = Worker::new();
        let nothing = Tried::default();
        let now = clock::now() + Duration::from_secs(60);
        for (pool, endpoint) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            worker.endpoint(pool, endpoint).live.doubt(Doubt::Silent, now);
        }
        // The milliseconds wrap at 2³², so that a time before the process began can be named.
        let long_ago = clock::now() + Duration::from_millis(1 << 32) - 2 * Live::TRIAL;
        worker.endpoint(1, 0).live.doubt(Doubt::Silent, long_ago);
        let trusted_only = Asks { trusted_only: true, ..asks(&nothing) };
        let pick = || choose(&worker.local, &worker.table, 0, &trusted_only);
        let chosen = pick().map(|chosen| (chosen.pool, chosen.endpoint));
        assert!(pick().is_none(), "a second one in a row after {chosen:?}");
    }
}
