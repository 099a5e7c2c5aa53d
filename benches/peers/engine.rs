//! The loop: clients and endpoints in one thread, on one epoll instance.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::net::sockopt;
use rustls::ClientConfig;

use crate::Result;
use crate::client::{Client, Scratch, Step};
use crate::endpoint::{Answers, EndpointConn};
use crate::histogram::Histogram;

/// More failed requests than this in one measurement, and there is nothing to measure.
const MAX_ERRORS: u64 = 100;
/// Bytes an endpoint may have sent that the proxy has not read; the kernel doubles it. Loopback
/// would take a whole large body at once, out of the caches before the proxy sees it, where a
/// network takes what is under way.
const SEND_BUFFER: usize = 256 << 10;
/// The kind of an event's owner is in the upper half of its token, the index in the lower.
const LISTENER: u64 = 0;
const ENDPOINT: u64 = 1;
const CLIENT: u64 = 2;

/// What a connection does once it has its response.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Ask again on the same connection.
    Again,
    /// Wait for the proxy to close, then connect anew.
    Reconnect,
    /// Stay open and idle, while another connection is opened until there are enough.
    Rest,
}

/// The load to generate.
pub(crate) struct Plan {
    pub(crate) target: SocketAddr,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) after: After,
    /// Connections with a request under way at any time.
    pub(crate) connections: usize,
    /// Connections in all; more than `connections` with [`After::Rest`] alone.
    pub(crate) total: usize,
}

/// What happened since the counts were last reset.
pub(crate) struct Counts {
    pub(crate) requests: u64,
    /// Requests that failed, for whatever reason.
    pub(crate) errors: u64,
    /// Kept connections the proxy closed between two requests.
    pub(crate) closed: u64,
    pub(crate) latency: Histogram,
    /// Time the generator was at work, and not merely looking for something to do.
    pub(crate) busy: Duration,
}

impl Counts {
    fn new() -> Self {
        Self { requests: 0, errors: 0, closed: 0, latency: Histogram::new(), busy: Duration::ZERO }
    }
}

/// Generator and endpoints.
pub(crate) struct Engine {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    listeners: Vec<TcpListener>,
    answers: Answers,
    body: usize,
    endpoints: Vec<Option<EndpointConn>>,
    free: Vec<usize>,
    plan: Option<Plan>,
    clients: Vec<Client>,
    scratch: Scratch,
    counts: Counts,
    last_error: Option<String>,
}

