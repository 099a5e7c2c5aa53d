//! `mode: tcp`: bytes go both ways as they come, and a connection that has sent nothing is never lost
//! to an endpoint that fails.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use support::endpoint::{Conn, Endpoint};
use support::lab::Lab;
use support::nginx::Nginx;
use support::passing::{End, QUICK, Wire, config, echo, echo_on};
use support::proxy::Proxy;
use support::{free_address, until};

const TCP: &str = "mode: tcp";

struct Stage {
    hot: Endpoint,
    standby: Endpoint,
    bind: SocketAddr,
    proxy: Proxy,
    _lab: Lab,
}

impl Stage {
    /// Both echo, and greet with the names of their pools.
    fn echoing(service: &str) -> Self {
        Self::new(service, Endpoint::start(echo("hot")), Endpoint::start(echo("standby")))
    }

    fn new(service: &str, hot: Endpoint, standby: Endpoint) -> Self {
        Self::with_check(&format!("{QUICK}\n    {service}"), hot, standby)
    }

    fn with_check(service: &str, hot: Endpoint, standby: Endpoint) -> Self {
        let (lab, bind) = (Lab::new(), free_address());
        let logging = "logging: { access_log: { output: stdout } }\n";
        let config = config((bind, TCP), service, &[&hot], &[&standby]);
        let proxy = Proxy::start(&lab, &format!("{logging}{config}"));
        proxy.wait_all_up("app");
        Self { hot, standby, bind, proxy, _lab: lab }
    }

    fn open(&self) -> Wire {
        Wire::open(self.bind)
    }

    fn sum(&self, name: &str, label: (&str, &str)) -> f64 {
        self.proxy.metrics().sum(name, &[("service", "app"), label])
    }

    fn ended(&self, reason: &str) -> f64 {
        self.sum("standfast_sessions_ended_total", ("reason", reason))
    }

    fn passed(&self, result: &str) -> f64 {
        self.sum("standfast_tcp_connections_total", ("result", result))
    }

    fn active(&self) -> f64 {
        self.proxy.metrics().sum("standfast_sessions_active", &[("service", "app")])
    }

