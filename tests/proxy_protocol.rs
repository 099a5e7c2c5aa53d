//! The PROXY protocol both ways, with HAProxy as the sender and as the receiver.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use standfast::listen::proxy_protocol::{self, Parsed, Told, Version};
use support::client::Client;
use support::endpoint::Endpoint;
use support::lab::Lab;
use support::passing::{End, Wire};
use support::proxy::Proxy;
use support::{free_address, until};

/// A running HAProxy, with one frontend and what is behind it.
struct Haproxy(Child);

impl Haproxy {
    fn start(lab: &Lab, bind: SocketAddr, mode: &str, accept: &str, server: &str) -> Self {
        let config = lab.path(&format!("haproxy-{}.cfg", bind.port()));
        let text = format!(
            "defaults
  mode {mode}
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend in
  bind {bind} {accept}
  {}
  default_backend out
backend out
  server one {server}
",
            if mode == "http" { "option forwardfor" } else { "" }
        );
        fs::write(&config, text).unwrap();
        let child = Command::new("haproxy")
            .args(["-db", "-q", "-f"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Self(child);
        until("HAProxy listens", || TcpStream::connect(bind).ok());
        started
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const V1: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";

fn http(bind: SocketAddr, from: &str, listener: &str, endpoint: &str) -> String {
    format!(
        "process: {{ workers: 2, lame_duck: 0s, drain_timeout: 1s }}
logging: {{ access_log: {{ output: stdout }} }}
listeners:
  - name: web
    bind: {bind}
    proxy_protocol: {{ from: [{from}] }}
    limits: {{ header_timeout: 500ms }}
    {listener}
    service: app
services:
  app:
    pools: [{{ name: hot, endpoints: [{endpoint}] }}]
"
    )
}

fn tcp(bind: SocketAddr, listener: &str, upstream: &str, endpoint: &str) -> String {
    format!(
        "process: {{ workers: 2, lame_duck: 0s, drain_timeout: 1s }}
logging: {{ access_log: {{ output: stdout }} }}
listeners: [{{ name: db, bind: {bind}, {listener}, service: app }}]
services:
  app:
    health_check: {{ type: tcp, interval: 200ms, timeout: 100ms, fast_interval: 20ms }}
    {upstream}
    pools: [{{ name: hot, endpoints: [{endpoint:?}] }}]
"
    )
}

fn rejected(proxy: &Proxy, reason: &str) -> f64 {
    let labels = [("reason", reason)];
    proxy.metrics().sum("standfast_listener_connections_rejected_total", &labels)
}

fn line(proxy: &Proxy, n: usize) -> serde_json::Value {
    let line = until("it is logged", || proxy.stdout().lines().nth(n).map(str::to_owned));
    serde_json::from_str(&line).unwrap()
}

#[test]
fn client_behind_haproxy_is_the_one_that_is_logged_and_forwarded() {
    for version in
        ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"]
    {
        let (lab, bind) = (Lab::new(), free_address());
        let endpoint = Endpoint::answering("hello");
        let proxy = Proxy::start(&lab, &http(bind, "127.0.0.0/8", "", &endpoint.url()));
        let front = free_address();
        let _haproxy = Haproxy::start(&lab, front, "tcp", "", &format!("{bind} {version}"));
        let mut client = Client::plain(front);
        let us = client.local_address();
        assert_eq!(client.get("/").text(), "hello");
        assert_eq!(endpoint.requests()[0].field("x-forwarded-for"), Some("127.0.0.1"));
        let logged = line(&proxy, 0);
        assert_eq!(logged["network.peer.port"], us.port(), "{version}");
        proxy.stop();
    }
}

#[test]
fn header_from_a_listed_peer_says_who_the_client_is_with_tls_behind_it_too() {
    let (lab, bind) = (Lab::new(), free_address());
    let endpoint = Endpoint::answering("hello");
    let proxy = Proxy::start(&lab, &http(bind, "127.0.0.1", "", &endpoint.url()));
    let mut client = Client::plain(bind);
    client.send(V1);
    assert_eq!(client.get("/").text(), "hello");
    assert_eq!(client.get("/again").text(), "hello");
    assert_eq!(endpoint.requests()[1].field("x-forwarded-for"), Some("192.0.2.7"));
    assert_eq!(line(&proxy, 0)["client.address"], "192.0.2.7");
    // One byte at a time.
    let mut slow = Wire::open(bind);
    V1.bytes().for_each(|byte| slow.send([byte]));
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(slow.rest().0.ends_with(b"hello"));
    assert_eq!(endpoint.requests()[2].field("x-forwarded-for"), Some("192.0.2.7"));
    // A proxy that speaks for itself is its own client.
    let mut local = Client::plain(bind);
    local.send(proxy_protocol::local(Version::V2));
    assert_eq!(local.get("/local").text(), "hello");
    assert_eq!(endpoint.requests()[3].field("x-forwarded-for"), Some("127.0.0.1"));
    proxy.stop();

    let tls = format!("tls: {}", lab.tls());
    let proxy = Proxy::start(&lab, &http(bind, "127.0.0.1", &tls, &endpoint.url()));
    let front = free_address();
    let _haproxy = Haproxy::start(&lab, front, "tcp", "", &format!("{bind} send-proxy-v2"));
    let mut client = Client::tls(front, &lab.client_config(), "app.test");
    let us = client.local_address();
    assert_eq!(client.get("/tls").text(), "hello");
    assert_eq!(line(&proxy, 0)["network.peer.port"], us.port());
    proxy.stop();
}

#[test]
fn header_is_required_from_listed_peers_and_refused_from_all_others() {
    let (lab, bind) = (Lab::new(), free_address());
    let endpoint = Endpoint::answering("hello");
    let proxy = Proxy::start(&lab, &http(bind, "127.0.0.1", "", &endpoint.url()));
    for wrong in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
    ] {
        let mut wire = Wire::open(bind);
        wire.send(wrong);
        assert_eq!(wire.ends(), End::Reset, "{wrong:?}");
    }
    until("all are counted", || (rejected(&proxy, "proxy_protocol") == 3.0).then_some(()));
    let mut slow = Wire::open(bind);
    slow.send("PROXY TCP4 1.2.3.4");
    assert_eq!(slow.ends(), End::Reset);
    until("it is counted", || (rejected(&proxy, "timeout") == 1.0).then_some(()));
    // One that looks whether anybody listens, and leaves.
    drop(Wire::open(bind));
    assert!(endpoint.requests().is_empty());
    proxy.stop();

    let proxy = Proxy::start(&lab, &http(bind, "10.0.0.0/8", "", &endpoint.url()));
    assert_eq!(Client::plain(bind).get("/").text(), "hello");
    let mut client = Client::plain(bind);
    client.send(V1);
    assert_eq!(client.response("GET").status(), 400);
    assert_eq!(endpoint.requests().len(), 1);
    proxy.stop();
}

#[test]
fn tcp_listener_refuses_a_header_from_who_must_not_send_one_however_it_is_cut() {
    let (lab, bind) = (Lab::new(), free_address());
    let endpoint = Endpoint::start(support::passing::echo_on);
    let listener = "mode: tcp, proxy_protocol: { from: [10.0.0.0/8] }";
    let proxy = Proxy::start(&lab, &tcp(bind, listener, "", &endpoint.name()));
    proxy.wait_all_up("app");
    let mut others = Wire::open(bind);
    others.echoes("POST");
    others.echoes("PROXY in the middle says nothing");
    let v2 = proxy_protocol::local(Version::V2);
    for header in [V1.as_bytes(), v2] {
        let mut whole = Wire::open(bind);
        whole.send(header);
        assert_eq!(whole.ends(), End::Reset);
        let mut cut = Wire::open(bind);
        // What follows the last byte that is needed may meet the reset already, and takes its error.
        let mut bytes = header.iter();
        let met = bytes.any(|byte| std::io::Write::write_all(&mut cut.0, &[*byte]).is_err());
        assert!(met || cut.ends() == End::Reset);
    }
    until("all are counted", || (rejected(&proxy, "proxy_protocol") == 4.0).then_some(()));
    assert_eq!(line(&proxy, 0)["standfast.reason"], "proxy_protocol");
    proxy.stop();
}

#[test]
fn haproxy_is_told_the_client_by_both_versions() {
    for version in ["v1", "v2"] {
        let (lab, bind, behind) = (Lab::new(), free_address(), free_address());
        let endpoint = Endpoint::answering("hello");
        let _haproxy =
            Haproxy::start(&lab, behind, "http", "accept-proxy", &endpoint.address.to_string());
        let listener = "mode: tcp, proxy_protocol: { from: [127.0.0.1] }";
        let upstream = format!("upstream: {{ proxy_protocol: {version} }}");
        let proxy = Proxy::start(&lab, &tcp(bind, listener, &upstream, &behind.to_string()));
        proxy.wait_all_up("app");
        for header in [V1, "PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n"] {
            let mut client = Client::plain(bind);
            client.send(header);
            assert_eq!(client.get("/").text(), "hello");
        }
        let clients: Vec<_> = endpoint
            .requests()
            .iter()
            .map(|request| request.field("x-forwarded-for").unwrap().to_owned())
            .collect();
        assert_eq!(clients, ["192.0.2.7", "2001:db8::7"], "{version}");
        let mut logged = [0, 1].map(|n| line(&proxy, n)["client.address"].to_string());
        logged.sort();
        assert_eq!(logged, ["\"192.0.2.7\"", "\"2001:db8::7\""]);
        proxy.stop();
    }
}

#[test]
fn what_version_2_tells_of_a_client_goes_on_with_it_and_probes_say_they_are_ours() {
    let (lab, bind) = (Lab::new(), free_address());
    let (heard, hears) = std::sync::mpsc::channel();
    let heard = std::sync::Mutex::new(heard);
    let endpoint = Endpoint::start(move |conn| {
        let mut bytes = Vec::new();
        while let Some(more) = conn.some() {
            bytes.extend_from_slice(&more);
            if let Ok(Parsed::Complete { header, length }) = proxy_protocol::parse(&bytes) {
                heard.lock().unwrap().send((header, bytes[length..].to_vec())).unwrap();
                conn.send("heard");
            }
        }
    });
    let listener = "mode: tcp, proxy_protocol: { from: [127.0.0.1] }";
    let upstream = "upstream: { proxy_protocol: v2 }";
    let proxy = Proxy::start(&lab, &tcp(bind, listener, upstream, &endpoint.name()));
    let (probe, rest) = hears.recv_timeout(support::PATIENCE).unwrap();
    assert_eq!((probe.addresses, rest.len()), (None, 0));
    proxy.wait_all_up("app");
    let told = Told {
        alpn: Some(b"h2".into()),
        authority: Some(b"app.test".into()),
        unique_id: Some(b"7f-11".into()),
    };
    let addresses: (SocketAddr, SocketAddr) =
        ("[2001:db8::7]:4711".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap());
    let mut header = Vec::new();
    proxy_protocol::write(&mut header, Version::V2, addresses, &told);
    let mut wire = Wire::open(bind);
    wire.send(&header);
    let (client, _) = loop {
        let (header, rest) = hears.recv_timeout(support::PATIENCE).unwrap();
        if header.addresses.is_some() {
            break (header, rest);
        }
    };
    assert_eq!((client.addresses, client.told), (Some(addresses), told));
    wire.says("heard");
    proxy.stop();
}

#[test]
fn name_a_client_asked_for_is_told_to_its_endpoint() {
    let (lab, bind, behind) = (Lab::new(), free_address(), free_address());
    let endpoint = Endpoint::answering("hello");
    // Ends TLS, and hands on what it was told.
    let pem = lab.path("both.pem");
    let pair = [&lab.app.cert_file, &lab.app.key_file].map(|file| fs::read(file).unwrap());
    fs::write(&pem, pair.concat()).unwrap();
    let accept = format!(
        "accept-proxy ssl crt {}\n  http-request set-header x-asked-for %[fc_pp_authority]",
        pem.display()
    );
    let target = endpoint.address.to_string();
    let _haproxy = Haproxy::start(&lab, behind, "http", &accept, &target);
    let upstream = "upstream: { proxy_protocol: v2 }";
    let listener = "mode: tls-passthrough";
    let proxy = Proxy::start(&lab, &tcp(bind, listener, upstream, &behind.to_string()));
    proxy.wait_all_up("app");
    let mut client = Client::tls(bind, &lab.client_config(), "db.app.test");
    assert_eq!(client.get("/").text(), "hello");
    assert_eq!(endpoint.requests()[0].field("x-asked-for"), Some("db.app.test"));
    proxy.stop();
}
