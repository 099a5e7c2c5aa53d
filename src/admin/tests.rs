//! The server with a table made by hand, over loopback and a unix socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tokio::sync::mpsc::Receiver;

use super::ready::{Phase, Readiness};
use super::*;
use crate::config::Secret;
use crate::config::check::{Diagnostic, Severity};
use crate::control::{DrillKind, DrillOrder, DrillReport, Event, ModeOrder, Reloaded, SwitchOrder};
use crate::failover::ramp;
use crate::failover::record::{Cost, Stamp};
use crate::observe::fixture;
use crate::table::build;

/// Answers one event as control would.
type Control = fn(Event);

struct Running {
    admin: Option<Admin>,
    readiness: Readiness,
    drains: Arc<AtomicUsize>,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

fn start(token: Option<&str>, control: Control) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let mut config = fixture::config();
    config.admin.socket = Some(socket.clone());
    config.admin.token = token.map(|token| Secret(token.as_bytes().to_vec()));
    let bound = bind(&config.admin).unwrap();
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || carry_out(receiver, control));
    let readiness = Readiness::default();
    let drains = Arc::new(AtomicUsize::new(0));
    let drained = Arc::clone(&drains);
    let now = std::time::Duration::ZERO;
    let mut table = build::first(Arc::new(config), 1, now);
    table.services = fixture::table_with_record().services;
    let deps = Deps {
        current: Current::new(table),
        readiness: readiness.clone(),
        control: sender,
        drain: Box::new(move || {
            drained.fetch_add(1, Ordering::Relaxed);
        }),
        reloads: Arc::new(fixture::reloads()),
        files: Box::new(|| Files { access_log_dropped: Some(42), ..Files::default() }),
    };
    let admin = bound.serve(deps).unwrap();
    Running { admin: Some(admin), readiness, drains, socket, _directory: directory }
}

fn carry_out(mut events: Receiver<Event>, control: Control) {
    while let Some(event) = events.blocking_recv() {
        control(event);
    }
}

fn nobody(event: Event) {
    panic!("not expected: {event:?}");
}

impl Running {
    fn address(&self) -> SocketAddr {
        self.admin.as_ref().unwrap().address().unwrap()
    }

    fn tcp(&self, request: &str) -> Answer {
        exchange(TcpStream::connect(self.address()).unwrap(), request)
    }

    fn socket(&self, request: &str) -> Answer {
        exchange(UnixStream::connect(&self.socket).unwrap(), request)
    }

