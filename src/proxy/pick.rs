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

    fn contains(&self, id: EndpointId) -> bool {
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
