//! ○ A client's connection that is passed on as it is, with `mode: tcp` or `tls-passthrough`.
//!
//! As long as no byte of it has reached an endpoint it is like a request that was not sent: an
//! endpoint that refuses, stays silent, or breaks the connection before a word was said costs its
//! client nothing but time. A ClientHello may go to another endpoint even after it was sent, while
//! the first has not answered a byte: it commits to nothing, each endpoint makes its own keys from
//! it, and whoever has kept a copy can only finish the one handshake whose answer its client saw.
//! The exception is one that is followed by early data, which could be processed twice.
//!
//! Where nobody takes a connection it is reset, so that its client knows at once. Whatever is cut
//! off later is reset as well: an orderly end would make half of a transfer look like the whole.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::arrival::{self, Arrival};
use super::caller::Caller;
use super::deadline::Ticket;
use super::exchange::{self, Call, Ended, Step};
use super::http1::{listener_logs, reset_on_close};
use super::local::{Local, Snapshot};
use super::opening::{First, Opening};
use super::passthrough::{self, Silent};
use super::pump::Upload;
use super::record::Way;
use super::relay::{Ends, Relay, keep_alive};
use super::sessions::{self, Kind};
use super::{evidence, hold, respond};
use crate::clock;
use crate::config::ListenerMode;
use crate::http1::Method;
use crate::observe::access_log;
use crate::stream::{Left, Stream};
use crate::table::counters::{Passed, Rejection, SessionEnd};
use crate::table::{Endpoint, Listener, ListenerId, Target};
use crate::tls::hello::Hello;
use crate::upstream::lease::Lease;

/// The client's side of a connection.
pub(super) struct Guest {
    pub(super) stream: Stream,
    pub(super) relay: Relay<()>,
    /// Bytes of the ClientHello at the start of what it sent; 0 where nobody looked for one.
    pub(super) hello: usize,
    /// Bytes of the ClientHello that the endpoint of the moment was sent.
    pub(super) hello_sent: usize,
    /// The host name it asks for.
    pub(super) server_name: Option<String>,
    pub(super) arrival: Arrival,
}

impl Caller for Guest {
    fn upload(&self) -> Upload {
        // What was sent stays in the buffer until an endpoint has said something.
        Upload { done: false, may_replay: true, wire_bytes: 0, waits_for_client: false }
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<Left> {
        self.stream.poll_left(cx)
    }
}

/// One connection at work, or waiting to be.
struct Passage {
    local: Rc<Local>,
    listener: Arc<Listener>,
    ticket: Ticket,
    guest: Guest,
    started: Duration,
    /// It ended in good order; whatever else drops it resets it.
    is_whole: bool,
}

/// Carries a client's connection from its first byte to its last. `open` is dropped at its end.
pub(super) async fn serve<G>(
    local: Rc<Local>,
    id: ListenerId,
    ticket: Ticket,
    stream: TcpStream,
    peer: SocketAddr,
    open: G,
) {
    let _open = open;
    let Some(arrival) = Box::pin(arrival::greet(&local, id, &stream, peer)).await else { return };
    let Some(listener) = local.table().listener(id).cloned() else { return };
    let guest = Guest {
        stream: Stream::Plain(stream),
        relay: Relay::default(),
        hello: 0,
        hello_sent: 0,
        server_name: None,
        arrival,
    };
    keep_alive(&guest.stream);
    let started = clock::now();
    let mut passage = Passage { local, listener, ticket, guest, started, is_whole: false };
    let Some((target, mut call)) = Box::pin(passage.route(id)).await else { return };
    // Boxed: the search for an endpoint is over before the first byte, and its state is large.
    let (lease, seat) = match Box::pin(passage.open(&mut call)).await {
        Ok(opened) => opened,
        Err(ended) => return passage.not_served(&target, &mut call, ended),
    };
    passage.count(&target, Passed::Served);
    passage.carry(call, lease, seat).await;
}

impl Passage {
    /// Where the connection is to go.
    async fn route(&mut self, id: ListenerId) -> Option<(Target, Call)> {
        let Self { local, listener, ticket, guest, .. } = self;
        let mut hello = None;
        if listener.config.mode == ListenerMode::TlsPassthrough {
            let limit = listener.config.limits.header_timeout;
            match passthrough::ask(local, ticket, guest, limit).await {
                Ok(asked) => hello = Some(asked),
                Err(silent) => {
                    self.no_hello(id, &silent);
                    return None;
                }
            }
        }
        // It may have been reloaded while the client took its time.
        let table = local.table();
        self.listener = Arc::clone(table.listener(id)?);
        let listener = &self.listener;
        let target = match &hello {
            None => listener.targets.first(),
            Some(hello) => listener.names.find(hello.server_name.as_deref(), &hello.alpn),
        };
        let Some(target) = target.cloned() else {
            self.no_route(id).await;
            return None;
        };
        // An endpoint that has read early data may have acted on it already.
        let harmless = hello.as_ref().is_some_and(|hello| !hello.early_data);
        let method = if harmless { Method::Get } else { Method::Other };
        self.guest.server_name = hello.and_then(|Hello { server_name, .. }| server_name);
        let mut call =
            Call::new(Snapshot::clone(&table), target.service as usize, method, self.started);
        // Only a new connection is this client's own.
        call.met_stale = true;
        Some((target, call))
    }

