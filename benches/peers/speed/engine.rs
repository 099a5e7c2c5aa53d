//! The loop: clients and endpoints in one thread, on one epoll instance.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::net::sockopt;
use rustls::ClientConfig;

use crate::Result;
use crate::client::{Client, Requests, Scratch, Step};
use crate::endpoint::{Answers, Deliveries, EndpointConn};
use crate::histogram::Histogram;

/// More failed requests than this in one measurement, and there is nothing to measure.
const MAX_ERRORS: u64 = 100;
/// Bytes an endpoint may have sent that the proxy has not read; the kernel doubles it. Loopback
/// would take a whole large body at once, out of the caches before the proxy sees it, where a
/// network takes what is under way.
const SEND_BUFFER: usize = 256 << 10;
/// Connections opened before the proxy gets a chance to accept them.
const BURST: usize = 64;
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
    pub(crate) requests: Rc<Requests>,
    pub(crate) after: After,
    /// Connections open; with [`After::Rest`], how many are opened at once.
    pub(crate) connections: usize,
    /// Requests under way in the closed loop; with [`After::Rest`], connections in all.
    pub(crate) total: usize,
}

/// When a request is sent.
enum Pace {
    /// As soon as another is answered, so many are under way.
    Closed(usize),
    /// When it is due, be the others answered or not.
    Open { gap: Duration, next: Instant },
}

/// What happened since the counts were last reset.
pub(crate) struct Counts {
    pub(crate) requests: u64,
    /// Requests that failed, for whatever reason.
    pub(crate) errors: u64,
    /// Kept connections the proxy closed between two requests.
    pub(crate) closed: u64,
    /// From when a request was sent (closed loop) or due (open loop) to the end of its response.
    pub(crate) latency: Histogram,
    /// Requests that became due, in the open loop.
    pub(crate) due: u64,
    /// How late the generator itself noticed that a request was due.
    pub(crate) late: Histogram,
    /// Time the generator was at work, and not merely looking for something to do.
    pub(crate) busy: Duration,
}

impl Counts {
    fn new() -> Self {
        Self {
            requests: 0,
            errors: 0,
            closed: 0,
            latency: Histogram::new(),
            due: 0,
            late: Histogram::new(),
            busy: Duration::ZERO,
        }
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
    pace: Pace,
    clients: Vec<Option<Client>>,
    /// Clients without a request under way, the longest so first.
    idle: VecDeque<usize>,
    /// When the requests that wait for a client were due.
    waiting: VecDeque<Instant>,
    under_way: usize,
    watched: Option<(usize, Deliveries)>,
    scratch: Scratch,
    counts: Counts,
    last_error: Option<String>,
}

impl Engine {
    /// So many endpoints on ports of their own, answering with bodies of `body` bytes.
    pub(crate) fn new(body: usize, endpoints: usize) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut listeners = Vec::new();
        for index in 0..endpoints {
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
            pace: Pace::Closed(0),
            clients: Vec::new(),
            idle: VecDeque::new(),
            waiting: VecDeque::new(),
            under_way: 0,
            watched: None,
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

    /// Counts what the endpoint with this index is asked for, from now on.
    pub(crate) fn watch(&mut self, endpoint: usize) {
        self.watched = Some((endpoint, Deliveries::default()));
    }

    pub(crate) fn watched(&self) -> Option<&Deliveries> {
        self.watched.as_ref().map(|(_, deliveries)| deliveries)
    }

    /// Drops the clients of an earlier plan, opens those of this one, and begins a closed loop.
    pub(crate) fn start(&mut self, plan: Plan) -> Result<()> {
        self.stop();
        self.reset_counts();
        self.last_error = None;
        let (connections, after) = (plan.connections, plan.after);
        self.pace = Pace::Closed(plan.total);
        self.plan = Some(plan);
        for index in 0..connections {
            match after {
                After::Rest => {
                    self.open(index, Instant::now())?;
                    self.ask(index)?;
                }
                After::Again => self.open(index, Instant::now())?,
                After::Reconnect => self.clients.push(None),
            }
            if after != After::Rest {
                self.idle.push_back(index);
                if index % BURST == BURST - 1 {
                    self.turn(Duration::ZERO)?;
                }
            }
        }
        self.dispatch()
    }

    /// From now on a request is due every `1 / rate` seconds, be the others answered or not.
    pub(crate) fn open_loop(&mut self, rate: f64) {
        let gap = Duration::from_secs_f64(1.0 / rate);
        self.pace = Pace::Open { gap, next: Instant::now() + gap };
    }

    /// Closes all clients.
    pub(crate) fn stop(&mut self) {
        self.clients.clear();
        self.idle.clear();
        self.waiting.clear();
        self.under_way = 0;
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
        let nothing = events.is_empty();
        self.events = events;
        self.dispatch()?;
        if !nothing {
            self.counts.busy += start.elapsed();
        }
        Ok(())
    }

    /// Sends what is due.
    fn dispatch(&mut self) -> Result<()> {
        match &mut self.pace {
            Pace::Closed(total) => {
                let total = *total;
                while self.under_way < total {
                    let Some(index) = self.idle.pop_front() else { break };
                    self.begin(index, Instant::now())?;
                }
            }
            Pace::Open { gap, next } => {
                let now = Instant::now();
                while *next <= now {
                    self.counts.due += 1;
                    self.counts.late.record((now - *next).as_nanos() as u64);
                    self.waiting.push_back(*next);
                    *next += *gap;
                }
                while !self.waiting.is_empty() {
                    let Some(index) = self.idle.pop_front() else { break };
                    let due = self.waiting.pop_front().unwrap_or(now);
                    self.begin(index, due)?;
                }
            }
        }
        Ok(())
    }

    /// Sends a request that counts from `since` on an idle connection, or on a new one.
    fn begin(&mut self, index: usize, since: Instant) -> Result<()> {
        self.under_way += 1;
        match &mut self.clients[index] {
            Some(client) => client.sent_at = since,
            None => self.open(index, since)?,
        }
        self.ask(index)
    }

    fn ask(&mut self, index: usize) -> Result<()> {
        let Some(client) = &mut self.clients[index] else { return Ok(()) };
        let Err(error) = client.send(&mut self.scratch) else { return Ok(()) };
        self.failed(index, error.to_string())
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
            let conn = Some(EndpointConn::new(listener, stream));
            if index == self.endpoints.len() {
                self.endpoints.push(conn);
            } else {
                self.endpoints[index] = conn;
            }
        }
    }

