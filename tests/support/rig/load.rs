//! The open-loop client: every request has a number and a moment at which it is due, and is sent then
//! whether or not earlier ones were answered, as far as the connections go. It never sends anything
//! twice. One thread, one epoll, a timer of 500 µs; latency counts from the moment a request was due.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::answer::Answer;
use super::space::Space;

/// What to send.
#[derive(Debug, Clone)]
pub struct Plan {
    pub target: SocketAddr,
    /// Requests a second.
    pub rate: u32,
    /// Every n-th request is a POST; 0: none is.
    pub post_every: u64,
    /// Connections kept between requests.
    pub kept: usize,
    /// Connections open at once; a request that finds none free waits, and its latency counts.
    pub most: usize,
    /// One in n requests opens a connection of its own; 0: none does.
    pub fresh_one_in: u64,
    /// When the client gives up on a request, from the moment it was due.
    pub timeout: Duration,
    /// What precedes the number: `/r/`, `/bad/` for answers of 500, `/busy/` for 503.
    pub path: &'static str,
    /// The first request's number; no two loads of a rig may share numbers.
    pub first: u64,
    /// More header lines for each POST, each with its CRLF: `Idempotency-Key: …`.
    pub post_headers: &'static str,
}

impl Plan {
    /// The load of the issue: 2,000 requests a second, 20 % POST, 64 kept connections, 5 % new ones.
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            rate: 2000,
            post_every: 5,
            kept: 64,
            most: 800,
            fresh_one_in: 20,
            timeout: Duration::from_secs(10),
            path: "/r/",
            first: 1,
            post_headers: "",
        }
    }

    /// One client whose URI always fails, beside the normal load.
    pub fn bad(target: SocketAddr) -> Self {
        let plan = Self { rate: 1000, post_every: 0, kept: 8, most: 64, ..Self::new(target) };
        Self { fresh_one_in: 0, path: "/bad/", first: 1 << 32, ..plan }
    }
}

/// What became of one request.
#[derive(Debug, Clone)]
pub struct Sample {
    pub number: u64,
    pub post: bool,
    /// When it was to be sent, since the rig's origin.
    pub due: Duration,
    /// From then until the whole answer was there, or none could come any more.
    pub latency: Duration,
    /// How much too late the client itself was, for want of a CPU; part of the latency.
    pub late: Duration,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The status, and which endpoint's application wrote the body (0 to 2 hot, 3 to 5 standby).
    Answer { status: u16, endpoint: Option<usize> },
    /// The proxy refused the connection.
    Refused,
    /// The connection ended before the answer was whole.
    Cut,
    /// A kept connection ended before the first byte of an answer: it was being closed just as the
    /// request was sent. A browser would ask again; this client does not.
    Stale,
    /// No whole answer in time.
    Timeout,
    /// All connections were taken by unanswered requests until it was too late.
    NeverSent,
}

impl Sample {
    pub fn is_good(&self) -> bool {
        matches!(self.outcome, Outcome::Answer { status: 200..=299, .. })
    }

    /// The endpoint that answered it well.
    pub fn endpoint(&self) -> Option<usize> {
        match self.outcome {
            Outcome::Answer { status: 200..=299, endpoint } => endpoint,
            _ => None,
        }
    }

    /// When its outcome was there, since the rig's origin.
    pub fn done(&self) -> Duration {
        self.due + self.latency
    }
}

/// A running load.
pub struct Load {
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    pub(super) fn start(space: &Space, origin: Instant, plan: Plan) -> Self {
        let (stop, samples) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut client = Client::new(plan, origin, Arc::clone(&stop), Arc::clone(&samples));
        let space = space.again();
        let thread = std::thread::spawn(move || {
            space.enter();
            client.run();
        });
        Self { stop, samples, thread: Some(thread) }
    }

