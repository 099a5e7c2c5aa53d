//! ○ Opens a connection, TCP and TLS under one deadline. Used by proxy and probe.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::config::UpstreamTls;
use crate::descriptors::Descriptors;
pub use crate::stream::Stream;
use crate::sys;
use crate::table::counters::UpstreamError;
use crate::tls::{self, Certificates};

/// Where to, and how.
#[derive(Debug, Clone, Copy)]
pub struct Dial<'a> {
    pub address: SocketAddr,
    /// Sent before anything else, TLS included.
    pub preamble: &'static [u8],
    /// `None`: plain. The string is the endpoint's own host: SNI and verified name unless
    /// [`UpstreamTls::server_name`] is set.
    pub tls: Option<(&'a UpstreamTls, &'a str)>,
    /// Whose share of the descriptors it must not exceed; `None`: any will do.
    pub descriptors: Option<&'a Descriptors>,
    /// Set once the host has taken the connection, before any handshake.
    pub reached: Option<&'a AtomicBool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectError {
    pub reason: UpstreamError,
    /// No descriptor, no port, no memory: not the endpoint's fault.
    pub self_fault: bool,
    /// With [`UpstreamError::Tls`].
    pub tls_fault: Option<TlsFault>,
    /// For the log, a fragment such as `connection refused`.
    pub detail: String,
}

/// What was wrong with a TLS handshake, for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsFault {
    /// The error type of RFC 9209 (sections 2.3.12 to 2.3.14).
    pub error: &'static str,
    /// A sentence without its full stop: plain ASCII without quotes.
    pub details: &'static str,
}

/// How long the phases of opening a connection took, as far as they came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Phases {
    pub tcp: Option<Duration>,
    /// `None` for a plain connection.
    pub tls: Option<Duration>,
}

/// Opens a connection within `timeout` in total.
pub async fn open(
    dial: Dial<'_>,
    certificates: &Certificates,
    timeout: Duration,
) -> Result<Stream, ConnectError> {
    open_timed(dial, certificates, timeout, &mut Phases::default()).await
}

/// The same, and writes down what took how long.
pub async fn open_timed(
    dial: Dial<'_>,
    certificates: &Certificates,
    timeout: Duration,
    phases: &mut Phases,
) -> Result<Stream, ConnectError> {
    match tokio::time::timeout(timeout, open_unbounded(dial, certificates, phases)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError {
            reason: UpstreamError::ConnectTimeout,
            self_fault: false,
            tls_fault: None,
            detail: format!("no connection within {timeout:?}"),
        }),
    }
}

async fn open_unbounded(
    dial: Dial<'_>,
    certificates: &Certificates,
    phases: &mut Phases,
) -> Result<Stream, ConnectError> {
    let started = Instant::now();
    let mut tcp = connect(dial).await.map_err(|error| tcp_error(&error))?;
    phases.tcp = Some(started.elapsed());
    dial.reached.iter().for_each(|reached| reached.store(true, Ordering::Relaxed));
    // Without it the last segment of a message could wait for an acknowledgement.
    tcp.set_nodelay(true).map_err(|error| tcp_error(&error))?;
    sys::report_icmp_errors(&tcp, dial.address.is_ipv6()).map_err(|error| tcp_error(&error))?;
    if !dial.preamble.is_empty() {
        tcp.write_all(dial.preamble).await.map_err(|error| tcp_error(&error))?;
    }
    let Some((settings, host)) = dial.tls else {
        return Ok(Stream::Plain(tcp));
    };
    let name = settings.server_name.as_deref().unwrap_or(host);
    let name = tls::server_name(name).map_err(tls_error)?;
    let client = certificates
        .client(settings)
        .ok_or_else(|| tls_error("no TLS settings for this endpoint".to_owned()))?;
    let stream = TlsConnector::from(client).connect(name, tcp).await;
    let stream = stream.map_err(|error| handshake_error(&error))?;
    phases.tls = Some(started.elapsed().saturating_sub(phases.tcp.unwrap_or_default()));
    Ok(Stream::Tls(Box::new(stream.into())))
}

async fn connect(dial: Dial<'_>) -> io::Result<TcpStream> {
    let socket = match dial.address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    let is_too_many = |all: &Descriptors| all.is_too_many_for_endpoints(socket.as_raw_fd());
    if dial.descriptors.is_some_and(is_too_many) {
        return Err(Errno::MFILE.into());
    }
    socket.connect(dial.address).await
}

