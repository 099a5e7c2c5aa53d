//! An open-loop client over TLS: every request has a number and a moment at which it is due, and is
//! sent then whether or not earlier ones were answered, as far as the connections go. Latency counts
//! from that moment, so that a stall shows in every request it delays.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::wire::{self, Message};
use super::{PATIENCE, until};

/// What to send.
#[derive(Clone)]
pub struct Plan {
    pub target: SocketAddr,
    pub tls: Arc<ClientConfig>,
    /// Requests a second.
    pub rate: u32,
    /// Connections kept between requests.
    pub kept: usize,
    /// Connections open at once; a request that finds none free waits, and its latency counts.
    pub most: usize,
    /// Every n-th request opens a connection of its own; 0: none does.
    pub fresh_every: u64,
    /// `GET` or `POST`; requests go to `/load?n=NUMBER`.
    pub method: &'static str,
}

/// What became of one request.
#[derive(Debug, Clone)]
pub struct Sample {
    pub number: u64,
    pub latency: Duration,
    /// Status and body, or why there is none.
    pub outcome: Result<(u16, String), String>,
}

/// A running load.
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    plan: Plan,
    stop: AtomicBool,
    sent: AtomicU64,
    idle: Mutex<VecDeque<TlsStream<TcpStream>>>,
    places: Semaphore,
    samples: Mutex<Vec<Sample>>,
}

/// All samples of a finished load.
#[derive(Debug)]
pub struct Report {
    /// In the order of their answers.
    pub samples: Vec<Sample>,
}

impl Load {
    pub fn start(plan: Plan) -> Self {
        let shared = Arc::new(Shared {
            places: Semaphore::new(plan.most),
            plan,
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            idle: Mutex::default(),
            samples: Mutex::default(),
        });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(generate(shared));
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Requests answered or failed so far.
    pub fn done(&self) -> usize {
        lock(&self.shared.samples).len()
    }

    /// Requests answered so far with this body.
    pub fn answered_by(&self, body: &str) -> usize {
        lock(&self.shared.samples).iter().filter(|sample| sample.is_from(body)).count()
    }

    /// Waits until `count` more requests are done.
    pub fn wait_more(&self, count: usize) {
        let goal = self.done() + count;
        until(&format!("{count} more requests are done"), || (self.done() >= goal).then_some(()));
    }

    /// Waits until `count` more requests are answered with this body.
    pub fn wait_more_by(&self, body: &str, count: usize) {
        let goal = self.answered_by(body) + count;
        until(&format!("{count} more answers are {body:?}"), || {
            (self.answered_by(body) >= goal).then_some(())
        });
    }

    /// Sends no more, waits for the answers still due.
    pub fn finish(mut self) -> Report {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.take().expect("runs once").join().unwrap();
        Report { samples: std::mem::take(&mut lock(&self.shared.samples)) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

impl Sample {
    fn is_from(&self, body: &str) -> bool {
        matches!(&self.outcome, Ok((200, text)) if text.trim_end() == body)
    }
}

impl Report {
    pub fn from(&self, body: &str) -> usize {
        self.samples.iter().filter(|sample| sample.is_from(body)).count()
    }

    /// Requests that got no 200.
    pub fn lost(&self) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| !matches!(sample.outcome, Ok((200, _)))).collect()
    }

    pub fn assert_none_lost(&self) {
        let lost = self.lost();
        let first: Vec<_> = lost.iter().take(10).collect();
        assert!(lost.is_empty(), "{} of {} lost: {first:#?}", lost.len(), self.samples.len());
    }
}

async fn generate(shared: Arc<Shared>) {
    let plan = &shared.plan;
    for _ in 0..plan.kept {
        if let Ok(stream) = connect(plan).await {
            lock(&shared.idle).push_back(stream);
        }
    }
    let start = Instant::now();
    let mut running = JoinSet::new();
    while !shared.stop.load(Ordering::SeqCst) {
        let number = shared.sent.fetch_add(1, Ordering::SeqCst);
        let due = start + Duration::from_secs(1) * number as u32 / plan.rate;
        tokio::time::sleep_until(due.into()).await;
        running.spawn(request(Arc::clone(&shared), number, due));
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
}

async fn request(shared: Arc<Shared>, number: u64, due: Instant) {
    let outcome = match tokio::time::timeout(PATIENCE, exchange(&shared, number)).await {
        Ok(Ok(message)) => Ok((message.status(), message.text())),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer in {PATIENCE:?}")),
    };
    lock(&shared.samples).push(Sample { number, latency: due.elapsed(), outcome });
}

async fn exchange(shared: &Shared, number: u64) -> io::Result<Message> {
    let plan = &shared.plan;
    let _place = shared.places.acquire().await.map_err(io::Error::other)?;
    let fresh = plan.fresh_every > 0 && number.is_multiple_of(plan.fresh_every);
    let kept = if fresh { None } else { lock(&shared.idle).pop_front() };
    let mut stream = match kept {
        Some(stream) => stream,
        None => connect(plan).await?,
    };
    let body = if plan.method == "POST" { format!("number {number}") } else { String::new() };
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    let request = format!(
        "{} /load?n={number} HTTP/1.1\r\nHost: app.test\r\n{length}\r\n{body}",
        plan.method
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let message = answer(&mut stream, plan.method).await?;
    let mut idle = lock(&shared.idle);
    if !fresh && message.keeps() && idle.len() < plan.kept {
        idle.push_back(stream);
    }
    Ok(message)
}

async fn answer(stream: &mut TlsStream<TcpStream>, method: &str) -> io::Result<Message> {
    let mut buf = Vec::new();
    let mut eof = false;
    loop {
        if let Some((mut message, taken)) = wire::head(&buf) {
            let framing = message.response_framing(method);
            if wire::body(&mut message, framing, &buf[taken..], eof).is_some() {
                return Ok(message);
            }
        }
        if eof {
            let text = format!("the connection ended after {} bytes of a response", buf.len());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        eof = stream.read_buf(&mut buf).await? == 0;
    }
}

async fn connect(plan: &Plan) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(plan.target).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("app.test").unwrap();
    TlsConnector::from(Arc::clone(&plan.tls)).connect(name, tcp).await
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
