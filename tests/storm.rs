//! Many at once: handshakes with a standby that was cold, clients beyond the limit of descriptors.
//! Nothing of that is an endpoint's fault, and no request that was accepted is lost to it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use support::client::Client;
use support::lab::Lab;
use support::nginx::Nginx;
use support::proxy::Proxy;
use support::{PATIENCE, free_address, until};

fn config(bind: SocketAddr, service: &str, hot: &Nginx, standby: &Nginx) -> String {
    format!(
        "process: {{ workers: 2 }}
listeners: [{{ bind: {bind}, service: app }}]
services:
  app:
    health_check: {{ path: /healthz }}
    {service}
    pools:
      - {{ name: hot, endpoints: [{}] }}
      - {{ name: standby, endpoints: [{}] }}
",
        hot.url(),
        standby.url()
    )
}

/// Clients that ask one thing after the other, each over its connection.
struct Crowd {
    stop: Arc<AtomicBool>,
    /// Answers of the hot pool and of the standby, and everything else.
    counts: Arc<[AtomicUsize; 3]>,
    clients: Vec<JoinHandle<()>>,
}

impl Crowd {
    fn start(bind: SocketAddr, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let counts: Arc<[AtomicUsize; 3]> = Arc::default();
        let clients = (0..clients)
            .map(|_| {
                let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
                thread::Builder::new()
                    .stack_size(256 * 1024)
                    .spawn(move || {
                        let mut client = Client::plain(bind);
                        while !stop.load(Ordering::SeqCst) {
                            let answer = client.get("/");
                            let kind = match (answer.status(), answer.text().trim_end()) {
                                (200, "hot") => 0,
                                (200, "standby") => 1,
                                _ => 2,
                            };
                            counts[kind].fetch_add(1, Ordering::SeqCst);
                        }
                    })
                    .unwrap()
            })
            .collect();
        Self { stop, counts, clients }
    }

    fn count(&self, kind: usize) -> usize {
        self.counts[kind].load(Ordering::SeqCst)
    }

    fn wait_for(&self, kind: usize, more: usize) {
        let goal = self.count(kind) + more;
        until("the clients are answered", || (self.count(kind) >= goal).then_some(()));
    }

    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
    }
}

#[test]
fn a_storm_of_handshakes_with_a_cold_standby_costs_no_request() {
    const CLIENTS: usize = 400;
    let lab = Lab::new();
    let mut hot = Nginx::start_tls(&lab, "hot", &lab.app);
    let costly = lab.ca.issue_costly("standby", &["127.0.0.1"]);
    let standby = Nginx::start_forgetful(&lab, "standby", &costly);
    let bind = free_address();
    let tls = format!("upstream: {{ tls: {{ ca_file: {} }} }}", lab.ca.ca_file.display());
    let proxy = Proxy::start(&lab, &config(bind, &tls, &hot, &standby));
    proxy.wait_all_up("app");
    let crowd = Crowd::start(bind, CLIENTS);
    crowd.wait_for(0, 3 * CLIENTS);
    hot.kill9();
    crowd.wait_for(1, 3 * CLIENTS);
    let (lost, metrics) = (crowd.count(2), proxy.metrics());
    crowd.end();
    assert_eq!((lost, metrics.sum("standfast_requests_lost_total", &[])), (0, 0.0));
    let standby = [("pool", "standby"), ("state", "down")];
    assert_eq!(metrics.sum("standfast_endpoint_state", &standby), 0.0);
    proxy.stop();
}

/// A client whose answers are not waited for.
struct Guest {
    stream: TcpStream,
    /// When it got its last answer; none: it was not served yet.
    answered: Option<Instant>,
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";

impl Guest {
    fn new(bind: SocketAddr) -> Self {
        let mut stream = TcpStream::connect_timeout(&bind, PATIENCE).unwrap();
        stream.write_all(REQUEST).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { stream, answered: None }
    }

    /// Takes the answer if there is one.
    fn look(&mut self) -> bool {
        let mut answer = [0; 4096];
        let Ok(count) = self.stream.read(&mut answer) else { return false };
        assert!(answer[..count].starts_with(b"HTTP/1.1 200 "), "{:?}", &answer[..count]);
        self.answered = Some(Instant::now());
        true
    }

    /// Asks again. False if it was sent away, which it may be once it was silent for a second.
    fn ask(&mut self) -> bool {
        let silent = self.answered.unwrap().elapsed();
        self.stream.set_nonblocking(false).unwrap();
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = self.stream.write_all(REQUEST);
        let mut answer = [0; 4096];
        let count = self.stream.read(&mut answer).unwrap_or(0);
        let is_served = answer[..count].starts_with(b"HTTP/1.1 200 ");
        self.answered = Some(Instant::now());
        let text = String::from_utf8_lossy(&answer[..count]);
        assert!(is_served || count == 0 && silent >= Duration::from_millis(900), "{text:?}");
        is_served
    }
}

#[test]
fn clients_beyond_the_descriptors_wait_and_cost_those_that_are_served_nothing() {
    const LIMIT: u64 = 200;
    let lab = Lab::new();
    let (hot, standby) = (Nginx::start(&lab, "hot"), Nginx::start(&lab, "standby"));
    let bind = free_address();
    let proxy = Proxy::start(&lab, &config(bind, "", &hot, &standby));
    proxy.wait_all_up("app");
    let pid = Pid::from_raw(proxy.pid().cast_signed());
    let few = Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
    prlimit(pid, Resource::Nofile, few).unwrap();
    let mut guests: Vec<_> = (0..2 * LIMIT).map(|_| Guest::new(bind)).collect();
    until("a hundred are served", || {
        guests.iter_mut().filter(|guest| guest.answered.is_none()).for_each(|guest| {
            guest.look();
        });
        (guests.iter().filter(|guest| guest.answered.is_some()).count() >= 100).then_some(())
    });
    // They go on being served, over the connections they have.
    let is_served = |guest: &Guest| guest.answered.is_some();
    let (mut served, mut waiting): (Vec<_>, Vec<_>) = guests.into_iter().partition(is_served);
    for _ in 0..5 {
        served.retain_mut(Guest::ask);
    }
    assert!(!served.is_empty());
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("standfast_requests_lost_total", &[]), 0.0);
    let blamed = ["standfast_endpoint_doubted", "standfast_upstream_errors_total"];
    assert_eq!(blamed.map(|name| metrics.sum(name, &[])), [0.0, 0.0]);
    assert_eq!(metrics.sum("standfast_endpoint_state", &[("state", "up")]), 2.0);
    let errors = metrics.sum("standfast_accept_errors_total", &[]);
    assert!(errors < 20.0, "{errors} attempts to accept without a descriptor");
    // Who has nothing more to ask makes room for all others, whether it leaves or not.
    drop(served.split_off(served.len() / 2));
    until("all are served", || {
        waiting.retain_mut(|guest| !guest.look());
        waiting.is_empty().then_some(())
    });
    assert_eq!(proxy.metrics().sum("standfast_requests_lost_total", &[]), 0.0);
    proxy.stop();
}
