//! What operators see and order: readiness, metrics, status, logs, drain, exit codes.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::Value;

use support::client::Client;
use support::endpoint::Endpoint;
use support::lab::{Lab, plain, plain_with, two_pools};
use support::proxy::{Proxy, run};
use support::{free_address, until};

/// With the patience of the defaults: endpoints of a busy machine are no less well. What refuses is
/// found out within milliseconds all the same.
const CHECK: &str = "health_check: { path: /healthz, fast_interval: 20ms }";

/// An endpoint that answers `/slow` only when told to, and everything else at once.
fn slow_endpoint() -> (Endpoint, Sender<()>) {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let endpoint = Endpoint::start(move |conn| {
        while let Some(request) = conn.request() {
            if request.target() == "/slow" {
                let _ = wait.lock().unwrap().recv();
            }
            conn.answer(200, "whole");
        }
    });
    (endpoint, go)
}

/// Puts `/slow` in flight.
fn in_flight(bind: std::net::SocketAddr, endpoint: &Endpoint) -> Client {
    let mut client = Client::plain(bind);
    client.send("GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n");
    until("the endpoint has it", || {
        endpoint.requests().iter().any(|r| r.target() == "/slow").then_some(())
    });
    client
}

#[test]
fn readiness_is_no_function_of_the_pools_health() {
    let (lab, nobody) = (Lab::new(), free_address());
    let config = plain_with(free_address(), "", CHECK, &format!("http://{nobody}"));
    let proxy = Proxy::start(&lab, &config);
    proxy.wait_endpoint("app", &nobody.to_string(), false);
    for path in ["/livez", "/readyz"] {
        assert_eq!(Client::try_get(proxy.admin, path).unwrap().status(), 200, "{path}");
    }
    let unknown = Client::try_get(proxy.admin, "/nothing").unwrap();
    assert_eq!(unknown.status(), 404);
    assert_eq!(unknown.field("content-type"), Some("application/problem+json"));
    proxy.stop();
}

#[test]
fn metrics_have_the_headline_and_parse() {
    let (lab, bind) = (Lab::new(), free_address());
    let (hot, standby) = (Endpoint::answering("hot"), Endpoint::answering("standby"));
    let web = format!("name: web, bind: {bind}, tls: {}", lab.tls());
    let config = two_pools(&web, CHECK, &[hot.url()], &[standby.url()]);
    let proxy = Proxy::start(&lab, &config);
    proxy.wait_all_up("app");
    let mut client = Client::tls(bind, &lab.client_config(), "app.test");
    for _ in 0..7 {
        client.get("/");
    }
    let answered = [("listener", "web"), ("service", "app"), ("code", "200")];
    until("seven requests are counted", || {
        (proxy.metrics().sum("standfast_http_requests_total", &answered) == 7.0).then_some(())
    });
    let metrics = proxy.metrics();
    let of = |pool| [("service", "app"), ("pool", pool)];
    for (name, pool, value) in [
        ("standfast_pool_active", "hot", 1.0),
        ("standfast_pool_active", "standby", 0.0),
        ("standfast_pool_available", "hot", 1.0),
        ("standfast_pool_available", "standby", 1.0),
        ("standfast_endpoint_up", "hot", 1.0),
    ] {
        assert_eq!(metrics.get(name, &of(pool)), Some(value), "{name} of {pool}");
    }
    assert_eq!(metrics.get("standfast_config_last_reload_successful", &[]), Some(1.0));
    let expiry = metrics.get("standfast_tls_certificate_not_after_timestamp_seconds", &[]);
    assert!(expiry.is_some_and(|seconds| seconds > 1.0e9), "{expiry:?}");
    let count = "standfast_http_request_duration_seconds_count";
    assert_eq!(metrics.sum(count, &[("service", "app")]), 7.0);
    for name in ["standfast_requests_rescued_total", "standfast_requests_lost_total"] {
        assert_eq!(metrics.get(name, &[("service", "app")]), Some(0.0), "{name}");
    }
    // Every sample belongs to a family with a type, and is named as the others are.
    for sample in &metrics.samples {
        let ours = sample.name.starts_with("standfast_") || sample.name.starts_with("process_");
        assert!(ours, "{}", sample.name);
        let suffixes = ["_bucket", "_sum", "_count"];
        let family = suffixes.iter().find_map(|suffix| sample.name.strip_suffix(suffix));
        let typed = |name: &str| metrics.typed.iter().any(|typed| typed == name);
        assert!(typed(&sample.name) || family.is_some_and(typed), "{} has no type", sample.name);
    }
    proxy.stop();
}

