//! `mode: tls-passthrough`: TLS goes through untouched, to where its ClientHello asks to go.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ClientConnection;
use support::certs::Pair;
use support::client::Client;
use support::endpoint::Endpoint;
use support::lab::Lab;
use support::nginx::Nginx;
use support::passing::{End, Wire};
use support::proxy::Proxy;
use support::{free_address, until};

/// Routes, and services of one pool each (`name: endpoints`).
fn config(bind: SocketAddr, listener: &str, services: &[(&str, &str)]) -> String {
    let services: String = services
        .iter()
        .map(|(name, pools)| {
            format!(
                "  {name}:
    health_check: {{ type: tcp, interval: 200ms, timeout: 100ms, fast_interval: 20ms }}
    pools: [{pools}]
"
            )
        })
        .collect();
    format!(
        "process: {{ workers: 2, lame_duck: 0s, drain_timeout: 1s }}
logging: {{ access_log: {{ output: stdout }} }}
listeners:
  - name: tls
    bind: {bind}
    mode: tls-passthrough
    {listener}
services:
{services}"
    )
}

fn pool(name: &str, endpoint: &str) -> String {
    format!("{{ name: {name}, endpoints: [{endpoint:?}] }}")
}

fn nginx(lab: &Lab, name: &str, hosts: &[&str]) -> (Nginx, Pair) {
    let pair = lab.ca.issue(name, hosts);
    (Nginx::start_tls(lab, name, &pair), pair)
}

/// What curl gets from `https://HOST/`, which it is told is at `bind`.
fn curl(lab: &Lab, bind: SocketAddr, host: &str, more: &[&str]) -> Result<String, String> {
    let port = bind.port();
    let out = Command::new("curl")
        .args(["-sS", "--max-time", "30", "--cacert", lab.ca.ca_file.to_str().unwrap()])
        .args(["--resolve", &format!("{host}:{port}:127.0.0.1")])
        .args(more)
        .arg(format!("https://{host}:{port}/"))
        .output()
        .unwrap();
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
    }
}

