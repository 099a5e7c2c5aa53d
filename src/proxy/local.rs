//! ○ What one worker owns: its view of the table, idle connections, buffers, deadlines, budgets.
//!
//! Lives on one thread; nothing in here is shared with another core but the table it points to.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{Notify, mpsc};

use super::buffer::Store;
use super::deadline::Registry;
use super::fate::{self, Fate};
use super::sessions;
use super::waiting::Waiting;
use crate::clock;
use crate::current::Reader;
use crate::health::Verdict;
use crate::observe::access_log;
use crate::retry::Budget;
use crate::table::counters::Rejection;
use crate::table::live::{Seen, Sighting};
use crate::table::{Endpoint, EndpointId, ListenerId, Table};
use crate::tls::Certificates;
use crate::upstream::idle::Idle;
use crate::upstream::warm::Warm;

/// The table as this worker holds it. Cloning touches nothing another core writes.
pub type Snapshot = Rc<Arc<Table>>;

pub struct Local {
    /// Index of this worker's cells in all counters.
    pub worker: usize,
    pub certificates: Arc<Certificates>,
    pub registry: Rc<Registry>,
    pub waiting: Waiting,
    pub store: Store,
    pub idle: RefCell<Idle>,
    pub warm: Warm,
    pub rng: RefCell<fastrand::Rng>,
    pub access_log: RefCell<Option<access_log::Sink>>,
    /// The process is stopping: no connection is kept.
    pub draining: Cell<bool>,
    /// Something changed that a request with nowhere to go may have waited for: the table, or an
    /// endpoint that is trusted again.
    pub relief: Notify,
    sightings: mpsc::Sender<Sighting>,
    reader: RefCell<Reader>,
    snapshot: RefCell<Snapshot>,
    /// The table as of the last [`Local::table_changed`].
    seen: RefCell<Snapshot>,
    /// By index of the service; begun anew with each generation.
    budgets: RefCell<(u64, Vec<Budget>)>,
}

impl Local {
    pub fn new(
        worker: usize,
        mut reader: Reader,
        certificates: Arc<Certificates>,
        access_log: Option<access_log::Sink>,
        sightings: mpsc::Sender<Sighting>,
    ) -> Rc<Self> {
        let table = Rc::new(Arc::clone(reader.load()));
        let registry = Rc::new(Registry::default());
        // A deadline set before the first tick would count from the origin, and be long over.
        registry.sweep(clock::now());
        Rc::new(Self {
            worker,
            certificates,
            registry,
            waiting: Waiting::default(),
            store: Store::default(),
            idle: RefCell::new(Idle::default()),
            warm: Warm::default(),
            rng: RefCell::new(fastrand::Rng::new()),
            access_log: RefCell::new(access_log),
            draining: Cell::new(false),
            relief: Notify::new(),
            sightings,
            reader: RefCell::new(reader),
            snapshot: RefCell::new(Rc::clone(&table)),
            seen: RefCell::new(table),
            budgets: RefCell::new((0, Vec::new())),
        })
    }

    /// The current table: one relaxed load and a local count while nothing changes.
    pub fn table(&self) -> Snapshot {
        let mut reader = self.reader.borrow_mut();
        let current = reader.load();
        let mut snapshot = self.snapshot.borrow_mut();
        if !Arc::ptr_eq(current, &snapshot) {
            *snapshot = Rc::new(Arc::clone(current));
        }
        Rc::clone(&snapshot)
    }

    /// Has an endpoint looked at that failed a request. Never waits: if the queue is full, control
    /// has enough to look at.
    pub fn sight(&self, endpoint: EndpointId, kind: Seen) {
        let _ = self.sightings.try_send(Sighting { endpoint, kind, at: clock::now() });
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
        self.relief.notify_waiters();
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

    /// Drops idle connections that are over their time or were closed by their endpoints, and
    /// counts the rest for the metrics.
    pub fn sweep_idle(&self) {
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