    /// What became of the requests so far, in the order of their ends.
    pub fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests ended so far.
    pub fn done(&self) -> usize {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Is there an ended request like that, among those due after `after`?
    pub fn any(&self, after: Duration, like: impl Fn(&Sample) -> bool) -> bool {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().rev().any(|sample| sample.due >= after && like(sample))
    }

    /// Sends no more, waits for what is still due (at most the plan's timeout).
    pub(super) fn end(mut self) -> Vec<Sample> {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
        {
            std::panic::resume_unwind(panic);
        }
        std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// A request under way or waiting.
#[derive(Clone, Copy)]
struct Request {
    number: u64,
    due: Instant,
    late: Duration,
    post: bool,
    fresh: bool,
}

struct Conn {
    stream: TcpStream,
    /// The kernel has not reported the end of connecting.
    connecting: bool,
    request: Option<Request>,
    /// An earlier request was answered on it.
    kept: bool,
    answer: Vec<u8>,
    /// Which use of the slot this is, so that an event of an earlier one is known.
    life: u32,
}

struct Client {
    plan: Plan,
    origin: Instant,
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    epoll: OwnedFd,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    open: usize,
    /// Idle connections, least recently used first, so that all of them stay in use.
    idle: VecDeque<usize>,
    waiting: VecDeque<Request>,
    lives: u32,
}

/// How often due requests are looked for.
const TICK: Duration = Duration::from_micros(500);

impl Client {
    fn new(
        plan: Plan,
        origin: Instant,
        stop: Arc<AtomicBool>,
        samples: Arc<Mutex<Vec<Sample>>>,
    ) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        Self {
            plan,
            origin,
            stop,
            samples,
            epoll,
            conns: Vec::new(),
            free: Vec::new(),
            open: 0,
            idle: VecDeque::new(),
            waiting: VecDeque::new(),
            lives: 0,
        }
    }

    fn run(&mut self) {
        let timer = timer(TICK);
        epoll::add(&self.epoll, &timer, EventData::new_u64(u64::MAX), EventFlags::IN).unwrap();
        for _ in 0..self.plan.kept {
            let _ = self.connect(None);
        }
        let start = Instant::now() + Duration::from_millis(20);
        let (mut sent, mut swept) = (0, start);
        let rate = u64::from(self.plan.rate);
        let due = |sent: u64| start + Duration::from_nanos(sent * 1_000_000_000 / rate);
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            let all = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, all, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("epoll: {error}"),
            }
            for event in &events {
                let data = event.data.u64();
                if data == u64::MAX {
                    let _ = rustix::io::read(&timer, &mut [0u8; 8][..]);
                } else {
                    self.on_event((data & 0xffff_ffff) as usize, (data >> 32) as u32);
                }
            }
            let stopped = self.stop.load(Ordering::SeqCst);
            let now = Instant::now();
            if !stopped {
                let count = (sent..).take_while(|&sent| due(sent) <= now).count() as u64;
                for number in sent..sent + count {
                    self.send(self.request(number, due(number), now));
                }
                sent += count;
            }
            if now >= swept + Duration::from_millis(50) {
                swept = now;
                self.give_up(now);
            }
            let busy = self.conns.iter().flatten().any(|conn| conn.request.is_some());
            if stopped && !busy && self.waiting.is_empty() {
                return;
            }
        }
    }

    fn request(&self, sent: u64, due: Instant, now: Instant) -> Request {
        let plan = &self.plan;
        let post = plan.post_every > 0 && sent % plan.post_every == plan.post_every - 1;
        // The position within each n moves on, so that new connections carry both methods.
        let one_in = plan.fresh_one_in;
        let fresh = one_in > 0 && sent % one_in == (sent / one_in) % one_in;
        Request { number: plan.first + sent, due, late: now - due, post, fresh }
    }

    /// Sends a request now if a connection is to be had, else later.
    fn send(&mut self, request: Request) {
        if !request.fresh {
            while let Some(slot) = self.idle.pop_front() {
                if self.conns[slot].as_ref().is_some_and(|conn| conn.request.is_none()) {
                    self.put(slot, request);
                    return;
                }
            }
        }
        if self.open >= self.plan.most {
            self.waiting.push_back(request);
            return;
        }
        if self.connect(Some(request)).is_err() {
            self.finish(request, Outcome::Refused);
        }
    }

