//! ○ One stream, one request: read into our own strict form, taken through the exchange, concluded.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};

use super::super::buffer::Buffer;
use super::super::caller::Caller;
use super::super::deadline::Ticket;
use super::super::exchange::{self, Call, Download, Ended, Upload};
use super::super::http1::{Bounds, listener_logs};
use super::super::local::{Local, Snapshot};
use super::super::pump::{Broken, Feed, Pump, Source};
use super::super::record::{Line, Record, Way};
use super::super::respond::{self, Answer};
use super::super::side;
use super::incoming::Incoming;
use super::outgoing::Outgoing;
use super::{Client, head};
use crate::clock;
use crate::http1::forward::{self, RequestEdits};
use crate::http1::{Body, Limits, Method, Parsed, Request, RequestError, Response};
use crate::stream::{Left, Stream};
use crate::table::Listener;
use crate::table::counters::RouteCounters;
use crate::table::live::Origin;

/// Longer than any head that [`Limits`] allow, less than a buffer holds.
const HEAD_MAX: usize = Buffer::LARGE - 1024;

/// What an exchange borrows of a stream.
struct Side {
    client: Rc<Client>,
    /// The request's head as HTTP/1.1, then of its body what can be sent again.
    buffer: Buffer,
    request: Request,
    head: usize,
    trusted: bool,
    request_id: [u8; 32],
    body_max: u64,
    up: Pump,
    incoming: Incoming,
    outgoing: Outgoing,
    owes_continue: bool,
}

/// Answers one request.
pub(super) async fn serve(
    client: Rc<Client>,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let table = client.local.table();
    let Some(listener) = table.listener(client.listener) else {
        // It was not looked at: the client may send it again elsewhere (RFC 9113 section 8.7).
        respond.send_reset(Reason::REFUSED_STREAM);
        return;
    };
    let (parts, body) = request.into_parts();
    let mut side = Side::new(Rc::clone(&client), Incoming::new(body), Outgoing::new(respond));
    let read = side.read(&parts, &Bounds::of(&listener.config.limits, Duration::ZERO).head);
    // The map of fields may be large, and is needed no more.
    drop(parts);
    match read {
        Ok(()) => side.answer(&table, listener).await,
        Err(error) => {
            side.send(Answer::request_error(error.status, error.reason), Method::Other);
            let cells = listener.counters.workers.of(client.local.worker);
            cells.own_answers.increment(error.status);
        }
    }
}

impl Side {
    fn new(client: Rc<Client>, incoming: Incoming, outgoing: Outgoing) -> Self {
        Self {
            client,
            buffer: Buffer::default(),
            request: Request::default(),
            head: 0,
            trusted: false,
            request_id: [b'0'; 32],
            body_max: u64::MAX,
            up: Pump::default(),
            incoming,
            outgoing,
            owes_continue: false,
        }
    }

    /// Writes the head as HTTP/1.1 and parses that, as if it had come so.
    fn read(&mut self, parts: &http::request::Parts, limits: &Limits) -> Result<(), RequestError> {
        let mut text = Vec::with_capacity(1024);
        head::request(&mut text, parts, self.incoming.has_ended())?;
        let store = &self.client.local.store;
        self.buffer.ensure(store);
        if text.len() > self.buffer.room() {
            self.buffer.grow(store, Buffer::LARGE);
        }
        if text.len() > HEAD_MAX {
            return Err(RequestError { status: 431, reason: "request head is too large" });
        }
        self.buffer.put(&text);
        match self.request.parse(self.buffer.bytes(), limits)? {
            Parsed::Complete(length) if length == text.len() => self.head = length,
            // Something in it ended the head early, or kept it from ending.
            _ => return Err(RequestError { status: 400, reason: "request head is malformed" }),
        }
        self.request.set_http2();
        self.incoming.set_chunked(self.request.body() == Body::Chunked);
        Ok(())
    }

