//! ○ A WebSocket: after the endpoint's 101, bytes both ways until one side ends, or until it has to
//! go and is told so in its own protocol.
//!
//! There is no limit on silence, for silence is what most WebSockets do: a peer that is gone is
//! noticed by the kernel's keep-alive probes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWrite;

use super::buffer::{Buffer, Store};
use super::deadline::Fired;
use super::exchange::Call;
use super::fate;
use super::http1::{Connection, listener_logs, reset_on_close};
use super::record::{Line, Way};
use super::sessions::{self, Kind};
use crate::clock;
use crate::http1::websocket::{Code, Frames, close_frame};
use crate::stream::Stream;
use crate::table::counters::{ServiceCounters, SessionEnd};
use crate::table::{Endpoint, Listener};
use crate::upstream::lease::{Chosen, Lease};

/// What an exchange leaves behind when its endpoint switched protocols.
pub(super) struct Switch {
    listener: Arc<Listener>,
    chosen: Chosen,
    stream: Stream,
    /// What the endpoint sent behind its answer.
    rest: Buffer,
    attempts: u32,
    first_byte: Option<Duration>,
    started: Duration,
}

/// A client's connection and an endpoint's, joined.
pub struct Tunnel {
    connection: Connection,
    endpoint: Stream,
    /// From the client to the endpoint, and back.
    up: Direction,
    down: Direction,
    /// Longest silence once one side has ended.
    half_closed: Duration,
    story: Story,
}

/// What is counted and logged of a tunnel.
struct Story {
    listener: Arc<Listener>,
    endpoint: Arc<Endpoint>,
    service: Arc<ServiceCounters>,
    attempts: u32,
    first_byte: Option<Duration>,
    started: Duration,
    /// Bytes that are in the listener's counters already.
    counted: (u64, u64),
}

/// One way through a tunnel.
#[derive(Debug, Default)]
struct Direction {
    buffer: Buffer,
    /// How far the buffer was written.
    at: usize,
    /// Follows what was written.
    frames: Frames,
    bytes: u64,
    /// Something was written that TLS may still hold.
    unflushed: bool,
    /// The source has ended,
    ended: bool,
    /// and the sink was told.
    done: bool,
}

/// Which side of a direction broke.
#[derive(Debug)]
enum Broken {
    Source,
    Sink,
}

/// How far a goodbye has come.
enum Goodbye {
    /// The frame under way has to end first.
    Border,
    /// This is to be written to the client.
    Speak { frame: Vec<u8>, written: usize },
    /// The client has been told and may answer.
    Listen,
}

/// A frame under way may end within this time, and a client may answer a Close frame.
const GRACE: Duration = Duration::from_secs(1);

impl Switch {
    pub(super) fn new(
        listener: &Arc<Listener>,
        call: &Call,
        (lease, rest): (Lease, Buffer),
        started: Duration,
    ) -> Self {
        let chosen = lease.chosen().clone();
        // From here on it is no request in flight any more.
        let Lease { connection, .. } = lease;
        let Call { attempts, first_byte, .. } = *call;
        let (listener, stream) = (Arc::clone(listener), connection.stream);
        Self { listener, chosen, stream, rest, attempts, first_byte, started }
    }
}

impl Tunnel {
    pub(super) fn new(mut connection: Connection, switch: Switch) -> Self {
        let Connection { local, ticket, side, .. } = &mut connection;
        let Switch { listener, chosen, stream, rest, attempts, first_byte, started } = switch;
        [&side.stream, &stream].into_iter().for_each(keep_alive);
        sessions::begin(local, ticket, Kind::Tunnel, &chosen);
        let endpoint = Arc::clone(&chosen.pool().endpoints[chosen.endpoint]);
        endpoint.counters.workers.of(local.worker).sessions.fetch_add(1, Ordering::Relaxed);

        // Of the request only what the log needs stays, in as many bytes as it has.
        let mut up = Direction::default();
        let head = match listener_logs(local) {
            true => Buffer::exact(&side.buffer.bytes()[..side.head]),
            false => Buffer::default(),
        };
        up.buffer = std::mem::replace(&mut side.buffer, head);
        up.buffer.consume(side.head);
        let story = Story {
            listener,
            endpoint,
            service: Arc::clone(&chosen.service().counters),
            attempts,
            first_byte,
            started,
            counted: (0, 0),
        };
        let half_closed = chosen.service().config.timeouts.idle;
        let down = Direction { buffer: rest, ..Direction::default() };
        connection.slim();
        Self { connection, endpoint: stream, up, down, half_closed, story }
    }