fn tcp_error(error: &io::Error) -> ConnectError {
    let errno = Errno::from_io_error(error);
    let self_fault = matches!(
        errno,
        Some(
            Errno::MFILE
                | Errno::NFILE
                | Errno::ADDRNOTAVAIL
                | Errno::NOBUFS
                | Errno::NOMEM
                | Errno::AGAIN
        )
    );
    let reason = match errno {
        Some(Errno::CONNREFUSED) => UpstreamError::Refused,
        Some(Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE) => UpstreamError::Reset,
        Some(Errno::TIMEDOUT) => UpstreamError::ConnectTimeout,
        _ => UpstreamError::Unreachable,
    };
    ConnectError { reason, self_fault, tls_fault: None, detail: plain_words(error) }
}

/// What an ICMP error said of an established connection, if it was one: a firewall or router on the
/// way, or a host that is not there, refuses what is sent.
pub fn rejected(error: &io::Error) -> Option<UpstreamError> {
    match Errno::from_io_error(error)? {
        Errno::CONNREFUSED => Some(UpstreamError::Refused),
        Errno::HOSTUNREACH
        | Errno::NETUNREACH
        | Errno::NETDOWN
        | Errno::HOSTDOWN
        | Errno::ACCESS
        | Errno::PERM => Some(UpstreamError::Unreachable),
        _ => None,
    }
}

fn handshake_error(error: &io::Error) -> ConnectError {
    let reset = matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionAborted
    );
    if let Some(reason) = rejected(error) {
        let detail = format!("rejected in the TLS handshake: {}", plain_words(error));
        return ConnectError { reason, self_fault: false, tls_fault: None, detail };
    }
    if reset {
        let detail = format!("connection closed in the TLS handshake: {}", plain_words(error));
        let reason = UpstreamError::Reset;
        return ConnectError { reason, self_fault: false, tls_fault: None, detail };
    }
    let fault = error.get_ref().and_then(|error| error.downcast_ref()).map(tls_fault);
    ConnectError { tls_fault: fault, ..tls_error(format!("TLS: {error}")) }
}

fn tls_error(detail: String) -> ConnectError {
    ConnectError { reason: UpstreamError::Tls, self_fault: false, tls_fault: None, detail }
}

fn tls_fault(error: &rustls::Error) -> TlsFault {
    use rustls::{CertificateError, Error};
    let (error, details) = match error {
        Error::InvalidCertificate(wrong) => {
            let details = match wrong {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "the certificate of the endpoint has expired"
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "the certificate of the endpoint is not valid yet"
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => {
                    "the certificate of the endpoint is for another name"
                }
                CertificateError::UnknownIssuer => {
                    "the certificate of the endpoint has an issuer that is not trusted"
                }
                CertificateError::Revoked => "the certificate of the endpoint is revoked",
                _ => "the certificate of the endpoint cannot be trusted",
            };
            ("tls_certificate_error", details)
        }
        Error::NoCertificatesPresented => {
            ("tls_certificate_error", "the endpoint has no certificate")
        }
        Error::AlertReceived(_) => ("tls_alert_received", "the endpoint refused the TLS handshake"),
        _ => ("tls_protocol_error", "the TLS handshake with the endpoint failed"),
    };
    TlsFault { error, details }
}

/// The system's words without the number, in lower case: `connection refused`.
fn plain_words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(errno: Errno) -> (UpstreamError, bool) {
        let error = tcp_error(&errno.into());
        (error.reason, error.self_fault)
    }

    #[test]
    fn only_what_is_scarce_here_is_our_own_fault() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM]
        {
            assert!(of(errno).1, "{errno:?}");
        }
        for errno in [Errno::NETUNREACH, Errno::NETDOWN, Errno::HOSTUNREACH] {
            assert_eq!(of(errno), (UpstreamError::Unreachable, false), "{errno:?}");
        }
        assert_eq!(of(Errno::CONNREFUSED), (UpstreamError::Refused, false));
    }

    #[test]
    fn what_icmp_says_of_an_established_connection_is_told_from_a_reset() {
        let of = |errno: Errno| rejected(&errno.into());
        assert_eq!(of(Errno::CONNREFUSED), Some(UpstreamError::Refused));
        assert_eq!(of(Errno::HOSTUNREACH), Some(UpstreamError::Unreachable));
        assert_eq!(of(Errno::PERM), Some(UpstreamError::Unreachable));
        assert_eq!(of(Errno::CONNRESET), None);
        assert_eq!(rejected(&io::ErrorKind::UnexpectedEof.into()), None);
    }
}
