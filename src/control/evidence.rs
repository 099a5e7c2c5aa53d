//! ○ What probes and requests saw: folded into verdicts, and followed by quicker questions where it
//! raises a doubt.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::failover::record::Source;
use crate::health::{Failure, Observation, Verdict, schedule};
use crate::probe::{Kind, Outcome, Report, Timings};
use crate::table::counters::ProbeCells;
use crate::table::live::{Doubt, Live, Seen, Sighting};
use crate::table::{Endpoint, EndpointId, Table};

use super::ledger::SILENCE;
use super::log::Line;
use super::memory::{Heard, Observed, check_at};
use super::settle::Due;
use super::{Control, Effects};

/// What one look through the mail came to.
pub(super) struct Found {
    table: Arc<Table>,
    now: Duration,
    due: BTreeMap<usize, Due>,
    lines: Vec<Line>,
}

impl<E: Effects> Control<E> {
    /// Folds what probes saw, and tells each when to look again.
    pub(super) fn fold(&mut self) {
        let mut found = self.found();
        for Report { id, kind, outcome, next } in std::mem::take(&mut self.batch) {
            let source = match kind {
                Kind::Ordinary => Source::Probe,
                Kind::Confirm => Source::Confirm,
            };
            // To drop `next` ends the probes of an endpoint that is gone.
            let Some(heard) = self.observe(id, source, outcome, &mut found) else { continue };
            if let Some(check) = check_at(&found.table.config, heard.place)
                && let Some(next) = next
            {
                // The probe may have been ended meanwhile.
                let _ = next.send(schedule::next_delay(&heard.state, check, self.random.u64(..)));
            }
        }
        self.conclude(found);
    }

    /// Folds what requests met. What no client can cause counts like a failed probe; everything
    /// else only makes us ask.
    pub(super) fn sighted(&mut self) {
        let mut found = self.found();
        for Sighting { endpoint, kind, at } in std::mem::take(&mut self.seen) {
            let mut began = at;
            let (observation, detail) = match kind {
                Seen::Refused => (failure(Failure::Refused), "connection refused".into()),
                Seen::Unreachable => {
                    (failure(Failure::Unreachable), "a connection found no way".into())
                }
                Seen::Tls => (failure(Failure::Tls), "a TLS handshake failed".into()),
                Seen::Errors { count, status } => {
                    began = self.errors_since(endpoint, &found).unwrap_or(at).min(at);
                    let detail = format!(
                        "{count} answers like {status} in a row, which others did not give"
                    );
                    (Observation::Errors, detail)
                }
                Seen::Silent | Seen::Reset => {
                    let what = if kind == Seen::Silent { SILENCE } else { "connection reset" };
                    self.keeping.ledger.sighted(endpoint, what, at);
                    self.doubt(endpoint, &found);
                    continue;
                }
            };
            let (took, timings) = (Duration::ZERO, Timings::default());
            let outcome = Outcome { observation, detail, began, took, timings };
            self.observe(endpoint, Source::Live, outcome, &mut found);
        }
        self.conclude(found);
    }

    /// When the run of gateway errors of an endpoint began.
    fn errors_since(&self, id: EndpointId, found: &Found) -> Option<Duration> {
        let place = self.memory.place(id)?;
        let pool = &found.table.services[place.service].pools[place.pool];
        pool.endpoints[place.endpoint].live.errors_since(found.now)
    }

    fn found(&self) -> Found {
        let (table, now) = (self.current.load(), self.effects.now());
        Found { table, now, due: BTreeMap::new(), lines: Vec::new() }
    }

    fn observe(
        &mut self,
        id: EndpointId,
        source: Source,
        outcome: Outcome,
        found: &mut Found,
    ) -> Option<Heard> {
        let Outcome { observation, began, .. } = outcome;
        let observed = Observed { id, observation, detail: &outcome.detail, began };
        let heard = self.memory.hear(&found.table.config, observed, found.now)?;
        let outcome = Outcome { observation: heard.observation, ..outcome };
        let place = heard.place;
        let service = &found.table.services[place.service];
        let endpoint = Arc::clone(&service.pools[place.pool].endpoints[place.endpoint]);
        self.noted(&endpoint, source, &outcome, &heard, found.now);
        match heard.observation {
            Observation::Success => {
                self.probes.succeeded(id, &outcome);
                trust(&endpoint.live, &outcome, found.now);
            }
            Observation::Failure(_) | Observation::Errors
                if heard.before.verdict != Verdict::Down =>
            {
                let first = heard.before.failures == 0;
                if !self.doubt(id, found) && (first || heard.flip.is_some()) {
                    self.prove(place.service, place.pool, found);
                }
            }
            Observation::Failure(_) | Observation::Errors | Observation::SelfFault => {}
        }
        if heard.due {
            found.due.entry(place.service).or_default().changed |= heard.flip.is_some();
        }
        if let Some(flip) = heard.flip {
            if flip.to == Verdict::Up {
                endpoint.live.clear(Doubt::Silent);
            }
            let (state, why) = (heard.state, outcome.detail);
            found.lines.push(Line::Verdict { endpoint, flip, state, why });
        }
        Some(heard)
    }

    /// Every observation of an endpoint passes here once, after it was folded.
    fn noted(
        &mut self,
        endpoint: &Endpoint,
        source: Source,
        outcome: &Outcome,
        heard: &Heard,
        now: Duration,
    ) {
        self.keeping.observed(endpoint, source, outcome, now);
        let cells = &endpoint.counters.probes;
        if source != Source::Live {
            count(cells, outcome, now);
        }
        match heard.flip.map(|flip| flip.to) {
            Some(Verdict::Up) => cells.to_up.increment(),
            Some(Verdict::Down) => cells.to_down.increment(),
            Some(Verdict::Unknown) | None => {}
        }
    }

    /// Finds out quickly whether an endpoint is down, and who could take over. False where that
    /// is under way.
    fn doubt(&mut self, id: EndpointId, found: &Found) -> bool {
        let Some(place) = self.memory.place(id) else { return false };
        let doubtful = self.memory.verdict(id) != Verdict::Down;
        let begun = doubtful && self.probes.burst(id, found.now);
        if begun {
            self.prove(place.service, place.pool, found);
        }
        begun
    }

    /// Only where a move could hang on it: the pool serves.
    fn prove(&mut self, service: usize, pool: usize, found: &Found) {
        if self.memory.failover(service).serving == pool {
            self.probes.prove(&found.table.services[service], pool);
        }
    }

    fn conclude(&mut self, found: Found) {
        self.settle(found.due, found.lines, found.now);
        self.check_planned();
    }
}

fn failure(failure: Failure) -> Observation {
    Observation::Failure(failure)
}

/// A probe that succeeded ends the doubt that was there when it began, not one that came after.
fn trust(live: &Live, outcome: &Outcome, now: Duration) {
    // Doubt is dated in whole milliseconds.
    let doubted_for = live.doubted_for(now) + Duration::from_millis(1);
    if now.saturating_sub(outcome.began) <= doubted_for {
        live.clear(Doubt::Silent);
    }
}

fn count(cells: &ProbeCells, outcome: &Outcome, now: Duration) {
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
}
