//! ○ Requests of a worker that wait for a connection, by endpoint. A few connections at a time are
//! opened to one endpoint, and each that stands goes to whoever has waited longest, as does each
//! that an answered request gives back.
//!
//! Handshakes cost both sides time. Were as many begun as there are requests, all of them would be
//! under way together and none would end before its timeout; and the first few are enough to carry
//! them all, one after the other. A connection that nobody waits for any more is kept.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::connect::ConnectError;
use super::idle::Connection;
use super::lease::{self, Chosen, InFlight, Lease};
use super::outbound::Outbound;
use crate::clock;
use crate::table::EndpointId;
use crate::table::counters::UpstreamError;

/// One line for each endpoint that somebody waits for.
#[derive(Debug, Default)]
pub struct Lines {
    lines: RefCell<HashMap<EndpointId, Line>>,
    /// Counts who ever joined one.
    joined: Cell<u64>,
}

#[derive(Debug, Default)]
struct Line {
    waiters: VecDeque<Waiter>,
    /// Connections being opened, …
    dials: usize,
    /// … and those of them that take the place of another: a silent one does not.
    places: usize,
    /// Connections to be opened when there is a place.
    owed: usize,
    /// Counts connections that the endpoint took or gave back, and excuses for it; wraps.
    signs: u32,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    fresh: bool,
    sender: oneshot::Sender<Given>,
}

/// A connection, and whether it served a request before.
type Given = Result<(Connection, bool), Refused>;

/// No connection came about.
#[derive(Debug, Clone)]
pub struct Refused {
    pub error: ConnectError,
    /// Others were told of the same failure, one of them first.
    pub is_first: bool,
}

/// Connections opened at the same time to one endpoint by one worker.
const PLACES: usize = 16;

/// One that no host took for so long, while none took another either, makes room: it may have
/// been sent to a host that was not there yet. One in its handshake does not: where all are slow,
/// more of them would make all slower, and a host that wakes up goes on with those it has.
const SILENT: Duration = Duration::from_millis(50);

/// Where we ourselves lack what a connection needs, it is tried again so soon.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits for a connection, one that served no request before where it is to be `fresh`. To drop the
/// future is to leave the line.
///
/// # Errors
/// The latest connection that was begun after the request came failed.
pub async fn connect(
    outbound: &Rc<Outbound>,
    in_flight: InFlight,
    fresh: bool,
) -> Result<Lease, Refused> {
    loop {
        let given = join(outbound, in_flight.chosen(), fresh).await;
        let (mut connection, reused) = given.unwrap_or_else(|_| Err(Refused::at_the_end()))?;
        // What an endpoint says unasked is nobody's answer, and it may have closed meanwhile.
        let stream = &mut connection.stream;
        if !(reused && (stream.has_input() || stream.has_input_now())) {
            return Ok(Lease { connection, reused, in_flight });
        }
    }
}

fn join(outbound: &Rc<Outbound>, chosen: &Chosen, fresh: bool) -> oneshot::Receiver<Given> {
    let (sender, receiver) = oneshot::channel();
    let lines = &outbound.lines;
    let number = lines.joined.get() + 1;
    lines.joined.set(number);
    let mut all = lines.lines.borrow_mut();
    let line = all.entry(chosen.endpoint().id).or_default();
    line.waiters.push_back(Waiter { number, fresh, sender });
    line.owed += 1;
    line.dial_owed(outbound, chosen);
    receiver
}

async fn dial(outbound: Rc<Outbound>, chosen: Chosen) {
    let id = chosen.endpoint().id;
    let lines = &outbound.lines;
    let end = Instant::now() + chosen.service().config.timeouts.connect;
    let mut has_place = true;
    let (mut last, mut signs);
    let opened = loop {
        last = lines.joined.get();
        signs = lines.signs(id);
        let opened = open(&outbound, &chosen, &mut has_place).await;
        let ours = opened.as_ref().is_err_and(|error| error.self_fault);
        if !ours || Instant::now() >= end || !lines.is_waited_for(id) {
            break opened;
        }
        lines.excuse(id);
        // Connections nobody uses hold what we lack; else one that is given back will do.
        outbound.idle.borrow_mut().shed(clock::now().as_millis() as u64);
        sleep(PAUSE).await;
    };
    let is_alive = opened.is_ok();
    match opened {
        Ok(connection) => outbound.take_new(&chosen, connection),
        Err(error) => {
            // Where others are taken, one that is turned away says nothing of theirs.
            let all = lines.signs(id) == signs || error.reason == UpstreamError::ConnectTimeout;
            lines.fail(id, last, &error, all);
        }
    }
    let mut all = lines.lines.borrow_mut();
    if let Some(line) = all.get_mut(&id) {
        line.dials -= 1;
        line.places -= usize::from(has_place);
        // Who came first may have taken what was begun for another, who is owed one then: at once
        // by an endpoint that takes connections, though a silent one may still be under way.
        let under_way = if is_alive { line.places } else { line.dials };
        line.owed = line.owed.max(line.waiters.len().saturating_sub(under_way));
        line.dial_owed(&outbound, &chosen);
        if line.dials == 0 && line.waiters.is_empty() {
            all.remove(&id);
        }
    }
}