    async fn answer(&mut self, table: &Snapshot, listener: &Listener) {
        let started = clock::now();
        self.begin(listener);
        let bytes = self.buffer.bytes();
        let path = match self.request.path(bytes) {
            b"*" => b"/",
            path => path,
        };
        let host = self.request.host(bytes);
        if !self.client.serves(host) {
            return self.own_answer(listener, Answer::misdirected());
        }
        if listener.config.redirect_https {
            return self.redirect(table, listener);
        }
        let Some(target) = listener.routes.find(host, path) else {
            return self.own_answer(listener, Answer::not_found());
        };
        if matches!(self.request.body(), Body::Length(length) if length > self.body_max) {
            let answer = Answer::request_error(413, "request body too large");
            return self.own_answer(listener, answer);
        }
        let (method, service) = (self.request.method(), target.service as usize);
        let key = self.request.field(bytes, "idempotency-key");
        let client = Rc::clone(&self.client);
        let mut call = Call {
            keyed: target.idempotency_key && key.is_some_and(|key| !key.is_empty()),
            wants_times: listener_logs(&client.local),
            body_timeout: listener.config.limits.body_timeout,
            ..Call::new(Snapshot::clone(table), service, method, started)
        };
        let ticket: Ticket = client.local.registry.register(client.listener);
        let mut response = Response::default();
        let ended = exchange::run(&client.local, &ticket, self, &mut call, &mut response).await;
        self.conclude(listener, &target.counters, &mut call, ended);
    }

    /// Sets up what holds for this request.
    fn begin(&mut self, listener: &Listener) {
        let config = &listener.config;
        let peer = self.client.peer.ip().to_canonical();
        self.trusted = config.trusted_proxies.iter().any(|net| net.contains(&peer));
        self.body_max = config.limits.max_body_size.unwrap_or(u64::MAX);
        self.owes_continue = self.request.expects_continue();
        let local = &self.client.local;
        side::write_hex(&mut self.request_id, local.random(), local.random());
        self.up.begin(Body::Empty, false, self.head);
    }

    /// Sends what the client is still owed, counts and logs.
    fn conclude(
        &mut self,
        listener: &Listener,
        counters: &RouteCounters,
        call: &mut Call,
        ended: Ended,
    ) {
        let answer = match ended {
            Ended::Unanswered(loss) => {
                Some(Answer::lost(loss, call.last_error, call.tls_fault, call.attempts))
            }
            Ended::Refused(status, details) => Some(Answer::request_error(status, details)),
            _ => None,
        };
        if let Some(answer) = answer {
            call.status = answer.status;
            self.send(answer, call.method);
        }
        if let Ended::Cut(_) = ended {
            self.outgoing.reset(Reason::INTERNAL_ERROR);
        }
        self.client.count_end(ended);
        let duration = clock::now().saturating_sub(call.started);
        let cells = counters.workers.of(self.client.local.worker);
        cells.codes.increment(if ended == Ended::ClientGone { 499 } else { call.status });
        cells.duration.observe(duration.as_micros() as u64);
        if call.wants_times {
            let (reason, started) = (respond::reason(ended), call.started);
            let (status, body_bytes) = (call.status, self.body_bytes());
            let way = Way::of(call);
            self.log(listener, Line { way, status, reason, body_bytes, started, duration });
        }
    }

    fn redirect(&mut self, table: &Snapshot, listener: &Listener) {
        let location = respond::https_location(table, &self.request, self.buffer.bytes());
        let answer = match &location {
            Some(location) => Answer::to_https(location),
            None => Answer::request_error(400, "no address to redirect to"),
        };
        self.own_answer(listener, answer);
    }

