//! ○ The answer on its way to a client over HTTP/2: never more of it is held than a frame, what the
//! endpoint's buffer has, and what h2 may queue for the stream.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, SendStream};

use super::super::buffer::Buffer;
use super::super::local::Local;
use super::super::pump::Broken;
use super::head;
use crate::http1::{Body, Decoder, Response, Step};
use crate::stream::Stream;

/// One direction of a stream, from the head of the answer to its last byte.
pub(super) struct Outgoing {
    handle: Handle,
    decoder: Decoder,
    /// How far the decoder has come in the endpoint's buffer.
    at: usize,
    /// Decoded and not given to h2 yet.
    data: BytesMut,
    /// All of the body is in `data`.
    ended: bool,
    /// END_STREAM was given to h2.
    closed: bool,
    body_bytes: u64,
    /// Of heads, about.
    head_bytes: u64,
}

enum Handle {
    Head(SendResponse<Bytes>),
    Body(SendStream<Bytes>),
    Broken,
}

/// DATA is gathered up to this size: the largest frame a client takes unasked (RFC 9113 section
/// 4.2).
const FRAME: usize = 16 * 1024;

impl Outgoing {
    pub(super) fn new(respond: SendResponse<Bytes>) -> Self {
        Self {
            handle: Handle::Head(respond),
            decoder: Decoder::new(Body::Empty),
            at: 0,
            data: BytesMut::new(),
            ended: false,
            closed: false,
            body_bytes: 0,
            head_bytes: 0,
        }
    }

    /// Ready once the client has reset the stream or the connection is gone.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.handle {
            _ if self.closed => Poll::Pending,
            Handle::Head(respond) => respond.poll_reset(cx).map(drop),
            Handle::Body(stream) => stream.poll_reset(cx).map(drop),
            Handle::Broken => Poll::Ready(()),
        }
    }

    /// 100 to 199, without the endpoint's 101.
    pub(super) fn inform(&mut self, response: http::Response<()>) -> io::Result<()> {
        let Handle::Head(respond) = &mut self.handle else { return Ok(()) };
        respond.send_informational(response).map_err(io::Error::other)
    }

    /// Sends the head; of the body, what has come begins at `body_at` of the endpoint's buffer.
    pub(super) fn begin(&mut self, response: &Response, head: &[u8], body_at: usize) {
        let body = response.body();
        self.decoder = Decoder::new(body);
        self.at = body_at;
        self.data.clear();
        self.ended = body == Body::Empty;
        self.head_bytes = head.len() as u64;
        let Handle::Head(respond) = &mut self.handle else { return };
        self.handle = match respond.send_response(head::response(response, head), self.ended) {
            Ok(stream) => {
                self.closed = self.ended;
                Handle::Body(stream)
            }
            Err(_) => Handle::Broken,
        };
    }

    /// Sends an answer of ours whole: its head as parsed from `text`, and its body behind it.
    pub(super) fn send_own(&mut self, response: &Response, text: &[u8], head: usize) {
        self.begin(response, &text[..head], head);
        let Handle::Body(stream) = &mut self.handle else { return };
        if !self.closed {
            // A line of text: what h2 cannot send yet it keeps.
            let body = Bytes::copy_from_slice(&text[head..]);
            self.body_bytes = body.len() as u64;
            self.closed = stream.send_data(body, true).is_ok();
        }
    }

    /// Ends the stream, so that the client cannot take what came for the whole.
    pub(super) fn reset(&mut self, reason: Reason) {
        match &mut self.handle {
            Handle::Head(respond) => respond.send_reset(reason),
            Handle::Body(stream) => stream.send_reset(reason),
            Handle::Broken => {}
        }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    pub(super) fn bytes(&self) -> u64 {
        self.head_bytes + self.body_bytes
    }

    /// Moves bytes until all of the answer is with h2, or neither side is ready.
    pub(super) fn poll(
        &mut self,
        local: &Local,
        cx: &mut Context<'_>,
        endpoint: &mut Stream,
        buffer: &mut Buffer,
    ) -> Poll<Result<(), Broken>> {
        loop {
            self.decode(buffer)?;
            if !self.data.is_empty() {
                ready!(self.poll_send(cx))?;
                continue;
            }
            if self.ended {
                return Poll::Ready(self.close());
            }
            ready!(self.poll_read(local, cx, endpoint, buffer))?;
        }
    }

    fn decode(&mut self, buffer: &Buffer) -> Result<(), Broken> {
        while !self.ended && self.data.len() < FRAME {
            let input = &buffer.bytes()[self.at..];
            match self.decoder.step(input).map_err(Broken::Framing)? {
                Step::Data { skip, len } => {
                    let start = self.at + skip;
                    self.at = start + len;
                    self.data.extend_from_slice(&buffer.bytes()[start..self.at]);
                }
                Step::More => {
                    self.at = buffer.len();
                    return Ok(());
                }
                Step::End { skip } => {
                    self.at += skip;
                    self.ended = true;
                }
            }
        }
        Ok(())
    }

    /// Gives h2 as much as the client's windows and h2's own bound allow.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Handle::Body(stream) = &mut self.handle else { return Poll::Ready(gone()) };
        stream.reserve_capacity(self.data.len());
        while stream.capacity() == 0 {
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                _ => return Poll::Ready(gone()),
            }
        }
        let part = self.data.split_to(stream.capacity().min(self.data.len())).freeze();
        let is_last = self.data.is_empty() && (self.ended || self.decoder.is_done());
        let is_last = is_last && self.decoder.trailers().is_empty();
        self.body_bytes += part.len() as u64;
        if stream.send_data(part, is_last).is_err() {
            return Poll::Ready(gone());
        }
        self.closed |= is_last;
        Poll::Ready(Ok(()))
    }

    fn close(&mut self) -> Result<(), Broken> {
        let Handle::Body(stream) = &mut self.handle else { return gone() };
        if self.closed {
            return Ok(());
        }
        self.closed = true;
        let sent = match self.decoder.trailers() {
            [] => stream.send_data(Bytes::new(), true),
            trailers => stream.send_trailers(head::trailers(trailers)),
        };
        sent.or_else(|_| gone())
    }

    fn poll_read(
        &mut self,
        local: &Local,
        cx: &mut Context<'_>,
        endpoint: &mut Stream,
        buffer: &mut Buffer,
    ) -> Poll<Result<(), Broken>> {
        self.at = 0;
        buffer.truncate(0);
        if endpoint.poll_readable(cx).map_err(Broken::Source)?.is_pending() {
            buffer.release(&local.store);
            return Poll::Pending;
        }
        buffer.ensure(&local.store);
        if ready!(buffer.poll_fill(cx, endpoint)).map_err(Broken::Source)? == 0 {
            if !self.decoder.may_close() {
                return Poll::Ready(Err(Broken::Source(io::ErrorKind::UnexpectedEof.into())));
            }
            self.ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

/// The stream was reset or the connection ended.
fn gone() -> Result<(), Broken> {
    Err(Broken::Sink(io::ErrorKind::ConnectionReset.into()))
}
