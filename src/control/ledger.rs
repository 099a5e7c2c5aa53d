//! ● The ledger: what control is told of observations and moves becomes records, and what the
//! counters of a service say before and after becomes their cost.
//!
//! The cost of a move is the difference between two samples of the service's counters: the last
//! one before the first evidence, and the one taken when nothing of it can grow any more. Whatever
//! a request that straddles them does, it is counted when it ends, and so once.

mod evidence;
mod rules;
mod sample;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::HealthCheck;
use crate::failover::record::{Clock, ConfigName, Cost, Evidence, Source, Times, Waiting};
use crate::failover::{Cause, Move, Record};
use crate::table::{EndpointId, Pool, Service, Table};

pub use evidence::Noted;
use evidence::Observations;
use rules::rules;
use sample::{Sample, Samples, last_failure, words};

/// Between two samples.
const SAMPLE: Duration = Duration::from_secs(1);
/// Between two looks for the first answer of the pool after: in the first second, when milliseconds
/// matter, and later; and how long it is looked for.
const LOOK: Duration = Duration::from_millis(10);
const LOOK_LATER: Duration = Duration::from_millis(100);
const LOOK_FOR: Duration = Duration::from_secs(10);
/// A record is complete so long after the last timeout of what its move left behind.
const GRACE: Duration = Duration::from_secs(5);

/// What requests met that were not answered, nor their connections acknowledged.
pub const SILENCE: &str = "silence";

/// All there is to know for records, by service. Survives reloads.
#[derive(Debug, Default)]
pub struct Ledger {
    observations: Observations,
    books: BTreeMap<Arc<str>, Book>,
    /// When the next sample is due.
    sample_at: Duration,
}

#[derive(Debug)]
struct Book {
    next: u64,
    samples: Samples,
    open: Option<Open>,
    /// Where the last record's cost ended: the next one begins no earlier.
    settled: Option<Sample>,
}

/// A record whose cost is not final yet.
#[derive(Debug)]
struct Open {
    record: Record,
    clock: Clock,
    before: Sample,
    from: Arc<Pool>,
    to: Arc<Pool>,
    blamed: Option<Arc<Pool>>,
    /// Single observations, as they were at the decision.
    observed: Vec<Evidence>,
    /// When the first sign of it was seen.
    began: Duration,
    published: Duration,
    /// The cost is final then, whatever is still on its way.
    until: Duration,
    /// When its first answer is looked for again.
    look_at: Duration,
    /// Answers of the pool after when the move was published.
    answers: u64,
}

/// A move, a return that was broken off, or a rehearsal of either, as control tells of it.
#[derive(Debug)]
pub struct Told<'a> {
    /// Index of the service.
    pub service: usize,
    /// Of the table before the move, or after it.
    pub from: Arc<Pool>,
    pub to: Arc<Pool>,
    pub cause: Cause,
    pub reason: &'a str,
    pub forced: bool,
    pub held: bool,
    pub aborted: Option<String>,
    /// When that began which it is the end of: the first evidence, or a return by degrees. Equal to
    /// `decided` for an order.
    pub began: Duration,
    /// When the first failure was known that decided; equal to `decided` without one.
    pub first_failure: Duration,
    pub decided: Duration,
    pub published: Duration,
    pub clock: Clock,
}

impl<'a> Told<'a> {
    /// A move of this service, which is at this index; unforced, not held, not published yet.
    pub fn moved(index: usize, service: &Service, moved: &Move, reason: &'a str) -> Self {
        Self {
            service: index,
            from: Arc::clone(&service.pools[moved.from]),
            to: Arc::clone(&service.pools[moved.to]),
            cause: moved.cause,
            reason,
            forced: false,
            held: false,
            aborted: None,
            began: moved.first_evidence,
            first_failure: moved.first_failure,
            decided: moved.decided,
            published: moved.decided,
            clock: Clock::default(),
        }
    }
}

/// The counters of a service at one moment, for the cost of what is no move.
#[derive(Debug)]
pub struct Meter(Sample);

impl Meter {
    pub fn begin(table: &Table, index: usize, now: Duration) -> Self {
        Self(Sample::of(table, index, now))
    }

    /// What was rescued, lost and held since then.
    pub fn cost(&self, table: &Table, index: usize, now: Duration, in_flight: u64) -> Cost {
        let most = table.services.get(index).map_or(0, |service| longest_wait(service));
        Sample::of(table, index, now).cost_since(&self.0, in_flight, most)
    }
}

