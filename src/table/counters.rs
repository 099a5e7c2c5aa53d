//! ● Live counters. A worker writes its own cells without contention; views add them up.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A monotonic counter with **one** writer: the add is a plain load and store.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub fn increment(&self) {
        self.add(1);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One `T` a worker, each on cache lines of its own.
#[derive(Debug)]
pub struct PerWorker<T>(Box<[Padded<T>]>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

impl<T: Default> PerWorker<T> {
    pub fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Padded::default()).collect())
    }

    /// The cell of one worker, `0..workers`.
    pub fn of(&self, worker: usize) -> &T {
        &self.0[worker].0
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|padded| &padded.0)
    }

    pub fn sum(&self, value: impl Fn(&T) -> u64) -> u64 {
        self.iter().map(value).fold(0, u64::wrapping_add)
    }
}

/// A latency histogram in microseconds, with fixed bounds.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; Self::BOUNDS_MICROS.len() + 1],
    sum_micros: Counter,
}

impl Histogram {
    /// Upper bounds, inclusive; the last bucket is everything above.
    pub const BOUNDS_MICROS: [u64; 17] = [
        500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000,
        750_000, 1_000_000, 2_500_000, 5_000_000, 7_500_000, 10_000_000,
    ];

    pub fn observe(&self, micros: u64) {
        let index = Self::BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.buckets[index].increment();
        self.sum_micros.add(micros);
    }

    pub fn bucket(&self, index: usize) -> u64 {
        self.buckets[index].value()
    }

    pub fn sum_micros(&self) -> u64 {
        self.sum_micros.value()
    }
}

/// Requests by status code: the registered ones one by one, the rest by class.
#[derive(Debug)]
pub struct Codes([Counter; Self::LABELS.len()]);

impl Default for Codes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Codes {
    pub const LABELS: [&'static str; 68] = [
        "200", "201", "202", "203", "204", "205", "206", "207", "208", "226", "300", "301", "302",
        "303", "304", "305", "307", "308", "400", "401", "402", "403", "404", "405", "406", "407",
        "408", "409", "410", "411", "412", "413", "414", "415", "416", "417", "418", "421", "422",
        "423", "424", "425", "426", "428", "429", "431", "451", "499", "500", "501", "502", "503",
        "504", "505", "506", "507", "508", "510", "511", "520", "521", "522", "523", "1xx", "2xx",
        "3xx", "4xx", "5xx",
    ];

    pub fn increment(&self, status: u16) {
        self.0[Self::index(status)].increment();
    }

    pub fn value(&self, index: usize) -> u64 {
        self.0[index].value()
    }

    fn index(status: u16) -> usize {
        const INDEX: [u8; 600] = code_index();
        usize::from(INDEX[usize::from(status.clamp(100, 599))])
    }
}

const fn code_index() -> [u8; 600] {
    let mut index = [0u8; 600];
    let mut status = 100;
    while status < 600 {
        index[status] = (Codes::LABELS.len() - 6 + status / 100) as u8;
        status += 1;
    }
    let mut label = 0;
    while label < Codes::LABELS.len() - 5 {
        let digits = Codes::LABELS[label].as_bytes();
        let status = (digits[0] - b'0') as usize * 100
            + (digits[1] - b'0') as usize * 10
            + (digits[2] - b'0') as usize;
        index[status] = label as u8;
        label += 1;
    }
    index
}

#[derive(Debug)]
pub struct ListenerCounters {
    /// Open connections, all workers together; a limit is checked against it.
    pub connections_active: AtomicU32,
    pub workers: PerWorker<ListenerCells>,
}

#[derive(Debug, Default)]
pub struct ListenerCells {
    pub connections: Counter,
    pub rejected: [Counter; Rejection::ALL.len()],
    pub accept_errors: Counter,
    /// Requests to services, heads and bodies without chunk framing.
    pub received_bytes: Counter,
    /// Their answers as written, before TLS.
    pub sent_bytes: Counter,
    pub handshakes: Counter,
    pub handshakes_resumed: Counter,
    /// Requests answered by the listener itself, before any service: redirects, 400, 404 …
    pub own_answers: Codes,
}

/// Why a connection was turned away or ended by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    Limit,
    Tls,
    Timeout,
    /// It had to begin with a PROXY header and did not, or it did and must not.
    ProxyProtocol,
    /// No route leads anywhere from what its ClientHello asks for.
    NoRoute,
}

