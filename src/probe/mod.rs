//! ○ One task an endpoint: asks it how it is, one probe in flight, each over a connection of its
//! own.
//!
//! What a probe saw goes to control as a [`Report`]; its answer says when to ask again. Control and
//! probes share one thread that carries no requests, so load cannot delay a probe.

mod http;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::clock;
use crate::config::{self, CheckKind, HealthCheck, ProxyVersion, UpstreamTls};
use crate::health::{Failure, Observation};
use crate::listen::proxy_protocol;
use crate::table::EndpointId;
use crate::table::counters::UpstreamError;
use crate::tls::Certificates;
use crate::upstream::connect::{self, ConnectError, Dial, Phases};

/// Whom to ask, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    pub id: EndpointId,
    pub endpoint: Arc<config::Endpoint>,
    pub check: HealthCheck,
    pub tls: UpstreamTls,
    /// The endpoint's connections begin with a PROXY header; a probe says that it is our own.
    pub proxy_protocol: Option<ProxyVersion>,
}

/// How long a probe may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until its connection can be used: TCP and TLS.
    pub connect: Duration,
    /// In total; not less than `connect`.
    pub total: Duration,
}

impl Patience {
    /// A confirm probe's patience with an endpoint that is usually faster than this is at least so.
    const CONNECT_LEAST: Duration = Duration::from_millis(100);
    const TOTAL_LEAST: Duration = Duration::from_millis(400);
    /// Slower than usual by more is dead.
    const TIMES_USUAL: u32 = 8;

    /// Of the probes at every interval: one deadline for all of it.
    pub fn ordinary(check: &HealthCheck) -> Self {
        Self { connect: check.timeout, total: check.timeout }
    }

    /// Of a probe that is to find out quickly whether a doubt is right, from how long connections
    /// and whole probes usually take; never more than an ordinary one has.
    pub fn confirm(
        check: &HealthCheck,
        usual_connect: Option<Duration>,
        usual_probe: Option<Duration>,
    ) -> Self {
        let patience = |usual: Option<Duration>, least: Duration| {
            let by_experience = usual.map(|usual| usual.saturating_mul(Self::TIMES_USUAL));
            by_experience.map_or(check.timeout, |most| most.max(least).min(check.timeout))
        };
        let total = patience(usual_probe, Self::TOTAL_LEAST);
        let connect = patience(usual_connect, Self::CONNECT_LEAST);
        Self { connect: connect.min(total), total }
    }
}

/// What one probe saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub observation: Observation,
    /// For people, a fragment such as `connection refused` or `503, expected 200-299`.
    pub detail: String,
    /// When it began, since the process's origin.
    pub began: Duration,
    pub took: Duration,
    pub timings: Timings,
}

/// How long the phases of a probe took, each as far as it came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    pub tcp: Option<Duration>,
    pub tls: Option<Duration>,
    /// From the connection to the head of the answer.
    pub first_byte: Option<Duration>,
}

