//! The commands against a real admin server on a unix socket and on loopback.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::orders::{DrillArgs, EndpointPath, ModeArgs, SwitchArgs};
use super::*;
use crate::admin::ready::{Phase, Readiness};
use crate::admin::view::outlook::{Share, Stuck};
use crate::admin::view::{Failover, Probe};
use crate::admin::{Admin, Deps, bind};
use crate::config::Secret;
use crate::config::check::{Diagnostic, Severity};
use crate::control::{DrillKind, DrillReport, Event, Reloaded, SwitchOrder};
use crate::current::Current;
use crate::failover::ramp::Tally;
use crate::failover::record::{Cost, Stamp};
use crate::observe::fixture;
use crate::table::build;

struct Running {
    socket: Client,
    tcp: Client,
    admin: Arc<std::sync::Mutex<Option<Admin>>>,
    _directory: tempfile::TempDir,
}

fn start() -> Running {
    let directory = tempfile::tempdir().unwrap();
    let mut config = fixture::config();
    config.admin.socket = Some(directory.path().join("admin.sock"));
    config.admin.token = Some(Secret(b"secret".to_vec()));
    let unix = Address::of(&config.admin);
    let bound = bind(&config.admin).unwrap();
    let (sender, mut events) = mpsc::channel(1);
    std::thread::spawn(move || {
        while let Some(event) = events.blocking_recv() {
            carry_out(event);
        }
    });
    let readiness = Readiness::default();
    readiness.enter(Phase::Ready);
    let admin = Arc::new(std::sync::Mutex::new(None));
    let ending = Arc::clone(&admin);
    let mut table = build::first(Arc::new(config), 1, Duration::ZERO);
    table.services = fixture::table_with_record().services;
    let deps = Deps {
        current: Current::new(table),
        readiness,
        control: sender,
        // As a process with nothing in flight: it ends once the answer is out.
        drain: Box::new(move || {
            let ending = Arc::clone(&ending);
            std::thread::spawn(move || drop(ending.lock().unwrap().take()));
        }),
        reloads: Arc::new(fixture::reloads()),
        files: Box::new(Default::default),
    };
    let serving = bound.serve(deps).unwrap();
    let tcp = Address::Http(serving.address().unwrap().to_string());
    *admin.lock().unwrap() = Some(serving);
    Running {
        socket: Client { address: unix, token: None },
        tcp: Client { address: tcp, token: None },
        admin,
        _directory: directory,
    }
}

fn carry_out(event: Event) {
    match event {
        Event::Reload { force: true, reply: Some(reply) } => {
            let changes = vec!["service app: pool standby removed".to_owned()];
            reply.send(Ok(Reloaded { generation: 2, changes, warnings: Vec::new() })).unwrap();
        }
        Event::Reload { reply: Some(reply), .. } => reply.send(Err(vec![diagnostic()])).unwrap(),
        Event::Switch { service, order: SwitchOrder { to, reason, .. }, reply } => {
            reply.send(Ok(format!("{service} now served by {to}: {reason}"))).unwrap();
        }
        Event::Release { service, reason, reply } => {
            let answer = match &*reason {
                "refuse" => Err(format!("{service} is not held")),
                reason => Ok(format!("{service} is released: {reason}")),
            };
            reply.send(answer).unwrap();
        }
        Event::Mode { service, order, reply } => {
            let (endpoint, mode) = (order.endpoint, order.mode.label());
            reply.send(Ok(format!("{endpoint} of {service} is {mode}"))).unwrap();
        }
        Event::Drill { service, order, reply } => {
            let passed = order.kind != DrillKind::Full;
            let aborted = (!passed).then(|| order.reason.clone());
            let report = DrillReport {
                service,
                from: "standby".to_owned(),
                to: "hot".to_owned(),
                kind: order.kind,
                passed,
                aborted,
                began: Stamp(0),
                ended: Stamp(0),
                proof_micros: 1_500,
                switch_micros: None,
                target: Tally::default(),
                serving: Tally::default(),
                evidence: Vec::new(),
                records: Vec::new(),
                cost: Cost::default(),
            };
            reply.send(Ok(report)).unwrap();
        }
        other => panic!("not expected: {other:?}"),
    }
}