impl Rejection {
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Limit, "limit"),
        (Self::Tls, "tls"),
        (Self::Timeout, "timeout"),
        (Self::ProxyProtocol, "proxy_protocol"),
        (Self::NoRoute, "no_route"),
    ];
}

/// One listener's requests to one service.
#[derive(Debug)]
pub struct RouteCounters {
    pub workers: PerWorker<RouteCells>,
}

#[derive(Debug, Default)]
pub struct RouteCells {
    pub codes: Codes,
    pub duration: Histogram,
    /// Connections passed on, by how they began, once they have ended.
    pub connections: [Counter; Passed::ALL.len()],
}

/// What became of a client's connection that was to be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// An endpoint took it.
    Served,
    /// None did: it was reset.
    Refused,
    /// Its client left before one did.
    Left,
}

impl Passed {
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Served, "served"), (Self::Refused, "refused"), (Self::Left, "left")];
}

#[derive(Debug)]
pub struct ServiceCounters {
    pub workers: PerWorker<ServiceCells>,
    /// Requests that wait for an endpoint now, all workers together; a limit is checked against it.
    pub holding: AtomicU32,
    /// When a request was first answered by another pool than the serving one, in nanoseconds since
    /// the origin plus one; 0: none since control last set it so.
    pub first_elsewhere: AtomicU64,
}

#[derive(Debug, Default)]
pub struct ServiceCells {
    /// Position in the round robin of this worker.
    pub cursor: Counter,
    pub rescued: [Counter; Proof::ALL.len()],
    pub lost: [Counter; Loss::ALL.len()],
    pub retries: Counter,
    pub budget_exhausted: Counter,
    /// Requests that had to wait for an endpoint, however that ended.
    pub held: Counter,
    /// Requests waiting for an endpoint that went to find out for all of them: the moment, in units
    /// of 50 ms, times 256, plus how many in that moment.
    pub scouts: AtomicU64,
    /// Connections to endpoints that stayed silent, so that another endpoint was dialled as well.
    pub hedged: Counter,
    /// From the start of an exchange to the start of the attempt that was answered, of rescued
    /// requests.
    pub rescue_wait_micros: Counter,
    /// The longest of them; control sets it back.
    pub rescue_wait_most_micros: AtomicU64,
    pub sessions_ended: [Counter; SessionEnd::ALL.len()],
}

/// How a WebSocket, or a TCP connection, came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// Its client or its endpoint ended it.
    Peer,
    /// The connection to the endpoint broke.
    Endpoint,
    /// One side had ended it and the other was silent from then on; or it was silent for longer, or
    /// lasted longer, than it may.
    Timeout,
    /// Health forced the service away from the pool.
    Failover,
    /// The service moved away without need.
    Planned,
    /// The endpoint was ordered off.
    Off,
    /// Endpoint, service or listener are no longer configured.
    Removed,
    /// The process stops.
    Drain,
}

impl SessionEnd {
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Peer, "peer"),
        (Self::Endpoint, "endpoint"),
        (Self::Timeout, "timeout"),
        (Self::Failover, "failover"),
        (Self::Planned, "planned"),
        (Self::Off, "off"),
        (Self::Removed, "removed"),
        (Self::Drain, "drain"),
    ];
}

/// Why a request could safely be sent to another endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// No byte of it left us: connect or TLS failed, or the idle connection was found dead.
    NotSent,
    /// The endpoint's kernel acknowledged none of it (TCP_INFO), so nobody can have read it.
    NotRead,
    /// The method is idempotent (RFC 9110 section 9.2.2) and nothing of an answer was passed on.
    Idempotent,
    /// It carries an `Idempotency-Key` and its route says that the endpoints heed it.
    IdempotencyKey,
}

impl Proof {
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::NotSent, "not_sent"),
        (Self::NotRead, "not_read"),
        (Self::Idempotent, "idempotent"),
        (Self::IdempotencyKey, "idempotency_key"),
    ];
}

/// Why a request was lost through no fault of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It may have been processed and its method is not idempotent.
    NotIdempotent,
    /// Its body had already been passed on and could not be sent again.
    BodyGone,
    /// Attempts or budget were used up.
    Attempts,
    /// Every endpoint that could be tried failed, or there was none.
    NoEndpoint,
    /// The endpoint was silent for too long.
    Timeout,
    /// The response broke off in the middle.
    Cut,
    /// The endpoint's answer was not HTTP, or ambiguous.
    Malformed,
    /// The endpoint answered 502, 503 or 504, which was passed on.
    EndpointError,
    /// The service moved, or the endpoint was switched off, and its response had no more time.
    Failover,
    /// Its client gave up before an answer came, while its endpoint was doubted or down.
    ClientLeft,
}

