//! ● What a configuration would have decided on recorded observations, by the machines that decide
//! live.
//!
//! What was not recorded cannot be replayed: a probe that other thresholds would have asked for,
//! and how a returning pool would have erred; a return by degrees is never broken off here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::config::Config;
use crate::failover::record::Stamp;
use crate::failover::{self, Cause, Move, PoolView};
use crate::health::{Observation, Verdict};
use crate::table::{Endpoint, EndpointId, Service, Table, build};

use super::memory::{Memory, Observed};
use super::probe_history::{Line, Moved, Run};

/// What came of a replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Backtest {
    pub from: Stamp,
    pub to: Stamp,
    pub observations: u64,
    /// `SERVICE/POOL/ENDPOINT` that were recorded and are not in the configuration.
    pub unknown: Vec<String>,
    /// Moves this configuration would have made.
    pub moves: Vec<Made>,
    /// Moves that were made then.
    pub recorded: Vec<Moved>,
    pub services: BTreeMap<String, Summary>,
}

/// A move that would have been made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Made {
    pub service: String,
    pub from: String,
    pub to: String,
    pub cause: Cause,
    pub at: Stamp,
    /// Equal to `at` for a return.
    pub first_evidence: Stamp,
    pub reason: String,
    /// The last failures of the pool before: `10.0.1.10:80 no answer within 800ms, 3 times`.
    pub evidence: Vec<String>,
}

/// One service under this configuration, and then.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    pub moves: usize,
    pub recorded_moves: usize,
    /// Time not served by the first pool.
    pub on_standby_seconds: f64,
    pub recorded_on_standby_seconds: f64,
    /// First evidence → move, of moves forced by health.
    pub detection_mean_seconds: Option<f64>,
    pub recorded_detection_mean_seconds: Option<f64>,
}

struct Event<'a> {
    run: &'a Run,
    id: EndpointId,
    observation: Observation,
    began: Stamp,
    at: Stamp,
}

struct Replay {
    table: Table,
    memory: Memory,
    moves: Vec<Made>,
    /// The last failures in a row of each endpoint.
    failing: HashMap<EndpointId, (String, u64)>,
}

/// Replays lines in the order of their times, which need not be the order of the lines.
pub fn replay(config: Arc<Config>, lines: &[Line]) -> Backtest {
    let table = build::first(config, 1, Duration::ZERO);
    let mut known = HashMap::new();
    for (endpoint, _) in table.endpoints() {
        let Endpoint { service, pool, config, id, .. } = &**endpoint;
        known.insert([service, pool, &config.name].map(|name| name.to_string()), *id);
    }
    let mut unknown = BTreeSet::new();
    let mut events = Vec::new();
    for run in lines.iter().filter_map(run_of) {
        let names = [&run.service, &run.pool, &run.endpoint].map(String::clone);
        let (Some(id), Some(observation)) = (known.get(&names), run.observation()) else {
            unknown.insert(names.join("/"));
            continue;
        };
        let times = run.times();
        events.extend(times.map(|(began, at)| Event { run, id: *id, observation, began, at }));
    }
    events.sort_by_key(|event| event.at);
    let from = events.first().map(|event| event.began).unwrap_or_default();
    let to = events.last().map(|event| event.at).unwrap_or_default();
    let mut recorded: Vec<_> = lines.iter().filter_map(moved_of).cloned().collect();
    recorded.sort_by_key(|moved| moved.at);

    // The times of a replay are those of the wall clock then.
    let table = Table { services: started(&table, since(from)), ..table };
    let memory = Memory::new(&table);
    let mut replay = Replay { table, memory, moves: Vec::new(), failing: HashMap::new() };
    events.iter().for_each(|event| replay.fold(event));
    replay.wait_until(since(to));
    let services = replay.summaries((from, to), &recorded);
    let observations = events.len() as u64;
    let unknown = unknown.into_iter().collect();
    Backtest { from, to, observations, unknown, moves: replay.moves, recorded, services }
}

fn run_of(line: &Line) -> Option<&Run> {
    match line {
        Line::Run(run) => Some(run),
        Line::Moved(_) => None,
    }
}

fn moved_of(line: &Line) -> Option<&Moved> {
    match line {
        Line::Moved(moved) => Some(moved),
        Line::Run(_) => None,
    }
}

/// A time of the wall clock as the machines' `now`.
fn since(stamp: Stamp) -> Duration {
    Duration::from_micros(stamp.0)
}

fn stamp(at: Duration) -> Stamp {
    Stamp(u64::try_from(at.as_micros()).unwrap_or(u64::MAX))
}

