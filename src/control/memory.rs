//! ● What control remembers between tables: each endpoint's health, each service's failover.
//!
//! Indexed like the table it belongs to: endpoints by slot, services by index. A reload makes a new
//! memory from the old one.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Config, Failback, HealthCheck};
use crate::failover::{self, Move, PoolView, Refusal, Settings};
use crate::health::{self, Flip, Observation, Thresholds};
use crate::table::build::{Endpoints, Standing};
use crate::table::{Detail, Endpoint, EndpointId, Service, Table};

#[derive(Debug, Default)]
pub(super) struct Memory {
    endpoints: Vec<Option<Watched>>,
    services: Vec<Watch>,
}

#[derive(Debug, Clone)]
struct Watched {
    id: EndpointId,
    place: Place,
    state: health::State,
    reason: Option<Arc<str>>,
}

/// Where an endpoint stands in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) service: usize,
    pub(super) pool: usize,
    pub(super) endpoint: usize,
}

#[derive(Debug)]
struct Watch {
    failover: failover::State,
    /// Slots of its endpoints, by pool.
    slots: Vec<Vec<u32>>,
    /// When a failback is due.
    wake: Option<Duration>,
    /// The configuration changed since it was looked at. A change of configuration alone moves
    /// nothing; the next observation does.
    stale: bool,
}

/// What one observation came to.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) place: Place,
    pub(super) state: health::State,
    /// With the state before it.
    pub(super) flip: Option<(Flip, health::State)>,
    /// Its service is to be looked at.
    pub(super) due: bool,
}

/// What a look at a service came to.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) moved: Option<Move>,
    /// `none_available` changed to this.
    pub(super) none_available: Option<bool>,
    pub(super) views: Vec<PoolView>,
}

impl Memory {
    /// Of a table nothing is known of yet.
    pub(super) fn new(table: &Table) -> Self {
        let endpoints = table
            .services
            .iter()
            .map(|service| service.pools.iter().map(|pool| pool.endpoints.to_vec()).collect())
            .collect();
        let start =
            |service: &Arc<Service>| failover::State::start(service.pools.len(), service.since);
        Self::default().with(&endpoints, table.services.iter().map(start).collect(), |_| true)
    }

    /// The memory of a new configuration: endpoints that are still probed keep their health,
    /// services their failover. Also the services that lost the pool that served them, by index,
    /// with the name of that pool.
    pub(super) fn carried(
        &self,
        previous: &Table,
        config: &Config,
        endpoints: &Endpoints,
        now: Duration,
    ) -> (Self, Vec<(usize, Arc<str>)>) {
        let mut removed = Vec::new();
        // Without a check a verdict could never change again.
        let probed = |place: Place| check_at(config, place).is_some();
        let mut memory = self.with(endpoints, Vec::new(), probed);
        for (index, service) in config.services.iter().enumerate() {
            let slots = slots_of(&endpoints[index]);
            let views = memory.views(service, &slots);
            let known = previous.services.iter().position(|s| s.config.name == service.name);
            let failover = match known {
                Some(known) => {
                    let before = &previous.services[known].config.pools;
                    let origin = |pool: &Arc<config::Pool>| {
                        before.iter().position(|before| before.name == pool.name)
                    };
                    let origins: Vec<_> = service.pools.iter().map(origin).collect();
                    let serving = self.services[known].failover.serving;
                    if !origins.contains(&Some(serving)) {
                        removed.push((index, Arc::clone(&before[serving].name)));
                    }
                    self.services[known].failover.carried(&origins, &views, now)
                }
                None => failover::State::start(service.pools.len(), now),
            };
            // The look that the next observation brings finds when a failback is due.
            memory.services.push(Watch { failover, slots, wake: None, stale: true });
        }
        (memory, removed)
    }

    fn with(
        &self,
        endpoints: &Endpoints,
        starts: Vec<failover::State>,
        keep: impl Fn(Place) -> bool,
    ) -> Self {
        let mut memory = Self::default();
        for (service, pools) in endpoints.iter().enumerate() {
            for (pool, endpoints) in pools.iter().enumerate() {
                for (endpoint, known) in endpoints.iter().enumerate() {
                    let place = Place { service, pool, endpoint };
                    let kept = self.watched(known.id).filter(|_| keep(place)).cloned();
                    let new =
                        || Watched { id: known.id, place, state: <_>::default(), reason: None };
                    memory.put(Watched { place, ..kept.unwrap_or_else(new) });
                }
            }
        }
        let watch = |(index, failover): (usize, _)| Watch {
            failover,
            slots: slots_of(&endpoints[index]),
            wake: None,
            stale: false,
        };
        memory.services = starts.into_iter().enumerate().map(watch).collect();
        memory
    }

    fn put(&mut self, watched: Watched) {
        let slot = watched.id.slot as usize;
        if self.endpoints.len() <= slot {
            self.endpoints.resize(slot + 1, None);
        }
        self.endpoints[slot] = Some(watched);
    }