    /// An answer before any service was found.
    fn own_answer(&mut self, listener: &Listener, answer: Answer<'_>) {
        let started = clock::now();
        self.send(answer, self.request.method());
        let worker = self.client.local.worker;
        listener.counters.workers.of(worker).own_answers.increment(answer.status);
        if listener_logs(&self.client.local) {
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
    }

    /// Sends an answer of ours. If more of the request is to come, h2 then tells the client to stop
    /// (RST_STREAM with NO_ERROR, RFC 9113 section 8.1).
    fn send(&mut self, answer: Answer<'_>, method: Method) {
        let mut text = Vec::with_capacity(512);
        answer.write(&mut text, true, method == Method::Head);
        let mut response = Response::default();
        let limits = Limits { head_size_max: usize::MAX, headers_max: 16, uri_max: 0 };
        if let Ok(Parsed::Complete(head)) = response.parse(&text, method, &limits) {
            self.outgoing.send_own(&response, &text, head);
        }
    }

    fn log(&self, listener: &Listener, line: Line<'_>) {
        let Line { way, status, reason, body_bytes, started, duration } = line;
        Record {
            listener,
            peer: self.client.peer,
            trusted: self.trusted,
            https: self.client.https,
            request: &self.request,
            bytes: self.buffer.bytes(),
            request_id: &self.request_id,
            request_body_bytes: body_bytes.0,
            response_body_bytes: body_bytes.1,
            way,
            status,
            reason,
            started,
            duration,
        }
        .write(&self.client.local);
    }

    /// Bytes of body that the client sent and got.
    fn body_bytes(&self) -> (u64, u64) {
        (self.up.body_bytes(), self.outgoing.body_bytes())
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.buffer.release(&self.client.local.store);
    }
}

impl Caller for Side {
    fn upload(&self) -> Upload {
        Upload {
            done: self.up.is_done(),
            may_replay: self.up.may_replay(),
            wire_bytes: self.up.wire_bytes(),
            waits_for_client: self.up.waits_for_source(),
        }
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<Left> {
        ready!(self.outgoing.poll_reset(cx));
        Poll::Ready(Left::Broken)
    }
}

impl exchange::Client for Side {
    fn begin_upload(&mut self, fallback_host: &[u8]) {
        let body = self.request.body();
        let edits = RequestEdits {
            client: self.client.peer.ip().to_canonical(),
            trusted: self.trusted,
            https: self.client.https,
            request_id: &self.request_id,
            fallback_host,
        };
        let lead = self.up.begin(body, body == Body::Chunked, self.head);
        forward::request(lead, &self.request, self.buffer.bytes(), &edits);
    }

    fn poll_upload(
        &mut self,
        local: &Local,
        cx: &mut Context<'_>,
        endpoint: &mut Stream,
    ) -> Poll<Result<(), Broken>> {
        if std::mem::take(&mut self.owes_continue) && !self.incoming.has_ended() {
            let mut response = http::Response::new(());
            *response.status_mut() = http::StatusCode::CONTINUE;
            self.outgoing.inform(response).map_err(Broken::Source)?;
        }
        let Self { buffer, incoming, up, head, body_max, .. } = self;
        let fresh = up.wire_bytes() == 0 && buffer.len() == *head && buffer.room() > 0;
        if fresh && self.request.has_body() {
            // What has come of the body goes out with the head, if it is short.
            if let Poll::Ready(Err(error)) = incoming.poll_fill(cx, buffer) {
                return Poll::Ready(Err(Broken::Source(error)));
            }
        }
        let (keep, body_max) = (*head, *body_max);
        let (stream, store) = (incoming, &local.store);
        let mut source = Source { stream, buffer, store, keep, replay: true, body_max };
        up.poll(cx, &mut source, endpoint)
    }

    fn poll_informational(
        &mut self,
        _cx: &mut Context<'_>,
        response: &Response,
        head: &[u8],
    ) -> Poll<io::Result<()>> {
        // 100 is ours to send.
        if response.status() == 100 {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(self.outgoing.inform(head::response(response, head)))
    }

    fn begin_download(&mut self, _: &Local, response: &Response, head: &[u8], body_at: usize) {
        self.outgoing.begin(response, head, body_at);
    }

    fn poll_download(
        &mut self,
        local: &Local,
        cx: &mut Context<'_>,
        endpoint: &mut Stream,
        buffer: &mut Buffer,
    ) -> Poll<Result<(), Broken>> {
        self.outgoing.poll(local, cx, endpoint, buffer)
    }

    fn download(&self) -> Download {
        Download { position: self.outgoing.position(), wire_bytes: self.outgoing.bytes() }
    }

    fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.outgoing.poll_reset(cx)
    }

    fn origin(&self) -> Origin {
        let bytes = self.buffer.bytes();
        let target = (self.request.path(bytes), self.request.query(bytes));
        Origin { target: side::hash(&target), connection: side::hash(&self.client.peer) }
    }
}