/// The ClientHello of a rustls client that asks for this name.
fn hello(lab: &Lab, name: &str) -> Vec<u8> {
    let name = name.to_owned().try_into().unwrap();
    let mut client = ClientConnection::new(lab.client_config(), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn curl_reaches_the_endpoint_that_its_name_is_routed_to() {
    let (lab, bind) = (Lab::new(), free_address());
    let (one, _) = nginx(&lab, "one", &["one.test"]);
    let (wild, _) = nginx(&lab, "wild", &["*.wild.test"]);
    let (rest, _) = nginx(&lab, "rest", &["rest.test", "any.test"]);
    let listener = "routes:
      - { sni: [one.test], service: one }
      - { sni: [\"*.wild.test\"], service: wild }
      - { service: rest }";
    let pools = [&one, &wild, &rest].map(|nginx| pool("hot", &nginx.name()));
    let services: Vec<_> =
        ["one", "wild", "rest"].into_iter().zip(pools.iter().map(|p| &**p)).collect();
    let proxy = Proxy::start(&lab, &config(bind, listener, &services));
    for (host, answer) in
        [("one.test", "one"), ("ONE.test", "one"), ("a.wild.test", "wild"), ("any.test", "rest")]
    {
        assert_eq!(curl(&lab, bind, host, &[]).as_deref(), Ok(answer), "{host}");
    }
    assert_eq!(curl(&lab, bind, "one.test", &["--tls-max", "1.2"]).as_deref(), Ok("one"));
    let lines = until("all are written", || {
        let lines: Vec<_> = proxy.stdout().lines().map(str::to_owned).collect();
        (lines.len() == 5).then_some(lines)
    });
    // A connection's line is written at its end, which is not the order of the beginnings.
    let wild = lines.iter().find(|line| line.contains("\"server.address\":\"a.wild.test\""));
    assert!(wild.unwrap().contains("\"standfast.service\":\"wild\""), "{lines:?}");
    proxy.stop();
}

#[test]
fn openssl_agrees_on_the_protocol_its_route_asks_for() {
    let (lab, bind) = (Lab::new(), free_address());
    let pair = lab.ca.issue("alpn", &["alpn.test"]);
    let servers: Vec<_> = ["h2", "postgresql"]
        .into_iter()
        .map(|alpn| {
            let address = free_address();
            let child = Command::new("openssl")
                .args(["s_server", "-quiet", "-naccept", "100", "-alpn", alpn])
                .args(["-accept", &address.to_string()])
                .arg("-cert")
                .arg(&pair.cert_file)
                .arg("-key")
                .arg(&pair.key_file)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            (address, Server(child))
        })
        .collect();
    let listener = "routes:
      - { sni: [alpn.test], alpn: [h2, h3], service: web }
      - { sni: [alpn.test], alpn: [postgresql], service: db }";
    let pools = [0, 1].map(|n| pool("hot", &servers[n].0.to_string()));
    let checks = config(bind, listener, &[("web", &pools[0]), ("db", &pools[1])])
        .replace("type: tcp, interval: 200ms, timeout: 100ms", "type: tcp, interval: 60s");
    let proxy = Proxy::start(&lab, &checks);
    let agreed = |offered: &str| {
        let out = Command::new("openssl")
            .args(["s_client", "-connect", &bind.to_string(), "-servername", "alpn.test"])
            .args(["-alpn", offered, "-brief", "-CAfile"])
            .arg(&lab.ca.ca_file)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
    };
    for server in &servers {
        until("it listens", || std::net::TcpStream::connect(server.0).ok());
    }
    let (web, db) = (agreed("h2,postgresql"), agreed("postgresql"));
    assert!(web.contains("CONNECTION ESTABLISHED"), "{web}");
    assert!(web.contains("Verification: OK") && db.contains("Verification: OK"), "{web}{db}");
    let served = |service| {
        let labels = [("service", service), ("result", "served")];
        proxy.metrics().sum("standfast_tcp_connections_total", &labels)
    };
    until("both are counted", || ((served("web"), served("db")) == (1.0, 1.0)).then_some(()));
    let none = agreed("ftp");
    assert!(none.contains("unrecognized name"), "{none}");
    let labels = [("listener", "tls"), ("reason", "no_route")];
    assert_eq!(proxy.metrics().sum("standfast_listener_connections_rejected_total", &labels), 1.0);
    proxy.stop();
}

struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn hello_in_single_bytes_and_in_many_records_is_passed_on_unchanged() {
    let (lab, bind) = (Lab::new(), free_address());
    let endpoint = Endpoint::start(|conn| {
        while let Some(bytes) = conn.some() {
            conn.send(bytes);
        }
    });
    let pool = pool("hot", &endpoint.name());
    let listener = "routes: [{ sni: [cut.test], service: app }]";
    let proxy = Proxy::start(&lab, &config(bind, listener, &[("app", &pool)]));
    proxy.wait_all_up("app");
    let whole = hello(&lab, "cut.test");
    let mut wire = Wire::open(bind);
    // Each byte is a segment of its own.
    whole.iter().for_each(|byte| wire.send([*byte]));
    assert!(wire.take(whole.len()) == whole);

    let records: Vec<u8> = whole[5..]
        .chunks(7)
        .flat_map(|piece| [&[22, 3, 1, 0, piece.len() as u8], piece].concat())
        .collect();
    let mut wire = Wire::open(bind);
    wire.send(&records);
    assert!(wire.take(records.len()) == records);
    wire.send("and what follows");
    wire.says("and what follows");
    proxy.stop();
}

#[test]
fn what_is_no_hello_is_refused_and_what_is_slow_has_its_time() {
    let (lab, bind) = (Lab::new(), free_address());
    let endpoint = Endpoint::start(|conn| drop(conn.until_closed()));
    let pool = pool("hot", &endpoint.name());
    let listener = "limits: { header_timeout: 300ms }\n    service: app";
    let proxy = Proxy::start(&lab, &config(bind, listener, &[("app", &pool)]));
    proxy.wait_all_up("app");
    let rejected = |reason| {
        let labels = [("listener", "tls"), ("reason", reason)];
        proxy.metrics().sum("standfast_listener_connections_rejected_total", &labels)
    };
    let mut plain = Wire::open(bind);
    plain.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(plain.ends(), End::Reset);
    let mut large = Wire::open(bind);
    large.send(b"\x16\x03\x01\x40\x00\x01\x00\x40\x00");
    assert_eq!(large.ends(), End::Reset);
    until("both are counted", || (rejected("tls") == 2.0).then_some(()));
    let mut slow = Wire::open(bind);
    slow.send(&hello(&lab, "slow.test")[..100]);
    assert_eq!(slow.ends(), End::Reset);
    until("it is counted", || (rejected("timeout") == 1.0).then_some(()));
    // One that leaves without a word is none of these.
    drop(Wire::open(bind));
    assert_eq!(rejected("tls") + rejected("timeout"), 3.0);
    assert_eq!(endpoint.requests().len(), 0);
    proxy.stop();
}

#[test]
fn hello_nobody_answered_goes_to_another_endpoint() {
    let (lab, bind) = (Lab::new(), free_address());
    let (standby, _) = nginx(&lab, "standby", &["app.test"]);
    let heard = Arc::new(AtomicUsize::new(0));
    let hears = Arc::clone(&heard);
    // Takes the whole message, and goes.
    let hot = Endpoint::start(move |conn| {
        if let Some(bytes) = conn.some() {
            hears.fetch_add(usize::from(bytes[0] == 22), Ordering::SeqCst);
        }
    });
    let pools = [pool("hot", &hot.name()), pool("standby", &standby.name())].join(", ");
    let proxy = Proxy::start(&lab, &config(bind, "service: app", &[("app", &pools)]));
    proxy.wait_all_up("app");
    assert_eq!(curl(&lab, bind, "app.test", &[]).as_deref(), Ok("standby"));
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    let labels = [("service", "app"), ("proof", "idempotent")];
    assert_eq!(proxy.metrics().sum("standfast_requests_rescued_total", &labels), 1.0);
    proxy.stop();
}

#[test]
fn process_that_hangs_is_left_before_its_clients_lose_patience() {
    let (lab, bind) = (Lab::new(), free_address());
    let (hot, _) = nginx(&lab, "hot", &["app.test"]);
    let (standby, _) = nginx(&lab, "standby", &["app.test"]);
    let pools = [pool("hot", &hot.name()), pool("standby", &standby.name())].join(", ");
    let proxy = Proxy::start(&lab, &config(bind, "service: app", &[("app", &pools)]));
    proxy.wait_all_up("app");
    assert_eq!(curl(&lab, bind, "app.test", &[]).as_deref(), Ok("hot"));
    // Its kernel still takes connections, and so the probes pass.
    hot.freeze();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = || scope.spawn(|| curl(&lab, bind, "app.test", &["--max-time", "20"]));
        let all: Vec<_> = (0..20).map(|_| ask()).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    hot.thaw();
    assert!(answers.iter().all(|answer| answer.as_deref() == Ok("standby")), "{answers:?}");
    assert_eq!(proxy.metrics().sum("standfast_requests_lost_total", &[("service", "app")]), 0.0);
    proxy.stop();
}

#[test]
fn hello_with_early_data_is_sent_to_one_endpoint_alone() {
    let (lab, bind) = (Lab::new(), free_address());
    let standby = Endpoint::start(|conn| {
        conn.some();
        conn.send("standby");
    });
    let hot = Endpoint::start(|conn| drop(conn.some()));
    let pools = [pool("hot", &hot.name()), pool("standby", &standby.name())].join(", ");
    let proxy = Proxy::start(&lab, &config(bind, "service: app", &[("app", &pools)]));
    proxy.wait_all_up("app");
    let mut early = hello(&lab, "app.test");
    // An extension early_data at the end of the message, and all lengths around it.
    early.extend_from_slice(&[0, 42, 0, 0]);
    let grow = |bytes: &mut [u8], at: usize| {
        let length = u16::from_be_bytes([bytes[at], bytes[at + 1]]) + 4;
        bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
    };
    grow(&mut early, 3);
    grow(&mut early, 7);
    let session = 9 + 2 + 32;
    let suites = session + 1 + usize::from(early[session]);
    let compression =
        suites + 2 + usize::from(u16::from_be_bytes([early[suites], early[suites + 1]]));
    let extensions = compression + 1 + usize::from(early[compression]);
    grow(&mut early, extensions);
    let mut wire = Wire::open(bind);
    wire.send(&early);
    assert_eq!(wire.ends(), End::Reset);
    let labels = [("service", "app"), ("reason", "not_idempotent")];
    until("it is counted", || {
        (proxy.metrics().sum("standfast_requests_lost_total", &labels) == 1.0).then_some(())
    });
    // Without it the same message is moved.
    let mut wire = Wire::open(bind);
    wire.send(hello(&lab, "app.test"));
    wire.says("standby");
    proxy.stop();
}

#[test]
fn tls_checks_pass_only_for_an_endpoint_that_shakes_hands() {
    let (lab, bind) = (Lab::new(), free_address());
    let (well, _) = nginx(&lab, "well", &["127.0.0.1"]);
    let plain = Nginx::start(&lab, "plain");
    let pools = [pool("hot", &plain.name()), pool("standby", &well.name())].join(", ");
    let config =
        config(bind, "service: app", &[("app", &pools)]).replace("type: tcp,", "type: tls, ");
    let ca = lab.ca.ca_file.display();
    let config = config.replace(
        "    pools:",
        &format!("    upstream: {{ tls: {{ ca_file: {ca} }} }}\n    pools:"),
    );
    let proxy = Proxy::start(&lab, &config.replace("timeout: 100ms", "timeout: 190ms"));
    proxy.wait_endpoint("app", &well.name(), true);
    proxy.wait_endpoint("app", &plain.name(), false);
    let mut client = Client::tls(bind, &lab.client_config(), "127.0.0.1");
    assert_eq!(client.get("/").text(), "well\n");
    proxy.stop();
}
