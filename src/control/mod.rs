//! ○ The one writer: folds events (probe results, reloads, orders) and publishes Tables.
//!
//! One task owns everything there is to remember. It runs with the probes on a thread of its own,
//! and publishes only when a verdict, a serving pool or the configuration changed.

pub mod effects;
mod guard;
pub mod ledger;
mod log;
mod memory;
pub mod orders;
mod drill;
pub mod probe_history;
mod probes;
pub mod recorder;
pub mod reload;
pub mod saved;
pub mod state_file;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::config::check::Diagnostic;
use crate::current::Current;
use crate::failover::{Cause, Move};
use crate::health::{Failure, Observation, Verdict, schedule};
use crate::probe::{Outcome, Report};
use crate::table::counters::ProbeCells;
use crate::table::history::{History, Moved};
use crate::table::live::Sighting;
use crate::table::{Service, build};

pub use effects::{Effects, World};
pub use orders::{Answer, DrillKind, DrillOrder, DrillReport, ModeOrder, SwitchOrder};
pub use reload::{ReloadCounters, Source};

use log::Line;
use memory::{Memory, check_at};
use probes::Probes;
use reload::Reloads;

/// Events and reports that may wait for control.
const QUEUE: usize = 64;

/// What others ask of control, on a bounded channel. Nothing calls control.
#[derive(Debug)]
pub enum Event {
    /// Read the configuration file again and apply it whole or not at all.
    Reload { force: bool, reply: Option<oneshot::Sender<Result<Reloaded, Vec<Diagnostic>>>> },
    /// Move a service to a pool (a planned failover).
    Switch { service: String, order: SwitchOrder, reply: oneshot::Sender<Answer> },
    /// End an operator's hold, and the standing of an order.
    Release { service: String, reason: String, reply: oneshot::Sender<Answer> },
    /// Order what an endpoint is used for.
    Mode { service: String, order: ModeOrder, reply: oneshot::Sender<Answer> },
    /// Rehearse a failover; answered when it is over.
    Drill {
        service: String,
        order: DrillOrder,
        reply: oneshot::Sender<Result<DrillReport, String>>,
    },
    /// Stop probing and publishing; the process ends.
    Stop,
}

/// What a reload changed.
#[derive(Debug, Clone)]
pub struct Reloaded {
    pub generation: u64,
    /// One line a change, as `diff` prints them.
    pub changes: Vec<String>,
    pub warnings: Vec<Diagnostic>,
}

/// The one writer of the table.
pub struct Control<E: Effects> {
    effects: Arc<E>,
    current: Arc<Current>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    reports: mpsc::Receiver<Report>,
    sightings: mpsc::Receiver<Sighting>,
    batch: Vec<Report>,
    memory: Memory,
    probes: Probes<E>,
    reloads: Reloads<E>,
    random: fastrand::Rng,
}

/// What control wakes up for.
enum Happening<E: Effects> {
    Event(Option<Event>),
    /// In `batch`.
    Reports,
    Sighted(Sighting),
    Loaded(Box<reload::Loaded<E>>),
    Time,
}

impl<E: Effects> Control<E> {
    /// Takes over the table in `current`, which is as [`build::first`] made it.
    /// `sightings` tell of endpoints that just failed a request.
    pub fn new(
        effects: E,
        current: Arc<Current>,
        source: Source,
        sightings: mpsc::Receiver<Sighting>,
    ) -> Self {
        let effects = Arc::new(effects);
        let (sender, reports) = mpsc::channel(QUEUE);
        Self {
            memory: Memory::new(&current.load()),
            probes: Probes::new(Arc::clone(&effects), sender),
            reloads: Reloads::new(Arc::clone(&effects), source),
            effects,
            current,
            events: mpsc::channel(QUEUE),
            reports,
            sightings,
            batch: Vec::new(),
            random: fastrand::Rng::new(),
        }
    }

    /// Where to send events.
    pub fn handle(&self) -> mpsc::Sender<Event> {
        self.events.0.clone()
    }

    pub fn reload_counters(&self) -> Arc<ReloadCounters> {
        Arc::clone(&self.reloads.counters)
    }

