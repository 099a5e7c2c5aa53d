//! The promise to a single request: what can be answered by somebody is answered, and what may have
//! been processed is never sent again unless that does no harm.
//!
//! The proxy runs in this process, so that its counters and doubts can be read; its endpoints do
//! what each test wants of them.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use standfast::app::{self, Running};
use standfast::cli::load;
use standfast::config::{Hold, Listener, Service};
use standfast::control::Source;
use standfast::health::Verdict;
use standfast::table::counters::{Codes, Loss, Proof, ServiceCells};
use standfast::table::live::Doubt;
use standfast::table::{self, Share, Table};
use support::client::Client;
use support::endpoint::{Conn, Endpoint};
use support::wire::Message;
use support::{free_address, until};
use tempfile::TempDir;

/// A proxy of one worker with one service, `app`.
struct Rig {
    running: Option<Running>,
    address: SocketAddr,
    _dir: TempDir,
}

/// Pools of endpoints, in order of priority; waits until all of them are up.
fn rig(pools: &[&[&str]]) -> Rig {
    rig_with(pools, |_, _| ())
}

/// The same, with a part of the configuration changed.
fn rig_with(pools: &[&[&str]], change: impl FnOnce(&mut Service, &mut Listener)) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rescue.yaml");
    let pools: Vec<String> = ["hot", "standby"]
        .iter()
        .zip(pools)
        .map(|(name, urls)| format!("{{ name: {name}, endpoints: [{}] }}", urls.join(", ")))
        .collect();
    let text = format!(
        "admin: {{ listen: \"127.0.0.1:0\" }}
process: {{ workers: 1, drain_timeout: 1s }}
logging: {{ access_log: false }}
listeners: [{{ name: http, bind: \"127.0.0.1:0\", service: app }}]
services:
  app:
    health_check: {{ path: /healthz }}
    pools: [{}]
",
        pools.join(", ")
    );
    std::fs::write(&file, text).unwrap();
    let (mut config, _) = load::load(&file).unwrap();
    let listener = Arc::make_mut(&mut config.listeners[0]);
    change(Arc::make_mut(&mut config.services[0]), listener);
    let source = Source {
        file: file.display().to_string(),
        load: Box::new(move || load::load(&file)),
        describe: |_, _| Vec::new(),
    };
    let running = app::start(config, source).unwrap();
    let address = running.address("http").unwrap();
    let rig = Rig { running: Some(running), address, _dir: dir };
    until("all endpoints are up", || {
        rig.table().endpoints().all(|(_, verdict)| verdict == Verdict::Up).then_some(())
    });
    rig
}

impl Rig {
    fn table(&self) -> Arc<Table> {
        self.running.as_ref().unwrap().current.load()
    }

    fn service(&self) -> Arc<table::Service> {
        Arc::clone(&self.table().services[0])
    }

    fn cells<T>(&self, read: impl FnOnce(&ServiceCells) -> T) -> T {
        read(self.service().counters.workers.of(0))
    }

    fn lost(&self, loss: Loss) -> u64 {
        self.cells(|cells| cells.lost[loss as usize].value())
    }

    fn lost_in_all(&self) -> u64 {
        self.cells(|cells| cells.lost.iter().map(|counter| counter.value()).sum())
    }

    /// A rescue counts once its answer was passed on, which the client may see a moment before.
    fn wait_rescued(&self, proof: Proof, count: u64) {
        until("the rescued requests are counted", || (self.rescued(proof) >= count).then_some(()));
        assert_eq!(self.rescued(proof), count);
    }

    fn rescued(&self, proof: Proof) -> u64 {
        self.cells(|cells| cells.rescued[proof as usize].value())
    }

    fn holding(&self) -> u32 {
        self.service().counters.holding.load(Ordering::Relaxed)
    }

    fn is_doubted(&self, endpoint: SocketAddr, doubt: Doubt) -> bool {
        let table = self.table();
        let mut endpoints = table.endpoints();
        endpoints.any(|(e, _)| e.config.address == endpoint && e.live.is(doubt))
    }

    /// One request on a connection of its own.
    fn send(&self, method: &str, path: &str) -> Message {
        send(self.address, method, path, "")
    }

    /// The same in the background, with the time it took.
    fn start(&self, method: &'static str, path: &'static str) -> JoinHandle<(Message, Duration)> {
        let address = self.address;
        thread::spawn(move || {
            let began = Instant::now();
            (send(address, method, path, ""), began.elapsed())
        })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        if let Some(running) = self.running.take() {
            runtime.block_on(running.stop());
        }
    }
}

fn send(address: SocketAddr, method: &str, path: &str, fields: &str) -> Message {
    let mut client = Client::plain(address);
    let body = if method == "POST" { "Content-Length: 4\r\n\r\nbody" } else { "\r\n" };
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: app.test\r\n{fields}{body}"));
    client.response(method)
}

fn hold(time: Duration, requests: u32) -> impl FnOnce(&mut Service, &mut Listener) {
    move |service, _| service.failover.hold = Hold { time, requests }
}

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Well to probes, 503 to users.
fn ill() -> Endpoint {
    Endpoint::start(|conn| {
        while conn.request().is_some() {
            conn.answer(503, "ill");
        }
    })
}

/// How often each target was delivered to one of these.
fn deliveries(endpoints: &[&Endpoint]) -> HashMap<String, usize> {
    let mut count = HashMap::new();
    for request in endpoints.iter().flat_map(|endpoint| endpoint.requests()) {
        *count.entry(request.target().to_owned()).or_default() += 1;
    }
    count
}

// --- gateway errors ------------------------------------------------------------------------------

#[test]
fn get_never_sees_the_503_of_one_of_three_and_its_endpoint_is_avoided() {
    let (ill, a, b) = (ill(), Endpoint::answering("a"), Endpoint::answering("b"));
    let rig = rig(&[&[&ill.url(), &a.url(), &b.url()]]);
    // A run of errors is believed once it lasted for a while.
    let mut sent = 0;
    until("it is doubted", || {
        assert_eq!(rig.send("GET", &format!("/{sent}")).status(), 200);
        sent += 1;
        rig.is_doubted(ill.address, Doubt::Errors).then_some(())
    });
    let (before, began) = (ill.requests().len(), Instant::now());
    assert!((5..=sent).contains(&before), "{before} of {sent} were sent to it");
    for number in 0..60 {
        assert_eq!(rig.send("GET", &format!("/more/{number}")).status(), 200);
    }
    // One at a time finds out whether it is well again.
    let (trials, most) = (ill.requests().len() - before, 1 + began.elapsed().as_secs() as usize);
    assert!(trials <= most, "{trials} of 60 were sent to it");
    // A retry within the pool is paid for by the budget.
    rig.wait_rescued(Proof::Idempotent, (before + trials) as u64);
    assert_eq!(rig.lost_in_all(), 0);
    for number in 0..20 {
        assert_eq!(rig.send("POST", &format!("/post/{number}")).status(), 200);
    }
}

#[test]
fn post_sees_a_503_at_most_once_in_a_while_and_is_never_sent_twice() {
    let (ill, a, b) = (ill(), Endpoint::answering("a"), Endpoint::answering("b"));
    let rig = rig(&[&[&ill.url(), &a.url(), &b.url()]]);
    let began = Instant::now();
    let answers: Vec<_> = (0..60).map(|n| rig.send("POST", &format!("/{n}"))).collect();
    let failed = answers.iter().filter(|answer| answer.status() != 200).count();
    let most = 1 + began.elapsed().as_secs() as usize / 5;
    assert!((1..=most).contains(&failed), "{failed} of 60");
    assert_eq!(rig.lost(Loss::EndpointError), failed as u64);
    assert!(deliveries(&[&ill, &a, &b]).values().all(|count| *count == 1));
}

#[test]
fn a_503_by_all_hot_endpoints_is_answered_by_the_standby() {
    let (hot, standby) = ([ill(), ill()], Endpoint::answering("standby"));
    let rig = rig(&[&[&hot[0].url(), &hot[1].url()], &[&standby.url()]]);
    let first = || rig.service().counters.first_elsewhere.load(Ordering::Relaxed);
    assert_eq!(first(), 0);
    for number in 0..40 {
        assert_eq!(rig.send("GET", &format!("/{number}")).text(), "standby");
    }
    assert_eq!(rig.lost_in_all(), 0);
    assert!(first() > 0);
    until("the wait is counted", || {
        (rig.cells(|cells| cells.rescue_wait_micros.value()) > 0).then_some(())
    });
    // A run of errors is believed once it lasted for a while.
    let mut number = 40;
    until("both are doubted", || {
        assert_eq!(rig.send("GET", &format!("/{number}")).text(), "standby");
        number += 1;
        hot.iter().all(|hot| rig.is_doubted(hot.address, Doubt::Errors)).then_some(())
    });
    assert_eq!(rig.send("POST", "/post").text(), "standby");
}

#[test]
fn a_spent_budget_sends_a_get_to_the_other_pool_instead_of_failing_it() {
    let (hot, standby) = ([ill(), ill(), ill()], Endpoint::answering("standby"));
    let urls = hot.each_ref().map(Endpoint::url);
    let urls = urls.each_ref().map(String::as_str);
    // Without outlier detection nobody avoids the ill ones, and the budget has to run out.
    let rig = rig_with(&[&urls, &[&standby.url()]], |service, _| service.outlier_errors = None);
    for number in 0..40 {
        assert_eq!(rig.send("GET", &format!("/{number}")).text(), "standby");
    }
    assert_eq!(rig.lost_in_all(), 0);
    assert!(rig.table().endpoints().all(|(endpoint, _)| endpoint.live.is_trusted()));
}

#[test]
fn a_spent_budget_is_not_evaded_by_going_back_and_forth_between_two_pools() {
    let (hot, standby) = ([ill(), ill(), ill()], [ill(), ill(), ill()]);
    let urls = |pool: &[Endpoint; 3]| pool.each_ref().map(Endpoint::url);
    let (hot_urls, standby_urls) = (urls(&hot), urls(&standby));
    let pools = [hot_urls.each_ref(), standby_urls.each_ref()].map(|p| p.map(String::as_str));
    let rig = rig_with(&[&pools[0], &pools[1]], |service, _| service.outlier_errors = None);
    for number in 0..100 {
        assert_eq!(rig.send("GET", &format!("/{number}")).status(), 503);
    }
    let count = |pool: &[Endpoint; 3]| pool.iter().map(|e| e.requests().len()).sum::<usize>();
    // Once to each pool, and the retries that were paid: ten to begin with, and a fifth.
    assert!(count(&hot) + count(&standby) <= 230, "{} + {}", count(&hot), count(&standby));
    assert!(count(&hot) <= 130, "{}", count(&hot));
}

#[test]
fn what_everybody_answers_with_503_is_passed_on_unchanged_and_bars_nobody() {
    let bad_uri = || {
        Endpoint::start(|conn| {
            while conn.request().is_some() {
                let head = "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\n";
                conn.send(format!("{head}busy"));
            }
        })
    };
    let (hot, standby) = (bad_uri(), bad_uri());
    let rig = rig(&[&[&hot.url()], &[&standby.url()]]);
    for number in 0..20 {
        let answer = rig.send("GET", &format!("/{number}"));
        assert_eq!((answer.status(), answer.text().as_str()), (503, "busy"));
        assert_eq!(answer.field("retry-after"), Some("7"));
    }
    assert_eq!((rig.lost(Loss::EndpointError), rig.lost_in_all()), (20, 20));
    assert_eq!(rig.rescued(Proof::Idempotent), 0);
    for endpoint in [&hot, &standby] {
        assert!(!rig.is_doubted(endpoint.address, Doubt::Errors), "a bad address is to blame");
    }
}

#[test]
fn a_500_is_an_answer() {
    let failing = Endpoint::start(|conn| {
        while conn.request().is_some() {
            conn.answer(500, "bug");
        }
    });
    let other = Endpoint::answering("other");
    let rig = rig(&[&[&failing.url()], &[&other.url()]]);
    for number in 0..20 {
        assert_eq!(rig.send("GET", &format!("/{number}")).status(), 500);
    }
    assert_eq!((rig.lost_in_all(), other.requests().len()), (0, 0));
    assert!(rig.table().endpoints().all(|(endpoint, _)| endpoint.live.is_trusted()));
}

#[test]
fn dropped_answer_that_came_whole_leaves_its_connection_in_use() {
    let (ill, well) = (ill(), Endpoint::answering("well"));
    let rig = rig_with(&[&[&ill.url()], &[&well.url()]], |service, _| {
        service.outlier_errors = None;
    });
    let probes = ill.connections();
    let began = Instant::now();
    for number in 0..20 {
        assert_eq!(rig.send("GET", &format!("/{number}")).status(), 200);
    }
    // One for all twenty, and one for each probe meanwhile.
    let most = 2 + began.elapsed().as_secs() as usize;
    assert_eq!(ill.requests().len(), 20);
    assert!(ill.connections() - probes <= most, "{}", ill.connections() - probes);
}

#[test]
fn an_idempotency_key_lets_a_post_be_sent_again_where_the_route_says_so() {
    for heeded in [true, false] {
        let (ill, well) = (ill(), Endpoint::answering("well"));
        let rig = rig_with(&[&[&ill.url()], &[&well.url()]], |_, listener| {
            listener.routes[0].idempotency_key = heeded;
        });
        let keyed = send(rig.address, "POST", "/keyed", "Idempotency-Key: \"8e03978e\"\r\n");
        assert_eq!(keyed.status(), if heeded { 200 } else { 503 });
        rig.wait_rescued(Proof::IdempotencyKey, u64::from(heeded));
        assert_eq!(deliveries(&[&ill, &well])["/keyed"], if heeded { 2 } else { 1 });
    }
}

#[test]
fn without_a_key_a_post_is_not_sent_again_though_the_route_heeds_keys() {
    let (ill, well) = (ill(), Endpoint::answering("well"));
    let rig = rig_with(&[&[&ill.url()], &[&well.url()]], |_, listener| {
        listener.routes[0].idempotency_key = true;
    });
    assert_eq!(rig.send("POST", "/plain").status(), 503);
    assert_eq!(deliveries(&[&ill, &well])["/plain"], 1);
}

#[test]
fn a_request_that_kills_its_connection_does_not_kill_all_that_are_kept() {
    let deadly = || {
        Endpoint::start(|conn| {
            while let Some(request) = conn.request() {
                match request.target() {
                    "/deadly" => return,
                    "/slow" => thread::sleep(MS(200)),
                    _ => {}
                }
                conn.answer(200, "well");
            }
        })
    };
    let hot = [deadly(), deadly()];
    let rig = rig(&[&[&hot[0].url(), &hot[1].url()]]);
    let slow: Vec<_> = (0..30).map(|_| rig.start("GET", "/slow")).collect();
    assert!(slow.into_iter().all(|slow| slow.join().unwrap().0.status() == 200));
    assert_eq!(rig.send("GET", "/deadly").status(), 502);
    // Once on an idle connection, once on a new one, and two retries (`retries.attempts`).
    assert_eq!(deliveries(&[&hot[0], &hot[1]])["/deadly"], 4);
}

// --- connects ------------------------------------------------------------------------------------

/// Answers like any other until it is made deaf: then its queue of connections is full, and the
/// kernel drops whatever asks for another one, as a firewall does.
struct Deaf {
    address: SocketAddr,
    is_deaf: Arc<AtomicBool>,
    _listener: Arc<TcpListener>,
    accepting: Option<JoinHandle<()>>,
    queue: Vec<TcpStream>,
}

impl Deaf {
    fn start() -> Self {
        let address = free_address();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(1).unwrap();
        let listener = Arc::new(TcpListener::from(socket));
        let is_deaf = Arc::new(AtomicBool::new(false));
        let accepting = thread::spawn({
            let (listener, is_deaf) = (Arc::clone(&listener), Arc::clone(&is_deaf));
            move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    if is_deaf.load(Ordering::SeqCst) {
                        return;
                    }
                    let answer =
                        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ndeaf";
                    let mut head = [0; 1024];
                    let _ = std::io::Read::read(&mut stream, &mut head);
                    let _ = std::io::Write::write_all(&mut stream, answer);
                }
            }
        });
        let accepting = Some(accepting);
        Self { address, is_deaf, _listener: listener, accepting, queue: Vec::new() }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn make_deaf(&mut self) {
        self.is_deaf.store(true, Ordering::SeqCst);
        // Nobody may make room again in the queue that is filled next.
        drop(TcpStream::connect(self.address).unwrap());
        self.accepting.take().unwrap().join().unwrap();
        while let Ok(stream) = TcpStream::connect_timeout(&self.address, MS(100)) {
            self.queue.push(stream);
            assert!(self.queue.len() < 20, "the queue is never full");
        }
    }
}

#[test]
fn a_silent_connect_is_hedged_to_the_standby_and_then_avoided() {
    for method in ["GET", "POST"] {
        let (mut hot, standby) = (Deaf::start(), Endpoint::answering("standby"));
        let rig = rig(&[&[&hot.url()], &[&standby.url()]]);
        hot.make_deaf();
        let began = Instant::now();
        assert_eq!(rig.send(method, "/first").text(), "standby");
        let first = began.elapsed();
        // The kernel would ask again after a second, which is also the connect timeout.
        assert!((MS(20)..MS(700)).contains(&first), "{first:?}");
        assert!(rig.is_doubted(hot.address, Doubt::Silent));
        assert_eq!(rig.cells(|cells| cells.hedged.value()), 1);
        rig.wait_rescued(Proof::NotSent, 1);
        assert_eq!(rig.send(method, "/second").text(), "standby");
        assert_eq!(rig.cells(|cells| cells.hedged.value()), 1, "it is avoided now");
        assert_eq!(rig.lost_in_all(), 0);
    }
}

#[test]
fn two_silent_connects_in_a_pool_lead_to_the_other_one() {
    let mut hot = [Deaf::start(), Deaf::start(), Deaf::start()];
    let standby = Endpoint::answering("standby");
    let urls = hot.each_ref().map(Deaf::url);
    let rig = rig(&[&urls.each_ref().map(String::as_str), &[&standby.url()]]);
    hot.iter_mut().for_each(Deaf::make_deaf);
    assert_eq!(rig.send("GET", "/").text(), "standby");
    assert_eq!(rig.cells(|cells| cells.hedged.value()), 2);
    let doubted = hot.iter().filter(|hot| rig.is_doubted(hot.address, Doubt::Silent)).count();
    assert_eq!(doubted, 2);
}

#[test]
fn the_time_of_the_whole_exchange_ends_a_connect_too() {
    let mut hot = Deaf::start();
    let rig = rig_with(&[&[&hot.url()]], |service, _| {
        service.timeouts.connect = Duration::from_secs(20);
        service.timeouts.total = Some(MS(200));
    });
    hot.make_deaf();
    let (answer, took) = rig.start("GET", "/").join().unwrap();
    assert_eq!(answer.status(), 504);
    assert!((MS(200)..Duration::from_secs(2)).contains(&took), "{took:?}");
    assert_eq!((rig.lost(Loss::Timeout), rig.lost_in_all()), (1, 1));
}

#[test]
fn a_refused_connect_makes_other_requests_avoid_its_endpoint() {
    let (dead, well) = (Endpoint::answering("dead"), Endpoint::answering("well"));
    let rig = rig(&[&[&dead.url(), &well.url()]]);
    dead.kill();
    for number in 0..10 {
        assert_eq!(rig.send("POST", &format!("/{number}")).text(), "well");
    }
    assert!(rig.is_doubted(dead.address, Doubt::Silent));
    // Only the first one found out.
    rig.wait_rescued(Proof::NotSent, 1);
}

// --- hold ----------------------------------------------------------------------------------------

#[test]
fn who_has_nowhere_to_go_waits_until_an_endpoint_is_back() {
    for method in ["GET", "POST"] {
        let endpoint = Endpoint::answering("before");
        let rig = rig_with(&[&[&endpoint.url()]], hold(Duration::from_secs(10), 1000));
        endpoint.kill();
        let waiting: Vec<_> = (0..5).map(|_| rig.start(method, "/held")).collect();
        until("all of them are held", || (rig.holding() == 5).then_some(()));
        let back = Endpoint::start_at(endpoint.address, |conn: &mut Conn| {
            while conn.request().is_some() {
                conn.answer(200, "back");
            }
        });
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap().0.text(), "back");
        }
        assert_eq!(rig.holding(), 0);
        assert_eq!(rig.cells(|cells| cells.held.value()), 5);
        rig.wait_rescued(Proof::NotSent, 5);
        assert_eq!(rig.lost_in_all(), 0);
        assert!(rig.cells(|cells| cells.rescue_wait_most_micros.load(Ordering::Relaxed)) > 0);
        assert_eq!(back.requests().len(), 5);
    }
}

