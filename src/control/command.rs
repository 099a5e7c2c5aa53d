//! ○ Carries out what an operator orders of a service.
//!
//! What he plans must not fail a request: before a pool takes over at his order its endpoints are
//! asked once more, and the order is refused if they do not answer. `force` asks nobody.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::failover::{Cause, Order, PoolView};
use crate::table::{EndpointId, Mode, Service, Table, TakenOut};

use super::log::Line;
use super::orders::{Answer, ModeOrder, SwitchOrder};
use super::settle::Ordered;
use super::{Control, Effects};

/// Orders that may wait for a proof at once.
const PLANNED_MOST: usize = 64;

/// An order that waits until the pool that is to take over has proved itself.
#[derive(Debug)]
pub(super) struct Planned {
    service: String,
    /// Index of the pool, and its name: a reload may come between.
    to: Arc<str>,
    order: What,
    /// Only what began after this proves anything.
    since: Duration,
    pub(super) until: Duration,
    reply: oneshot::Sender<Answer>,
}

#[derive(Debug, Clone)]
enum What {
    Switch(SwitchOrder),
    Mode(ModeOrder),
}

/// What became of an order at once.
enum Course {
    Done(Answer),
    /// It waits for a proof of this pool.
    Prove(usize),
}

impl<E: Effects> Control<E> {
    pub(super) fn switch(
        &mut self,
        service: String,
        order: SwitchOrder,
        reply: oneshot::Sender<Answer>,
    ) {
        self.order(service, What::Switch(order), reply);
    }

    pub(super) fn mode(
        &mut self,
        service: String,
        order: ModeOrder,
        reply: oneshot::Sender<Answer>,
    ) {
        self.order(service, What::Mode(order), reply);
    }

    pub(super) fn release(&mut self, service: &str, reason: &str) -> Answer {
        let table = self.current.load();
        let index = index_of(&table, service)?;
        if !self.memory.release(index) {
            return Ok(format!("{service} was not held; nothing changed"));
        }
        let said = "released: health and failback decide again".to_owned();
        self.obeyed(&table, index, said, Ordered { reason: reason.to_owned(), ..<_>::default() });
        let serving = self.memory.failover(index).serving;
        let serving = &table.services[index].config.pools[serving].name;
        Ok(format!("{service} is released; it is served by {serving}"))
    }

    fn order(&mut self, service: String, order: What, reply: oneshot::Sender<Answer>) {
        let course = self.attempt(&service, &order, false).unwrap_or_else(|e| Course::Done(Err(e)));
        let to = match course {
            Course::Done(answer) => {
                // The asker may have gone; the order is carried out all the same.
                let _ = reply.send(answer);
                return;
            }
            Course::Prove(to) => to,
        };
        if self.planned.len() >= PLANNED_MOST {
            let _ = reply.send(Err("too many orders wait already".to_owned()));
            return;
        }
        let table = self.current.load();
        let Ok(index) = index_of(&table, &service) else { return };
        let since = self.effects.now();
        let pool = &table.services[index].pools[to];
        let until = self.probes.ask_pool(pool, since);
        let to = Arc::clone(&pool.config.name);
        self.planned.push(Planned { service, to, order, since, until, reply });
    }

    /// Goes on with the orders whose pool has proved itself, and refuses those whose pool cannot.
    pub(super) fn check_planned(&mut self) {
        if self.planned.is_empty() {
            return;
        }
        let table = self.current.load();
        for planned in std::mem::take(&mut self.planned) {
            let answer = match self.proof(&table, &planned) {
                Ok(None) => {
                    self.planned.push(planned);
                    continue;
                }
                Ok(Some(())) => match self.attempt(&planned.service, &planned.order, true) {
                    Ok(Course::Done(answer)) => answer,
                    Ok(Course::Prove(_)) => Err("everything changed meanwhile".to_owned()),
                    Err(refusal) => Err(refusal),
                },
                Err(refusal) => Err(refusal),
            };
            // As above.
            let _ = planned.reply.send(answer);
        }
    }

    /// `None`: it may still come.
    fn proof(&mut self, table: &Table, planned: &Planned) -> Result<Option<()>, String> {
        let index = index_of(table, &planned.service)?;
        let service = &table.services[index];
        let to = pool_of(service, &planned.to)?;
        let view = self.memory.views(&service.config, index)[to];
        if view.proved_since(Some(planned.since)) {
            return Ok(Some(()));
        }
        let pool = &service.pools[to];
        let waiting = !self.reports.is_empty()
            || pool.endpoints.iter().any(|endpoint| self.probes.is_asked(endpoint.id));
        if waiting && self.effects.now() < planned.until {
            return Ok(None);
        }
        let answered = pool.endpoints.iter().filter(|endpoint| {
            self.memory.last_success(endpoint.id).is_some_and(|at| at > planned.since)
        });
        let Planned { to, .. } = planned;
        Err(format!(
            "{to} cannot take over: {} of {} endpoints answered a probe just now, needs {}",
            answered.count(),
            pool.endpoints.len(),
            view.min_healthy
        ))
    }

    fn attempt(&mut self, service: &str, order: &What, proved: bool) -> Result<Course, String> {
        let table = self.current.load();
        let index = index_of(&table, service)?;
        match order {
            What::Switch(order) => self.try_switch(&table, index, order, proved),
            What::Mode(order) => self.try_mode(&table, index, order, proved),
        }
    }

