//! ○ Carries out drills: asks the other pool, moves requests there and back, and reports.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::failover::record::{Record, Stamp};
use crate::failover::{self, Cause, Order};
use crate::table::{Share, Table};

use super::command::index_of;
use super::drill::{Drill, Next, Sight};
use super::keeping::{both_clocks, wall};
use super::ledger::Meter;
use super::orders::{DrillOrder, DrillReport};
use super::returning::Baseline;
use super::settle::Ordered;
use super::{Control, Effects};

type Reply = oneshot::Sender<Result<DrillReport, String>>;

/// A drill that is under way.
#[derive(Debug)]
pub(super) struct Rehearsal {
    /// Known by name, because a reload may come between.
    service: Arc<str>,
    pools: (Arc<str>, Arc<str>),
    drill: Drill,
    reply: Reply,
    meter: Meter,
    /// When the other pool had proved itself.
    before: Baseline,
    began: Stamp,
    /// An operator's order stood before it.
    stood: bool,
    in_flight: u64,
    switch: Option<Duration>,
    records: Vec<String>,
    /// When it is to be looked at again.
    pub(super) next: Duration,
}

impl<E: Effects> Control<E> {
    pub(super) fn drill(&mut self, service: &str, order: DrillOrder, reply: Reply) {
        match self.begin_drill(service, order) {
            Ok(begun) => {
                let (service, drill, meter, began) = begun;
                let table = self.current.load();
                let pools = &table.services[service].config.pools;
                let name = |pool: usize| Arc::clone(&pools[pool].name);
                let failover = self.memory.failover(service);
                self.rehearsals.push(Rehearsal {
                    service: Arc::clone(&table.services[service].config.name),
                    pools: (name(drill.from), name(drill.to)),
                    next: drill.began,
                    drill,
                    reply,
                    meter,
                    before: Baseline::default(),
                    began,
                    stood: failover.stands,
                    in_flight: 0,
                    switch: None,
                    records: Vec::new(),
                });
            }
            // The asker may have gone.
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    fn begin_drill(
        &mut self,
        service: &str,
        order: DrillOrder,
    ) -> Result<(usize, Drill, Meter, Stamp), String> {
        let table = self.current.load();
        let index = index_of(&table, service)?;
        if self.rehearsals.iter().any(|known| *known.service == *service) {
            return Err(format!("a drill of {service} is under way already"));
        }
        let now = self.effects.now();
        let views = self.memory.views(&table.services[index].config, index);
        let failover = self.memory.failover(index);
        let busy = (failover.held, failover.ramp.is_some());
        let mut drill = Drill::begin(order, failover.serving, &views, busy, now)
            .map_err(|why| format!("{service} is not rehearsed: {why}"))?;
        let pool = &table.services[index].pools[drill.to];
        drill.wait_for_proof(self.probes.ask_pool(pool, now));
        Ok((index, drill, Meter::begin(&table, index, now), wall()))
    }

    /// Goes on with the drills; called whenever something may have changed.
    pub(super) fn rehearse(&mut self) {
        for mut rehearsal in std::mem::take(&mut self.rehearsals) {
            match self.go_on(&mut rehearsal) {
                true => self.rehearsals.push(rehearsal),
                false => self.report(rehearsal),
            }
        }
    }

    /// False when it is over.
    fn go_on(&mut self, rehearsal: &mut Rehearsal) -> bool {
        // A drill asks for one thing after another, each at most once.
        loop {
            let table = self.current.load();
            let Some((index, sight)) = self.sight(&table, rehearsal) else { return false };
            let now = sight.now;
            match rehearsal.drill.step(&sight) {
                Next::Wait(until) => {
                    // A reload may have come between, and published a table without it.
                    self.lend(index, rehearsal, now);
                    rehearsal.next = until;
                    return true;
                }
                Next::Over => return false,
                Next::Share(_) => self.lend(index, rehearsal, now),
                Next::Go => self.go(&table, index, rehearsal, (rehearsal.drill.to, true), now),
                Next::Back => self.go(&table, index, rehearsal, (rehearsal.drill.from, false), now),
            }
        }
    }

    /// What it sees, with the index of the service; none if the configuration lost it.
    fn sight(&self, table: &Table, rehearsal: &mut Rehearsal) -> Option<(usize, Sight)> {
        let found = table.service_index(&rehearsal.service).and_then(|index| {
            let place = |name| table.services[index].pool_index(name);
            Some((index, place(&rehearsal.pools.0)?, place(&rehearsal.pools.1)?))
        });
        let Some((index, from, to)) = found else {
            let why = "the configuration no longer has its pools".to_owned();
            rehearsal.drill.abort(why);
            return None;
        };
        (rehearsal.drill.from, rehearsal.drill.to) = (from, to);
        let service = &table.services[index];
        let views = self.memory.views(&service.config, index);
        if rehearsal.drill.proof.is_none() {
            rehearsal.before = Baseline::of(service);
        }
        let sight = Sight {
            now: self.effects.now(),
            serves: self.memory.failover(index).serving,
            from: views[from],
            to: views[to],
            target: rehearsal.before.since(&service.pools[to]),
            serving: rehearsal.before.since(&service.pools[from]),
        };
        Some((index, sight))
    }

    /// Publishes the share that the drill's pool gets now.
    fn lend(&mut self, index: usize, rehearsal: &Rehearsal, now: Duration) {
        let pool = rehearsal.drill.to;
        let share = rehearsal.drill.share().map(|permille| Share { pool, permille });
        let watch = &mut self.memory.services[index];
        if watch.rehearsal != share {
            watch.rehearsal = share;
            self.publish_order(index, None, Vec::new(), now);
        }
    }

    fn go(
        &mut self,
        table: &Table,
        index: usize,
        rehearsal: &mut Rehearsal,
        (to, there): (usize, bool),
        now: Duration,
    ) {
        // Back it goes to a pool that is available, be it a little worse.
        let order = Order { to, hold: false, force: !there, cause: Cause::Drill };
        let moved = match self.memory.switch(&table.config, index, order, now, true) {
            Ok(moved) => moved,
            Err(refusal) => return rehearsal.drill.abort(refusal.to_string()),
        };
        // While it is watched nothing returns by itself; afterwards all is as it was.
        self.memory.services[index].failover.stands = there || rehearsal.stood;
        let reason = match (&rehearsal.drill.aborted, there) {
            (Some(why), false) => format!("drill aborted: {why}"),
            (None, false) => "drill over".to_owned(),
            (_, true) => rehearsal.drill.order.reason.clone(),
        };
        let ordered = Ordered { reason, moved, ..Ordered::default() };
        self.publish_order(index, Some(ordered), Vec::new(), now);
        let table = self.current.load();
        if let Some(record) = table.services[index].history.records.back() {
            rehearsal.took(record, there);
        }
    }

    fn report(&mut self, rehearsal: Rehearsal) {
        let Rehearsal { service, pools, drill, reply, meter, .. } = rehearsal;
        let (now, table) = (self.effects.now(), self.current.load());
        let index = table.service_index(&service);
        if let Some(index) = index {
            let watch = &mut self.memory.services[index];
            watch.rehearsal = None;
            // Where it could not go back, the service returns as after any other move.
            if watch.failover.cause == Cause::Drill {
                watch.failover.stands = rehearsal.stood;
            }
        }
        let pool = index.and_then(|index| {
            let service = &table.services[index];
            service.pools.get(service.pool_index(&pools.1)?)
        });
        let clock = both_clocks(now);
        let evidence = pool.map(|pool| self.keeping.ledger.proof(pool, clock));
        let cost = index.map(|index| meter.cost(&table, index, now, rehearsal.in_flight));
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let report = DrillReport {
            service: service.to_string(),
            from: pools.0.to_string(),
            to: pools.1.to_string(),
            kind: drill.order.kind,
            passed: drill.aborted.is_none() && drill.proof.is_some(),
            aborted: drill.aborted,
            began: rehearsal.began,
            ended: wall(),
            proof_micros: drill.proof.map_or(0, micros),
            switch_micros: rehearsal.switch.map(micros),
            target: drill.target,
            serving: drill.serving,
            evidence: evidence.unwrap_or_default(),
            records: rehearsal.records,
            cost: cost.unwrap_or_default(),
        };
        super::log::drill(&report);
        // Whoever asked may have gone; the drill is over all the same.
        let _ = reply.send(Ok(report));
    }
}

impl Rehearsal {
    /// What is to be remembered if the process ends now: nobody will go on with the drill then.
    pub(super) fn ended(&self, table: &Table, failovers: &mut [failover::State]) {
        let state = table.service_index(&self.service).and_then(|index| failovers.get_mut(index));
        if let Some(state) = state.filter(|state| state.cause == Cause::Drill) {
            state.stands = self.stood;
        }
    }

    fn took(&mut self, record: &Record, there: bool) {
        self.records.push(record.id.clone());
        if there {
            self.in_flight = record.cost.in_flight;
            self.switch = Some(record.times.published.since(record.times.decided));
        }
    }
}
