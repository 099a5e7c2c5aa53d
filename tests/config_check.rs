//! What `check` says about configurations, good and bad.

#[path = "support/fake_world.rs"]
mod fake_world;

use std::net::Ipv4Addr;
use std::time::Duration;

use fake_world::FakeWorld;
use proptest::prelude::*;
use standfast::config::check::{Diagnostic, Severity, check};
use standfast::config::{
    CheckKind, Config, Failback, Hold, HostPattern, ListenerMode, Output, ProxyVersion, Service,
    Sessions,
};

/// A good configuration that cases edit at one place. Line numbers in this file count from here.
const BASE: &str = r#"listeners:
  - bind: ":443"
    tls: { cert_file: a.crt, key_file: a.key }
    service: app
services:
  app:
    health_check: { path: /healthz }
    pools:
      - name: hot
        endpoints: [http://10.0.0.1:80, http://10.0.0.2:80]
      - name: standby
        endpoints: [http://10.0.1.1:80, http://10.0.1.2:80]
"#;

fn world() -> FakeWorld {
    let mut world = FakeWorld::default();
    world.env.insert("PORT".into(), "8080".into());
    world.env.insert("EMPTY".into(), String::new());
    world.env.insert("TOKEN".into(), "from-env\n".into());
    world.hosts.insert("one.internal".into(), vec![Ipv4Addr::new(10, 9, 0, 1).into()]);
    let two = [1, 2].map(|n| Ipv4Addr::new(10, 9, 0, n).into());
    world.hosts.insert("two.internal".into(), two.to_vec());
    world.file("expired.crt", "a.example.com 100 -1");
    world.file("early.crt", "a.example.com -2 100");
    world.file("soon.crt", "a.example.com 100 3");
    world.file("nameless.crt", "- 1 100");
    world.file("other.key", "other");
    world.file("empty", "\n");
    world.file("spaced", "two words");
    world
}

fn edited(from: &str, to: &str) -> String {
    assert_eq!(BASE.matches(from).count(), 1, "{from}");
    BASE.replace(from, to)
}

fn found(text: &str) -> Vec<Diagnostic> {
    check(text, &world()).map_or_else(|found| found, |(_, warnings)| warnings)
}

fn good(from: &str, to: &str) -> Config {
    match check(&edited(from, to), &world()) {
        Ok((config, warnings)) => {
            assert_eq!(warnings, [], "{to}");
            config
        }
        Err(found) => panic!("{to}: {found:#?}"),
    }
}

/// One edit of [`BASE`] and all that must be found, each as `LINE SEVERITY FRAGMENT`.
type Case = (&'static str, &'static str, &'static [&'static str]);

fn run(cases: &[Case]) {
    for (from, to, expected) in cases {
        let found = found(&edited(from, to));
        let said: Vec<_> = found
            .iter()
            .map(|found| {
                let severity = match found.severity {
                    Severity::Error => "error",
                    Severity::Warning => "warning",
                };
                format!("{} {severity} {}", found.line, found.message)
            })
            .collect();
        assert_eq!(said.len(), expected.len(), "{to}: {said:#?}");
        for (said, expected) in said.iter().zip(*expected) {
            let mut parts = expected.splitn(3, ' ');
            let place = format!("{} {} ", parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            let fragment = parts.next().unwrap_or("no fragment");
            assert!(said.starts_with(&place) && said.contains(fragment), "{to}: {said}");
        }
        assert!(found.iter().all(|found| !found.remedy.is_empty()), "{to}: no remedy");
    }
}

#[test]
fn the_base_of_these_cases_is_clean() {
    assert_eq!(found(BASE), []);
}

#[test]
fn keys_are_known_or_refused() {
    #[rustfmt::skip] // one case, one line
    const CASES: &[Case] = &[
        ("services:\n", "servces:\n", &["5 error unknown key `servces`"]),
        ("    service: app", "    servise: app", &["4 error unknown key `servise`", "6 warning no route leads to the service `app`"]),
        ("    service: app", "    service: app\n    zzz: 1", &["5 error unknown key `zzz`"]),
        ("path: /healthz", "path: /healthz, intervall: 1s", &["7 error unknown key `intervall`"]),
        ("services:\n", "tracing: {}\nservices:\n", &["5 error `tracing` of the configuration is not available yet"]),
        ("    service: app", "    service: app\n    proxy_protocol: {}", &["5 error `from` is missing"]),
        ("    service: app", "    service: app\n    proxy_protocol: { from: [] }", &["5 error this list is empty"]),
        ("    service: app", "    service: app\n    proxy_protocol: { from: [a] }", &["5 error `a` is not a network"]),
        ("    service: app", "    service: app\n    mode: tls", &["5 error expected `http`, `tcp` or `tls-passthrough`"]),
        ("    pools:", "    upstream: { proxy_protocol: v3 }\n    pools:", &["8 error expected `v1` or `v2`"]),
        ("    service: app", "    service: app\n    protocols: [http1, http2]", &[]),
        ("    service: app", "    service: app\n    protocols: [http2]", &[]),
        ("    service: app", "    service: app\n    protocols: []", &["5 error this list is empty"]),
        ("    service: app", "    service: app\n    protocols: [http1, http3]", &["5 error `http3` is not available yet"]),
        ("    service: app", "    service: app\n    limits: { max_concurrent_streams: 0 }", &["5 error 0 is too small"]),
        ("    service: app", "    service: app\n    mode: udp", &["5 error `udp` is not available yet"]),
        ("key_file: a.key }", "key_file: a.key, client_auth: {} }", &["3 error not available yet"]),
        ("    pools:", "    balance: hash\n    pools:", &["8 error `hash` is not available yet"]),
        ("    pools:", "    sticky: { cookie: x }\n    pools:", &["8 error `sticky` of a service is not available yet"]),
        ("    pools:", "    upstream: { protocol: http2 }\n    pools:", &["8 error `http2` is not available yet"]),
        ("{ path: /healthz }", "{ type: grpc }", &["7 error `grpc` is not available yet"]),
        ("{ path: /healthz }", "[{ path: /a }, { path: /b }]", &["7 error not available yet"]),
        ("{ path: /healthz }", "[{ path: /a }]", &[]),
        ("{ path: /healthz }", "{ tls: { ca_file: ca.crt } }", &["7 error not available yet"]),
        ("listeners:", "version: 1\nlisteners:", &[]),
        ("listeners:", "version: 2\nlisteners:", &["1 error expected `1`, found `2`"]),
    ];
    run(CASES);
}

/// Everything the schema will have one day; what is not there yet is refused by name.
const ONE_DAY: &str = r#"
version: 1
admin: { listen: 127.0.0.1:9090, socket: /run/standfast/admin.sock, token: { file: token } }
process: { workers: auto, lame_duck: 5s, drain_timeout: 30s, state_file: /var/lib/standfast/state.json }
logging: { level: info, format: json, access_log: { output: stdout, sample: 100% } }
tracing: { otlp: { endpoint: "http://127.0.0.1:4317", sample: 1% } }
listeners:
  - { name: http, bind: "[::]:80", redirect: https }
  - name: https
    bind: "[::]:443"
    protocols: [http1, http2]
    proxy_protocol: { from: [10.0.0.0/8] }
    trusted_proxies: [10.0.0.0/8]
    tls:
      min_version: "1.2"
      certificates: [{ cert_file: a.crt, key_file: a.key }]
      client_auth: { mode: required, ca_file: ca.crt }
    limits: { max_connections: 50000, header_timeout: 10s, idle_timeout: 60s, body_timeout: 30s,
              max_header_size: 64KiB, max_headers: 128, max_uri: 16KiB, max_body_size: 1GiB }
    routes:
      - { hosts: [a.example.com], path_prefix: /api, service: app }
      - { hosts: [a.example.com, "*.b.example.com"], service: app }
  - { name: kube-api, mode: tcp, bind: "[::]:6443", service: apiserver }
  - name: by-sni
    mode: tls-passthrough
    bind: "[::]:8443"
    routes: [{ sni: [db.example.com], service: apiserver }]
  - { name: dns, mode: udp, bind: "[::]:5353", service: apiserver }
services:
  app:
    balance: hash
    hash_on: client_address
    sticky: { cookie: standfast, ttl: 1h }
    failover:
      min_healthy: 50%
      failback: { mode: auto, stable_for: 5m, ramp: 60s }
      when_none: try_all
      hold: { time: 2s, requests: 1000 }
      sessions: { close_after: 30s, spread: 10s }
    health_check:
      type: http
      path: /healthz
      host: app.example.com
      interval: 1s
      timeout: 800ms
      fast_interval: 100ms
      unhealthy_threshold: 3
      healthy_threshold: 2
      expect: { status: 200-299, body_contains: ok, header: { x-cluster-id: hot } }
    outlier_detection: { consecutive_errors: 5 }
    retries: { attempts: 2, budget: 20% }
    timeouts: { connect: 1s, response_header: 30s, idle: 60s, total: 5m }
    upstream: { protocol: auto, tls: { server_name: app.example.com, ca_file: ca.crt, verify: true },
                max_connections: 1024, max_requests: 1024, warm: 2 }
    pools:
      - name: hot
        endpoints: [https://10.0.1.10, { url: https://10.0.1.11, weight: 2 }]
      - name: standby
        endpoints: [https://10.0.2.10]
  apiserver:
    health_check: { type: https, path: /readyz, tls: { ca_file: ca.crt } }
    pools: [{ name: control-plane, endpoints: ["10.0.3.1:6443", "10.0.3.2:6443"] }]
"#;

#[test]
fn the_rest_of_the_schema_is_refused_by_name_and_nothing_else_is() {
    let found = found(ONE_DAY);
    assert!(
        found.iter().all(|found| found.message.ends_with("is not available yet")),
        "{found:#?}"
    );
    let named = |word: &str| found.iter().any(|found| found.message.contains(word));
    for word in
        ["tracing", "client_auth", "udp", "hash", "hash_on", "sticky", "`tls` of a health check"]
    {
        assert!(named(&format!("`{}`", word.trim_matches('`'))) || named(word), "{word}");
    }
    assert_eq!(found.len(), 7);
}

/// Two listeners that pass bytes on to the same endpoints.
const PASSING: &str = r#"listeners:
  - { name: db, mode: tcp, bind: ":5432", service: db }
  - name: by-name
    mode: tls-passthrough
    bind: ":443"
    routes:
      - { sni: [db.example.com, "*.db.example.com"], alpn: [postgresql], service: db }
      - { service: db }
services:
  db:
    health_check: { type: tcp }
    upstream: { proxy_protocol: v2 }
    pools:
      - { name: hot, endpoints: ["10.0.1.10:5432"] }
      - { name: standby, endpoints: ["10.0.2.10:5432"] }
"#;

#[test]
fn listeners_that_pass_bytes_on_are_read() {
    let (config, warnings) = check(PASSING, &FakeWorld::default()).unwrap();
    assert_eq!(warnings, []);
    let [db, by_name] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert_eq!((db.mode, by_name.mode), (ListenerMode::Tcp, ListenerMode::TlsPassthrough));
    let wildcard = HostPattern::Wildcard("db.example.com".into());
    let exact = HostPattern::Exact("db.example.com".into());
    assert_eq!(by_name.routes[0].hosts, [exact, wildcard]);
    assert_eq!(by_name.routes[0].alpn, ["postgresql"]);
    assert_eq!((by_name.routes[1].hosts.len(), by_name.routes[1].service), (0, 0));
    let pools = &config.services[0].pools;
    assert!(pools.iter().all(|pool| pool.upstream.proxy_protocol == Some(ProxyVersion::V2)));
    assert_eq!(config.services[0].timeouts.silence, None);
}

#[test]
fn what_has_no_meaning_for_bytes_is_refused() {
    #[rustfmt::skip] // one case, one line
    const CASES: &[Case] = &[
        ("mode: tcp,", "mode: tcp, tls: { cert_file: a.crt, key_file: a.key },", &["2 error `tls` has no meaning with `mode: tcp`"]),
        ("mode: tcp,", "mode: tcp, trusted_proxies: [10.0.0.0/8],", &["2 error `trusted_proxies` has no meaning"]),
        ("service: db }", "routes: [{ service: db }] }", &["2 error `routes` has no meaning with `mode: tcp`"]),
        ("mode: tcp,", "mode: tcp, limits: { max_uri: 1KiB },", &["2 warning `max_uri` has no effect"]),
        ("mode: tcp,", "mode: tcp, limits: { max_connections: 5 },", &[]),
        ("alpn: [postgresql]", "hosts: [a.test]", &["7 error `hosts` has no meaning with `mode: tls-passthrough`"]),
        ("sni: [db.example.com,", "sni: [10.0.0.1,", &["7 error `10.0.0.1` is an address"]),
        ("alpn: [postgresql]", "alpn: ['']", &["7 error this value is empty"]),
        ("      - { service: db }", "      - { sni: [db.example.com], alpn: [x, postgresql], service: db }\n      - { service: db }", &["8 error `db.example.com` with `postgresql` is routed on line 7 already"]),
        ("      - { service: db }", "      - { service: db }\n      - { service: db }", &["9 error every client is routed on line 8 already"]),
        ("mode: tls-passthrough", "tls: { cert_file: a.crt, key_file: a.key }", &["7 error `sni` has a meaning", "7 error `alpn` has a meaning", "8 error this route can never be reached", "10 error `upstream.proxy_protocol` is not available for HTTP"]),
        ("{ type: tcp }", "{ interval: 1s }", &["11 error this check has no `type`"]),
        ("{ type: tcp }", "{ type: tls, path: / }", &["11 error `path` has no meaning in a check of type `tls`"]),
        ("\"10.0.1.10:5432\"", "\"https://10.0.1.10\"", &["10 error its endpoints are https"]),
        ("proxy_protocol: v2", "warm: 2", &["10 warning `warm` has no effect"]),
    ];
    for (from, to, expected) in CASES {
        assert!(PASSING.contains(from), "{from}");
        let found = found(&PASSING.replacen(from, to, 1));
        let said: Vec<_> = found
            .iter()
            .map(|found| {
                let severity = if found.severity == Severity::Error { "error" } else { "warning" };
                format!("{} {severity} {}", found.line, found.message)
            })
            .collect();
        assert_eq!(said.len(), expected.len(), "{to}: {said:#?}");
        for (said, expected) in said.iter().zip(*expected) {
            let mut parts = expected.splitn(3, ' ');
            let place = [parts.next().unwrap(), parts.next().unwrap(), ""].join(" ");
            assert!(
                said.starts_with(&place) && said.contains(parts.next().unwrap()),
                "{to}: {said}"
            );
        }
    }
}

#[test]
fn a_mistyped_key_is_not_reported_as_missing_too() {
    #[rustfmt::skip] // one case, one line
    const CASES: &[Case] = &[
        ("    pools:", "    pols:", &["8 error unknown key `pols`"]),
        ("    health_check:", "    helth_check:", &["7 error unknown key `helth_check`"]),
        ("  - bind:", "  - bnd:", &["2 error unknown key `bnd`"]),
    ];
    run(CASES);
}

#[test]
fn a_mistyped_key_is_answered_with_the_one_that_was_meant() {
    let found = found(&edited("path: /healthz", "intervall: 1s"));
    assert_eq!(found[0].remedy, "did you mean `interval`?");
    assert_eq!(found[0].path, "services.app.health_check.intervall");
    assert_eq!((found[0].line, found[0].column), (7, 21));
    assert_eq!(found[0].snippet, "    health_check: { intervall: 1s }");
}

#[test]
fn duplicate_keys_are_refused_and_the_rest_is_still_checked() {
    #[rustfmt::skip] // one case, one line
    const CASES: &[Case] = &[
        ("    service: app", "    service: app\n    service: app", &["5 error `service` is written twice"]),
        ("      - name: standby\n", "      - name: standby\n        name: green\n        name: blue\n        bogus: 1\n", &["12 error `name` is written twice", "13 error `name` is written twice", "14 error unknown key `bogus`"]),
        ("  app:\n", "  app: {}\n  app:\n", &["6 error `pools` is missing", "7 error `app` is written twice"]),
        ("listeners:", "1: a\n1: b\nlisteners:", &["2 error `1` is written twice", "2 error unknown key `1`"]),
    ];
    run(CASES);
}

#[test]
fn units_are_needed_and_absurd_values_refused() {
    #[rustfmt::skip] // one case, one line
    const CASES: &[Case] = &[
        ("path: /healthz", "interval: 1", &["7 error expected a duration with a unit, e.g. `10s`, found `1`"]),
        ("path: /healthz", "interval: 0s", &["7 error 0s is too small"]),
        ("path: /healthz", "interval: 25h", &["7 error 25h is too large"]),
        ("path: /healthz", "interval: [1s]", &["7 error expected a single value, found a list"]),
        ("path: /healthz", "interval: ''", &["7 error this value is empty"]),
        ("path: /healthz", "interval:", &["7 error `interval` has no value"]),
        ("    service: app", "    service: app\n    limits: { max_body_size: 1000 }", &["5 error expected a size with a unit"]),
        ("    service: app", "    service: app\n    limits: { max_headers: 1.5 }", &["5 error expected a whole number"]),
        ("    service: app", "    service: app\n    limits: { max_uri: 32KiB, max_header_size: 16KiB }", &["5 error `max_uri` is larger"]),
        ("    pools:", "    retries: { budget: 20 }\n    pools:", &["8 error expected a percentage"]),
        ("    pools:", "    retries: { attempts: -1 }\n    pools:", &["8 error expected a whole number"]),
        ("    pools:", "    upstream: { tls: { verify: yes } }\n    pools:", &["8 warning `tls` has no effect", "8 error expected `true` or `false`, found `yes`"]),
        ("    pools:", "    timeouts: 5s\n    pools:", &["8 error expected a mapping"]),
        ("key_file: a.key }", "key_file: a.key, min_version: 1.1 }", &["3 error expected `1.2` or `1.3`, found `1.1`"]),
    ];
    run(CASES);
}

#[test]
fn listeners_do_exactly_one_thing_on_an_address_of_their_own() {
    #[rustfmt::skip] // one case, one line
    const CASES: &[Case] = &[
        ("\":443\"", "443", &["2 error `443` is not an address with a port"]),
        ("\":443\"", "localhost:443", &["2 error is not an address with a port"]),
        ("\":443\"", "10.0.0.1", &["2 error is not an address with a port"]),
        ("    service: app", "    redirect: https\n    service: app", &["3 error cannot redirect to https", "4 error `redirect` and `service` exclude each other"]),
        ("    service: app", "    routes: []", &["4 error this list is empty", "6 warning no route leads"]),
        ("services:\n", "  - { bind: \"0.0.0.0:443\", service: app }\nservices:\n", &["5 warning no `tls`", "5 error `0.0.0.0:443` clashes with `[::]:443` on line 2"]),
        ("services:\n", "  - { bind: \"[::1]:443\", service: app }\nservices:\n", &["5 warning no `tls`", "5 error clashes with"]),
        ("\":443\"", "10.0.0.1:443", &[]),
        ("services:\n", "  - { bind: \"10.0.0.1:444\", service: app }\n  - { bind: \"10.0.0.2:444\", service: app }\nservices:\n", &[]),
        ("services:\n", "  - { bind: \"10.0.0.1:444\", service: app }\n  - { bind: \"10.0.0.1:444\", service: app }\nservices:\n", &["6 error two listeners are named", "6 error clashes with"]),
        ("services:\n", "  - { name: a, bind: \"127.0.0.1:0\", service: app }\n  - { name: b, bind: \"127.0.0.1:0\", service: app }\nservices:\n", &[]),
        ("services:\n", "  - { name: a, bind: \":1\", service: app }\n  - { name: a, bind: \":2\", service: app }\nservices:\n", &["6 error two listeners are named `a` (the first on line 5)"]),
        ("    tls: { cert_file: a.crt, key_file: a.key }\n", "", &["2 warning clients speak TLS on port 443"]),
        ("\":443\"", "\":9090\"", &["2 warning where the admin server would listen"]),
        ("listeners:", "admin: { listen: 127.0.0.1:443 }\nlisteners:", &["1 error `127.0.0.1:443` clashes with `[::]:443` on line 3"]),
        ("    tls: { cert_file: a.crt, key_file: a.key }\n    service: app", "    redirect: https\n  - { bind: \":81\", service: app }", &["2 warning no listener has `tls`"]),
        ("    service: app", "    service: app\n    trusted_proxies: [10.0.0.0/8, fd00::1, 10.0.0.0/33]", &["5 error `10.0.0.0/33` is not a network"]),
        ("    service: app", "    service: app\n    name: a b", &["5 error `a b` is not a usable name"]),
    ];
    run(CASES);
}

#[test]
fn routes_can_be_reached_and_lead_somewhere() {
    #[rustfmt::skip] // one case, one line
    const CASES: &[Case] = &[
        ("    service: app", "    service: ap", &["4 error there is no service `ap`"]),
        ("    service: app", "    routes: [{ service: app }, { service: app }]", &["4 error can never be reached"]),
        ("    service: app", "    routes:\n      - { hosts: [A.Example.COM], path_prefix: /x/, service: app }\n      - { hosts: [a.example.com], path_prefix: /x, service: app }", &["6 error can never be reached: `a.example.com` with the prefix `/x` is routed on line 5"]),
        ("    service: app", "    routes:\n      - { hosts: [a.example.com], service: app }\n      - { hosts: [a.example.com], path_prefix: /x, service: app }\n      - { service: app }", &[]),
        ("    service: app", "    routes: [{ hosts: [c.example.com], service: app }]", &["4 warning no certificate of this listener carries this host"]),
        ("    service: app", "    routes: [{ hosts: [x.b.example.com, \"*.b.example.com\", 10.0.0.1], service: app }]", &[]),
        ("    service: app", "    routes: [{ hosts: [b.example.com, x.y.b.example.com], service: app }]", &["4 warning no certificate", "4 warning no certificate"]),
        ("    service: app", "    routes: [{ hosts: [\"*\"], service: app }]", &["4 error `*` is not a host"]),
        ("    service: app", "    routes: [{ hosts: [\"a.*.com\"], service: app }]", &["4 error has a `*` in a place"]),
        ("    service: app", "    routes: [{ hosts: [\"a.com:443\"], service: app }]", &["4 error carries a port"]),
        ("    service: app", "    routes: [{ hosts: [bücher.example], service: app }]", &["4 error is not ASCII"]),
        ("    service: app", "    routes: [{ hosts: [\"-a.com\"], service: app }]", &["4 error is not a host name"]),
        ("    service: app", "    routes: [{ hosts: [10.0.0.256], service: app }]", &["4 error is not an IPv4 address"]),
        ("    service: app", "    routes: [{ path_prefix: api, service: app }]", &["4 error does not begin with `/`"]),
        ("    service: app", "    routes: [{ path_prefix: /a/../b, service: app }]", &["4 error has a dot segment"]),
        ("    service: app", "    routes: [{ path_prefix: /a/%2E%2e/b, service: app }]", &["4 error has a dot segment"]),
        ("    service: app", "    routes: [{ path_prefix: /a//b, service: app }]", &["4 error has an empty segment"]),
        ("    service: app", "    routes: [{ path_prefix: \"/a?b\", service: app }]", &["4 error is more than a path"]),
        ("    service: app", "    routes: [{ path_prefix: /a%2fb, service: app }]", &["4 error has an escape"]),
        ("    service: app", "    routes: [{ path_prefix: \"/a b\", service: app }]", &["4 error has a character"]),
        ("services:\n", "services:\n  idle: { pools: [{ name: a, endpoints: [\"10.0.0.1:1\"] }] }\n", &["6 warning no route leads to the service `idle`"]),
    ];
    run(CASES);
}

#[test]
fn certificates_are_read_matched_and_dated() {
    #[rustfmt::skip] // one case, one line
    const CASES: &[Case] = &[
        ("a.crt", "none.crt", &["3 error cannot read `none.crt`: no such file"]),
        ("a.crt", "empty", &["3 error no certificate in this file"]),
        ("a.key", "other.key", &["3 error the key does not match the certificate"]),
        ("a.crt", "expired.crt", &["3 warning this certificate expired on 2027-01-14"]),
        ("a.crt", "early.crt", &["3 warning not valid before 2027-01-17"]),
        ("a.crt", "soon.crt", &["3 warning this certificate expires on 2027-01-18"]),
        ("a.crt", "nameless.crt", &["3 warning carries no DNS name"]),
        (", key_file: a.key", "", &["3 error `key_file` is missing"]),
        ("key_file: a.key }", "key_file: a.key, certificates: [] }", &["3 error exclude each other"]),
        ("{ cert_file: a.crt, key_file: a.key }", "{}", &["3 error `cert_file` is missing", "3 error `key_file` is missing"]),
        ("    pools:", "    upstream: { tls: { ca_file: a.key } }\n    pools:", &["8 warning `tls` has no effect", "8 error no CA certificate in this file"]),
    ];
    run(CASES);
}

#[test]
fn services_have_pools_that_can_be_told_apart_and_watched() {
    #[rustfmt::skip] // one case, one line
    const CASES: &[Case] = &[
        ("    health_check: { path: /healthz }\n", "", &["7 error `health_check` is missing"]),
        ("    health_check: { path: /healthz }\n    pools:\n      - name: hot\n", "    pools:\n      - name: hot\n        health_check: { path: /healthz }\n", &["11 error `health_check` is missing"]),
        ("name: standby", "name: hot", &["11 error two pools are named `hot` (the first on line 9)"]),
        ("http://10.0.0.2:80", "http://10.0.0.1", &["10 error `10.0.0.1:80` is an endpoint of this pool already"]),
        ("http://10.0.1.1:80", "10.0.0.1:80", &["12 warning is an endpoint of the pool `hot` too (line 10)"]),
        ("    pools:", "    failover: { min_healthy: 3 }\n    pools:", &["8 error 3 endpoints must be up, but the pool `hot` has only 2", "8 error but the pool `standby` has only 2"]),
        ("    pools:", "    failover: { min_healthy: 0 }\n    pools:", &["8 error a pool without a healthy endpoint"]),
        ("    pools:", "    failover: { min_healthy: 0% }\n    pools:", &["8 error a pool without a healthy endpoint"]),
        ("    pools:", "    failover: { min_healthy: half }\n    pools:", &["8 error neither a number of endpoints nor a share"]),
        ("    pools:", "    failover: { failback: { mode: manual, stable_for: 5m } }\n    pools:", &["8 warning has no effect"]),
        ("  app:\n", "  a/b:\n", &["4 error there is no service `app`", "6 error `a/b` is not a usable name", "6 warning no route leads"]),
        ("http://10.0.0.1:80", "http://10.0.0.1:80/x", &["10 error has more than scheme, host and port"]),
        ("http://10.0.0.1:80", "http://u:p@10.0.0.1:80", &["10 error cannot carry a user"]),
        ("http://10.0.0.1:80", "ftp://10.0.0.1:80", &["10 error unknown scheme `ftp`"]),
        ("http://10.0.0.1:80", "10.0.0.1", &["10 error has neither scheme nor port"]),
        ("http://10.0.0.1:80", "10.0.0.1:0", &["10 error cannot be connected to"]),
        ("http://10.0.0.1:80", "http://0.0.0.0", &["10 error cannot be connected to"]),
        ("http://10.0.0.1:80", "10.0.0.1:65536", &["10 error `65536` is not a port"]),
        ("http://10.0.0.1:80", "\"http://fd00::1\"", &["10 error lacks brackets"]),
        ("http://10.0.0.1:80", "none.internal:80", &["10 error `none.internal` cannot be resolved: name not known"]),
        ("http://10.0.0.1:80", "two.internal:80", &["10 warning has 2 addresses; 10.9.0.1 is used"]),
        ("http://10.0.0.1:80", "{ url: http://10.0.0.1, weight: 0 }", &["10 error 0 is too small"]),
        ("http://10.0.0.1:80", "{ weight: 2 }", &["10 error `url` is missing"]),
        ("[http://10.0.0.1:80, http://10.0.0.2:80]", "http://10.0.0.1:80", &["10 error expected a list, found `http://10.0.0.1:80`"]),
    ];
    run(CASES);
}

#[test]
fn a_failover_is_set_within_bounds() {
    #[rustfmt::skip] // one case, one line
    const CASES: &[Case] = &[
        ("    pools:", "    failover: { hold: { time: 61s } }\n    pools:", &["8 error 61s is too large"]),
        ("    pools:", "    failover: { hold: { time: 2 } }\n    pools:", &["8 error expected a duration with a unit"]),
        ("    pools:", "    failover: { hold: { requests: 0 } }\n    pools:", &["8 error 0 is too small"]),
        ("    pools:", "    failover: { hold: { requests: 100001 } }\n    pools:", &["8 error 100001 is too large"]),
        ("    pools:", "    failover: { hold: { time: 0s, requests: 7 } }\n    pools:", &["8 warning `requests` has no effect with `time: 0s`"]),
        ("    pools:", "    failover: { hold: false }\n    pools:", &["8 error expected a mapping (`hold`), found `false`"]),
        ("    pools:", "    failover: { hold: { tme: 2s } }\n    pools:", &["8 error unknown key `tme` in `hold`"]),
        ("    pools:", "    failover: { sessions: { close_after: 25h } }\n    pools:", &["8 error 25h is too large"]),
        ("    pools:", "    failover: { sessions: { spread: -1s } }\n    pools:", &["8 error expected a duration"]),
        ("    pools:", "    failover: { sessions: { close: 1s } }\n    pools:", &["8 error unknown key `close` in `sessions`"]),
        ("    pools:", "    failover: { failback: { ramp: 25h } }\n    pools:", &["8 error 25h is too large"]),
        ("    pools:", "    failover: { failback: { ramp: 60 } }\n    pools:", &["8 error expected a duration"]),
        ("    pools:", "    failover:\n      failback:\n        stable_for: 10s\n        ramp: 11s\n    pools:", &["11 warning `ramp` 11s is longer than `stable_for` 10s"]),
        ("    pools:", "    failover:\n      failback:\n        mode: manual\n        ramp: 1m\n    pools:", &["11 warning `ramp` has no effect with `mode: manual`"]),
        ("    pools:", "    outlier_detection: { consecutive_errors: 0 }\n    pools:", &["8 error 0 is too small"]),
        ("    pools:", "    outlier_detection: { consecutive_errors: 1001 }\n    pools:", &["8 error 1001 is too large"]),
        ("    pools:", "    outlier_detection: { consecutive_5xx: 5 }\n    pools:", &["8 error unknown key `consecutive_5xx`"]),
        ("    pools:", "    outlier_detection: 5\n    pools:", &["8 error expected a mapping or `false`, found `5`"]),
        ("    pools:", "    outlier_detection: [5]\n    pools:", &["8 error expected a single value, found a list"]),
        ("    pools:", "    upstream: { warm: 65 }\n    pools:", &["8 error 65 is too large"]),
        ("    pools:", "    upstream: { warm: auto }\n    pools:", &["8 error expected a whole number"]),
        ("    pools:", "    upstream: { warm: 9, max_requests: 8 }\n    pools:", &["8 warning `warm` keeps 9 connections where 8 may be in use"]),
    ];
    run(CASES);
}

#[test]
fn a_failover_is_set_as_it_is_written() {
    let with = |text: &str| {
        let to = format!("    {text}\n    pools:");
        Service::clone(&good("    pools:", &to).services[0])
    };
    let secs = Duration::from_secs;
    for (written, time, requests) in [
        ("{ time: 60s, requests: 100000 }", secs(60), 100_000),
        ("{ time: 0s }", Duration::ZERO, 1000),
        ("{ requests: 1 }", secs(2), 1),
        ("{}", secs(2), 1000),
    ] {
        let service = with(&format!("failover: {{ hold: {written} }}"));
        assert_eq!(service.failover.hold, Hold { time, requests }, "{written}");
    }
    for (written, close_after, spread) in [
        ("{ close_after: 0s, spread: 0s }", 0, 0),
        ("{ close_after: 24h }", 86_400, 10),
        ("{ spread: 1m }", 30, 60),
    ] {
        let service = with(&format!("failover: {{ sessions: {written} }}"));
        let (close_after, spread) = (secs(close_after), secs(spread));
        assert_eq!(service.failover.sessions, Sessions { close_after, spread }, "{written}");
    }
    // The ramp follows `stable_for` up to a minute, unless it is written.
    for (written, stable_for, ramp) in [
        ("{ ramp: 0s }", secs(300), Duration::ZERO),
        ("{ ramp: 5m }", secs(300), secs(300)),
        ("{ stable_for: 10s }", secs(10), secs(2)),
        ("{ stable_for: 24h, ramp: 24h }", secs(86_400), secs(86_400)),
        ("{ stable_for: 24h }", secs(86_400), secs(60)),
        ("{ stable_for: 0s }", Duration::ZERO, Duration::ZERO),
    ] {
        let service = with(&format!("failover: {{ failback: {written} }}"));
        assert_eq!(service.failover.failback, Failback::Auto { stable_for, ramp }, "{written}");
    }
    for (written, errors) in [
        ("{ consecutive_errors: 1 }", Some(1)),
        ("{ consecutive_errors: 1000 }", Some(1000)),
        ("{}", Some(5)),
        ("true", Some(5)),
        ("false", None),
    ] {
        let service = with(&format!("outlier_detection: {written}"));
        assert_eq!(service.outlier_errors, errors, "{written}");
    }
    for warm in [0, 2, 64] {
        let service = with(&format!("upstream: {{ warm: {warm} }}"));
        assert!(service.pools.iter().all(|pool| pool.upstream.warm == warm), "{warm}");
    }
}

#[test]
fn a_pool_keeps_more_connections_ready_than_its_service() {
    let text = edited("    pools:", "    upstream: { warm: 1 }\n    pools:").replace(
        "      - name: standby\n",
        "      - name: standby\n        upstream: { warm: 4 }\n",
    );
    let (config, warnings) = check(&text, &world()).unwrap();
    assert_eq!(warnings, []);
    let warm: Vec<_> = config.services[0].pools.iter().map(|pool| pool.upstream.warm).collect();
    assert_eq!(warm, [1, 4]);
}

#[test]
fn a_route_opts_in_to_idempotency_keys_for_itself() {
    let routes = "    routes:\n      - { path_prefix: /a, service: app, idempotency_key: true }\n      - { path_prefix: /b, service: app, idempotency_key: false }\n      - { service: app }";
    let config = good("    service: app", routes);
    let opted: Vec<_> =
        config.listeners[0].routes.iter().map(|route| route.idempotency_key).collect();
    assert_eq!(opted, [true, false, false]);
    #[rustfmt::skip] // one case, one line
    const CASES: &[Case] = &[
        ("    service: app", "    routes: [{ service: app, idempotency_key: yes }]", &["4 error expected `true` or `false`, found `yes`"]),
        ("    service: app", "    routes: [{ service: app, idempotency_keys: true }]", &["4 error unknown key `idempotency_keys`"]),
        ("    service: app", "    routes: [{ service: ap, idempotency_key: 1 }]", &["4 error there is no service `ap`", "4 error found `1`"]),
        ("    service: app", "    service: app\n    idempotency_key: true", &["5 error unknown key `idempotency_key` in a listener"]),
        ("    service: app\nservices:\n  app:", "    routes: [{ service: app, idempotency_key: true }]\nservices:\n  app:\n    retries: { attempts: 0 }", &["4 warning `idempotency_key` has no effect: `retries.attempts` of `app` is 0"]),
        ("    service: app\nservices:\n  app:", "    routes: [{ service: app, idempotency_key: false }]\nservices:\n  app:\n    retries: { attempts: 0 }", &[]),
    ];
    run(CASES);
}

/// Each key that names a file the process writes, around the path.
const WRITTEN: [(&str, &str); 4] = [
    ("process: { state_file: ", " }"),
    ("process: { history_file: ", " }"),
    ("admin: { socket: ", " }"),
    ("logging: { access_log: { output: ", " } }"),
];

#[test]
fn files_to_be_written_lie_in_folders_that_let_them() {
    for (before, after) in WRITTEN {
        let with = |path: &str| edited("listeners:", &format!("{before}{path}{after}\nlisteners:"));
        let mut world = world();
        world.sealed.insert("/var/log".into());
        world.file("/var/lib/standfast/there", "");
        let said = |path: &str| {
            let found = check(&with(path), &world).map_or_else(|found| found, |(_, found)| found);
            assert!(found.len() <= 1 && found.iter().all(|found| found.line == 1), "{found:?}");
            let said = found.first();
            said.map(|found| (found.severity, format!("{}; {}", found.message, found.remedy)))
        };
        for path in ["/var/lib/standfast/new", "/var/lib/standfast/there", "./here", "/tmp/x"] {
            assert_eq!(said(path), None, "{before}{path}");
        }
        for (path, expected) in [
            ("/none/x", "the folder `/none` cannot be used: no such file; make it"),
            ("/var/log/x", "no file can be made in the folder `/var/log`; let the user"),
            ("/tmp", "`/tmp` is a folder, and a file is due; add the name"),
            ("/tmp/", "`/tmp/` is a folder, and a file is due; add the name"),
            ("/var/lib/standfast/there/x", "`/var/lib/standfast/there` is not a folder; correct"),
        ] {
            let (severity, text) = said(path).unwrap_or((Severity::Warning, String::new()));
            assert_eq!(severity, Severity::Error, "{before}{path}");
            assert!(text.starts_with(expected), "{before}{path}: {text}");
        }
    }
}

#[test]
fn a_log_that_lies_there_needs_no_writable_folder_and_must_be_writable_itself() {
    let text = |path| {
        edited(
            "listeners:",
            &format!("logging: {{ access_log: {{ output: {path} }} }}\nlisteners:"),
        )
    };
    let mut world = world();
    world.sealed.insert("/var/log".into());
    world.file("/var/log/mine", "");
    world.file("/var/log/theirs", "");
    world.sealed.insert("/var/log/theirs".into());
    assert_eq!(check(&text("/var/log/mine"), &world).unwrap().1, []);
    let found = check(&text("/var/log/theirs"), &world).unwrap_err();
    assert_eq!(found[0].message, "`/var/log/theirs` cannot be written to");
}

#[test]
fn a_file_that_is_renamed_is_no_device_and_one_that_is_appended_to_is_writable() {
    let mut world = world();
    world.file("/dev/null", "");
    world.devices.insert("/dev/null".into());
    world.folders.insert("/dev".into());
    world.file("/var/log/theirs", "");
    world.sealed.insert("/var/log/theirs".into());
    let said = |(before, after): (&str, &str), path: &str| {
        let text = edited("listeners:", &format!("{before}{path}{after}\nlisteners:"));
        let found = check(&text, &world).err().unwrap_or_default();
        found.first().map(|found| found.message.clone())
    };
    let [state, history, socket, log] = WRITTEN;
    let device = "`/dev/null` is a device, a pipe or a socket, and a file is due";
    for kept in [state, history] {
        assert_eq!(said(kept, "/dev/null").as_deref(), Some(device));
    }
    assert_eq!([said(socket, "/dev/null"), said(log, "/dev/null")], [None, None]);
    let sealed = "`/var/log/theirs` cannot be written to";
    assert_eq!(said(history, "/var/log/theirs").as_deref(), Some(sealed));
    // It is replaced and never opened.
    assert_eq!(said(state, "/var/log/theirs"), None);
}

#[test]
fn two_keys_never_write_to_one_file() {
    let file = "/var/lib/standfast/x";
    let to = format!("process:\n  state_file: {file}\n  history_file: {file}\nlisteners:");
    let found = check(&edited("listeners:", &to), &world()).unwrap_err();
    assert_eq!((found.len(), found[0].line), (1, 3));
    assert_eq!(found[0].message, format!("`{file}` is written to by the key on line 2 already"));
}

#[test]
fn the_checks_own_tls_is_answered_with_where_to_write_it() {
    let found = found(&edited("path: /healthz", "tls: { ca_file: ca.crt }"));
    assert_eq!(found[0].message, "`tls` of a health check is not available yet");
    assert!(found[0].remedy.contains("`tls` of `upstream`"), "{}", found[0].remedy);
}

#[test]
fn health_checks_end_before_the_next_one_is_due() {
    #[rustfmt::skip] // one case, one line
    const CASES: &[Case] = &[
        ("path: /healthz", "timeout: 1s", &["7 error `timeout` 1s is not shorter than `interval` 1s (the default)"]),
        ("path: /healthz", "interval: 1s, timeout: 2s", &["7 error `timeout` 2s is not shorter than `interval` 1s"]),
        ("path: /healthz", "interval: 1s, fast_interval: 2s", &["7 error `fast_interval` 2s is longer than"]),
        ("path: /healthz", "rise: 2, healthy_threshold: 3", &["7 error `rise` is another name for `healthy_threshold`"]),
        ("path: /healthz", "type: tcp, path: /x", &["7 error `path` has no meaning in a check of type `tcp`"]),
        ("path: /healthz", "expect: { status: 299-200 }", &["7 error is not a range of status codes"]),
        ("path: /healthz", "expect: { status: [200, 99] }", &["7 error is not a range of status codes"]),
        ("path: /healthz", "expect: { header: { \"a b\": c } }", &["7 error is not the name of a header"]),
        ("path: /healthz", "path: healthz", &["7 error does not begin with `/`"]),
        ("path: /healthz", "host: \"a b\"", &["7 error is not a host name"]),
        ("http://10.0.0.1:80", "https://10.0.0.1", &["7 error are both http and https"]),
        // A pool's own interval does not excuse a wrong one of the service.
        ("    health_check: { path: /healthz }\n    pools:\n", "    health_check: { interval: 1 }\n    pools:\n", &["7 error expected a duration"]),
    ];
    run(CASES);
}

#[test]
fn pools_narrow_their_service_key_by_key() {
    let config = good(
        "      - name: standby\n",
        "      - name: standby\n        health_check: { interval: 2s, fall: 5 }\n        upstream: { max_requests: 7 }\n",
    );
    let [hot, standby] = [0, 1].map(|n| config.services[0].pools[n].clone());
    let [hot_check, check] = [&hot, &standby].map(|pool| pool.health_check.clone().unwrap());
    assert_eq!((hot_check.interval, hot_check.unhealthy_threshold), (Duration::from_secs(1), 3));
    assert_eq!((check.interval, check.unhealthy_threshold), (Duration::from_secs(2), 5));
    assert_eq!(hot_check.kind, check.kind);
    assert_eq!((hot.upstream.max_requests, standby.upstream.max_requests), (1024, 7));
}

#[test]
fn a_pool_keeps_the_parts_of_its_services_tls_it_does_not_write() {
    let text = BASE.replace("http://", "https://").replace(
        "    pools:",
        "    upstream: { tls: { ca_file: ca.crt, server_name: a.internal } }\n    pools:",
    );
    let text = text.replace(
        "      - name: standby\n",
        "      - name: standby\n        upstream: { tls: { server_name: b.internal } }\n",
    );
    let (config, _) = check(&text, &world()).unwrap();
    let [hot, standby] = [0, 1].map(|n| config.services[0].pools[n].upstream.tls.clone());
    assert_eq!(hot.server_name.as_deref(), Some("a.internal"));
    assert_eq!(standby.server_name.as_deref(), Some("b.internal"));
    assert_eq!(standby.ca.unwrap().pem, b"ca");
}

#[test]
fn a_short_interval_shortens_the_defaults_that_hang_on_it() {
    let config = good("path: /healthz", "interval: 50ms");
    let check = config.services[0].pools[0].health_check.clone().unwrap();
    assert_eq!(check.timeout, Duration::from_millis(40));
    assert_eq!(check.fast_interval, Duration::from_millis(50));
}

#[test]
fn a_check_without_a_type_is_what_the_endpoints_are() {
    for (scheme, tls) in [("http", false), ("https", true)] {
        let text = BASE.replace("http://", &format!("{scheme}://"));
        let (config, _) = check(&text, &world()).unwrap();
        for pool in &config.services[0].pools {
            let kind = pool.health_check.clone().unwrap().kind;
            assert!(matches!(kind, CheckKind::Http(http) if http.tls == tls));
        }
    }
    let text = BASE.replace("http://", "https://").replace("{ path:", "{ type: http, path:");
    let (config, _) = check(&text, &world()).unwrap();
    let kind = config.services[0].pools[0].health_check.clone().unwrap().kind;
    assert!(matches!(kind, CheckKind::Http(http) if !http.tls));
}

#[test]
fn a_share_of_endpoints_is_rounded_up_to_at_least_one() {
    for (written, expected) in [("1%", 1), ("50%", 1), ("51%", 2), ("100%", 2), ("2", 2)] {
        let to = format!("    failover: {{ min_healthy: {written} }}\n    pools:");
        let config = good("    pools:", &to);
        assert_eq!(config.services[0].pools[0].min_healthy, expected, "{written}");
    }
}

#[test]
fn what_is_not_written_has_the_documented_default() {
    let config = good("\":443\"", "127.0.0.1:443");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9090");
    assert!(!config.admin.listen_is_explicit && config.admin.token.is_none());
    assert_eq!(config.process.lame_duck, Duration::ZERO);
    assert_eq!(config.logging.access_log, None);
    let listener = &config.listeners[0];
    assert_eq!(&*listener.name, "127.0.0.1:443");
    assert_eq!(listener.limits.max_connections, 50_000);
    assert_eq!(listener.limits.max_body_size, None);
    let service = &config.services[0];
    let stable_for = Duration::from_secs(300);
    assert_eq!(service.failover.failback, Failback::Auto { stable_for, ramp: stable_for / 5 });
    assert_eq!(service.failover.hold, Hold { time: Duration::from_secs(2), requests: 1000 });
    let (close_after, spread) = (Duration::from_secs(30), Duration::from_secs(10));
    assert_eq!(service.failover.sessions, Sessions { close_after, spread });
    assert_eq!(service.outlier_errors, Some(5));
    assert_eq!(service.pools[0].upstream.warm, 0);
    assert!(!listener.routes[0].idempotency_key);
    assert_eq!((&config.process.state_file, &config.process.history_file), (&None, &None));
    assert_eq!((service.retries.attempts, service.retries.budget), (2, 0.2));
    assert_eq!(service.timeouts.total, None);
    assert_eq!(service.pools[0].endpoints[0].weight, 1);
}

#[test]
fn addresses_are_read_in_every_form() {
    for (written, address) in [
        ("\":8443\"", "[::]:8443"),
        ("\"0.0.0.0:80\"", "0.0.0.0:80"),
        ("\"[::]:443\"", "[::]:443"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("\":${PORT}\"", "[::]:8080"),
    ] {
        assert_eq!(good("\":443\"", written).listeners[0].bind.to_string(), address);
    }
    for (written, name, address) in [
        ("http://10.0.0.9", "10.0.0.9:80", "10.0.0.9:80"),
        ("http://10.0.0.9:8080/", "10.0.0.9:8080", "10.0.0.9:8080"),
        ("10.0.0.9:8080", "10.0.0.9:8080", "10.0.0.9:8080"),
        ("\"[fd00::9]:81\"", "[fd00::9]:81", "[fd00::9]:81"),
        ("\"http://[fd00::9]\"", "[fd00::9]:80", "[fd00::9]:80"),
        ("ONE.internal:81", "one.internal:81", "10.9.0.1:81"),
        ("{ url: http://10.0.0.9, weight: 3 }", "10.0.0.9:80", "10.0.0.9:80"),
    ] {
        let config = good("http://10.0.0.1:80", written);
        let endpoint = &config.services[0].pools[0].endpoints[0];
        assert_eq!((&*endpoint.name, endpoint.address.to_string().as_str()), (name, address));
    }
}

#[test]
fn routes_are_kept_in_lower_case_and_without_a_slash_at_the_end() {
    let config = good(
        "    service: app",
        "    routes: [{ hosts: [A.Example.com, \"*.B.example.com\"], path_prefix: /API/, service: app }]",
    );
    let route = &config.listeners[0].routes[0];
    assert_eq!(route.path_prefix, "/API");
    let hosts =
        [HostPattern::Exact("a.example.com".into()), HostPattern::Wildcard("b.example.com".into())];
    assert_eq!(route.hosts, hosts);
}

#[test]
fn logs_go_where_they_are_sent() {
    for (written, output) in [
        ("true", Some(Output::Stdout)),
        ("false", None),
        ("{}", Some(Output::Stdout)),
        ("{ output: stderr }", Some(Output::Stderr)),
        ("{ output: /var/log/a.log, sample: 1% }", Some(Output::File("/var/log/a.log".into()))),
    ] {
        let to = format!("logging: {{ access_log: {written} }}\nlisteners:");
        let log = good("listeners:", &to).logging.access_log;
        assert_eq!(log.map(|log| log.output), output, "{written}");
    }
}

#[test]
fn variables_expand_in_values_alone() {
    #[rustfmt::skip] // one case, one line
    const CASES: &[Case] = &[
        ("\":443\"", "\":${NONE}\"", &["2 error the variable `NONE` is not set"]),
        ("\":443\"", "\":${NONE:-444}\"", &[]),
        ("\":443\"", "\":${EMPTY:-444}\"", &[]),
        ("\":443\"", "\":${EMPTY}\"", &["2 error `:` is not an address"]),
        ("\":443\"", "\":${PORT\"", &["2 error `${` without a `}`"]),
        ("\":443\"", "\":${1X}\"", &["2 error does not name a variable"]),
        ("\":443\"", "\":${}\"", &["2 error does not name a variable"]),
        ("path: /healthz", "path: \"/$${PORT}\"", &[]),
        ("listeners:", "${PORT}: 1\nlisteners:", &["1 error unknown key `${PORT}`"]),
    ];
    run(CASES);
}

#[test]
fn a_variable_cannot_add_keys() {
    let mut world = world();
    world.env.insert("EVIL".into(), "app\n    redirect: https".into());
    let text = edited("    service: app", "    service: \"${EVIL}\"");
    let found = check(&text, &world).unwrap_err();
    assert!(found[0].message.contains("there is no service `app\\n    redirect: https`"));
}

#[test]
fn secrets_come_from_files_and_variables_and_are_not_shown() {
    for (written, token) in [("{ file: token }", "s3cret-token"), ("{ env: TOKEN }", "from-env")] {
        let to = format!("admin: {{ token: {written} }}\nlisteners:");
        assert_eq!(good("listeners:", &to).admin.token.unwrap().0, token.as_bytes());
    }
    run(&[
        (
            "listeners:",
            "admin: { token: { file: none } }\nlisteners:",
            &["1 error cannot read `none`"],
        ),
        (
            "listeners:",
            "admin: { token: { file: empty } }\nlisteners:",
            &["1 error this secret is empty"],
        ),
        (
            "listeners:",
            "admin: { token: { file: spaced } }\nlisteners:",
            &["1 error cannot stand in a header"],
        ),
        (
            "listeners:",
            "admin: { token: { env: NONE } }\nlisteners:",
            &["1 error the variable `NONE` is not set"],
        ),
        (
            "listeners:",
            "admin: { token: { env: TOKEN, file: token } }\nlisteners:",
            &["1 error exactly one of"],
        ),
        (
            "listeners:",
            "admin: { token: hunter2 }\nlisteners:",
            &["1 warning this secret stands in the file"],
        ),
        (
            "listeners:",
            "admin: { listen: \":9090\" }\nlisteners:",
            &["1 warning can be reached from other machines"],
        ),
    ]);
    let found = found(&edited("listeners:", "admin: { token: hunter2, bogus: 1 }\nlisteners:"));
    assert!(found.len() == 2 && !format!("{found:?}").contains("hunter2"), "{found:?}");
}

#[test]
fn more_descriptors_than_the_limit_warn_by_default_and_fail_if_written() {
    let world = FakeWorld { descriptors: 20_000, ..world() };
    let (_, warnings) = check(BASE, &world).unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].message.contains("100108 descriptors"), "{}", warnings[0].message);
    assert!(warnings[0].remedy.contains("9946 or less"), "{}", warnings[0].remedy);
    let written = |n| {
        edited(
            "    service: app",
            &format!("    service: app\n    limits: {{ max_connections: {n} }}"),
        )
    };
    let found = check(&written(50_000), &world).unwrap_err();
    assert_eq!((found.len(), found[0].line, found[0].severity), (1, 5, Severity::Error));
    assert_eq!(check(&written(9946), &world).unwrap().1, []);
    assert!(check(&written(9947), &world).is_err());
    // Four endpoints with three ready connections each leave room for six clients less.
    let warm = |n| written(n).replace("    pools:", "    upstream: { warm: 3 }\n    pools:");
    assert_eq!(check(&warm(9940), &world).unwrap().1, []);
    assert!(check(&warm(9941), &world).is_err());
}

#[test]
fn a_text_without_a_configuration_is_an_error_with_a_place() {
    for text in ["", "\n\n", "# nothing\n", "---\n", "~", "[]", "listeners", "\u{feff}"] {
        let found = found(text);
        assert!(
            found.len() == 1 && found[0].line >= 1 && found[0].column >= 1,
            "{text}: {found:?}"
        );
    }
    assert!(found("").pop().unwrap().message.contains("the configuration is empty"));
}

#[test]
fn broken_yaml_is_reported_where_it_breaks() {
    for (text, line) in [
        ("listeners:\n  - bind: \":443\n", 2..=3),
        ("listeners:\n  - bind: [\n", 2..=3),
        ("a: 1\n b: 2\n", 2..=2),
        ("a: *none\n", 1..=1),
        ("a: 1\n---\nb: 2\n", 2..=3),
        ("a: !include x\n", 1..=1),
        ("[a, b]: 1\n", 1..=1),
        ("~: 1\n", 1..=1),
        ("a: &x [*x]\n", 1..=1),
    ] {
        let found = found(text);
        assert!(found[0].message.starts_with("not valid YAML: "), "{text}: {found:?}");
        assert!(line.contains(&found[0].line), "{text}: {found:?}");
    }
}

#[test]
fn a_bomb_of_aliases_is_refused_quickly() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..20 {
        let before = n - 1;
        let aliases = vec![format!("*a{before}"); 10].join(", ");
        text.push_str(&format!("a{n}: &a{n} [{aliases}]\n"));
    }
    let nested = "[".repeat(100_000);
    for text in [text, nested] {
        assert!(found(&text).iter().any(|found| found.message.starts_with("not valid YAML")));
    }
}

#[test]
fn aliases_and_merge_keys_can_be_used() {
    let config = good(
        "        endpoints: [http://10.0.0.1:80, http://10.0.0.2:80]\n",
        "        endpoints: [http://10.0.0.1:80, http://10.0.0.2:80]\n        upstream: &up { max_requests: 9 }\n      - name: third\n        endpoints: [\"10.0.3.1:80\"]\n        upstream: { <<: *up, max_connections: 8 }\n",
    );
    assert_eq!(config.services[0].pools[1].upstream.max_requests, 8);
}

#[test]
fn a_file_with_ten_thousand_routes_and_endpoints_is_read() {
    let mut text = BASE.replace("    service: app\n", "    routes:\n      - { service: app }\n");
    let routes: String = (0..10_000)
        .map(|n| {
            format!("      - {{ hosts: [h{n}.b.example.com], path_prefix: /p{n}, service: app }}\n")
        })
        .collect();
    text = text.replace("    routes:\n", &format!("    routes:\n{routes}"));
    let more: String = (0..10_000)
        .map(|n| format!("          - http://10.1.{}.{}:80\n", n / 250, n % 250 + 1))
        .collect();
    text = text.replace(
        "        endpoints: [http://10.0.1.1:80, http://10.0.1.2:80]\n",
        &format!("        endpoints:\n{more}"),
    );
    let (config, warnings) = check(&text, &world()).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.listeners[0].routes.len(), 10_001);
    assert_eq!(config.services[0].pools[1].endpoints.len(), 10_000);
}

#[test]
fn the_digest_follows_text_files_and_variables_but_no_secret() {
    let digest = |text: &str, world: &FakeWorld| check(text, world).unwrap().0.digest;
    let text = edited("listeners:", "admin: { token: { file: token } }\nlisteners:")
        .replace("\":443\"", "\":${PORT}\"");
    let first = digest(&text, &world());
    assert_eq!(first.len(), 16);
    assert_eq!(first, digest(&text, &world()));
    assert_ne!(first, digest(&format!("{text}# more\n"), &world()));
    let mut other = world();
    other.file("a.crt", "a.example.com,*.b.example.com 1 200");
    assert_ne!(first, digest(&text, &other));
    let mut other = world();
    other.env.insert("PORT".into(), "8081".into());
    assert_ne!(first, digest(&text, &other));
    let mut other = world();
    other.file("token", "another\n");
    assert_eq!(first, digest(&text, &other));
}

#[test]
fn every_required_key_is_missed_by_name() {
    let mut text = edited("    service: app", "    routes: [{ service: app }]");
    text = text.replace("[http://10.0.0.1:80, ", "[{ url: http://10.0.0.1:80 }, ");
    assert_eq!(found(&text), []);
    for (key, from, to) in [
        ("listeners", text[..text.find("services:").unwrap()].to_owned(), ""),
        ("services", text[text.find("services:").unwrap()..].to_owned(), ""),
        ("bind", "- bind: \":443\"\n    tls".into(), "- tls"),
        ("cert_file", "cert_file: a.crt, ".into(), ""),
        ("key_file", ", key_file: a.key".into(), ""),
        ("service", "{ service: app }".into(), "{ path_prefix: /x }"),
        ("health_check", "    health_check: { path: /healthz }\n".into(), ""),
        ("pools", text[text.find("    pools:").unwrap()..].to_owned(), ""),
        ("name", "- name: hot\n        endpoints".into(), "- endpoints"),
        ("endpoints", "        endpoints: [http://10.0.1.1:80, http://10.0.1.2:80]\n".into(), ""),
        ("url", "url: http://10.0.0.1:80".into(), "weight: 1"),
    ] {
        assert_eq!(text.matches(&from).count(), 1, "{key}");
        let without = text.replace(&from, to);
        let found = found(&without);
        let named = format!("`{key}` is missing");
        assert!(found.iter().any(|found| found.message == named), "{key}: {found:#?}");
    }
}

/// What a mutated configuration is made of.
fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z_]{1,8}",
        "[0-9]{1,20}(ms|s|m|h|%|KiB)?",
        Just("[".into()),
        Just("{ a: b".into()),
        Just("}".into()),
        Just(": ".into()),
        Just("\n  - ".into()),
        Just("&a ".into()),
        Just("*a".into()),
        Just("<<: *a".into()),
        Just("${PORT}".into()),
        Just("~".into()),
        Just("\"".into()),
        ".{0,6}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_panics_and_every_refusal_has_a_place(text in any::<String>()) {
        if let Err(found) = check(&text, &world()) {
            prop_assert!(!found.is_empty());
            prop_assert!(found.iter().all(|found| found.line >= 1 && found.column >= 1));
        }
    }

    #[test]
    fn no_edit_panics_and_every_refusal_has_a_place(
        start in 0..BASE.len(), length in 0usize..40, insert in fragment(),
    ) {
        // BASE is ASCII, so every index is a border of characters.
        let end = (start + length).min(BASE.len());
        let text = format!("{}{insert}{}", &BASE[..start], &BASE[end..]);
        let lines = text.lines().count().max(1);
        if let Err(found) = check(&text, &world()) {
            prop_assert!(found.iter().any(|found| found.severity == Severity::Error));
            prop_assert!(found.iter().all(|found| (1..=lines).contains(&found.line)));
        }
    }

    #[test]
    fn a_generated_configuration_is_read_as_it_was_meant(
        services in 1usize..5, pools in 1usize..4, endpoints in 1usize..5,
        weight in 1u16..=1000, interval in 10u64..100_000, percent in 1u32..=100,
    ) {
        let mut text = String::from("listeners:\n  - bind: \":80\"\n    routes:\n");
        for s in 0..services {
            text.push_str(&format!("      - {{ path_prefix: /s{s}, service: s{s} }}\n"));
        }
        text.push_str("services:\n");
        for s in 0..services {
            text.push_str(&format!("  s{s}:\n    failover: {{ min_healthy: {percent}% }}\n"));
            text.push_str(&format!("    health_check: {{ interval: {interval}ms }}\n    pools:\n"));
            for p in 0..pools {
                text.push_str(&format!("      - name: p{p}\n        endpoints:\n"));
                for e in 0..endpoints {
                    let url = format!("http://10.{s}.{p}.{e}");
                    text.push_str(&format!("          - {{ url: {url}, weight: {weight} }}\n"));
                }
            }
        }
        let (config, warnings) = check(&text, &world()).unwrap();
        prop_assert_eq!(warnings, []);
        prop_assert_eq!(config.services.len(), services);
        for (route, n) in config.listeners[0].routes.iter().zip(0..) {
            prop_assert_eq!(route.service, n);
        }
        for pool in config.services.iter().flat_map(|service| &service.pools) {
            prop_assert_eq!(pool.endpoints.len(), endpoints);
            prop_assert!(pool.endpoints.iter().all(|endpoint| endpoint.weight == weight));
            let need = pool.min_healthy as usize;
            prop_assert!(need >= 1 && need <= endpoints);
            prop_assert!(need * 100 >= percent as usize * endpoints);
            prop_assert!((need - 1) * 100 < percent as usize * endpoints);
            let check = pool.health_check.clone().unwrap();
            prop_assert_eq!(check.interval, Duration::from_millis(interval));
            prop_assert!(check.timeout < check.interval && check.fast_interval <= check.interval);
        }
    }
}
