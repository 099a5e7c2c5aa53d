//! ○ A connection to one endpoint for one request, and the request's place in its count.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::connect::{self, ConnectError, Dial};
use super::idle::Connection;
use super::outbound::Outbound;
use crate::clock;
use crate::config::Scheme;
use crate::current::Snapshot;
use crate::table::{Endpoint, Pool, Service};

/// An endpoint picked from a table, which it keeps alive.
#[derive(Debug, Clone)]
pub struct Chosen {
    pub table: Snapshot,
    pub service: usize,
    pub pool: usize,
    pub endpoint: usize,
}

/// Counts one request in flight at an endpoint until it is dropped.
#[derive(Debug)]
pub struct InFlight(Chosen);

#[derive(Debug)]
pub struct Lease {
    pub connection: Connection,
    /// It served a request before.
    pub reused: bool,
    pub(super) in_flight: InFlight,
}

impl Chosen {
    pub fn service(&self) -> &Service {
        &self.table.services[self.service]
    }

    pub fn pool(&self) -> &Pool {
        &self.service().pools[self.pool]
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.pool().endpoints[self.endpoint]
    }

    pub fn enter(self) -> InFlight {
        self.endpoint().enter();
        InFlight(self)
    }
}

impl InFlight {
    pub fn chosen(&self) -> &Chosen {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.endpoint().leave();
    }
}

/// Counts one connection of a client at an endpoint until it is dropped, and keeps no table alive.
#[derive(Debug)]
pub struct Occupied(Arc<Endpoint>);

impl Occupied {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Lease {
    /// The connection for as long as its client wants it.
    pub fn occupy(self) -> (Connection, Occupied) {
        let chosen = self.chosen();
        let endpoint = Arc::clone(&chosen.pool().endpoints[chosen.endpoint]);
        endpoint.enter();
        (self.connection, Occupied(endpoint))
    }

    pub fn chosen(&self) -> &Chosen {
        &self.in_flight.0
    }

    /// Hands the connection to who waits for one, or keeps it for the next request: for
    /// `keep_alive` seconds less one if the endpoint said so (it counts from an earlier moment than
    /// we do). `now_millis`: since the origin.
    pub fn give_back(self, outbound: &Outbound, keep_alive: Option<u32>, now_millis: u64) {
        let chosen = &self.in_flight.0;
        let idle = chosen.service().config.timeouts.idle;
        let told = keep_alive.map(|seconds| Duration::from_secs(seconds.into()));
        // One second below what the endpoint keeps, so that it never closes under a request.
        let time = told.map_or(idle, |told| idle.min(told.saturating_sub(Duration::from_secs(1))));
        if time.is_zero() {
            return;
        }
        let id = chosen.endpoint().id;
        if let Some(connection) = outbound.lines.give(id, self.connection, true) {
            let expires = now_millis + time.as_millis() as u64;
            outbound.idle.borrow_mut().put(id, connection, now_millis, expires);
        }
    }
}

/// An idle connection if there is one that can be trusted with the request.
///
/// `must_be_alive`: the kernel is asked whether the endpoint has closed it meanwhile, which a
/// request that cannot be sent twice must know. `now_millis`: since the origin.
pub fn reuse(
    outbound: &Outbound,
    in_flight: InFlight,
    must_be_alive: bool,
    now_millis: u64,
) -> Result<Lease, InFlight> {
    let id = in_flight.chosen().endpoint().id;
    loop {
        let taken = outbound.idle.borrow_mut().take(id, now_millis);
        let Some(connection) = taken else {
            return Err(in_flight);
        };
        if !must_be_alive || !connection.stream.has_input_now() {
            return Ok(Lease { connection, reused: true, in_flight });
        }
    }
}

/// Opens a connection to `chosen` within the service's connect timeout, and counts it; sets
/// `reached` once its host has taken it. That it cannot be opened is counted, too; what it says of
/// the endpoint is for the caller to judge.
pub(super) async fn open(
    outbound: &Outbound,
    chosen: &Chosen,
    reached: &AtomicBool,
) -> Result<Connection, ConnectError> {
    let endpoint = chosen.endpoint();
    let settings = &chosen.pool().config.upstream.tls;
    let tls = match endpoint.config.scheme {
        Scheme::Http => None,
        Scheme::Https => Some((settings, endpoint.config.host.as_str())),
    };
    let descriptors = Some(&outbound.descriptors);
    let reached = Some(reached);
    let dial = Dial { address: endpoint.config.address, preamble: b"", tls, descriptors, reached };
    let timeout = chosen.service().config.timeouts.connect;
    let began = clock::now();
    let opened = connect::open(dial, &outbound.certificates, timeout).await;
    let cells = endpoint.counters.workers.of(outbound.worker);
    match &opened {
        Ok(_) => {
            cells.connects.increment();
            endpoint.live.connected(clock::now().saturating_sub(began));
        }
        // What we ourselves lack is nothing of the endpoint's.
        Err(error) if error.self_fault => {}
        Err(error) => cells.errors[error.reason as usize].increment(),
    }
    opened.map(|stream| Connection { stream, written: 0 })
}
