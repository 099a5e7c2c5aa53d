//! ○ A client's connection over HTTP/2 (RFC 9113): frames, flow control and HPACK are h2's, and
//! each stream is a task that takes its request through the same exchange as HTTP/1.1.
//!
//! h2 itself, not a server above it: a stream here is what an exchange asks of its client, bytes
//! when they are there and not before, a reset at any moment, interim answers. The endpoint's side
//! stays our own HTTP/1.1.

mod head;
mod incoming;
mod outgoing;
mod stream;
mod wire;

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection};
use h2::{Ping, PingPong, Reason};
use tokio::io::AsyncWrite;

use super::buffer::Buffer;
use super::deadline::{Fired, Ticket};
use super::exchange::Ended;
use super::local::Local;
use crate::config::{Limits, Protocols};
use crate::stream::Stream;
use crate::table::ListenerId;
use crate::table::counters::Rejection;
use crate::tls::{self, Served};
use wire::Wire;

/// What a client begins with (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a request's body that a client may send ahead, of one stream and of all: what an
/// endpoint does not read yet waits there.
const STREAM_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Bytes of an answer that h2 queues for a stream.
const SEND_BUFFER: usize = 64 << 10;

/// A client may cancel this many requests more than it lets us answer; cancelled work costs an
/// endpoint as much as any other (CVE-2023-44487).
const CANCELLED_MAX: u32 = 200;

/// Streams that were reset before they were read, and streams we had to reset for an error of the
/// client's (CVE-2025-8671): beyond these the connection ends. Among the latter are streams that
/// there was no place for, and a client may begin many before it has read how many it may.
const RESET_UNREAD_MAX: usize = 20;
const ERRORS_MAX: usize = 1000;

/// A connection without a stream is asked by PING once in `idle_timeout`, and ends after this many
/// times that: 5 min unless configured.
const IDLE_TIMES: u32 = 5;

/// A client that has nothing under way any more and was told so has this long to agree.
const GRACE: Duration = Duration::from_secs(1);

/// A connection whose protocol is not known yet.
#[derive(Clone, Copy)]
pub(super) struct Arrival<'a> {
    pub(super) local: &'a Local,
    pub(super) listener: ListenerId,
    pub(super) name: &'a str,
    pub(super) ticket: &'a Ticket,
    /// For what the client says first.
    pub(super) timeout: Duration,
}

/// What a client speaks, and what was read of it to find out.
pub(super) enum Met {
    Http1(Stream, Buffer),
    Http2(Stream, Buffer),
}

/// Finds out what a client speaks: by ALPN, else by its first bytes. None if it left or said
/// nothing in time.
pub(super) async fn meet(
    arrival: Arrival<'_>,
    protocols: Protocols,
    mut stream: Stream,
) -> Option<Met> {
    let agreed = match &stream {
        Stream::Tls(tls) => tls.get_ref().1.alpn_protocol().map(|name| name == tls::HTTP2),
        // With TLS, HTTP/2 is spoken only where both have agreed on it (RFC 9113 section 3.2).
        Stream::Plain(_) if protocols.http1 => {
            let mut begun = Buffer::default();
            let http2 = arrival.begins_http2(&mut stream, &mut begun).await?;
            return Some(if http2 { Met::Http2(stream, begun) } else { Met::Http1(stream, begun) });
        }
        Stream::Plain(_) => None,
    };
    let http2 = agreed.unwrap_or(!protocols.http1);
    let begun = Buffer::default();
    Some(if http2 { Met::Http2(stream, begun) } else { Met::Http1(stream, begun) })
}