const PLAIN: Format = Format { json: false, paint: Paint(false) };
const JSON: Format = Format { json: true, paint: Paint(false) };

fn move_to(service: &str, to: &str, hold: bool) -> SwitchArgs {
    let (service, to) = (service.to_owned(), to.to_owned());
    SwitchArgs { service, to, reason: "upgrade".to_owned(), hold, force: false }
}

fn drill_of(full: bool) -> DrillArgs {
    DrillArgs {
        service: "app".to_owned(),
        decision: false,
        share: None,
        full,
        max_errors: None,
        watch: None,
        reason: Some("monthly".to_owned()),
    }
}

fn diagnostic() -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        path: "services.app".to_owned(),
        line: 7,
        column: 3,
        snippet: "  app:".to_owned(),
        message: "more than half of the endpoints would go".to_owned(),
        remedy: "reload with --force if that is meant".to_owned(),
    }
}

/// What a command printed.
fn printed(command: impl FnOnce(&mut dyn Write) -> Outcome) -> Result<String, String> {
    let mut out = Vec::new();
    command(&mut out).map_err(|failure| failure.to_string())?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn addresses_are_paths_or_hosts_with_a_port() {
    let http = |host: &str| Ok(Address::Http(host.to_owned()));
    let unix = |path: &str| Ok(Address::Unix(path.into()));
    assert_eq!("/run/a.sock".parse(), unix("/run/a.sock"));
    assert_eq!("./a.sock".parse(), unix("./a.sock"));
    assert_eq!("unix:a.sock".parse(), unix("a.sock"));
    assert_eq!("http://127.0.0.1:9090/".parse(), http("127.0.0.1:9090"));
    assert_eq!("[::1]:9090".parse(), http("[::1]:9090"));
    for wrong in ["https://localhost:1", "localhost", "http://a/b:1", "a b:1", "", "a:99999"] {
        assert!(wrong.parse::<Address>().is_err(), "{wrong}");
    }
}

#[test]
fn the_address_of_a_configuration_can_be_connected_to() {
    let mut admin = fixture::config().admin;
    admin.listen = "0.0.0.0:9090".parse().unwrap();
    assert_eq!(Address::of(&admin), Address::Http("127.0.0.1:9090".to_owned()));
    admin.listen = "[::]:9090".parse().unwrap();
    assert_eq!(Address::of(&admin), Address::Http("[::1]:9090".to_owned()));
    admin.socket = Some("/run/a.sock".into());
    assert_eq!(Address::of(&admin), Address::Unix("/run/a.sock".into()));
}

#[test]
fn status_is_a_page_for_people_and_json_for_programs() {
    let running = start();
    for client in [&running.socket, &running.tcp] {
        let page = printed(|out| status(client, PLAIN, out)).unwrap();
        assert!(page.contains("service app: standby serves\n"), "{page}");
        let json = printed(|out| status(client, JSON, out)).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap().services[0].serving, "standby");
    }
}

#[test]
fn a_reload_tells_what_changed_or_fails_with_every_diagnostic() {
    let running = start();
    let refused = printed(|out| reload(&running.socket, false, false, out)).unwrap_err();
    assert_eq!(
        refused,
        "the configuration was not applied; the running one goes on\n\
         error: services.app: more than half of the endpoints would go (line 7, column 3)\n  \
         |   app:\n  = reload with --force if that is meant"
    );
    let applied = printed(|out| reload(&running.socket, true, false, out)).unwrap();
    assert_eq!(applied, "configuration 2 is in force\n  service app: pool standby removed\n");
}

