//! ● A checked configuration, verdicts and serving pools → a table; identities carried over from
//! the last one.
//!
//! Two ways lead to a table: [`first`] and [`reload`] take a whole configuration; [`service`] and
//! [`with_services`] renew single services after a verdict or a move, and share all the rest.

mod listeners;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::{Candidates, Member};
use crate::config::{self, Config, Scheme, WhenNone};
use crate::failover;
use crate::health::Verdict;

use super::counters::ServiceCounters;
use super::history::History;
use super::{Detail, Endpoint, EndpointId, Identities, Mode, Pool, Service, Share, Table};

/// What is known of an endpoint when a table is built.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    pub verdict: Verdict,
    pub detail: Detail,
    pub mode: Mode,
}

impl Standing {
    fn is_up(&self) -> bool {
        self.mode == Mode::Active && self.verdict == Verdict::Up
    }

    /// It may be picked where the service tries `all`, or only those not known to be down.
    fn may_be_picked(&self, all: bool) -> bool {
        self.mode == Mode::Active && (all || self.verdict != Verdict::Down)
    }
}

/// The endpoints of a configuration: by service, by pool, in its order.
pub type Endpoints = Vec<Vec<Vec<Arc<Endpoint>>>>;

/// The table a process starts with: nothing is known yet, the first pools serve.
pub fn first(config: Arc<Config>, workers: usize, now: Duration) -> Table {
    let identities = Identities { next_serial: 1, next_listener: 1, workers };
    let nothing = Table {
        generation: 0,
        version: 0,
        config: Arc::new(Config {
            listeners: Vec::new(),
            services: Vec::new(),
            ..(*config).clone()
        }),
        listeners: Arc::new([]),
        services: Vec::new(),
        identities,
    };
    let starts: Vec<_> = config
        .services
        .iter()
        .map(|service| failover::State::start(service.pools.len(), now))
        .collect();
    let (endpoints, identities) = endpoints(&config, &nothing);
    let detail = Detail { since: now, ..Detail::default() };
    let unknown = |_| Standing { detail: detail.clone(), ..Standing::default() };
    reload(config, &nothing, endpoints, identities, &starts, now, &unknown)
}

/// The endpoints of a new configuration: known ones keep their identity and counters, new ones get
/// a free slot and a serial of their own.
///
/// An endpoint is known by service, pool, name, address and scheme.
pub fn endpoints(config: &Config, previous: &Table) -> (Endpoints, Identities) {
    let known: HashMap<_, _> =
        previous.endpoints().map(|(endpoint, _)| (identity_of(endpoint), endpoint)).collect();
    let mut identities = previous.identities;
    let kept = |key: &Identity| known.get(key).copied();
    let taken: HashSet<u32> =
        identities_in(config).filter_map(|key| Some(kept(&key)?.id.slot)).collect();
    let mut free = (0..).filter(|slot| !taken.contains(slot));
    let mut endpoint = |service: &Arc<str>, pool: &Arc<str>, config: &Arc<config::Endpoint>| {
        if let Some(endpoint) = kept(&identity(service, pool, config)) {
            return Arc::clone(endpoint);
        }
        let serial = identities.next_serial;
        identities.next_serial = serial.wrapping_add(1);
        let id = EndpointId { slot: free.next().unwrap_or(u32::MAX), serial };
        let names = (Arc::clone(service), Arc::clone(pool));
        Arc::new(Endpoint::new(id, names.0, names.1, Arc::clone(config), identities.workers))
    };
    let endpoints = config
        .services
        .iter()
        .map(|service| {
            let mut of_pool = |pool: &Arc<config::Pool>| -> Vec<_> {
                pool.endpoints.iter().map(|e| endpoint(&service.name, &pool.name, e)).collect()
            };
            service.pools.iter().map(&mut of_pool).collect()
        })
        .collect();
    (endpoints, identities)
}

/// A table of a whole configuration. `endpoints` and `identities` come from [`endpoints`],
/// `states` are one for each service.
pub fn reload(
    config: Arc<Config>,
    previous: &Table,
    endpoints: Endpoints,
    identities: Identities,
    states: &[failover::State],
    now: Duration,
    standing: &dyn Fn(EndpointId) -> Standing,
) -> Table {
    let mut identities = identities;
    let listeners = listeners::carry(&config, previous, &mut identities);
    let known: HashMap<&str, &Service> =
        previous.services.iter().map(|service| (&*service.config.name, &**service)).collect();
    let services = config
        .services
        .iter()
        .zip(endpoints)
        .zip(states)
        .map(|((config, endpoints), state)| {
            let (counters, history) = match known.get(&*config.name) {
                Some(known) => (Arc::clone(&known.counters), Arc::clone(&known.history)),
                None => (Arc::new(ServiceCounters::new(identities.workers)), Arc::default()),
            };
            let known = endpoints.iter().flatten().map(|endpoint| standing(endpoint.id));
            let all = tries_all(config, state.none_available, known);
            let pools = config
                .pools
                .iter()
                .zip(endpoints)
                .map(|(pool, endpoints)| {
                    Arc::new(assemble_pool(pool, endpoints.into(), all, standing))
                })
                .collect();
            let share = share_of(state, now);
            Arc::new(assemble_service(config, pools, state, share, counters, history))
        })
        .collect();
    Table {
        generation: previous.generation + 1,
        version: previous.version + 1,
        config,
        listeners,
        services,
        identities,
    }
}

