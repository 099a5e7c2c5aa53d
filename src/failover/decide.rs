//! ● Which pool should serve, for one moment.

use std::time::Duration;

use super::{Cause, PoolView, Settings, State};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The serving pool goes on serving.
    Stay,
    /// Another pool should serve.
    Move { to: usize, cause: Cause },
    /// The serving pool is lost and no other is available: it goes on, and it is said so.
    NoneAvailable,
}

/// Which pool should serve now.
///
/// 1. A lost serving pool is left at once for the first available one.
/// 2. Otherwise it stays, unless a pool of higher priority has been available without a break for
///    `failback_after`. After an operator's move nothing fails back: what a person ordered stands
///    until health forces a move.
///
/// Pools that are not heard of yet are neither left nor moved to.
pub fn decide(state: &State, views: &[PoolView], settings: Settings, now: Duration) -> Decision {
    if views.get(state.serving).is_some_and(PoolView::lost) {
        return match views.iter().position(PoolView::available) {
            Some(to) => Decision::Move { to, cause: Cause::Health },
            None => Decision::NoneAvailable,
        };
    }
    match failbacks(state, settings).find(|(_, due)| *due <= now) {
        Some((to, _)) => Decision::Move { to, cause: Cause::Failback },
        None => Decision::Stay,
    }
}

/// Pools a service may return to, by priority, with the time each is due if it stays available.
pub(super) fn failbacks(
    state: &State,
    settings: Settings,
) -> impl Iterator<Item = (usize, Duration)> {
    let after = settings.failback_after.filter(|_| state.cause != Cause::Manual);
    let higher = state.available_since.iter().take(state.serving).enumerate();
    higher.filter_map(move |(pool, since)| Some((pool, since.as_ref()?.saturating_add(after?))))
}
