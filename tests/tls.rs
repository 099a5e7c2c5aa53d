//! TLS on both sides: whose certificate a client gets, and whom Standfast believes as an endpoint.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::{ClientConfig, ProtocolVersion, RootCertStore};

use support::certs::{Authority, Pair};
use support::client::Client;
use support::endpoint::Endpoint;
use support::lab::{Lab, plain_with, tls};
use support::nginx::Nginx;
use support::proxy::{Proxy, run};
use support::{free_address, until};

fn served(client: &Client) -> Vec<u8> {
    client.session().peer_certificates().unwrap()[0].to_vec()
}

/// The first certificate of a file.
fn certificate(pair: &Pair) -> Vec<u8> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_file(&pair.cert_file).unwrap().to_vec()
}

/// A client that speaks these versions alone.
fn speaking(
    lab: &Lab,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&lab.ca.ca_file).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_protocol_versions(versions);
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

#[test]
fn certificate_is_chosen_by_name_exact_before_wildcard_and_the_first_is_the_default() {
    let (lab, endpoint, bind) = (Lab::new(), Endpoint::answering("here"), free_address());
    let first = lab.ca.issue("first", &["first.test"]);
    let wild = lab.ca.issue("wild", &["*.apps.test"]);
    let exact = lab.ca.issue("exact", &["one.apps.test", "two.test"]);
    let listener =
        format!("tls: {{ certificates: [{}, {}, {}] }}", tls(&first), tls(&wild), tls(&exact));
    let proxy = Proxy::start(&lab, &plain_with(bind, &listener, "", &endpoint.url()));
    for (name, pair) in [
        ("first.test", &first),
        ("one.apps.test", &exact),
        ("ONE.apps.test", &exact),
        ("two.test", &exact),
        ("other.apps.test", &wild),
    ] {
        let client = Client::tls(bind, &lab.client_config(), name);
        assert_eq!(served(&client), certificate(pair), "for {name}");
    }
    // One label deep only, no name at all, an unknown name: openssl shows whose certificate comes.
    for arguments in
        [&["-servername", "a.b.apps.test"][..], &["-servername", "no.test"], &["-noservername"]]
    {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &bind.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("openssl is needed (tests/run installs it)");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("subject=CN = first") || text.contains("subject=CN=first"), "{text}");
    }
    proxy.stop();
}

#[test]
fn both_versions_are_spoken_and_min_version_holds() {
    let (lab, endpoint) = (Lab::new(), Endpoint::answering("here"));
    let (both, newer) = (free_address(), free_address());
    let certificate = format!(
        "cert_file: {}, key_file: {}",
        lab.app.cert_file.display(),
        lab.app.key_file.display()
    );
    let config = format!(
        "listeners:
  - {{ bind: {both}, service: app, tls: {{ {certificate} }} }}
  - {{ bind: {newer}, service: app, tls: {{ {certificate}, min_version: '1.3' }} }}
services:
  app: {{ pools: [{{ name: hot, endpoints: [{}] }}] }}
",
        endpoint.url()
    );
    let proxy = Proxy::start(&lab, &config);
    let old = speaking(&lab, &[&rustls::version::TLS12]);
    let new = speaking(&lab, &[&rustls::version::TLS13]);
    for (config, version) in [(&old, ProtocolVersion::TLSv1_2), (&new, ProtocolVersion::TLSv1_3)] {
        let mut client = Client::tls(both, config, "app.test");
        assert_eq!(client.get("/").text(), "here");
        assert_eq!(client.session().protocol_version(), Some(version));
    }
    assert_eq!(Client::tls(newer, &new, "app.test").get("/").text(), "here");
    assert!(Client::try_tls(newer, &old, "app.test").is_err(), "1.2 was accepted");
    // Of a client that offers both protocols, HTTP/2 is chosen; one that offers none speaks HTTP/1.1.
    let mut alpn = (*lab.client_config()).clone();
    alpn.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = Client::tls(both, &Arc::new(alpn), "app.test");
    assert_eq!(client.session().alpn_protocol(), Some(&b"h2"[..]));
    proxy.stop();
}

#[test]
fn broken_handshakes_harm_nobody_else_and_are_counted() {
    let (lab, endpoint, bind) = (Lab::new(), Endpoint::answering("here"), free_address());
    let listener = format!("tls: {}\n    limits: {{ header_timeout: 500ms }}", lab.tls());
    let proxy = Proxy::start(&lab, &plain_with(bind, &listener, "", &endpoint.url()));
    let mut good = Client::tls(bind, &lab.client_config(), "app.test");
    assert_eq!(good.get("/").text(), "here");
    for bytes in [&b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"[..], b"\x16\x03\x01\x00\xff", b"\0\0"]
    {
        let mut bad = Client::plain(bind);
        bad.send(bytes);
        let (_, _) = bad.rest();
    }
    // One that says nothing is not served for ever either.
    Client::plain(bind).assert_closed();
    assert_eq!(good.get("/").text(), "here");
    until("rejections are counted", || {
        let rejected = proxy.metrics().sum("standfast_listener_connections_rejected_total", &[]);
        (rejected >= 3.0).then_some(())
    });
    proxy.stop();
}

/// A service with an https endpoint that is probed over https, verified with this CA.
fn verified(bind: std::net::SocketAddr, nginx: &Nginx, upstream: &str) -> String {
    let service = format!(
        "health_check: {{ path: /healthz, interval: 200ms, timeout: 150ms }}
    upstream: {{ tls: {{ {upstream} }} }}"
    );
    plain_with(bind, "", &service, &nginx.url())
}

#[test]
fn https_endpoint_is_verified_by_ca_and_name() {
    let (lab, bind) = (Lab::new(), free_address());
    let pair = lab.ca.issue("endpoint", &["ingress.test"]);
    let nginx = Nginx::start_tls(&lab, "hot", &pair);
    let ca = lab.ca.ca_file.display().to_string();
    let config = verified(bind, &nginx, &format!("ca_file: {ca}, server_name: ingress.test"));
    let proxy = Proxy::start(&lab, &config);
    proxy.wait_endpoint("app", &nginx.name(), true);
    let mut client = Client::plain(bind);
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "hot\n");
    }
    // Names are compared: the same CA, another name.
    let config = verified(bind, &nginx, &format!("ca_file: {ca}, server_name: other.test"));
    proxy.write_config(&config);
    assert!(proxy.control(&["reload"]).status.success());
    proxy.wait_endpoint("app", &nginx.name(), false);
    until("the new settings are in force", || (client.get("/").status() == 502).then_some(()));
    proxy.stop();
}