    /// Opens a connection, with the request to send on it once it stands.
    fn connect(&mut self, request: Option<Request>) -> Result<(), Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match connect(&socket, &self.plan.target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let slot = self.free.pop().unwrap_or(self.conns.len());
        self.lives = self.lives.wrapping_add(1) & 0x7fff_ffff;
        let life = self.lives;
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &socket, token(slot, life), events)?;
        let stream = TcpStream::from(socket);
        let conn =
            Conn { stream, connecting: true, request, kept: false, answer: Vec::new(), life };
        if slot == self.conns.len() {
            self.conns.push(Some(conn));
        } else {
            self.conns[slot] = Some(conn);
        }
        self.open += 1;
        Ok(())
    }

    /// Writes a request to an idle connection.
    fn put(&mut self, slot: usize, request: Request) {
        let plan = &self.plan;
        let Some(conn) = &mut self.conns[slot] else { return };
        let (path, number) = (plan.path, request.number);
        let close = if request.fresh { "Connection: close\r\n" } else { "" };
        let text = if request.post {
            format!(
                "POST {path}{number} HTTP/1.1\r\nHost: app.test\r\nContent-Length: 8\r\n{close}{}\
                 \r\n12345678",
                plan.post_headers
            )
        } else {
            format!("GET {path}{number} HTTP/1.1\r\nHost: app.test\r\n{close}\r\n")
        };
        conn.request = Some(request);
        // Two hundred bytes fit into an empty socket, or the connection has ended.
        let written = (&conn.stream).write(text.as_bytes());
        if !matches!(written, Ok(count) if count == text.len()) {
            self.close(slot, Outcome::Cut);
        }
    }

    fn on_event(&mut self, slot: usize, life: u32) {
        let Some(conn) = &mut self.conns[slot] else { return };
        if conn.life != life {
            return;
        }
        if conn.connecting {
            match sockopt::socket_error(&conn.stream) {
                Ok(Ok(())) if conn.stream.peer_addr().is_ok() => {}
                Ok(Ok(())) => return,
                _ => return self.close(slot, Outcome::Refused),
            }
            conn.connecting = false;
            match conn.request.take() {
                Some(request) => self.put(slot, request),
                None => self.idle.push_back(slot),
            }
        }
        self.read(slot);
    }

    fn read(&mut self, slot: usize) {
        let mut buf = [0; 4096];
        loop {
            let Some(conn) = &mut self.conns[slot] else { return };
            match (&conn.stream).read(&mut buf) {
                Ok(0) => return self.at_end(slot),
                Ok(count) => conn.answer.extend_from_slice(&buf[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.close(slot, Outcome::Cut),
            }
            let Some(answer) = Answer::parse(&conn.answer, false) else { continue };
            self.on_answer(slot, &answer);
        }
    }

    fn at_end(&mut self, slot: usize) {
        let answer = self.conns[slot].as_ref().and_then(|conn| Answer::parse(&conn.answer, true));
        match answer {
            Some(answer) => self.on_answer(slot, &Answer { keep: false, ..answer }),
            None => self.close(slot, Outcome::Cut),
        }
    }

    fn on_answer(&mut self, slot: usize, answer: &Answer) {
        let Some(conn) = &mut self.conns[slot] else { return };
        conn.answer.clear();
        // An answer without a request, such as a 408, says that the connection is being closed.
        let Some(request) = conn.request.take() else { return self.close(slot, Outcome::Cut) };
        conn.kept = true;
        let keep = answer.keep && !request.fresh;
        let (status, endpoint) = (answer.status, answer.endpoint);
        self.finish(request, Outcome::Answer { status, endpoint });
        if !keep {
            self.close(slot, Outcome::Cut);
        } else if let Some(next) = self.waiting.pop_front() {
            self.put(slot, next);
        } else if self.idle.len() >= self.plan.kept {
            self.close(slot, Outcome::Cut);
        } else {
            self.idle.push_back(slot);
        }
    }

    /// Closes a connection; a request still on it ends with `outcome`.
    fn close(&mut self, slot: usize, outcome: Outcome) {
        let Some(conn) = self.conns[slot].take() else { return };
        if conn.request.is_none() {
            self.idle.retain(|&other| other != slot);
        }
        self.free.push(slot);
        self.open -= 1;
        if let Some(request) = conn.request {
            let stale = outcome == Outcome::Cut && conn.kept && conn.answer.is_empty();
            self.finish(request, if stale { Outcome::Stale } else { outcome });
        }
        if let Some(next) = self.waiting.pop_front() {
            self.send(next);
        }
    }

    /// Ends what is overdue.
    fn give_up(&mut self, now: Instant) {
        let timeout = self.plan.timeout;
        let late = |request: &Request| now > request.due + timeout;
        while self.waiting.front().is_some_and(late) {
            if let Some(request) = self.waiting.pop_front() {
                self.finish(request, Outcome::NeverSent);
            }
        }
        for slot in 0..self.conns.len() {
            let request = self.conns[slot].as_ref().and_then(|conn| conn.request);
            if request.as_ref().is_some_and(late) {
                self.close(slot, Outcome::Timeout);
            }
        }
    }

    fn finish(&self, request: Request, outcome: Outcome) {
        let Request { number, due, late, post, .. } = request;
        let sample =
            Sample { number, post, due: due - self.origin, latency: due.elapsed(), late, outcome };
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
    }
}

fn token(slot: usize, life: u32) -> EventData {
    EventData::new_u64(u64::from(life) << 32 | slot as u64)
}

fn timer(every: Duration) -> OwnedFd {
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    let timer =
        timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .unwrap();
    let period = Timespec { tv_sec: 0, tv_nsec: i64::from(every.subsec_nanos()) };
    let spec = Itimerspec { it_interval: period, it_value: period };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec).unwrap();
    timer
}
