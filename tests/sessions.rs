//! Long-lived sessions: WebSockets go through, and what is left on a pool the service moved away
//! from is ended in time and in its own protocol.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::client::Client;
use support::endpoint::{Conn, Endpoint};
use support::lab::{Lab, plain};
use support::proxy::Proxy;
use support::websocket::{self, BINARY, CLOSE, Frame, HANDSHAKE, PING, PONG, Socket, TEXT};
use support::{free_address, until};

/// An endpoint whose health a test decides; `/probe` asks for it.
struct Ward {
    endpoint: Endpoint,
    well: Arc<AtomicBool>,
    /// The Close frames it was sent.
    told: Mutex<Receiver<Frame>>,
}

impl Ward {
    /// Echoes WebSockets; says `plain` to other requests.
    fn echoing() -> Self {
        Self::serving(websocket::echo)
    }

    /// `script` gets every connection but those of probes; its first request is still to be read.
    fn serving(script: impl Fn(&mut Conn) -> Option<Frame> + Send + Sync + 'static) -> Self {
        let (well, (sender, told)) = (Arc::new(AtomicBool::new(true)), channel());
        let health = Arc::clone(&well);
        let endpoint = Endpoint::start(move |conn| {
            if conn.starts_with(b"GET /probe") {
                while conn.head_only().is_some() {
                    conn.answer(if health.load(Ordering::SeqCst) { 200 } else { 500 }, "");
                }
            } else if let Some(frame) = script(conn) {
                let _ = sender.send(frame);
            }
        });
        Self { endpoint, well, told: Mutex::new(told) }
    }

    fn fail(&self) {
        self.well.store(false, Ordering::SeqCst);
    }

    /// The Close frame some client's leave was told with.
    fn heard(&self) -> Frame {
        self.told.lock().unwrap().recv_timeout(support::PATIENCE).unwrap()
    }
}

/// Two pools of one endpoint each, quick probes, and these sessions.
fn config(bind: SocketAddr, sessions: &str, hot: &Ward, standby: &Ward, pools: &str) -> String {
    format!(
        "process: {{ workers: 2, lame_duck: 0s, drain_timeout: 5s }}
listeners:
  - bind: {bind}
    service: app
services:
  app:
    health_check: {{ path: /probe, fast_interval: 20ms }}
    failover: {{ failback: {{ mode: manual }}, sessions: {sessions} }}
    {pools}
    pools:
      - {{ name: hot, endpoints: [{}] }}
      - {{ name: standby, endpoints: [{}] }}
",
        hot.endpoint.url(),
        standby.endpoint.url()
    )
}

struct Stage {
    hot: Ward,
    standby: Ward,
    bind: SocketAddr,
    proxy: Proxy,
    _lab: Lab,
}

impl Stage {
    fn new(sessions: &str) -> Self {
        Self::with(sessions, "", Ward::echoing(), Ward::echoing())
    }

    fn with(sessions: &str, settings: &str, hot: Ward, standby: Ward) -> Self {
        let (lab, bind) = (Lab::new(), free_address());
        let proxy = Proxy::start(&lab, &config(bind, sessions, &hot, &standby, settings));
        proxy.wait_all_up("app");
        Self { hot, standby, bind, proxy, _lab: lab }
    }

    fn open(&self, count: usize) -> Vec<Socket> {
        (0..count).map(|_| Socket::open(self.bind)).collect()
    }

