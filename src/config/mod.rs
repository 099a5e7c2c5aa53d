//! ● The configuration: values that cannot be wrong.
//!
//! Text goes through [`parse`] (the YAML crate, hidden), takes the shape of `file.rs` (private) and
//! becomes a [`Config`] in [`check`], which reports every error at once, each with its place.
//! [`diff`] tells two of them apart. Whatever the outside world must answer (files, environment
//! variables, certificates, the descriptor limit) is asked through [`check::World`], so that this
//! folder touches nothing itself.

pub mod check;
pub mod diff;
mod file;
mod names;
mod parse;
mod report;
mod units;
pub mod view;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use ipnet::IpNet;

/// A duration as the file writes it: `800ms`, `30s`, `5m`.
///
/// # Errors
/// A sentence that says what was expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|wrong| wrong.message)
}

/// A share as the file writes it, `50%` as 0.5.
///
/// # Errors
/// A sentence that says what was expected.
pub fn percentage(text: &str) -> Result<f64, String> {
    units::percentage(text).map_err(|wrong| wrong.message)
}

/// A duration in its largest whole unit, as the file would write it.
pub fn period(duration: Duration) -> impl fmt::Display {
    units::Period(duration)
}

/// A checked configuration, with the files it names already read.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub admin: Admin,
    pub process: Process,
    pub logging: Logging,
    pub listeners: Vec<Arc<Listener>>,
    /// In the order of the file; routes refer to a service by its index here.
    pub services: Vec<Arc<Service>>,
    /// Stable digest of the text after reading, as 16 hex digits: which configuration runs.
    pub digest: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// TCP address of the admin server. Default `127.0.0.1:9090`.
    pub listen: SocketAddr,
    /// False where `listen` was not written: then a taken port is a warning, not an error.
    pub listen_is_explicit: bool,
    /// Unix socket of the control commands; none unless written.
    pub socket: Option<PathBuf>,
    /// Needed for changes over TCP; without it they are refused there.
    pub token: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Data threads; `None` is `auto`: one per usable core.
    pub workers: Option<u16>,
    /// After TERM: `/readyz` fails, connections are still accepted. Default 0.
    pub lame_duck: Duration,
    /// How long requests in flight may take to finish at a stop. Default 30 s.
    pub drain_timeout: Duration,
    /// Where verdicts, holds, modes, damping and records survive a restart; nowhere unless written.
    pub state_file: Option<PathBuf>,
    /// Where probe results are recorded for `backtest`; nowhere unless written.
    pub history_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Logging {
    pub level: Level,
    pub format: LogFormat,
    pub access_log: Option<AccessLog>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    pub output: Output,
    /// Share of successful requests written, 0..=1; failures are always written.
    pub sample: f64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Unique; the bind address where the file gives no name.
    pub name: Arc<str>,
    pub bind: SocketAddr,
    /// HTTP/1.1 alone where nothing is written and there is no TLS, else both.
    pub protocols: Protocols,
    pub mode: ListenerMode,
    /// Whose connections begin with a PROXY header, which is required from them and refused from
    /// all others. Empty: nobody's.
    pub proxy_protocol: Vec<IpNet>,
    pub tls: Option<Tls>,
    /// `redirect: https`: every request is answered with 308.
    pub redirect_https: bool,
    /// Whose `X-Forwarded-*` and `X-Request-Id` are believed.
    pub trusted_proxies: Vec<IpNet>,
    pub limits: Limits,
    /// `service: app` is one route that matches everything.
    pub routes: Vec<Route>,
}

/// What a listener understands of what its clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListenerMode {
    #[default]
    Http,
    /// Bytes, passed on both ways.
    Tcp,
    /// The same, once the ClientHello has told where they are to go.
    TlsPassthrough,
}

impl ListenerMode {
    /// As the file writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::TlsPassthrough => "tls-passthrough",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub min_version: TlsVersion,
    /// By SNI; the first is the default. Never empty.
    pub certificates: Vec<Certificate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// A certificate chain and its key, read, parsed and matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// PEM as read.
    pub chain_pem: Vec<u8>,
    /// PEM as read.
    pub key_pem: Secret,
    /// DNS names of the leaf, lower case, wildcards as `*.example.com`.
    pub names: Vec<String>,
    /// Unix seconds.
    pub not_after: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Open client connections of this listener, all workers together. Default 50,000.
    pub max_connections: u32,
    /// From the first byte (TLS: from accept) to the end of the request head. Default 10 s.
    pub header_timeout: Duration,
    /// Between requests of a kept connection. Default 60 s.
    pub idle_timeout: Duration,
    /// Longest silence inside a request body. Default 30 s.
    pub body_timeout: Duration,
    /// Bytes of a request head. Default 64 KiB.
    pub max_header_size: u32,
    /// Default 128.
    pub max_headers: u16,
    /// Bytes of a request target. Default 16 KiB.
    pub max_uri: u32,
    /// Bytes of a request body; none unless written.
    pub max_body_size: Option<u64>,
    /// Requests under way at once on one HTTP/2 connection. Default 128.
    pub max_concurrent_streams: u32,
}

/// What a listener speaks: one of them at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols {
    pub http1: bool,
    /// By ALPN with TLS, else by prior knowledge (RFC 9113 section 3).
    pub http2: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Empty: every host. With `mode: tls-passthrough`, what clients name by SNI.
    pub hosts: Vec<HostPattern>,
    /// Protocols of which the client must offer one; empty: whatever it offers.
    pub alpn: Vec<String>,
    /// `/` matches every path; otherwise a prefix that ends at a segment border.
    pub path_prefix: String,
    /// Index into [`Config::services`].
    pub service: u32,
    /// A request with an `Idempotency-Key` may be sent again whatever its method. Default false.
    pub idempotency_key: bool,
}

