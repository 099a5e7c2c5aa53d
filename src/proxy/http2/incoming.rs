//! ○ The body of a request over HTTP/2, handed out as HTTP/1.1 frames it: raw where its length was
//! said, else in chunks, with trailers behind the last one.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::RecvStream;

use super::super::buffer::Buffer;
use super::super::pump::Feed;
use super::head;
use crate::http1::framing;

pub(super) struct Incoming {
    stream: RecvStream,
    chunked: bool,
    /// What is to be handed out next: the line of a chunk, or all that ends a chunked body,
    before: Vec<u8>,
    /// as far as it was handed out;
    before_at: usize,
    /// then the DATA frame taken last,
    data: Bytes,
    /// and the end of its chunk.
    after: &'static [u8],
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Data,
    Trailers,
    Ended,
}

impl Incoming {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            chunked: false,
            before: Vec::new(),
            before_at: 0,
            data: Bytes::new(),
            after: b"",
            state: State::Data,
        }
    }

    pub(super) fn set_chunked(&mut self, chunked: bool) {
        self.chunked = chunked;
    }

    /// The client has ended its side already.
    pub(super) fn has_ended(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn has_queued(&self) -> bool {
        self.before_at < self.before.len() || !self.data.is_empty() || !self.after.is_empty()
    }

    /// Ready when there is something to hand out, or the end was reached.
    fn poll_queue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.has_queued() {
            match self.state {
                State::Data => match ready!(self.stream.poll_data(cx)) {
                    Some(data) => self.queue(data.map_err(io::Error::other)?)?,
                    None => self.state = State::Trailers,
                },
                State::Trailers => {
                    let trailers = ready!(self.stream.poll_trailers(cx));
                    let trailers = trailers.map_err(io::Error::other)?.unwrap_or_default();
                    self.state = State::Ended;
                    // A body with a Content-Length has no place for them (RFC 9110 section 6.5).
                    if self.chunked {
                        self.before.clear();
                        self.before_at = 0;
                        self.before.extend_from_slice(b"0\r\n");
                        head::trailer_section(&mut self.before, &trailers);
                    }
                }
                State::Ended => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn queue(&mut self, data: Bytes) -> io::Result<()> {
        // The client may send as much again: one frame is held here, the rest waits with h2.
        self.stream.flow_control().release_capacity(data.len()).map_err(io::Error::other)?;
        self.before.clear();
        self.before_at = 0;
        if self.chunked && !data.is_empty() {
            framing::encode_chunk_head(&mut self.before, data.len());
            self.after = b"\r\n";
        }
        self.data = data;
        Ok(())
    }
}

impl Feed for Incoming {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_queue(cx)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        ready!(self.poll_queue(cx))?;
        let before = buffer.put(self.before.get(self.before_at..).unwrap_or_default());
        self.before_at += before;
        let data = buffer.put(&self.data);
        self.data.advance(data);
        // With no room left, nothing of what follows is put either.
        let after = if self.data.is_empty() { buffer.put(self.after) } else { 0 };
        self.after = self.after.get(after..).unwrap_or_default();
        Poll::Ready(Ok(before + data + after))
    }
}