#[test]
fn a_change_over_tcp_needs_the_token() {
    let mut running = start();
    let order = move_to("app", "standby", false);
    let ask = |client: &Client| printed(|out| orders::switch(client, &order, out));
    assert!(ask(&running.tcp).unwrap_err().contains("admin.token"));
    running.tcp.token = Some("secret\n".to_owned());
    assert_eq!(
        ask(&running.tcp).unwrap(),
        "app now served by standby: upgrade\n\
         it stays until health forces a move, or `standfast release app`\n\
         next: `standfast status`, `standfast history app`\n"
    );
    let unknown = move_to("a/b", "standby", false);
    let unknown = printed(|out| orders::switch(&running.tcp, &unknown, out));
    assert_eq!(unknown.unwrap_err(), "no service \"a/b\"; there are: app");
}

#[test]
fn each_change_says_what_it_did_and_how_to_undo_it() {
    let running = start();
    let client = &running.socket;
    let held = printed(|out| orders::switch(client, &move_to("app", "hot", true), out)).unwrap();
    assert!(held.contains("until `standfast release app`\n"), "{held}");
    let release = |reason| printed(|out| orders::release(client, "app", reason, out));
    let released = release(Some("done")).unwrap();
    assert!(released.starts_with("app is released: done\nfrom now on"), "{released}");
    assert!(released.contains("  next: back to hot"), "{released}");
    assert_eq!(release(Some("refuse")).unwrap_err(), "app is not held");
    assert!(release(None).is_ok());
    let set = |endpoint: &str| {
        let endpoint: EndpointPath = endpoint.parse().unwrap();
        let (mode, reason) = ("drain".to_owned(), "disk".to_owned());
        printed(|out| orders::mode(client, &ModeArgs { endpoint, mode, reason, force: false }, out))
    };
    let drained = set("app/hot/10.0.1.10:80").unwrap();
    assert!(drained.starts_with("10.0.1.10:80 of app is drain\n"), "{drained}");
    assert!(drained.contains("undo: `standfast mode app/hot/10.0.1.10:80 active"), "{drained}");
    assert!(set("app/hot/10.0.1.99:80").unwrap_err().contains("there are: 10.0.1.10:80"));
}

#[test]
fn a_drill_that_does_not_pass_fails_after_its_report() {
    let running = start();
    let ask = |full, format, out: &mut dyn Write| {
        orders::drill(&running.socket, &drill_of(full), format, out)
    };
    let told = printed(|out| ask(false, PLAIN, out)).unwrap();
    assert!(told.starts_with("drill of app: hot could take over now\n"), "{told}");
    let json = printed(|out| ask(false, JSON, out)).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["kind"], "decision");
    let mut out = Vec::new();
    let failure = ask(true, PLAIN, &mut out).unwrap_err();
    assert_eq!(failure.to_string(), "the drill did not pass");
    let told = String::from_utf8(out).unwrap();
    assert!(told.starts_with("drill of app: hot could NOT take over: monthly\n"), "{told}");
}

#[test]
fn records_are_lines_stories_or_json() {
    let running = start();
    let client = &running.socket;
    let list = |service, format| printed(|out| records::history(client, service, 5, format, out));
    let lines = list(Some("app"), PLAIN).unwrap();
    assert!(lines.lines().nth(1).unwrap().starts_with("app-1  "), "{lines}");
    let json: Value = serde_json::from_str(&list(None, JSON).unwrap()).unwrap();
    assert_eq!(json["failovers"][0]["id"], "app-1");
    assert!(list(Some("web"), PLAIN).unwrap_err().contains("there are: app"));
    let tell = |id, format| printed(|out| records::explain(client, id, format, out));
    let story = tell("app-1", PLAIN).unwrap();
    assert!(story.starts_with("app-1: app moved from hot to standby\n"), "{story}");
    assert!(
        story
            .ends_with("could take over now: NO, 0 of 2 endpoints up, needs 1 (2 not known yet)\n")
    );
    let json: Value = serde_json::from_str(&tell("app-1", JSON).unwrap()).unwrap();
    assert_eq!(json["cost"]["rescued"]["not_sent"], 895);
    assert!(tell("app-9", PLAIN).unwrap_err().contains("no failover"));
}

