//! ○ Bytes both ways between two streams until both sides have ended or something cuts them off:
//! what a WebSocket and a TCP connection have in common.
//!
//! Each direction reads only what it has written before, so a slow reader slows its writer down and
//! memory is bounded; a buffer is held only while there is something in it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWrite;

use super::buffer::{Buffer, Store};
use super::deadline::{Fired, Ticket};
use super::local::Local;
use crate::http1::websocket::Frames;
use crate::stream::Stream;
use crate::table::Listener;
use crate::table::counters::SessionEnd;

/// What follows the bytes of a direction as they are written.
pub(super) trait Follow: Default {
    fn advance(&mut self, bytes: &[u8]);
}

/// Bytes that mean nothing to us.
impl Follow for () {
    fn advance(&mut self, _: &[u8]) {}
}

impl Follow for Frames {
    fn advance(&mut self, bytes: &[u8]) {
        Self::advance(self, bytes);
    }
}

/// Both directions.
#[derive(Debug, Default)]
pub(super) struct Relay<F> {
    /// From the client to the endpoint, and back.
    pub(super) up: Direction<F>,
    pub(super) down: Direction<F>,
    /// Longest silence; none: it may be silent for ever.
    pub(super) silence: Option<Duration>,
    /// Longest silence once one side has ended.
    pub(super) half_closed: Duration,
    /// One side has ended.
    is_half_closed: bool,
    /// Bytes that are in the listener's counters already.
    counted: (u64, u64),
}

/// What a relay lies between, and where its work is noted.
pub(super) struct Ends<'a> {
    pub(super) local: &'a Local,
    pub(super) ticket: &'a Ticket,
    pub(super) listener: &'a Listener,
    pub(super) client: &'a mut Stream,
    pub(super) endpoint: &'a mut Stream,
}

/// One way through a relay.
#[derive(Debug, Default)]
pub(super) struct Direction<F> {
    pub(super) buffer: Buffer,
    /// How far the buffer was written.
    pub(super) at: usize,
    /// Follows what was written.
    pub(super) frames: F,
    pub(super) bytes: u64,
    /// Something was written that TLS may still hold.
    unflushed: bool,
    /// The last read filled the buffer: a larger one needs fewer system calls.
    was_full: bool,
    /// The source has ended,
    pub(super) ended: bool,
    /// and the sink was told.
    pub(super) done: bool,
}

/// Which side of a direction broke.
#[derive(Debug)]
pub(super) enum Broken {
    Source,
    Sink,
}

impl<F: Follow> Relay<F> {
    /// Ready with how it ended; [`Relay::is_whole`] says whether in good order.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, ends: &mut Ends<'_>) -> Poll<SessionEnd> {
        while let Poll::Ready(fired) = ends.ticket.poll(cx) {
            match fired {
                Fired::SessionOver => return Poll::Ready(ends.ticket.session().why()),
                Fired::Deadline => return Poll::Ready(SessionEnd::Timeout),
                _ => {}
            }
        }
        let store = &ends.local.store;
        match self.up.poll(cx, store, ends.client, ends.endpoint) {
            Poll::Ready(Err(Broken::Source)) => return Poll::Ready(SessionEnd::Peer),
            Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(SessionEnd::Endpoint),
            _ => {}
        }
        match self.down.poll(cx, store, ends.endpoint, ends.client) {
            Poll::Ready(Err(Broken::Source)) => return Poll::Ready(SessionEnd::Endpoint),
            Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(SessionEnd::Peer),
            _ => {}
        }
        let moved = self.count(ends.local, ends.listener);
        if self.is_whole() {
            return Poll::Ready(SessionEnd::Peer);
        }
        self.set_deadline(ends.ticket, moved);
        Poll::Pending
    }

    /// Nothing else would ever end what one side has left.
    fn set_deadline(&mut self, ticket: &Ticket, moved: bool) {
        let half_closed = self.up.done || self.down.done;
        let begins = half_closed && !std::mem::replace(&mut self.is_half_closed, half_closed);
        match self.silence {
            _ if half_closed && (moved || begins) => ticket.set(self.half_closed),
            Some(silence) if !half_closed && moved => ticket.set(silence),
            _ => {}
        }
    }

    /// Both sides have ended, and each was told of the other.
    pub(super) fn is_whole(&self) -> bool {
        self.up.done && self.down.done
    }

    /// Adds what moved to the listener's counters; false if nothing did.
    pub(super) fn count(&mut self, local: &Local, listener: &Listener) -> bool {
        let now = (self.up.bytes, self.down.bytes);
        let before = std::mem::replace(&mut self.counted, now);
        let cells = listener.counters.workers.of(local.worker);
        cells.received_bytes.add(now.0 - before.0);
        cells.sent_bytes.add(now.1 - before.1);
        now != before
    }

    pub(super) fn release(&mut self, store: &Store) {
        self.up.buffer.release(store);
        self.down.buffer.release(store);
    }
}

