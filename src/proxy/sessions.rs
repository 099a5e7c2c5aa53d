//! ○ Long-lived sessions of a worker: which endpoint each hangs on, and when it has to go.
//!
//! A session is a mark on its connection's place in the [registry](super::deadline): no list of its
//! own, nothing to pay for a request that is over in a moment.

use std::cell::Cell;
use std::time::Duration;

use super::deadline::Ticket;
use super::fate::{self, Closing, Fate, Fates};
use super::local::Local;
use crate::clock;
use crate::table::counters::SessionEnd;
use crate::table::{EndpointId, Table};
use crate::upstream::lease::Chosen;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes both ways until one side ends: a WebSocket.
    Tunnel,
    /// Bytes both ways that mean nothing to us: a TCP connection.
    Passing,
    /// An answer under way.
    Download,
}

/// One connection's session, if it has one.
#[derive(Debug)]
pub struct Session {
    on: Cell<Option<(Kind, EndpointId)>>,
    /// Milliseconds since the origin.
    close_at: Cell<u64>,
    why: Cell<SessionEnd>,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            on: Cell::new(None),
            close_at: Cell::new(Self::NEVER),
            why: Cell::new(SessionEnd::Failover),
        }
    }
}

impl Session {
    pub const NEVER: u64 = u64::MAX;

    pub fn end(&self) {
        self.on.set(None);
        self.close_at.set(Self::NEVER);
    }

    pub fn endpoint(&self) -> Option<EndpointId> {
        Some(self.on.get()?.1)
    }

    /// [`Session::NEVER`] unless it has to go.
    pub fn close_at(&self) -> u64 {
        self.close_at.get()
    }

    /// True once, when its time has come.
    pub fn is_due(&self, now_millis: u64) -> bool {
        let due = self.close_at.get() <= now_millis;
        if due {
            self.close_at.set(Self::NEVER);
        }
        due
    }

    /// Why it was told to go.
    pub fn why(&self) -> SessionEnd {
        self.why.get()
    }

    /// Sets the time to go, or takes it back. `random` is a number of all 64 bits.
    pub fn meet(&self, fate: Fate, now_millis: u64, random: u64) {
        let Some((kind, _)) = self.on.get() else { return };
        let Fate::Closes(Closing { why, tunnels, passing, downloads }) = fate else {
            self.close_at.set(Self::NEVER);
            return;
        };
        let window = match kind {
            Kind::Tunnel => Some(tunnels),
            Kind::Passing => passing,
            Kind::Download => downloads,
        };
        let Some(window) = window else { return };
        let part = (u128::from(random) * window.spread.as_millis()) >> 64;
        let at = now_millis.saturating_add(window.after.as_millis() as u64 + part as u64);
        if at < self.close_at.get() {
            self.close_at.set(at);
            self.why.set(why);
        }
    }
}

/// Marks a connection as a session at the endpoint it talks to, until the ticket is cleared.
pub fn begin(local: &Local, ticket: &Ticket, kind: Kind, chosen: &Chosen) {
    let id = chosen.endpoint().id;
    ticket.session().on.set(Some((kind, id)));
    // It may have been on its way while the service moved, or since the process began to stop.
    let seen = local.seen();
    let fate = if local.draining.get() {
        Some(Fate::Closes(Closing::TOO_LATE))
    } else if chosen.table.version < seen.version {
        fate::fates(&chosen.table, &seen).get(&id).copied()
    } else {
        None
    };
    if let Some(fate) = fate {
        ticket.session().meet(fate, now_millis(), local.random());
        ticket.session_changed();
    }
}

/// A connection to this endpoint need not be kept: the service moved away from it, or the endpoint
/// was taken out, since it was picked.
pub fn is_left(local: &Local, chosen: &Chosen) -> bool {
    let now = local.table();
    chosen.table.version < now.version
        && matches!(
            fate::fates(&chosen.table, &now).get(&chosen.endpoint().id),
            Some(Fate::Closes(_))
        )
}

/// Tells all sessions what the step from `before` to `now` means for them.
pub fn follow(local: &Local, before: &Table, now: &Table, fates: &Fates) {
    let listens = |id| now.listener(id).is_some();
    let all_listen = before.listeners.iter().all(|listener| listens(listener.id));
    let removed = if all_listen { Fates::new() } else { fate::removed(before) };
    if fates.is_empty() && removed.is_empty() {
        return;
    }
    let millis = now_millis();
    local.registry.sessions(millis, |listener, session| {
        let Some(id) = session.endpoint() else { return };
        let of_listener = if listens(listener) { None } else { removed.get(&id) };
        for fate in fates.get(&id).into_iter().chain(of_listener) {
            session.meet(*fate, millis, local.random());
        }
    });
}

/// The process ends within `limit`: tunnels are told so.
pub fn drain(local: &Local, limit: Duration) {
    let fates = fate::drained(&local.table(), limit);
    let millis = now_millis();
    local.registry.sessions(millis, |_, session| {
        if let Some(fate) = session.endpoint().and_then(|id| fates.get(&id)) {
            session.meet(*fate, millis, local.random());
        }
    });
}

fn now_millis() -> u64 {
    clock::now().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::super::fate::Window;
    use super::*;

    const HOT: EndpointId = EndpointId { slot: 1, serial: 1 };

    fn closes(after: u64, spread: u64) -> Fate {
        let window = |after| Window {
            after: Duration::from_millis(after),
            spread: Duration::from_millis(spread),
        };
        Fate::Closes(Closing {
            why: SessionEnd::Planned,
            tunnels: window(after),
            passing: Some(window(after)),
            downloads: Some(window(after + 1_000)),
        })
    }

    fn session(kind: Kind) -> Session {
        let session = Session::default();
        session.on.set(Some((kind, HOT)));
        session
    }

    #[test]
    fn every_session_goes_at_its_own_time_within_the_window() {
        for (random, at) in [(0, 1_100), (u64::MAX / 2, 1_599), (u64::MAX, 2_099)] {
            let tunnel = session(Kind::Tunnel);
            tunnel.meet(closes(100, 1_000), 1_000, random);
            assert_eq!(tunnel.close_at(), at);
            assert!(!tunnel.is_due(at - 1) && tunnel.is_due(at) && !tunnel.is_due(at));
        }
        let download = session(Kind::Download);
        download.meet(closes(100, 0), 1_000, 7);
        assert_eq!((download.close_at(), download.why()), (2_100, SessionEnd::Planned));
    }

    #[test]
    fn a_service_that_comes_back_in_time_leaves_its_sessions_alone() {
        let tunnel = session(Kind::Tunnel);
        tunnel.meet(closes(100, 0), 1_000, 0);
        tunnel.meet(Fate::Stays, 1_050, 0);
        assert!(!tunnel.is_due(u64::MAX - 1));
    }

    #[test]
    fn a_second_reason_never_delays_the_first() {
        let tunnel = session(Kind::Tunnel);
        tunnel.meet(closes(100, 0), 1_000, 0);
        tunnel.meet(closes(500, 0), 1_000, 0);
        assert_eq!(tunnel.close_at(), 1_100);
        tunnel.meet(closes(0, 0), 1_050, 0);
        assert_eq!(tunnel.close_at(), 1_050);
    }

    #[test]
    fn a_connection_without_a_session_is_never_closed() {
        let none = Session::default();
        none.meet(closes(0, 0), 1_000, 0);
        assert!(!none.is_due(u64::MAX - 1));
    }
}
