//! ○ A client's connection over HTTP/1.1: reads heads, answers one request after the other.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::buffer::Buffer;
use super::deadline::{Fired, Ticket};
use super::exchange::{self, Call, Client, Download, Ended, Upload};
use super::local::{Local, Snapshot};
use super::pick::Tried;
use super::pump::{Broken, Pump, Source};
use super::record::Record;
use super::respond::Answer;
use crate::clock;
use crate::config::Limits;
use crate::http1::forward::{self, RequestEdits, ResponseEdits};
use crate::http1::{self, Body, Method, Parsed, Request, RequestError, Response, Version};
use crate::stream::Stream;
use crate::table::counters::Rejection;
use crate::table::{Listener, ListenerId};

/// A client's connection, from the first byte to the last.
pub struct Connection {
    local: Rc<Local>,
    listener: ListenerId,
    ticket: Ticket,
    side: Side,
    response: Response,
}

/// What an exchange borrows of the connection.
struct Side {
    stream: Stream,
    buffer: Buffer,
    request: Request,
    /// Bytes of the request head, at the start of the buffer.
    head: usize,
    peer: SocketAddr,
    trusted: bool,
    request_id: [u8; 32],
    body_max: u64,
    body_timeout: Duration,
    up: Pump,
    down: Pump,
    /// `100 Continue` is owed before the body is read, as far as it is not written yet.
    owed_continue: &'static [u8],
    /// The connection can be kept after this request.
    keep: bool,
    draining: bool,
}

/// What became of waiting for a request.
enum Head {
    Complete,
    Refused(RequestError),
    /// No request came, or not all of it in time.
    Late {
        begun: bool,
    },
    Closed,
}

impl Connection {
    pub fn new(
        local: Rc<Local>,
        listener: ListenerId,
        ticket: Ticket,
        stream: Stream,
        peer: SocketAddr,
    ) -> Self {
        let side = Side {
            stream,
            buffer: Buffer::default(),
            request: Request::default(),
            head: 0,
            peer,
            trusted: false,
            request_id: [b'0'; 32],
            body_max: u64::MAX,
            body_timeout: Duration::ZERO,
            up: Pump::default(),
            down: Pump::default(),
            owed_continue: b"",
            keep: false,
            draining: false,
        };
        Self { local, listener, ticket, side, response: Response::default() }
    }