    fn no_hello(&mut self, id: ListenerId, silent: &Silent) {
        let tcp = self.guest.stream.tcp();
        match silent {
            Silent::Left => self.is_whole = true,
            Silent::Late => arrival::refuse(&self.local, id, tcp, Rejection::Timeout),
            Silent::Malformed(reason) => {
                tracing::debug!(listener = &*self.listener.config.name, reason, "no ClientHello");
                let bytes = self.guest.relay.up.buffer.bytes();
                let header = crate::listen::proxy_protocol::is_header(bytes);
                let screened = self.guest.arrival.is_screened && header;
                let why = if screened { Rejection::ProxyProtocol } else { Rejection::Tls };
                arrival::refuse(&self.local, id, tcp, why);
            }
        }
    }

    /// The client is told in its own protocol.
    async fn no_route(&mut self, id: ListenerId) {
        let no_route = |cells: &crate::table::counters::ListenerCells| {
            cells.rejected[Rejection::NoRoute as usize].increment();
        };
        super::worker::count(&self.local, id, no_route);
        if self.listener.config.mode == ListenerMode::TlsPassthrough {
            self.is_whole = true;
            // A few bytes always fit into the empty buffer of a new connection.
            let _ = self.guest.stream.write_all(passthrough::UNRECOGNIZED_NAME).await;
        }
    }

    /// Finds an endpoint that takes the connection, and hears or says the first byte.
    async fn open(&mut self, call: &mut Call) -> Result<(Lease, Seat), Ended> {
        let Self { local, ticket, guest, .. } = self;
        let local: &Local = local;
        exchange::earn_budget(local, call);
        ticket.limit(call.table.services[call.service].config.timeouts.total);
        loop {
            let mut lease = exchange::obtain(local, ticket, guest, call).await?;
            call.attempts += 1;
            call.last = Some(lease.chosen().clone());
            let began = call.rescued.map(|_| clock::now());
            if guest.hello == 0 {
                // To connect is all that can be asked of it.
                evidence::answered(local, call, &lease.chosen().clone(), clock::now());
            }
            keep_alive(&lease.connection.stream);
            sessions::begin(local, ticket, Kind::Passing, lease.chosen());
            let seat = Seat::take(local, &lease);
            let first = Opening::new(local, ticket, guest, &mut lease, call).run().await;
            let id = lease.chosen().endpoint().id;
            let (error, progress) = match first {
                First::Begun => {
                    if guest.hello > 0 {
                        evidence::answered(local, call, &lease.chosen().clone(), clock::now());
                    }
                    guest.relay.up.bytes += guest.hello_sent as u64;
                    exchange::count_rescue(local, call, &lease, began);
                    return Ok((lease, seat));
                }
                First::ClientGone => return Err(Ended::ClientGone),
                First::Forbidden => return Err(Ended::Refused(400, "PROXY header")),
                First::Over(loss) => {
                    return Err(exchange::unanswered(local, call, loss));
                }
                First::Failed { error, progress } => (Some(error), progress),
                First::Leave { progress } => (None, progress),
            };
            ticket.clear();
            drop((lease, seat));
            if let Some(error) = error {
                call.last_error = Some(error);
                if let Some(kind) = evidence::sighted(error) {
                    local.sight(id, kind);
                }
            }
            call.tried.add(id);
            (guest.hello_sent, guest.relay.up.at) = (0, 0);
            match exchange::decide(local, guest, call, progress) {
                Step::Resend => {}
                Step::Fail(loss) => return Err(exchange::unanswered(local, call, loss)),
                Step::Stuck => hold::wait(local, ticket, guest, call).await?,
            }
        }
    }