impl Arrival<'_> {
    async fn begins_http2(&self, stream: &mut Stream, begun: &mut Buffer) -> Option<bool> {
        self.ticket.set(self.timeout);
        self.ticket.set_idle(true);
        let found = std::future::poll_fn(|cx| self.poll_begin(cx, stream, begun)).await;
        self.ticket.set_idle(false);
        self.ticket.clear();
        found
    }

    fn poll_begin(
        &self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        begun: &mut Buffer,
    ) -> Poll<Option<bool>> {
        while let Poll::Ready(fired) = self.ticket.poll(cx) {
            match fired {
                Fired::Deadline => {
                    self.local.count_rejection(self.listener, Rejection::Timeout);
                    return Poll::Ready(None);
                }
                // What has arrived is still answered: its client could not know that we stop.
                Fired::Leave if begun.is_empty() && !stream.has_input_now() => {
                    return Poll::Ready(None);
                }
                _ => {}
            }
        }
        loop {
            if begun.is_empty() {
                if ready!(stream.poll_readable(cx)).is_err() {
                    return Poll::Ready(None);
                }
                begun.ensure(&self.local.store);
                self.ticket.set_idle(false);
            }
            match ready!(begun.poll_fill(cx, stream)) {
                Ok(count) if count > 0 => {}
                _ => {
                    begun.release(&self.local.store);
                    return Poll::Ready(None);
                }
            }
            let bytes = begun.bytes();
            if bytes.len() >= PREFACE.len() || !PREFACE.starts_with(bytes) {
                return Poll::Ready(Some(bytes.starts_with(PREFACE)));
            }
        }
    }
}

/// What the streams of one connection share.
pub(super) struct Client {
    local: Rc<Local>,
    listener: ListenerId,
    peer: SocketAddr,
    https: bool,
    /// Whose requests may come over it; all without TLS.
    served: Option<Served>,
    /// Requests cancelled beyond those answered.
    cancelled: Cell<u32>,
}

/// A connection on its way to [`serve`].
pub(super) struct Opened {
    client: Rc<Client>,
    stream: Stream,
    begun: Buffer,
}

impl Client {
    pub(super) fn open(
        local: &Rc<Local>,
        (listener, name): (ListenerId, &str),
        (stream, begun): (Stream, Buffer),
        peer: SocketAddr,
    ) -> Opened {
        let sni = match &stream {
            Stream::Tls(tls) => match &**tls {
                tokio_rustls::TlsStream::Server(tls) => Some(tls.get_ref().1.server_name()),
                tokio_rustls::TlsStream::Client(_) => None,
            },
            Stream::Plain(_) => None,
        };
        let client = Self {
            local: Rc::clone(local),
            listener,
            peer,
            https: stream.is_tls(),
            served: sni.and_then(|sni| local.certificates.served(name, sni)),
            cancelled: Cell::new(0),
        };
        Opened { client: Rc::new(client), stream, begun }
    }

    /// The certificate shown is one for this host.
    fn serves(&self, host: &[u8]) -> bool {
        let host = str::from_utf8(host).unwrap_or_default();
        self.served.as_ref().is_none_or(|served| served.covers(host))
    }

    fn count_end(&self, ended: Ended) {
        let cancelled = self.cancelled.get();
        self.cancelled.set(match ended {
            Ended::ClientGone => cancelled.saturating_add(1),
            _ => cancelled.saturating_sub(1),
        });
    }
}

/// Serves a connection until either side ends it.
pub(super) async fn serve(opened: Opened, ticket: Ticket) {
    let Opened { client, mut stream, mut begun } = opened;
    let local = Rc::clone(&client.local);
    let table = local.table();
    let Some(listener) = table.listener(client.listener) else { return };
    let (limits, counters) = (listener.config.limits.clone(), Arc::clone(&listener.counters));
    drop(table);
    let wire = Wire { stream: &mut stream, begun: begun.bytes(), counters, worker: local.worker };
    converse(Rc::clone(&client), &ticket, wire, &limits).await;
    begun.release(&local.store);
    linger(&ticket, &mut stream).await;
}