impl<F: Follow> Direction<F> {
    /// Reads in a row after which others have their turn.
    const ROUNDS: usize = 16;

    /// Moves bytes; ready once the source has ended and the sink was told. Whoever moves them
    /// without looking at them (`splice`) begins here, where both streams are plain and the buffer
    /// is empty.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        store: &Store,
        source: &mut Stream,
        sink: &mut Stream,
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..Self::ROUNDS {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_write(cx, sink)).map_err(|_| Broken::Sink)?;
            if self.ended {
                // A sink that is gone already cannot be told, and need not be.
                let _ = ready!(Pin::new(&mut *sink).poll_shutdown(cx));
                self.buffer.release(store);
                self.done = true;
            } else {
                ready!(self.poll_read(cx, store, source)).map_err(|_| Broken::Source)?;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    pub(super) fn unwritten(&self) -> &[u8] {
        &self.buffer.bytes()[self.at..]
    }

    /// Writes and flushes all there is.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut Stream,
    ) -> Poll<io::Result<()>> {
        while self.at < self.buffer.len() {
            ready!(self.poll_write_once(cx, sink))?;
        }
        if self.unflushed {
            ready!(Pin::new(sink).poll_flush(cx))?;
            self.unflushed = false;
        }
        self.at = 0;
        self.buffer.truncate(0);
        Poll::Ready(Ok(()))
    }

    /// Writes some of what there is, which must be something, and keeps it.
    pub(super) fn poll_write_once(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut Stream,
    ) -> Poll<io::Result<()>> {
        let bytes = &self.buffer.bytes()[self.at..];
        let count = ready!(Pin::new(&mut *sink).poll_write(cx, bytes))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.frames.advance(&bytes[..count]);
        self.at += count;
        self.bytes += count as u64;
        self.unflushed = true;
        Poll::Ready(Ok(()))
    }

    /// Reads once, which needs room, into a buffer that is held only while there is something to
    /// read.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        store: &Store,
        source: &mut Stream,
    ) -> Poll<io::Result<()>> {
        let filled = source.poll_readable(cx)?.map(|()| {
            self.buffer.ensure(store);
            if self.was_full {
                self.buffer.grow(store, Buffer::LARGE);
            }
        });
        let filled = match filled {
            Poll::Ready(()) => self.buffer.poll_fill(cx, source)?,
            Poll::Pending => Poll::Pending,
        };
        match filled {
            Poll::Ready(count) => {
                self.ended = count == 0;
                self.was_full = self.buffer.room() == 0;
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                self.was_full = false;
                if self.buffer.is_empty() {
                    self.buffer.release(store);
                }
                Poll::Pending
            }
        }
    }

    /// Drops what is left to write, following it all the same.
    pub(super) fn forget(&mut self) {
        let unwritten = &self.buffer.bytes()[self.at..];
        self.frames.advance(unwritten);
        self.at = 0;
        self.buffer.truncate(0);
    }
}

/// Has the kernel notice within a minute and a half that the peer is gone without a word.
pub(super) fn keep_alive(stream: &Stream) {
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    // Without it bytes move all the same.
    let _ = SockRef::from(stream.tcp()).set_tcp_keepalive(&probes);
}