    fn on_endpoint(&mut self, index: usize) -> Result<()> {
        let Some(conn) = &mut self.endpoints[index] else { return Ok(()) };
        let watched = self.watched.as_mut().filter(|(endpoint, _)| *endpoint == conn.endpoint);
        let deliveries = watched.map(|(_, deliveries)| deliveries);
        if !conn.advance(&self.answers, &mut self.scratch.read[..4096], deliveries)? {
            self.endpoints[index] = None;
            self.free.push(index);
        }
        Ok(())
    }

    fn on_client(&mut self, index: usize) -> Result<()> {
        let Some(after) = self.plan.as_ref().map(|plan| plan.after) else { return Ok(()) };
        let Some(Some(client)) = self.clients.get_mut(index) else { return Ok(()) };
        match client.advance(&mut self.scratch) {
            Ok(Step::Waiting) => Ok(()),
            Ok(Step::Response) => self.on_response(index, after),
            Ok(Step::Closed) if after == After::Reconnect && !client.waiting => {
                self.clients[index] = None;
                self.done(index);
                Ok(())
            }
            Ok(Step::Closed) if client.waiting => {
                self.failed(index, "a connection was closed without an answer".to_owned())
            }
            Ok(Step::Closed) => {
                self.counts.closed += 1;
                if after == After::Again { self.open(index, Instant::now()) } else { Ok(()) }
            }
            Err(error) => self.failed(index, error.to_string()),
        }
    }

    fn on_response(&mut self, index: usize, after: After) -> Result<()> {
        let Some(client) = &mut self.clients[index] else { return Ok(()) };
        client.waiting = false;
        self.counts.requests += 1;
        self.counts.latency.record(client.sent_at.elapsed().as_nanos() as u64);
        match after {
            After::Again => {
                self.done(index);
                Ok(())
            }
            // The end of the connection came perhaps with the response, and then without an event.
            After::Reconnect => self.on_client(index),
            After::Rest => {
                let total = self.plan.as_ref().map_or(0, |plan| plan.total);
                if self.clients.len() < total {
                    let next = self.clients.len();
                    self.open(next, Instant::now())?;
                    self.ask(next)?;
                }
                Ok(())
            }
        }
    }

    /// The connection can take another request.
    fn done(&mut self, index: usize) {
        self.under_way = self.under_way.saturating_sub(1);
        self.idle.push_back(index);
    }

    /// Opens the client `index`, in place of the one that was there.
    fn open(&mut self, index: usize, since: Instant) -> Result<()> {
        let Some(plan) = &self.plan else { return Ok(()) };
        let tls = plan.tls.as_ref();
        let opened = Client::connect(plan.target, tls, &plan.requests, index, self.body);
        let mut client = opened.map_err(|error| format!("cannot connect: {error}"))?;
        client.sent_at = since;
        epoll::add(&self.epoll, &client, token(CLIENT, index), edge())?;
        if index == self.clients.len() {
            self.clients.push(Some(client));
        } else {
            self.clients[index] = Some(client);
        }
        Ok(())
    }

    /// A request is lost, and its connection with it; another takes its place.
    fn failed(&mut self, index: usize, error: String) -> Result<()> {
        self.counts.errors += 1;
        if self.counts.errors > MAX_ERRORS {
            return Err(format!("too many failed requests, the last: {error}").into());
        }
        self.last_error = Some(error);
        let waiting = self.clients[index].take().is_some_and(|client| client.waiting);
        match self.plan.as_ref().map(|plan| plan.after) {
            Some(After::Again) => {
                self.open(index, Instant::now())?;
                // One that was idle is still among the idle ones.
                if waiting {
                    self.done(index);
                }
            }
            Some(After::Reconnect) => self.done(index),
            _ => {}
        }
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
