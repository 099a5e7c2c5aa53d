//! ● The snapshot every worker reads: listeners with their routes, services with the pool that
//! serves, pools with the endpoints that may be picked. Immutable; a unit of work loads it once.
//!
//! Identities and live counters ([`counters`]) survive from table to table behind an `Arc`.

pub mod build;
pub mod counters;
#[cfg(test)]
pub(crate) mod fixture;
pub mod history;
pub mod live;
pub mod ready;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::balance::Candidates;
use crate::config;
use crate::failover::{self, Cause};
use crate::health::Verdict;
use crate::route::Routes;
use crate::route::hello::Names;

use counters::{EndpointCounters, ListenerCounters, RouteCounters, ServiceCounters};
use history::History;
use live::Live;

/// What all workers read. Cloning copies pointers only.
#[derive(Debug, Clone)]
pub struct Table {
    /// Counts the configurations applied, from 1.
    pub generation: u64,
    /// Counts the tables published, from 1.
    pub version: u64,
    pub config: Arc<config::Config>,
    pub listeners: Arc<[Arc<Listener>]>,
    /// In the order of the configuration; a route's target indexes it.
    pub services: Vec<Arc<Service>>,
    /// What the next new endpoint and listener will be called.
    pub identities: Identities,
}

/// Where identities that are never reused continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identities {
    pub next_serial: u32,
    pub next_listener: u32,
    /// Data threads: how many cells new counters have.
    pub workers: usize,
}

#[derive(Debug)]
pub struct Listener {
    /// Never reused while the process lives; what a worker's accept loop carries.
    pub id: ListenerId,
    pub config: Arc<config::Listener>,
    pub routes: Routes<Target>,
    /// The routes of one that passes TLS through.
    pub names: Names<Target>,
    /// One for each service its routes lead to, in the order of the routes: for views.
    pub targets: Box<[Target]>,
    pub counters: Arc<ListenerCounters>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u32);

/// Where a route leads.
#[derive(Debug, Clone)]
pub struct Target {
    /// Index into [`Table::services`].
    pub service: u32,
    /// A request with an `Idempotency-Key` may be sent again whatever its method.
    pub idempotency_key: bool,
    /// Shared by all routes of one listener to one service.
    pub counters: Arc<RouteCounters>,
}

#[derive(Debug)]
pub struct Service {
    pub config: Arc<config::Service>,
    /// In order of priority, as configured.
    pub pools: Box<[Arc<Pool>]>,
    /// Index of the pool that serves.
    pub serving: usize,
    /// When it began to serve, and why.
    pub since: Duration,
    pub cause: Cause,
    /// Pools a request tries in turn: the serving one, then the other available ones by priority.
    /// With nothing available and `when_none: try_all`: all of them.
    pub order: Box<[usize]>,
    /// No pool is available: requests go out unverified, or are answered with 503.
    pub none_available: bool,
    /// A part of new requests that goes to another pool first: a ramp or a drill.
    pub share: Option<Share>,
    /// The machine as it stood when the table was built: holds, trouble, and what is due; for
    /// views.
    pub failover: failover::State,
    pub counters: Arc<ServiceCounters>,
    pub history: Arc<History>,
}

/// A part of a service's new requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Index of the pool they go to first.
    pub pool: usize,
    /// 0..=1000 of a thousand.
    pub permille: u16,
}

/// What the operator ordered for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    #[default]
    Active,
    /// No new requests; what is in flight finishes.
    Drain,
    /// No new requests, and sessions are closed at once.
    Off,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Active, Self::Drain, Self::Off];

    /// As an operator writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Drain => "drain",
            Self::Off => "off",
        }
    }
}

#[derive(Debug)]
pub struct Pool {
    pub config: Arc<config::Pool>,
    pub endpoints: Box<[Arc<Endpoint>]>,
    /// One for each endpoint, at the same index.
    pub verdicts: Box<[Verdict]>,
    /// How each verdict came about, at the same index.
    pub details: Box<[Detail]>,
    /// What the operator ordered, at the same index.
    pub modes: Box<[Mode]>,
    /// Endpoints that may be picked: active ones not down; all active ones where the service tries
    /// all.
    pub candidates: Candidates,
    /// At least `min_healthy` endpoints are up.
    pub available: bool,
}

/// How an endpoint came to its verdict and its mode. Stands still until one of them changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Detail {
    /// When the verdict was reached, since the process's origin.
    pub since: Duration,
    /// What the deciding probe saw, such as `connection refused`; none before the first verdict.
    pub reason: Option<Arc<str>>,
    /// What took it out of use; none while it is active.
    pub taken_out: Option<TakenOut>,
}

/// An operator's order that takes an endpoint out of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenOut {
    /// Since the process's origin.
    pub at: Duration,
    /// His words.
    pub reason: Arc<str>,
}

/// One address and port, with what must survive a change of table.
#[derive(Debug)]
pub struct Endpoint {
    pub id: EndpointId,
    pub service: Arc<str>,
    pub pool: Arc<str>,
    /// As it was when the endpoint came; a weight changed since is found in the pool's
    /// configuration.
    pub config: Arc<config::Endpoint>,
    /// Requests in flight, all workers together.
    in_flight: AtomicU32,
    pub live: Live,
    pub counters: EndpointCounters,
}

/// Slot: dense, reused after an endpoint is gone. Serial: never reused. Two ids are the same
/// endpoint only if both agree, so what a worker keeps by slot cannot outlive its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId {
    pub slot: u32,
    pub serial: u32,
}

impl Table {
    pub fn listener(&self, id: ListenerId) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|listener| listener.id == id)
    }

    pub fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(self.service_index(name)?)
    }

    /// Where a service stands in [`Table::services`].
    pub fn service_index(&self, name: &str) -> Option<usize> {
        self.services.iter().position(|service| *service.config.name == *name)
    }

    /// Every endpoint with its verdict.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Arc<Endpoint>, Verdict)> {
        self.services
            .iter()
            .flat_map(|service| service.pools.iter())
            .flat_map(|pool| pool.endpoints.iter().zip(pool.verdicts.iter()).map(|(e, v)| (e, *v)))
    }
}

impl Service {
    /// Where a pool stands among its pools.
    pub fn pool_index(&self, name: &str) -> Option<usize> {
        self.pools.iter().position(|pool| *pool.config.name == *name)
    }
}

impl Pool {
    /// Every endpoint with its verdict.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Arc<Endpoint>, Verdict)> {
        self.endpoints.iter().zip(self.verdicts.iter().copied())
    }
}

impl Endpoint {
    pub fn new(
        id: EndpointId,
        service: Arc<str>,
        pool: Arc<str>,
        config: Arc<config::Endpoint>,
        workers: usize,
    ) -> Self {
        let counters = EndpointCounters::new(workers);
        let in_flight = AtomicU32::new(0);
        Self { id, service, pool, config, in_flight, live: Live::default(), counters }
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// One more request in flight. Called by the guard in `upstream` alone, which calls
    /// [`Endpoint::leave`] when it is dropped.
    pub fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
