//! ○ An http probe: one GET, and whether the answer is the expected one.

use std::convert::Infallible;
use std::error::Error;
use std::io;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::{Endpoint, HttpCheck, Scheme};
use crate::health::{Failure, Observation};

use super::Fault;

const AGENT: &str = concat!("standfast/", env!("CARGO_PKG_VERSION"), " (health check)");

/// How much of a body is searched for `body_contains`.
const BODY_LIMIT: usize = 64 * 1024;

/// Asks over `stream`, which is not used again. The caller sets the deadline; `head` is called when
/// the head of the answer is there.
pub(super) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    check: &HttpCheck,
    endpoint: &Endpoint,
    head: impl FnOnce(),
) -> Result<String, Fault> {
    let request = request(check, endpoint)?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| fault_of(&error))?;
    let answer = async move {
        let response = sender.send_request(request).await.map_err(|error| fault_of(&error))?;
        head();
        judge(response, check).await
    };
    // Both in one future: when the deadline drops it, nothing of the probe is left behind. The
    // connection may end before its answer has been read, and errors reach `answer` by themselves.
    let connection = async move {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = answer => answer,
        never = connection => match never {},
    }
}

fn request(check: &HttpCheck, endpoint: &Endpoint) -> Result<Request<Empty<Bytes>>, Fault> {
    Request::get(&check.path)
        .header(HOST, check.host.clone().unwrap_or_else(|| own_host(endpoint, check.tls)))
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| Fault {
            observation: Observation::SelfFault,
            detail: format!("this health check cannot be written as a request: {error}"),
        })
}

/// The endpoint's host, with its port unless it is the scheme's own (RFC 9110 section 7.2).
fn own_host(endpoint: &Endpoint, tls: bool) -> String {
    let bare = endpoint.host.trim_start_matches('[').trim_end_matches(']');
    let host = if bare.contains(':') { format!("[{bare}]") } else { bare.to_owned() };
    let tls = tls || endpoint.scheme == Scheme::Https;
    match (tls, endpoint.address.port()) {
        (false, 80) | (true, 443) => host,
        (_, port) => format!("{host}:{port}"),
    }
}

async fn judge(response: Response<Incoming>, check: &HttpCheck) -> Result<String, Fault> {
    let (head, body) = response.into_parts();
    let status = expected_status(head.status, &check.status)?;
    expected_headers(&head.headers, &check.headers)?;
    if let Some(text) = &check.body_contains {
        expected_body(body, text.as_bytes()).await?;
    }
    Ok(status.to_string())
}

fn expected_status(status: StatusCode, expected: &[(u16, u16)]) -> Result<u16, Fault> {
    let status = status.as_u16();
    if expected.iter().any(|(first, last)| (*first..=*last).contains(&status)) {
        return Ok(status);
    }
    let ranges: Vec<_> = expected
        .iter()
        .map(
            |(first, last)| {
                if first == last { first.to_string() } else { format!("{first}-{last}") }
            },
        )
        .collect();
    let detail = format!("{status}, expected {}", ranges.join(" or "));
    Err(Fault::new(Failure::Status(status), detail))
}

fn expected_headers(headers: &HeaderMap, expected: &[(String, String)]) -> Result<(), Fault> {
    for (name, value) in expected {
        if headers.get_all(name).iter().any(|found| found.as_bytes() == value.as_bytes()) {
            continue;
        }
        let found = headers.get(name).map(|found| String::from_utf8_lossy(found.as_bytes()));
        let detail = match found {
            Some(found) => {
                let found: String = found.chars().take(80).collect();
                format!("header {name}: {found:?}, expected {value:?}")
            }
            None => format!("header {name} is missing, expected {value:?}"),
        };
        return Err(Fault::new(Failure::Content, detail));
    }
    Ok(())
}