/// A service after a verdict, a move or an order: pools of which nothing changed are shared with
/// `previous`.
pub fn service(
    previous: &Service,
    state: &failover::State,
    share: Option<Share>,
    history: Arc<History>,
    standing: &dyn Fn(EndpointId) -> Standing,
) -> Service {
    let config = &previous.config;
    let endpoints = previous.pools.iter().flat_map(|pool| pool.endpoints.iter());
    let all = tries_all(config, state.none_available, endpoints.map(|known| standing(known.id)));
    let stood = previous.pools.iter().flat_map(|pool| standings(pool));
    let did_try_all = tries_all(config, previous.none_available, stood);
    let pools = previous
        .pools
        .iter()
        .map(|pool| {
            let now = pool.endpoints.iter().map(|endpoint| standing(endpoint.id));
            if all == did_try_all && standings(pool).eq(now) {
                return Arc::clone(pool);
            }
            Arc::new(assemble_pool(&pool.config, pool.endpoints.clone(), all, standing))
        })
        .collect();
    let counters = Arc::clone(&previous.counters);
    assemble_service(&previous.config, pools, state, share, counters, history)
}

/// How the endpoints of a pool stood when it was built.
fn standings(pool: &Pool) -> impl Iterator<Item = Standing> {
    let known = pool.verdicts.iter().zip(&pool.details).zip(&pool.modes);
    known.map(|((verdict, detail), mode)| Standing {
        verdict: *verdict,
        detail: detail.clone(),
        mode: *mode,
    })
}

/// The part of new requests that a return under way gives to another pool.
pub fn share_of(state: &failover::State, now: Duration) -> Option<Share> {
    state.share(now).map(|(pool, permille)| Share { pool, permille })
}

/// The next table, with some services replaced (by index) and everything else shared.
pub fn with_services(
    previous: &Table,
    changed: impl IntoIterator<Item = (usize, Service)>,
) -> Table {
    let mut table = previous.clone();
    table.version += 1;
    for (index, service) in changed {
        if let Some(place) = table.services.get_mut(index) {
            *place = Arc::new(service);
        }
    }
    table
}

/// Endpoints known to be down are tried only where the service has no other: the least bad first.
fn tries_all(
    config: &config::Service,
    none_available: bool,
    mut standings: impl Iterator<Item = Standing>,
) -> bool {
    none_available
        && config.failover.when_none == WhenNone::TryAll
        && standings.all(|known| !known.may_be_picked(false))
}

fn assemble_service(
    config: &Arc<config::Service>,
    pools: Box<[Arc<Pool>]>,
    state: &failover::State,
    share: Option<Share>,
    counters: Arc<ServiceCounters>,
    history: Arc<History>,
) -> Service {
    Service {
        config: Arc::clone(config),
        order: order(config, &pools, state),
        pools,
        serving: state.serving,
        since: state.since,
        cause: state.cause,
        none_available: state.none_available,
        share,
        failover: state.clone(),
        counters,
        history,
    }
}

/// Pools a request tries in turn: the serving one, then those available, then those that may have
/// an endpoint that answers; by priority within each.
fn order(config: &config::Service, pools: &[Arc<Pool>], state: &failover::State) -> Box<[usize]> {
    if state.none_available && config.failover.when_none == WhenNone::Unavailable {
        return Box::new([]);
    }
    let others = || (0..pools.len()).filter(|pool| *pool != state.serving);
    let serving = std::iter::once(state.serving);
    let available = others().filter(|pool| pools[*pool].available);
    let perhaps =
        others().filter(|pool| !pools[*pool].available && !pools[*pool].candidates.is_empty());
    serving.chain(available).chain(perhaps).collect()
}

fn assemble_pool(
    config: &Arc<config::Pool>,
    endpoints: Box<[Arc<Endpoint>]>,
    all: bool,
    standing: &dyn Fn(EndpointId) -> Standing,
) -> Pool {
    let known: Vec<_> = endpoints.iter().map(|endpoint| standing(endpoint.id)).collect();
    let members = (0..)
        .zip(&config.endpoints)
        .zip(&known)
        .filter(|(_, known)| known.may_be_picked(all))
        .map(|((endpoint, config), _)| Member { endpoint, weight: config.weight });
    let up = known.iter().filter(|known| known.is_up()).count();
    Pool {
        config: Arc::clone(config),
        candidates: Candidates::new(members.collect()),
        available: up >= config.min_healthy as usize,
        endpoints,
        modes: known.iter().map(|known| known.mode).collect(),
        verdicts: known.iter().map(|known| known.verdict).collect(),
        details: known.into_iter().map(|known| known.detail).collect(),
    }
}

type Identity<'a> = (&'a str, &'a str, &'a str, SocketAddr, Scheme);

fn identity<'a>(service: &'a str, pool: &'a str, endpoint: &'a config::Endpoint) -> Identity<'a> {
    (service, pool, &endpoint.name, endpoint.address, endpoint.scheme)
}

fn identity_of(endpoint: &Endpoint) -> Identity<'_> {
    identity(&endpoint.service, &endpoint.pool, &endpoint.config)
}

fn identities_in(config: &Config) -> impl Iterator<Item = Identity<'_>> {
    config.services.iter().flat_map(|service| {
        service.pools.iter().flat_map(move |pool| {
            pool.endpoints.iter().map(move |e| identity(&service.name, &pool.name, e))
        })
    })
}

#[cfg(test)]
mod tests;
