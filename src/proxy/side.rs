//! ○ The client's side of an exchange over HTTP/1.1: the request in its buffer, what goes up and
//! what comes down.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;

use super::buffer::{Buffer, Store};
use super::caller::Caller;
use super::exchange::{Client, Download, Upload};
use super::http1::Head;
use super::local::Local;
use super::pump::{Broken, Pump, Source};
use crate::http1::forward::{self, RequestEdits, ResponseEdits};
use crate::http1::{Body, Limits, Parsed, Request, RequestError, Response, Version};
use crate::stream::{Left, Stream};
use crate::table::live::Origin;
use crate::table::{Listener, ListenerId};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What an exchange borrows of a client's connection.
pub(super) struct Side {
    pub(super) stream: Stream,
    pub(super) buffer: Buffer,
    pub(super) request: Request,
    /// Bytes of the request head, at the start of the buffer.
    pub(super) head: usize,
    pub(super) peer: SocketAddr,
    pub(super) trusted: bool,
    pub(super) request_id: [u8; 32],
    pub(super) body_max: u64,
    pub(super) body_timeout: Duration,
    pub(super) up: Pump,
    pub(super) down: Pump,
    /// `100 Continue` is owed before the body is read, as far as it is not written yet.
    owed_continue: &'static [u8],
    /// The connection can be kept after this request.
    pub(super) keep: bool,
    listener: ListenerId,
    /// Bytes of body of an answer of ours.
    pub(super) own_body_bytes: u64,
}

/// What messages need, reused from one to the next.
#[derive(Debug, Default)]
pub struct Parts {
    request: Request,
    response: Response,
    up: Pump,
    down: Pump,
}

impl Side {
    /// With the parts another connection left, if one did.
    pub(super) fn new(
        store: &Store,
        listener: ListenerId,
        stream: Stream,
        peer: SocketAddr,
    ) -> (Self, Response) {
        let Parts { request, response, up, down } = store.take_parts();
        let side = Self {
            stream,
            buffer: Buffer::default(),
            request,
            head: 0,
            peer,
            trusted: false,
            request_id: [b'0'; 32],
            body_max: u64::MAX,
            body_timeout: Duration::ZERO,
            up,
            down,
            owed_continue: b"",
            keep: false,
            listener,
            own_body_bytes: 0,
        };
        (side, response)
    }

    /// Leaves what only messages need to the store.
    pub(super) fn rest(mut self, store: &Store, response: Response) -> (Stream, SocketAddr) {
        self.buffer.release(store);
        let Self { stream, peer, request, up, down, .. } = self;
        store.put_parts(Parts { request, response, up, down });
        (stream, peer)
    }

    /// One step towards a whole head: true when it is there, false after some bytes came.
    pub(super) fn poll_head(
        &mut self,
        local: &Local,
        cx: &mut Context<'_>,
        limits: &Limits,
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
    pub(super) fn begin(&mut self, local: &Local, listener: &Listener) {
        let config = &listener.config;
        let peer = self.peer.ip().to_canonical();
        self.trusted = config.trusted_proxies.iter().any(|net| net.contains(&peer));
        self.body_max = config.limits.max_body_size.unwrap_or(u64::MAX);
        self.body_timeout = config.limits.body_timeout;
        self.keep = self.request.keep_alive();
        self.own_body_bytes = 0;
        write_hex(&mut self.request_id, local.random(), local.random());
        let owes = self.request.expects_continue() && self.request.version() == Version::Http11;
        self.owed_continue = if owes { CONTINUE } else { b"" };
        self.up.begin(Body::Empty, false, self.head);
        self.down.begin(Body::Empty, false, 0);
    }

    /// It carries an `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header).
    pub(super) fn has_idempotency_key(&self) -> bool {
        let key = self.request.field(self.buffer.bytes(), "idempotency-key");
        key.is_some_and(|key| !key.is_empty())
    }

    /// What is left of an interim response that was written in part. It must be written before any
    /// other response, whatever has become of its endpoint; one not begun yet is dropped.
    pub(super) fn take_half_written(&mut self) -> Vec<u8> {
        let mut rest = self.down.take_half_lead();
        rest.splice(0..0, self.take_half_continue().iter().copied());
        self.owed_continue = b"";
        rest
    }

    fn take_half_continue(&mut self) -> &'static [u8] {
        match self.owed_continue.len() < CONTINUE.len() {
            true => std::mem::take(&mut self.owed_continue),
            false => b"",
        }
    }

    /// Takes the answered message out of the buffer.
    pub(super) fn next_message(&mut self, local: &Local) {
        let position = self.up.position().max(self.head).min(self.buffer.len());
        self.buffer.consume(position);
        if self.buffer.is_empty() {
            self.buffer.release(&local.store);
        }
        self.up.trim();
        self.down.trim();
    }

    /// Gives back what only messages need.
    pub(super) fn slim(&mut self) {
        self.request.shrink();
        self.up = Pump::default();
        self.down = Pump::default();
    }