    fn switch(&self, to: &str) {
        let out = self.proxy.control(&["switch", "app", "--to", to, "--reason", "test"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    fn ended(&self, reason: &str) -> f64 {
        let labels = [("service", "app"), ("reason", reason)];
        self.proxy.metrics().sum("standfast_sessions_ended_total", &labels)
    }

    fn active(&self) -> f64 {
        self.proxy.metrics().sum("standfast_sessions_active", &[("service", "app")])
    }
}

#[test]
fn frames_of_every_size_go_through_both_ways() {
    let (lab, bind) = (Lab::new(), free_address());
    let endpoint = Endpoint::start(|conn| drop(websocket::echo(conn)));
    let config = plain(bind, &endpoint.url());
    let tls = config
        .replace("    service: app\n", &format!("    service: app\n    tls: {}\n", lab.tls()));
    for (config, secure) in [(config, false), (tls, true)] {
        let proxy = Proxy::start(&lab, &config);
        let mut socket = match secure {
            true => Socket::open_tls(bind, &lab.client_config()),
            false => Socket::open(bind),
        };
        for size in [0, 1, 125, 126, 18_430, 65_535, 65_536, 1 << 20] {
            let payload: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            socket.send(BINARY, &payload);
            let echo = socket.receive();
            assert_eq!((echo.opcode, echo.masked), (BINARY, false));
            assert!(echo.payload == payload, "{size} bytes came back changed");
        }
        socket.send(PING, b"are you there");
        let pong = socket.receive();
        assert_eq!((pong.opcode, pong.payload.as_slice()), (PONG, &b"are you there"[..]));
        socket.send(CLOSE, &1000_u16.to_be_bytes());
        assert_eq!(socket.receive().close(), (1000, String::new()));
        drop(socket);
        until("the tunnel has ended", || {
            let labels = [("service", "app"), ("reason", "peer")];
            let metrics = proxy.metrics();
            (metrics.sum("standfast_sessions_ended_total", &labels) == 1.0).then_some(())
        });
        assert_eq!(proxy.metrics().sum("standfast_sessions_active", &[]), 0.0);
        assert_eq!(proxy.metrics().sum("standfast_http_requests_total", &[("code", "1xx")]), 1.0);
        proxy.stop();
    }
}

#[test]
fn handshake_is_written_anew_and_frames_sent_too_early_wait_for_the_answer() {
    let (lab, bind) = (Lab::new(), free_address());
    let endpoint = Endpoint::start(|conn| drop(websocket::echo(conn)));
    let proxy = Proxy::start(&lab, &plain(bind, &endpoint.url()));
    let mut client = Client::plain(bind);
    let early = websocket::frame(TEXT, b"early", Some([1, 2, 3, 4]));
    let head = format!(
        "GET /a?b HTTP/1.1\r\nHost: app.test\r\nX-Hop: 1\r\n{}\r\n",
        HANDSHAKE.replace("Connection: Upgrade", "Connection: X-Hop, upgrade")
    );
    client.send([head.as_bytes(), &early].concat());
    assert_eq!(client.response("GET").status(), 101);
    let mut socket = Socket(client);
    assert_eq!(socket.receive().payload, b"early");
    let request = &endpoint.requests()[0];
    assert_eq!(request.target(), "/a?b");
    assert_eq!(request.field("connection"), Some("Upgrade"));
    assert_eq!(request.field("sec-websocket-version"), Some("13"));
    assert_eq!((request.field("x-hop"), request.count("via")), (None, 1));
    proxy.stop();
}

#[test]
fn any_other_answer_to_a_handshake_is_an_answer_like_others() {
    let (lab, bind) = (Lab::new(), free_address());
    let endpoint = Endpoint::start(|conn| {
        while conn.request().is_some() {
            conn.send(
                "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\n\
                 Content-Length: 2\r\n\r\nno",
            );
        }
    });
    let proxy = Proxy::start(&lab, &plain(bind, &endpoint.url()));
    let mut socket = Socket(Client::plain(bind));
    for _ in 0..2 {
        let answer = socket.handshake();
        assert_eq!((answer.status(), answer.text().as_str()), (426, "no"));
    }
    assert_eq!(socket.0.get("/").status(), 426, "the connection goes on");
    proxy.stop();
}

#[test]
fn end_of_either_side_reaches_the_other() {
    let (lab, bind) = (Lab::new(), free_address());
    let endpoint = Endpoint::start(|conn| {
        if websocket::accept(conn) {
            let rest = conn.until_closed();
            conn.send(websocket::frame(BINARY, &rest, None));
        }
    });
    let proxy = Proxy::start(&lab, &plain(bind, &endpoint.url()));
    let mut socket = Socket::open(bind);
    socket.send(TEXT, b"last words");
    socket.0.half_close();
    assert_eq!(socket.receive().payload.len(), 6 + "last words".len(), "heard after our end");
    socket.0.assert_closed();

    let mut socket = Socket::open(bind);
    until("it is counted", || {
        (proxy.metrics().sum("standfast_sessions_active", &[]) == 1.0).then_some(())
    });
    let killed = Instant::now();
    endpoint.kill();
    let (_, ended) = socket.0.rest();
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}: {ended:?}", killed.elapsed());
    proxy.stop();
}

#[test]
fn reset_by_the_endpoint_is_told_as_a_restart_where_a_frame_may_stand() {
    let (lab, bind) = (Lab::new(), free_address());
    let endpoint = Endpoint::start(|conn| {
        if websocket::accept(conn) {
            let first = websocket::receive(conn).unwrap();
            conn.send(websocket::frame(TEXT, &first.payload, None));
            if first.payload == b"half" {
                conn.send(&websocket::frame(TEXT, b"cut in two", None)[..5]);
            }
            websocket::receive(conn);
            conn.reset_at_end();
        }
    });
    let proxy = Proxy::start(&lab, &plain(bind, &endpoint.url()));
    let mut socket = Socket::open(bind);
    socket.assert_echo("whole");
    socket.send(TEXT, b"die");
    assert_eq!(socket.receive().close().0, 1012);

    let mut socket = Socket::open(bind);
    socket.assert_echo("half");
    socket.send(TEXT, b"die");
    let error = socket.try_receive().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    proxy.stop();
}

#[test]
fn handshake_that_an_endpoint_does_not_answer_is_rescued() {
    let hot = Ward::serving(|conn| {
        conn.head_only();
        None
    });
    let stage = Stage::with("{ close_after: 1h, spread: 0s }", "", hot, Ward::echoing());
    Socket::open(stage.bind).assert_echo("on standby");
    assert_eq!(stage.proxy.metrics().sum("standfast_requests_lost_total", &[]), 0.0);
    stage.proxy.stop();
}

fn read_exact(socket: &mut Socket, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut at = 0;
    while at < length {
        match socket.0.read(&mut bytes[at..]).unwrap() {
            0 => panic!("the end after {at} of {length} bytes"),
            count => at += count,
        }
    }
    bytes
}

#[test]
fn frame_under_way_may_end_before_the_close_and_one_that_does_not_is_reset() {
    let (go, wait) = channel();
    let wait: Mutex<Receiver<()>> = Mutex::new(wait);
    let hot = Ward::serving(move |conn| {
        if websocket::accept(conn) {
            let first = websocket::receive(conn).unwrap();
            let frame = websocket::frame(BINARY, &[5; 1000], None);
            conn.send(&frame[..500]);
            if first.payload == b"ends" && wait.lock().unwrap().recv().is_ok() {
                conn.send(&frame[500..]);
            }
            conn.until_closed();
        }
        None
    });
    let stage = Stage::with("{ close_after: 0s, spread: 0s }", "", hot, Ward::echoing());
    let mut sockets = stage.open(2);
    for (socket, word) in sockets.iter_mut().zip(["ends", "never"]) {
        socket.send(TEXT, word.as_bytes());
        read_exact(socket, 500);
    }
    stage.switch("standby");
    go.send(()).unwrap();
    assert_eq!(read_exact(&mut sockets[0], 504), [5; 504], "the rest of the frame");
    assert_eq!(sockets[0].receive().close().0, 1012);
    let error = sockets[1].try_receive().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    drop(go);
    stage.proxy.stop();
}

#[test]
fn forced_move_tells_every_websocket_of_the_pool_at_once() {
    let stage = Stage::new("{ close_after: 1h, spread: 0s }");
    let mut sockets = stage.open(200);
    sockets.iter_mut().for_each(|socket| socket.assert_echo("hello"));
    assert_eq!(stage.active(), 200.0);
    stage.hot.fail();
    stage.proxy.wait_serving("app", "standby");
    let moved = Instant::now();
    for socket in &mut sockets {
        let (code, reason) = socket.receive().close();
        assert_eq!((code, reason.as_str()), (1012, "the service moved to another pool"));
        socket.send(CLOSE, &1012_u16.to_be_bytes());
        socket.0.assert_closed();
    }
    // Generous for a loaded machine; what is promised is measured by the fault suite.
    assert!(moved.elapsed() < Duration::from_secs(5), "{:?}", moved.elapsed());
    assert_eq!(stage.hot.heard().close().0, 1001, "the endpoint is told as well");
    until("all are counted", || (stage.ended("failover") == 200.0).then_some(()));
    assert_eq!(stage.active(), 0.0);
    Socket::open(stage.bind).assert_echo("on standby");
    let requests = stage.standby.endpoint.requests();
    assert_eq!(requests.iter().filter(|request| request.target() == "/socket").count(), 1);
    stage.proxy.stop();
}

#[test]
fn planned_move_closes_after_the_time_given_and_not_before() {
    let stage = Stage::new("{ close_after: 1s, spread: 1s }");
    let mut sockets = stage.open(20);
    let ordered = Instant::now();
    stage.switch("standby");
    sockets.iter_mut().for_each(|socket| socket.assert_echo("still here"));
    // Each tells when it heard: they are closed one after the other, not in a heap.
    let times: Vec<_> = thread::scope(|scope| {
        let wait = |mut socket: Socket| {
            let (code, _) = socket.receive().close();
            (code, ordered.elapsed())
        };
        let waits: Vec<_> = sockets.into_iter().map(|s| scope.spawn(move || wait(s))).collect();
        waits.into_iter().map(|wait| wait.join().unwrap()).collect()
    });
    assert!(times.iter().all(|(code, _)| *code == 1012), "{times:?}");
    let (first, last) = (times.iter().min_by_key(|t| t.1), times.iter().max_by_key(|t| t.1));
    let (first, last) = (first.unwrap().1, last.unwrap().1);
    assert!(first >= Duration::from_secs(1), "{first:?}");
    // Twenty random moments of a second lie within a fifth of it once in 10^13 runs.
    assert!(last - first > Duration::from_millis(200), "{first:?} to {last:?}");
    until("all are counted", || (stage.ended("planned") == 20.0).then_some(()));
    stage.proxy.stop();
}

#[test]
fn service_that_returns_in_time_leaves_its_websockets_alone() {
    let stage = Stage::new("{ close_after: 2s, spread: 0s }");
    let mut stays = Socket::open(stage.bind);
    stage.switch("standby");
    let mut leaves = Socket::open(stage.bind);
    stage.switch("hot");
    assert_eq!(leaves.receive().close().0, 1012);
    // What was to close before it, had it not been taken back, is still there.
    stays.assert_echo("still here");
    until("one alone has ended", || {
        ((stage.ended("planned"), stage.active()) == (1.0, 1.0)).then_some(())
    });
    stage.proxy.stop();
}

#[test]
fn endpoint_taken_out_of_the_configuration_closes_its_websockets_as_planned() {
    let stage = Stage::new("{ close_after: 100ms, spread: 0s }");
    let mut socket = Socket::open(stage.bind);
    let new = Ward::echoing();
    let sessions = "{ close_after: 100ms, spread: 0s }";
    stage.proxy.write_config(&config(stage.bind, sessions, &new, &stage.standby, ""));
    assert!(stage.proxy.control(&["reload"]).status.success());
    let (code, reason) = socket.receive().close();
    assert_eq!((code, reason.as_str()), (1012, "the endpoint is no longer configured"));
    stage.proxy.stop();
}

#[test]
fn process_that_stops_tells_its_websockets() {
    let stage = Stage::new("{ close_after: 1h, spread: 0s }");
    let mut sockets = stage.open(10);
    stage.proxy.signal(Signal::TERM);
    for socket in &mut sockets {
        assert_eq!(socket.receive().close(), (1012, "the proxy stops".to_owned()));
    }
    drop(sockets);
    let Stage { mut proxy, .. } = stage;
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

/// Sends a part of a long answer, and the rest when told to.
fn dripping(go: Receiver<()>) -> Ward {
    let go = Mutex::new(go);
    Ward::serving(move |conn| {
        while conn.head_only().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
            let _ = go.lock().unwrap().recv();
            conn.send("half");
        }
        None
    })
}

#[test]
fn download_goes_on_after_a_forced_move_and_is_cut_visibly_when_its_time_is_over() {
    let (go, wait) = channel();
    let stage = Stage::with("{ close_after: 1s, spread: 0s }", "", dripping(wait), Ward::echoing());
    let begin = || {
        let mut client = Client::plain(stage.bind);
        client.send("GET /file HTTP/1.1\r\nHost: app.test\r\n\r\n");
        assert_eq!(client.head().status(), 200);
        client
    };
    let mut ends = begin();
    stage.hot.fail();
    stage.proxy.wait_serving("app", "standby");
    go.send(()).unwrap();
    let (bytes, ended) = {
        let mut bytes = [0; 8];
        let mut at = 0;
        while at < 8 {
            at += ends.read(&mut bytes[at..]).unwrap();
        }
        (bytes, at)
    };
    assert_eq!((&bytes, ended), (b"halfhalf", 8), "it had time");
    drop(stage);

    let (_never, wait) = channel();
    let stage =
        Stage::with("{ close_after: 200ms, spread: 0s }", "", dripping(wait), Ward::echoing());
    let mut client = Client::plain(stage.bind);
    client.send("GET /file HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.head().status(), 200);
    stage.hot.fail();
    let (bytes, ended) = client.rest();
    assert_eq!(bytes, b"half");
    assert!(ended.is_err(), "the client must see that it was cut");
    let lost = [("service", "app"), ("reason", "failover")];
    assert_eq!(stage.proxy.metrics().sum("standfast_requests_lost_total", &lost), 1.0);
    stage.proxy.stop();
}

#[test]
fn idle_connections_are_dropped_when_the_service_moves_away() {
    let (closed, ends) = channel();
    let hot = Ward::serving(move |conn| {
        while conn.request().is_some() {
            conn.answer(200, "hot");
        }
        let _ = closed.send(());
        None
    });
    let stage = Stage::with("{ close_after: 1h, spread: 0s }", "", hot, Ward::echoing());
    let mut client = Client::plain(stage.bind);
    assert_eq!(client.get("/").text(), "hot");
    assert!(ends.try_recv().is_err(), "it is kept for the next request");
    stage.switch("standby");
    ends.recv_timeout(support::PATIENCE).unwrap();
    assert_eq!(client.get("/").text(), "plain", "the client's own connection stays");
    stage.proxy.stop();
}

fn idle(proxy: &Proxy, pool: &str) -> f64 {
    let labels = [("service", "app"), ("pool", pool)];
    proxy.metrics().sum("standfast_upstream_connections_idle", &labels)
}

fn ready(proxy: &Proxy, pool: &str) -> f64 {
    proxy.metrics().sum("standfast_pool_ready", &[("service", "app"), ("pool", pool)])
}

#[test]
fn warm_connections_are_kept_to_every_endpoint_and_replaced_when_they_die() {
    let sessions = "{ close_after: 1h, spread: 0s }";
    let stage = Stage::with(sessions, "upstream: { warm: 3 }", Ward::echoing(), Ward::echoing());
    let opened = |pool| {
        let labels = [("service", "app"), ("pool", pool)];
        stage.proxy.metrics().sum("standfast_upstream_connections_total", &labels)
    };
    for pool in ["hot", "standby"] {
        until("three to each", || (idle(&stage.proxy, pool) == 3.0).then_some(()));
        until("it could take over", || (ready(&stage.proxy, pool) == 1.0).then_some(()));
    }
    assert_eq!((opened("hot"), opened("standby")), (3.0, 3.0));
    stage.standby.endpoint.cut();
    until("those that died are replaced", || {
        (idle(&stage.proxy, "standby") == 3.0 && opened("standby") == 6.0).then_some(())
    });

    stage.switch("standby");
    until("hot was left and is warm again", || {
        (idle(&stage.proxy, "hot") == 3.0 && opened("hot") == 6.0).then_some(())
    });
    let mut client = Client::plain(stage.bind);
    assert_eq!(client.get("/").text(), "plain");
    // At most the one in use was replaced before it came back.
    assert!(opened("standby") <= 7.0, "the request found no connection ready");
    stage.standby.fail();
    until("standby is not ready", || (ready(&stage.proxy, "standby") == 0.0).then_some(()));
    stage.proxy.stop();
}

#[test]
fn idle_websocket_costs_a_few_kilobytes() {
    const COUNT: usize = 400;
    let stage = Stage::new("{ close_after: 1h, spread: 0s }");
    // What the first ones bring along stays.
    drop(stage.open(20));
    until("they are gone", || (stage.active() == 0.0).then_some(()));
    let before = stage.proxy.resident();
    let mut sockets = stage.open(COUNT);
    sockets.iter_mut().for_each(|socket| socket.assert_echo("hello"));
    let each = stage.proxy.resident().saturating_sub(before) / COUNT as u64;
    println!("{each} bytes each");
    assert!(each < 12 * 1024, "{each} bytes");
    stage.proxy.stop();
}