#[test]
fn who_was_held_comes_back_step_by_step_and_not_all_at_once() {
    const HELD: usize = 60;
    let endpoint = Endpoint::answering("before");
    let rig = rig_with(&[&[&endpoint.url()]], hold(Duration::from_secs(10), 1000));
    endpoint.kill();
    let waiting: Vec<_> = (0..HELD).map(|_| rig.start("POST", "/held")).collect();
    until("all of them are held", || (rig.holding() == HELD as u32).then_some(()));
    // Requests there at the same time, and the most that ever were.
    let (here, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = (Arc::clone(&here), Arc::clone(&most));
    let _back = Endpoint::start_at(endpoint.address, move |conn: &mut Conn| {
        while conn.request().is_some() {
            let now = counters.0.fetch_add(1, Ordering::SeqCst) + 1;
            counters.1.fetch_max(now, Ordering::SeqCst);
            thread::sleep(MS(20));
            counters.0.fetch_sub(1, Ordering::SeqCst);
            conn.answer(200, "back");
        }
    });
    for waiting in waiting {
        assert_eq!(waiting.join().unwrap().0.text(), "back");
    }
    let most = most.load(Ordering::SeqCst);
    assert!(most <= HELD * 2 / 3, "{most} of {HELD} at once");
    assert_eq!(rig.lost_in_all(), 0);
}

#[test]
fn a_stop_takes_nothing_from_the_time_of_who_is_held() {
    let endpoint = Endpoint::answering("before");
    let mut rig = rig_with(&[&[&endpoint.url()]], hold(Duration::from_secs(10), 1000));
    endpoint.kill();
    let waiting = rig.start("POST", "/held");
    until("it is held", || (rig.holding() == 1).then_some(()));
    let running = rig.running.take().unwrap();
    let stopping = thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(running.stop())
    });
    until("it stops", || Client::try_plain(rig.address).is_err().then_some(()));
    let _back = Endpoint::start_at(endpoint.address, |conn: &mut Conn| {
        while conn.request().is_some() {
            conn.answer(200, "back");
        }
    });
    assert_eq!(waiting.join().unwrap().0.text(), "back");
    assert_eq!(stopping.join().unwrap().forced, 0);
}