/// Probes must fail with a reason that names what is wrong, and clients get 502 with `details`.
fn distrusted(lab: &Lab, nginx: &Nginx, upstream: &str, reasons: &[&str], details: &str) {
    let bind = free_address();
    let proxy = Proxy::start(lab, &verified(bind, nginx, upstream));
    proxy.wait_endpoint("app", &nginx.name(), false);
    let answer = Client::plain(bind).get("/");
    assert_eq!(answer.status(), 502, "{}", answer.text());
    let why = answer.field("proxy-status").unwrap_or_default();
    let expected = format!("standfast; error=tls_certificate_error; details=\"{details}\"");
    assert_eq!(why, expected);
    let log = proxy.log().to_lowercase();
    assert!(reasons.iter().any(|reason| log.contains(reason)), "none of {reasons:?} in\n{log}");
    proxy.stop();
}

#[test]
fn endpoint_of_another_ca_is_down_and_the_log_says_why() {
    let lab = Lab::new();
    let stranger = Authority::new(lab.dir(), "stranger");
    let nginx = Nginx::start_tls(&lab, "hot", &stranger.issue("endpoint", &["127.0.0.1"]));
    let upstream = format!("ca_file: {}", lab.ca.ca_file.display());
    let reasons = ["unknown issuer", "unknownissuer", "unknown ca"];
    let details = "the certificate of the endpoint has an issuer that is not trusted";
    distrusted(&lab, &nginx, &upstream, &reasons, details);
}

#[test]
fn endpoint_with_an_expired_certificate_is_down_and_the_log_says_why() {
    let lab = Lab::new();
    let nginx = Nginx::start_tls(&lab, "hot", &lab.ca.issue_expired("endpoint", &["127.0.0.1"]));
    let upstream = format!("ca_file: {}", lab.ca.ca_file.display());
    let details = "the certificate of the endpoint has expired";
    distrusted(&lab, &nginx, &upstream, &["expired"], details);
}

#[test]
fn endpoint_is_not_verified_where_the_operator_says_so() {
    let (lab, bind) = (Lab::new(), free_address());
    let stranger = Authority::new(lab.dir(), "stranger");
    let nginx = Nginx::start_tls(&lab, "hot", &stranger.issue_expired("endpoint", &["x.test"]));
    let proxy = Proxy::start(&lab, &verified(bind, &nginx, "verify: false"));
    proxy.wait_endpoint("app", &nginx.name(), true);
    assert_eq!(Client::plain(bind).get("/").text(), "hot\n");
    proxy.stop();
}

/// `check` must fail with 1 and name the place; `run` must end with 78 and bind nothing.
fn refused(lab: &Lab, pair: &Pair, parts: &[&str]) {
    let config = format!(
        "listeners: [{{ bind: {}, tls: {}, service: app }}]
services: {{ app: {{ pools: [{{ name: hot, endpoints: ['http://127.0.0.1:9'] }}] }} }}
",
        free_address(),
        tls(pair)
    );
    fs::write(lab.path("c.yaml"), config).unwrap();
    let check = run(&["check", "-c", "c.yaml"], lab.dir());
    assert_eq!(check.code, Some(1), "{check:?}");
    let shown = format!("{}{}", check.stdout, check.stderr).to_lowercase();
    for part in parts {
        assert!(shown.contains(part), "{part} is not in:\n{shown}");
    }
    let ran = run(&["run", "-c", "c.yaml"], lab.dir());
    assert_eq!(ran.code, Some(78), "{ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
}

#[test]
fn key_of_another_certificate_is_refused() {
    let lab = Lab::new();
    let other = lab.ca.issue("other", &["app.test"]);
    let pair = Pair { key_file: other.key_file, ..lab.app.clone() };
    refused(&lab, &pair, &["key", "another certificate", "other.key"]);
}

#[test]
fn key_and_certificate_that_are_none_are_refused() {
    let lab = Lab::new();
    let junk = lab.path("junk.pem");
    fs::write(&junk, "-----BEGIN PRIVATE KEY-----\nbm90IGEga2V5\n-----END PRIVATE KEY-----\n")
        .unwrap();
    refused(&lab, &Pair { key_file: junk.clone(), ..lab.app.clone() }, &["key", "junk.pem"]);
    refused(&lab, &Pair { cert_file: junk, ..lab.app.clone() }, &["cert", "junk.pem"]);
    let missing = Pair { cert_file: lab.path("missing.crt"), ..lab.app.clone() };
    refused(&lab, &missing, &["missing.crt"]);
}