    /// Serves until either side closes.
    pub async fn serve(mut self) {
        let mut first = true;
        loop {
            let table = self.local.table();
            let Some(listener) = table.listener(self.listener) else {
                return;
            };
            let limits = &listener.config.limits;
            // The deadline of the first head runs since the connection was accepted.
            let idle = if first { limits.header_timeout } else { limits.idle_timeout };
            let bounds = Bounds::of(limits, idle);
            drop(table);
            let opened = std::mem::take(&mut first);
            match self.read_head(bounds).await {
                Head::Complete => {}
                Head::Refused(error) => {
                    self.refuse(Answer::request_error(error.status, error.reason)).await;
                    return;
                }
                Head::Late { begun } => {
                    if begun || opened {
                        self.count_rejection(Rejection::Timeout);
                    }
                    if begun {
                        self.refuse(Answer::request_error(408, "request head too slow")).await;
                    }
                    return;
                }
                Head::Closed => return,
            }
            if !self.answer().await {
                return;
            }
            self.side.next_message(&self.local);
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
                Poll::Ready(Fired::Leave) if !begun => return Poll::Ready(Head::Closed),
                _ => {}
            }
            loop {
                if !begun && local.draining.get() {
                    return Poll::Ready(Head::Closed);
                }
                match ready!(side.poll_head(local, cx, &bounds.head)) {
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
        let mut call = Call {
            service: target.service as usize,
            method: side.request.method(),
            tried: Tried::default(),
            resent: 0,
            rescued: None,
            last_error: None,
            last: None,
            attempts: 0,
            status: 0,
            first_byte: None,
            wants_times: listener_logs(&self.local),
            body_timeout: side.body_timeout,
            reusable: false,
            table: Snapshot::clone(&table),
        };
        let Self { local, ticket, side, response, .. } = self;
        let ended = exchange::run(local, ticket, side, &mut call, response).await;
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
            Ended::Unanswered(loss) => Some(Answer::lost(loss, call.last_error, call.attempts)),
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
        if call.wants_times {
            self.log(listener, Some(call), call.status, ended, started, duration);
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
        let mut location = b"https://".to_vec();
        location.extend_from_slice(side.request.host(bytes));
        let port = https_port(table);
        if port != 443 {
            location.extend_from_slice(format!(":{port}").as_bytes());
        }
        location.extend_from_slice(side.request.path(bytes));
        if let Some(query) = side.request.query(bytes) {
            location.push(b'?');
            location.extend_from_slice(query);
        }
        let answer = Answer {
            status: 308,
            error: None,
            details: "the same address over https",
            location: Some(&location),
        };
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
            self.log(listener, None, answer.status, ended, started, Duration::ZERO);
        }
        if !keep {
            self.linger().await;
        }
        keep
    }

    /// Writes an answer of ours and drops what is left of the request. True when the connection can
    /// be kept.
    async fn write_answer(&mut self, answer: Answer<'_>) -> bool {
        let Self { local, ticket, side, .. } = self;
        // A body that came whole with its head costs nothing to drop; else the connection ends.
        let body_is_here = side.drop_buffered_body(local);
        let keep = side.request.keep_alive() && body_is_here && !local.draining.get();
        let mut out = Vec::with_capacity(512);
        answer.write(&mut out, keep, side.request.method() == Method::Head);
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
    async fn linger(&mut self) {
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

    fn log(
        &self,
        listener: &Listener,
        call: Option<&Call>,
        status: u16,
        ended: Ended,
        started: Duration,
        duration: Duration,
    ) {
        let side = &self.side;
        Record {
            listener,
            peer: side.peer,
            trusted: side.trusted,
            https: side.stream.is_tls(),
            request: &side.request,
            bytes: side.buffer.bytes(),
            request_id: &side.request_id,
            request_body_bytes: side.up.body_bytes(),
            response_body_bytes: side.down.body_bytes(),
            call,
            status,
            ended,
            started,
            duration,
        }
        .write(&self.local);
    }

    fn count_bytes(&self, listener: &Listener) {
        let side = &self.side;
        let cells = listener.counters.workers.of(self.local.worker);
        cells.received_bytes.add(side.head as u64 + side.up.body_bytes());
        cells.sent_bytes.add(side.down.wire_bytes());
    }

    fn count_rejection(&self, rejection: Rejection) {
        if let Some(listener) = self.local.table().listener(self.listener) {
            let cells = listener.counters.workers.of(self.local.worker);
            cells.rejected[rejection as usize].increment();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.side.buffer.release(&self.local.store);
    }
}

/// The limits that hold while a head is read.
#[derive(Clone, Copy)]
struct Bounds {
    head: http1::Limits,
    header_timeout: Duration,
    idle: Duration,
}

impl Bounds {
    fn of(limits: &Limits, idle: Duration) -> Self {
        let head = http1::Limits {
            head_size_max: limits.max_header_size as usize,
            headers_max: limits.max_headers.into(),
            uri_max: limits.max_uri as usize,
        };
        Self { head, header_timeout: limits.header_timeout, idle }
    }
}

impl Side {
    /// One step towards a whole head: true when it is there, false after some bytes came.
    fn poll_head(
        &mut self,
        local: &Local,
        cx: &mut Context<'_>,
        limits: &http1::Limits,
    ) -> Poll<Result<bool, Head>> {
        if self.buffer.is_empty() {
            match self.stream.poll_readable(cx) {
                Poll::Ready(Ok(())) => self.buffer.ensure(&local.store),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Head::Closed)),
                Poll::Pending => {
                    self.buffer.release(&local.store);
                    return Poll::Pending;
                }
            }
        } else {
            match self.request.parse(self.buffer.bytes(), limits) {
                Ok(Parsed::Complete(length)) => {
                    self.head = length;
                    return Poll::Ready(Ok(true));
                }
                Ok(Parsed::Partial) => {}
                Err(error) => return Poll::Ready(Err(Head::Refused(error))),
            }
            if self.buffer.room() == 0 && !self.buffer.grow(&local.store, Buffer::LARGE) {
                let error = RequestError { status: 431, reason: "request head too large" };
                return Poll::Ready(Err(Head::Refused(error)));
            }
        }
        match ready!(self.buffer.poll_fill(cx, &mut self.stream)) {
            Ok(count) if count > 0 => Poll::Ready(Ok(false)),
            _ => Poll::Ready(Err(Head::Closed)),
        }
    }

    /// Sets up what holds for this request.
    fn begin(&mut self, local: &Local, listener: &Listener) {
        let config = &listener.config;
        let peer = self.peer.ip().to_canonical();
        self.trusted = config.trusted_proxies.iter().any(|net| net.contains(&peer));
        self.body_max = config.limits.max_body_size.unwrap_or(u64::MAX);
        self.body_timeout = config.limits.body_timeout;
        self.keep = self.request.keep_alive();
        self.draining = local.draining.get();
        write_hex(&mut self.request_id, local.random(), local.random());
        let owes = self.request.expects_continue() && self.request.version() == Version::Http11;
        self.owed_continue = if owes { b"HTTP/1.1 100 Continue\r\n\r\n" } else { b"" };
        self.up.begin(Body::Empty, false, self.head);
        self.down.begin(Body::Empty, false, 0);
    }

    /// Takes the answered message out of the buffer.
    fn next_message(&mut self, local: &Local) {
        let position = self.up.position().max(self.head).min(self.buffer.len());
        self.buffer.consume(position);
        if self.buffer.is_empty() || self.buffer.is_large() && self.buffer.len() < 1024 {
            self.shrink(local);
        }
        self.up.trim();
        self.down.trim();
    }

    fn shrink(&mut self, local: &Local) {
        if self.buffer.is_empty() {
            self.buffer.release(&local.store);
        }
    }

    /// Skips a body nobody wants as far as it is in the buffer. True if that was all of it.
    fn drop_buffered_body(&mut self, local: &Local) -> bool {
        if self.up.is_read() || self.request.body() == Body::Empty {
            return true;
        }
        let started = self.up.position() > self.head || self.up.wire_bytes() > 0;
        if started {
            return false;
        }
        self.up.begin(self.request.body(), false, self.head);
        let Self { stream, buffer, up, head, body_max, .. } = self;
        let (keep, body_max) = (*head, *body_max);
        let source = Source { stream, buffer, store: &local.store, keep, replay: false, body_max };
        up.skip_buffered(&source)
    }
}

impl Client for Side {
    fn begin_upload(&mut self, fallback_host: &[u8]) {
        let body = self.request.body();
        let edits = RequestEdits {
            client: self.peer.ip().to_canonical(),
            trusted: self.trusted,
            https: self.stream.is_tls(),
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
        while !self.owed_continue.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(cx, self.owed_continue);
            let written = ready!(written).map_err(Broken::Source)?;
            self.owed_continue = &self.owed_continue[written..];
        }
        let mut source = Source {
            stream: &mut self.stream,
            buffer: &mut self.buffer,
            store: &local.store,
            keep: self.head,
            replay: true,
            body_max: self.body_max,
        };
        self.up.poll(cx, &mut source, endpoint)
    }

    fn upload(&self) -> Upload {
        Upload {
            done: self.up.is_done(),
            may_replay: self.up.may_replay(),
            wire_bytes: self.up.wire_bytes(),
            body_bytes: self.up.body_bytes(),
            waits_for_client: self.up.waits_for_source(),
        }
    }

    fn poll_informational(
        &mut self,
        cx: &mut Context<'_>,
        response: &Response,
        head: &[u8],
    ) -> Poll<io::Result<()>> {
        // We have sent 100 ourselves, and HTTP/1.0 knows no interim responses.
        if response.status() == 100 || self.request.version() == Version::Http10 {
            return Poll::Ready(Ok(()));
        }
        if !self.down.has_lead() {
            let lead = self.down.begin(Body::Empty, false, 0);
            let edits = ResponseEdits { client: Version::Http11, keep_alive: true, chunked: false };
            forward::response(lead, response, head, &edits);
        }
        self.down.poll_lead(cx, &mut self.stream)
    }

    fn begin_download(&mut self, response: &Response, head: &[u8], body_at: usize) {
        let body = response.body();
        let version = self.request.version();
        let framed = !matches!(body, Body::Chunked | Body::UntilClose);
        let chunked = !framed && version == Version::Http11;
        // A body of the request that is still under way would stand before the next request.
        self.keep = self.keep && (framed || chunked) && self.up.is_done() && !self.draining;
        let edits = ResponseEdits { client: version, keep_alive: self.keep, chunked };
        let lead = self.down.begin(body, chunked, body_at);
        forward::response(lead, response, head, &edits);
    }

    fn poll_download(
        &mut self,
        local: &Local,
        cx: &mut Context<'_>,
        endpoint: &mut Stream,
        buffer: &mut Buffer,
    ) -> Poll<Result<(), Broken>> {
        let mut source = Source {
            stream: endpoint,
            buffer,
            store: &local.store,
            keep: 0,
            replay: false,
            body_max: u64::MAX,
        };
        self.down.poll(cx, &mut source, &mut self.stream)
    }

    fn download(&self) -> Download {
        Download {
            position: self.down.position(),
            body_bytes: self.down.body_bytes(),
            wire_bytes: self.down.wire_bytes(),
        }
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

fn listener_logs(local: &Local) -> bool {
    local.access_log.borrow().is_some()
}

/// A close resets the connection, so that the client cannot take a cut answer for a whole one.
fn reset_on_close(stream: &Stream) {
    let _ = socket2::SockRef::from(stream.tcp()).set_linger(Some(Duration::ZERO));
}

fn https_port(table: &Snapshot) -> u16 {
    let mut ports = table.listeners.iter().filter(|l| l.config.tls.is_some());
    match (ports.next(), ports.next()) {
        (Some(only), None) => only.config.bind.port(),
        _ => 443,
    }
}

fn write_hex(out: &mut [u8; 32], high: u64, low: u64) {
    let value = u128::from(high) << 64 | u128::from(low);
    for (index, digit) in out.iter_mut().enumerate() {
        let nibble = (value >> (124 - 4 * index)) & 0xf;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
}
