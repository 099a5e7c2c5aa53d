//! ● Which pool should serve, for one moment.

use std::time::Duration;

use crate::config::Failback;

use super::{Cause, PoolView, Settings, State};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The serving pool goes on serving.
    Stay,
    /// Another pool should serve.
    Move { to: usize, cause: Cause },
    /// A pool of higher priority should get a growing share until it serves.
    Return { to: usize },
    /// The serving pool is lost and yet goes on: why.
    Stuck(Trouble),
}

/// Why a lost pool is not left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No other pool is available.
    NoneAvailable,
    /// An operator holds the service.
    Held,
    /// This pool counts as available, but has not succeeded since the evidence against the serving
    /// one began: it may be as dead, or it may be us who hear nothing.
    Unproved { to: usize },
    /// Those that could take over were silent as well: the serving one must fail anew since they
    /// are heard again before it is left, for it may have been us who heard nothing.
    Unsure,
}

/// Between two moves of which one is a return, at least this (or `stable_for`, if that is shorter).
pub const DWELL: Duration = Duration::from_secs(60);
/// Returns within [`DAY`] at the most.
pub const RETURNS_MOST: usize = 4;
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Which pool should serve now.
///
/// 1. A lost serving pool is left for the first available pool that proved itself since the
///    evidence began, unless an operator holds the service. Nothing delays this.
/// 2. Otherwise it stays, unless a pool of higher priority has been available without a break for
///    `stable_for`, and neither dwell, damping, the daily cap nor an operator's word keeps it.
///
/// Pools that are not heard of yet are neither left nor moved to.
pub fn decide(state: &State, views: &[PoolView], settings: Settings, now: Duration) -> Decision {
    if let Some(serving) = views.get(state.serving).filter(|view| view.lost()) {
        return leave(state, serving, views);
    }
    if let Some(ramp) = &state.ramp {
        let returning = views.get(ramp.to).is_some_and(PoolView::available);
        return match returning {
            true if ramp.is_over(now) => Decision::Move { to: ramp.to, cause: Cause::Failback },
            true => Decision::Return { to: ramp.to },
            false => Decision::Stay,
        };
    }
    match returns(state, settings, now).find(|(_, due)| *due <= now) {
        Some((to, _)) if settings.ramp().is_zero() => Decision::Move { to, cause: Cause::Failback },
        Some((to, _)) => Decision::Return { to },
        None => Decision::Stay,
    }
}

fn leave(state: &State, serving: &PoolView, views: &[PoolView]) -> Decision {
    let Some(first) = views.iter().position(PoolView::available) else {
        return Decision::Stuck(Trouble::NoneAvailable);
    };
    if state.held {
        return Decision::Stuck(Trouble::Held);
    }
    let proved = |view: &PoolView| view.available() && view.proved_since(serving.first_failure);
    match views.iter().position(|view| proved(view) && serving.is_deader_than(view)) {
        Some(to) => Decision::Move { to, cause: serving.cause_of_loss() },
        None if views.iter().any(proved) => Decision::Stuck(Trouble::Unsure),
        None => Decision::Stuck(Trouble::Unproved { to: first }),
    }
}

/// Pools a service may return to, by priority, with the time each is due if it stays available.
pub(super) fn returns(
    state: &State,
    settings: Settings,
    now: Duration,
) -> impl Iterator<Item = (usize, Duration)> {
    let stable_for = match settings.failback {
        Failback::Auto { stable_for, .. } if !state.held && !state.stands => Some(stable_for),
        Failback::Auto { .. } | Failback::Manual => None,
    };
    let higher = state.available_since.iter().take(state.serving).enumerate();
    higher.filter_map(move |(pool, since)| {
        let (since, stable_for) = ((*since)?, stable_for?);
        let stable = since.saturating_add(stable_for);
        let dwelt = state.since.saturating_add(stable_for.min(DWELL));
        let damped = state.penalties.get(pool).map_or(now, |penalty| penalty.reusable_at(now));
        // The oldest return that counts must be a day past before another one may follow.
        let over_cap = state.returns.len().checked_sub(RETURNS_MOST);
        let capped = over_cap.and_then(|index| state.returns.get(index));
        let capped = capped.map_or(Duration::ZERO, |at| at.saturating_add(DAY));
        // A pool that is not damped is due when it was stable, be that past or future.
        let damped = if damped > now { damped } else { Duration::ZERO };
        Some((pool, stable.max(dwelt).max(damped).max(capped)))
    })
}