/// Lower case, without port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    Exact(String),
    /// `*.example.com` is held as `example.com` and matches any name with at least one more label.
    Wildcard(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub name: Arc<str>,
    pub balance: Balance,
    pub failover: Failover,
    /// Gateway errors (502, 503, 504) in a row from live traffic that bar an endpoint; `None`: off.
    /// Default 5.
    pub outlier_errors: Option<u32>,
    pub retries: Retries,
    pub timeouts: Timeouts,
    /// In order of priority; never empty.
    pub pools: Vec<Arc<Pool>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastRequests,
    Random,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    pub failback: Failback,
    pub when_none: WhenNone,
    pub hold: Hold,
    pub sessions: Sessions,
}

/// How long a request that has nowhere to go waits for a verdict instead of failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Zero: it does not wait. Default 2 s.
    pub time: Duration,
    /// Requests of the service that may wait at once, all workers together. Default 1000.
    pub requests: u32,
}

/// What becomes of long-lived sessions on a pool the service moved away from.
///
/// A forced move closes them over `spread` from the move on; any other one after `close_after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sessions {
    /// Default 30 s.
    pub close_after: Duration,
    /// Default 10 s.
    pub spread: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failback {
    /// Return once a pool of higher priority was available without a break for `stable_for`.
    Auto {
        stable_for: Duration,
        /// Over which the share of the returning pool grows to all. Default a fifth of
        /// `stable_for`, at most 60 s; zero: at once.
        ramp: Duration,
    },
    Manual,
}

impl Default for Hold {
    fn default() -> Self {
        Self { time: Duration::from_secs(2), requests: 1000 }
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self { close_after: Duration::from_secs(30), spread: Duration::from_secs(10) }
    }
}

/// What becomes of requests when no pool of the service is available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenNone {
    /// Send to all endpoints all the same, loudly.
    TryAll,
    /// 503 with `Retry-After`.
    Unavailable,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Retries {
    /// Times a request may be sent again after it may have been sent. Default 2.
    pub attempts: u32,
    /// Share of requests that may be sent again within a pool, 0..=1. Default 0.2.
    pub budget: f64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Default 1 s.
    pub connect: Duration,
    /// From the request sent to the response head. Default 30 s.
    pub response_header: Duration,
    /// Longest silence inside a response body, and of an idle connection. Default 60 s.
    pub idle: Duration,
    /// The whole exchange, or a TCP connection; none unless written.
    pub total: Option<Duration>,
    /// Longest silence of a TCP connection: `idle`, but only where that is written. None: what is
    /// silent for long may be well all the same.
    pub silence: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    pub name: Arc<str>,
    /// Endpoints that must be up for the pool to be available; 1..=endpoints.len().
    pub min_healthy: u32,
    pub health_check: Option<HealthCheck>,
    pub upstream: Upstream,
    /// Never empty; names are unique within the pool.
    pub endpoints: Vec<Arc<Endpoint>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and port, as in `10.0.1.10:80`; what users type and metrics carry.
    pub name: Arc<str>,
    pub scheme: Scheme,
    /// Host as written: a literal address or a name; SNI and `Host` of probes come from it.
    pub host: String,
    pub address: SocketAddr,
    /// 1..=1000. Default 1.
    pub weight: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    pub kind: CheckKind,
    /// Default 1 s.
    pub interval: Duration,
    /// Less than `interval`. Default 800 ms.
    pub timeout: Duration,
    /// The interval while in doubt. Default 100 ms.
    pub fast_interval: Duration,
    /// Failures in a row until down. Default 3.
    pub unhealthy_threshold: u32,
    /// Successes in a row until up. Default 2.
    pub healthy_threshold: u32,
}

impl HealthCheck {
    /// Within this time every endpoint of a pool is asked and has answered or not, so that is how
    /// far apart the first failures of one event can lie.
    pub fn round(&self) -> Duration {
        self.interval * 2 + self.timeout
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    Tcp,
    /// TCP and a whole handshake, verified as `upstream.tls` says.
    Tls,
    /// Over TLS where the check says https, or its type is left out and the endpoint is https.
    Http(HttpCheck),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    pub tls: bool,
    pub path: String,
    /// `Host` of the probe; the endpoint's own host if none.
    pub host: Option<String>,
    /// Inclusive ranges of status codes. Default 200-299.
    pub status: Vec<(u16, u16)>,
    pub body_contains: Option<String>,
    /// Name in lower case → exact value.
    pub headers: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    pub tls: UpstreamTls,
    /// Requests an endpoint may have in flight, all workers together: the smaller one of
    /// `max_connections` and `max_requests`, which are the same over HTTP/1.1. Default 1024.
    pub max_requests: u32,
    /// Ready connections kept to every endpoint, all workers together. Default 0.
    pub warm: u32,
    /// The PROXY header that TCP connections and probes begin with; none unless written.
    pub proxy_protocol: Option<ProxyVersion>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    V1,
    V2,
}

impl ProxyVersion {
    /// As the file writes it.
    pub fn label(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// How https endpoints and https probes are verified. A key: equal values share one TLS client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UpstreamTls {
    /// SNI and the name verified; the endpoint's own host if none.
    pub server_name: Option<String>,
    /// The system's roots if none.
    pub ca: Option<CaFile>,
    pub verify: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CaFile {
    pub path: PathBuf,
    /// PEM as read.
    pub pem: Vec<u8>,
}

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}