    fn watched(&self, id: EndpointId) -> Option<&Watched> {
        self.endpoints.get(id.slot as usize)?.as_ref().filter(|watched| watched.id == id)
    }

    /// The endpoint has a verdict and its last probes agree with it.
    pub(super) fn is_settled(&self, id: EndpointId) -> bool {
        self.watched(id).is_some_and(|watched| !watched.state.in_doubt())
    }

    pub(super) fn standing(&self, id: EndpointId) -> Standing {
        self.watched(id).map_or_else(Standing::default, |watched| {
            let detail = Detail { since: watched.state.since, reason: watched.reason.clone() };
            (watched.state.verdict, detail)
        })
    }

    pub(super) fn failover(&self, service: usize) -> &failover::State {
        &self.services[service].failover
    }

    /// One for each service.
    pub(super) fn failovers(&self) -> Vec<failover::State> {
        self.services.iter().map(|watch| watch.failover.clone()).collect()
    }

    /// Folds what a probe saw; `None` if the endpoint is gone or not probed any more.
    pub(super) fn hear(
        &mut self,
        config: &Config,
        id: EndpointId,
        observation: Observation,
        detail: &str,
        now: Duration,
    ) -> Option<Heard> {
        let watched = self.endpoints.get_mut(id.slot as usize)?.as_mut()?;
        if watched.id != id {
            return None;
        }
        let check = check_at(config, watched.place)?;
        let thresholds =
            Thresholds { unhealthy: check.unhealthy_threshold, healthy: check.healthy_threshold };
        let before = watched.state;
        let (state, flip) = before.step(observation, now, thresholds);
        watched.state = state;
        if flip.is_some() {
            watched.reason = Some(detail.into());
        }
        let place = watched.place;
        let due = flip.is_some() || self.services[place.service].stale;
        Some(Heard { place, state, flip: flip.map(|flip| (flip, before)), due })
    }

    /// Looks at one service, and moves it where that is due.
    pub(super) fn look(&mut self, config: &Config, index: usize, now: Duration) -> Looked {
        let service = &config.services[index];
        let views = self.views(service, &self.services[index].slots);
        let watch = &mut self.services[index];
        let step = watch.failover.step(&views, settings(service), now);
        let was = std::mem::replace(&mut watch.failover, step.state);
        watch.wake = step.wake.map(|wake| now + wake);
        watch.stale = false;
        let none = watch.failover.none_available;
        let none_available = (was.none_available != none).then_some(none);
        Looked { moved: step.moved, none_available, views }
    }

    /// Carries out an operator's order.
    pub(super) fn switch(
        &mut self,
        config: &Config,
        index: usize,
        to: usize,
        now: Duration,
    ) -> Result<Option<Move>, Refusal> {
        let views = self.views(&config.services[index], &self.services[index].slots);
        let watch = &mut self.services[index];
        let (state, moved) = watch.failover.switch(to, &views, now)?;
        watch.failover = state;
        Ok(moved)
    }

    /// When to look again though nothing happened.
    pub(super) fn next_wake(&self) -> Option<Duration> {
        self.services.iter().filter_map(|watch| watch.wake).min()
    }

    /// Services whose time has come.
    pub(super) fn due(&self, now: Duration) -> Vec<usize> {
        let due = |watch: &Watch| watch.wake.is_some_and(|wake| wake <= now);
        (0..self.services.len()).filter(|index| due(&self.services[*index])).collect()
    }

    fn views(&self, service: &config::Service, slots: &[Vec<u32>]) -> Vec<PoolView> {
        let view = |(pool, slots): (&Arc<config::Pool>, &Vec<u32>)| {
            let states = slots.iter().filter_map(|slot| {
                self.endpoints.get(*slot as usize)?.as_ref().map(|watched| &watched.state)
            });
            // Within this time every endpoint of a pool is asked, so that is how far apart the
            // first failures of one event can lie.
            let round = |check: &HealthCheck| check.interval * 2 + check.timeout;
            let window = pool.health_check.as_ref().map_or(Duration::ZERO, round);
            PoolView::of(pool.min_healthy, window, states)
        };
        service.pools.iter().zip(slots).map(view).collect()
    }
}

pub(super) fn check_at(config: &Config, place: Place) -> Option<&HealthCheck> {
    config.services.get(place.service)?.pools.get(place.pool)?.health_check.as_ref()
}

fn slots_of(pools: &[Vec<Arc<Endpoint>>]) -> Vec<Vec<u32>> {
    pools.iter().map(|pool| pool.iter().map(|endpoint| endpoint.id.slot).collect()).collect()
}

fn settings(service: &config::Service) -> Settings {
    let failback_after = match service.failover.failback {
        Failback::Auto { stable_for, .. } => Some(stable_for),
        Failback::Manual => None,
    };
    Settings { failback_after }
}