    fn try_switch(
        &mut self,
        table: &Table,
        index: usize,
        order: &SwitchOrder,
        proved: bool,
    ) -> Result<Course, String> {
        let known = &table.services[index];
        let SwitchOrder { to, reason, hold, force } = order;
        let pool = pool_of(known, to)?;
        let service = &known.config.name;
        let (now, config) = (self.effects.now(), &table.config);
        let order = Order { to: pool, hold: *hold, force: *force, cause: Cause::Manual };
        let refused = |refusal| format!("{service} is not moved to {to}: {refusal}");
        let moves = self.memory.switch(config, index, order, now, false).map_err(refused)?;
        if moves.is_some() && !force && !proved {
            return Ok(Course::Prove(pool));
        }
        let moved = self.memory.switch(config, index, order, now, true).map_err(refused)?;
        let held = self.memory.failover(index).held;
        let there = match (held, hold) {
            (true, true) => ", and held there".to_owned(),
            (true, false) => {
                let why = self.memory.views(&known.config, index)[pool].shortage();
                format!(", and held there until it is released: {to} is not available, {why}")
            }
            (false, _) => String::new(),
        };
        let (did, said) = match &moved {
            Some(moved) => {
                let from = &known.config.pools[moved.from].name;
                (format!("moved to {to}"), format!("{service} moved from {from} to {to}{there}"))
            }
            None => {
                (format!("stays on {to}"), format!("{service} is served by {to} already{there}"))
            }
        };
        let ordered = Ordered { reason: reason.clone(), moved, forced: *force, held };
        self.obeyed(table, index, did, ordered);
        Ok(Course::Done(Ok(said)))
    }

    fn try_mode(
        &mut self,
        table: &Table,
        index: usize,
        order: &ModeOrder,
        proved: bool,
    ) -> Result<Course, String> {
        let service = &table.services[index];
        let pool = pool_of(service, &order.pool)?;
        let mut endpoints = service.pools[pool].endpoints.iter();
        let ModeOrder { endpoint: name, mode, reason, force, .. } = order;
        let known = endpoints.find(|endpoint| *endpoint.config.name == **name);
        let id = known.ok_or_else(|| format!("{} has no endpoint {name}", order.pool))?.id;
        let means = said(*mode);
        if self.memory.mode(id) == *mode {
            return Ok(Course::Done(Ok(format!("{name} {means} already"))));
        }
        let taken_out = TakenOut { at: self.effects.now(), reason: reason.as_str().into() };
        let (before, after) = self.with_mode(service, index, id, (*mode, &taken_out));
        let state = self.memory.failover(index);
        let (was, becomes) = (&before[state.serving], &after[state.serving]);
        let loses = becomes.lost() && !was.lost();
        if !force {
            let target = after.iter().position(PoolView::available);
            let refused = |why: &str| {
                let (app, left) = (&service.config.name, becomes.shortage());
                let serving = &service.config.pools[state.serving].name;
                Err(format!("{app} would be left {why} ({serving}: {left})"))
            };
            if target.is_none() && before.iter().any(PoolView::available) {
                return refused("without an available pool");
            }
            if loses && state.held {
                return refused("held on a pool that is lost");
            }
            if let Some(target) = target.filter(|_| loses && !proved) {
                return Ok(Course::Prove(target));
            }
        }
        self.memory.set_mode(id, *mode, Some(taken_out));
        let ordered = Ordered { reason: reason.clone(), forced: *force, ..Ordered::default() };
        self.obeyed(table, index, format!("{}/{name} {means}", order.pool), ordered);
        Ok(Course::Done(Ok(format!("{name} {means}"))))
    }

    /// The pools of a service as they are, and as they would be.
    fn with_mode(
        &mut self,
        service: &Service,
        index: usize,
        id: EndpointId,
        (mode, taken_out): (Mode, &TakenOut),
    ) -> (Vec<PoolView>, Vec<PoolView>) {
        let before = self.memory.views(&service.config, index);
        let (was, why) = self.memory.set_mode(id, mode, Some(taken_out.clone()));
        let after = self.memory.views(&service.config, index);
        self.memory.set_mode(id, was, why);
        (before, after)
    }

    /// Publishes what an order changed, and what follows from it.
    fn obeyed(&mut self, table: &Table, index: usize, did: String, ordered: Ordered) {
        let service = Arc::clone(&table.services[index].config.name);
        let (reason, forced, held) = (ordered.reason.clone(), ordered.forced, ordered.held);
        let line = Line::Ordered { service, did, reason, forced, held };
        self.publish_order(index, Some(ordered), vec![line], self.effects.now());
    }
}

fn said(mode: Mode) -> &'static str {
    match mode {
        Mode::Active => "is active",
        Mode::Drain => "drains",
        Mode::Off => "is off",
    }
}

pub(super) fn index_of(table: &Table, service: &str) -> Result<usize, String> {
    table.service_index(service).ok_or_else(|| format!("there is no service {service}"))
}

fn pool_of(service: &Service, pool: &str) -> Result<usize, String> {
    let found = service.pool_index(pool);
    found.ok_or_else(|| format!("{} has no pool {pool}", service.config.name))
}