impl Loss {
    pub const ALL: [(Self, &'static str); 10] = [
        (Self::NotIdempotent, "not_idempotent"),
        (Self::BodyGone, "body_gone"),
        (Self::Attempts, "attempts"),
        (Self::NoEndpoint, "no_endpoint"),
        (Self::Timeout, "timeout"),
        (Self::Cut, "cut"),
        (Self::Malformed, "malformed"),
        (Self::EndpointError, "endpoint_error"),
        (Self::Failover, "failover"),
        (Self::ClientLeft, "client_left"),
    ];
}

/// An endpoint's counters: cells of the workers, and what its probes saw last.
#[derive(Debug)]
pub struct EndpointCounters {
    pub workers: PerWorker<EndpointCells>,
    pub probes: ProbeCells,
}

#[derive(Debug, Default)]
pub struct EndpointCells {
    /// Responses by class, 1xx to 5xx.
    pub responses: [Counter; 5],
    pub connects: Counter,
    pub errors: [Counter; UpstreamError::ALL.len()],
    /// When a request last failed like that, in microseconds since the origin plus one; 0: never.
    pub last_errors: [AtomicU64; UpstreamError::ALL.len()],
    /// A gauge: idle connections this worker keeps.
    pub idle: AtomicU32,
    /// A gauge: WebSockets and TCP connections through this worker.
    pub sessions: AtomicU32,
}

impl EndpointCells {
    /// A request failed at the endpoint; a warm connection that fails leaves no time.
    pub fn failed_at(&self, error: UpstreamError, now: Duration) {
        let micros = u64::try_from(now.as_micros()).unwrap_or(u64::MAX - 1) + 1;
        self.last_errors[error as usize].store(micros, Ordering::Relaxed);
    }
}

/// How a request or a connection to an endpoint went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamError {
    Refused,
    Unreachable,
    ConnectTimeout,
    Tls,
    Reset,
    Timeout,
    Malformed,
}

impl UpstreamError {
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Refused, "refused"),
        (Self::Unreachable, "unreachable"),
        (Self::ConnectTimeout, "connect_timeout"),
        (Self::Tls, "tls"),
        (Self::Reset, "reset"),
        (Self::Timeout, "timeout"),
        (Self::Malformed, "malformed"),
    ];
}

/// Written by the control side alone.
#[derive(Debug, Default)]
pub struct ProbeCells {
    pub successes: Counter,
    pub failures: Counter,
    pub timeouts: Counter,
    /// Probes that failed through our own fault: they count neither way.
    pub voids: Counter,
    pub duration_sum_micros: Counter,
    /// Verdicts changed to up and to down.
    pub to_up: Counter,
    pub to_down: Counter,
    /// Milliseconds since the process's origin, plus one; 0: never.
    pub last_success_millis: AtomicU64,
    pub last_failure_millis: AtomicU64,
    pub last_duration_micros: AtomicU64,
}

impl ListenerCounters {
    pub fn new(workers: usize) -> Self {
        Self { connections_active: AtomicU32::new(0), workers: PerWorker::new(workers) }
    }
}

impl RouteCounters {
    pub fn new(workers: usize) -> Self {
        Self { workers: PerWorker::new(workers) }
    }
}

impl ServiceCounters {
    pub fn new(workers: usize) -> Self {
        Self {
            workers: PerWorker::new(workers),
            holding: AtomicU32::new(0),
            first_elsewhere: AtomicU64::new(0),
        }
    }
}

impl EndpointCounters {
    pub fn new(workers: usize) -> Self {
        Self { workers: PerWorker::new(workers), probes: ProbeCells::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_counted_under_its_own_code_or_its_class() {
        let codes = Codes::default();
        for status in [200, 200, 299, 999, 503, 100] {
            codes.increment(status);
        }
        let count = |label: &str| {
            let index = Codes::LABELS.iter().position(|l| *l == label).unwrap();
            codes.value(index)
        };
        assert_eq!(
            [count("200"), count("2xx"), count("5xx"), count("503"), count("1xx")],
            [2, 1, 1, 1, 1]
        );
    }

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = Histogram::default();
        histogram.observe(500);
        histogram.observe(501);
        histogram.observe(20_000_000);
        assert_eq!([histogram.bucket(0), histogram.bucket(1), histogram.bucket(17)], [1, 1, 1]);
        assert_eq!(histogram.sum_micros(), 20_001_001);
    }
}
