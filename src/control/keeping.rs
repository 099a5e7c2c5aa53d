//! ○ What control keeps of what happens: records with their cost, the state file, the history.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::failover::Record;
use crate::failover::record::{Clock, Phases, Source, Stamp};
use crate::health::Observation;
use crate::probe::Outcome;
use crate::table::history::History;
use crate::table::{Endpoint, Table, build};

use super::ledger::{Ledger, Noted, Told};
use super::log::Line;
use super::memory::Memory;
use super::probe_history::{Moved, Seen};
use super::recorder::Recorder;
use super::saved::{Remembered, Restored, Saved};
use super::state_file::StateFile;
use super::{Control, Effects};

/// The state is written at least so often, because it says how old things are.
const WRITE_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Keeping {
    pub(super) ledger: Ledger,
    state: Option<StateFile>,
    recorder: Option<Recorder>,
    /// The version of the table that was written last, and when the next write is due.
    written: (u64, Duration),
}

impl Keeping {
    /// Every observation passes here once, after it was folded.
    pub(super) fn observed(
        &mut self,
        endpoint: &Endpoint,
        source: Source,
        outcome: &Outcome,
        now: Duration,
    ) {
        let Outcome { observation, detail, began, .. } = outcome;
        if let Some(recorder) = &self.recorder {
            let clock = both_clocks(now);
            recorder.seen(Seen {
                service: Arc::clone(&endpoint.service),
                pool: Arc::clone(&endpoint.pool),
                endpoint: Arc::clone(&endpoint.config.name),
                source,
                observation: *observation,
                detail: detail.clone(),
                began: clock.stamp(*began),
                at: clock.stamp(now),
            });
        }
        if *observation == Observation::SelfFault {
            return;
        }
        let phases = (source != Source::Live).then(|| phases(outcome));
        self.ledger.observed(
            endpoint.id,
            Noted {
                source,
                success: *observation == Observation::Success,
                result: detail.clone(),
                phases,
                began: *began,
                at: now,
            },
        );
    }

    /// When something is due.
    pub(super) fn wake(&self, now: Duration) -> Duration {
        let write = self.state.is_some().then_some(self.written.1);
        write.into_iter().chain([self.ledger.wake(now)]).min().unwrap_or(now + WRITE_EVERY)
    }
}

impl<E: Effects> Control<E> {
    /// Goes on with what a process before this one left; to be called with the table of
    /// [`resumed`], before [`Control::run`].
    #[must_use]
    pub fn resuming(mut self, restored: Restored) -> Self {
        let table = self.current.load();
        for (service, known) in table.services.iter().zip(&restored.services) {
            if let Some(known) = known {
                self.keeping.ledger.resume(&service.config.name, known.next_record);
            }
        }
        self.memory.restore(&table.config, restored);
        self
    }

    /// Writes what is to survive a restart, and what `backtest` reads.
    #[must_use]
    pub fn keeping(mut self, state: Option<StateFile>, recorder: Option<Recorder>) -> Self {
        (self.keeping.state, self.keeping.recorder) = (state, recorder);
        self
    }

    /// Every move, and every return that was broken off, passes here once, before it is published.
    pub(super) fn recorded(
        &mut self,
        table: &Table,
        told: Told<'_>,
        history: &mut Arc<History>,
        lines: &mut Vec<Line>,
    ) {
        let told = Told { clock: both_clocks(self.effects.now()), ..told };
        let records = self.keeping.ledger.moved(table, &told);
        if let Some((recorder, moved)) =
            self.keeping.recorder.as_ref().zip(records.last().and_then(|last| Moved::of(last)))
        {
            recorder.moved(moved);
        }
        keep(history, records, lines);
    }

    /// Publishes what records know more, and completes those whose cost is final.
    pub(super) fn keep(&mut self, now: Duration) {
        let table = self.current.load();
        let known = self.keeping.ledger.tick(&table, now);
        if known.is_empty() {
            return;
        }
        let mut lines = Vec::new();
        let renewed: Vec<_> = known
            .into_iter()
            .map(|(index, record)| {
                let service = &table.services[index];
                let mut history = Arc::clone(&service.history);
                match record.complete {
                    true => keep(&mut history, vec![record], &mut lines),
                    false => Arc::make_mut(&mut history).keep(record),
                }
                (index, self.memory.renewed(index, service, history, now))
            })
            .collect();
        self.current.publish(build::with_services(&table, renewed));
        lines.iter().for_each(Line::write);
    }

    /// Leaves the state with its writer where it changed, or `always`.
    pub(super) fn keep_state(&mut self, always: bool) {
        let Some(file) = &self.keeping.state else { return };
        let (now, table) = (self.effects.now(), self.current.load());
        let (version, due) = self.keeping.written;
        if !always && table.version == version && now < due {
            return;
        }
        self.keeping.written = (table.version, now + WRITE_EVERY);
        let mut failovers = self.memory.failovers();
        self.rehearsals.iter().for_each(|known| known.ended(&table, &mut failovers));
        let remembered = Remembered {
            health: &|id| self.memory.health(id),
            failovers: &failovers,
            next_record: &|service| self.keeping.ledger.next_number(service),
        };
        file.offer(Saved::of(&table, &remembered, now));
    }
}

/// The table a process goes on with: as `first` made it, with what is remembered in it, so that
/// from the first request on nobody is sent to an endpoint that is known to be dead.
pub fn resumed(first: Table, restored: &Restored, now: Duration) -> Table {
    let mut memory = Memory::new(&first);
    memory.restore(&first.config, restored.clone());
    let services = first.services.iter().enumerate().zip(&restored.services);
    let renewed: Vec<_> = services
        .filter_map(|((index, service), known)| {
            let history = Arc::new(known.as_ref()?.history.clone());
            Some((index, memory.renewed(index, service, history, now)))
        })
        .collect();
    let version = first.version;
    Table { version, ..build::with_services(&first, renewed) }
}

fn keep(history: &mut Arc<History>, records: Vec<Arc<Record>>, lines: &mut Vec<Line>) {
    for record in records {
        Arc::make_mut(history).keep(Arc::clone(&record));
        lines.push(Line::Record(record));
    }
}

/// `now` on both clocks.
pub(super) fn both_clocks(now: Duration) -> Clock {
    Clock { now, unix: clock::unix() }
}

/// This moment on the wall clock.
pub(super) fn wall() -> Stamp {
    both_clocks(Duration::ZERO).stamp(Duration::ZERO)
}

fn phases(outcome: &Outcome) -> Phases {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    Phases {
        connect: outcome.timings.tcp.map(micros),
        tls: outcome.timings.tls.map(micros),
        first_byte: outcome.timings.first_byte.map(micros),
        total: micros(outcome.took),
    }
}
