//! The application behind the ingresses: one thread plays it for all endpoints, answers as it is
//! told, and writes down every request that reaches it.
//!
//! `/r/NUMBER` is a request of the load: GET is answered at once, POST after 5 ms. `/bad/NUMBER` is
//! answered with 500 and `/busy/NUMBER` with 503, by every endpoint. `/ws` becomes a WebSocket.
//! `/healthz` is what probes ask for, and `/ready` what the rig itself asks for. Every answer names the
//! cluster it comes from in `x-cluster-id`: hot or standby.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::websocket::ACCEPT;
use super::{Pool, pool_of};

/// What a POST takes.
const POST_TIME: Duration = Duration::from_millis(5);

/// A request that reached the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    pub number: u64,
    pub post: bool,
    /// 0 to 2: hot, 3 to 5: standby.
    pub endpoint: usize,
    /// Since the rig's origin.
    pub at: Duration,
}

/// How one endpoint's application behaves.
#[derive(Default)]
pub struct Behaviour {
    /// 503 to users.
    pub refuse_users: AtomicBool,
    /// 503 to probes.
    pub refuse_probes: AtomicBool,
    /// Milliseconds every answer is delayed by.
    pub delay: AtomicU32,
    /// Answers as if it belonged to another cluster.
    pub foreign: AtomicBool,
    /// As if stopped: reads, and does nothing.
    paused: AtomicBool,
    resumed: Notify,
    /// Probes answered, of any proxy and of the rig.
    pub probes: AtomicU64,
}

impl Behaviour {
    pub fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
    }

    pub fn resume(&self) {
        self.paused.store(false, Ordering::SeqCst);
        self.resumed.notify_waiters();
    }

    async fn while_paused(&self) {
        loop {
            let resumed = self.resumed.notified();
            if !self.paused.load(Ordering::SeqCst) {
                return;
            }
            resumed.await;
        }
    }
}

/// The running applications.
pub struct App {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    origin: Instant,
    behaviours: Vec<Behaviour>,
    deliveries: Mutex<Vec<Delivery>>,
    ended: Notify,
}

impl App {
    /// One application for each listener.
    pub fn start(origin: Instant, listeners: Vec<TcpListener>) -> Self {
        let behaviours = listeners.iter().map(|_| Behaviour::default()).collect();
        let shared = Arc::new(Shared {
            origin,
            behaviours,
            deliveries: Mutex::default(),
            ended: Notify::new(),
        });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(async {
                    for (endpoint, listener) in listeners.into_iter().enumerate() {
                        tokio::spawn(listen(Arc::clone(&shared), endpoint, listener));
                    }
                    shared.ended.notified().await;
                });
            }
        });
        Self { shared, thread: Some(thread) }
    }

    pub fn behaviour(&self, endpoint: usize) -> &Behaviour {
        &self.shared.behaviours[endpoint]
    }

    /// All deliveries so far.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.deliveries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.shared.ended.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn listen(shared: Arc<Shared>, endpoint: usize, listener: TcpListener) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // An error is the end of a connection whose ingress was killed.
            let _ = serve(&shared, endpoint, stream).await;
        });
    }
}

async fn serve(shared: &Shared, endpoint: usize, mut stream: TcpStream) -> std::io::Result<()> {
    let behaviour = &shared.behaviours[endpoint];
    let mut buf = Vec::with_capacity(2048);
    loop {
        let Some((head, taken)) = request(&buf) else {
            if stream.read_buf(&mut buf).await? == 0 {
                return Ok(());
            }
            continue;
        };
        buf.drain(..taken);
        behaviour.while_paused().await;
        if head.path == "/ws" {
            return converse(behaviour, stream).await;
        }
        let (status, body) = answer(shared, endpoint, &head).await;
        behaviour.while_paused().await;
        let cluster = match (behaviour.foreign.load(Ordering::SeqCst), pool_of(endpoint)) {
            (true, _) => "another",
            (false, Pool::Hot) => "hot",
            (false, Pool::Standby) => "standby",
        };
        let text = format!(
            "HTTP/1.1 {status} X\r\nX-Cluster-Id: {cluster}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).await?;
    }
}

/// Becomes a WebSocket, and says `ok` to whatever comes.
async fn converse(behaviour: &Behaviour, mut stream: TcpStream) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut buf = [0; 1024];
    while stream.read(&mut buf).await? > 0 {
        behaviour.while_paused().await;
        stream.write_all(b"\x81\x02ok").await?;
    }
    Ok(())
}

async fn answer(shared: &Shared, endpoint: usize, head: &Head) -> (u16, String) {
    let behaviour = &shared.behaviours[endpoint];
    let probe = head.path == "/healthz";
    let number = head.path.rsplit('/').next().and_then(|text| text.parse().ok());
    if let Some(number) = number {
        let delivery = Delivery { number, post: head.post, endpoint, at: shared.origin.elapsed() };
        shared.deliveries.lock().unwrap_or_else(PoisonError::into_inner).push(delivery);
    } else if probe {
        behaviour.probes.fetch_add(1, Ordering::Relaxed);
    }
    let refuse = if probe { &behaviour.refuse_probes } else { &behaviour.refuse_users };
    if refuse.load(Ordering::SeqCst) {
        return (503, "not now\n".to_owned());
    }
    let slow = Duration::from_millis(behaviour.delay.load(Ordering::SeqCst).into());
    let time = if head.post { POST_TIME + slow } else { slow };
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
    let status = match &head.path {
        path if path.starts_with("/bad/") => 500,
        path if path.starts_with("/busy/") => 503,
        _ => 200,
    };
    (status, format!("endpoint {endpoint}\n"))
}

struct Head {
    post: bool,
    path: String,
}

/// The first whole request in `buf` (its body left out), and its length.
fn request(buf: &[u8]) -> Option<(Head, usize)> {
    let end = memchr::memmem::find(buf, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&buf[..end]);
    let mut words = text.split(' ');
    let post = words.next() == Some("POST");
    let path = words.next().unwrap_or_default().to_owned();
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let taken = end + length.unwrap_or(0usize);
    (buf.len() >= taken).then_some((Head { post, path }, taken))
}
