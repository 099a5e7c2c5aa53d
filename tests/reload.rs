//! A reload is all or nothing and disturbs nobody.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::process::Signal;

use support::client::Client;
use support::endpoint::Endpoint;
use support::lab::{Lab, plain, tls};
use support::load::{Load, Plan};
use support::nginx::Nginx;
use support::proxy::Proxy;
use support::{free_address, until};

/// Two pools of one ingress each; `tag` makes one configuration differ from the next.
fn two_pools(lab: &Lab, bind: SocketAddr, hot: &Nginx, standby: &Nginx, tag: usize) -> String {
    format!(
        "listeners:
  - {{ name: web, bind: {bind}, tls: {}, service: app }}
services:
  app:
    health_check: {{ path: /healthz, interval: 1s, timeout: 800ms }}
    timeouts: {{ response_header: {}s }}
    pools:
      - {{ name: hot, endpoints: [{}] }}
      - {{ name: standby, endpoints: [{}] }}
",
        lab.tls(),
        10 + tag,
        hot.url(),
        standby.url()
    )
}

/// Files no reload may take, each broken in a way of its own.
fn broken(good: &str, round: usize) -> String {
    match round % 5 {
        0 => good.replace("endpoints:", "endpoint:"),
        1 => good[..good.len() / 2].to_owned() + "\n  : [",
        2 => good.replace("interval: 1s", "interval: 1"),
        3 => good.replace("app.crt", "missing.crt"),
        _ => String::new(),
    }
}

fn reloads(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("standfast_config_reloads_total", &[])
}

