//! ○ From verdicts to tables: looks at the services for which something changed, publishes what
//! came of it, and says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::failover::{self, Cause, Move, PoolView, Ramp, Trouble};
use crate::health::Verdict;
use crate::table::build::{self, Standing};
use crate::table::history::{History, Moved};
use crate::table::{Mode, Service, Table};

use super::ledger::Told;
use super::log::Line;
use super::memory::Looked;
use super::returning::Guard;
use super::{Control, Effects};

/// Of what the endpoints of a lost pool met, so many kinds are told.
const CAUSES_TOLD: usize = 2;
/// Characters of each.
const MOST_BRIEF: usize = 60;

/// Why a service is looked at.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// A verdict or a mode changed: it is published in any case.
    pub(super) changed: bool,
    /// An order that was just carried out.
    pub(super) ordered: Option<Ordered>,
}

/// An operator's order that has been carried out in memory.
#[derive(Debug, Default)]
pub(super) struct Ordered {
    pub(super) reason: String,
    pub(super) moved: Option<Move>,
    pub(super) forced: bool,
    pub(super) held: bool,
}

/// What became of a service in one look.
struct Course {
    looked: Looked,
    ordered: Option<Ordered>,
    broken_off: Option<String>,
    /// The return by degrees that was under way.
    before: Option<Ramp>,
}

impl<E: Effects> Control<E> {
    /// Does everything that is due by the clock.
    pub(super) fn tick(&mut self) {
        let now = self.effects.now();
        let due = self.memory.due(now).into_iter().map(|index| (index, Due::default()));
        self.settle(due.collect(), Vec::new(), now);
        let table = self.current.load();
        for index in self.memory.rounds(&table.config, now) {
            let pools = &table.services[index].pools;
            for endpoint in pools.iter().flat_map(|pool| pool.endpoints.iter()) {
                let down = self.memory.verdict(endpoint.id) == Verdict::Down;
                self.probes.round(endpoint.id, down);
            }
        }
        self.check_planned();
        self.keep(now);
    }

    /// Publishes what an order or a rehearsal did to a service, and what follows from it.
    pub(super) fn publish_order(
        &mut self,
        index: usize,
        ordered: Option<Ordered>,
        lines: Vec<Line>,
        now: Duration,
    ) {
        self.settle(BTreeMap::from([(index, Due { changed: true, ordered })]), lines, now);
    }

    /// Looks at services (by index), publishes what changed, and says so.
    pub(super) fn settle(
        &mut self,
        due: BTreeMap<usize, Due>,
        mut lines: Vec<Line>,
        now: Duration,
    ) {
        let table = self.current.load();
        let mut renewed = Vec::new();
        for (index, due) in due {
            let service = &table.services[index];
            let looked = self.memory.look(&table.config, index, now);
            let broken_off = self.watch_return(service, index, now);
            let state = self.memory.failover(index);
            let share = self.memory.share(index, now);
            if !due.changed && *state == service.failover && share == service.share {
                continue;
            }
            let outcome =
                Course { looked, ordered: due.ordered, broken_off, before: service.failover.ramp };
            let history = self.record(&table, index, &outcome, &mut lines, now);
            let state = self.memory.failover(index);
            lines.extend(troubled(service, state, &outcome.looked.views));
            lines.extend(returning(service, state, now));
            renewed.push((index, self.memory.renewed(index, service, history, now)));
        }
        if !renewed.is_empty() {
            self.current.publish(build::with_services(&table, renewed));
        }
        lines.iter().for_each(Line::write);
    }