async fn expected_body(mut body: Incoming, text: &[u8]) -> Result<(), Fault> {
    let mut read = Vec::new();
    while read.len() < BODY_LIMIT {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|error| fault_of(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        // The text may begin in what came before.
        let from = read.len().saturating_sub(text.len());
        read.extend_from_slice(&data[..data.len().min(BODY_LIMIT - read.len())]);
        if memchr::memmem::find(&read[from..], text).is_some() {
            return Ok(());
        }
    }
    if text.is_empty() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(text);
    let detail = format!("the first {} bytes of the body do not contain {text:?}", read.len());
    Err(Fault::new(Failure::Content, detail))
}

fn fault_of(error: &hyper::Error) -> Fault {
    if error.is_incomplete_message() {
        return Fault::new(Failure::Reset, "closed the connection without a whole answer");
    }
    let source = error.source();
    if let Some(error) = source.and_then(|source| source.downcast_ref::<io::Error>()) {
        let tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        return match error.kind() {
            _ if tls => Fault::new(Failure::Tls, format!("TLS: {error}")),
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
            | io::ErrorKind::UnexpectedEof => Fault::new(Failure::Reset, "connection reset"),
            io::ErrorKind::ConnectionRefused => Fault::new(Failure::Refused, "rejected on the way"),
            _ => Fault::new(Failure::Unreachable, error.to_string()),
        };
    }
    Fault::new(Failure::Malformed, format!("the answer is not HTTP/1.1: {error}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn check() -> HttpCheck {
        HttpCheck {
            tls: false,
            path: "/healthz?full=1".into(),
            host: None,
            status: vec![(200, 299), (401, 401)],
            body_contains: None,
            headers: Vec::new(),
        }
    }

    fn endpoint(host: &str, port: u16, scheme: Scheme) -> Endpoint {
        let address = ([127, 0, 0, 1], port).into();
        Endpoint { name: host.into(), scheme, host: host.into(), address, weight: 1 }
    }

    /// Probes an endpoint that reads a request and then writes `answer` and closes; the request as
    /// it read it, and what the probe made of the answer.
    async fn probe(check: &HttpCheck, answer: &[u8]) -> (String, Result<String, Fault>) {
        let (ours, mut theirs) = duplex(1 << 20);
        let serve = async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(theirs.read_u8().await.unwrap());
            }
            theirs.write_all(answer).await.unwrap();
            String::from_utf8(request).unwrap()
        };
        let endpoint = endpoint("ingress.hot", 8080, Scheme::Http);
        tokio::join!(serve, exchange(ours, check, &endpoint, || {}))
    }

    async fn failure(check: &HttpCheck, answer: &[u8]) -> (Failure, String) {
        match probe(check, answer).await.1 {
            Err(Fault { observation: Observation::Failure(failure), detail }) => (failure, detail),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_request_says_who_asks_and_that_the_connection_is_for_it_alone() {
        let (request, outcome) = probe(&check(), b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(outcome, Ok("204".to_owned()));
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            "GET /healthz?full=1 HTTP/1.1\r\nhost: ingress.hot:8080\r\n\
             user-agent: standfast/{version} (health check)\r\naccept: */*\r\n\
             connection: close\r\n\r\n"
        );
        assert_eq!(request, expected);
    }

    #[test]
    fn the_host_has_a_port_only_where_the_scheme_does_not_imply_it() {
        let host = |host, port, scheme| own_host(&endpoint(host, port, scheme), false);
        assert_eq!(host("a.b", 80, Scheme::Http), "a.b");
        assert_eq!(host("a.b", 443, Scheme::Http), "a.b:443");
        assert_eq!(host("::1", 443, Scheme::Https), "[::1]");
        assert_eq!(host("[::1]", 8443, Scheme::Https), "[::1]:8443");
        assert_eq!(own_host(&endpoint("a.b", 443, Scheme::Http), true), "a.b");
    }

    #[tokio::test]
    async fn a_status_outside_the_expected_ranges_fails() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        let (failure, detail) = failure(&check(), answer).await;
        assert_eq!(failure, Failure::Status(503));
        assert_eq!(detail, "503, expected 200-299 or 401");
        let answer = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(probe(&check(), answer).await.1, Ok("401".to_owned()));
    }

    #[tokio::test]
    async fn the_body_is_searched_as_far_as_64_kib() {
        let check = HttpCheck { body_contains: Some("ready".into()), ..check() };
        let body = |filler: usize| {
            let mut answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
            answer.resize(answer.len() + filler, b'.');
            answer.extend_from_slice(b"ready");
            answer
        };
        assert!(probe(&check, &body(BODY_LIMIT - 5)).await.1.is_ok());
        let (failure, detail) = failure(&check, &body(BODY_LIMIT - 4)).await;
        assert_eq!(failure, Failure::Content);
        assert_eq!(detail, "the first 65536 bytes of the body do not contain \"ready\"");
    }

    #[tokio::test]
    async fn an_answer_from_the_wrong_cluster_fails() {
        let headers = vec![("x-cluster-id".to_owned(), "hot".to_owned())];
        let check = HttpCheck { headers, ..check() };
        let from = |id: &str| format!("HTTP/1.1 204 No Content\r\nX-Cluster-Id: {id}\r\n\r\n");
        assert!(probe(&check, from("hot").as_bytes()).await.1.is_ok());
        let wrong = failure(&check, from("standby").as_bytes()).await;
        let detail = "header x-cluster-id: \"standby\", expected \"hot\"".to_owned();
        assert_eq!(wrong, (Failure::Content, detail));
        let missing = failure(&check, b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(missing.1, "header x-cluster-id is missing, expected \"hot\"");
    }

    #[tokio::test]
    async fn a_closed_connection_and_an_answer_that_is_not_http_are_told_apart() {
        assert_eq!(failure(&check(), b"").await.0, Failure::Reset);
        assert_eq!(failure(&check(), b"HTTP/1.1 200 O").await.0, Failure::Reset);
        assert_eq!(failure(&check(), b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await.0, Failure::Malformed);
        let check = HttpCheck { body_contains: Some("x".into()), ..check() };
        let short = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab";
        assert_eq!(failure(&check, short).await.0, Failure::Reset);
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_written_is_our_own_fault() {
        let check = HttpCheck { path: "/a b".into(), ..check() };
        let (ours, _theirs) = duplex(64);
        let fault =
            exchange(ours, &check, &endpoint("a", 80, Scheme::Http), || {}).await.unwrap_err();
        assert_eq!(fault.observation, Observation::SelfFault);
    }
}