#[test]
fn storm_of_200_reloads_half_of_them_broken_fails_no_request() {
    let lab = Lab::new();
    let (hot, standby) = (Nginx::start(&lab, "hot"), Nginx::start(&lab, "standby"));
    let bind = free_address();
    let proxy = Proxy::start(&lab, &two_pools(&lab, bind, &hot, &standby, 0));
    proxy.wait_all_up("app");
    let load = Load::start(Plan {
        target: bind,
        tls: lab.client_config(),
        rate: 500,
        kept: 32,
        most: 512,
        fresh_every: 10,
        method: "GET",
    });
    load.wait_more(200);
    // A second witness that is none of ours.
    let wrk = Command::new("wrk")
        .args(["-t1", "-c8", "-d8s", "--timeout", "10s"])
        .arg(format!("https://{bind}/"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("wrk is needed (tests/run installs it)");

    let before = reloads(&proxy);
    for round in 0..200 {
        let good = two_pools(&lab, bind, &hot, &standby, round);
        let text = if round % 2 == 0 { good } else { broken(&good, round / 2) };
        proxy.write_config(&text);
        proxy.signal(Signal::HUP);
        load.wait_more(5);
    }
    // The last file was broken: the configuration before it is the one that runs.
    until("the last reload is refused", || {
        let metrics = proxy.metrics();
        (metrics.sum("standfast_config_last_reload_successful", &[]) == 0.0).then_some(())
    });
    // Signals that come while a reload runs are one: fewer reloads than signals, but not few.
    assert!(reloads(&proxy) - before >= 20.0, "{} reloads", reloads(&proxy) - before);
    load.wait_more(200);
    let report = load.finish();

    report.assert_none_lost();
    assert_eq!(report.from("hot"), report.samples.len());
    let wrk = wrk.wait_with_output().unwrap();
    let wrk = String::from_utf8_lossy(&wrk.stdout).into_owned();
    assert!(wrk.contains("requests in"), "{wrk}");
    assert!(!wrk.contains("Non-2xx") && !wrk.contains("Socket errors"), "{wrk}");
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("standfast_failovers_total", &[]), 0.0);
    assert_eq!(metrics.sum("standfast_requests_lost_total", &[]), 0.0);

    // One good file afterwards is taken.
    proxy.write_config(&two_pools(&lab, bind, &hot, &standby, 500));
    let output = proxy.control(&["reload"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(proxy.metrics().sum("standfast_config_last_reload_successful", &[]), 1.0);
    proxy.stop();
}

#[test]
fn reload_command_answers_with_the_outcome() {
    let (lab, bind) = (Lab::new(), free_address());
    let (first, second) = (Endpoint::answering("first"), Endpoint::answering("second"));
    let to = |service: &str| {
        format!(
            "listeners: [{{ bind: {bind}, service: {service} }}]
services:
  one: {{ pools: [{{ name: hot, endpoints: [{}] }}] }}
  two: {{ pools: [{{ name: hot, endpoints: [{}] }}] }}
",
            first.url(),
            second.url()
        )
    };
    let proxy = Proxy::start(&lab, &to("one"));
    let mut client = Client::plain(bind);
    assert_eq!(client.get("/").text(), "first");

    proxy.write_config(&to("two").replace("endpoints", "endpionts"));
    let output = proxy.control(&["reload"]);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("endpionts") && text.contains("endpoints"), "no did-you-mean: {text}");
    assert_eq!(client.get("/").text(), "first");

    proxy.write_config(&to("two"));
    let output = proxy.control(&["reload"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("two"), "does not tell what changed: {text}");
    // The same client connection: its next request reads the new table.
    assert_eq!(client.get("/").text(), "second");
    proxy.stop();
}

#[test]
fn api_refuses_a_broken_file_with_422_and_the_diagnostics() {
    let (lab, endpoint) = (Lab::new(), Endpoint::answering("here"));
    let proxy = Proxy::start(&lab, &plain(free_address(), &endpoint.url()));
    proxy.write_config("listeners: 7\nservces: {}\n");
    let reload = |proxy: &Proxy| {
        Command::new("curl")
            .args(["-sS", "-o", "-", "-w", "\n%{http_code} %{content_type}", "-X", "POST"])
            .arg("--unix-socket")
            .arg(&proxy.socket)
            .arg("http://localhost/api/v1/reload")
            .output()
            .expect("curl is needed (tests/run installs it)")
    };
    let refused = String::from_utf8_lossy(&reload(&proxy).stdout).into_owned();
    let (body, code) = refused.rsplit_once('\n').unwrap();
    assert_eq!(code, "422 application/problem+json", "{body}");
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["status"], 422);
    // Every error at once: both keys are named.
    assert!(body.contains("listeners") && body.contains("servces"), "{body}");

    proxy.write_config(&plain(free_address(), &endpoint.url()));
    let taken = String::from_utf8_lossy(&reload(&proxy).stdout).into_owned();
    assert!(taken.contains("\n200 "), "{taken}");
    proxy.stop();
}

/// Inodes of the sockets that listen on this port.
fn listening_inodes(address: SocketAddr) -> Vec<String> {
    let port = format!(":{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let mut inodes: Vec<String> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() > 9 && fields[1].ends_with(&port) && fields[3] == "0A")
        .map(|fields| fields[9].to_owned())
        .collect();
    inodes.sort();
    inodes
}

#[test]
fn unchanged_listener_keeps_its_sockets_and_a_changed_one_moves() {
    let (lab, endpoint) = (Lab::new(), Endpoint::answering("here"));
    let (kept, old, new) = (free_address(), free_address(), free_address());
    let config = |second: SocketAddr, limit: u32| {
        format!(
            "listeners:
  - {{ name: kept, bind: {kept}, service: app, limits: {{ max_headers: {limit} }} }}
  - {{ name: second, bind: {second}, service: app }}
services:
  app: {{ pools: [{{ name: hot, endpoints: [{}] }}] }}
",
            endpoint.url()
        )
    };
    let proxy = Proxy::start(&lab, &config(old, 50));
    let before = listening_inodes(kept);
    assert!(!before.is_empty(), "no listening socket was found");
    let mut on_old = Client::plain(old);
    assert_eq!(on_old.get("/").text(), "here");

    proxy.write_config(&config(new, 20));
    let output = proxy.control(&["reload"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(listening_inodes(kept), before, "the unchanged address was bound anew");
    assert_eq!(Client::plain(new).get("/").text(), "here");
    until("the old address is free", || Client::try_plain(old).is_err().then_some(()));
    // A setting of the kept listener is in force for its next connection.
    let mut client = Client::plain(kept);
    let fields: String = (0..30).map(|n| format!("X-{n}: 1\r\n")).collect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"));
    assert_eq!(client.response("GET").status(), 431);
    proxy.stop();
}

#[test]
fn request_in_flight_on_a_removed_listener_is_answered() {
    let (lab, bind) = (Lab::new(), free_address());
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let endpoint = Endpoint::start(move |conn| {
        while conn.request().is_some() {
            let _ = wait.lock().unwrap().recv();
            conn.answer(200, "after the reload");
        }
    });
    let proxy = Proxy::start(&lab, &plain(bind, &endpoint.url()));
    let mut client = Client::plain(bind);
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    until("the endpoint has it", || (!endpoint.requests().is_empty()).then_some(()));
    proxy.write_config(&plain(free_address(), &endpoint.url()));
    let output = proxy.control(&["reload"]);
    assert!(output.status.success(), "{output:?}");
    go.send(()).unwrap();
    assert_eq!(client.response("GET").text(), "after the reload");
    proxy.stop();
}

#[test]
fn request_lost_at_an_endpoint_a_reload_removed_is_answered_and_logged() {
    let (lab, bind) = (Lab::new(), free_address());
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = Arc::new(std::sync::Mutex::new(wait));
    let start = || {
        let wait = Arc::clone(&wait);
        Endpoint::start(move |conn| {
            if conn.request().is_some() {
                let _ = wait.lock().unwrap().recv();
            }
        })
    };
    let (first, second) = (start(), start());
    let log = format!("logging: {{ access_log: {{ output: {} }} }}\n", lab.path("log").display());
    let both = format!("{}, {}", first.url(), second.url());
    let proxy = Proxy::start(&lab, &format!("{log}{}", plain(bind, &both)));
    let mut clients = [Client::plain(bind), Client::plain(bind)];
    for (client, n) in clients.iter_mut().zip(1..) {
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
        until("an endpoint has it", || {
            (first.requests().len() + second.requests().len() == n).then_some(())
        });
    }
    assert_eq!((first.requests().len(), second.requests().len()), (1, 1));
    proxy.write_config(&format!("{log}{}", plain(bind, &first.url())));
    let output = proxy.control(&["reload"]);
    assert!(output.status.success(), "{output:?}");
    drop(go);
    for client in &mut clients {
        assert_eq!(client.response("POST").status(), 502);
    }
    until("both are logged with their endpoints", || {
        let log = fs::read_to_string(lab.path("log")).unwrap_or_default();
        let named = |name: &str| log.contains(&format!("\"standfast.endpoint\":\"{name}\""));
        (named(&first.name()) && named(&second.name())).then_some(())
    });
    proxy.stop();
}

#[test]
fn bind_that_fails_leaves_everything_as_it_was() {
    let (lab, endpoint, bind) = (Lab::new(), Endpoint::answering("here"), free_address());
    let taken = Endpoint::answering("another program");
    let proxy = Proxy::start(&lab, &plain(bind, &endpoint.url()));
    proxy.write_config(&plain(taken.address, &endpoint.url()));
    let output = proxy.control(&["reload"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(text.contains(&taken.address.port().to_string()), "{text}");
    assert_eq!(Client::plain(bind).get("/").text(), "here");
    assert_eq!(proxy.metrics().sum("standfast_config_last_reload_successful", &[]), 0.0);
    proxy.stop();
}

#[test]
fn new_certificate_is_served_after_a_reload_and_old_connections_stay() {
    let (lab, endpoint, bind) = (Lab::new(), Endpoint::answering("here"), free_address());
    let config = |pair: &support::certs::Pair| {
        plain(bind, &endpoint.url())
            .replace("service: app", &format!("tls: {}\n    service: app", tls(pair)))
    };
    let proxy = Proxy::start(&lab, &config(&lab.app));
    let serial = |client: &Client| client.session().peer_certificates().unwrap()[0].to_vec();
    let mut old = Client::tls(bind, &lab.client_config(), "app.test");
    let first = serial(&old);

    // Renewed in place, as certbot and cert-manager do it: the file's name stays.
    lab.ca.issue("app", &["app.test"]);
    proxy.signal(Signal::HUP);
    until("the new certificate is served", || {
        let client = Client::tls(bind, &lab.client_config(), "app.test");
        (serial(&client) != first).then_some(())
    });
    assert_eq!(old.get("/").text(), "here");

    // A key that does not belong to the certificate is refused, and the one before goes on.
    let second = serial(&Client::tls(bind, &lab.client_config(), "app.test"));
    let other = lab.ca.issue("other", &["app.test"]);
    fs::copy(&other.key_file, &lab.app.key_file).unwrap();
    let output = proxy.control(&["reload"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let client = Client::tls(bind, &lab.client_config(), "app.test");
    assert_eq!(serial(&client), second);
    proxy.stop();
}

#[test]
fn reload_keeps_verdicts_who_serves_and_counters() {
    let lab = Lab::new();
    let (mut hot, standby) = (Nginx::start(&lab, "hot"), Nginx::start(&lab, "standby"));
    let bind = free_address();
    let proxy = Proxy::start(&lab, &two_pools(&lab, bind, &hot, &standby, 0));
    proxy.wait_all_up("app");
    hot.kill9();
    proxy.wait_serving("app", "standby");
    let mut client = Client::tls(bind, &lab.client_config(), "app.test");
    assert_eq!(client.get("/").text(), "standby\n");
    let requests = |proxy: &Proxy| proxy.metrics().sum("standfast_http_requests_total", &[]);
    until("the request is counted", || (requests(&proxy) >= 1.0).then_some(()));
    let before = requests(&proxy);

    proxy.write_config(&two_pools(&lab, bind, &hot, &standby, 1));
    let output = proxy.control(&["reload"]);
    assert!(output.status.success(), "{output:?}");
    // No way through `unknown`: at once after the answer everything is as it was.
    let metrics = proxy.metrics();
    let of = |pool: &'static str| [("service", "app"), ("pool", pool)];
    assert_eq!(metrics.sum("standfast_pool_active", &of("standby")), 1.0);
    assert_eq!(metrics.sum("standfast_pool_available", &of("hot")), 0.0);
    assert_eq!(metrics.sum("standfast_endpoint_up", &of("standby")), 1.0);
    assert_eq!(metrics.sum("standfast_failovers_total", &[]), 1.0);
    assert!(metrics.sum("standfast_http_requests_total", &[]) >= before);
    assert_eq!(client.get("/").text(), "standby\n");
    proxy.stop();
}

#[test]
fn reload_that_removes_most_endpoints_needs_force() {
    let (lab, bind) = (Lab::new(), free_address());
    let endpoints: Vec<Endpoint> = (0..4).map(|_| Endpoint::answering("here")).collect();
    let urls: Vec<String> = endpoints.iter().map(Endpoint::url).collect();
    let proxy = Proxy::start(&lab, &plain(bind, &urls.join(", ")));
    proxy.write_config(&plain(bind, &urls[0]));
    let output = proxy.control(&["reload"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(text.contains("--force"), "does not tell the way out: {text}");
    let output = proxy.control(&["reload", "--force"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    proxy.stop();
}