    /// Carries bytes until it is over.
    pub async fn run(mut self) {
        let end = std::future::poll_fn(|cx| self.poll(cx)).await;
        match end {
            SessionEnd::Peer | SessionEnd::Timeout => {}
            // The client has been told of the end already.
            _ if self.down.done => {}
            _ => self.say_goodbye(end).await,
        }
        self.report(end);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        let ticket = &self.connection.ticket;
        while let Poll::Ready(fired) = ticket.poll(cx) {
            match fired {
                Fired::SessionOver => return Poll::Ready(ticket.session().why()),
                Fired::Deadline => return Poll::Ready(SessionEnd::Timeout),
                _ => {}
            }
        }
        let (store, client) = (&self.connection.local.store, &mut self.connection.side.stream);
        match self.up.poll(cx, store, client, &mut self.endpoint) {
            Poll::Ready(Err(Broken::Source)) => return Poll::Ready(SessionEnd::Peer),
            Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(SessionEnd::Endpoint),
            _ => {}
        }
        match self.down.poll(cx, store, &mut self.endpoint, client) {
            Poll::Ready(Err(Broken::Source)) => return Poll::Ready(SessionEnd::Endpoint),
            Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(SessionEnd::Peer),
            _ => {}
        }
        let moved = self.count();
        match (self.up.done, self.down.done) {
            (true, true) => return Poll::Ready(SessionEnd::Peer),
            (false, false) => {}
            // Nothing else would ever end what one side has left.
            _ if moved || !self.connection.ticket.has_deadline() => {
                self.connection.ticket.set(self.half_closed);
            }
            _ => {}
        }
        Poll::Pending
    }

    /// Adds what moved to the listener's counters; false if nothing did.
    fn count(&mut self) -> bool {
        let now = (self.up.bytes, self.down.bytes);
        let before = std::mem::replace(&mut self.story.counted, now);
        let cells = self.story.listener.counters.workers.of(self.connection.local.worker);
        cells.received_bytes.add(now.0 - before.0);
        cells.sent_bytes.add(now.1 - before.1);
        now != before
    }

    /// Ends both sides as RFC 6455 wants it (section 7.1.2): a Close frame where one may stand, the
    /// client's answer, then the connection. In the middle of a frame nothing can be said, and the
    /// connection is reset.
    async fn say_goodbye(&mut self, end: SessionEnd) {
        self.connection.ticket.set(GRACE);
        let mut goodbye = Goodbye::Border;
        let told = std::future::poll_fn(|cx| {
            while let Poll::Ready(fired) = self.connection.ticket.poll(cx) {
                if fired == Fired::Deadline {
                    return Poll::Ready(matches!(goodbye, Goodbye::Listen));
                }
            }
            self.poll_goodbye(cx, end, &mut goodbye)
        })
        .await;
        self.count();
        if told {
            self.connection.linger().await;
        } else {
            reset_on_close(&self.connection.side.stream);
        }
    }

    /// Ready with whether the client was told.
    fn poll_goodbye(
        &mut self,
        cx: &mut Context<'_>,
        end: SessionEnd,
        goodbye: &mut Goodbye,
    ) -> Poll<bool> {
        loop {
            match goodbye {
                Goodbye::Border => {
                    let Ok(()) = ready!(self.poll_border(cx, end)) else {
                        return Poll::Ready(false);
                    };
                    if end != SessionEnd::Endpoint {
                        self.leave_endpoint(cx);
                    }
                    let mut frame = Vec::new();
                    if !self.down.will_be_closing() {
                        close_frame(&mut frame, Code::ServiceRestart, fate::words(end), None);
                    }
                    *goodbye = Goodbye::Speak { frame, written: 0 };
                }
                Goodbye::Speak { frame, written } => {
                    let client = &mut self.connection.side.stream;
                    let Ok(()) = ready!(self.down.poll_write(cx, client)) else {
                        return Poll::Ready(false);
                    };
                    let Ok(()) = ready!(poll_write_all(cx, client, frame, written)) else {
                        return Poll::Ready(false);
                    };
                    self.up.forget();
                    self.connection.ticket.set(GRACE);
                    *goodbye = Goodbye::Listen;
                }
                Goodbye::Listen => {
                    let local = &self.connection.local;
                    let client = &mut self.connection.side.stream;
                    while !self.up.frames.closing() && !self.up.ended {
                        let Ok(()) = ready!(self.up.poll_read(cx, &local.store, client)) else {
                            return Poll::Ready(true);
                        };
                        self.up.forget();
                    }
                    return Poll::Ready(true);
                }
            }
        }
    }

    /// Ready once what is left to write to the client ends with a frame.
    fn poll_border(&mut self, cx: &mut Context<'_>, end: SessionEnd) -> Poll<Result<(), Broken>> {
        let Self { connection, endpoint, down, .. } = self;
        let (store, client) = (&connection.local.store, &mut connection.side.stream);
        // What an endpoint that is gone has sent before, perhaps its own Close frame, is here.
        while end == SessionEnd::Endpoint && !down.ended {
            ready!(down.poll_write(cx, client)).map_err(|_| Broken::Sink)?;
            let read = ready!(down.poll_read(cx, store, endpoint));
            down.ended |= read.is_err();
        }
        loop {
            if let Some(length) = down.frames.last_border(down.unwritten()) {
                down.buffer.truncate(down.at + length);
                return Poll::Ready(Ok(()));
            }
            if down.ended {
                return Poll::Ready(Err(Broken::Source));
            }
            ready!(down.poll_write(cx, client)).map_err(|_| Broken::Sink)?;
            ready!(down.poll_read(cx, store, endpoint)).map_err(|_| Broken::Source)?;
        }
    }

