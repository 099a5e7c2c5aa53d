//! ● What control remembers between tables: each endpoint's health, each service's failover.
//!
//! Indexed like the table it belongs to: endpoints by slot, services by index. A reload makes a new
//! memory from the old one.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Config, HealthCheck};
use crate::failover::{self, Move, Order, PoolView, Refusal, Settings, Trouble};
use crate::health::{self, Failure, Flip, Observation, Thresholds, Verdict};
use crate::table::build::{self, Endpoints, Standing};
use crate::table::history::History;
use crate::table::{Detail, Endpoint, EndpointId, Mode, Service, Share, Table, TakenOut};

use super::returning::Guard;
use super::saved::Restored;

#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) endpoints: Vec<Option<Watched>>,
    pub(super) services: Vec<Watch>,
}

#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) id: EndpointId,
    pub(super) place: Place,
    pub(super) state: health::State,
    /// What the deciding observation saw.
    pub(super) reason: Option<Arc<str>>,
    pub(super) mode: Mode,
    /// What took it out of use; none while it is active.
    taken_out: Option<TakenOut>,
}

/// Where an endpoint stands in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) service: usize,
    pub(super) pool: usize,
    pub(super) endpoint: usize,
}

#[derive(Debug)]
pub(super) struct Watch {
    pub(super) failover: failover::State,
    /// Slots of its endpoints, by pool.
    slots: Vec<Vec<u32>>,
    /// When a return, or its next share, is due.
    wake: Option<Duration>,
    /// When all its endpoints are asked again, out of turn: while nobody can serve, or a move hangs
    /// on an answer.
    pub(super) round: Option<Duration>,
    /// When a darkness that had come over all pools ended the last time.
    lit: Option<Duration>,
    /// Watches a return by degrees.
    pub(super) guard: Option<Guard>,
    /// A part of new requests that a rehearsal gives to another pool.
    pub(super) rehearsal: Option<Share>,
    /// The configuration changed since it was looked at. A change of configuration alone moves
    /// nothing; the next observation does.
    stale: bool,
}

/// One thing seen of an endpoint, by a probe or by a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Observed<'a> {
    pub(super) id: EndpointId,
    pub(super) observation: Observation,
    pub(super) detail: &'a str,
    pub(super) began: Duration,
}

/// What one observation came to.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) place: Place,
    /// As it counted.
    pub(super) observation: Observation,
    pub(super) before: health::State,
    pub(super) state: health::State,
    pub(super) flip: Option<Flip>,
    /// Its service is to be looked at.
    pub(super) due: bool,
}