/// Opens one connection, which gives up its place once it is silent.
async fn open(
    outbound: &Rc<Outbound>,
    chosen: &Chosen,
    has_place: &mut bool,
) -> Result<Connection, ConnectError> {
    let id = chosen.endpoint().id;
    let lines = &outbound.lines;
    let reached = AtomicBool::new(false);
    let mut opening = pin!(lease::open(outbound, chosen, &reached));
    let mut signs = lines.signs(id);
    while *has_place && !reached.load(Ordering::Relaxed) {
        if let Ok(opened) = timeout(SILENT, opening.as_mut()).await {
            return opened;
        }
        let now = lines.signs(id);
        if std::mem::replace(&mut signs, now) == now
            && !reached.load(Ordering::Relaxed)
            && let Some(line) = lines.lines.borrow_mut().get_mut(&id)
        {
            *has_place = false;
            line.places -= 1;
            line.dial_owed(outbound, chosen);
        }
    }
    opening.await
}

impl Lines {
    /// Gives a connection to who has waited longest for one; back if nobody does.
    pub fn give(&self, id: EndpointId, connection: Connection, reused: bool) -> Option<Connection> {
        let mut lines = self.lines.borrow_mut();
        // Mostly nobody waits for anything.
        if lines.is_empty() {
            return Some(connection);
        }
        let Some(line) = lines.get_mut(&id) else {
            return Some(connection);
        };
        line.signs = line.signs.wrapping_add(1);
        let mut given = (connection, reused);
        while let Some(at) = line.waiters.iter().position(|waiter| !(reused && waiter.fresh)) {
            let waiter = line.waiters.remove(at);
            line.owed = line.owed.min(line.waiters.len());
            match waiter.map(|waiter| waiter.sender.send(Ok(given))) {
                // Who has left gives it back.
                Some(Err(Ok(back))) => given = back,
                _ => return None,
            }
        }
        Some(given.0)
    }

    /// Changes whenever the endpoint takes or gives back a connection, as long as somebody waits
    /// for it, and where it is ourselves who keep them waiting.
    pub fn signs(&self, id: EndpointId) -> u32 {
        self.lines.borrow().get(&id).map_or(0, |line| line.signs)
    }

    fn excuse(&self, id: EndpointId) {
        if let Some(line) = self.lines.borrow_mut().get_mut(&id) {
            line.signs = line.signs.wrapping_add(1);
        }
    }

    /// Tells who came before the connection was begun: `all` of them, for theirs would have failed
    /// as well, or who has waited longest.
    fn fail(&self, id: EndpointId, last: u64, error: &ConnectError, all: bool) {
        let mut lines = self.lines.borrow_mut();
        let Some(line) = lines.get_mut(&id) else { return };
        let mut is_first = true;
        while line.waiters.front().is_some_and(|waiter| waiter.number <= last) {
            if let Some(waiter) = line.waiters.pop_front() {
                let refused = Refused { error: error.clone(), is_first };
                is_first &= waiter.sender.send(Err(refused)).is_err();
            }
            if !all && !is_first {
                break;
            }
        }
        line.owed = line.owed.min(line.waiters.len());
    }

    fn is_waited_for(&self, id: EndpointId) -> bool {
        let lines = self.lines.borrow();
        let mut waiters = lines.get(&id).into_iter().flat_map(|line| &line.waiters);
        waiters.any(|waiter| !waiter.sender.is_closed())
    }
}

impl Line {
    /// Begins what is owed, as far as there are places and somebody still waits.
    fn dial_owed(&mut self, outbound: &Rc<Outbound>, chosen: &Chosen) {
        while self.owed > 0 && self.places < PLACES {
            while self.waiters.front().is_some_and(|waiter| waiter.sender.is_closed()) {
                self.waiters.pop_front();
            }
            self.owed = self.owed.min(self.waiters.len());
            if self.owed == 0 {
                return;
            }
            self.owed -= 1;
            self.dials += 1;
            self.places += 1;
            tokio::task::spawn_local(dial(Rc::clone(outbound), chosen.clone()));
        }
    }
}