    fn switch(&self, to: &str) {
        let out = self.proxy.control(&["switch", "app", "--to", to, "--reason", "test"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

/// Tells connections with a client behind them from probes, which come and go without a word.
fn with_client(script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Endpoint {
    Endpoint::start(move |conn| {
        if conn.starts_with(b"!") {
            script(conn);
        }
    })
}

#[test]
fn words_go_both_ways_and_are_counted_and_logged() {
    let stage = Stage::echoing("");
    let mut wire = stage.open();
    wire.says("hot");
    (0..100).for_each(|n| wire.echoes(&format!("word {n}")));
    assert_eq!(stage.active(), 1.0);
    wire.half_close();
    assert_eq!(wire.ends(), End::Orderly);
    until("it has ended", || (stage.ended("peer") == 1.0).then_some(()));
    assert_eq!((stage.active(), stage.passed("served"), stage.passed("refused")), (0.0, 1.0, 0.0));
    let metrics = stage.proxy.metrics();
    let bytes = |name| metrics.sum(name, &[("listener", "passing")]);
    assert_eq!(bytes("standfast_listener_received_bytes_total"), 690.0);
    assert_eq!(bytes("standfast_listener_sent_bytes_total"), 693.0);
    assert_eq!(metrics.get("standfast_http_requests_total", &[("listener", "passing")]), None);
    let line =
        until("the line is written", || stage.proxy.stdout().lines().next().map(str::to_owned));
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["client.address"], "127.0.0.1");
    assert_eq!(line["network.transport"], "tcp");
    assert_eq!(line["standfast.pool"], "hot");
    assert_eq!(line["standfast.received_bytes"], 690);
    assert_eq!(line["standfast.sent_bytes"], 693);
    assert_eq!(line.get("standfast.reason"), None);
    assert_eq!(stage.proxy.status()["listeners"][0]["mode"], "tcp");
    stage.proxy.stop();
}

#[test]
fn either_side_may_end_first_and_still_hear_the_other() {
    let hot = with_client(|conn| match conn.take(2).as_deref() {
        Some(b"!a") => {
            let heard = conn.until_closed();
            conn.send(format!("{} bytes", heard.len()));
        }
        _ => {
            conn.send("no more from me");
            conn.half_close();
            let heard = conn.until_closed();
            assert_eq!(heard, b"but I have more");
        }
    });
    let stage = Stage::new("", hot, Endpoint::start(echo("standby")));
    let mut wire = stage.open();
    wire.send("!a");
    wire.send(vec![7; 1000]);
    wire.half_close();
    assert_eq!(wire.rest(), (b"1000 bytes".to_vec(), End::Orderly));

    let mut wire = stage.open();
    wire.send("!b");
    assert_eq!(wire.rest(), (b"no more from me".to_vec(), End::Orderly));
    wire.send("but I have more");
    wire.half_close();
    until("both have ended", || (stage.ended("peer") == 2.0).then_some(()));
    stage.proxy.stop();
}

/// 512 pieces of 2 MiB, each another part of the same bytes.
const PIECES: usize = 512;
const PIECE: usize = 2 << 20;

fn source() -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_ne_bytes()
    };
    (0..PIECE / 2).flat_map(|_| next()).collect()
}

fn piece(source: &[u8], n: usize) -> &[u8] {
    let at = n * 40_961 % PIECE;
    &source[at..at + PIECE]
}

fn send_all(mut stream: &TcpStream, source: &[u8]) {
    (0..PIECES).for_each(|n| stream.write_all(piece(source, n)).unwrap());
}

fn receive_all(mut stream: &TcpStream, source: &[u8]) {
    let mut bytes = vec![0; PIECE];
    for n in 0..PIECES {
        stream.read_exact(&mut bytes).unwrap();
        assert!(bytes == piece(source, n), "piece {n} came changed");
    }
    assert_eq!(stream.read(&mut bytes).unwrap(), 0);
}

#[test]
fn gibibyte_comes_through_each_way_as_it_was_sent() {
    let hot = with_client(|conn| {
        let source = source();
        match conn.take(2).as_deref() {
            Some(b"!u") => {
                let mut bytes = Vec::new();
                for n in 0..PIECES {
                    bytes = conn.take(PIECE).unwrap();
                    assert!(bytes == piece(&source, n), "piece {n} came changed");
                }
                drop(bytes);
                conn.send("all of it");
            }
            _ => (0..PIECES).for_each(|n| assert!(conn.send(piece(&source, n)))),
        }
    });
    let stage = Stage::new("", hot, Endpoint::start(echo("standby")));
    let source = source();
    let mut up = stage.open();
    up.send("!u");
    send_all(&up.0, &source);
    up.says("all of it");
    let mut down = stage.open();
    down.send("!d");
    receive_all(&down.0, &source);
    stage.proxy.stop();
}

#[test]
fn slow_reader_slows_the_writer_down_and_fills_no_memory() {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let hot = with_client(move |conn| {
        let _ = wait.lock().unwrap().recv();
        let heard = conn.until_closed();
        conn.send(heard.len().to_string());
    });
    let stage = Stage::new("", hot, Endpoint::start(echo("standby")));
    let before = stage.proxy.resident();
    let mut wire = stage.open();
    wire.send("!");
    wire.0.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let chunk = vec![1; 1 << 20];
    let mut sent = 1;
    // What the kernels on the way take, at most a few dozen megabytes.
    let stopped = (0..1000).any(|_| match wire.0.write(&chunk) {
        Ok(count) => {
            sent += count;
            false
        }
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
            true
        }
    });
    assert!(stopped, "a gigabyte was taken that nobody reads");
    assert!(stage.proxy.resident() < before + (8 << 20), "{before} {}", stage.proxy.resident());
    go.send(()).unwrap();
    wire.half_close();
    assert_eq!(wire.rest(), (sent.to_string().into_bytes(), End::Orderly));
    stage.proxy.stop();
}

#[test]
fn reset_of_either_side_is_a_reset_for_the_other_in_every_state() {
    let (heard, hears) = channel();
    let heard = Mutex::new(heard);
    let hot = with_client(move |conn| {
        let what = conn.take(2).unwrap();
        conn.send("ok");
        match &what[..] {
            // Reset while idle, while half closed, and with bytes on their way.
            b"!i" => {
                conn.take(1);
                conn.reset_at_end();
            }
            b"!h" => {
                conn.until_closed();
                conn.reset_at_end();
            }
            b"!d" => {
                while conn.send([0; 65_536]) {}
                heard.lock().unwrap().send(End::Reset).unwrap();
            }
            _ => {
                let end = conn.end();
                let reset = end.is_some_and(|error| error.kind() == ErrorKind::ConnectionReset);
                let end = if reset { End::Reset } else { End::Orderly };
                heard.lock().unwrap().send(end).unwrap();
            }
        }
    });
    let stage = Stage::new("", hot, Endpoint::start(echo("standby")));
    let begin = |what: &str| {
        let mut wire = stage.open();
        wire.send(what);
        wire.says("ok");
        wire
    };
    let mut idle = begin("!i");
    idle.send("x");
    assert_eq!(idle.ends(), End::Reset);
    let mut half = begin("!h");
    half.half_close();
    assert_eq!(half.ends(), End::Reset);
    until("both are counted", || (stage.ended("endpoint") == 2.0).then_some(()));

    begin("!x").reset();
    assert_eq!(hears.recv_timeout(support::PATIENCE).unwrap(), End::Reset);
    let mut busy = begin("!d");
    busy.take(1 << 20);
    busy.reset();
    assert_eq!(hears.recv_timeout(support::PATIENCE).unwrap(), End::Reset);
    until("all have ended", || (stage.active() == 0.0).then_some(()));
    stage.proxy.stop();
}

#[test]
fn endpoint_that_drops_a_connection_without_a_word_costs_its_client_nothing() {
    for resets in [true, false] {
        let armed = Arc::new(AtomicBool::new(false));
        let drops = Arc::clone(&armed);
        let hot = Endpoint::start(move |conn| match drops.load(Ordering::SeqCst) {
            true if resets => conn.reset_at_end(),
            true => {}
            false => drop(conn.until_closed()),
        });
        // Two successes make it up; then its probes are far between.
        let check = "health_check: { type: tcp, interval: 60s, fast_interval: 10ms }";
        let stage = Stage::with_check(check, hot, Endpoint::start(echo("standby")));
        armed.store(true, Ordering::SeqCst);
        let mut wire = stage.open();
        wire.says("standby");
        wire.echoes("hello");
        assert_eq!(stage.sum("standfast_requests_rescued_total", ("proof", "not_sent")), 1.0);
        assert_eq!(stage.sum("standfast_requests_lost_total", ("service", "app")), 0.0);
        stage.proxy.stop();
    }
}

#[test]
fn endpoint_that_swallows_connections_is_passed_over_in_a_moment() {
    let stage = Stage::echoing("timeouts: { connect: 20s }");
    stage.hot.black_hole();
    // The first ones find out; the probes are given time to agree.
    let mut wires: Vec<_> = (0..20).map(|_| stage.open()).collect();
    wires.iter_mut().for_each(|wire| wire.says("standby"));
    assert!(stage.sum("standfast_upstream_hedges_total", ("service", "app")) >= 1.0);
    assert_eq!(stage.sum("standfast_requests_lost_total", ("service", "app")), 0.0);
    stage.proxy.wait_serving("app", "standby");
    stage.proxy.stop();
}

#[test]
fn with_nobody_there_a_client_is_reset_and_one_that_may_wait_is_served_by_who_comes() {
    let stage = Stage::echoing("failover: { hold: { time: 0s } }");
    stage.hot.kill();
    stage.standby.kill();
    let mut wire = stage.open();
    assert_eq!(wire.ends(), End::Reset);
    until("it is counted", || (stage.passed("refused") == 1.0).then_some(()));
    assert_eq!(stage.sum("standfast_requests_lost_total", ("reason", "no_endpoint")), 1.0);
    stage.proxy.stop();

    let stage = Stage::echoing("failover: { hold: { time: 30s } }");
    let address = stage.hot.address;
    stage.hot.kill();
    stage.standby.kill();
    let mut wire = stage.open();
    until("it waits", || {
        (stage.sum("standfast_requests_holding", ("service", "app")) == 1.0).then_some(())
    });
    let _again = Endpoint::start_at(address, echo("again"));
    wire.says("again");
    wire.echoes("hello");
    stage.proxy.stop();
}

#[test]
fn client_that_leaves_while_it_waits_is_counted_as_that() {
    let stage = Stage::echoing("failover: { hold: { time: 30s } }");
    stage.hot.kill();
    stage.standby.kill();
    let wire = stage.open();
    let holding = || stage.sum("standfast_requests_holding", ("service", "app"));
    until("it waits", || (holding() == 1.0).then_some(()));
    drop(wire);
    until("it has left", || (stage.passed("left") == 1.0 && holding() == 0.0).then_some(()));
    assert_eq!(stage.passed("refused"), 0.0);
    assert_eq!(stage.sum("standfast_requests_lost_total", ("reason", "client_left")), 1.0);
    stage.proxy.stop();
}

#[test]
fn planned_move_resets_what_talks_and_takes_along_what_has_not_begun() {
    let hot = Endpoint::start(echo_on);
    let standby = Endpoint::start(echo_on);
    let sessions =
        "failover: { failback: { mode: manual }, sessions: { close_after: 300ms, spread: 0s } }";
    let stage = Stage::new(sessions, hot, standby);
    let mut talks = stage.open();
    talks.echoes("hello");
    let mut waits = stage.open();
    until("both are there", || (stage.active() == 2.0).then_some(()));
    stage.switch("standby");
    talks.echoes("not yet");
    assert_eq!(talks.ends(), End::Reset);
    until("it is counted", || (stage.ended("planned") == 1.0).then_some(()));
    until("the other one has moved", || {
        let labels = [("pool", "standby")];
        (stage.proxy.metrics().sum("standfast_sessions_active", &labels) == 1.0).then_some(())
    });
    waits.echoes("hello");
    stage.proxy.stop();
}

#[test]
fn forced_move_resets_what_hangs_on_the_lost_pool_at_once() {
    let well = Arc::new(AtomicBool::new(true));
    let health = Arc::clone(&well);
    let hot = Endpoint::start(move |conn| {
        if health.load(Ordering::SeqCst) {
            echo_on(conn);
        } else {
            conn.reset_at_end();
        }
    });
    let stage = Stage::new(
        "failover: { sessions: { close_after: 1h, spread: 0s } }",
        hot,
        Endpoint::start(echo("standby")),
    );
    let mut wires: Vec<_> = (0..50).map(|_| stage.open()).collect();
    wires.iter_mut().for_each(|wire| wire.echoes("hello"));
    // Nobody listens any more, but what is connected stays so.
    stage.hot.deafen();
    stage.proxy.wait_serving("app", "standby");
    for wire in &mut wires {
        assert_eq!(wire.ends(), End::Reset);
    }
    until("all are counted", || (stage.ended("failover") == 50.0).then_some(()));
    stage.proxy.stop();
}

#[test]
fn endpoint_switched_off_and_one_taken_out_let_go_of_their_clients() {
    let stage = Stage::echoing("");
    let mut wire = stage.open();
    wire.says("hot");
    wire.echoes("hello");
    let endpoint = format!("app/hot/{}", stage.hot.name());
    let out = stage.proxy.control(&["mode", &endpoint, "off", "--reason", "test"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(wire.ends(), End::Reset);
    until("it is counted", || (stage.ended("off") == 1.0).then_some(()));
    stage.proxy.stop();
}

#[test]
fn process_that_stops_lets_connections_end_within_its_time_and_resets_the_rest() {
    let stage = Stage::echoing("failover: { sessions: { close_after: 0s, spread: 0s } }");
    let mut ends = stage.open();
    ends.says("hot");
    let mut stays = stage.open();
    stays.says("hot");
    stage.proxy.signal(Signal::TERM);
    until("nobody is accepted", || TcpStream::connect(stage.bind).is_err().then_some(()));
    ends.echoes("still here");
    ends.half_close();
    assert_eq!(ends.ends(), End::Orderly);
    assert_eq!(stays.ends(), End::Reset);
    let mut proxy = stage.proxy;
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn written_limits_on_silence_and_on_the_whole_are_kept() {
    for (limits, talks) in [("idle: 300ms", false), ("total: 500ms", true)] {
        let stage = Stage::echoing(&format!("timeouts: {{ {limits} }}"));
        let mut wire = stage.open();
        wire.says("hot");
        wire.echoes("hello");
        let mut end = Ok(0);
        for _ in 0..3000 {
            if !talks {
                break;
            }
            thread::sleep(Duration::from_millis(10));
            end = wire.0.write(b"x").and_then(|_| wire.0.read(&mut [0]));
            if end.is_err() {
                break;
            }
        }
        if talks {
            assert!(end.is_err(), "{end:?}");
        } else {
            assert_eq!(wire.ends(), End::Reset);
        }
        until("it is counted", || (stage.ended("timeout") == 1.0).then_some(()));
        stage.proxy.stop();
    }
}

#[test]
fn silence_alone_ends_nothing_by_default() {
    let stage = Stage::echoing("");
    let mut wire = stage.open();
    wire.says("hot");
    assert!(wire.is_quiet_for(Duration::from_millis(1500)));
    wire.echoes("hello");
    stage.proxy.stop();
}

#[test]
fn more_connections_than_an_endpoint_may_have_go_to_the_next_pool_and_then_nowhere() {
    let stage = Stage::echoing("upstream: { max_connections: 2 }");
    let greeted = |words: &&str| {
        let mut wire = stage.open();
        wire.says(words);
        wire
    };
    let wires: Vec<_> = ["hot", "hot", "standby", "standby"].iter().map(greeted).collect();
    assert_eq!(stage.open().ends(), End::Reset);
    drop(wires);
    until("all have left", || (stage.active() == 0.0).then_some(()));
    stage.open().says("hot");
    stage.proxy.stop();
}

/// What became of connections, as their clients saw it.
#[derive(Default)]
struct Fates {
    served: AtomicUsize,
    /// Refused, or reset before they had sent anything.
    lost: AtomicUsize,
    /// Cut off after they had sent a request.
    cut: AtomicUsize,
}

/// Connects, waits a while for what should not come, then asks.
fn visit(bind: SocketAddr, wait: Duration, fates: &Fates) {
    let Ok(mut stream) = TcpStream::connect(bind) else {
        fates.lost.fetch_add(1, Ordering::SeqCst);
        return;
    };
    stream.set_read_timeout(Some(wait.max(Duration::from_millis(1)))).unwrap();
    let early = stream.read(&mut [0]);
    let waits = |kind| matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut);
    let quiet = matches!(&early, Err(error) if waits(error.kind()));
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    if !quiet || stream.write_all(request).is_err() {
        fates.lost.fetch_add(1, Ordering::SeqCst);
        return;
    }
    let mut answer = Vec::new();
    let whole = stream.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 200");
    let fate = if whole { &fates.served } else { &fates.cut };
    fate.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn kill_of_all_hot_loses_no_connection_that_had_sent_nothing() {
    let (lab, bind) = (Lab::new(), free_address());
    let mut hot = [Nginx::start(&lab, "hot"), Nginx::start(&lab, "hot")];
    let standby = Nginx::start(&lab, "standby");
    let config = format!(
        "process: {{ workers: 2 }}
listeners: [{{ name: passing, bind: {bind}, mode: tcp, service: app }}]
services:
  app:
    health_check: {{ type: tcp, interval: 1s, timeout: 800ms }}
    pools:
      - {{ name: hot, endpoints: [{:?}, {:?}] }}
      - {{ name: standby, endpoints: [{:?}] }}
",
        hot[0].name(),
        hot[1].name(),
        standby.name()
    );
    let proxy = Proxy::start(&lab, &config);
    proxy.wait_all_up("app");
    let (fates, stop) = (Fates::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        for n in 0..500_u64 {
            let (fates, stop) = (&fates, &stop);
            thread::Builder::new()
                .stack_size(128 * 1024)
                .spawn_scoped(scope, move || {
                    while !stop.load(Ordering::SeqCst) {
                        visit(bind, Duration::from_millis(n % 50), fates);
                    }
                })
                .unwrap();
        }
        until("all have come", || (fates.served.load(Ordering::SeqCst) > 1000).then_some(()));
        hot.iter_mut().for_each(Nginx::kill9);
        proxy.wait_serving("app", "standby");
        let after = fates.served.load(Ordering::SeqCst);
        until("it goes on", || (fates.served.load(Ordering::SeqCst) > after + 1000).then_some(()));
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(fates.lost.load(Ordering::SeqCst), 0);
    assert!(
        proxy.metrics().sum("standfast_requests_rescued_total", &[("proof", "not_sent")]) > 0.0
    );
    proxy.stop();
}
