//! ○ The demo's users: a steady load over TLS that checks every answer and counts what became of
//! each request.
//!
//! Open loop: a request begins when its time has come, however slow the others are.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::clock;

use super::ingress::{SERVED_BY, body};
use super::tally::{Outcome, Tally};

/// Requests that may be under way; more wait, and their waiting counts as latency.
const AT_ONCE: usize = 256;

/// One request in so many is a PUT. A POST would have to be lost now and then: what hot may have
/// processed when it died must not be sent again, whoever stands in front of it.
const PUT_EVERY: u64 = 40;

const SENT: &str = "name=standfast&job=failover";

/// A request without an answer for this long is lost.
const PATIENCE: Duration = Duration::from_secs(10);

type Sender = SendRequest<Full<Bytes>>;

/// The load, until it is stopped.
#[derive(Debug)]
pub(super) struct Clients {
    tally: Arc<Mutex<Tally>>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Clients {
    /// Begins to send `rate` requests a second to `target`.
    pub(super) fn start(target: SocketAddr, tls: Arc<ClientConfig>, rate: u32) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let tally = Arc::new(Mutex::new(Tally::default()));
        let users = Arc::new(Users {
            target,
            tls: TlsConnector::from(tls),
            kept: Mutex::default(),
            permits: Semaphore::new(AT_ONCE),
            tally: Arc::clone(&tally),
        });
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("clients".to_owned())
            .spawn(move || runtime.block_on(generate(users, rate, stopped)))?;
        Ok(Self { tally, stop, thread })
    }

    /// What has become of the requests so far.
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    /// Sends no more, and waits for the answers that are under way.
    pub(super) fn stop(self) -> Tally {
        let _ = self.stop.send(());
        let _ = self.thread.join();
        std::mem::take(&mut *lock(&self.tally))
    }
}

struct Users {
    target: SocketAddr,
    tls: TlsConnector,
    /// Used in turn, so that none is idle for long.
    kept: Mutex<VecDeque<Sender>>,
    permits: Semaphore,
    tally: Arc<Mutex<Tally>>,
}

async fn generate(users: Arc<Users>, rate: u32, mut stopped: oneshot::Receiver<()>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    let mut under_way = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = tick.tick() => {
                number += 1;
                under_way.spawn(one(Arc::clone(&users), number));
            }
            Some(_) = under_way.join_next() => {}
        }
    }
    while under_way.join_next().await.is_some() {}
}

async fn one(users: Arc<Users>, number: u64) {
    let begun = Instant::now();
    lock(&users.tally).begin();
    let with_body = number.is_multiple_of(PUT_EVERY);
    let outcome = match tokio::time::timeout(PATIENCE, users.exchange(with_body)).await {
        Ok(Ok(pool)) => Outcome::Ok(pool),
        Ok(Err(why)) => Outcome::Lost(format!("{}: {why}", if with_body { "PUT" } else { "GET" })),
        Err(_) => Outcome::Lost(format!("no answer within {PATIENCE:?}")),
    };
    lock(&users.tally).end(outcome, begun.elapsed(), clock::now());
}

impl Users {
    /// One request and its answer; the name of the pool that gave it.
    async fn exchange(&self, with_body: bool) -> Result<String, String> {
        let _permit = self.permits.acquire().await.map_err(|error| error.to_string())?;
        let mut sender = match self.kept().await {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let response = sender.send_request(self.request(with_body)?).await;
        let pool = check(response.map_err(said)?, with_body).await?;
        lock(&self.kept).push_back(sender);
        Ok(pool)
    }

    /// A connection that is still good, as far as can be seen.
    async fn kept(&self) -> Option<Sender> {
        loop {
            let mut sender = lock(&self.kept).pop_front()?;
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn connect(&self) -> Result<Sender, String> {
        let stream = TcpStream::connect(self.target).await.map_err(said)?;
        stream.set_nodelay(true).map_err(said)?;
        let name = crate::tls::server_name("localhost")?;
        let stream = self.tls.connect(name, stream).await.map_err(said)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(said)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(&self, with_body: bool) -> Result<Request<Full<Bytes>>, String> {
        let (method, path, body) = match with_body {
            true => (Method::PUT, "/jobs/1", Full::from(SENT)),
            false => (Method::GET, "/", Full::default()),
        };
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        request.body(body).map_err(said)
    }
}

/// Whether the answer is whole and right, down to its last byte.
async fn check(
    response: Response<hyper::body::Incoming>,
    with_body: bool,
) -> Result<String, String> {
    let status = response.status();
    if status != 200 {
        let why = response.headers().get("proxy-status").and_then(|value| value.to_str().ok());
        return Err(format!("{status} {}", why.unwrap_or_default()));
    }
    let pool = response.headers().get(SERVED_BY).and_then(|value| value.to_str().ok());
    let pool = pool.ok_or("nobody says who answered")?.to_owned();
    let bytes = response.into_body().collect().await.map_err(said)?.to_bytes();
    if bytes != body(&pool, with_body.then_some(SENT.len())) {
        return Err(format!("a wrong body of {} bytes", bytes.len()));
    }
    Ok(pool)
}

fn said(error: impl std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A tally is a set of counters: whole whatever its holder did.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