impl Replay {
    fn fold(&mut self, event: &Event<'_>) {
        let now = since(event.at);
        self.wait_until(now);
        let detail = &event.run.detail;
        let observed = Observed {
            id: event.id,
            observation: event.observation,
            detail,
            began: since(event.began),
        };
        let Some(heard) = self.memory.hear(&self.table.config, observed, now) else { return };
        match heard.observation {
            Observation::Success => {
                self.failing.remove(&event.id);
            }
            Observation::SelfFault => {}
            Observation::Failure(_) | Observation::Errors => {
                let (known, count) = self.failing.entry(event.id).or_default();
                *count += 1;
                known.clone_from(detail);
            }
        }
        if heard.due {
            self.look(heard.place.service, now);
        }
    }

    /// Does what is due by the clock before `now`.
    fn wait_until(&mut self, now: Duration) {
        while let Some(at) = self.memory.next_look().filter(|at| *at <= now) {
            let before = self.memory.next_look();
            for index in self.memory.due(at) {
                self.look(index, at);
            }
            // A look that changes nothing must not be asked for again at the same time.
            if self.memory.next_look() == before {
                return;
            }
        }
    }

    fn look(&mut self, index: usize, now: Duration) {
        let looked = self.memory.look(&self.table.config, index, now);
        if let Some(moved) = looked.moved {
            let made = self.made(index, &moved, &looked.views);
            self.moves.push(made);
        }
    }

    fn made(&self, index: usize, moved: &Move, views: &[PoolView]) -> Made {
        let service = &self.table.services[index];
        let name = |pool: usize| service.config.pools[pool].name.to_string();
        let from = service.pools[moved.from].endpoints.iter();
        let down = from.filter(|endpoint| self.memory.verdict(endpoint.id) == Verdict::Down);
        let evidence = down.filter_map(|endpoint| {
            let (detail, count) = self.failing.get(&endpoint.id)?;
            let times = if *count > 1 { format!(", {count} times") } else { String::new() };
            Some(format!("{} {detail}{times}", endpoint.config.name))
        });
        let health = moved.cause == Cause::Health;
        Made {
            service: service.config.name.to_string(),
            from: name(moved.from),
            to: name(moved.to),
            cause: moved.cause,
            at: stamp(moved.decided),
            first_evidence: stamp(moved.first_evidence),
            reason: match health {
                true => views[moved.from].shortage(),
                false => format!("{} was available for long enough", name(moved.to)),
            },
            evidence: if health { evidence.collect() } else { Vec::new() },
        }
    }

    fn summaries(&self, span: (Stamp, Stamp), recorded: &[Moved]) -> BTreeMap<String, Summary> {
        let services = self.table.services.iter().map(|service| {
            let name = &*service.config.name;
            let first = &*service.config.pools[0].name;
            let made: Vec<_> = self
                .moves
                .iter()
                .filter(|made| made.service == name)
                .map(|made| (made.at, &*made.to, made.cause, made.first_evidence))
                .collect();
            let then: Vec<_> = recorded
                .iter()
                .filter(|moved| moved.moved == name)
                .map(|moved| (moved.at, &*moved.to, moved.cause, moved.first_evidence))
                .collect();
            let begun = recorded.iter().find(|moved| moved.moved == name);
            let begun = begun.map_or(first, |moved| &*moved.from);
            let summary = Summary {
                moves: made.len(),
                recorded_moves: then.len(),
                on_standby_seconds: away(span, first, first, &made),
                recorded_on_standby_seconds: away(span, first, begun, &then),
                detection_mean_seconds: detection(&made),
                recorded_detection_mean_seconds: detection(&then),
            };
            (name.to_owned(), summary)
        });
        services.collect()
    }
}

/// When, where to, why, and the first evidence.
type Step<'a> = (Stamp, &'a str, Cause, Stamp);

/// Seconds of a span in which another pool than `first` served; `serving` did at its beginning.
fn away(span: (Stamp, Stamp), first: &str, serving: &str, moves: &[Step<'_>]) -> f64 {
    let (mut at, mut serving, mut away) = (span.0, serving, Duration::ZERO);
    for (moved, to) in moves.iter().map(|step| (step.0, step.1)).chain([(span.1, first)]) {
        let moved = moved.clamp(span.0, span.1);
        if serving != first {
            away += moved.since(at);
        }
        (at, serving) = (moved, to);
    }
    away.as_secs_f64()
}

fn detection(moves: &[Step<'_>]) -> Option<f64> {
    let forced = moves.iter().filter(|step| step.2 == Cause::Health);
    let took: Vec<_> = forced.map(|step| step.0.since(step.3).as_secs_f64()).collect();
    (!took.is_empty()).then(|| took.iter().sum::<f64>() / took.len() as f64)
}

/// The services of a table as if they had been started at that time.
fn started(table: &Table, now: Duration) -> Vec<Arc<Service>> {
    let services = table.services.iter().map(|service| {
        let state = failover::State::start(service.pools.len(), now);
        let history = Arc::clone(&service.history);
        let unknown = |_| build::Standing::default();
        Arc::new(build::service(service, &state, None, history, &unknown))
    });
    services.collect()
}

#[cfg(test)]
mod tests;