#[test]
fn nobody_is_held_longer_than_said_nor_more_than_said() {
    let endpoint = Endpoint::answering("never");
    let rig = rig_with(&[&[&endpoint.url()]], hold(MS(1500), 1));
    endpoint.kill();
    let held = rig.start("GET", "/held");
    until("it is held", || (rig.holding() == 1).then_some(()));
    let asked = [rig.start("GET", "/refused"), held];
    let mut took = asked.map(|request| {
        let (answer, took) = request.join().unwrap();
        assert_eq!(answer.status(), 502);
        took
    });
    // Mostly the second one is refused. But who is held goes out every 50 ms to see whether the
    // endpoint is back, and may find its place taken when it returns.
    took.sort();
    assert!(took[0] < MS(1000), "{took:?}");
    assert!((MS(1500)..MS(3000)).contains(&took[1]), "{took:?}");
    assert_eq!((rig.lost(Loss::NoEndpoint), rig.lost_in_all()), (2, 2));
    assert_eq!(rig.holding(), 0);
    assert!((1..=2).contains(&rig.cells(|cells| cells.held.value())));
}

#[test]
fn without_a_hold_who_has_nowhere_to_go_is_refused_at_once() {
    let endpoint = Endpoint::answering("never");
    let rig = rig_with(&[&[&endpoint.url()]], hold(Duration::ZERO, 1000));
    endpoint.kill();
    let (answer, took) = rig.start("GET", "/").join().unwrap();
    assert_eq!(answer.status(), 502);
    assert!(took < MS(1000), "{took:?}");
    assert_eq!((rig.lost(Loss::NoEndpoint), rig.cells(|cells| cells.held.value())), (1, 0));
}