    /// Skips a body nobody wants as far as it is in the buffer. True if that was all of it.
    pub(super) fn drop_buffered_body(&mut self, local: &Local) -> bool {
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
        self.stream.poll_left(cx)
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
            let rest = self.take_half_continue();
            let lead = self.down.begin(Body::Empty, false, 0);
            lead.extend_from_slice(rest);
            let edits = ResponseEdits { client: Version::Http11, keep_alive: true, chunked: false };
            forward::response(lead, response, head, &edits);
        }
        self.down.poll_lead(cx, &mut self.stream)
    }

    fn begin_download(&mut self, local: &Local, response: &Response, head: &[u8], body_at: usize) {
        let body = response.body();
        let version = self.request.version();
        let framed = !matches!(body, Body::Chunked | Body::UntilClose);
        let chunked = !framed && version == Version::Http11;
        // A body of the request that is still under way would stand before the next request.
        self.keep = self.keep && (framed || chunked) && self.up.is_done();
        self.keep &= local.keeps(self.listener);
        let edits = ResponseEdits { client: version, keep_alive: self.keep, chunked };
        let rest = self.take_half_written();
        let lead = self.down.begin(body, chunked, body_at);
        lead.extend_from_slice(&rest);
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
        Download { position: self.down.position(), wire_bytes: self.down.wire_bytes() }
    }

    /// HTTP/1.1 has none; a client that ended its side may still read the answer.
    fn poll_cancelled(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn origin(&self) -> Origin {
        let bytes = self.buffer.bytes();
        let target = (self.request.path(bytes), self.request.query(bytes));
        Origin { target: hash(&target), connection: hash(&self.peer) }
    }
}

pub(super) fn hash(value: &impl Hash) -> u32 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish() as u32
}

pub(super) fn write_hex(out: &mut [u8; 32], high: u64, low: u64) {
    let words = [high >> 32, high, low >> 32, low];
    for (digits, word) in out.chunks_exact_mut(8).zip(words) {
        digits.copy_from_slice(&hex_digits(word as u32));
    }
}

/// Eight digits at once: this is done for every request.
fn hex_digits(word: u32) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let spread = u64::from(word);
    let spread = (spread | spread << 16) & 0x0000_ffff_0000_ffff;
    let spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
    let nibbles = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = ((nibbles + 6 * ONES) >> 4) & ONES;
    let digits = nibbles + u64::from(b'0') * ONES + u64::from(b'a' - b'9' - 1) * letters;
    digits.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::super::fixture::Worker;
    use super::*;
    use crate::http1::Method;

    const LIMITS: Limits = Limits { head_size_max: 1 << 20, headers_max: 9, uri_max: 99 };

    /// A client that sent this, and does not read.
    fn side(sent: &[u8]) -> (Side, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, peer) = listener.accept().unwrap();
        socket2::SockRef::from(&server).set_send_buffer_size(4096).unwrap();
        server.set_nonblocking(true).unwrap();
        let stream = Stream::Plain(tokio::net::TcpStream::from_std(server).unwrap());
        let worker = Worker::new();
        let (mut side, _) = Side::new(&worker.local.store, ListenerId(0), stream, peer);
        side.buffer = Buffer::exact(sent);
        let parsed = side.request.parse(sent, &LIMITS).unwrap();
        assert_eq!(parsed, Parsed::Complete(sent.len()));
        side.head = sent.len();
        (side, client)
    }

    fn response(bytes: &[u8]) -> Response {
        let mut response = Response::default();
        response.parse(bytes, Method::Get, &LIMITS).unwrap();
        response
    }

    /// All interim responses until the client takes no more; how many were passed on whole.
    async fn stuff(side: &mut Side, early: &[u8]) -> usize {
        let response = response(early);
        let mut passed = 0;
        let mut idle = 0;
        while idle < 50 || side.down.wire_bytes() == 0 {
            let cx = &mut Context::from_waker(std::task::Waker::noop());
            match side.poll_informational(cx, &response, early) {
                Poll::Ready(written) => {
                    written.unwrap();
                    (passed, idle) = (passed + 1, 0);
                }
                Poll::Pending => {
                    idle += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
        passed
    }

    #[tokio::test]
    async fn an_interim_response_that_was_begun_is_ended_before_any_other() {
        let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(50_000));
        let last = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        for is_ours in [false, true] {
            let worker = Worker::new();
            let (mut side, mut client) = side(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let passed = stuff(&mut side, hint.as_bytes()).await;
            let written = side.down.wire_bytes();
            assert!(side.down.has_lead() && written > 0, "{passed} and {written} bytes");
            let reader = std::thread::spawn(move || {
                let mut all = Vec::new();
                client.read_to_end(&mut all).unwrap();
                all
            });
            if is_ours {
                let mut rest = side.take_half_written();
                rest.extend_from_slice(last);
                tokio::io::AsyncWriteExt::write_all(&mut side.stream, &rest).await.unwrap();
            } else {
                side.begin_download(&worker.local, &response(last), last, 0);
                while side.down.has_lead() {
                    let write =
                        std::future::poll_fn(|cx| side.down.poll_lead(cx, &mut side.stream));
                    write.await.unwrap();
                }
            }
            drop(side);
            let mut rest = &reader.join().unwrap()[..];
            for number in 0..=passed + 1 {
                let mut read = Response::default();
                let parsed = read.parse(rest, Method::Get, &LIMITS).unwrap();
                let Parsed::Complete(length) = parsed else { panic!("a head is cut") };
                assert_eq!(read.status(), if number <= passed { 103 } else { 200 });
                rest = &rest[length..];
            }
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn request_id_is_written_in_lower_case_hexadecimal() {
        let (high, low) = (0x0123_4567_89ab_cdef, 0xfedc_ba98_0099_0a00);
        let mut out = [0; 32];
        write_hex(&mut out, high, low);
        assert_eq!(out.as_slice(), format!("{high:016x}{low:016x}").as_bytes());
    }
}