    /// The history of a service with what just became of it, which is also said.
    fn record(
        &mut self,
        table: &Table,
        index: usize,
        course: &Course,
        lines: &mut Vec<Line>,
        now: Duration,
    ) -> Arc<History> {
        let Course { looked, ordered, broken_off, before } = course;
        let service = &table.services[index];
        let mut history = Arc::clone(&service.history);
        let ordered = ordered.as_ref();
        let by_order = ordered.and_then(|ordered| ordered.moved.as_ref());
        for moved in by_order.into_iter().chain(&looked.moved) {
            let shortage = self.shortage(service, moved, &looked.views);
            let taken_out = self.memory.taken_out_because(index, moved.from);
            let said = ordered.filter(|_| by_order == Some(moved)).map(|known| &*known.reason);
            let reason = reason(service, moved, &shortage, said, taken_out);
            let mut told = Told::moved(index, service, moved, &reason);
            let ramp = before.filter(|_| moved.cause == Cause::Failback);
            told.began = match (moved.cause, ramp) {
                (Cause::Health, _) => {
                    self.keeping.ledger.first_evidence(&told.from, moved).min(told.decided)
                }
                (_, Some(ramp)) => ramp.began,
                (_, None) => told.began,
            };
            // What a forced order carries does not pass to the move that may follow from it.
            if let Some(ordered) = ordered.filter(|_| by_order == Some(moved)) {
                (told.forced, told.held) = (ordered.forced, ordered.held);
            }
            self.moved(table, told, &mut history, lines);
        }
        if let Some(hold) = ordered.filter(|ordered| ordered.held) {
            Arc::make_mut(&mut history).held_because = Some(hold.reason.as_str().into());
        }
        let state = self.memory.failover(index);
        let goes_on = |ramp: &Ramp| state.ramp.is_some_and(|now| now.began == ramp.began);
        let ended = before.filter(|ramp| !goes_on(ramp) && state.serving != ramp.to);
        if let Some(ramp) = ended {
            let gone = || broken_because(&looked.views[ramp.to]);
            let why = broken_off.clone().unwrap_or_else(gone);
            let moved = broken(service, ramp, now);
            let told = Told::moved(index, service, &moved, &why);
            let told = Told { aborted: Some(why.clone()), published: now, ..told };
            self.recorded(table, told, &mut history, lines);
            let (name, pool) = (&service.config.name, &service.config.pools[ramp.to].name);
            let (service, to) = (Arc::clone(name), Arc::clone(pool));
            lines.push(Line::BrokenOff { service, to, why });
        }
        history
    }

    /// `connection refused; 0 of 2 endpoints up, needs 1`: what the endpoints of a pool met that
    /// are down, the commonest first, and what that left.
    fn shortage(&self, service: &Service, moved: &Move, views: &[PoolView]) -> String {
        let mut met: Vec<(String, usize)> = Vec::new();
        for endpoint in &service.pools[moved.from].endpoints {
            let Standing { verdict, detail, mode } = self.memory.standing(endpoint.id);
            if (verdict, mode) != (Verdict::Down, Mode::Active) {
                continue;
            }
            let probe = self.keeping.ledger.last_probe_met(endpoint.id, moved.first_failure);
            let Some(reason) = probe.or(detail.reason.as_deref()) else { continue };
            match met.iter_mut().find(|(known, _)| kind(known) == kind(reason)) {
                Some((_, count)) => *count += 1,
                None => met.push((reason.to_owned(), 1)),
            }
        }
        met.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let met = met.iter().take(CAUSES_TOLD).map(|(reason, _)| format!("{}; ", brief(reason)));
        format!("{}{}", met.collect::<String>(), views[moved.from].shortage())
    }

    /// Every move of a service passes here once, just before it is published.
    pub(super) fn moved(
        &mut self,
        table: &Table,
        told: Told<'_>,
        history: &mut Arc<History>,
        lines: &mut Vec<Line>,
    ) {
        let published = self.effects.now();
        let service = Arc::clone(&table.services[told.service].config.name);
        let moved = Moved {
            from: Arc::clone(&told.from.config.name),
            to: Arc::clone(&told.to.config.name),
            cause: told.cause,
            reason: told.reason.into(),
            // A return is timed from its decision; when it began is for its record alone.
            first_evidence: match told.cause {
                Cause::Health => told.began,
                _ => told.decided,
            },
            decided: told.decided,
            published,
        };
        Arc::make_mut(history).record(moved.clone());
        lines.push(Line::Moved { service, moved });
        self.recorded(table, Told { published, ..told }, history, lines);
    }