impl Ledger {
    /// The last success of each endpoint of a pool.
    pub fn proof(&self, pool: &Arc<Pool>, clock: Clock) -> Vec<Evidence> {
        self.observations.of_move(None, Some(pool), Duration::ZERO, clock)
    }

    /// Told of every observation that was folded.
    pub fn observed(&mut self, id: EndpointId, noted: Noted) {
        self.observations.note(id, noted);
    }

    /// Told of silence and broken connections that requests met: a reason to ask, and where what
    /// is asked confirms it, the first evidence.
    pub fn sighted(&mut self, id: EndpointId, what: &'static str, at: Duration) {
        self.observations.sighted(id, what, at);
    }

    /// The first evidence for a move away from a pool: what requests met there may be older than
    /// the probes that decided.
    pub fn first_evidence(&self, from: &Pool, moved: &Move) -> Duration {
        let event = from.config.health_check.as_ref().map_or(Duration::ZERO, HealthCheck::round);
        let since = moved.first_failure.saturating_sub(event);
        let sign = self.observations.first_sign(from, since);
        sign.map_or(moved.first_evidence, |sign| sign.min(moved.first_evidence))
    }

    /// What the last probe of an endpoint that failed met, if that was no earlier than `since`: it
    /// knows more of what went wrong than a request.
    pub fn last_probe_met(&self, id: EndpointId, since: Duration) -> Option<&str> {
        self.observations.last_probe_met(id, since)
    }

    /// The numbers that records of a service go on with: after a restart.
    pub fn resume(&mut self, service: &Arc<str>, next: u64) {
        self.books.insert(Arc::clone(service), Book { next: next.max(1), ..Book::new(&[]) });
    }

    /// For the state file.
    pub fn next_number(&self, service: &Service) -> u64 {
        let known = self.books.get(&service.config.name).map(|book| book.next);
        known.unwrap_or_else(|| Book::of(service).next)
    }

    /// Forgets what a new configuration no longer has.
    pub fn follow(&mut self, table: &Table) {
        let known: HashSet<EndpointId> = table.endpoints().map(|(known, _)| known.id).collect();
        self.observations.retain(|id| known.contains(&id));
        self.books.retain(|name, _| table.service(name).is_some());
    }

    /// Records to be kept in the service's history and published with the move: the one before, if
    /// it was not complete yet, and this one.
    pub fn moved(&mut self, table: &Table, told: &Told<'_>) -> Vec<Arc<Record>> {
        let Some(service) = table.services.get(told.service) else { return Vec::new() };
        let name = &service.config.name;
        let now = Sample::of(table, told.service, told.decided);
        let known = self.books.entry(Arc::clone(name));
        let book = known.or_insert_with(|| Book::of(service));
        let mut records: Vec<_> = book.complete(service, now.clone()).into_iter().collect();
        let open = book.open(table, service, told, &self.observations, &now);
        records.push(Arc::new(open.record.clone()));
        book.open = Some(open);
        records
    }

    /// When [`Ledger::tick`] has something to do.
    pub fn wake(&self, now: Duration) -> Duration {
        let open = self.books.values().filter_map(|book| book.open.as_ref());
        let looks = open.filter(|open| open.looks_for_an_answer(now)).map(|open| open.look_at);
        looks.chain([self.sample_at]).min().unwrap_or(self.sample_at)
    }

    /// Takes samples where they are due; records that are complete now or know more, with the index
    /// of their service.
    pub fn tick(&mut self, table: &Table, now: Duration) -> Vec<(usize, Arc<Record>)> {
        let samples = now >= self.sample_at;
        if samples {
            self.sample_at = now + SAMPLE;
        }
        let mut known = Vec::new();
        for (index, service) in table.services.iter().enumerate() {
            let name = &service.config.name;
            if !self.books.contains_key(name) {
                self.books.insert(Arc::clone(name), Book::of(service));
            }
            let Some(book) = self.books.get_mut(name) else { continue };
            if let Some(open) = book.open.as_mut().filter(|open| now >= open.look_at) {
                open.look(service, now);
            }
            if samples {
                let record = book.sample(service, Sample::of(table, index, now));
                known.extend(record.map(|record| (index, record)));
            }
        }
        known
    }
}