    /// Probes and publishes until [`Event::Stop`]. For a current-thread runtime of its own.
    pub async fn run(mut self) {
        self.probes.follow(&self.current.load(), &mut self.random);
        loop {
            match self.next().await {
                Happening::Event(None | Some(Event::Stop)) => return,
                Happening::Event(Some(event)) => self.obey(event),
                Happening::Reports => self.fold(),
                Happening::Sighted(seen) => self.sighted(seen),
                Happening::Loaded(loaded) => self.loaded(*loaded),
                Happening::Time => {
                    let now = self.effects.now();
                    let due = self.memory.due(now).into_iter().map(|index| (index, false));
                    self.settle(due.collect(), Vec::new(), now);
                }
            }
        }
    }

    async fn next(&mut self) -> Happening<E> {
        let wake = self.memory.next_wake().map(|at| at.saturating_sub(self.effects.now()));
        let time = async {
            match wake {
                Some(wake) => tokio::time::sleep(wake).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = self.events.1.recv() => Happening::Event(event),
            _ = self.reports.recv_many(&mut self.batch, QUEUE) => Happening::Reports,
            Some(seen) = self.sightings.recv() => Happening::Sighted(seen),
            loaded = self.reloads.loaded() => Happening::Loaded(loaded),
            () = time => Happening::Time,
        }
    }

    /// Failed requests make us look sooner, but decide nothing: an endpoint in doubt is already
    /// probed as often as may be.
    fn sighted(&mut self, seen: Sighting) {
        if self.memory.is_settled(seen.endpoint) {
            self.probes.hasten(seen.endpoint, self.effects.now());
        }
    }

    fn obey(&mut self, event: Event) {
        match event {
            Event::Reload { force, reply } => self.reloads.ask(force, reply),
            Event::Switch { service, order, reply } => {
                // The asker may have gone; its order is carried out all the same.
                let _ = reply.send(self.switch(&service, &order.to, &order.reason));
            }
            Event::Release { .. } | Event::Mode { .. } | Event::Drill { .. } => {}
            Event::Stop => {}
        }
    }

    /// Folds what probes saw, and tells each when to look again.
    fn fold(&mut self) {
        let now = self.effects.now();
        let table = self.current.load();
        let mut due = BTreeMap::new();
        let mut lines = Vec::new();
        for Report { id, outcome, next } in std::mem::take(&mut self.batch) {
            let Outcome { observation, detail, .. } = &outcome;
            // To drop `next` ends the probes of an endpoint that is gone.
            let Some(heard) = self.memory.hear(&table.config, id, *observation, detail, now) else {
                continue;
            };
            let place = heard.place;
            let pool = &table.services[place.service].pools[place.pool];
            let endpoint = &pool.endpoints[place.endpoint];
            count(&endpoint.counters.probes, &outcome, heard.flip.map(|flip| flip.0.to), now);
            if let Some(check) = check_at(&table.config, place) {
                let _ = next.send(schedule::next_delay(&heard.state, check, self.random.u64(..)));
            }
            if heard.due {
                *due.entry(place.service).or_default() |= heard.flip.is_some();
            }
            if let Some((flip, _)) = heard.flip {
                let endpoint = Arc::clone(endpoint);
                lines.push(Line::Verdict {
                    endpoint,
                    flip,
                    state: heard.state,
                    why: outcome.detail,
                });
            }
        }
        self.settle(due, lines, now);
    }

    /// Looks at services (by index; true: a verdict changed), publishes what changed, and says so.
    fn settle(&mut self, due: BTreeMap<usize, bool>, mut lines: Vec<Line>, now: Duration) {
        let table = self.current.load();
        let mut renewed = Vec::new();
        for (index, flipped) in due {
            let service = &table.services[index];
            let looked = self.memory.look(&table.config, index, now);
            if !flipped && looked.moved.is_none() && looked.none_available.is_none() {
                continue;
            }
            let serving = self.memory.failover(index).serving;
            let names = || {
                let pool = &service.config.pools[serving];
                (Arc::clone(&service.config.name), Arc::clone(&pool.name))
            };
            let mut history = Arc::clone(&service.history);
            if let Some(moved) = looked.moved {
                let reason = match moved.cause {
                    Cause::Health => looked.views[moved.from].shortage(),
                    _ => format!("{} was available for long enough", names().1),
                };
                let moved = self.moved(service, &moved, &reason);
                lines.push(Line::Moved { service: names().0, moved: moved.clone() });
                Arc::make_mut(&mut history).record(moved);
            }
            if let Some(none) = looked.none_available {
                let why = || looked.views[serving].shortage();
                let (service, serving) = names();
                lines.push(match none {
                    true => Line::NoneAvailable { service, serving, why: why() },
                    false => Line::AvailableAgain { service, serving },
                });
            }
            renewed.push((index, self.renewed(index, service, history)));
        }
        if !renewed.is_empty() {
            self.current.publish(build::with_services(&table, renewed));
        }
        lines.iter().for_each(Line::write);
    }

    fn renewed(&self, index: usize, service: &Service, history: Arc<History>) -> Service {
        let standing = |id| self.memory.standing(id);
        build::service(service, self.memory.failover(index), history, &standing)
    }

    fn moved(&self, service: &Service, moved: &Move, reason: &str) -> Moved {
        let name = |pool: usize| Arc::clone(&service.config.pools[pool].name);
        Moved {
            from: name(moved.from),
            to: name(moved.to),
            cause: moved.cause,
            reason: reason.into(),
            first_evidence: moved.first_evidence,
            decided: moved.decided,
            published: self.effects.now(),
        }
    }

    fn switch(&mut self, service: &str, to: &str, reason: &str) -> Result<String, String> {
        let table = self.current.load();
        let index = table.services.iter().position(|s| &*s.config.name == service);
        let index = index.ok_or_else(|| format!("there is no service {service}"))?;
        let known = &table.services[index];
        let pool = known.config.pools.iter().position(|pool| &*pool.name == to);
        let pool = pool.ok_or_else(|| format!("{service} has no pool {to}"))?;
        let now = self.effects.now();
        let moved = self
            .memory
            .switch(&table.config, index, pool, now)
            .map_err(|refusal| format!("{service} is not moved to {to}: {refusal}"))?;
        let Some(moved) = moved else {
            return Ok(format!("{service} is served by {to} already"));
        };
        let moved = self.moved(known, &moved, reason);
        let mut history = Arc::clone(&known.history);
        Arc::make_mut(&mut history).record(moved.clone());
        let renewed = self.renewed(index, known, history);
        self.current.publish(build::with_services(&table, [(index, renewed)]));
        let said = format!("{service} moved from {} to {to}", moved.from);
        Line::Moved { service: Arc::clone(&known.config.name), moved }.write();
        // The move may have made a failback due, or ended one.
        self.settle(BTreeMap::from([(index, false)]), Vec::new(), now);
        Ok(said)
    }
}

fn count(cells: &ProbeCells, outcome: &Outcome, flipped: Option<Verdict>, now: Duration) {
    // Zero means never.
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX - 1) + 1;
    let micros = u64::try_from(outcome.took.as_micros()).unwrap_or(u64::MAX);
    match outcome.observation {
        Observation::Errors | Observation::SelfFault => {
            cells.voids.increment();
            return;
        }
        Observation::Success => {
            cells.successes.increment();
            cells.last_success_millis.store(now, Ordering::Relaxed);
        }
        Observation::Failure(failure) => {
            cells.failures.increment();
            if failure == Failure::Timeout {
                cells.timeouts.increment();
            }
            cells.last_failure_millis.store(now, Ordering::Relaxed);
        }
    }
    cells.duration_sum_micros.add(micros);
    cells.last_duration_micros.store(micros, Ordering::Relaxed);
    match flipped {
        Some(Verdict::Up) => cells.to_up.increment(),
        Some(Verdict::Down) => cells.to_down.increment(),
        Some(Verdict::Unknown) | None => {}
    }
}

#[cfg(test)]
mod tests;
