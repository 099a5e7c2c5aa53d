//! ● A service's state machine: who serves, since when, why.

use std::fmt;
use std::time::Duration;

use super::decide::{Decision, decide, failbacks};
use super::view::PoolView;

/// Why the serving pool serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The first pool, at the start.
    Start,
    /// The pool before had fewer than `min_healthy` endpoints up.
    Health,
    /// A pool of higher priority was available for long enough.
    Failback,
    /// An operator's order. It stands: nothing fails back until health has forced a move.
    Manual,
    /// The configuration no longer has the pool that served.
    Removed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// `None`: manual.
    pub failback_after: Option<Duration>,
}

/// What is remembered of one service. Pools are indexed by priority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub serving: usize,
    pub since: Duration,
    pub cause: Cause,
    /// For each pool, since when it has been available without a break.
    pub available_since: Vec<Option<Duration>>,
    /// The serving pool is lost and no other is available.
    pub none_available: bool,
}

/// The whole service moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub from: usize,
    pub to: usize,
    pub cause: Cause,
    /// The first failure that led to it; equal to `decided` for moves without one.
    pub first_evidence: Duration,
    pub decided: Duration,
}

/// The outcome of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub state: State,
    pub moved: Option<Move>,
    /// How long until a failback is due, if nothing happens before: then ask again.
    pub wake: Option<Duration>,
}

/// Why an operator's order is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NoSuchPool,
    NotAvailable(PoolView),
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
        }
    }

    /// Looks at the pools and moves the service where [`decide`] says so. `views` are all pools of
    /// the service by priority, as at `now`; to be asked whenever one of them changed, and at
    /// `wake`.
    pub fn step(&self, views: &[PoolView], settings: Settings, now: Duration) -> Step {
        let mut state = self.clone();
        state.note_availability(views, now);
        let decision = decide(&state, views, settings, now);
        state.none_available = decision == Decision::NoneAvailable;
        let moved = match decision {
            Decision::Move { to, cause } => Some(state.go(to, cause, views, now)),
            Decision::Stay | Decision::NoneAvailable => None,
        };
        let due = failbacks(&state, settings).map(|(_, due)| due).min();
        Step { state, moved, wake: due.map(|due| due.saturating_sub(now)) }
    }

    /// Carries out an operator's order to move to pool `to`; no move if it serves already.
    ///
    /// # Errors
    /// The target is not available: an order never moves a service to something worse.
    pub fn switch(
        &self,
        to: usize,
        views: &[PoolView],
        now: Duration,
    ) -> Result<(Self, Option<Move>), Refusal> {
        let target = views.get(to).ok_or(Refusal::NoSuchPool)?;
        if to == self.serving {
            return Ok((self.clone(), None));
        }
        if !target.available() {
            return Err(Refusal::NotAvailable(*target));
        }
        let mut state = self.clone();
        state.note_availability(views, now);
        state.none_available = false;
        let moved = state.go(to, Cause::Manual, views, now);
        Ok((state, Some(moved)))
    }

    /// What becomes of the service when its configuration changed. `origins` names, for each of the
    /// new pools, its index before; `views` are the new pools.
    ///
    /// A change of configuration alone moves nothing, unless the serving pool is gone: then the
    /// first available pool serves, or the first if none is.
    pub fn carried(&self, origins: &[Option<usize>], views: &[PoolView], now: Duration) -> Self {
        let since = |origin: &Option<usize>| *self.available_since.get((*origin)?)?;
        let available_since = origins.iter().map(since).collect();
        let serving = origins.iter().position(|origin| *origin == Some(self.serving));
        let mut state = Self { available_since, ..self.clone() };
        match serving {
            Some(serving) => state.serving = serving,
            None => {
                state.serving = views.iter().position(PoolView::available).unwrap_or(0);
                state.since = now;
                state.cause = Cause::Removed;
            }
        }
        state.note_availability(views, now);
        let lost = views.get(state.serving).is_some_and(PoolView::lost);
        state.none_available = lost && !views.iter().any(PoolView::available);
        state
    }

    fn note_availability(&mut self, views: &[PoolView], now: Duration) {
        self.available_since.resize(views.len(), None);
        for (since, view) in self.available_since.iter_mut().zip(views) {
            *since = view.available().then(|| since.unwrap_or(now));
        }
    }

    fn go(&mut self, to: usize, cause: Cause, views: &[PoolView], now: Duration) -> Move {
        let from = self.serving;
        let evidence = views.get(from).filter(|_| cause == Cause::Health);
        let first_evidence = evidence.and_then(|view| view.first_failure).unwrap_or(now);
        self.serving = to;
        self.since = now;
        self.cause = cause;
        Move { from, to, cause, first_evidence, decided: now }
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
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchPool => f.write_str("the service has no such pool"),
            Self::NotAvailable(view) => {
                let total = view.up + view.unknown + view.down;
                let PoolView { up, min_healthy, .. } = view;
                write!(
                    f,
                    "the pool is not available: {up} of {total} endpoints up, needs {min_healthy}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests;
