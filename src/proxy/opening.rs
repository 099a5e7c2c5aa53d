//! ○ The first words between a client and an endpoint it was connected to: as long as there are
//! none, or but a ClientHello that nobody answered, the client may go to another endpoint.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;

use super::deadline::{Fired, Ticket};
use super::elsewhere;
use super::exchange::{self, Call};
use super::local::Local;
use super::tcp::Guest;
use super::waiting::Place;
use crate::clock;
use crate::listen::proxy_protocol;
use crate::retry::Progress;
use crate::stream::Left;
use crate::table::counters::{Loss, SessionEnd, UpstreamError};
use crate::upstream::connect;
use crate::upstream::lease::{Chosen, Lease};

/// What came of it.
pub(super) enum First {
    /// One of them spoke, and was heard or is about to be.
    Begun,
    ClientGone,
    /// The client sent a PROXY header and must not.
    Forbidden,
    /// It is too late for any endpoint.
    Over(Loss),
    /// The endpoint failed.
    Failed {
        error: UpstreamError,
        progress: Progress,
    },
    /// It did not, but another one will have to do: the service moved, or it has ended the
    /// connection in good order.
    Leave {
        progress: Progress,
    },
}

pub(super) struct Opening<'a> {
    local: &'a Local,
    ticket: &'a Ticket,
    guest: &'a mut Guest,
    chosen: Chosen,
    lease: &'a mut Lease,
    call: &'a Call,
    /// The PROXY header, if the endpoint is to get one.
    preamble: Vec<u8>,
    preamble_sent: usize,
    began: Duration,
    /// Among those that wait for an answer, once the ClientHello is sent.
    place: Option<Place<'a>>,
}

impl<'a> Opening<'a> {
    pub(super) fn new(
        local: &'a Local,
        ticket: &'a Ticket,
        guest: &'a mut Guest,
        lease: &'a mut Lease,
        call: &'a Call,
    ) -> Self {
        let chosen = lease.chosen().clone();
        let preamble = preamble(guest, &chosen);
        let began = clock::now();
        let (preamble_sent, place) = (0, None);
        Self { local, ticket, guest, chosen, lease, call, preamble, preamble_sent, began, place }
    }