#[test]
fn a_drain_waits_until_the_process_is_gone() {
    let running = start();
    let told = printed(|out| drain(&running.socket, out)).unwrap();
    assert!(told.starts_with("draining") && told.contains("\nstopped after "), "{told}");
    let gone = printed(|out| status(&running.socket, PLAIN, out)).unwrap_err();
    assert!(gone.contains("is it running?"), "{gone}");
    assert!(running.admin.lock().unwrap().is_none());
}

#[test]
fn a_status_fits_into_80_columns() {
    let moment = crate::admin::view::Moment {
        now: Duration::from_secs(100_000),
        unix: Duration::from_secs(1_700_000_000),
    };
    let mut status = Status::of(&fixture::table(), "ready", moment);
    let service = &mut status.services[0];
    service.since_seconds = 192.4;
    service.last_failover = Some(Failover {
        from: "hot".into(),
        to: "standby".into(),
        cause: "health".into(),
        reason: "0 of 2 endpoints up, needs 1".into(),
        at: String::new(),
        seconds_ago: 192.4,
        detection_seconds: 0.3,
    });
    service.failovers_total = 1;
    service.requests_holding = 3;
    let pool = &mut service.pools[0];
    (pool.unknown, pool.up, pool.down) = (0, 0, 2);
    pool.endpoints[0].verdict = "down".into();
    pool.endpoints[0].reason = Some(format!("{}\x1b[31m", "connection refused ".repeat(5)));
    pool.endpoints[1].name = "an-endpoint-with-a-long-name.cluster.example.com:8443".into();
    pool.endpoints[1].verdict = "up".into();
    pool.endpoints[1].in_flight = 1234;
    pool.endpoints[1].mode = "drain".into();
    pool.endpoints[1].doubted = true;
    pool.off = 1;
    service.held = true;
    service.order_reason = Some("the disks of hot are being replaced, ask Kim".into());
    service.share = Some(Share {
        pool: "standby".into(),
        percent: 5.0,
        complete: None,
        complete_in_seconds: Some(42.0),
    });
    service.trouble = Some(Stuck { kind: "held".into(), why: "hot is lost, but held".into() });
    let at = String::new();
    pool.endpoints[1].last_probe =
        Some(Probe { success: true, at, seconds_ago: 0.3, duration_ms: 1.2 });
    let page = text::status::status(&status, Paint(false));
    let expected = "\
standfast 0.1.0, ready, up 1 d 3 h
configuration 1 (0123456789abcdef)

service app: hot serves
  for 3 m 12 s, since 2023-11-13 18:26:41 UTC
  because: first in priority
  HELD by an operator: the disks of hot are being replaced, ask Kim
  TROUBLE: hot is lost, but held
  5 % of new requests go to standby first, all of them in 42 s
  standby could take over now: NO, 0 of 2 endpoints up, needs 1 (2 not known
    yet)
  requests rescued 0, held 0, lost 0, 3 wait now
  failovers 1, the last 3 m 12 s ago: hot to standby (health)
  * pool hot: NOT available, 0 of 2 up (1 drained or off), needs 1
      10.0.1.10:80                down for 1 d 3 h: connection refused
        connection refused connection refused connection refused connection
        refused \u{fffd}[31m
      an-endpoint-with-a-long-n…  DRAIN, up for 1 d 3 h, avoided for the moment,
        1234 in flight, probe 1.2 ms
    pool standby: not known yet, 0 of 2 up, needs 1
      10.0.2.10:80                unknown for 1 d 3 h, not probed
      10.0.2.11:80                unknown for 1 d 3 h, not probed

listener https at 127.0.0.1:8443: https, 0 connections, 0 in total
";
    assert_eq!(page, expected);
    assert!(page.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn durations_have_two_units_at_most() {
    for (seconds, expected) in [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.9, "59 s"),
        (3_599.0, "59 m 59 s"),
        (7_500.0, "2 h 5 m"),
        (1_047_600.0, "12 d 3 h"),
    ] {
        assert_eq!(text::duration(seconds), expected);
    }
}