#[test]
fn status_tells_who_serves_and_why() {
    let (lab, bind) = (Lab::new(), free_address());
    let (hot, standby) = (Endpoint::answering("hot"), Endpoint::answering("standby"));
    let config = two_pools(&format!("bind: {bind}"), CHECK, &[hot.url()], &[standby.url()]);
    let proxy = Proxy::start(&lab, &config);
    proxy.wait_all_up("app");
    hot.kill();
    proxy.wait_serving("app", "standby");

    let status = proxy.status();
    let text = status.to_string();
    for part in ["\"app\"", "\"hot\"", "\"standby\"", "\"up\"", "\"down\"", &hot.name()] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let printed = proxy.control(&["status"]);
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    let line = printed.lines().find(|line| line.contains("app") && line.contains("standby"));
    assert!(line.is_some(), "who serves is not on one line:\n{printed}");
    assert!(printed.contains("down"), "{printed}");
    assert!(printed.lines().all(|line| line.chars().count() <= 80), "{printed}");
    let json = proxy.control(&["status", "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(json["services"].to_string().contains("standby"), "{json}");
    proxy.stop();
}

#[test]
fn verdicts_and_failovers_are_one_clear_line_each() {
    let (lab, bind) = (Lab::new(), free_address());
    let (hot, standby) = (Endpoint::answering("hot"), Endpoint::answering("standby"));
    let config = two_pools(&format!("bind: {bind}"), CHECK, &[hot.url()], &[standby.url()]);
    let config = format!("logging: {{ format: json }}\n{config}");
    let proxy = Proxy::start(&lab, &config);
    proxy.wait_all_up("app");
    hot.kill();
    // A line is written after what it tells is in force.
    let log = until("the failover is logged", || {
        Some(proxy.log()).filter(|log| log.contains("failover") && log.ends_with('\n'))
    });
    for line in log.lines() {
        let parsed: Result<Value, _> = serde_json::from_str(line);
        assert!(parsed.is_ok(), "not JSON: {line}");
    }
    let name = hot.name();
    let down = log.lines().filter(|line| line.contains(&name) && line.contains("down")).count();
    assert_eq!(down, 1, "lines about the verdict:\n{log}");
    // The record of the move is a line of its own, for machines.
    let moves = log.lines().filter(|line| line.contains("\"message\":\"failover\""));
    let moves = moves.filter(|line| line.contains("hot") && line.contains("standby"));
    assert_eq!(moves.count(), 1, "lines about the failover:\n{log}");
    proxy.stop();
}

#[test]
fn access_log_has_a_json_line_for_each_request() {
    let (lab, bind, endpoint) = (Lab::new(), free_address(), Endpoint::answering("five!"));
    let file = lab.path("access.log");
    let config = format!(
        "logging: {{ access_log: {{ output: {} }} }}\n{}",
        file.display(),
        plain_with(bind, "name: web", "", &endpoint.url())
    );
    let proxy = Proxy::start(&lab, &config);
    let mut client = Client::plain(bind);
    client.send(
        "POST /a?secret=1 HTTP/1.1\r\nHost: app.test\r\nUser-Agent: \"quoted\\\"\r\n\
         Content-Length: 3\r\n\r\nabc",
    );
    client.response("POST");
    endpoint.kill();
    let mut client = Client::plain(bind);
    assert_eq!(client.get("/b").status(), 502);
    let lines: Vec<Value> = until("two lines are written", || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let mut lines: Vec<Value> = whole.map(|line| serde_json::from_str(line).unwrap()).collect();
        // Each worker hands over its own lines in its own time.
        lines.sort_by_key(|line| line["url.path"].as_str().map(str::to_owned));
        (lines.len() == 2).then_some(lines)
    });
    let line = &lines[0];
    for (name, value) in [
        ("http.request.method", "POST"),
        ("url.scheme", "http"),
        ("server.address", "app.test"),
        ("url.path", "/a"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "\"quoted\\\""),
        ("client.address", "127.0.0.1"),
        ("standfast.listener", "web"),
        ("standfast.service", "app"),
        ("standfast.pool", "hot"),
        ("standfast.endpoint", &endpoint.name()),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
    assert_eq!(line["http.response.status_code"], 200);
    assert_eq!(line["http.request.body.size"], 3);
    assert_eq!(line["http.response.body.size"], 5);
    assert_eq!(line["standfast.attempts"], 1);
    assert!(line["timestamp"].as_str().is_some_and(|t| t.ends_with('Z')), "{line}");
    assert!(line["standfast.duration_ms"].is_number(), "{line}");
    assert!(!line.to_string().contains("secret"), "queries may hold secrets: {line}");
    let id = endpoint.requests()[0].field("x-request-id").unwrap().to_owned();
    assert_eq!(line["standfast.request_id"], id);
    assert_eq!(lines[1]["http.response.status_code"], 502);
    assert!(lines[1]["standfast.reason"].is_string(), "{}", lines[1]);
    proxy.stop();
}

#[test]
fn term_finishes_what_is_in_flight_and_takes_nothing_new() {
    let (lab, bind) = (Lab::new(), free_address());
    let (endpoint, go) = slow_endpoint();
    let mut proxy = Proxy::start(&lab, &plain(bind, &endpoint.url()));
    let mut idle = Client::plain(bind);
    assert_eq!(idle.get("/").text(), "whole");
    let mut busy = in_flight(bind, &endpoint);

    proxy.signal(Signal::TERM);
    idle.assert_closed();
    until("nothing new is taken", || {
        let Ok(mut client) = Client::try_plain(bind) else { return Some(()) };
        let _ = client.try_send(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        client.try_response("GET").is_err().then_some(())
    });
    let ready = Client::try_get(proxy.admin, "/readyz").unwrap();
    assert_eq!(ready.status(), 503);
    assert_eq!(Client::try_get(proxy.admin, "/livez").unwrap().status(), 200);

    go.send(()).unwrap();
    let answer = busy.response("GET");
    assert_eq!((answer.status(), answer.text().as_str()), (200, "whole"));
    assert!(!answer.keeps(), "the client is not told that the connection ends");
    assert_eq!(proxy.wait_exit().code(), Some(0), "{}", proxy.log());
}

#[test]
fn what_is_in_flight_while_it_drains_is_moved_when_its_endpoint_goes_down() {
    let (lab, bind) = (Lab::new(), free_address());
    let ill = Arc::new(AtomicBool::new(false));
    let is_ill = Arc::clone(&ill);
    // It never answers `/slow`, and its probes (`/ready`) tell whether it is well.
    let hot = Endpoint::start(move |conn| {
        while let Some(request) = conn.request() {
            match request.target() {
                "/slow" => drop(conn.until_closed()),
                _ if is_ill.load(Ordering::Relaxed) => drop(conn.answer(503, "ill")),
                _ => drop(conn.answer(200, "hot")),
            }
        }
    });
    let standby = Endpoint::answering("standby");
    let config = format!(
        "process: {{ drain_timeout: 1h }}
listeners: [{{ name: web, bind: {bind}, service: app }}]
services:
  app:
    health_check: {{ path: /ready, interval: 200ms, timeout: 100ms, fast_interval: 20ms }}
    pools:
      - {{ name: hot, endpoints: [{}] }}
      - {{ name: standby, endpoints: [{}] }}
",
        hot.url(),
        standby.url()
    );
    let mut proxy = Proxy::start(&lab, &config);
    proxy.wait_all_up("app");
    let mut busy = in_flight(bind, &hot);
    proxy.signal(Signal::TERM);
    until("it drains", || Client::try_plain(bind).is_err().then_some(()));
    ill.store(true, Ordering::Relaxed);
    let answer = busy.response("GET");
    assert_eq!((answer.status(), answer.text().as_str()), (200, "standby"));
    assert_eq!(proxy.wait_exit().code(), Some(0), "{}", proxy.log());
}

#[test]
fn requests_that_arrived_before_term_was_seen_are_answered() {
    let (lab, bind) = (Lab::new(), free_address());
    let endpoint = Endpoint::answering("still");
    let config = plain(bind, &endpoint.url());
    let mut proxy = Proxy::start(&lab, &format!("process: {{ workers: 1 }}\n{config}"));
    let request = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let mut clients: Vec<Client> = (0..100).map(|_| Client::plain(bind)).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").text(), "still");
    }
    // Stopped, so that all of it is there at once when the process looks.
    proxy.signal(Signal::STOP);
    proxy.signal(Signal::TERM);
    clients.extend((0..50).map(|_| Client::plain(bind)));
    for client in &mut clients {
        client.send(request);
    }
    proxy.signal(Signal::CONT);
    for client in &mut clients {
        assert_eq!(client.response("GET").text(), "still");
    }
    assert_eq!(proxy.wait_exit().code(), Some(0), "{}", proxy.log());
}

#[test]
fn lame_duck_fails_readiness_and_still_serves() {
    let (lab, bind) = (Lab::new(), free_address());
    let endpoint = Endpoint::answering("still here");
    let config = format!("process: {{ lame_duck: 10s }}\n{}", plain(bind, &endpoint.url()));
    let mut proxy = Proxy::start(&lab, &config);
    proxy.signal(Signal::TERM);
    until("readiness fails", || {
        (Client::try_get(proxy.admin, "/readyz").ok()?.status() == 503).then_some(())
    });
    assert_eq!(Client::plain(bind).get("/").text(), "still here");
    proxy.signal(Signal::TERM);
    proxy.wait_exit();
}

#[test]
fn drain_timeout_ends_what_does_not_end_by_itself() {
    let (lab, bind) = (Lab::new(), free_address());
    let (endpoint, _go) = slow_endpoint();
    let config = format!("process: {{ drain_timeout: 300ms }}\n{}", plain(bind, &endpoint.url()));
    let mut proxy = Proxy::start(&lab, &config);
    let mut busy = in_flight(bind, &endpoint);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit().code(), Some(0), "{}", proxy.log());
    assert!(busy.try_response("GET").is_err(), "the endpoint never answered");
}

#[test]
fn second_term_ends_at_once() {
    let (lab, bind) = (Lab::new(), free_address());
    let (endpoint, _go) = slow_endpoint();
    // An hour: only the second signal can end this within the test's patience.
    let config = format!("process: {{ drain_timeout: 1h }}\n{}", plain(bind, &endpoint.url()));
    let mut proxy = Proxy::start(&lab, &config);
    let _busy = in_flight(bind, &endpoint);
    proxy.signal(Signal::TERM);
    until("it drains", || {
        (Client::try_get(proxy.admin, "/readyz").ok()?.status() == 503).then_some(())
    });
    proxy.signal(Signal::TERM);
    proxy.wait_exit();
}

#[test]
fn drain_command_drains() {
    let (lab, bind, endpoint) = (Lab::new(), free_address(), Endpoint::answering("here"));
    let mut proxy = Proxy::start(&lab, &plain(bind, &endpoint.url()));
    let output = proxy.control(&["drain"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn address_in_use_is_a_clear_error_before_anything_serves() {
    let (lab, taken) = (Lab::new(), Endpoint::answering("another program"));
    let free = free_address();
    let config = format!(
        "admin: {{ listen: {} }}
listeners:
  - {{ bind: {free}, service: app }}
  - {{ bind: {}, service: app }}
services:
  app: {{ pools: [{{ name: hot, endpoints: [http://127.0.0.1:9] }}] }}
",
        free_address(),
        taken.address
    );
    fs::write(lab.path("c.yaml"), config).unwrap();
    let ended = run(&["run", "-c", "c.yaml"], lab.dir());
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains(&taken.address.to_string()), "{}", ended.stderr);
    assert!(ended.stderr.to_lowercase().contains("in use"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

#[test]
fn second_process_on_the_same_address_is_refused() {
    let (lab, endpoint, bind) = (Lab::new(), Endpoint::answering("first"), free_address());
    let proxy = Proxy::start(&lab, &plain(bind, &endpoint.url()));
    let config =
        format!("admin: {{ listen: {} }}\n{}", free_address(), plain(bind, &endpoint.url()));
    fs::write(lab.path("second.yaml"), config).unwrap();
    let ended = run(&["run", "-c", "second.yaml"], lab.dir());
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.to_lowercase().contains("in use"), "{}", ended.stderr);
    assert_eq!(Client::plain(bind).get("/").text(), "first");
    proxy.stop();
}

#[test]
fn bad_config_ends_run_with_78_and_check_with_1_and_shows_every_error() {
    let lab = Lab::new();
    let config = "listeners:
  - bind: \":0\"
    service: ap
services:
  app:
    health_check: { path: /healthz, interval: 5 }
    pools:
      - name: hot
        endponts: [http://10.0.1.10:80]
";
    fs::write(lab.path("bad.yaml"), config).unwrap();
    let check = run(&["check", "-c", "bad.yaml"], lab.dir());
    assert_eq!(check.code, Some(1), "{check:?}");
    let shown = format!("{}{}", check.stdout, check.stderr);
    for part in ["endponts", "endpoints", "interval", "bad.yaml"] {
        assert!(shown.contains(part), "{part} is not in:\n{shown}");
    }
    let ran = run(&["run", "-c", "bad.yaml"], lab.dir());
    assert_eq!(ran.code, Some(78), "{ran:?}");
    let missing = run(&["run", "-c", "nowhere.yaml"], lab.dir());
    assert_eq!(missing.code, Some(78), "{missing:?}");
    let usage = run(&["run", "--nonsense"], lab.dir());
    assert_eq!(usage.code, Some(2), "{usage:?}");
}

#[test]
fn what_is_not_available_yet_is_refused_and_never_ignored() {
    let lab = Lab::new();
    for (name, part) in [
        ("mode", "listeners: [{ mode: udp, bind: ':0', service: app }]"),
        ("http3", "listeners: [{ bind: ':0', service: app, protocols: [http3] }]"),
        ("sticky", "listeners: [{ bind: ':0', service: app }]"),
    ] {
        let sticky = if name == "sticky" { "sticky: { cookie: c }, " } else { "" };
        let config = format!(
            "{part}\nservices: {{ app: {{ {sticky}pools: [{{ name: hot, \
             endpoints: ['http://127.0.0.1:9'] }}] }} }}\n"
        );
        fs::write(lab.path("later.yaml"), config).unwrap();
        let check = run(&["check", "-c", "later.yaml"], lab.dir());
        assert_eq!(check.code, Some(1), "{name}: {check:?}");
        let shown = format!("{}{}", check.stdout, check.stderr);
        assert!(shown.contains("not available yet"), "{name}: {shown}");
    }
}

#[test]
fn check_in_json_is_json() {
    let lab = Lab::new();
    fs::write(lab.path("bad.yaml"), "listners: []\n").unwrap();
    let check = run(&["check", "-c", "bad.yaml", "--json"], lab.dir());
    assert_eq!(check.code, Some(1), "{check:?}");
    let json: Value = serde_json::from_str(&check.stdout).unwrap();
    assert!(json.to_string().contains("listners"), "{json}");
}

#[test]
fn admin_socket_is_for_its_owner_alone_and_gone_after_the_end() {
    use std::os::unix::fs::PermissionsExt;
    let (lab, endpoint) = (Lab::new(), Endpoint::answering("here"));
    let proxy = Proxy::start(&lab, &plain(free_address(), &endpoint.url()));
    let mode = fs::metadata(&proxy.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let socket = proxy.socket.clone();
    proxy.stop();
    assert!(!socket.exists(), "the socket is still there");
}

#[test]
fn changes_over_tcp_need_a_token() {
    let (lab, endpoint) = (Lab::new(), Endpoint::answering("here"));
    let proxy = Proxy::start(&lab, &plain(free_address(), &endpoint.url()));
    let mut client = Client::plain(proxy.admin);
    client.send(format!(
        "POST /api/v1/drain HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n",
        proxy.admin
    ));
    let answer = client.response("POST");
    assert!(matches!(answer.status(), 401 | 403), "{}", answer.start);
    assert_eq!(answer.field("content-type"), Some("application/problem+json"));
    assert_eq!(Client::try_get(proxy.admin, "/readyz").unwrap().status(), 200);
    proxy.stop();
}

#[test]
fn start_after_kill_9_needs_no_cleaning() {
    let (lab, endpoint, bind) = (Lab::new(), Endpoint::answering("here"), free_address());
    let mut first = Proxy::start(&lab, &plain(bind, &endpoint.url()));
    let text = fs::read_to_string(&first.config).unwrap();
    first.signal(Signal::KILL);
    first.wait_exit();
    assert!(
        first.socket.exists(),
        "a killed process leaves its socket: nothing to prove otherwise"
    );
    // The same file, so the same addresses and the same socket.
    let (_, own) = text.split_once('\n').unwrap();
    let again = Proxy::restart(&lab, &first, own);
    assert_eq!(Client::plain(bind).get("/").text(), "here");
    again.stop();
}
