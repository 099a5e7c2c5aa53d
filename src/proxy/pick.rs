//! ○ The next endpoint for a request: the serving pool first, two of its endpoints at the most
//! before the next pool, each endpoint once.

use super::local::{Local, Snapshot};
use crate::balance::Moment;
use crate::table::{EndpointId, Pool, Service};
use crate::upstream::lease::Chosen;

/// Endpoints a request has been tried on.
#[derive(Debug, Default)]
pub struct Tried {
    ids: [Option<EndpointId>; Self::MAX],
    count: usize,
}

impl Tried {
    /// Endpoints one request is tried on at the most.
    pub const MAX: usize = 16;
    /// Endpoints of one pool that fail a request before it goes to the next pool.
    const PER_POOL: usize = 2;

    pub fn add(&mut self, id: EndpointId) {
        if let Some(free) = self.ids.get_mut(self.count) {
            *free = Some(id);
            self.count += 1;
        }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub(super) fn contains(&self, id: EndpointId) -> bool {
        self.ids[..self.count].contains(&Some(id))
    }

    fn in_pool(&self, pool: &Pool) -> usize {
        match self.count {
            0 => 0,
            _ => pool.endpoints.iter().filter(|endpoint| self.contains(endpoint.id)).count(),
        }
    }
}

/// Picks by the table's order of pools; `None` when nothing is left to try.
pub fn choose(
    local: &Local,
    table: &Snapshot,
    service_index: usize,
    tried: &Tried,
) -> Option<Chosen> {
    if tried.count == Tried::MAX {
        return None;
    }
    let service = &*table.services[service_index];
    let first_round = |pool: &Pool| tried.in_pool(pool) < Tried::PER_POOL;
    let found = pick_in(local, service, tried, first_round)
        .or_else(|| pick_in(local, service, tried, |pool| !first_round(pool)))?;
    Some(Chosen {
        table: Snapshot::clone(table),
        service: service_index,
        pool: found.0,
        endpoint: found.1,
    })
}

fn pick_in(
    local: &Local,
    service: &Service,
    tried: &Tried,
    wanted: impl Fn(&Pool) -> bool,
) -> Option<(usize, usize)> {
    for &index in &service.order {
        let pool = &*service.pools[index];
        if !wanted(pool) {
            continue;
        }
        let mut moment = Now { local, service, pool, tried };
        if let Some(endpoint) = pool.candidates.pick(service.config.balance, &mut moment) {
            return Some((index, endpoint as usize));
        }
    }
    None
}

struct Now<'a> {
    local: &'a Local,
    service: &'a Service,
    pool: &'a Pool,
    tried: &'a Tried,
}

impl Moment for Now<'_> {
    fn usable(&self, endpoint: u32) -> bool {
        let endpoint = &self.pool.endpoints[endpoint as usize];
        endpoint.in_flight() < self.pool.config.upstream.max_requests
            && !self.tried.contains(endpoint.id)
    }

    fn load(&self, endpoint: u32) -> u32 {
        self.pool.endpoints[endpoint as usize].in_flight()
    }

    fn random(&mut self) -> u64 {
        self.local.random()
    }

    fn position(&mut self) -> u64 {
        let cursor = &self.service.counters.workers.of(self.local.worker).cursor;
        cursor.increment();
        cursor.value()
    }
}