    /// Compares the pools of a return under way, and breaks it off where it goes badly: why.
    fn watch_return(&mut self, service: &Service, index: usize, now: Duration) -> Option<String> {
        let watch = &mut self.memory.services[index];
        let Some(ramp) = watch.failover.ramp else {
            watch.guard = None;
            return None;
        };
        let serving = watch.failover.serving;
        let why = match &mut watch.guard {
            Some(guard) if guard.is_of(Some(ramp)) && now < guard.next => None,
            Some(guard) if guard.is_of(Some(ramp)) => guard.compare(ramp, service, serving, now),
            guard => {
                *guard = Some(Guard::new(ramp, service, now));
                None
            }
        }?;
        watch.guard = None;
        self.memory.break_off(index, now);
        // When a return is due again is known after another look.
        self.memory.look(&self.current.load().config, index, now);
        Some(why)
    }
}

/// Reasons of one kind are told once: how long an endpoint was given, or how
/// many errors it gave, is no difference.
fn kind(reason: &str) -> &str {
    let text = reason.split(" within ").next().unwrap_or(reason);
    text.trim_start_matches(|c: char| c.is_ascii_digit())
}

/// The beginning of a reason; the evidence has the whole of it.
fn brief(reason: &str) -> String {
    match reason.char_indices().nth(MOST_BRIEF) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason.to_owned(),
    }
}

fn broken_because(returning: &PoolView) -> String {
    match returning.available() {
        true => "the service stays where it is".to_owned(),
        false => returning.shortage(),
    }
}

/// A return that was broken off, as if it had been a move.
fn broken(service: &Service, ramp: Ramp, now: Duration) -> Move {
    Move {
        from: service.serving,
        to: ramp.to,
        cause: Cause::Failback,
        first_evidence: ramp.began,
        first_failure: now,
        decided: now,
    }
}

/// Why a service moved, for people: as the operator `said` who ordered the move, or `taken_out`
/// endpoints of the pool that is left.
fn reason(
    service: &Service,
    moved: &Move,
    shortage: &str,
    said: Option<&str>,
    taken_out: Option<Arc<str>>,
) -> String {
    if let Some(said) = said {
        return said.to_owned();
    }
    match (moved.cause, taken_out) {
        (Cause::Manual, Some(said)) => format!("{shortage}: {said}"),
        (Cause::Failback, _) => {
            format!("{} was available for long enough", service.config.pools[moved.to].name)
        }
        _ => shortage.to_owned(),
    }
}

/// What keeps a service on a pool that is lost, where that changed.
fn troubled(service: &Service, state: &failover::State, views: &[PoolView]) -> Vec<Line> {
    let mut lines = Vec::new();
    let before = service.failover.trouble;
    if before == state.trouble {
        return lines;
    }
    let pool = |index: usize| Arc::clone(&service.config.pools[index].name);
    let (name, serving) = (|| Arc::clone(&service.config.name), || pool(state.serving));
    if before == Some(Trouble::NoneAvailable) {
        lines.push(Line::AvailableAgain { service: name(), serving: serving() });
    }
    lines.extend(state.trouble.map(|trouble| {
        let shortage = views[state.serving].shortage();
        let pool = |index: usize| &*service.config.pools[index].name;
        let why = match trouble {
            Trouble::NoneAvailable => shortage,
            _ => format!("{shortage}; {}", trouble.told(&name(), state.serving, pool)),
        };
        Line::Stuck { service: name(), serving: serving(), trouble, why }
    }));
    lines
}

/// How far a return by degrees is, where that changed.
fn returning(service: &Service, state: &failover::State, now: Duration) -> Option<Line> {
    let ramp = state.ramp?;
    let begins = service.failover.ramp.is_none_or(|before| before.began != ramp.began);
    let permille = ramp.permille(now);
    let changed = service.share.is_none_or(|share| share.permille != permille);
    let to = Arc::clone(&service.config.pools[ramp.to].name);
    let (service, length) = (Arc::clone(&service.config.name), ramp.length);
    let line = Line::Returning { service, to, permille, begins, length };
    (begins || changed).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_once_for_each_kind_and_briefly() {
        assert_eq!(kind("no answer within 400ms"), kind("no answer within 800ms"));
        assert_eq!(kind("17 answers like 503"), kind("5 answers like 503"));
        assert_ne!(kind("connection refused"), kind("no connection within 100ms"));
        assert_eq!(brief("connection refused"), "connection refused");
        let long = brief(&"é".repeat(100));
        assert_eq!((long.chars().count(), long.ends_with('…')), (61, true));
    }
}
