//! ○ One HTTP/1.1 request to the admin server.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::{Address, Client, Failure};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long an answer may take: longer than the server's own limit, so that its answer comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Order,
    Drill,
}

impl Limit {
    fn time(self) -> Duration {
        Duration::from_secs(match self {
            Self::Order => 65,
            Self::Drill => 1_360,
        })
    }
}

/// A status of some hundred thousand endpoints.
const MOST_BODY: usize = 128 * 1024 * 1024;

#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl Answer {
    /// Null where the body is not JSON.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Client {
    pub(super) fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.ask(Method::GET, path, &Value::Null, Limit::Order)
    }

    /// `Null` is no body, here and below.
    pub(super) fn post(&self, path: &str, body: &Value, limit: Limit) -> Result<Answer, Failure> {
        self.ask(Method::POST, path, body, limit)
    }

    pub(super) fn put(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        self.ask(Method::PUT, path, body, Limit::Order)
    }

    pub(super) fn delete(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        self.ask(Method::DELETE, path, body, Limit::Order)
    }

    /// Somebody accepts connections at the address.
    pub(super) fn is_there(&self) -> bool {
        let connect = async {
            match &self.address {
                Address::Unix(path) => UnixStream::connect(path).await.map(drop),
                Address::Http(host) => TcpStream::connect(host.as_str()).await.map(drop),
            }
        };
        wait(CONNECT_LIMIT, connect).is_ok()
    }

    fn ask(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        limit: Limit,
    ) -> Result<Answer, Failure> {
        let bytes = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(bytes))
            .map_err(|error| Failure(error.to_string()))?;
        let host = match &self.address {
            Address::Unix(_) => "localhost",
            Address::Http(host) => host,
        };
        let mut headers = vec![(header::HOST, host.to_owned())];
        if let Some(token) = &self.token {
            headers.push((header::AUTHORIZATION, format!("Bearer {}", token.trim())));
        }
        for (name, value) in headers {
            let value = value.parse().map_err(|_| Failure(format!("{name}: not a header")))?;
            request.headers_mut().insert(name, value);
        }
        let exchange = async {
            match &self.address {
                Address::Unix(path) => exchange(UnixStream::connect(path), request).await,
                Address::Http(host) => exchange(TcpStream::connect(host.as_str()), request).await,
            }
        };
        wait(limit.time(), exchange).map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &io::Error) -> Failure {
        let address = &self.address;
        Failure(match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
                "no standfast answers at {address}: {error}\nis it running? name its admin \
                 address with --admin PATH|URL, or its configuration with -c FILE"
            ),
            io::ErrorKind::PermissionDenied => {
                format!("{address}: {error}\nrun this as the user standfast runs as")
            }
            _ => format!("{address}: {error}"),
        })
    }
}

async fn exchange<S>(
    connect: impl Future<Output = io::Result<S>>,
    request: Request<Full<Bytes>>,
) -> io::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
    let stream = tokio::time::timeout(CONNECT_LIMIT, connect).await.map_err(late)??;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MOST_BODY).collect();
        Ok(Answer { status, body: body.await.map_err(io::Error::other)?.to_bytes() })
    };
    let mut answer = std::pin::pin!(answer);
    let connection = std::pin::pin!(connection);
    tokio::select! {
        answer = answer.as_mut() => answer,
        // The last answer may be complete when its connection ends.
        _ = connection => answer.await,
    }
}

/// Runs to the end on a runtime of its own: a command does one thing.
fn wait<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    runtime.block_on(async { tokio::time::timeout(limit, work).await.map_err(late)? })
}

/// A name as one segment of a path (RFC 3986 section 2.3).
pub(super) fn encoded(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte as char);
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
