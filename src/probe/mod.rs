//! ○ One task an endpoint: asks it how it is, one probe in flight, each over a connection of its
//! own.
//!
//! What a probe saw goes to control as a [`Report`]; its answer says when to ask again. Control and
//! probes share one thread that carries no requests, so load cannot delay a probe.

mod http;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::config::{self, CheckKind, HealthCheck, UpstreamTls};
use crate::health::{Failure, Observation};
use crate::table::EndpointId;
use crate::table::counters::UpstreamError;
use crate::tls::Certificates;
use crate::upstream::connect::{self, ConnectError, Dial};

/// Whom to ask, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    pub id: EndpointId,
    pub endpoint: Arc<config::Endpoint>,
    pub check: HealthCheck,
    pub tls: UpstreamTls,
}

/// What one probe saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub observation: Observation,
    /// For people, a fragment such as `connection refused` or `503, expected 200-299`.
    pub detail: String,
    pub took: Duration,
}

/// One outcome on its way to control.
#[derive(Debug)]
pub struct Report {
    pub id: EndpointId,
    pub outcome: Outcome,
    /// How long after the start of this probe the next one starts. Dropped: never again.
    pub next: oneshot::Sender<Duration>,
}

/// Probes one endpoint for ever with `ask`, first after `delay`, earlier when `hasten` says so.
/// Ends when control does, or when it does not want to hear of this endpoint any more.
pub async fn run<A: Future<Output = Outcome>>(
    id: EndpointId,
    delay: Duration,
    reports: mpsc::Sender<Report>,
    hasten: Arc<Notify>,
    ask: impl Fn() -> A,
) {
    let mut start = Instant::now() + delay;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(start) => {}
            () = hasten.notified() => {}
        }
        start = Instant::now();
        let outcome = ask().await;
        let (next, answer) = oneshot::channel();
        if reports.send(Report { id, outcome, next }).await.is_err() {
            return;
        }
        let Ok(delay) = answer.await else { return };
        start += delay;
    }
}

/// One probe, within the check's timeout in total.
pub async fn ask(subject: &Subject, certificates: &Certificates) -> Outcome {
    let timeout = subject.check.timeout;
    let start = Instant::now();
    let result = tokio::time::timeout(timeout, ask_unbounded(subject, certificates)).await;
    judge(result.ok(), start.elapsed(), timeout)
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

/// Turns a result (`None`: there was none in time) into an outcome.
///
/// A timeout that was noticed more than a quarter too late says that we were not running, not that
/// the endpoint was silent: its answer may lie unread in our own socket.
fn judge(result: Option<Result<String, Fault>>, took: Duration, timeout: Duration) -> Outcome {
    let fault = match result {
        Some(Ok(detail)) => return Outcome { observation: Observation::Success, detail, took },
        Some(Err(fault)) => fault,
        None => Fault::new(Failure::Timeout, format!("no answer within {timeout:?}")),
    };
    let silent = fault.observation == Observation::Failure(Failure::Timeout);
    if silent && took > timeout + timeout / 4 {
        let detail = format!("void: our own timer of {timeout:?} fired after {took:?}");
        return Outcome { observation: Observation::SelfFault, detail, took };
    }
    Outcome { observation: fault.observation, detail: fault.detail, took }
}

async fn ask_unbounded(subject: &Subject, certificates: &Certificates) -> Result<String, Fault> {
    let Subject { endpoint, check, tls, .. } = subject;
    let tls = match &check.kind {
        CheckKind::Http(http) => http.tls.then_some((tls, &*endpoint.host)),
        CheckKind::Tcp => None,
    };
    let dial = Dial { address: endpoint.address, tls };
    // The whole probe has one deadline, the caller's; this one only must not come before it.
    let stream = connect::open(dial, certificates, check.timeout * 2).await?;
    match &check.kind {
        CheckKind::Tcp => Ok("connected".to_owned()),
        CheckKind::Http(http) => http::exchange(stream, http, endpoint).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(800);

    fn observed(result: Option<Result<String, Fault>>, millis: u64) -> Observation {
        judge(result, Duration::from_millis(millis), TIMEOUT).observation
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
        let outcome = judge(Some(Err(refused)), Duration::from_secs(3), TIMEOUT);
        assert_eq!(outcome.observation, Observation::Failure(Failure::Refused));
        assert_eq!(outcome.detail, "connection refused");
    }

    #[test]
    fn our_own_fault_is_never_evidence() {
        let error = ConnectError {
            reason: UpstreamError::Unreachable,
            self_fault: true,
            detail: "too many open files".into(),
        };
        assert_eq!(observed(Some(Err(error.into())), 1), Observation::SelfFault);
    }

    #[tokio::test(start_paused = true)]
    async fn probes_follow_each_other_from_start_to_start_and_never_overlap() {
        let (reports, mut received) = mpsc::channel(1);
        let id = EndpointId { slot: 0, serial: 1 };
        let begin = Instant::now();
        let answer = || async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Outcome { observation: Observation::Success, detail: String::new(), took: TIMEOUT }
        };
        let task = tokio::spawn(run(id, Duration::from_millis(5), reports, Arc::default(), answer));
        let mut heard = Vec::new();
        for delay in [1_000, 100] {
            let report = received.recv().await.unwrap();
            heard.push(begin.elapsed().as_millis());
            report.next.send(Duration::from_millis(delay)).unwrap();
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
        let outcome = ask(&subject, &certificates()).await;
        assert_eq!((outcome.observation, &*outcome.detail), (Observation::Success, "connected"));
        drop(listener);
        let outcome = ask(&subject, &certificates()).await;
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
        let outcome = ask(&subject, &certificates()).await;
        assert!(outcome.took >= subject.check.timeout, "{outcome:?}");
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
