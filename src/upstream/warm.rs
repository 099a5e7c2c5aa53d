//! ○ Warm connections: so many ready ones kept to every endpoint that could be needed, so that the
//! first requests after a move find the way open, TLS and all.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::lease::{self, Chosen};
use super::outbound::Outbound;
use crate::clock;
use crate::current::Snapshot;
use crate::health::Verdict;
use crate::table::counters::UpstreamError;
use crate::table::live::Seen;
use crate::table::{EndpointId, Mode, Pool, Service, Table};

/// What one worker remembers of its dialling.
#[derive(Debug, Default)]
pub struct Warm(RefCell<HashMap<EndpointId, Dialling>>);

#[derive(Debug, Clone, Copy, Default)]
struct Dialling {
    /// Connections being opened.
    under_way: u32,
    /// Failures in a row.
    failures: u32,
    /// Not before, in milliseconds since the origin.
    again_at: u64,
}

/// Longest time between two tries at an endpoint that cannot be reached.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Opens what is missing. To be called every second, and after connections were used or dropped.
pub fn keep(outbound: &Rc<Outbound>) {
    let table = outbound.table();
    if outbound.draining.get() || !table.services.iter().any(|service| wants_any(service)) {
        return;
    }
    let now = clock::now().as_millis() as u64;
    forget_gone(&outbound.warm, &table);
    for (index, service) in table.services.iter().enumerate() {
        for (at, pool) in service.pools.iter().enumerate() {
            let workers = table.identities.workers;
            let wanted = part(pool.config.upstream.warm, outbound.worker, workers);
            for endpoint in (0..pool.endpoints.len()).filter(|e| wanted > 0 && may_serve(pool, *e))
            {
                let id = pool.endpoints[endpoint].id;
                let have = outbound.idle.borrow().lasting(id, now + renewal(service) / 4);
                for _ in 0..outbound.warm.missing(id, have, wanted, now) {
                    let table = Snapshot::clone(&table);
                    let chosen = Chosen { table, service: index, pool: at, endpoint };
                    tokio::task::spawn_local(open(Rc::clone(outbound), chosen));
                }
            }
        }
    }
}

fn wants_any(service: &Service) -> bool {
    service.pools.iter().any(|pool| pool.config.upstream.warm > 0)
}

/// The part of `warm` connections that worker `worker` of `workers` keeps: the first ones keep what
/// cannot be divided.
fn part(warm: u32, worker: usize, workers: usize) -> u32 {
    let workers = u32::try_from(workers.max(1)).unwrap_or(u32::MAX);
    let rest = (worker as u32) < warm % workers;
    warm / workers + u32::from(rest)
}

fn may_serve(pool: &Pool, endpoint: usize) -> bool {
    pool.verdicts.get(endpoint) != Some(&Verdict::Down)
        && pool.modes.get(endpoint) == Some(&Mode::Active)
}

/// Milliseconds a connection nobody used is kept: half of what an idle one is, for endpoints have
/// less patience with a connection that never brought a request.
pub(super) fn renewal(service: &Service) -> u64 {
    service.config.timeouts.idle.as_millis() as u64 / 2
}

fn forget_gone(warm: &Warm, table: &Table) {
    let mut dialling = warm.0.borrow_mut();
    // Those under way are forgotten with their endpoint; their end finds nothing to note.
    let known = |id: &EndpointId| table.endpoints().any(|(endpoint, _)| endpoint.id == *id);
    dialling.retain(|id, _| known(id));
}

impl Warm {
    /// How many connections to open now, which are counted as under way from here on.
    fn missing(&self, id: EndpointId, have: usize, wanted: u32, now: u64) -> u32 {
        let mut all = self.0.borrow_mut();
        let dialling = all.entry(id).or_default();
        if now < dialling.again_at {
            return 0;
        }
        let have = u32::try_from(have).unwrap_or(u32::MAX).saturating_add(dialling.under_way);
        let missing = wanted.saturating_sub(have);
        // One that failed before is tried with a single connection.
        let missing = if dialling.failures > 0 { missing.min(1) } else { missing };
        dialling.under_way += missing;
        missing
    }

    fn ended(&self, id: EndpointId, well: bool, now: u64) {
        if let Some(dialling) = self.0.borrow_mut().get_mut(&id) {
            dialling.under_way = dialling.under_way.saturating_sub(1);
            if well {
                (dialling.failures, dialling.again_at) = (0, 0);
            } else {
                let wait = Duration::from_secs(1 << dialling.failures.min(5)).min(BACKOFF_MAX);
                dialling.failures += 1;
                dialling.again_at = now + wait.as_millis() as u64;
            }
        }
    }
}

/// Opens one. That it cannot be opened says nothing against the endpoint, unless it is refused,
/// which has control look.
async fn open(outbound: Rc<Outbound>, chosen: Chosen) {
    let id = chosen.endpoint().id;
    let opened = lease::open(&outbound, &chosen, &AtomicBool::default()).await;
    outbound.warm.ended(id, opened.is_ok(), clock::now().as_millis() as u64);
    match opened {
        Ok(connection) => outbound.take_new(&chosen, connection),
        Err(error) if error.reason == UpstreamError::Refused => outbound.sight(id, Seen::Refused),
        Err(_) => {}
    }
}

/// A connection to this endpoint may still be of use.
pub(super) fn still_serves(outbound: &Outbound, id: EndpointId) -> bool {
    let table = outbound.table();
    let mut pools = table.services.iter().flat_map(|service| service.pools.iter());
    !outbound.draining.get()
        && pools.any(|pool| {
            let place = pool.endpoints.iter().position(|endpoint| endpoint.id == id);
            place.is_some_and(|place| may_serve(pool, place))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: EndpointId = EndpointId { slot: 0, serial: 1 };

    #[test]
    fn the_workers_together_keep_what_is_asked_for() {
        for (warm, workers) in [(2, 1), (2, 2), (2, 8), (7, 3), (0, 4)] {
            let parts: Vec<_> = (0..workers).map(|worker| part(warm, worker, workers)).collect();
            assert_eq!(parts.iter().sum::<u32>(), warm);
            assert!(parts.iter().max().unwrap() - parts.iter().min().unwrap() <= 1, "{parts:?}");
        }
    }

    #[test]
    fn what_is_under_way_is_not_opened_twice() {
        let warm = Warm::default();
        assert_eq!(warm.missing(ID, 1, 3, 0), 2);
        assert_eq!(warm.missing(ID, 1, 3, 0), 0);
        warm.ended(ID, true, 0);
        warm.ended(ID, true, 0);
        assert_eq!(warm.missing(ID, 3, 3, 0), 0);
        assert_eq!(warm.missing(ID, 2, 3, 0), 1);
    }

    #[test]
    fn an_endpoint_that_cannot_be_reached_is_tried_less_and_less_often() {
        let warm = Warm::default();
        let (mut now, mut waits) = (0, Vec::new());
        assert_eq!(warm.missing(ID, 0, 1, now), 1);
        for _ in 0..8 {
            warm.ended(ID, false, now);
            let before = now;
            while warm.missing(ID, 0, 1, now) == 0 {
                now += 500;
            }
            waits.push((now - before) / 1_000);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        warm.ended(ID, true, now);
        assert_eq!(warm.missing(ID, 0, 4, now), 4, "an answer ends the waiting");
    }
}