impl Timings {
    /// How long it took until the connection could be used, as `table::live` counts it. `None`: it
    /// came to none.
    pub fn connect(&self, tls: bool) -> Option<Duration> {
        match tls {
            true => Some(self.tcp? + self.tls?),
            false => self.tcp,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One at every interval.
    Ordinary,
    /// One more because of a doubt.
    Confirm,
}

/// One outcome on its way to control.
#[derive(Debug)]
pub struct Report {
    pub id: EndpointId,
    pub kind: Kind,
    pub outcome: Outcome,
    /// Of an ordinary probe: how long after its start the next one starts. Dropped: never again.
    pub next: Option<oneshot::Sender<Duration>>,
}

/// Probes one endpoint for ever with `ask`, first after `delay`. Ends when control does, or when it
/// does not want to hear of this endpoint any more.
pub async fn run<A: Future<Output = Outcome>>(
    id: EndpointId,
    delay: Duration,
    reports: mpsc::Sender<Report>,
    ask: impl Fn() -> A,
) {
    let mut start = Instant::now() + delay;
    loop {
        tokio::time::sleep_until(start).await;
        start = Instant::now();
        let outcome = ask().await;
        let (next, answer) = oneshot::channel();
        let report = Report { id, kind: Kind::Ordinary, outcome, next: Some(next) };
        if reports.send(report).await.is_err() {
            return;
        }
        let Ok(delay) = answer.await else { return };
        start += delay;
    }
}

/// One probe after `delay`, beside the ordinary ones, which it neither waits for nor holds up.
/// Reported like them, but nobody is asked when to go on.
pub async fn confirm(
    id: EndpointId,
    delay: Duration,
    reports: mpsc::Sender<Report>,
    ask: impl Future<Output = Outcome>,
) {
    tokio::time::sleep(delay).await;
    let report = Report { id, kind: Kind::Confirm, outcome: ask.await, next: None };
    // Control that is gone needs no confirmation.
    let _ = reports.send(report).await;
}

/// One probe.
pub async fn ask(subject: &Subject, certificates: &Certificates, patience: Patience) -> Outcome {
    let began = clock::now();
    let start = Instant::now();
    let mut timings = Timings::default();
    let asked = ask_unbounded(subject, certificates, patience.connect, &mut timings);
    let result = tokio::time::timeout(patience.total, asked).await;
    let took = start.elapsed();
    let limit = match timings.connect(uses_tls(&subject.check)) {
        Some(_) => patience.total,
        None => patience.connect,
    };
    let (observation, detail) = judge(result.ok(), took, limit);
    Outcome { observation, detail, began, took, timings }
}

/// What went wrong, and how it is said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault {
    observation: Observation,
    detail: String,
}

impl Fault {
    fn new(failure: Failure, detail: impl Into<String>) -> Self {
        Self { observation: Observation::Failure(failure), detail: detail.into() }
    }
}

impl From<ConnectError> for Fault {
    fn from(error: ConnectError) -> Self {
        let failure = match error.reason {
            UpstreamError::Refused => Failure::Refused,
            UpstreamError::Unreachable => Failure::Unreachable,
            UpstreamError::ConnectTimeout | UpstreamError::Timeout => Failure::Timeout,
            UpstreamError::Tls => Failure::Tls,
            UpstreamError::Reset => Failure::Reset,
            UpstreamError::Malformed => Failure::Malformed,
        };
        let observation =
            if error.self_fault { Observation::SelfFault } else { Observation::Failure(failure) };
        Self { observation, detail: error.detail }
    }
}

/// Turns a result (`None`: there was none in time) into an observation and its words. `limit` is of
/// the phase that did not end.
///
/// A timeout that was noticed more than a quarter too late says that we were not running, not that
/// the endpoint was silent: its answer may lie unread in our own socket.
fn judge(
    result: Option<Result<String, Fault>>,
    took: Duration,
    limit: Duration,
) -> (Observation, String) {
    let fault = match result {
        Some(Ok(detail)) => return (Observation::Success, detail),
        Some(Err(fault)) => fault,
        None => Fault::new(Failure::Timeout, format!("no answer within {limit:?}")),
    };
    let silent = fault.observation == Observation::Failure(Failure::Timeout);
    if silent && took > limit + limit / 4 {
        let detail = format!("void: our own timer of {limit:?} fired after {took:?}");
        return (Observation::SelfFault, detail);
    }
    (fault.observation, fault.detail)
}

async fn ask_unbounded(
    subject: &Subject,
    certificates: &Certificates,
    patience: Duration,
    timings: &mut Timings,
) -> Result<String, Fault> {
    let Subject { endpoint, check, tls, .. } = subject;
    let tls = uses_tls(check).then_some((tls, &*endpoint.host));
    let preamble = subject.proxy_protocol.map_or(&b""[..], proxy_protocol::local);
    let dial = Dial { address: endpoint.address, preamble, tls, descriptors: None, reached: None };
    let mut phases = Phases::default();
    let opened = connect::open_timed(dial, certificates, patience, &mut phases).await;
    (timings.tcp, timings.tls) = (phases.tcp, phases.tls);
    let stream = opened?;
    match &check.kind {
        CheckKind::Tcp => Ok("connected".to_owned()),
        CheckKind::Tls => Ok("TLS handshake done".to_owned()),
        CheckKind::Http(http) => {
            let connected = Instant::now();
            let head = || timings.first_byte = Some(connected.elapsed());
            http::exchange(stream, http, endpoint, head).await
        }
    }
}

fn uses_tls(check: &HealthCheck) -> bool {
    match &check.kind {
        CheckKind::Http(http) => http.tls,
        CheckKind::Tcp => false,
        CheckKind::Tls => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(800);

    fn observed(result: Option<Result<String, Fault>>, millis: u64) -> Observation {
        judge(result, Duration::from_millis(millis), TIMEOUT).0
    }

    #[test]
    fn silence_counts_against_an_endpoint_only_if_we_were_awake_to_hear() {
        let timeout = Observation::Failure(Failure::Timeout);
        assert_eq!(observed(None, 800), timeout);
        assert_eq!(observed(None, 1_000), timeout);
        assert_eq!(observed(None, 1_001), Observation::SelfFault);
        let from_connect = || Some(Err(Fault::new(Failure::Timeout, "no connection")));
        assert_eq!(observed(from_connect(), 3_000), Observation::SelfFault);
    }

    #[test]
    fn what_was_heard_counts_however_late() {
        assert_eq!(observed(Some(Ok("200".into())), 3_000), Observation::Success);
        let refused = Fault::new(Failure::Refused, "connection refused");
        let (observation, detail) = judge(Some(Err(refused)), Duration::from_secs(3), TIMEOUT);
        assert_eq!(observation, Observation::Failure(Failure::Refused));
        assert_eq!(detail, "connection refused");
    }

    #[test]
    fn our_own_fault_is_never_evidence() {
        let error = ConnectError {
            reason: UpstreamError::Unreachable,
            self_fault: true,
            tls_fault: None,
            detail: "too many open files".into(),
        };
        assert_eq!(observed(Some(Err(error.into())), 1), Observation::SelfFault);
    }

    fn success() -> Outcome {
        Outcome {
            observation: Observation::Success,
            detail: String::new(),
            began: Duration::ZERO,
            took: TIMEOUT,
            timings: Timings::default(),
        }
    }

    #[test]
    fn confirm_probes_have_the_patience_that_experience_allows() {
        let check = HealthCheck { timeout: TIMEOUT, ..crate::table::fixture::check() };
        let patience = |connect: Option<u64>, probe: Option<u64>| {
            let millis = |usual: Option<u64>| usual.map(Duration::from_millis);
            let found = Patience::confirm(&check, millis(connect), millis(probe));
            (found.connect.as_millis(), found.total.as_millis())
        };
        assert_eq!(patience(Some(1), Some(5)), (100, 400));
        assert_eq!(patience(Some(20), Some(60)), (160, 480));
        assert_eq!(patience(Some(500), Some(700)), (800, 800));
        assert_eq!(patience(Some(70), Some(5)), (400, 400), "never more than the whole");
        assert_eq!(patience(None, None), (800, 800), "nothing is known yet");
    }

    #[tokio::test(start_paused = true)]
    async fn confirm_probes_overlap_and_ask_for_no_answer() {
        let (reports, mut received) = mpsc::channel(4);
        let id = EndpointId { slot: 0, serial: 1 };
        let begin = Instant::now();
        for delay in [0, 20, 40] {
            let ask = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                success()
            };
            let delay = Duration::from_millis(delay);
            tokio::spawn(confirm(id, delay, reports.clone(), ask));
        }
        for _ in 0..3 {
            let report = received.recv().await.unwrap();
            assert_eq!((report.kind, report.next.is_none()), (Kind::Confirm, true));
        }
        assert!(begin.elapsed() < Duration::from_millis(350), "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn probes_follow_each_other_from_start_to_start_and_never_overlap() {
        let (reports, mut received) = mpsc::channel(1);
        let id = EndpointId { slot: 0, serial: 1 };
        let begin = Instant::now();
        let answer = || async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            success()
        };
        let task = tokio::spawn(run(id, Duration::from_millis(5), reports, answer));
        let mut heard = Vec::new();
        for delay in [1_000, 100] {
            let report = received.recv().await.unwrap();
            heard.push(begin.elapsed().as_millis());
            assert_eq!(report.kind, Kind::Ordinary);
            report.next.unwrap().send(Duration::from_millis(delay)).unwrap();
        }
        let last = received.recv().await.unwrap();
        heard.push(begin.elapsed().as_millis());
        // The third was due before the second had ended, and followed at once.
        assert!(
            heard.iter().zip([305, 1_305, 1_605]).all(|(a, b)| a.abs_diff(b) <= 3),
            "{heard:?}"
        );
        drop(last);
        task.await.unwrap();
    }

    fn subject(kind: CheckKind, address: std::net::SocketAddr) -> Subject {
        let host = address.ip().to_string();
        let name = address.to_string().into();
        let scheme = config::Scheme::Http;
        Subject {
            id: EndpointId { slot: 0, serial: 1 },
            endpoint: Arc::new(config::Endpoint { name, scheme, host, address, weight: 1 }),
            check: HealthCheck {
                kind,
                timeout: Duration::from_millis(50),
                ..crate::table::fixture::check()
            },
            tls: UpstreamTls { server_name: None, ca: None, verify: true },
            proxy_protocol: None,
        }
    }

    fn certificates() -> Arc<Certificates> {
        let config = crate::table::fixture::config(Vec::new(), Vec::new());
        Certificates::new(Certificates::prepare(&config).unwrap())
    }

    #[tokio::test]
    async fn a_listening_endpoint_is_told_from_one_that_refuses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let subject = subject(CheckKind::Tcp, listener.local_addr().unwrap());
        let outcome = ask(&subject, &certificates(), Patience::ordinary(&subject.check)).await;
        assert_eq!((outcome.observation, &*outcome.detail), (Observation::Success, "connected"));
        assert!(outcome.timings.tcp.is_some_and(|tcp| tcp <= outcome.took), "{outcome:?}");
        drop(listener);
        let outcome = ask(&subject, &certificates(), Patience::ordinary(&subject.check)).await;
        assert_eq!(outcome.observation, Observation::Failure(Failure::Refused));
        assert_eq!(outcome.detail, "connection refused");
    }

    #[tokio::test]
    async fn an_endpoint_that_accepts_and_says_nothing_fails_at_the_timeout() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = config::HttpCheck {
            tls: false,
            path: "/".into(),
            host: None,
            status: vec![(200, 299)],
            body_contains: None,
            headers: Vec::new(),
        };
        let subject = subject(CheckKind::Http(http), listener.local_addr().unwrap());
        let outcome = ask(&subject, &certificates(), Patience::ordinary(&subject.check)).await;
        assert!(outcome.took >= subject.check.timeout, "{outcome:?}");
        assert!(outcome.timings.tcp.is_some() && outcome.timings.first_byte.is_none());
        // On a machine too busy to wake us in time the probe is void, and says so.
        match outcome.observation {
            Observation::SelfFault => assert!(outcome.detail.starts_with("void: "), "{outcome:?}"),
            other => {
                assert_eq!(other, Observation::Failure(Failure::Timeout));
                assert_eq!(outcome.detail, "no answer within 50ms");
            }
        }
    }
}
