//! ○ One direction of an exchange: what is to be written first (a head), then a body, from the
//! bytes of one stream to the other, framing parsed on the way in and written anew on the way out.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::buffer::{Buffer, Store};
use crate::http1::framing::{self, FramingError};
use crate::http1::{Body, Decoder, Step};
use crate::stream::Stream;

/// State of one direction. Reused from message to message.
#[derive(Debug)]
pub struct Pump {
    decoder: Decoder,
    /// The body goes out in chunks.
    chunked: bool,
    /// Written first: a head, chunk framing, small chunks as a whole.
    lead: Vec<u8>,
    lead_written: usize,
    /// Then these bytes of the buffer.
    data: (usize, usize),
    /// Then the end of the chunk they are in, as far as it is not written yet.
    tail: &'static [u8],
    /// How far the decoder has come in the buffer.
    at: usize,
    /// Everything is in `lead`, `data` and `tail`; nothing more will be read.
    ended: bool,
    /// Bytes of body passed on, framing left out.
    body_bytes: u64,
    /// Bytes written in all, as the connection sees them before TLS.
    wire_bytes: u64,
    /// Some body bytes are no longer in the buffer.
    forgotten: bool,
    /// Something was written that TLS may still hold.
    unflushed: bool,
}

/// Which side an exchange broke on.
#[derive(Debug)]
pub enum Broken {
    /// The stream read from failed, or ended before the body did.
    Source(io::Error),
    /// The stream written to failed.
    Sink(io::Error),
    /// The body's framing is wrong.
    Framing(FramingError),
    /// The body is longer than allowed.
    TooLarge,
}

/// How far an upload got.
#[derive(Debug, Clone, Copy)]
pub struct Upload {
    /// Head and body were written whole.
    pub done: bool,
    /// All of it could be sent again.
    pub may_replay: bool,
    /// Bytes written to the connection.
    pub wire_bytes: u64,
    /// The next bytes must come from the client.
    pub waits_for_client: bool,
}

/// How far an answer got.
#[derive(Debug, Clone, Copy)]
pub struct Download {
    /// Bytes of the endpoint's buffer that belong to the answer, once it was read whole.
    pub position: usize,
    pub wire_bytes: u64,
}

/// What a pump can read a message's bytes from, framed as HTTP/1.1 frames them.
pub trait Feed {
    /// Ready when a read would give bytes, the end or an error.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Reads once into the free room of `buffer`, which is not empty; 0 is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut Buffer) -> Poll<io::Result<usize>>;
}

impl Feed for Stream {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_readable(self, cx)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        buffer.poll_fill(cx, self)
    }
}

/// Where a pump reads, and within which bounds.
#[derive(Debug)]
pub struct Source<'a, S = Stream> {
    pub stream: &'a mut S,
    pub buffer: &'a mut Buffer,
    pub store: &'a Store,
    /// Bytes at the start of the buffer that must stay: the head.
    pub keep: usize,
    /// Body bytes are kept too as long as there is room, so that they can be sent again.
    pub replay: bool,
    /// Longest body, in bytes.
    pub body_max: u64,
}

impl Default for Pump {
    fn default() -> Self {
        Self {
            decoder: Decoder::new(Body::Empty),
            chunked: false,
            lead: Vec::new(),
            lead_written: 0,
            data: (0, 0),
            tail: b"",
            at: 0,
            ended: false,
            body_bytes: 0,
            wire_bytes: 0,
            forgotten: false,
            unflushed: false,
        }
    }
}

impl Pump {
    /// Chunks up to this size are copied and written together.
    const SMALL_CHUNK: usize = 2048;
    /// A body up to this size is copied behind its head.
    const SMALL_BODY: usize = 4096;
    const LEAD_MAX: usize = 32 * 1024;

    /// Starts a message whose body stands, as far as it came, at `at` of the source's buffer.
    /// The head is to be appended to the returned `Vec`.
    pub fn begin(&mut self, body: Body, chunked: bool, at: usize) -> &mut Vec<u8> {
        self.decoder = Decoder::new(body);
        self.chunked = chunked;
        self.lead.clear();
        self.lead_written = 0;
        self.data = (0, 0);
        self.tail = b"";
        self.at = at;
        self.ended = false;
        self.body_bytes = 0;
        self.wire_bytes = 0;
        self.forgotten = false;
        self.unflushed = false;
        &mut self.lead
    }

