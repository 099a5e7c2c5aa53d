//! ● A service's state machine: who serves, since when, why.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Failback;

use super::damping::Penalty;
use super::decide::{DAY, Decision, Trouble, decide, returns};
use super::ramp::Ramp;
use super::view::PoolView;

/// Why the serving pool serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The first pool, at the start.
    Start,
    /// The pool before had fewer than `min_healthy` endpoints up.
    Health,
    /// A pool of higher priority was available for long enough.
    Failback,
    /// An operator's order, to the service or to the endpoints of the pool before.
    Manual,
    /// The configuration no longer has the pool that served.
    Removed,
    /// A rehearsal.
    Drill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub failback: Failback,
}

/// What is remembered of one service. Pools are indexed by priority.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub serving: usize,
    pub since: Duration,
    pub cause: Cause,
    /// For each pool, since when it has been available without a break.
    pub available_since: Vec<Option<Duration>>,
    /// The serving pool is lost and no other is available.
    pub none_available: bool,
    /// The serving pool is lost and yet not left.
    pub trouble: Option<Trouble>,
    /// An operator's hold: nothing moves by itself.
    pub held: bool,
    /// An operator's order stands: nothing returns by itself until health forces a move.
    pub stands: bool,
    /// For each pool, what its failures count against a return to it.
    pub penalties: Vec<Penalty>,
    /// When the service returned to a pool of higher priority; those of the last day, oldest first.
    pub returns: Vec<Duration>,
    /// A return by degrees that is under way.
    pub ramp: Option<Ramp>,
}

/// The whole service moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub from: usize,
    pub to: usize,
    pub cause: Cause,
    /// When that began what led to it; equal to `decided` for moves without evidence.
    pub first_evidence: Duration,
    /// When the first failure was known: whoever takes over has proved himself since.
    pub first_failure: Duration,
    pub decided: Duration,
}

/// The outcome of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub state: State,
    pub moved: Option<Move>,
    /// How long until something is due (a return, its next share), if nothing happens before: then
    /// ask again.
    pub wake: Option<Duration>,
}

/// What an operator orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    pub to: usize,
    /// Stay there whatever happens, until released.
    pub hold: bool,
    /// Also if that is worse. A pool that is not available is then held as well, or health would
    /// leave it at once, against what was ordered.
    pub force: bool,
    /// [`Cause::Manual`] or [`Cause::Drill`].
    pub cause: Cause,
}

/// Why an operator's order is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NoSuchPool,
    NotAvailable(PoolView),
    /// A smaller part of it is up than of the pool that serves; endpoints up and in all.
    Worse {
        target: (u32, u32),
        serving: (u32, u32),
    },
}

impl Settings {
    pub(super) fn ramp(self) -> Duration {
        match self.failback {
            Failback::Auto { ramp, .. } => ramp,
            Failback::Manual => Duration::ZERO,
        }
    }
}

impl State {
    /// A service that starts: the first pool serves, and probes have yet to say how it is.
    pub fn start(pools: usize, now: Duration) -> Self {
        Self {
            serving: 0,
            since: now,
            cause: Cause::Start,
            available_since: vec![None; pools],
            none_available: false,
            trouble: None,
            held: false,
            stands: false,
            penalties: vec![Penalty::default(); pools],
            returns: Vec::new(),
            ramp: None,
        }
    }

    /// Looks at the pools and moves the service where [`decide`] says so. `views` are all pools of
    /// the service by priority, as at `now`; to be asked whenever one of them changed, at `wake`,
    /// and while [`State::is_anxious`] at every observation.
    pub fn step(&self, views: &[PoolView], settings: Settings, now: Duration) -> Step {
        let mut state = self.clone();
        state.note(views, now);
        if settings.failback == Failback::Manual {
            state.ramp = None;
        }
        let decision = decide(&state, views, settings, now);
        state.trouble = match decision {
            Decision::Stuck(trouble) => Some(trouble),
            _ => None,
        };
        state.none_available = state.trouble == Some(Trouble::NoneAvailable);
        let mut moved = None;
        match decision {
            Decision::Move { to, cause } => moved = Some(state.go(to, cause, views, now)),
            Decision::Return { to } => {
                let length = settings.ramp();
                state.ramp.get_or_insert(Ramp { to, began: now, length });
            }
            Decision::Stay if state.ramp.is_some() => state = state.broken_off(now),
            Decision::Stay => {}
            // The pool that was to return may be the one to move to, once it has proved itself.
            Decision::Stuck(_) => state.ramp = None,
        }
        let wake = state.next_look(settings, now).map(|at| at.saturating_sub(now));
        Step { state, moved, wake }
    }

    /// What is decided may hang on an observation that changes no verdict.
    pub fn is_anxious(&self) -> bool {
        matches!(self.trouble, Some(Trouble::Unproved { .. } | Trouble::Unsure))
    }

    /// The part of new requests that goes to another pool first: its index, and thousandths.
    pub fn share(&self, now: Duration) -> Option<(usize, u16)> {
        self.ramp.map(|ramp| (ramp.to, ramp.permille(now)))
    }

