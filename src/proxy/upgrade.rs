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

use tokio::io::AsyncWrite;

use super::buffer::Buffer;
use super::deadline::Fired;
use super::exchange::Call;
use super::fate;
use super::http1::{Connection, listener_logs, reset_on_close};
use super::record::{Line, Way};
use super::relay::{Broken, Direction, Ends, Relay, keep_alive};
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
    relay: Relay<Frames>,
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
        let mut relay = Relay::default();
        let head = match listener_logs(local) {
            true => Buffer::exact(&side.buffer.bytes()[..side.head]),
            false => Buffer::default(),
        };
        relay.up.buffer = std::mem::replace(&mut side.buffer, head);
        relay.up.buffer.consume(side.head);
        relay.down.buffer = rest;
        relay.half_closed = chosen.service().config.timeouts.idle;
        let story = Story {
            listener,
            endpoint,
            service: Arc::clone(&chosen.service().counters),
            attempts,
            first_byte,
            started,
        };
        connection.slim();
        Self { connection, endpoint: stream, relay, story }
    }

    /// Carries bytes until it is over.
    pub async fn run(mut self) {
        let end = std::future::poll_fn(|cx| self.poll(cx)).await;
        match end {
            SessionEnd::Peer | SessionEnd::Timeout => {}
            // The client has been told of the end already.
            _ if self.relay.down.done => {}
            _ => self.say_goodbye(end).await,
        }
        self.report(end);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        let Self { connection: Connection { local, ticket, side, .. }, .. } = self;
        let mut ends = Ends {
            local,
            ticket,
            listener: &self.story.listener,
            client: &mut side.stream,
            endpoint: &mut self.endpoint,
        };
        self.relay.poll(cx, &mut ends)
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
        self.relay.count(&self.connection.local, &self.story.listener);
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
                    if !will_be_closing(&self.relay.down) {
                        close_frame(&mut frame, Code::ServiceRestart, fate::words(end), None);
                    }
                    *goodbye = Goodbye::Speak { frame, written: 0 };
                }
                Goodbye::Speak { frame, written } => {
                    let client = &mut self.connection.side.stream;
                    let Ok(()) = ready!(self.relay.down.poll_write(cx, client)) else {
                        return Poll::Ready(false);
                    };
                    let Ok(()) = ready!(poll_write_all(cx, client, frame, written)) else {
                        return Poll::Ready(false);
                    };
                    self.relay.up.forget();
                    self.connection.ticket.set(GRACE);
                    *goodbye = Goodbye::Listen;
                }
                Goodbye::Listen => {
                    let local = &self.connection.local;
                    let client = &mut self.connection.side.stream;
                    while !self.relay.up.frames.closing() && !self.relay.up.ended {
                        let Ok(()) = ready!(self.relay.up.poll_read(cx, &local.store, client))
                        else {
                            return Poll::Ready(true);
                        };
                        self.relay.up.forget();
                    }
                    return Poll::Ready(true);
                }
            }
        }
    }

    /// Ready once what is left to write to the client ends with a frame.
    fn poll_border(&mut self, cx: &mut Context<'_>, end: SessionEnd) -> Poll<Result<(), Broken>> {
        let Self { connection, endpoint, relay: Relay { down, .. }, .. } = self;
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
        let Self { connection, endpoint, relay: Relay { up, .. }, .. } = self;
        let Some(length) = up.frames.last_border(up.unwritten()) else { return };
        let mut last = up.unwritten()[..length].to_vec();
        if !will_be_closing(up) {
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
                body_bytes: (self.relay.up.bytes, self.relay.down.bytes),
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
        self.relay.release(&local.store);
    }
}

/// A Close frame was written, or waits to be.
fn will_be_closing(direction: &Direction<Frames>) -> bool {
    let mut frames = direction.frames.clone();
    frames.advance(direction.unwritten());
    frames.closing()
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