    /// Tells the endpoint that its client leaves, as far as that is possible at once.
    fn leave_endpoint(&mut self, cx: &mut Context<'_>) {
        let Self { connection, endpoint, up, .. } = self;
        let Some(length) = up.frames.last_border(up.unwritten()) else { return };
        let mut last = up.unwritten()[..length].to_vec();
        if !up.will_be_closing() {
            let key = (connection.local.random() as u32).to_ne_bytes();
            close_frame(&mut last, Code::GoingAway, "", Some(key));
        }
        if let Poll::Ready(Ok(())) = poll_write_all(cx, endpoint, &last, &mut 0) {
            let _ = Pin::new(endpoint).poll_shutdown(cx);
        }
    }

    fn report(&self, end: SessionEnd) {
        let Story { listener, endpoint, service, attempts, first_byte, started, .. } = &self.story;
        let local = &self.connection.local;
        service.workers.of(local.worker).sessions_ended[end as usize].increment();
        if listener_logs(local) && self.connection.side.head <= self.connection.side.buffer.len() {
            let way = Way {
                service: Some(&endpoint.service),
                pool: Some(&endpoint.pool),
                endpoint: Some(&endpoint.config.name),
                attempts: *attempts,
                first_byte: *first_byte,
            };
            let reason = Some(SessionEnd::ALL[end as usize].1).filter(|_| end != SessionEnd::Peer);
            let line = Line {
                way,
                status: 101,
                reason,
                body_bytes: (self.up.bytes, self.down.bytes),
                started: *started,
                duration: clock::now().saturating_sub(*started),
            };
            self.connection.log(listener, line);
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let local = &self.connection.local;
        let cells = self.story.endpoint.counters.workers.of(local.worker);
        cells.sessions.fetch_sub(1, Ordering::Relaxed);
        self.up.buffer.release(&local.store);
        self.down.buffer.release(&local.store);
    }
}

impl Direction {
    /// Moves bytes; ready once the source has ended and the sink was told.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        store: &Store,
        source: &mut Stream,
        sink: &mut Stream,
    ) -> Poll<Result<(), Broken>> {
        while !self.done {
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
        Poll::Ready(Ok(()))
    }

    fn unwritten(&self) -> &[u8] {
        &self.buffer.bytes()[self.at..]
    }

    /// Writes and flushes all there is.
    fn poll_write(&mut self, cx: &mut Context<'_>, sink: &mut Stream) -> Poll<io::Result<()>> {
        while self.at < self.buffer.len() {
            let bytes = &self.buffer.bytes()[self.at..];
            let count = ready!(Pin::new(&mut *sink).poll_write(cx, bytes))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.frames.advance(&bytes[..count]);
            self.at += count;
            self.bytes += count as u64;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(sink).poll_flush(cx))?;
            self.unflushed = false;
        }
        self.at = 0;
        self.buffer.truncate(0);
        Poll::Ready(Ok(()))
    }

    /// Reads once into the empty buffer, which is held only while there is something to read.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        store: &Store,
        source: &mut Stream,
    ) -> Poll<io::Result<()>> {
        let filled = source.poll_readable(cx)?.map(|()| {
            self.buffer.ensure(store);
        });
        let filled = match filled {
            Poll::Ready(()) => self.buffer.poll_fill(cx, source)?,
            Poll::Pending => Poll::Pending,
        };
        match filled {
            Poll::Ready(count) => {
                self.ended = count == 0;
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                self.buffer.release(store);
                Poll::Pending
            }
        }
    }

    /// A Close frame was written, or waits to be.
    fn will_be_closing(&self) -> bool {
        let mut frames = self.frames.clone();
        frames.advance(self.unwritten());
        frames.closing()
    }

    /// Drops what is left to write, following its frames all the same.
    fn forget(&mut self) {
        let unwritten = &self.buffer.bytes()[self.at..];
        self.frames.advance(unwritten);
        self.at = 0;
        self.buffer.truncate(0);
    }
}

/// Writes and flushes `bytes` from `written` on.
fn poll_write_all(
    cx: &mut Context<'_>,
    sink: &mut Stream,
    bytes: &[u8],
    written: &mut usize,
) -> Poll<io::Result<()>> {
    while *written < bytes.len() {
        let count = ready!(Pin::new(&mut *sink).poll_write(cx, &bytes[*written..]))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        *written += count;
    }
    Pin::new(sink).poll_flush(cx)
}

/// Has the kernel notice within a minute and a half that the peer is gone without a word.
fn keep_alive(stream: &Stream) {
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    // Without it the tunnel works all the same.
    let _ = SockRef::from(stream.tcp()).set_tcp_keepalive(&probes);
}