impl Book {
    fn new(records: &[u64]) -> Self {
        let next = records.iter().max().map_or(1, |last| last + 1);
        Self { next, samples: Samples::default(), open: None, settled: None }
    }

    /// Its records go on after those that are in its history.
    fn of(service: &Service) -> Self {
        let number = |id: &str| id.rsplit_once('-')?.1.parse::<u64>().ok();
        let records = service.history.records.iter();
        Self::new(&records.filter_map(|record| number(&record.id)).collect::<Vec<_>>())
    }

    fn open(
        &mut self,
        table: &Table,
        service: &Service,
        told: &Told<'_>,
        observations: &Observations,
        now: &Sample,
    ) -> Open {
        let before = match told.began < told.decided {
            true => self.samples.before(told.began).unwrap_or(now),
            false => now,
        };
        let before = match &self.settled {
            Some(settled) if settled.at > before.at => settled,
            _ => before,
        };
        let blamed = match (told.cause, &told.aborted) {
            (_, Some(_)) => Some(Arc::clone(&told.to)),
            (Cause::Health, None) => Some(Arc::clone(&told.from)),
            _ => None,
        };
        let (clock, began, times) = (told.clock, told.began.min(told.decided), times(told));
        let number = self.next;
        self.next += 1;
        let record = Record {
            id: format!("{}-{number}", service.config.name),
            service: service.config.name.to_string(),
            from: told.from.config.name.to_string(),
            to: told.to.config.name.to_string(),
            cause: told.cause,
            reason: told.reason.to_owned(),
            forced: told.forced,
            held: told.held,
            aborted: told.aborted.clone(),
            evidence: Vec::new(),
            rules: rules(&service.config, told),
            config: config_of(table),
            times,
            cost: Cost { in_flight: in_flight(&told.from), ..Cost::default() },
            waiting: None,
            complete: false,
        };
        // A return that was broken off proves nothing of the pool that was to take over.
        let proved = told.aborted.is_none().then_some(&told.to).filter(|_| blamed.is_some());
        let observed = observations.of_move(blamed.as_ref(), proved, began, clock);
        let mut open = Open {
            record,
            clock,
            before: before.clone(),
            from: Arc::clone(&told.from),
            to: Arc::clone(&told.to),
            blamed,
            observed,
            began,
            published: told.published,
            until: told.published + longest_left(service) + GRACE,
            look_at: told.published,
            answers: answers(&told.to),
        };
        open.count(service, now);
        open.look(service, told.published);
        open
    }

    /// Takes the sample of a second; the record, if that completes it or tells more.
    fn sample(&mut self, service: &Service, sample: Sample) -> Option<Arc<Record>> {
        let before = self.samples.last_at();
        let calm = self.samples.push(sample.clone());
        if let Some(open) = &mut self.open {
            let whole = before.is_some_and(|before| before >= open.published);
            let over = sample.at >= open.until;
            let quiet = calm && whole && open.is_over(service, sample.at);
            return if over || quiet {
                self.complete(service, sample)
            } else {
                open.news(service, &sample)
            };
        }
        if calm {
            forget_marks(service, before.unwrap_or_default());
        }
        None
    }

    fn complete(&mut self, service: &Service, now: Sample) -> Option<Arc<Record>> {
        let mut open = self.open.take()?;
        open.count(service, &now);
        open.record.times.completed = Some(open.clock.stamp(now.at));
        (open.record.waiting, open.record.complete) = (None, true);
        self.settled = Some(now);
        Some(Arc::new(open.record))
    }
}

impl Open {
    /// The first answer of the pool after is still looked for.
    fn looks_for_an_answer(&self, now: Duration) -> bool {
        self.record.times.first_success.is_none() && now < self.published + LOOK_FOR
    }

    /// Nobody answers from the pool before any more, and nobody waits.
    fn is_over(&self, service: &Service, now: Duration) -> bool {
        let waiting = service.counters.holding.load(Ordering::Relaxed);
        !self.looks_for_an_answer(now) && waiting == 0 && in_flight(&self.from) == 0
    }