async fn converse(client: Rc<Client>, ticket: &Ticket, wire: Wire<'_>, limits: &Limits) {
    ticket.set(limits.header_timeout);
    let builder = settings(limits);
    let mut handshake = std::pin::pin!(builder.handshake(wire));
    let opened = std::future::poll_fn(|cx| {
        while let Poll::Ready(fired) = ticket.poll(cx) {
            if fired == Fired::Deadline {
                client.local.count_rejection(client.listener, Rejection::Timeout);
                return Poll::Ready(None);
            }
        }
        handshake.as_mut().poll(cx).map(Result::ok)
    });
    let Some(mut h2) = opened.await else { return };
    let pings = h2.ping_pong();
    let mut connection = Talk {
        client,
        ticket,
        h2,
        pings,
        asked: false,
        idle_timeout: limits.idle_timeout,
        idle: None,
        leaving: false,
    };
    std::future::poll_fn(|cx| connection.poll(cx)).await;
}

fn settings(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(limits.max_header_size)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESET_UNREAD_MAX)
        .max_local_error_reset_streams(Some(ERRORS_MAX));
    builder
}

/// A connection once both sides have said their preface.
struct Talk<'a> {
    client: Rc<Client>,
    ticket: &'a Ticket,
    h2: Connection<Wire<'a>, Bytes>,
    pings: Option<PingPong>,
    /// A PING is not answered yet.
    asked: bool,
    idle_timeout: Duration,
    /// While no stream is open: how often that was too long already.
    idle: Option<u32>,
    /// GOAWAY was said.
    leaving: bool,
}

impl Talk<'_> {
    /// Ready once the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(fired) = self.ticket.poll(cx) {
            match fired {
                Fired::Leave => self.leave(),
                Fired::Deadline if self.is_over() => return Poll::Ready(()),
                _ => {}
            }
        }
        loop {
            if self.client.cancelled.get() > CANCELLED_MAX {
                self.h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let client = Rc::clone(&self.client);
                    tokio::task::spawn_local(stream::serve(client, request, respond));
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(peer = %self.client.peer, %error, "HTTP/2 connection failed");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        if let Some(pings) = self.pings.as_mut().filter(|_| self.asked)
            && pings.poll_pong(cx).is_ready()
        {
            self.asked = false;
        }
        self.watch_idleness();
        Poll::Pending
    }

    /// A request that is under way takes as long as its exchange lets it.
    fn watch_idleness(&mut self) {
        match (self.h2.has_streams(), self.idle) {
            (true, _) => {
                self.idle = None;
                self.ticket.clear();
            }
            (false, None) => {
                self.idle = Some(0);
                self.ticket.set(if self.leaving { GRACE } else { self.idle_timeout });
            }
            (false, Some(_)) => {}
        }
        self.ticket.set_idle(!self.leaving);
    }

    /// Says that no new stream is taken: first with no number, and once the client has surely heard
    /// with that of the last one (RFC 9113 section 6.8). All of those are answered.
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.leaving, true) {
            self.h2.graceful_shutdown();
            self.ticket.set_idle(false);
            self.idle = None;
        }
    }

    /// Idle for too long: is it gone, or to be asked whether it is there, or to leave?
    fn is_over(&mut self) -> bool {
        let Some(times) = self.idle else { return false };
        if self.leaving || self.asked {
            return true;
        }
        self.idle = Some(times + 1);
        if times + 1 >= IDLE_TIMES {
            self.leave();
            return false;
        }
        if let Some(pings) = &mut self.pings {
            self.asked = pings.send_ping(Ping::opaque()).is_ok();
        }
        self.ticket.set(self.idle_timeout);
        false
    }
}

/// Says that nothing more will come, then reads and drops for a moment: a close with unread bytes
/// would reset the connection and take the last answers with it.
async fn linger(ticket: &Ticket, stream: &mut Stream) {
    ticket.clear();
    ticket.set(GRACE);
    let mut bytes = [0; 2048];
    let mut left = 256 * 1024_usize;
    std::future::poll_fn(|cx| {
        while let Poll::Ready(fired) = ticket.poll(cx) {
            if fired == Fired::Deadline {
                return Poll::Ready(());
            }
        }
        if Pin::new(&mut *stream).poll_shutdown(cx).is_pending() {
            return Poll::Pending;
        }
        loop {
            match ready!(stream.poll_read_some(cx, &mut bytes)) {
                Ok(count) if count > 0 && count <= left => left -= count,
                _ => return Poll::Ready(()),
            }
        }
    })
    .await;
}
