//! ○ A connection to one endpoint for one request, and the request's place in its count.

use std::time::Duration;

use super::connect::{self, ConnectError, Dial};
use super::idle::Connection;
use crate::clock;
use crate::config::Scheme;
use crate::proxy::local::{Local, Snapshot};
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
    in_flight: InFlight,
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

impl Lease {
    pub fn chosen(&self) -> &Chosen {
        &self.in_flight.0
    }

    /// Keeps the connection for the next request, for `keep_alive` seconds less one if the endpoint
    /// said so (it counts from an earlier moment than we do).
    pub fn give_back(self, local: &Local, keep_alive: Option<u32>) {
        let chosen = &self.in_flight.0;
        let idle = chosen.service().config.timeouts.idle;
        let told = keep_alive.map(|seconds| Duration::from_secs(seconds.into()));
        // One second below what the endpoint keeps, so that it never closes under a request.
        let time = told.map_or(idle, |told| idle.min(told.saturating_sub(Duration::from_secs(1))));
        if time.is_zero() {
            return;
        }
        let endpoint = chosen.endpoint();
        let expires = local.registry.now_millis() + time.as_millis() as u64;
        local.idle.borrow_mut().put(endpoint.id, self.connection, expires);
    }
}

/// An idle connection if there is one that can be trusted with the request.
///
/// `must_be_alive`: the kernel is asked whether the endpoint has closed it meanwhile, which a
/// request that cannot be sent twice must know.
pub fn reuse(local: &Local, in_flight: InFlight, must_be_alive: bool) -> Result<Lease, InFlight> {
    let id = in_flight.chosen().endpoint().id;
    loop {
        let taken = local.idle.borrow_mut().take(id, local.registry.now_millis());
        let Some(connection) = taken else {
            return Err(in_flight);
        };
        if !must_be_alive || !connection.stream.has_input_now() {
            return Ok(Lease { connection, reused: true, in_flight });
        }
    }
}

/// A new connection, within the service's connect timeout.
pub async fn dial(local: &Local, in_flight: InFlight) -> Result<Lease, (InFlight, ConnectError)> {
    let chosen = in_flight.chosen();
    let endpoint = chosen.endpoint();
    let settings = &chosen.pool().config.upstream.tls;
    let tls = match endpoint.config.scheme {
        Scheme::Http => None,
        Scheme::Https => Some((settings, endpoint.config.host.as_str())),
    };
    let dial = Dial { address: endpoint.config.address, tls };
    let timeout = chosen.service().config.timeouts.connect;
    let began = clock::now();
    let opened = connect::open(dial, &local.certificates, timeout).await;
    let cells = endpoint.counters.workers.of(local.worker);
    match opened {
        Ok(stream) => {
            cells.connects.increment();
            endpoint.live.connected(clock::now().saturating_sub(began));
            let connection = Connection { stream, written: 0 };
            Ok(Lease { connection, reused: false, in_flight })
        }
        Err(error) => {
            cells.errors[error.reason as usize].increment();
            Err((in_flight, error))
        }
    }
}