#[test]
fn a_held_request_ends_with_its_client_and_with_the_time_of_the_exchange() {
    let endpoint = Endpoint::answering("never");
    let rig = rig_with(&[&[&endpoint.url()]], |service, _| {
        service.failover.hold.time = Duration::from_secs(30);
        service.timeouts.total = Some(Duration::from_secs(2));
    });
    endpoint.kill();
    let mut client = Client::plain(rig.address);
    client.send("GET /left HTTP/1.1\r\nHost: app.test\r\n\r\n");
    until("it is held", || (rig.holding() == 1).then_some(()));
    drop(client);
    until("nobody is held", || (rig.holding() == 0).then_some(()));
    // Its client gave up what a well endpoint would have answered.
    until("it is counted", || (rig.lost(Loss::ClientLeft) == 1).then_some(()));
    let (answer, took) = rig.start("GET", "/late").join().unwrap();
    assert_eq!(answer.status(), 504);
    assert!((MS(2000)..MS(4000)).contains(&took), "{took:?}");
    assert_eq!((rig.lost(Loss::Timeout), rig.lost_in_all()), (1, 2));
}

#[test]
fn a_full_endpoint_refuses_at_once_and_holds_nobody() {
    let slow = Endpoint::start(|conn| {
        while conn.request().is_some() {
            thread::sleep(MS(500));
            conn.answer(200, "slow");
        }
    });
    let rig = rig_with(&[&[&slow.url()]], |service, _| {
        Arc::make_mut(&mut service.pools[0]).upstream.max_requests = 1;
    });
    let first = rig.start("GET", "/first");
    until("the first one is there", || (slow.requests().len() == 1).then_some(()));
    let (answer, took) = rig.start("GET", "/second").join().unwrap();
    assert_eq!(answer.status(), 503);
    assert!(took < MS(400), "{took:?}");
    assert_eq!(rig.cells(|cells| cells.held.value()), 0);
    assert_eq!(first.join().unwrap().0.text(), "slow");
}