    pub(super) async fn run(mut self) -> First {
        let timeouts = &self.chosen.service().config.timeouts;
        let patience = match self.guest.hello {
            0 => timeouts.silence.unwrap_or(exchange::UNTIL_TOTAL),
            _ => timeouts.response_header,
        };
        self.ticket.wait_for(Some(self.chosen.endpoint().id));
        self.ticket.set(patience);
        let first = std::future::poll_fn(|cx| self.poll(cx)).await;
        self.ticket.wait_for(None);
        if let First::Failed { error, .. } = first {
            let cells = self.chosen.endpoint().counters.workers.of(self.local.worker);
            cells.errors[error as usize].increment();
            cells.failed_at(error, clock::now());
        }
        first
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<First> {
        let mut moves = false;
        while let Poll::Ready(fired) = self.ticket.poll(cx) {
            match fired {
                Fired::Deadline => return Poll::Ready(First::Over(Loss::Timeout)),
                Fired::SessionOver => return Poll::Ready(self.left()),
                Fired::EndpointDown => return Poll::Ready(self.failed(UpstreamError::Timeout)),
                Fired::EndpointRejected(reason) => return Poll::Ready(self.failed(reason)),
                Fired::EndpointSilent => {
                    moves |= elsewhere::may_be_tried(self.local, &self.chosen, self.call);
                }
                Fired::Leave | Fired::WaitsLong => {}
            }
        }
        while self.preamble_sent < self.preamble.len() {
            let stream = Pin::new(&mut self.lease.connection.stream);
            match ready!(stream.poll_write(cx, &self.preamble[self.preamble_sent..])) {
                Ok(count) if count > 0 => self.preamble_sent += count,
                _ => return Poll::Ready(self.failed(UpstreamError::Reset)),
            }
        }
        if let Poll::Ready(first) = self.poll_endpoint(cx) {
            return Poll::Ready(first);
        }
        if moves {
            return Poll::Ready(self.failed(UpstreamError::Timeout));
        }
        match self.guest.hello {
            0 => self.poll_words(cx),
            _ => self.poll_hello(cx),
        }
    }

    /// The endpoint is heard before the client: what was taken from a client cannot be given back.
    fn poll_endpoint(&mut self, cx: &mut Context<'_>) -> Poll<First> {
        let down = &mut self.guest.relay.down;
        let stream = &mut self.lease.connection.stream;
        let read = ready!(down.poll_read(cx, &self.local.store, stream));
        let ended = std::mem::take(&mut down.ended);
        Poll::Ready(match read {
            Ok(()) if !ended => {
                if let Some(place) = self.place.take() {
                    place.answered(clock::now());
                }
                First::Begun
            }
            Ok(()) => self.ended(),
            Err(error) => self.failed(connect::rejected(&error).unwrap_or(UpstreamError::Reset)),
        })
    }

    /// An endpoint that ends a connection without a word soon after it came has not taken it. Later
    /// it has tired of a silent client, who may as well know; unless others were just failed by it.
    fn ended(&mut self) -> First {
        let soon = self.chosen.service().config.timeouts.connect;
        let is_old = clock::now().saturating_sub(self.began) > soon;
        if self.guest.hello == 0 && is_old && self.chosen.endpoint().live.is_trusted() {
            self.guest.relay.down.ended = true;
            return First::Begun;
        }
        First::Leave { progress: self.progress() }
    }

    /// The session's time is over before it began.
    fn left(&self) -> First {
        match self.ticket.session().why() {
            SessionEnd::Drain => First::Over(Loss::Failover),
            _ => First::Leave { progress: self.progress() },
        }
    }

    fn failed(&self, error: UpstreamError) -> First {
        First::Failed { error, progress: self.progress() }
    }

    fn progress(&self) -> Progress {
        if self.guest.hello_sent > 0 { Progress::Sent } else { Progress::NotSent }
    }

    /// Sends the ClientHello, and waits: whatever the client says next belongs to this endpoint.
    fn poll_hello(&mut self, cx: &mut Context<'_>) -> Poll<First> {
        while self.guest.hello_sent < self.guest.hello {
            let (stream, up) = (&mut self.lease.connection.stream, &mut self.guest.relay.up);
            let bytes = &up.buffer.bytes()[self.guest.hello_sent..self.guest.hello];
            match ready!(Pin::new(stream).poll_write(cx, bytes)) {
                Ok(count) if count > 0 => {
                    self.guest.hello_sent += count;
                    up.at = self.guest.hello_sent;
                }
                _ => return Poll::Ready(self.failed(UpstreamError::Reset)),
            }
        }
        let up = &mut self.guest.relay.up;
        if self.place.is_none() {
            let endpoint = &self.chosen.pool().endpoints[self.chosen.endpoint];
            let stream = &self.lease.connection.stream;
            let place = self.local.waiting.enter(endpoint, self.ticket, stream, false);
            self.place = Some(place);
        }
        if up.buffer.len() > self.guest.hello {
            return Poll::Ready(First::Begun);
        }
        match self.guest.stream.poll_left(cx) {
            Poll::Ready(Left::Broken) => return Poll::Ready(First::ClientGone),
            Poll::Ready(Left::Ended) => return Poll::Ready(First::Begun),
            Poll::Pending => {}
        }
        self.guest.stream.poll_readable(cx).map(|_| First::Begun)
    }

    /// Sends the first bytes of a client that nobody looks into. They are sent once the kernel has
    /// taken some.
    fn poll_words(&mut self, cx: &mut Context<'_>) -> Poll<First> {
        let Guest { stream, relay, arrival, .. } = &mut *self.guest;
        let up = &mut relay.up;
        let screens = |bytes: &[u8]| arrival.is_screened && proxy_protocol::may_be_header(bytes);
        while up.buffer.is_empty() || screens(up.buffer.bytes()) {
            if arrival.is_screened && proxy_protocol::is_header(up.buffer.bytes()) {
                return Poll::Ready(First::Forbidden);
            }
            let read: Poll<io::Result<()>> = up.poll_read(cx, &self.local.store, stream);
            if ready!(read).is_err() {
                return Poll::Ready(First::ClientGone);
            }
            if up.ended {
                return Poll::Ready(First::Begun);
            }
        }
        match ready!(up.poll_write_once(cx, &mut self.lease.connection.stream)) {
            Ok(()) => Poll::Ready(First::Begun),
            Err(error) => {
                let error = connect::rejected(&error).unwrap_or(UpstreamError::Reset);
                Poll::Ready(self.failed(error))
            }
        }
    }
}

/// What the endpoint is told of the client, before anything else.
fn preamble(guest: &Guest, chosen: &Chosen) -> Vec<u8> {
    let mut bytes = Vec::new();
    let Some(version) = chosen.pool().config.upstream.proxy_protocol else { return bytes };
    let arrival = &guest.arrival;
    let destination = arrival.destination.or_else(|| guest.stream.tcp().local_addr().ok());
    let mut told = arrival.told.clone();
    if told.authority.is_none() {
        told.authority = guest.server_name.as_ref().map(|name| name.as_bytes().to_vec());
    }
    // A connection that has lost its own address is gone, and will be found to be.
    let destination = destination.unwrap_or(arrival.peer);
    proxy_protocol::write(&mut bytes, version, (arrival.peer, destination), &told);
    bytes
}