impl Engine {
    /// Two endpoints listening on ports of their own, answering with bodies of `body` bytes.
    pub(crate) fn new(body: usize) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut listeners = Vec::new();
        for index in 0..2 {
            let listener = TcpListener::bind(("127.0.0.1", 0))?;
            listener.set_nonblocking(true)?;
            epoll::add(&epoll, &listener, token(LISTENER, index), epoll::EventFlags::IN)?;
            listeners.push(listener);
        }
        Ok(Self {
            epoll,
            events: Vec::with_capacity(256),
            listeners,
            answers: Answers::new(body),
            body,
            endpoints: Vec::new(),
            free: Vec::new(),
            plan: None,
            clients: Vec::new(),
            scratch: Scratch::new(),
            counts: Counts::new(),
            last_error: None,
        })
    }

    /// Where the endpoints listen.
    pub(crate) fn endpoints(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(crate) fn reset_counts(&mut self) {
        self.counts = Counts::new();
    }

    /// Drops the clients of an earlier plan and opens those of this one.
    pub(crate) fn start(&mut self, plan: Plan) -> Result<()> {
        self.clients.clear();
        self.reset_counts();
        let connections = plan.connections;
        self.plan = Some(plan);
        for index in 0..connections {
            self.open(index)?;
        }
        Ok(())
    }

    /// Closes all clients.
    pub(crate) fn stop(&mut self) {
        self.clients.clear();
        self.plan = None;
    }

    /// Runs for a while, asleep when there is nothing to do.
    pub(crate) fn run_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(left)?;
        }
    }

    /// Runs for a while without ever sleeping.
    ///
    /// Whoever writes to a sleeping process pays for waking it, which on a virtual machine means
    /// leaving it. A proxy that keeps the generator busy would be spared that, a slower one would
    /// not; with clients on a network neither pays. So the generator stays awake while it measures.
    pub(crate) fn spin_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn(Duration::ZERO)?;
        }
        Ok(())
    }

    /// Runs until that many requests are done; an error if they are not within `limit`.
    pub(crate) fn run_until_done(&mut self, requests: u64, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while self.counts.requests < requests {
            if let Some(error) = self.last_error.take() {
                return Err(error.into());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let done = self.counts.requests;
                return Err(format!("{done} of {requests} answered within {limit:?}").into());
            }
            self.turn(left)?;
        }
        Ok(())
    }

    fn turn(&mut self, wait: Duration) -> Result<()> {
        let timeout = Timespec::try_from(wait)?;
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if events.is_empty() {
            self.events = events;
            return Ok(());
        }
        let start = Instant::now();
        for event in &events {
            let token = event.data.u64();
            let index = (token & u64::from(u32::MAX)) as usize;
            match token >> 32 {
                LISTENER => self.accept(index)?,
                ENDPOINT => self.on_endpoint(index)?,
                _ => self.on_client(index)?,
            }
        }
        self.events = events;
        self.counts.busy += start.elapsed();
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> Result<()> {
        loop {
            let stream = match self.listeners[listener].accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error.into()),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER)?;
            let index = self.free.pop().unwrap_or(self.endpoints.len());
            epoll::add(&self.epoll, &stream, token(ENDPOINT, index), edge())?;
            let conn = Some(EndpointConn::new(stream));
            if index == self.endpoints.len() {
                self.endpoints.push(conn);
            } else {
                self.endpoints[index] = conn;
            }
        }
    }

    fn on_endpoint(&mut self, index: usize) -> Result<()> {
        let Some(conn) = &mut self.endpoints[index] else { return Ok(()) };
        if !conn.advance(&self.answers, &mut self.scratch.read[..4096])? {
            self.endpoints[index] = None;
            self.free.push(index);
        }
        Ok(())
    }

    fn on_client(&mut self, index: usize) -> Result<()> {
        let Some(plan) = &self.plan else { return Ok(()) };
        let after = plan.after;
        let Some(client) = self.clients.get_mut(index) else { return Ok(()) };
        match client.advance(&mut self.scratch) {
            Ok(Step::Waiting) => Ok(()),
            Ok(Step::Response) => self.on_response(index, after),
            Ok(Step::Closed) if after == After::Reconnect && client.answered => self.open(index),
            Ok(Step::Closed) if after == After::Reconnect => {
                self.failed("a connection was closed without an answer".to_owned())?;
                self.open(index)
            }
            Ok(Step::Closed) => {
                self.counts.closed += 1;
                if after == After::Rest { Ok(()) } else { self.open(index) }
            }
            Err(error) => {
                self.failed(error.to_string())?;
                if after == After::Rest { Ok(()) } else { self.open(index) }
            }
        }
    }

    fn on_response(&mut self, index: usize, after: After) -> Result<()> {
        let now = Instant::now();
        let client = &mut self.clients[index];
        client.answered = true;
        self.counts.requests += 1;
        self.counts.latency.record((now - client.sent_at).as_nanos() as u64);
        match after {
            After::Again => {
                client.sent_at = now;
                let Err(error) = client.send(&mut self.scratch) else { return Ok(()) };
                self.failed(error.to_string())?;
                self.open(index)
            }
            // The end of the connection came perhaps with the response, and then without an event.
            After::Reconnect => self.on_client(index),
            After::Rest => {
                let total = self.plan.as_ref().map_or(0, |plan| plan.total);
                if self.clients.len() < total { self.open(self.clients.len()) } else { Ok(()) }
            }
        }
    }

    /// Opens the client `index`, in place of the one that was there, and sends its request.
    fn open(&mut self, index: usize) -> Result<()> {
        let Some(plan) = &self.plan else { return Ok(()) };
        let last = plan.after == After::Reconnect;
        let opened = Client::connect(plan.target, plan.tls.as_ref(), self.body, last);
        let mut client = opened.map_err(|error| format!("cannot connect: {error}"))?;
        client.send(&mut self.scratch)?;
        epoll::add(&self.epoll, &client, token(CLIENT, index), edge())?;
        if index == self.clients.len() {
            self.clients.push(client);
        } else {
            self.clients[index] = client;
        }
        Ok(())
    }

    fn failed(&mut self, error: String) -> Result<()> {
        self.counts.errors += 1;
        if self.counts.errors > MAX_ERRORS {
            return Err(format!("too many failed requests, the last: {error}").into());
        }
        self.last_error = Some(error);
        Ok(())
    }
}

fn token(kind: u64, index: usize) -> epoll::EventData {
    epoll::EventData::new_u64(kind << 32 | index as u64)
}

/// Both directions, edge-triggered: one registration for the life of a connection.
fn edge() -> epoll::EventFlags {
    epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET
}
