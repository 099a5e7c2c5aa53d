//! ○ Our own answers: what a client gets when no endpoint's answer is passed on. Each names the
//! cause in `Proxy-Status` (RFC 9209).

use std::io::Write;

use super::exchange::Ended;
use crate::http1::Request;
use crate::table::Table;
use crate::table::counters::{Loss, UpstreamError};
use crate::upstream::connect::TlsFault;

/// An answer of ours, before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    pub status: u16,
    /// Error type of RFC 9209 section 2.3; none for a redirect.
    pub error: Option<&'static str>,
    /// For the body and the `details` of Proxy-Status: plain ASCII without quotes.
    pub details: &'static str,
    pub location: Option<&'a [u8]>,
}

/// Seconds a client is asked to wait before it tries again.
const RETRY_AFTER: u32 = 5;

impl Answer<'_> {
    pub fn request_error(status: u16, details: &'static str) -> Self {
        Self { status, error: Some("http_request_error"), details, location: None }
    }

    pub fn not_found() -> Self {
        Self {
            status: 404,
            error: Some("destination_not_found"),
            details: "no route matches this host and path",
            location: None,
        }
    }

    /// `redirect: https`.
    pub fn to_https(location: &[u8]) -> Answer<'_> {
        let details = "the same address over https";
        Answer { status: 308, error: None, details, location: Some(location) }
    }

    /// RFC 9110 section 15.5.20.
    pub fn misdirected() -> Self {
        let details = "the certificate of this connection does not serve this host";
        Self::request_error(421, details)
    }

    pub fn unavailable(details: &'static str) -> Self {
        Self { status: 503, error: Some("destination_unavailable"), details, location: None }
    }

    /// For a request no endpoint answered.
    pub fn lost(
        loss: Loss,
        last_error: Option<UpstreamError>,
        tls_fault: Option<TlsFault>,
        attempts: u32,
    ) -> Self {
        let tls_fault = tls_fault.filter(|_| last_error == Some(UpstreamError::Tls));
        let (status, error) = match (loss, last_error) {
            (Loss::Timeout, _) => (504, "http_response_timeout"),
            (Loss::Malformed, _) => (502, "http_protocol_error"),
            (Loss::NoEndpoint, None) => (503, "destination_unavailable"),
            (_, Some(UpstreamError::Refused)) => (502, "connection_refused"),
            (_, Some(UpstreamError::ConnectTimeout)) => (504, "connection_timeout"),
            (_, Some(UpstreamError::Tls)) => {
                (502, tls_fault.map_or("tls_protocol_error", |fault| fault.error))
            }
            (_, Some(UpstreamError::Reset)) => (502, "connection_terminated"),
            (_, Some(UpstreamError::Timeout)) => (504, "http_response_timeout"),
            (_, _) => (502, "destination_ip_unroutable"),
        };
        let details = match loss {
            Loss::NotIdempotent => "it may have been processed, so it was not sent again",
            Loss::BodyGone => "its body was already passed on, so it was not sent again",
            Loss::Attempts => "attempts or retry budget used up",
            Loss::NoEndpoint if attempts == 0 => "no endpoint is available",
            Loss::NoEndpoint => {
                tls_fault.map_or("no other endpoint is left to try", |fault| fault.details)
            }
            Loss::Timeout => "the endpoint did not answer in time",
            Loss::Cut => "the answer broke off",
            Loss::Malformed => "the endpoint's answer was not valid HTTP",
            Loss::EndpointError => "the endpoint answered with a gateway error",
            Loss::Failover => "the service moved to another pool",
            Loss::ClientLeft => "the client left",
        };
        Self { status, error: Some(error), details, location: None }
    }

    /// Appends the whole answer and tells the bytes of its body. `head_only` for HEAD.
    pub fn write(&self, out: &mut Vec<u8>, keep_alive: bool, head_only: bool) -> u64 {
        let reason = reason_phrase(self.status);
        let body = format!("{} {reason}: {}\n", self.status, self.details);
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n",
            self.status,
            body.len()
        );
        if let Some(error) = self.error {
            let _ = write!(
                out,
                "Proxy-Status: standfast; error={error}; details=\"{}\"\r\n",
                self.details
            );
        }
        if let Some(location) = self.location {
            out.extend_from_slice(b"Location: ");
            out.extend_from_slice(location);
            out.extend_from_slice(b"\r\n");
        }
        if self.status == 503 {
            let _ = write!(out, "Retry-After: {RETRY_AFTER}\r\n");
        }
        if self.status == 405 {
            out.extend_from_slice(b"Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n");
        }
        let connection: &[u8] = if keep_alive { b"\r\n" } else { b"Connection: close\r\n\r\n" };
        out.extend_from_slice(connection);
        if head_only {
            return 0;
        }
        out.extend_from_slice(body.as_bytes());
        body.len() as u64
    }
}

/// Where `redirect: https` sends a request; none where it names no host or path.
pub fn https_location(table: &Table, request: &Request, bytes: &[u8]) -> Option<Vec<u8>> {
    if request.host(bytes).is_empty() || request.path(bytes) == b"*" {
        return None;
    }
    let mut location = b"https://".to_vec();
    location.extend_from_slice(request.host(bytes));
    let port = https_port(table);
    if port != 443 {
        location.extend_from_slice(format!(":{port}").as_bytes());
    }
    location.extend_from_slice(request.path(bytes));
    if let Some(query) = request.query(bytes) {
        location.push(b'?');
        location.extend_from_slice(query);
    }
    Some(location)
}

fn https_port(table: &Table) -> u16 {
    let mut ports = table.listeners.iter().filter(|l| l.config.tls.is_some());
    match (ports.next(), ports.next()) {
        (Some(only), None) => only.config.bind.port(),
        _ => 443,
    }
}

/// The word for the access log.
pub fn reason(ended: Ended) -> Option<&'static str> {
    Some(match ended {
        Ended::Answered => return None,
        Ended::Refused(404, _) => "no_route",
        Ended::Refused(408, _) => "request_too_slow",
        Ended::Refused(421, _) => "misdirected",
        Ended::Refused(413, _) => "body_too_large",
        Ended::Refused(..) => "bad_request",
        Ended::ClientGone => "client_gone",
        Ended::Cut(Loss::Timeout) => "cut_by_timeout",
        Ended::Cut(Loss::Failover) => "failover",
        Ended::Cut(_) => "cut_by_endpoint",
        Ended::Unanswered(loss) => Loss::ALL[loss as usize].1,
    })
}

fn reason_phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_503_tells_when_to_come_back_and_why() {
        let mut out = Vec::new();
        Answer::lost(Loss::NoEndpoint, None, None, 0).write(&mut out, true, false);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        assert!(text.contains("Proxy-Status: standfast; error=destination_unavailable;"));
        assert!(text.contains("Retry-After: 5\r\n"));
    }

    #[test]
    fn a_head_request_gets_the_length_but_no_body() {
        let mut out = Vec::new();
        Answer::not_found().write(&mut out, false, true);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("Content-Length: ") && text.ends_with("Connection: close\r\n\r\n"));
    }
}
