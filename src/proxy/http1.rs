//! ○ A client's connection over HTTP/1.1: reads heads, answers one request after the other.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::buffer::Buffer;
use super::deadline::{Fired, Ticket};
use super::exchange::{self, Call, Ended};
use super::local::{Local, Snapshot};
use super::record::{Line, Record, Way};
use super::respond::{self, Answer};
use super::resting::Resting;
use super::side::Side;
use super::upgrade::{Switch, Tunnel};
use crate::clock;
use crate::config::Limits;
use crate::http1::{self, Body, Method, RequestError, Response, Version};
use crate::stream::Stream;
use crate::table::counters::Rejection;
use crate::table::{Listener, ListenerId};

/// A client's connection while requests come, with all that they need.
pub struct Connection {
    pub(super) local: Rc<Local>,
    listener: ListenerId,
    pub(super) ticket: Ticket,
    pub(super) side: Side,
    response: Response,
    /// No request was answered on it yet.
    fresh: bool,
    /// The endpoint switched to a WebSocket.
    switch: Option<Box<Switch>>,
}

/// What becomes of a connection.
pub enum After {
    /// The client is silent.
    Rest(Resting),
    Tunnel(Box<Tunnel>),
    Over,
}

/// What became of waiting for a request.
pub(super) enum Head {
    Complete,
    Refused(RequestError),
    /// No request came, or not all of it in time.
    Late {
        begun: bool,
    },
    /// The client has been silent for a moment, and may be for long.
    Rest,
    Closed,
}

impl Connection {
    pub fn new(resting: Resting) -> Self {
        let Resting { local, listener, ticket, stream, peer, fresh } = resting;
        let (side, response) = Side::new(&local.store, listener, stream, peer);
        Self { local, listener, ticket, side, response, fresh, switch: None }
    }

    /// With what was read of its first request already.
    pub fn begun(resting: Resting, begun: Buffer) -> Self {
        let mut connection = Self::new(resting);
        connection.side.buffer = begun;
        connection
    }

    /// Serves until the client is silent, either side closes, or the connection becomes a tunnel.
    pub async fn serve(mut self) -> After {
        loop {
            let head = match self.bounds() {
                Some(bounds) => self.read_head(bounds).await,
                None => Head::Closed,
            };
            let goes_on = match head {
                Head::Complete => self.answer().await,
                Head::Rest => return After::Rest(self.rest()),
                Head::Refused(error) => {
                    self.refuse(Answer::request_error(error.status, error.reason)).await;
                    false
                }
                Head::Late { begun } => {
                    if begun || self.fresh {
                        self.local.count_rejection(self.listener, Rejection::Timeout);
                    }
                    if begun {
                        self.refuse(Answer::request_error(408, "request head too slow")).await;
                    }
                    false
                }
                Head::Closed => false,
            };
            if !goes_on {
                return self.end();
            }
            self.fresh = false;
            self.side.next_message(&self.local);
        }
    }

    fn bounds(&self) -> Option<Bounds> {
        let table = self.local.table();
        let limits = &table.listener(self.listener)?.config.limits;
        // The deadline of the first head runs since the connection was accepted.
        let idle = if self.fresh { limits.header_timeout } else { limits.idle_timeout };
        Some(Bounds::of(limits, idle))
    }

    /// Gives back what only requests need.
    fn rest(self) -> Resting {
        let Self { local, listener, ticket, side, response, fresh, .. } = self;
        let (stream, peer) = side.rest(&local.store, response);
        Resting { local, listener, ticket, stream, peer, fresh }
    }

    fn end(mut self) -> After {
        match self.switch.take() {
            Some(switch) => After::Tunnel(Box::new(Tunnel::new(self, *switch))),
            None => {
                self.side.buffer.release(&self.local.store);
                After::Over
            }
        }
    }

    /// Waits for a whole request head, holding no buffer while the client is silent.
    async fn read_head(&mut self, bounds: Bounds) -> Head {
        let Self { local, ticket, side, .. } = self;
        let mut begun = !side.buffer.is_empty();
        ticket.set(if begun { bounds.header_timeout } else { bounds.idle });
        ticket.set_idle(!begun);
        let head = std::future::poll_fn(|cx| {
            match ticket.poll(cx) {
                Poll::Ready(Fired::Deadline) => return Poll::Ready(Head::Late { begun }),
                // A request that has come meanwhile is still answered.
                Poll::Ready(Fired::Leave)
                    if !begun && !local.draining.get() && !side.stream.has_input_now() =>
                {
                    return Poll::Ready(Head::Closed);
                }
                _ => {}
            }
            loop {
                let step = side.poll_head(local, cx, &bounds.head);
                if step.is_pending() && !begun {
                    // What has arrived is still answered: its client could not know that we stop.
                    if local.draining.get() && !side.stream.has_input_now() {
                        return Poll::Ready(Head::Closed);
                    }
                    if !ticket.lingers() {
                        return Poll::Ready(Head::Rest);
                    }
                }
                match ready!(step) {
                    Ok(true) => return Poll::Ready(Head::Complete),
                    Ok(false) if !begun => {
                        begun = true;
                        ticket.set_idle(false);
                        ticket.set(bounds.header_timeout);
                    }
                    Ok(false) => {}
                    Err(head) => return Poll::Ready(head),
                }
            }
        })
        .await;
        ticket.set_idle(false);
        ticket.clear();
        head
    }

