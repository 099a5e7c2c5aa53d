//! ● What becomes of long-lived sessions, endpoint by endpoint, when one table follows another.
//!
//! A verdict closes no session: an endpoint that was declared down may still be talking to its
//! client. A move of the service does, and so do an order `off` and the end of the configuration.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Sessions;
use crate::failover::Cause;
use crate::table::counters::SessionEnd;
use crate::table::{EndpointId, Mode, Pool, Service, Table};

/// A random moment between `after` and `after + spread`, both from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub after: Duration,
    pub spread: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    pub why: SessionEnd,
    /// For what can be told: a WebSocket gets a Close frame.
    pub tunnels: Window,
    /// For TCP connections, which cannot be told but can be reset; `None`: they are left alone.
    pub passing: Option<Window>,
    /// For answers under way, which can only be cut; `None`: they are left alone.
    pub downloads: Option<Window>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Whatever was decided before: the service came back.
    Stays,
    Closes(Closing),
}

/// Endpoints whose sessions are concerned; those of all others go on as before.
pub type Fates = HashMap<EndpointId, Fate>;

impl Window {
    const AT_ONCE: Self = Self { after: Duration::ZERO, spread: Duration::ZERO };
}

impl Closing {
    /// After a move that nothing forced, and when something is taken out of the configuration.
    fn planned(why: SessionEnd, sessions: Sessions) -> Self {
        let window = Window { after: sessions.close_after, spread: sessions.spread };
        Self { why, tunnels: window, passing: Some(window), downloads: Some(window) }
    }

    /// The pool is lost: what hangs on it is told soon, but an answer that still flows is left as
    /// long as after any other move.
    fn forced(sessions: Sessions) -> Self {
        let tunnels = Window { after: Duration::ZERO, spread: sessions.spread };
        Self { tunnels, passing: Some(tunnels), ..Self::planned(SessionEnd::Failover, sessions) }
    }

    const OFF: Self = Self {
        why: SessionEnd::Off,
        tunnels: Window::AT_ONCE,
        passing: Some(Window::AT_ONCE),
        downloads: Some(Window::AT_ONCE),
    };

    /// For a session that begins while the process stops.
    pub const TOO_LATE: Self =
        Self { why: SessionEnd::Drain, tunnels: Window::AT_ONCE, passing: None, downloads: None };
}

/// What the step from `before` to `now` means for the sessions at each endpoint of `before`.
pub fn fates(before: &Table, now: &Table) -> Fates {
    let mut fates = Fates::new();
    for (index, service) in before.services.iter().enumerate() {
        let at_index = now.services.get(index);
        if at_index.is_some_and(|now| Arc::ptr_eq(service, now)) {
            continue;
        }
        let now = match at_index {
            Some(now) if now.config.name == service.config.name => Some(now),
            _ => now.service(&service.config.name),
        };
        of_service(&mut fates, service, now.map(|now| &**now));
    }
    fates
}

/// Every endpoint's sessions, as if the endpoint were taken out of the configuration.
pub fn removed(table: &Table) -> Fates {
    of_all(table, |sessions| Closing::planned(SessionEnd::Removed, sessions))
}

/// Every endpoint's sessions where the process ends within `limit`: told in time to be heard. What
/// cannot be told has as long as there is.
pub fn drained(table: &Table, limit: Duration) -> Fates {
    of_all(table, |sessions| {
        let spread = sessions.spread.min(limit / 2);
        let tunnels = Window { after: Duration::ZERO, spread };
        let passing = Some(Window { after: limit - spread, spread });
        Closing { why: SessionEnd::Drain, tunnels, passing, downloads: None }
    })
}

fn of_all(table: &Table, closing: impl Fn(Sessions) -> Closing) -> Fates {
    let services = table.services.iter();
    services
        .flat_map(|service| {
            let fate = Fate::Closes(closing(service.config.failover.sessions));
            let endpoints = service.pools.iter().flat_map(|pool| pool.endpoints.iter());
            endpoints.map(move |endpoint| (endpoint.id, fate))
        })
        .collect()
}

fn of_service(fates: &mut Fates, before: &Service, now: Option<&Service>) {
    let sessions = before.config.failover.sessions;
    for pool in &before.pools {
        let later = now.and_then(|now| {
            let same = |other: &&Arc<Pool>| other.config.name == pool.config.name;
            now.pools.iter().find(same).map(|pool| (now, &**pool))
        });
        let of_pool = later.and_then(|(now, later)| of_pool(before, now, later));
        for (endpoint, mode) in pool.endpoints.iter().zip(&pool.modes) {
            let fate = match later.and_then(|(_, later)| mode_of(later, endpoint.id)) {
                None => Some(Fate::Closes(Closing::planned(SessionEnd::Removed, sessions))),
                Some(Mode::Off) if *mode != Mode::Off => Some(Fate::Closes(Closing::OFF)),
                Some(_) => of_pool,
            };
            if let Some(fate) = fate {
                fates.insert(endpoint.id, fate);
            }
        }
    }
}

fn mode_of(pool: &Pool, id: EndpointId) -> Option<Mode> {
    let place = pool.endpoints.iter().position(|endpoint| endpoint.id == id)?;
    Some(pool.modes.get(place).copied().unwrap_or_default())
}

/// What a move, or the end of a share, means for one pool; `later`: the pool as it is now.
fn of_pool(before: &Service, now: &Service, later: &Pool) -> Option<Fate> {
    let name = &*later.config.name;
    let sessions = now.config.failover.sessions;
    let (served, serves) = (name_of(before, before.serving), name_of(now, now.serving));
    let shared = |service: &Service| {
        service.share.is_some_and(|share| name_of(service, share.pool) == Some(name))
    };
    let moved = served != serves;
    if moved && serves == Some(name) || !shared(before) && shared(now) {
        return Some(Fate::Stays);
    }
    let left = moved && served == Some(name);
    let share_ended = shared(before) && !shared(now) && serves != Some(name);
    let forced = if left { now.cause == Cause::Health } else { !later.available };
    (left || share_ended).then_some(Fate::Closes(match forced {
        true => Closing::forced(sessions),
        false => Closing::planned(SessionEnd::Planned, sessions),
    }))
}

fn name_of(service: &Service, pool: usize) -> Option<&str> {
    service.pools.get(pool).map(|pool| &*pool.config.name)
}

/// What a client is told in a Close frame.
pub fn words(why: SessionEnd) -> &'static str {
    match why {
        SessionEnd::Failover => "the service moved to another pool",
        SessionEnd::Planned => "the service moved to another pool as planned",
        SessionEnd::Off => "the endpoint was switched off",
        SessionEnd::Removed => "the endpoint is no longer configured",
        SessionEnd::Drain => "the proxy stops",
        SessionEnd::Peer | SessionEnd::Endpoint | SessionEnd::Timeout => "the endpoint is gone",
    }
}

#[cfg(test)]
#[path = "fate_tests.rs"]
mod tests;
