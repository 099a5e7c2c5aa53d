//! ● A service's state machine: who serves, since when, why.

use std::time::Duration;

/// What a service's machine sees of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolView {
    pub up: u32,
    pub unknown: u32,
    pub down: u32,
    /// Endpoints that must be up, at least 1.
    pub min_healthy: u32,
    /// The oldest failure among the endpoints in a run of failures now: the first evidence.
    pub first_failure: Option<Duration>,
}

/// Why the serving pool serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The first pool, at the start.
    Start,
    /// The pool before had fewer than `min_healthy` endpoints up.
    Health,
    /// A pool of higher priority was available for long enough.
    Failback,
    /// An operator's order.
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
    /// No pool is available.
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
