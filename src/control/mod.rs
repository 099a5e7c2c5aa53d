//! ○ The one writer: folds events (probe results, reloads, orders) and publishes Tables.
//!
//! One task owns everything there is to remember. It runs with the probes on a thread of its own,
//! and publishes only when a verdict, a serving pool or the configuration changed.

pub mod backtest;
mod bursts;
mod command;
mod drill;
pub mod effects;
mod evidence;
mod guard;
mod keeping;
pub mod ledger;
mod log;
mod memory;
pub mod orders;
pub mod probe_history;
mod probes;
pub mod recorder;
mod rehearse;
pub mod reload;
mod returning;
pub mod saved;
mod settle;
pub mod state_file;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::config::check::Diagnostic;
use crate::current::Current;
use crate::probe::Report;
use crate::table::live::Sighting;

pub use effects::{Effects, World};
pub use keeping::resumed;
pub use orders::{Answer, DrillKind, DrillOrder, DrillReport, ModeOrder, SwitchOrder};
pub use reload::{ReloadCounters, Source};

use command::Planned;
use keeping::Keeping;
use memory::Memory;
use probes::Probes;
use rehearse::Rehearsal;
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
    batch: Vec<Report>,
    sightings: mpsc::Receiver<Sighting>,
    seen: Vec<Sighting>,
    planned: Vec<Planned>,
    memory: Memory,
    probes: Probes<E>,
    reloads: Reloads<E>,
    keeping: Keeping,
    rehearsals: Vec<Rehearsal>,
    random: fastrand::Rng,
}

/// What control wakes up for.
enum Happening<E: Effects> {
    Event(Option<Event>),
    /// In `batch`.
    Reports,
    /// In `seen`.
    Sightings,
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
            batch: Vec::new(),
            sightings,
            seen: Vec::new(),
            planned: Vec::new(),
            keeping: Keeping::default(),
            rehearsals: Vec::new(),
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
                Happening::Event(None | Some(Event::Stop)) => {
                    self.keep_state(true);
                    return;
                }
                Happening::Event(Some(event)) => self.obey(event),
                Happening::Reports => self.fold(),
                Happening::Sightings => self.sighted(),
                Happening::Loaded(loaded) => self.loaded(*loaded),
                Happening::Time => self.tick(),
            }
            self.rehearse();
            self.keep_state(false);
        }
    }

    async fn next(&mut self) -> Happening<E> {
        let planned = self.planned.iter().map(|planned| planned.until);
        let drills = self.rehearsals.iter().map(|rehearsal| rehearsal.next);
        let kept = self.keeping.wake(self.effects.now());
        let wake = planned.chain(self.memory.next_wake()).chain(drills).chain([kept]).min();
        let wake = wake.map(|at| at.saturating_sub(self.effects.now()));
        let time = async {
            match wake {
                Some(wake) => tokio::time::sleep(wake).await,
                None => std::future::pending().await,
            }
        };
        // In this order, so that a storm of reports cannot keep the clock or an operator waiting,
        // and a simulation runs the same way twice.
        tokio::select! {
            biased;
            event = self.events.1.recv() => Happening::Event(event),
            () = time => Happening::Time,
            loaded = self.reloads.loaded() => Happening::Loaded(loaded),
            _ = self.reports.recv_many(&mut self.batch, QUEUE) => Happening::Reports,
            // A closed channel would be ready for ever.
            1.. = self.sightings.recv_many(&mut self.seen, QUEUE) => Happening::Sightings,
        }
    }

    fn obey(&mut self, event: Event) {
        match event {
            Event::Reload { force, reply } => self.reloads.ask(force, reply),
            Event::Switch { service, order, reply } => self.switch(service, order, reply),
            Event::Release { service, reason, reply } => {
                // The asker may have gone; the order is carried out all the same.
                let _ = reply.send(self.release(&service, &reason));
            }
            Event::Mode { service, order, reply } => self.mode(service, order, reply),
            Event::Drill { service, order, reply } => self.drill(&service, order, reply),
            Event::Stop => {}
        }
    }
}

#[cfg(test)]
mod tests;