    fn look(&mut self, service: &Service, now: Duration) {
        if !self.looks_for_an_answer(now) {
            return;
        }
        let just = now < self.published + SAMPLE;
        self.look_at = now + if just { LOOK } else { LOOK_LATER };
        // Set by the first request that was answered elsewhere while the pool before still served.
        let elsewhere = match service.counters.first_elsewhere.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos - 1)),
        };
        let elsewhere = elsewhere.filter(|at| *at >= self.began && self.is_a_rescue());
        let seen = (answers(&self.to) > self.answers).then_some(now);
        self.record.times.first_success = elsewhere.or(seen).map(|at| self.clock.stamp(at));
    }

    fn is_a_rescue(&self) -> bool {
        self.record.cause == Cause::Health && self.record.aborted.is_none()
    }

    /// The record as of `now`, if it tells more than before.
    fn news(&mut self, service: &Service, now: &Sample) -> Option<Arc<Record>> {
        let before = self.record.clone();
        self.count(service, now);
        (self.record != before).then(|| Arc::new(self.record.clone()))
    }

    /// Brings cost and counted evidence up to `now`.
    fn count(&mut self, service: &Service, now: &Sample) {
        let in_flight = self.record.cost.in_flight;
        self.record.cost = now.cost_since(&self.before, in_flight, longest_wait(service));
        let requests = self::in_flight(&self.from);
        let until = self.clock.stamp(self.until);
        self.record.waiting = (requests > 0).then_some(Waiting { requests, until });
        self.record.evidence = self.observed.clone();
        let Some(pool) = &self.blamed else { return };
        let counted: Vec<_> = now.failures_since(&self.before, pool).collect();
        if counted.is_empty() {
            return;
        }
        // What control was told of requests one by one is in these counts, but for silence: that is
        // no failure yet.
        self.record.evidence.retain(|known| {
            known.source != Source::Live || known.success || known.result == SILENCE
        });
        for (id, kind, count) in counted {
            let Some(endpoint) = pool.endpoints.iter().find(|known| known.id == id) else {
                continue;
            };
            let last = last_failure(endpoint, kind.0).unwrap_or(now.at);
            self.record.evidence.push(Evidence {
                pool: pool.config.name.to_string(),
                endpoint: endpoint.config.name.to_string(),
                source: Source::Live,
                result: words(kind.0).to_owned(),
                success: false,
                count,
                at: self.clock.stamp(last.max(self.began)),
                phases: None,
            });
        }
    }
}

/// As far as they are known when it is published.
fn times(told: &Told<'_>) -> Times {
    let (clock, forced) = (told.clock, told.cause == Cause::Health && told.aborted.is_none());
    Times {
        first_evidence: clock.stamp(told.began.min(told.decided)),
        first_failure: forced.then(|| clock.stamp(told.first_failure)),
        decided: clock.stamp(told.decided),
        published: clock.stamp(told.published),
        ..Times::default()
    }
}

fn config_of(table: &Table) -> ConfigName {
    ConfigName { generation: table.generation, digest: table.config.digest.clone() }
}

/// In a calm time what was longest and first begins anew, unless it is younger than `before`.
fn forget_marks(service: &Service, before: Duration) {
    let counters = &service.counters;
    for cells in counters.workers.iter() {
        cells.rescue_wait_most_micros.store(0, Ordering::Relaxed);
    }
    let first = counters.first_elsewhere.load(Ordering::Relaxed);
    if first > 0 && Duration::from_nanos(first - 1) < before {
        // A worker may have set it anew; then it stays.
        let _ = counters.first_elsewhere.compare_exchange(
            first,
            0,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }
}

/// How long what a move leaves behind may last: until an answer must begin, or is cut.
fn longest_left(service: &Service) -> Duration {
    let sessions = service.config.failover.sessions;
    let cut = sessions.close_after.saturating_add(sessions.spread);
    service.config.timeouts.response_header.max(cut)
}

fn longest_wait(service: &Service) -> u64 {
    let cells = service.counters.workers.iter();
    cells.map(|cells| cells.rescue_wait_most_micros.load(Ordering::Relaxed)).max().unwrap_or(0)
}

fn in_flight(pool: &Pool) -> u64 {
    pool.endpoints.iter().map(|endpoint| u64::from(endpoint.in_flight())).sum()
}

/// Answers the endpoints of a pool gave.
fn answers(pool: &Pool) -> u64 {
    let cells = pool.endpoints.iter().map(|endpoint| &endpoint.counters.workers);
    cells.map(|cells| cells.sum(|cells| cells.responses.iter().map(|c| c.value()).sum())).sum()
}

#[cfg(test)]
mod tests;