impl Refused {
    /// The worker ends: nobody will give anything any more.
    fn at_the_end() -> Self {
        let detail = "the worker ends".to_owned();
        let reason = UpstreamError::Unreachable;
        let error = ConnectError { reason, self_fault: true, tls_fault: None, detail };
        Self { error, is_first: false }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::task::{Context, Waker};

    use tokio::sync::mpsc;
    use tokio::task::LocalSet;

    use super::*;
    use crate::config::WhenNone;
    use crate::current::{Current, Snapshot};
    use crate::table::{build, fixture};
    use crate::tls::Certificates;

    const ANY: bool = false;

    /// A worker, and the one endpoint there is.
    fn worker(address: &str) -> (Rc<Outbound>, Chosen) {
        let pool = fixture::pool("hot", &[address]);
        let service = fixture::service_of("app", WhenNone::TryAll, vec![pool]);
        let config = fixture::config(Vec::new(), vec![service]);
        let certificates = Certificates::new(Certificates::prepare(&config).unwrap());
        let current = Current::new(build::first(config, 1, Duration::ZERO));
        let (sender, _) = mpsc::channel(1);
        let outbound = Outbound::new(0, current.reader(), certificates, sender);
        let table: Snapshot = outbound.table();
        (outbound, Chosen { table, service: 0, pool: 0, endpoint: 0 })
    }

    fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    #[tokio::test]
    async fn a_connection_that_nobody_waits_for_any_more_is_kept() {
        let (_listener, address) = listener();
        let (outbound, chosen) = worker(&address);
        let id = chosen.endpoint().id;
        let kept = async {
            {
                let mut leaves = pin!(connect(&outbound, chosen.clone().enter(), ANY));
                let cx = &mut Context::from_waker(Waker::noop());
                assert!(leaves.as_mut().poll(cx).is_pending());
            }
            while outbound.idle.borrow().count(id) == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        LocalSet::new().run_until(timeout(Duration::from_secs(9), kept)).await.unwrap();
        assert_eq!(chosen.endpoint().in_flight(), 0);
        assert!(outbound.lines.lines.borrow().is_empty());
    }

    #[tokio::test]
    async fn a_hundred_requests_share_the_first_connections_that_stand() {
        let (listener, address) = listener();
        let (outbound, chosen) = worker(&address);
        let all = LocalSet::new();
        for _ in 0..100 {
            let (outbound, in_flight) = (Rc::clone(&outbound), chosen.clone().enter());
            all.spawn_local(async move {
                let lease = connect(&outbound, in_flight, ANY).await.unwrap();
                lease.give_back(&outbound, None, 0);
            });
        }
        timeout(Duration::from_secs(9), all).await.unwrap();
        let opened = std::iter::from_fn(|| listener.accept().ok()).count();
        assert!((1..=64).contains(&opened), "{opened}");
        assert!(outbound.lines.lines.borrow().is_empty());
    }

    #[tokio::test]
    async fn who_wants_a_new_connection_is_not_given_a_used_one() {
        let (_listener, address) = listener();
        let (outbound, chosen) = worker(&address);
        let test = async {
            let used = connect(&outbound, chosen.clone().enter(), ANY).await.unwrap();
            let mut waits = pin!(connect(&outbound, chosen.clone().enter(), true));
            let cx = &mut Context::from_waker(Waker::noop());
            assert!(waits.as_mut().poll(cx).is_pending());
            used.give_back(&outbound, None, 0);
            assert!(waits.as_mut().poll(cx).is_pending());
            assert!(!waits.await.unwrap().reused);
        };
        LocalSet::new().run_until(timeout(Duration::from_secs(9), test)).await.unwrap();
    }

    #[tokio::test]
    async fn connection_on_which_something_was_said_unasked_is_not_handed_on() {
        let (listener, address) = listener();
        let (outbound, chosen) = worker(&address);
        let test = async {
            let used = connect(&outbound, chosen.clone().enter(), ANY).await.unwrap();
            let (mut endpoint, _) = listener.accept().unwrap();
            std::io::Write::write_all(&mut endpoint, b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            while !used.connection.stream.has_input_now() {
                sleep(Duration::from_millis(1)).await;
            }
            let mut waits = pin!(connect(&outbound, chosen.clone().enter(), ANY));
            let cx = &mut Context::from_waker(Waker::noop());
            assert!(waits.as_mut().poll(cx).is_pending());
            used.give_back(&outbound, None, 0);
            assert!(!waits.await.unwrap().reused);
        };
        LocalSet::new().run_until(timeout(Duration::from_secs(9), test)).await.unwrap();
    }

    #[tokio::test]
    async fn where_others_are_taken_one_failure_is_told_to_one() {
        let (_listener, address) = listener();
        let (outbound, chosen) = worker(&address);
        let id = chosen.endpoint().id;
        let error = Refused::at_the_end().error;
        let test = async {
            let mut waits: Vec<_> = (0..3).map(|_| join(&outbound, &chosen, false)).collect();
            outbound.lines.fail(id, 3, &error, false);
            let told = waits.iter_mut().filter_map(|wait| wait.try_recv().ok()).count();
            assert_eq!(told, 1);
            outbound.lines.fail(id, 3, &error, true);
            let told = waits.iter_mut().filter_map(|wait| wait.try_recv().ok()).count();
            assert_eq!(told, 2);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn one_failure_is_told_to_all_who_wait_and_is_one_piece_of_evidence() {
        let (closed, address) = listener();
        drop(closed);
        let (outbound, chosen) = worker(&address);
        let all = LocalSet::new();
        let first = Rc::new(Cell::new(0));
        for _ in 0..40 {
            let (outbound, in_flight) = (Rc::clone(&outbound), chosen.clone().enter());
            let first = Rc::clone(&first);
            all.spawn_local(async move {
                let refused = connect(&outbound, in_flight, ANY).await.unwrap_err();
                assert_eq!(refused.error.reason, UpstreamError::Refused);
                first.set(first.get() + u32::from(refused.is_first));
            });
        }
        timeout(Duration::from_secs(9), all).await.unwrap();
        assert_eq!(first.get(), 1);
    }

    /// Nobody accepts, and the queue is full: whatever else is sent is dropped.
    fn deaf() -> (socket2::Socket, String, Vec<std::net::TcpStream>) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        socket.listen(1).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let step = Duration::from_millis(100);
        let fill = || std::net::TcpStream::connect_timeout(&address, step).ok();
        let queue: Vec<_> = std::iter::from_fn(fill).take(20).collect();
        assert!(queue.len() < 20, "the queue is never full");
        (socket, address.to_string(), queue)
    }

    #[tokio::test]
    async fn who_came_later_is_owed_the_connection_that_an_earlier_one_took() {
        let (socket, address, queue) = deaf();
        let (outbound, chosen) = worker(&address);
        let test = async {
            let mut early = pin!(connect(&outbound, chosen.clone().enter(), ANY));
            let cx = &mut Context::from_waker(Waker::noop());
            assert!(early.as_mut().poll(cx).is_pending());
            let is_silent = || outbound.lines.lines.borrow().values().all(|line| line.places == 0);
            while !is_silent() {
                sleep(Duration::from_millis(1)).await;
            }
            queue.iter().for_each(|_| drop(socket.accept().unwrap()));
            let late = connect(&outbound, chosen.clone().enter(), ANY);
            let (early, late) = tokio::join!(early, late);
            assert!(early.is_ok() && late.is_ok());
        };
        LocalSet::new().run_until(timeout(Duration::from_secs(9), test)).await.unwrap();
    }

    #[tokio::test]
    async fn silent_ones_make_room_so_that_a_host_that_is_back_is_found() {
        let (_socket, address, _queue) = deaf();
        let (outbound, chosen) = worker(&address);
        let test = async {
            let wait = || Box::pin(connect(&outbound, chosen.clone().enter(), ANY));
            let mut waits: Vec<_> = (0..PLACES).map(|_| wait()).collect();
            let cx = &mut Context::from_waker(Waker::noop());
            assert!(waits.iter_mut().all(|wait| wait.as_mut().poll(cx).is_pending()));
            drop(waits);
            let places = || {
                let lines = outbound.lines.lines.borrow();
                lines.get(&chosen.endpoint().id).map(|line| (line.dials, line.places))
            };
            while places() != Some((PLACES, 0)) {
                assert!(places().is_some(), "they are given up only after a second");
                sleep(Duration::from_millis(1)).await;
            }
            let mut next = wait();
            assert!(next.as_mut().poll(cx).is_pending());
            assert_eq!(places(), Some((PLACES + 1, 1)));
        };
        LocalSet::new().run_until(timeout(Duration::from_secs(9), test)).await.unwrap();
    }
}