// --- clients that leave ---------------------------------------------------------------------------

/// Reads requests and answers none; tells when the proxy ends the connection.
fn mute() -> (Endpoint, Arc<AtomicUsize>) {
    let left = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&left);
    let endpoint = Endpoint::start(move |conn| {
        if conn.request().is_some() {
            conn.until_closed();
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    (endpoint, left)
}

fn wait_for(what: &str, counter: &AtomicUsize, count: usize) {
    until(what, || (counter.load(Ordering::SeqCst) == count).then_some(()));
}

fn reset(client: Client) {
    socket2::SockRef::from(client.socket()).set_linger(Some(Duration::ZERO)).unwrap();
}

impl Rig {
    /// Requests whose client left.
    fn gone(&self) -> u64 {
        let index = Codes::LABELS.iter().position(|label| *label == "499").unwrap();
        let table = self.table();
        table.listeners[0].targets[0].counters.workers.of(0).codes.value(index)
    }
}

#[test]
fn a_client_that_resets_ends_its_request_and_the_work_for_it() {
    // The second one has sent a request more, which lies before its reset.
    for more in ["", "GET /more HTTP/1.1\r\nHost: app.test\r\n\r\n"] {
        let (endpoint, left) = mute();
        let rig = rig(&[&[&endpoint.url()]]);
        let mut client = Client::plain(rig.address);
        client.send(format!("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n{more}"));
        until("it is there", || (endpoint.requests().len() == 1).then_some(()));
        reset(client);
        wait_for("the endpoint is told", &left, 1);
        until("it is counted", || (rig.gone() == 1).then_some(()));
        assert_eq!(rig.lost_in_all(), 0, "the endpoint is well");
    }
}

#[test]
fn a_client_that_only_ended_its_side_is_given_up_with_its_endpoint_and_not_before() {
    let (endpoint, left) = mute();
    let rig = rig(&[&[&endpoint.url()]]);
    let ask = || {
        let before = endpoint.requests().len();
        let mut client = Client::plain(rig.address);
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nhi");
        until("it is there", || (endpoint.requests().len() == before + 1).then_some(()));
        client
    };
    let mut ended = ask();
    ended.half_close();
    // This one's end shows that the first one's client was looked for as well.
    reset(ask());
    wait_for("the second one ends", &left, 1);
    assert_eq!((left.load(Ordering::SeqCst), rig.lost_in_all()), (1, 0));
    endpoint.black_hole();
    until("it is given up", || (rig.lost(Loss::ClientLeft) == 1).then_some(()));
    assert_eq!((rig.gone(), rig.lost_in_all()), (2, 1));
}

// --- share ---------------------------------------------------------------------------------------

#[test]
fn a_share_sends_its_part_of_the_requests_to_its_pool_first() {
    let (hot, standby) = (Endpoint::answering("hot"), Endpoint::answering("standby"));
    let rig = rig(&[&[&hot.url()], &[&standby.url()]]);
    let by_standby = |permille| {
        publish_share(&rig, Share { pool: 1, permille });
        let mut client = Client::plain(rig.address);
        (0..400).filter(|_| client.get("/").text() == "standby").count()
    };
    assert_eq!(by_standby(0), 0);
    assert_eq!(by_standby(1000), 400);
    // 100 are expected; 45 is more than five standard deviations.
    assert!((55..145).contains(&by_standby(250)));
    publish_share(&rig, Share { pool: 1, permille: 1000 });
    standby.kill();
    assert_eq!(rig.send("GET", "/").text(), "hot");
}

fn publish_share(rig: &Rig, share: Share) {
    let service = rig.service();
    let shared = table::Service {
        config: Arc::clone(&service.config),
        failover: service.failover.clone(),
        pools: service.pools.clone(),
        order: service.order.clone(),
        counters: Arc::clone(&service.counters),
        history: Arc::clone(&service.history),
        share: Some(share),
        ..*service
    };
    let table = table::build::with_services(&rig.table(), [(0, shared)]);
    rig.running.as_ref().unwrap().current.publish(table);
}

// --- whatever happens ----------------------------------------------------------------------------

/// Does something else with each request it reads.
fn moody(conn: &mut Conn) {
    while let Some(request) = conn.request() {
        let number =
            request.target().len() + request.target().bytes().map(usize::from).sum::<usize>();
        match (number + conn.number) % 6 {
            0 => drop(conn.answer(503, "503")),
            1 => drop(conn.answer(502, "502")),
            2 => {
                conn.reset_at_end();
                return;
            }
            3 => return,
            _ => drop(conn.answer(200, "well")),
        }
    }
}

#[test]
fn a_post_without_a_key_is_delivered_once_at_most_and_each_loss_counts_once_whatever_happens() {
    let endpoints: Vec<_> = (0..6).map(|_| Endpoint::start(moody)).collect();
    let urls: Vec<_> = endpoints.iter().map(Endpoint::url).collect();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let rig = rig_with(&[&urls[..3], &urls[3..]], hold(MS(300), 1000));
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let address = rig.address;
            thread::spawn(move || {
                let mut failed = 0;
                for number in 0..60 {
                    let method = if number % 3 == 0 { "POST" } else { "GET" };
                    let answer = send(address, method, &format!("/{method}/{client}/{number}"), "");
                    failed += usize::from(answer.status() != 200);
                }
                failed
            })
        })
        .collect();
    let failed: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    let all: Vec<&Endpoint> = endpoints.iter().collect();
    for (target, count) in deliveries(&all) {
        let once = !target.starts_with("/POST") || count == 1;
        assert!(once, "{target} was delivered {count} times");
    }
    assert_eq!(rig.lost_in_all(), failed as u64);
    let rescued: u64 = Proof::ALL.iter().map(|(proof, _)| rig.rescued(*proof)).sum();
    assert!(failed > 0 && rescued > 0, "failed {failed}, rescued {rescued}: nothing happened");
    assert!(rescued as usize <= 480 - failed);
    assert_eq!(rig.holding(), 0);
}