/// What a look at a service came to.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) moved: Option<Move>,
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
        let mut memory = Self::default().with(&endpoints, Duration::ZERO, |_| true);
        for watched in memory.endpoints.iter_mut().flatten() {
            let Place { service, pool, endpoint } = watched.place;
            let details = &table.services[service].pools[pool].details;
            watched.state.since =
                details.get(endpoint).map(|known| known.since).unwrap_or_default();
        }
        for (index, service) in table.services.iter().enumerate() {
            memory.services.push(Watch::new(start(service), slots_of(&endpoints[index]), false));
        }
        memory
    }

    /// Remembers what a process before this one left. Nothing moves because of it: the first
    /// observation of a service brings the first look.
    pub(super) fn restore(&mut self, config: &Config, restored: Restored) {
        for (watch, service) in self.services.iter_mut().zip(restored.services) {
            let Some(service) = service else { continue };
            watch.failover = service.failover;
            watch.stale = true;
            for (slots, endpoints) in watch.slots.iter().zip(service.endpoints) {
                for (slot, known) in slots.iter().zip(endpoints) {
                    let watched = self.endpoints.get_mut(*slot as usize).and_then(Option::as_mut);
                    let Some(watched) = watched else { continue };
                    (watched.mode, watched.taken_out) = (known.mode, known.taken_out);
                    // Without a check a verdict could never change again.
                    if check_at(config, watched.place).is_some() {
                        let started = watched.state.since;
                        (watched.state, watched.reason) = (known.state, known.reason);
                        // Nothing of it was known before, either.
                        if watched.state.verdict == Verdict::Unknown {
                            watched.state.since = started;
                        }
                    }
                }
            }
        }
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
        let mut memory = self.with(endpoints, now, probed);
        for (index, service) in config.services.iter().enumerate() {
            let slots = slots_of(&endpoints[index]);
            let views = memory.views_of(service, &slots);
            let known = previous.service_index(&service.name);
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
            let mut watch = Watch::new(failover, slots, true);
            if let Some(known) = known {
                // A return under way goes on being watched, if it goes on.
                watch.lit = self.services[known].lit;
                let guard = self.services[known].guard.clone();
                watch.guard = guard.filter(|guard| guard.is_of(watch.failover.ramp));
            }
            // Whatever a move may hang on is asked at once.
            let lost = views.get(watch.failover.serving).is_some_and(PoolView::lost);
            watch.round = lost.then_some(now);
            memory.services.push(watch);
        }
        (memory, removed)
    }

    /// What is known of these endpoints; of one not to be kept, the operator's order alone, and
    /// nothing else since `now`.
    fn with(&self, endpoints: &Endpoints, now: Duration, keep: impl Fn(Place) -> bool) -> Self {
        let mut memory = Self::default();
        for (service, pools) in endpoints.iter().enumerate() {
            for (pool, endpoints) in pools.iter().enumerate() {
                for (endpoint, known) in endpoints.iter().enumerate() {
                    let place = Place { service, pool, endpoint };
                    let before = self.watched(known.id);
                    let kept = before.filter(|_| keep(place));
                    let unknown = health::State { since: now, ..health::State::default() };
                    memory.put(Watched {
                        id: known.id,
                        place,
                        state: kept.map_or(unknown, |kept| kept.state),
                        reason: kept.and_then(|kept| kept.reason.clone()),
                        mode: before.map(|before| before.mode).unwrap_or_default(),
                        taken_out: before.and_then(|before| before.taken_out.clone()),
                    });
                }
            }
        }
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

    pub(super) fn place(&self, id: EndpointId) -> Option<Place> {
        self.watched(id).map(|watched| watched.place)
    }

    /// When the newest probe that succeeded began.
    pub(super) fn last_success(&self, id: EndpointId) -> Option<Duration> {
        self.watched(id)?.state.last_success
    }

    pub(super) fn verdict(&self, id: EndpointId) -> Verdict {
        self.watched(id).map(|watched| watched.state.verdict).unwrap_or_default()
    }

    pub(super) fn standing(&self, id: EndpointId) -> Standing {
        self.watched(id).map_or_else(Standing::default, |watched| {
            let detail = Detail {
                since: watched.state.since,
                reason: watched.reason.clone(),
                taken_out: watched.taken_out.clone(),
            };
            Standing { verdict: watched.state.verdict, detail, mode: watched.mode }
        })
    }

    pub(super) fn failover(&self, service: usize) -> &failover::State {
        &self.services[service].failover
    }

    /// One for each service.
    pub(super) fn failovers(&self) -> Vec<failover::State> {
        self.services.iter().map(|watch| watch.failover.clone()).collect()
    }

    /// The part of a service's new requests that goes to another pool.
    pub(super) fn share(&self, service: usize, now: Duration) -> Option<Share> {
        let watch = &self.services[service];
        watch.rehearsal.or_else(|| build::share_of(&watch.failover, now))
    }

    /// A service of the table as it stands now, with this history.
    pub(super) fn renewed(
        &self,
        index: usize,
        service: &Service,
        history: Arc<History>,
        now: Duration,
    ) -> Service {
        let standing = |id| self.standing(id);
        build::service(service, self.failover(index), self.share(index, now), history, &standing)
    }

    /// Folds what was seen; `None` if the endpoint is gone or not probed (any more).
    pub(super) fn hear(
        &mut self,
        config: &Config,
        observed: Observed<'_>,
        now: Duration,
    ) -> Option<Heard> {
        let Observed { id, detail, began, .. } = observed;
        let watched = self.endpoints.get_mut(id.slot as usize)?.as_mut()?;
        if watched.id != id {
            return None;
        }
        let check = check_at(config, watched.place)?;
        let thresholds =
            Thresholds { unhealthy: check.unhealthy_threshold, healthy: check.healthy_threshold };
        let place = watched.place;
        let watch = &self.services[place.service];
        let observation = match observed.observation {
            // The darkness may have been ours: what was asked in it and not answered is void.
            Observation::Failure(Failure::Timeout) if watch.lit.is_some_and(|lit| began < lit) => {
                Observation::SelfFault
            }
            observation => observation,
        };
        let before = watched.state;
        let (state, flip) = before.step(observation, began, now, thresholds);
        watched.state = state;
        if flip.is_some() {
            watched.reason = Some(detail.into());
        }
        let due = flip.is_some() || watch.stale || watch.failover.is_anxious();
        Some(Heard { place, observation, before, state, flip, due })
    }

    /// Looks at one service, and moves it where that is due.
    pub(super) fn look(&mut self, config: &Config, index: usize, now: Duration) -> Looked {
        let service = &config.services[index];
        let views = self.views(service, index);
        let watch = &mut self.services[index];
        let step = watch.failover.step(&views, settings(service), now);
        let before = std::mem::replace(&mut watch.failover, step.state);
        watch.wake = step.wake.map(|wake| now + wake);
        watch.stale = false;
        if before.none_available && !watch.failover.none_available {
            watch.lit = Some(now);
        }
        // What changed the trouble may end it: all are asked at once.
        if !watch.is_pressed() {
            watch.round = None;
        } else if watch.round.is_none() || before.trouble != watch.failover.trouble {
            watch.round = Some(now);
        }
        Looked { moved: step.moved, views }
    }

    /// Carries out an operator's order; only tries whether it could be where not `really`.
    pub(super) fn switch(
        &mut self,
        config: &Config,
        index: usize,
        order: Order,
        now: Duration,
        really: bool,
    ) -> Result<Option<Move>, Refusal> {
        let views = self.views(&config.services[index], index);
        let watch = &mut self.services[index];
        let (state, moved) = watch.failover.switch(order, &views, now)?;
        if really {
            watch.failover = state;
        }
        Ok(moved)
    }

    /// Ends an operator's hold and the standing of his order; false if there was neither.
    pub(super) fn release(&mut self, index: usize) -> bool {
        let failover = &mut self.services[index].failover;
        let stood = failover.held || failover.stands;
        *failover = failover.released();
        stood
    }

    /// Ends a return under way.
    pub(super) fn break_off(&mut self, index: usize, now: Duration) {
        let failover = &mut self.services[index].failover;
        *failover = failover.broken_off(now);
    }

    pub(super) fn mode(&self, id: EndpointId) -> Mode {
        self.watched(id).map(|watched| watched.mode).unwrap_or_default()
    }

    /// Returns what was ordered before.
    pub(super) fn set_mode(
        &mut self,
        id: EndpointId,
        mode: Mode,
        taken_out: Option<TakenOut>,
    ) -> (Mode, Option<TakenOut>) {
        let watched = self.endpoints.get_mut(id.slot as usize).and_then(Option::as_mut);
        let Some(watched) = watched.filter(|watched| watched.id == id) else {
            return (Mode::default(), None);
        };
        let taken_out = taken_out.filter(|_| mode != Mode::Active);
        let before = std::mem::replace(&mut watched.taken_out, taken_out);
        (std::mem::replace(&mut watched.mode, mode), before)
    }

    /// The words of the last order that took an endpoint of a pool out of use.
    pub(super) fn taken_out_because(&self, service: usize, pool: usize) -> Option<Arc<str>> {
        let slots = self.services[service].slots.get(pool)?.iter();
        let known = slots.filter_map(|slot| self.endpoints.get(*slot as usize)?.as_ref());
        let last =
            known.filter_map(|known| known.taken_out.as_ref()).max_by_key(|order| order.at)?;
        Some(Arc::clone(&last.reason))
    }

    /// What is known of an endpoint's health.
    pub(super) fn health(&self, id: EndpointId) -> health::State {
        self.watched(id).map(|watched| watched.state).unwrap_or_default()
    }

    /// When a return, or its next share, is due.
    pub(super) fn next_look(&self) -> Option<Duration> {
        self.services.iter().filter_map(|watch| watch.wake).min()
    }

    /// When to look again though nothing happened.
    pub(super) fn next_wake(&self) -> Option<Duration> {
        let wakes = |watch: &Watch| {
            let guard = watch.guard.as_ref().map(|guard| guard.next);
            [watch.wake, watch.round, guard].into_iter().flatten().min()
        };
        self.services.iter().filter_map(wakes).min()
    }

    /// Services for which something is due: a look, or a check of a return under way.
    pub(super) fn due(&self, now: Duration) -> Vec<usize> {
        let due = |watch: &Watch| {
            let guard = watch.guard.as_ref().map(|guard| guard.next);
            [watch.wake, guard].into_iter().flatten().any(|at| at <= now)
        };
        (0..self.services.len()).filter(|index| due(&self.services[*index])).collect()
    }

    /// Services all of whose endpoints are to be asked now; next time after their fast interval.
    pub(super) fn rounds(&mut self, config: &Config, now: Duration) -> Vec<usize> {
        let mut due = Vec::new();
        for (index, watch) in self.services.iter_mut().enumerate() {
            if watch.round.is_some_and(|at| at <= now) {
                let checks = config.services[index].pools.iter().flat_map(|p| &p.health_check);
                let pause = checks.map(|check| check.fast_interval).min();
                watch.round = pause.map(|pause| now + pause);
                due.push(index);
            }
        }
        due
    }

    /// The pools of a service, as the verdicts are now.
    pub(super) fn views(&self, service: &config::Service, index: usize) -> Vec<PoolView> {
        self.views_of(service, &self.services[index].slots)
    }

    fn views_of(&self, service: &config::Service, slots: &[Vec<u32>]) -> Vec<PoolView> {
        let view = |(pool, slots): (&Arc<config::Pool>, &Vec<u32>)| {
            let known = || slots.iter().filter_map(|s| self.endpoints.get(*s as usize)?.as_ref());
            let states = known().map(|known| (&known.state, known.mode == Mode::Active));
            let off = known().filter(|known| known.mode != Mode::Active);
            let ordered = off.filter_map(|known| Some(known.taken_out.as_ref()?.at)).max();
            let window = pool.health_check.as_ref().map_or(Duration::ZERO, HealthCheck::round);
            PoolView { ordered, ..PoolView::of(pool.min_healthy, window, states) }
        };
        service.pools.iter().zip(slots).map(view).collect()
    }
}

impl Watch {
    fn new(failover: failover::State, slots: Vec<Vec<u32>>, stale: bool) -> Self {
        let (wake, round, lit, guard, rehearsal) = (None, None, None, None, None);
        Self { failover, slots, wake, round, lit, guard, rehearsal, stale }
    }

    /// Nobody can serve, or a move hangs on an answer: every answer counts now.
    fn is_pressed(&self) -> bool {
        let anxious = self.failover.is_anxious();
        anxious || self.failover.trouble == Some(Trouble::NoneAvailable)
    }
}

pub(super) fn check_at(config: &Config, place: Place) -> Option<&HealthCheck> {
    config.services.get(place.service)?.pools.get(place.pool)?.health_check.as_ref()
}

fn slots_of(pools: &[Vec<Arc<Endpoint>>]) -> Vec<Vec<u32>> {
    pools.iter().map(|pool| pool.iter().map(|endpoint| endpoint.id.slot).collect()).collect()
}

fn settings(service: &config::Service) -> Settings {
    Settings { failback: service.failover.failback }
}