    /// Carries out an operator's order to move; no move if that pool serves already.
    ///
    /// # Errors
    /// The target is not available or worse than the pool that serves, and `force` was not given.
    pub fn switch(
        &self,
        order: Order,
        views: &[PoolView],
        now: Duration,
    ) -> Result<(Self, Option<Move>), Refusal> {
        let target = views.get(order.to).ok_or(Refusal::NoSuchPool)?;
        let mut state = self.clone();
        state.held = order.hold || (order.force && !target.available());
        state.stands = order.cause == Cause::Manual;
        state.ramp = None;
        if order.to == self.serving {
            return Ok((state, None));
        }
        if !order.force {
            refuse_worse(target, views.get(self.serving))?;
        }
        state.note(views, now);
        state.none_available = false;
        state.trouble = None;
        let moved = state.go(order.to, order.cause, views, now);
        state.stands = order.cause == Cause::Manual;
        Ok((state, Some(moved)))
    }

    /// Ends an operator's hold, and the standing of an order: from now on health and failback
    /// decide again.
    #[must_use]
    pub fn released(&self) -> Self {
        Self { held: false, stands: false, ..self.clone() }
    }

    /// Ends a return under way, which counts against the pool and begins its stability anew.
    #[must_use]
    pub fn broken_off(&self, now: Duration) -> Self {
        let mut state = self.clone();
        if let Some(ramp) = state.ramp.take() {
            if let Some(penalty) = state.penalties.get_mut(ramp.to) {
                *penalty = penalty.raised(now);
            }
            if let Some(since) = state.available_since.get_mut(ramp.to) {
                *since = since.map(|_| now);
            }
        }
        state
    }

    /// What becomes of the service when its configuration changed. `origins` names, for each of the
    /// new pools, its index before; `views` are the new pools.
    ///
    /// A change of configuration alone moves nothing, unless the serving pool is gone: then the
    /// first available pool serves, or the first if none is.
    pub fn carried(&self, origins: &[Option<usize>], views: &[PoolView], now: Duration) -> Self {
        let since = |origin: &Option<usize>| *self.available_since.get((*origin)?)?;
        let penalty = |origin: &Option<usize>| {
            origin.and_then(|origin| self.penalties.get(origin)).copied().unwrap_or_default()
        };
        let place = |pool: usize| origins.iter().position(|origin| *origin == Some(pool));
        let mut state = Self {
            available_since: origins.iter().map(since).collect(),
            penalties: origins.iter().map(penalty).collect(),
            ramp: self.ramp.and_then(|ramp| Some(Ramp { to: place(ramp.to)?, ..ramp })),
            ..self.clone()
        };
        match place(self.serving) {
            Some(serving) => state.serving = serving,
            None => {
                state.serving = views.iter().position(PoolView::available).unwrap_or(0);
                state.since = now;
                state.cause = Cause::Removed;
                (state.held, state.stands, state.ramp) = (false, false, None);
            }
        }
        // A return goes on only if it still leads upwards.
        state.ramp = state.ramp.filter(|ramp| ramp.to < state.serving);
        state.note(views, now);
        let lost = views.get(state.serving).is_some_and(PoolView::lost);
        state.none_available = lost && !views.iter().any(PoolView::available);
        state.trouble = state.none_available.then_some(Trouble::NoneAvailable);
        state
    }

    /// Remembers since when the pools have been available.
    fn note(&mut self, views: &[PoolView], now: Duration) {
        self.available_since.resize(views.len(), None);
        self.penalties.resize(views.len(), Penalty::default());
        for (since, view) in self.available_since.iter_mut().zip(views) {
            *since = view.available().then(|| since.unwrap_or(now));
        }
        self.returns.retain(|at| now.saturating_sub(*at) < DAY);
    }

    fn go(&mut self, to: usize, cause: Cause, views: &[PoolView], now: Duration) -> Move {
        let from = self.serving;
        let lost = views.get(from).filter(|_| cause == Cause::Health);
        let first_failure = lost.and_then(|view| view.first_failure).unwrap_or(now);
        let first_began = lost.and_then(|view| view.first_began).unwrap_or(now);
        let first_evidence = first_began.min(first_failure);
        match cause {
            Cause::Health => {
                if let Some(penalty) = self.penalties.get_mut(from) {
                    *penalty = penalty.raised(now);
                }
            }
            Cause::Failback => self.returns.push(now),
            Cause::Start | Cause::Manual | Cause::Removed | Cause::Drill => {}
        }
        self.serving = to;
        self.since = now;
        self.cause = cause;
        (self.stands, self.ramp) = (false, None);
        Move { from, to, cause, first_evidence, first_failure, decided: now }
    }

    fn next_look(&self, settings: Settings, now: Duration) -> Option<Duration> {
        if self.trouble.is_some() {
            return None;
        }
        match self.ramp {
            Some(ramp) => Some(ramp.next(now)),
            None => returns(self, settings, now).map(|(_, due)| due).min(),
        }
    }
}

fn refuse_worse(target: &PoolView, serving: Option<&PoolView>) -> Result<(), Refusal> {
    if !target.available() {
        return Err(Refusal::NotAvailable(*target));
    }
    match serving {
        Some(serving) if serving.available() && target.share_up() < serving.share_up() => {
            let count = |view: &PoolView| (view.up, view.total() + view.off);
            Err(Refusal::Worse { target: count(target), serving: count(serving) })
        }
        _ => Ok(()),
    }
}

impl Cause {
    pub fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Health => "health",
            Self::Failback => "failback",
            Self::Manual => "manual",
            Self::Removed => "removed",
            Self::Drill => "drill",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchPool => f.write_str("the service has no such pool"),
            Self::NotAvailable(view) => write!(f, "the pool is not available: {}", view.shortage()),
            Self::Worse { target, serving } => write!(
                f,
                "that would be worse: {} of {} endpoints up there, {} of {} where it is",
                target.0, target.1, serving.0, serving.1
            ),
        }
    }
}

#[cfg(test)]
mod tests;
