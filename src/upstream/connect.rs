//! ○ Opens a connection, TCP and TLS under one deadline. Used by proxy and probe.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::config::UpstreamTls;
use crate::table::counters::UpstreamError;
use crate::tls::Certificates;

/// A connection to an endpoint.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Where to, and how.
#[derive(Debug, Clone, Copy)]
pub struct Dial<'a> {
    pub address: SocketAddr,
    /// `None`: plain. The string is the endpoint's own host: SNI and verified name unless
    /// [`UpstreamTls::server_name`] is set.
    pub tls: Option<(&'a UpstreamTls, &'a str)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectError {
    pub reason: UpstreamError,
    /// No descriptor, no port, no memory, no route of ours: not the endpoint's fault.
    pub self_fault: bool,
    /// For the log, a fragment such as `connection refused`.
    pub detail: String,
}

/// Opens a connection within `timeout` in total.
pub async fn open(
    dial: Dial<'_>,
    certificates: &Certificates,
    timeout: Duration,
) -> Result<Stream, ConnectError> {
    let _ = (dial, certificates, timeout);
    todo!()
}