    /// Answers the request in the buffer. False when the connection ends with it.
    async fn answer(&mut self) -> bool {
        let started = clock::now();
        let table = self.local.table();
        let Some(listener) = table.listener(self.listener) else {
            self.refuse(Answer::unavailable("this listener was closed")).await;
            return false;
        };
        let side = &mut self.side;
        side.begin(&self.local, listener);
        if listener.config.redirect_https {
            return self.redirect(&table, listener).await;
        }
        let path = match side.request.path(side.buffer.bytes()) {
            b"*" => b"/",
            path => path,
        };
        let host = side.request.host(side.buffer.bytes());
        let Some(target) = listener.routes.find(host, path) else {
            return self.own_answer(listener, Answer::not_found()).await;
        };
        if matches!(side.request.body(), Body::Length(length) if length > side.body_max) {
            let answer = Answer::request_error(413, "request body too large");
            return self.own_answer(listener, answer).await;
        }
        let method = side.request.method();
        let service = target.service as usize;
        let mut call = Call {
            keyed: target.idempotency_key && side.has_idempotency_key(),
            wants_times: listener_logs(&self.local),
            body_timeout: side.body_timeout,
            ..Call::new(Snapshot::clone(&table), service, method, started)
        };
        let Self { local, ticket, side, response, .. } = self;
        response.set_may_switch(side.request.wants_websocket());
        let ended = exchange::run(local, ticket, side, &mut call, response).await;
        let switched = call.switched.take();
        self.switch = switched.map(|how| Box::new(Switch::new(listener, &call, how, started)));
        self.conclude(listener, &target.counters, &mut call, ended, started).await
    }

    /// Writes what the client is still owed, counts and logs. False when the connection ends.
    async fn conclude(
        &mut self,
        listener: &Listener,
        counters: &crate::table::counters::RouteCounters,
        call: &mut Call,
        ended: Ended,
        started: Duration,
    ) -> bool {
        let answer = match ended {
            Ended::Unanswered(loss) => {
                Some(Answer::lost(loss, call.last_error, call.tls_fault, call.attempts))
            }
            Ended::Refused(status, details) => Some(Answer::request_error(status, details)),
            _ => None,
        };
        let mut keep = self.side.keep;
        if let Some(answer) = answer {
            call.status = answer.status;
            keep = self.write_answer(answer).await;
        }
        let duration = clock::now().saturating_sub(started);
        let cells = counters.workers.of(self.local.worker);
        cells.codes.increment(if ended == Ended::ClientGone { 499 } else { call.status });
        cells.duration.observe(duration.as_micros() as u64);
        self.count_bytes(listener);
        if self.switch.is_some() {
            return false;
        }
        if call.wants_times {
            let reason = respond::reason(ended);
            let (way, status, body_bytes) = (Way::of(call), call.status, self.body_bytes());
            self.log(listener, Line { way, status, reason, body_bytes, started, duration });
        }
        match ended {
            Ended::Cut(_) => {
                reset_on_close(&self.side.stream);
                false
            }
            Ended::ClientGone => false,
            _ if !keep => {
                self.linger().await;
                false
            }
            _ => true,
        }
    }

    async fn redirect(&mut self, table: &Snapshot, listener: &Listener) -> bool {
        let side = &self.side;
        let bytes = side.buffer.bytes();
        let Some(location) = respond::https_location(table, &side.request, bytes) else {
            let answer = Answer::request_error(400, "no address to redirect to");
            return self.own_answer(listener, answer).await;
        };
        let answer = Answer::to_https(&location);
        self.own_answer(listener, answer).await
    }

    /// An answer before any service was found.
    async fn own_answer(&mut self, listener: &Listener, answer: Answer<'_>) -> bool {
        let started = clock::now();
        let keep = self.write_answer(answer).await;
        listener.counters.workers.of(self.local.worker).own_answers.increment(answer.status);
        if listener_logs(&self.local) {
            let ended = match answer.status {
                308 => Ended::Answered,
                status => Ended::Refused(status, answer.details),
            };
            let line = Line {
                way: Way::default(),
                status: answer.status,
                reason: respond::reason(ended),
                body_bytes: self.body_bytes(),
                started,
                duration: Duration::ZERO,
            };
            self.log(listener, line);
        }
        if !keep {
            self.linger().await;
        }
        keep
    }