    /// The message was read, written and flushed whole.
    pub fn is_done(&self) -> bool {
        self.ended && !self.has_pending() && !self.unflushed
    }

    /// The message was read whole.
    pub fn is_read(&self) -> bool {
        self.ended
    }

    /// Everything of the body read so far is still in the buffer.
    pub fn may_replay(&self) -> bool {
        !self.forgotten
    }

    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    pub fn wire_bytes(&self) -> u64 {
        self.wire_bytes
    }

    /// The first byte of the buffer that is not of this message, once it was read whole.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Gives back memory that an unusual message needed.
    pub fn trim(&mut self) {
        if self.lead.capacity() > Self::LEAD_MAX {
            self.lead = Vec::new();
        }
    }

    /// Moves bytes until the message is done or neither side is ready.
    pub fn poll<S: Feed>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Source<'_, S>,
        sink: &mut Stream,
    ) -> Poll<Result<(), Broken>> {
        loop {
            self.prepare(source)?;
            if self.has_pending() {
                ready!(self.poll_write(cx, source.buffer, sink)).map_err(Broken::Sink)?;
                continue;
            }
            if self.unflushed {
                ready!(Pin::new(&mut *sink).poll_flush(cx)).map_err(Broken::Sink)?;
                self.unflushed = false;
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_read(cx, source))?;
        }
    }

    /// Skips the body of a message nobody wants as far as it is in the buffer. True if that was all
    /// of it.
    pub fn skip_buffered<S>(&mut self, source: &Source<'_, S>) -> bool {
        loop {
            let before = self.at;
            if self.prepare(source).is_err() {
                return false;
            }
            self.drop_pending();
            if self.ended || self.at == before {
                return self.ended;
            }
        }
    }

    /// A head begun with [`Pump::begin`] is not written whole yet.
    pub fn has_lead(&self) -> bool {
        !self.lead.is_empty()
    }

    /// What is left of a head that was written in part and is not to be followed by its body: the
    /// other side cannot take anything else before it.
    pub fn take_half_lead(&mut self) -> Vec<u8> {
        // Mostly there is none, and the memory stays.
        if self.lead_written == 0 {
            return Vec::new();
        }
        let rest = self.lead.split_off(self.lead_written);
        self.lead.clear();
        self.lead_written = 0;
        rest
    }

    /// Writes the head alone.
    pub fn poll_lead(&mut self, cx: &mut Context<'_>, sink: &mut Stream) -> Poll<io::Result<()>> {
        while self.has_lead() {
            ready!(self.poll_write(cx, &Buffer::default(), sink))?;
        }
        Poll::Ready(Ok(()))
    }

    /// The next byte must come from the source.
    pub fn waits_for_source(&self) -> bool {
        !self.ended && !self.has_pending() && !self.unflushed
    }

    fn has_pending(&self) -> bool {
        self.lead_written < self.lead.len() || self.data.0 < self.data.1 || !self.tail.is_empty()
    }

    fn drop_pending(&mut self) {
        self.lead.clear();
        self.lead_written = 0;
        self.data = (0, 0);
        self.tail = b"";
    }

    /// Decodes what is in the buffer into something to write, unless a run of data is waiting.
    fn prepare<S>(&mut self, source: &Source<'_, S>) -> Result<(), Broken> {
        while !self.ended && self.data.0 == self.data.1 && self.tail.is_empty() {
            let input = &source.buffer.bytes()[self.at..];
            match self.decoder.step(input).map_err(Broken::Framing)? {
                Step::Data { skip, len } => {
                    self.body_bytes += len as u64;
                    if self.body_bytes > source.body_max {
                        return Err(Broken::TooLarge);
                    }
                    let start = self.at + skip;
                    self.at = start + len;
                    self.queue(&source.buffer.bytes()[start..self.at], start);
                }
                Step::More => {
                    self.at = source.buffer.len();
                    return Ok(());
                }
                Step::End { skip } => {
                    self.at += skip;
                    self.finish();
                }
            }
        }
        Ok(())
    }

    /// Queues one run of data, which stands at `start` of the buffer.
    fn queue(&mut self, data: &[u8], start: usize) {
        if !self.chunked && data.len() <= Self::SMALL_BODY && self.has_lead() {
            // One plain write costs less than a gathering one.
            self.lead.extend_from_slice(data);
        } else if !self.chunked {
            self.data = (start, start + data.len());
        } else if data.len() <= Self::SMALL_CHUNK && self.lead.len() < Self::LEAD_MAX {
            framing::encode_chunk(&mut self.lead, data);
        } else {
            framing::encode_chunk_head(&mut self.lead, data.len());
            self.data = (start, start + data.len());
            self.tail = b"\r\n";
        }
    }

    fn finish(&mut self) {
        self.ended = true;
        if self.chunked {
            framing::encode_last_chunk(&mut self.lead, self.decoder.trailers());
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &Buffer,
        sink: &mut Stream,
    ) -> Poll<io::Result<()>> {
        let lead = &self.lead[self.lead_written..];
        let data = &buffer.bytes()[self.data.0..self.data.1];
        let sink = Pin::new(sink);
        let written = if data.is_empty() && self.tail.is_empty() {
            ready!(sink.poll_write(cx, lead))?
        } else if lead.is_empty() && self.tail.is_empty() {
            ready!(sink.poll_write(cx, data))?
        } else {
            let slices = [IoSlice::new(lead), IoSlice::new(data), IoSlice::new(self.tail)];
            ready!(sink.poll_write_vectored(cx, &slices))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, written: usize) {
        self.wire_bytes += written as u64;
        self.unflushed = true;
        let lead = written.min(self.lead.len() - self.lead_written);
        let data = (written - lead).min(self.data.1 - self.data.0);
        self.lead_written += lead;
        self.data.0 += data;
        if self.data.0 == self.data.1 {
            // The buffer may be shorter by the next write: no place in it is remembered.
            self.data = (0, 0);
        }
        self.tail = &self.tail[written - lead - data..];
        if self.lead_written == self.lead.len() {
            self.lead.clear();
            self.lead_written = 0;
        }
    }

    fn poll_read<S: Feed>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Source<'_, S>,
    ) -> Poll<Result<(), Broken>> {
        if source.keep == 0 && self.at == source.buffer.len() {
            // Nothing is left in it: no buffer is held while the source is silent.
            self.at = 0;
            source.buffer.truncate(0);
            if source.stream.poll_readable(cx).map_err(Broken::Source)?.is_pending() {
                source.buffer.release(source.store);
                return Poll::Pending;
            }
        }
        source.buffer.ensure(source.store);
        self.make_room(source);
        let count = ready!(source.stream.poll_fill(cx, source.buffer)).map_err(Broken::Source)?;
        if count == 0 {
            if !self.decoder.may_close() {
                return Poll::Ready(Err(Broken::Source(io::ErrorKind::UnexpectedEof.into())));
            }
            self.finish();
        }
        Poll::Ready(Ok(()))
    }

    /// Room for the next read: what was passed on is dropped (or kept for a replay while there is
    /// room), and a body that has much to come gets a large buffer.
    fn make_room<S>(&mut self, source: &mut Source<'_, S>) {
        let passed_on = self.at == source.buffer.len();
        if passed_on && source.replay && source.buffer.room() == 0 {
            source.buffer.grow(source.store, Buffer::LARGE);
        }
        if passed_on && !(source.replay && source.buffer.room() > 0) {
            self.forgotten |= self.at > source.keep;
            source.buffer.truncate(source.keep);
            self.at = source.keep;
        }
        let much = self.decoder.remaining().is_none_or(|left| left > source.buffer.room() as u64);
        if much && self.body_bytes > 0 {
            source.buffer.grow(source.store, Buffer::LARGE);
        }
        if source.buffer.room() == 0 && self.at > source.keep {
            self.forgotten = true;
            source.buffer.close_gap(source.keep, self.at);
            self.at = source.keep;
        }
        if source.buffer.room() == 0 {
            source.buffer.grow(source.store, Buffer::LARGE);
        }
    }
}

#[cfg(test)]
#[path = "pump_tests.rs"]
mod tests;