    /// Counts and logs a connection that no endpoint took; it is reset when it is dropped.
    fn not_served(&mut self, target: &Target, call: &mut Call, ended: Ended) {
        let passed = match ended {
            Ended::ClientGone => Passed::Left,
            Ended::Refused(..) => {
                let cells = self.listener.counters.workers.of(self.local.worker);
                cells.rejected[Rejection::ProxyProtocol as usize].increment();
                Passed::Refused
            }
            _ => Passed::Refused,
        };
        self.is_whole = passed == Passed::Left;
        self.count(target, passed);
        let forbidden = matches!(ended, Ended::Refused(..)).then_some("proxy_protocol");
        self.log(Way::of(call), forbidden.or_else(|| respond::reason(ended)));
    }

    fn count(&self, target: &Target, passed: Passed) {
        let cells = target.counters.workers.of(self.local.worker);
        cells.connections[passed as usize].increment();
    }

    /// Bytes both ways until it is over.
    async fn carry(mut self, call: Call, lease: Lease, seat: Seat) {
        let service = Arc::clone(&call.table.services[call.service].counters);
        let timeouts = &lease.chosen().service().config.timeouts;
        self.guest.relay.silence = timeouts.silence;
        self.guest.relay.half_closed = timeouts.idle;
        self.ticket.set(timeouts.silence.unwrap_or(exchange::UNTIL_TOTAL));
        let attempts = call.attempts;
        // Neither the table of the beginning nor the request's place in it are kept.
        drop(call);
        let (connection, occupied) = lease.occupy();
        let mut endpoint = connection.stream;
        let end = std::future::poll_fn(|cx| {
            let Self { local, ticket, listener, guest: Guest { stream, relay, .. }, .. } =
                &mut self;
            let mut ends =
                Ends { local, ticket, listener, client: stream, endpoint: &mut endpoint };
            relay.poll(cx, &mut ends)
        })
        .await;
        self.is_whole = self.guest.relay.is_whole();
        if !self.is_whole {
            reset_on_close(&endpoint);
        }
        self.guest.relay.count(&self.local, &self.listener);
        service.workers.of(self.local.worker).sessions_ended[end as usize].increment();
        let endpoint = Arc::clone(occupied.endpoint());
        drop((seat, occupied));
        let way = Way {
            service: Some(&endpoint.service),
            pool: Some(&endpoint.pool),
            endpoint: Some(&endpoint.config.name),
            attempts,
            first_byte: None,
        };
        let cut = !self.is_whole || end != SessionEnd::Peer;
        self.log(way, cut.then(|| SessionEnd::ALL[end as usize].1));
    }

    fn log(&self, way: Way<'_>, reason: Option<&'static str>) {
        if !listener_logs(&self.local) {
            return;
        }
        let entry = access_log::Passage {
            client: self.guest.arrival.peer,
            server_name: self.guest.server_name.as_deref(),
            listener: &self.listener.config.name,
            service: way.service,
            pool: way.pool,
            endpoint: way.endpoint,
            attempts: way.attempts,
            received_bytes: self.guest.relay.up.bytes,
            sent_bytes: self.guest.relay.down.bytes,
            duration: clock::now().saturating_sub(self.started),
            reason,
        };
        let draw = self.local.rng.borrow_mut().f64();
        if let Some(sink) = &mut *self.local.access_log.borrow_mut() {
            sink.write_passage(&entry, draw);
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if !self.is_whole {
            reset_on_close(&self.guest.stream);
        }
        self.guest.relay.release(&self.local.store);
    }
}

/// One of the sessions that an endpoint has open, until it is dropped.
struct Seat {
    endpoint: Arc<Endpoint>,
    worker: usize,
}

impl Seat {
    fn take(local: &Local, lease: &Lease) -> Self {
        let chosen = lease.chosen();
        let endpoint = Arc::clone(&chosen.pool().endpoints[chosen.endpoint]);
        let worker = local.worker;
        endpoint.counters.workers.of(worker).sessions.fetch_add(1, Ordering::Relaxed);
        Self { endpoint, worker }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let cells = self.endpoint.counters.workers.of(self.worker);
        cells.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}