    /// Writes an answer of ours and drops what is left of the request. True when the connection can
    /// be kept.
    async fn write_answer(&mut self, answer: Answer<'_>) -> bool {
        let Self { local, listener, ticket, side, .. } = self;
        // A body that came whole with its head costs nothing to drop; else the connection ends.
        let body_is_here = side.drop_buffered_body(local);
        // Our answers do not say `keep-alive`, without which an HTTP/1.0 client waits for the end.
        let keeps = side.request.keep_alive() && side.request.version() == Version::Http11;
        let keep = keeps && body_is_here && local.keeps(*listener);
        let mut out = side.take_half_written();
        out.reserve(512);
        let head_only = side.request.method() == Method::Head;
        side.own_body_bytes = answer.write(&mut out, keep, head_only);
        ticket.set(side.body_timeout.max(Duration::from_secs(1)));
        let written = write_all(ticket, &mut side.stream, &out).await;
        ticket.clear();
        keep && written
    }

    /// Answers a request that could not even be read, and closes.
    async fn refuse(&mut self, answer: Answer<'static>) {
        let table = self.local.table();
        if let Some(listener) = table.listener(self.listener) {
            let cells = listener.counters.workers.of(self.local.worker);
            cells.own_answers.increment(answer.status);
        }
        let mut out = Vec::with_capacity(512);
        answer.write(&mut out, false, false);
        self.ticket.set(Duration::from_secs(5));
        if write_all(&self.ticket, &mut self.side.stream, &out).await {
            self.linger().await;
        }
    }

    /// Says that nothing more will come, then reads and drops for a moment: a close with unread
    /// bytes would reset the connection and take the answer with it (RFC 9112 section 9.6).
    pub(super) async fn linger(&mut self) {
        let Self { local, ticket, side, .. } = self;
        ticket.set(Duration::from_secs(1));
        let mut left = 256 * 1024_usize;
        side.buffer.truncate(0);
        std::future::poll_fn(|cx| {
            if ticket.poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if Pin::new(&mut side.stream).poll_shutdown(cx).is_pending() {
                return Poll::Pending;
            }
            loop {
                side.buffer.ensure(&local.store);
                side.buffer.truncate(0);
                match ready!(side.buffer.poll_fill(cx, &mut side.stream)) {
                    Ok(count) if count > 0 && count <= left => left -= count,
                    _ => return Poll::Ready(()),
                }
            }
        })
        .await;
    }

    pub(super) fn log(&self, listener: &Listener, line: Line<'_>) {
        let side = &self.side;
        let Line { way, status, reason, body_bytes, started, duration } = line;
        Record {
            listener,
            peer: side.peer,
            trusted: side.trusted,
            https: side.stream.is_tls(),
            request: &side.request,
            bytes: side.buffer.bytes(),
            request_id: &side.request_id,
            request_body_bytes: body_bytes.0,
            response_body_bytes: body_bytes.1,
            way,
            status,
            reason,
            started,
            duration,
        }
        .write(&self.local);
    }

    /// Bytes of body that the client sent and got.
    fn body_bytes(&self) -> (u64, u64) {
        let Side { up, down, own_body_bytes, .. } = &self.side;
        (up.body_bytes(), down.body_bytes() + own_body_bytes)
    }

    /// What an endpoint's answer needed is not needed any more: a tunnel has begun.
    pub(super) fn slim(&mut self) {
        self.response = Response::default();
        self.side.slim();
    }

    fn count_bytes(&self, listener: &Listener) {
        let side = &self.side;
        let cells = listener.counters.workers.of(self.local.worker);
        cells.received_bytes.add(side.head as u64 + side.up.body_bytes());
        cells.sent_bytes.add(side.down.wire_bytes());
    }
}

/// The limits that hold while a head is read.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) head: http1::Limits,
    header_timeout: Duration,
    idle: Duration,
}

impl Bounds {
    pub(super) fn of(limits: &Limits, idle: Duration) -> Self {
        let head = http1::Limits {
            head_size_max: limits.max_header_size as usize,
            headers_max: limits.max_headers.into(),
            uri_max: limits.max_uri as usize,
        };
        Self { head, header_timeout: limits.header_timeout, idle }
    }
}

async fn write_all(ticket: &Ticket, stream: &mut Stream, bytes: &[u8]) -> bool {
    let write = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    let mut write = std::pin::pin!(write);
    std::future::poll_fn(|cx| {
        if ticket.poll(cx) == Poll::Ready(Fired::Deadline) {
            return Poll::Ready(false);
        }
        write.as_mut().poll(cx).map(|result| result.is_ok())
    })
    .await
}

pub(super) fn listener_logs(local: &Local) -> bool {
    local.access_log.borrow().is_some()
}

/// A close resets the connection, so that the client cannot take a cut answer for a whole one.
pub(super) fn reset_on_close(stream: &Stream) {
    let _ = socket2::SockRef::from(stream.tcp()).set_linger(Some(Duration::ZERO));
}
