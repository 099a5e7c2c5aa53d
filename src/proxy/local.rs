//! ○ What one worker owns: its way out to endpoints, buffers, deadlines, waits, budgets.
//!
//! Lives on one thread; nothing in here is shared with another core but the table it points to.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{Notify, mpsc};

use super::buffer::Store;
use super::deadline::Registry;
use super::fate::{self, Fate};
use super::hold::Turns;
use super::sessions;
use super::waiting::Waiting;
use crate::clock;
use crate::current::Reader;
pub use crate::current::Snapshot;
use crate::health::Verdict;
use crate::observe::access_log;
use crate::retry::Budget;
use crate::table::counters::Rejection;
use crate::table::live::Sighting;
use crate::table::{Endpoint, EndpointId, ListenerId, Table};
use crate::tls::Certificates;
use crate::upstream::outbound::Outbound;

/// A worker. What it has of connections to endpoints, and the table, it has from [`Outbound`].
pub struct Local {
    pub outbound: Rc<Outbound>,
    pub registry: Rc<Registry>,
    pub waiting: Waiting,
    pub store: Store,
    pub rng: RefCell<fastrand::Rng>,
    pub access_log: RefCell<Option<access_log::Sink>>,
    /// Something changed that a request with nowhere to go may have waited for: the table, or an
    /// endpoint that is trusted again.
    pub relief: Notify,
    pub turns: Turns,
    /// The table as of the last [`Local::table_changed`].
    seen: RefCell<Snapshot>,
    /// By index of the service; begun anew with each generation.
    budgets: RefCell<(u64, Vec<Budget>)>,
}

impl Local {
    pub fn new(
        worker: usize,
        reader: Reader,
        certificates: Arc<Certificates>,
        access_log: Option<access_log::Sink>,
        sightings: mpsc::Sender<Sighting>,
    ) -> Rc<Self> {
        let outbound = Outbound::new(worker, reader, certificates, sightings);
        let table = outbound.table();
        Rc::new(Self {
            outbound,
            registry: Rc::new(Registry::new(clock::now())),
            waiting: Waiting::default(),
            store: Store::default(),
            rng: RefCell::new(fastrand::Rng::new()),
            access_log: RefCell::new(access_log),
            relief: Notify::new(),
            turns: Turns::default(),
            seen: RefCell::new(table),
            budgets: RefCell::new((0, Vec::new())),
        })
    }

    /// Has requests with nowhere to go look around.
    pub fn relieve(&self) {
        self.turns.begin();
        self.relief.notify_waiters();
    }

    /// Connections of this listener may wait for another request.
    pub fn keeps(&self, listener: ListenerId) -> bool {
        !self.draining.get() && self.table().listener(listener).is_some()
    }

    /// Runs `action` on the retry budget of a service.
    pub fn with_budget<T>(
        &self,
        table: &Table,
        service: usize,
        action: impl FnOnce(&mut Budget) -> T,
    ) -> T {
        let mut budgets = self.budgets.borrow_mut();
        if budgets.0 != table.generation || budgets.1.len() != table.services.len() {
            budgets.0 = table.generation;
            budgets.1.clear();
            budgets.1.resize_with(table.services.len(), Budget::default);
        }
        action(&mut budgets.1[service])
    }

    /// After a publish: waits for endpoints that went down or away end, sessions learn what becomes
    /// of them, and idle connections are dropped to endpoints that are down or not served from any
    /// more. Looks only at the services that changed.
    pub fn table_changed(&self) {
        self.relieve();
        let table = self.table();
        let before = self.seen.replace(Rc::clone(&table));
        let fates = fate::fates(&before, &table);
        sessions::follow(self, &before, &table, &fates);
        let mut lost = lost_endpoints(&before, &table);
        if !lost.is_empty() {
            let is_gone = |id: EndpointId| lost.contains(&id);
            self.registry.endpoints_changed(is_gone);
        }
        let left = fates.iter().filter(|(_, fate)| matches!(fate, Fate::Closes(_)));
        lost.extend(left.map(|(id, _)| *id));
        if !lost.is_empty() {
            let mut idle = self.idle.borrow_mut();
            idle.sweep(self.registry.now_millis(), |id| lost.contains(&id));
        }
    }

    /// The table as of the last [`Local::table_changed`].
    pub fn seen(&self) -> Snapshot {
        Rc::clone(&self.seen.borrow())
    }

    /// What is done every second: drops idle connections that are over their time or were closed by
    /// their endpoints, and counts the rest for the metrics.
    pub fn sweep_idle(&self) {
        self.descriptors.refresh();
        let mut idle = self.idle.borrow_mut();
        idle.sweep(self.registry.now_millis(), |_| false);
        for (endpoint, _) in self.table().endpoints() {
            let gauge = &endpoint.counters.workers.of(self.worker).idle;
            gauge.store(idle.count(endpoint.id) as u32, Ordering::Relaxed);
        }
    }

    /// Counts a client's connection that is not served.
    pub fn count_rejection(&self, listener: ListenerId, rejection: Rejection) {
        if let Some(listener) = self.table().listener(listener) {
            let cells = listener.counters.workers.of(self.worker);
            cells.rejected[rejection as usize].increment();
        }
    }

    pub fn random(&self) -> u64 {
        self.rng.borrow_mut().u64(..)
    }
}

impl Deref for Local {
    type Target = Outbound;

    fn deref(&self) -> &Outbound {
        &self.outbound
    }
}

/// Endpoints that went down or are no longer configured.
fn lost_endpoints(before: &Table, now: &Table) -> HashSet<EndpointId> {
    if before.generation != now.generation {
        let alive: HashSet<EndpointId> = alive(now.endpoints()).collect();
        return alive_not_in(before.endpoints(), &alive);
    }
    let pairs = before.services.iter().zip(&now.services);
    let changed = pairs.filter(|(before, now)| !Arc::ptr_eq(before, now));
    let pools = changed.flat_map(|(before, now)| before.pools.iter().zip(&now.pools));
    pools
        .filter(|(before, now)| !Arc::ptr_eq(before, now))
        .flat_map(|(before, now)| {
            let alive: HashSet<EndpointId> = alive(now.endpoints()).collect();
            alive_not_in(before.endpoints(), &alive)
        })
        .collect()
}

fn alive<'a>(
    endpoints: impl Iterator<Item = (&'a Arc<Endpoint>, Verdict)>,
) -> impl Iterator<Item = EndpointId> {
    endpoints.filter(|(_, verdict)| *verdict != Verdict::Down).map(|(endpoint, _)| endpoint.id)
}

fn alive_not_in<'a>(
    endpoints: impl Iterator<Item = (&'a Arc<Endpoint>, Verdict)>,
    others: &HashSet<EndpointId>,
) -> HashSet<EndpointId> {
    alive(endpoints).filter(|id| !others.contains(id)).collect()
}