    fn get(&self, path: &str) -> Answer {
        self.tcp(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    fn post(&self, path: &str, body: &str) -> Answer {
        self.socket(&post(path, "", body))
    }
}

fn order(method: &str, path: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn post(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

fn exchange(mut stream: impl Read + Write, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

#[test]
fn liveness_is_there_from_the_start_and_readiness_follows_the_phase() {
    let running = start(None, nobody);
    let phase = |phase| {
        running.readiness.enter(phase);
        ["/livez", "/readyz", "/healthz"].map(|path| running.get(path).status)
    };
    assert_eq!(phase(Phase::Starting), [200, 503, 503]);
    assert_eq!(phase(Phase::Ready), [200, 200, 200]);
    assert_eq!(phase(Phase::Draining), [200, 503, 503]);
}

#[test]
fn status_metrics_and_configuration_are_read_from_the_table() {
    let running = start(None, nobody);
    running.readiness.enter(Phase::Ready);
    let status = running.get("/api/v1/status").json();
    assert_eq!((&status["phase"], &status["generation"]), (&"ready".into(), &1.into()));
    assert_eq!(status["services"][0]["serving"], "standby");
    let metrics = running.get("/metrics");
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
    assert!(metrics.body.contains("\nstandfast_access_log_dropped_total 42\n"));
    assert_eq!(
        running.get("/api/v1/config").json()["services"]["app"]["balance"],
        "least_requests"
    );
}

#[test]
fn unknown_paths_and_wrong_methods_are_problems() {
    let running = start(None, nobody);
    let missing = running.get("/api/v2/status");
    assert_eq!((missing.status, &missing.json()["status"]), (404, &404.into()));
    assert!(missing.head.contains("content-type: application/problem+json"), "{}", missing.head);
    let reload = running.socket("GET /api/v1/reload HTTP/1.0\r\n\r\n");
    assert_eq!(reload.status, 405);
    assert!(reload.head.contains("\nallow: post"), "{}", reload.head);
    assert_eq!(running.post("/metrics", "").status, 405);
}

#[test]
fn changes_go_over_the_socket_or_with_the_token() {
    let running = start(None, nobody);
    let refused = running.tcp(&post("/api/v1/drain", "", ""));
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("admin.token"), "{}", refused.body);
    assert_eq!(running.post("/api/v1/drain", "").status, 202);
    assert_eq!(running.drains.load(Ordering::Relaxed), 1);

    let running = start(Some("secret"), nobody);
    let with = |headers| running.tcp(&post("/api/v1/drain", headers, "")).status;
    assert_eq!(with(""), 401);
    assert_eq!(with("Authorization: Bearer guess\r\n"), 401);
    assert_eq!(running.drains.load(Ordering::Relaxed), 0);
    assert_eq!(with("Authorization: Bearer secret\r\n"), 202);
    assert_eq!(running.drains.load(Ordering::Relaxed), 1);
}

#[test]
fn a_page_from_elsewhere_reads_nothing() {
    let running = start(None, nobody);
    let ask = |path: &str, host: &str| {
        running.tcp(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    };
    assert_eq!(ask("/api/v1/status", "evil.example:9090").status, 421);
    assert_eq!(ask("http://evil.example/api/v1/status", "localhost").status, 421);
    assert_eq!(ask("/api/v1/status", "127.0.0.1:9090").status, 200);
}

fn reloads(event: Event) {
    let Event::Reload { force, reply: Some(reply) } = event else { panic!("{event:?}") };
    let outcome = if force {
        let changes = vec!["service app: pool standby removed".to_owned()];
        Ok(Reloaded { generation: 2, changes, warnings: Vec::new() })
    } else {
        Err(vec![Diagnostic {
            severity: Severity::Error,
            path: "services.app".to_owned(),
            line: 7,
            column: 3,
            snippet: "  app:".to_owned(),
            message: "more than half of the endpoints would go".to_owned(),
            remedy: "use --force".to_owned(),
        }])
    };
    reply.send(outcome).unwrap();
}

#[test]
fn a_reload_answers_with_its_changes_or_with_the_diagnostics() {
    let running = start(None, reloads);
    let refused = running.post("/api/v1/reload", "");
    assert_eq!(refused.status, 422);
    let diagnostic = &refused.json()["diagnostics"][0];
    assert_eq!((&diagnostic["line"], &diagnostic["severity"]), (&7.into(), &"error".into()));
    let applied = running.post("/api/v1/reload?force=true", "");
    assert_eq!((applied.status, &applied.json()["generation"]), (200, &2.into()));
}

fn switches(event: Event) {
    let Event::Switch { service, order: SwitchOrder { to, reason, .. }, reply } = event else {
        panic!("{event:?}")
    };
    let answer = match &*reason {
        "refuse" => Err("the pool is not available".to_owned()),
        reason => Ok(format!("{service} → {to}: {reason}")),
    };
    reply.send(answer).unwrap();
}

#[test]
fn a_switch_names_a_service_and_a_pool_that_are_there() {
    let running = start(None, switches);
    let path = "/api/v1/services/app/switch";
    let done = running.post(path, r#"{"to": "standby", "reason": "upgrade"}"#);
    assert_eq!((done.status, &done.json()["outcome"]), (200, &"app → standby: upgrade".into()));
    let refused = running.post(path, r#"{"to": "standby", "reason": "refuse"}"#);
    assert_eq!(
        (refused.status, &refused.json()["detail"]),
        (409, &"the pool is not available".into())
    );
    for (path, body, status, part) in [
        (path, r#"{"to": "standby"}"#, 400, "say why"),
        (path, r#"{"to": "standby", "reason": " "}"#, 400, "say why"),
        (path, r#"{"to": "cold", "reason": "x"}"#, 404, "hot, standby"),
        ("/api/v1/services/web/switch", r#"{"to": "hot", "reason": "x"}"#, 404, "there are: app"),
        (path, r#"{"to": "hot", "hold": 1, "reason": "x"}"#, 400, "expected a boolean"),
        (path, r#"{"too": "hot"}"#, 400, "too"),
        (path, "", 400, "expected"),
    ] {
        let answer = running.post(path, body);
        assert_eq!(answer.status, status, "{body}");
        assert!(answer.body.contains(part), "{}", answer.body);
    }
    assert_eq!(running.post(path, &"x".repeat(70_000)).status, 413);
}

/// Answers with what it was asked.
fn obeys(event: Event) {
    match event {
        Event::Switch { service, order: SwitchOrder { to, hold, force, .. }, reply } => {
            reply.send(Ok(format!("{service} → {to}, hold {hold}, force {force}"))).unwrap();
        }
        Event::Release { service, reason, reply } if reason == "refuse" => {
            reply.send(Err(format!("{service} is not held"))).unwrap();
        }
        Event::Release { service, reason, reply } => {
            reply.send(Ok(format!("{service} released: {reason:?}"))).unwrap();
        }
        Event::Mode { order: ModeOrder { endpoint, reason, .. }, reply, .. }
            if reason == "refuse" =>
        {
            reply.send(Err(format!("{endpoint} is the last one"))).unwrap();
        }
        Event::Mode { service, order, reply } => {
            let ModeOrder { pool, endpoint, mode, reason, force } = order;
            let told = format!("{service}/{pool}/{endpoint} {mode:?} {force}: {reason}");
            reply.send(Ok(told)).unwrap();
        }
        Event::Drill { order: DrillOrder { kind: DrillKind::Full, .. }, reply, .. } => {
            reply.send(Err("standby is not available".to_owned())).unwrap();
        }
        Event::Drill { service, order, reply } => {
            reply.send(Ok(drilled(service, &order))).unwrap();
        }
        other => panic!("not expected: {other:?}"),
    }
}

fn drilled(service: String, order: &DrillOrder) -> DrillReport {
    DrillReport {
        service,
        from: "hot".to_owned(),
        to: "standby".to_owned(),
        kind: order.kind,
        passed: true,
        aborted: None,
        began: Stamp(1),
        ended: Stamp(2),
        proof_micros: 1_500,
        switch_micros: None,
        target: ramp::Tally::default(),
        serving: ramp::Tally::default(),
        evidence: Vec::new(),
        records: Vec::new(),
        cost: Cost::default(),
    }
}

#[test]
fn a_hold_is_ordered_and_released() {
    let running = start(None, obeys);
    let path = "/api/v1/services/app/switch";
    let body = r#"{"to": "hot", "reason": "x", "hold": true, "force": true}"#;
    let held = running.post(path, body).json();
    assert_eq!(held["outcome"], "app → hot, hold true, force true");
    assert_eq!((&held["to"], &held["hold"]), (&"hot".into(), &true.into()));
    let delete = |path: &str, body: &str| running.socket(&order("DELETE", path, body));
    assert_eq!(delete(path, "").json()["outcome"], "app released: \"\"");
    let told = delete(path, r#"{"reason": "all well"}"#).json();
    assert_eq!(told["outcome"], "app released: \"all well\"");
    let refused = delete(path, r#"{"reason": "refuse"}"#);
    assert_eq!((refused.status, &refused.json()["detail"]), (409, &"app is not held".into()));
    assert_eq!(delete(path, "{").status, 400);
    let unknown = delete("/api/v1/services/web/switch", "");
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("there are: app"), "{}", unknown.body);
}

#[test]
fn a_mode_is_ordered_for_an_endpoint_that_is_there() {
    let running = start(None, obeys);
    let path = |service: &str, pool: &str, endpoint: &str| {
        format!("/api/v1/services/{service}/pools/{pool}/endpoints/{endpoint}/mode")
    };
    let put = |path: &str, body: &str| running.socket(&order("PUT", path, body));
    let right = path("app", "hot", "10.0.1.10%3A80");
    let done = put(&right, r#"{"mode": "drain", "reason": "disk", "force": true}"#);
    assert_eq!(done.json()["outcome"], "app/hot/10.0.1.10:80 Drain true: disk");
    assert_eq!(put(&right, r#"{"mode": "off", "reason": "refuse"}"#).status, 409);
    let body = r#"{"mode": "off", "reason": "disk"}"#;
    for (path, body, status, part) in [
        (&right, r#"{"mode": "off"}"#, 400, "say why"),
        (&right, r#"{"mode": "on", "reason": "x"}"#, 400, "active, drain, off"),
        (&right, "", 400, "expected"),
        (&path("web", "hot", "x:1"), body, 404, "there are: app"),
        (&path("app", "cold", "x:1"), body, 404, "there are: hot, standby"),
        (&path("app", "hot", "x:1"), body, 404, "there are: 10.0.1.10:80, 10.0.1.11:80"),
    ] {
        let answer = put(path, body);
        assert_eq!(answer.status, status, "{path} {body}");
        assert!(answer.head.contains("application/problem+json"), "{}", answer.head);
        assert!(answer.body.contains(part), "{}", answer.body);
    }
    assert_eq!(running.post(&right, body).status, 405);
}

#[test]
fn a_drill_answers_with_its_report_or_why_it_cannot_be() {
    let running = start(None, obeys);
    let path = "/api/v1/services/app/drill";
    let report = running.post(path, r#"{"kind": "share", "share": "5%", "for": "1s"}"#);
    assert_eq!((report.status, &report.json()["kind"]["share"]), (200, &50.into()));
    assert_eq!(serde_json::from_str::<DrillReport>(&report.body).unwrap().proof_micros, 1_500);
    let refused = running.post(path, r#"{"kind": "full"}"#);
    assert_eq!(refused.status, 409);
    assert!(refused.body.contains("standby is not available"), "{}", refused.body);
    assert_eq!(running.post(path, r#"{"kind": "full", "for": "1h"}"#).status, 400);
    assert_eq!(running.post("/api/v1/services/web/drill", "").status, 404);
    assert_eq!(running.tcp(&order("POST", path, "")).status, 403);
}

#[test]
fn failover_records_are_listed_and_found_by_their_id() {
    let running = start(None, nobody);
    let listed = running.get("/api/v1/failovers").json();
    assert_eq!(listed["failovers"][0]["id"], "app-1");
    let of_app = running.get("/api/v1/failovers?service=app&limit=1").json();
    assert_eq!(of_app, listed);
    let record = running.get("/api/v1/failovers/app-1");
    assert_eq!(record.json(), listed["failovers"][0]);
    assert_eq!(record.json()["cost"]["lost"]["not_idempotent"], 3);
    for (path, status, part) in [
        ("/api/v1/failovers/app-2", 404, "no failover"),
        ("/api/v1/failovers?service=web", 404, "there are: app"),
        ("/api/v1/failovers?sevice=app", 400, "there are: service, limit"),
        ("/api/v1/failovers?limit=0", 400, "limit: a number"),
        ("/api/v1/failovers?limit=x", 400, "limit: a number"),
    ] {
        let answer = running.get(path);
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.body.contains(part), "{}", answer.body);
    }
    assert_eq!(running.post("/api/v1/failovers", "").status, 405);
}

#[test]
fn at_most_256_connections_are_kept_and_the_socket_has_its_own() {
    let running = start(None, nobody);
    let connect = || TcpStream::connect(running.address()).unwrap();
    let held: Vec<TcpStream> = (0..256).map(|_| connect()).collect();
    let mut one_more = connect();
    assert_eq!(one_more.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(running.socket("GET /livez HTTP/1.0\r\n\r\n").status, 200);
    drop(held);
}

#[test]
fn the_end_waits_for_nobody_and_takes_the_socket_away() {
    let mut running = start(None, nobody);
    let mut idle = TcpStream::connect(running.address()).unwrap();
    assert!(running.socket.exists());
    running.admin = None;
    assert!(!running.socket.exists());
    assert_eq!(idle.read(&mut [0; 1]).unwrap_or(0), 0);
}

#[test]
fn a_taken_port_is_an_error_only_where_it_was_asked_for() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = fixture::config().admin;
    config.listen = taken.local_addr().unwrap();
    let error = bind(&config).unwrap_err().to_string();
    assert!(error.starts_with("admin.listen: 127.0.0.1:"), "{error}");
    config.listen_is_explicit = false;
    assert_eq!(bind(&config).unwrap().address(), None);
}
