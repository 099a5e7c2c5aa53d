//! An endpoint that takes requests and answers none: the requests themselves find out, long before
//! any probe has reached a verdict, and nobody else is blamed.
//!
//! Where a test must not see a verdict, the checks have such long timeouts that none can come.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use support::client::Client;
use support::endpoint::{Conn, Endpoint};
use support::lab::Lab;
use support::load::{Load, Plan};
use support::nginx::Nginx;
use support::proxy::Proxy;
use support::{free_address, until};

/// Three probes that time out take more than a minute.
const NO_VERDICT: &str = "{ path: /healthz, interval: 60s, timeout: 30s }";

/// One worker, so that all requests wait in one place.
fn config(bind: SocketAddr, tls: &str, check: &str, hot: &[String], standby: &[String]) -> String {
    let (hot, standby) = (hot.join(", "), standby.join(", "));
    format!(
        "process: {{ workers: 1 }}
listeners:
  - bind: {bind}
    {tls}
    service: app
services:
  app:
    health_check: {check}
    retries: {{ budget: 100% }}
    pools:
      - {{ name: hot, endpoints: [{hot}] }}
      - {{ name: standby, endpoints: [{standby}] }}
"
    )
}

fn assert_no_verdict(proxy: &Proxy) {
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("standfast_endpoint_state", &[("state", "down")]), 0.0);
    assert_eq!(metrics.sum("standfast_failovers_total", &[]), 0.0);
}

fn retries(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("standfast_upstream_retries_total", &[("service", "app")])
}

/// How often each target was read by an endpoint.
fn deliveries(endpoints: &[&Endpoint]) -> HashMap<String, usize> {
    let mut count = HashMap::new();
    for request in endpoints.iter().flat_map(|endpoint| endpoint.requests()) {
        *count.entry(request.target().to_owned()).or_default() += 1;
    }
    count
}

/// Sends GETs for these paths at once, each over a connection of its own; the bodies.
fn get_all(bind: SocketAddr, paths: impl Iterator<Item = String>) -> Vec<String> {
    let requests: Vec<_> =
        paths.map(|path| thread::spawn(move || Client::plain(bind).get(&path).text())).collect();
    requests.into_iter().map(|request| request.join().unwrap()).collect()
}

#[test]
fn standby_answers_for_a_stopped_hot_pool_before_any_verdict_and_none_is_lost() {
    let lab = Lab::new();
    let pair = |pool: &str| [Nginx::start(&lab, pool), Nginx::start(&lab, pool)];
    let (hot, standby) = (pair("hot"), pair("standby"));
    let urls = |pool: &[Nginx]| pool.iter().map(Nginx::url).collect::<Vec<_>>();
    let bind = free_address();
    let tls = format!("tls: {}", lab.tls());
    let config = config(bind, &tls, NO_VERDICT, &urls(&hot), &urls(&standby));
    let proxy = Proxy::start(&lab, &config);
    proxy.wait_all_up("app");

    let load = Load::start(Plan {
        target: bind,
        tls: lab.client_config(),
        rate: 100,
        kept: 64,
        most: 256,
        fresh_every: 50,
        method: "GET",
    });
    load.wait_more_by("hot", 200);
    hot.iter().for_each(Nginx::freeze);
    load.wait_more_by("standby", 30);
    let report = load.finish();

    report.assert_none_lost();
    assert_no_verdict(&proxy);
    assert!(retries(&proxy) > 0.0);
    hot.iter().for_each(Nginx::thaw);
    proxy.stop();
}

#[test]
fn request_that_falls_into_a_black_hole_is_moved_before_any_verdict() {
    let lab = Lab::new();
    let (hot, standby) = (Endpoint::answering("hot"), Endpoint::answering("standby"));
    let bind = free_address();
    let config = config(bind, "", NO_VERDICT, &[hot.url()], &[standby.url()]);
    let proxy = Proxy::start(&lab, &config);
    proxy.wait_all_up("app");
    let mut client = Client::plain(bind);
    assert_eq!(client.get("/before").text(), "hot");
    hot.black_hole();
    // This one meets it on a kept connection.
    assert_eq!(client.get("/after").text(), "standby");
    assert_eq!(retries(&proxy), 1.0);
    assert_no_verdict(&proxy);
    let delivered = deliveries(&[&hot, &standby]);
    assert_eq!((delivered["/before"], delivered["/after"]), (1, 1));
    proxy.stop();
}

/// Answers `/slow…` after 100 ms and anything else at once.
fn slow_and_fast(conn: &mut Conn) {
    while let Some(request) = conn.request() {
        if request.target().starts_with("/slow") {
            thread::sleep(Duration::from_millis(100));
        }
        if !conn.answer(200, "done") {
            return;
        }
    }
}

#[test]
fn slowness_that_is_usual_is_no_silence_and_no_request_is_sent_twice() {
    let lab = Lab::new();
    let hot = [Endpoint::start(slow_and_fast), Endpoint::start(slow_and_fast)];
    let standby = Endpoint::answering("standby");
    let bind = free_address();
    let hot_urls: Vec<_> = hot.iter().map(Endpoint::url).collect();
    let config = config(bind, "", NO_VERDICT, &hot_urls, &[standby.url()]);
    let proxy = Proxy::start(&lab, &config);
    proxy.wait_all_up("app");
    // Nine in ten are fast, and both endpoints have shown what they are like.
    let mut client = Client::plain(bind);
    for n in 0..60 {
        let kind = if n % 10 < 2 { "slow" } else { "fast" };
        assert_eq!(client.get(&format!("/{kind}/first/{n}")).text(), "done");
    }
    // Now all are slow at once, and nobody else is answered meanwhile.
    for round in 0..5 {
        let bodies = get_all(bind, (0..8).map(|n| format!("/slow/{round}/{n}")));
        assert_eq!(bodies, ["done"; 8]);
    }
    assert_eq!(retries(&proxy), 0.0);
    assert!(deliveries(&[&hot[0], &hot[1], &standby]).values().all(|count| *count == 1));
    proxy.stop();
}

#[test]
fn two_requests_that_hang_by_themselves_condemn_nobody() {
    let lab = Lab::new();
    let held = Arc::new(AtomicBool::new(false));
    let probes = Arc::new(AtomicUsize::new(0));
    let hot = Endpoint::start({
        let (held, probes) = (Arc::clone(&held), Arc::clone(&probes));
        move |conn| {
            while let Some(request) = conn.head_only() {
                if request.target() == "/probe" {
                    probes.fetch_add(1, Ordering::SeqCst);
                } else if request.target().starts_with("/hang") {
                    until("they may go on", || (!held.load(Ordering::SeqCst)).then_some(()));
                }
                conn.answer(200, "hot");
            }
        }
    });
    let standby = Endpoint::answering("standby");
    let bind = free_address();
    let check = "{ path: /probe, interval: 100ms, timeout: 90ms, unhealthy_threshold: 100 }";
    let config = config(bind, "", check, &[hot.url()], &[standby.url()]);
    let proxy = Proxy::start(&lab, &config);
    proxy.wait_all_up("app");
    let mut client = Client::plain(bind);
    for n in 0..40 {
        assert_eq!(client.get(&format!("/fast/{n}")).text(), "hot");
    }
    held.store(true, Ordering::SeqCst);
    let hanging = thread::spawn(move || get_all(bind, (0..2).map(|n| format!("/hang/{n}"))));
    until("both hang", || {
        let hang = |target: &str| target.starts_with("/hang");
        (deliveries(&[&hot]).keys().filter(|target| hang(target)).count() == 2).then_some(())
    });
    // Ten probes take a second, in which the worker looks a hundred times.
    let before = probes.load(Ordering::SeqCst);
    until("ten more probes", || (probes.load(Ordering::SeqCst) >= before + 10).then_some(()));
    held.store(false, Ordering::SeqCst);
    assert_eq!(hanging.join().unwrap(), ["hot"; 2]);
    assert_eq!(retries(&proxy), 0.0);
    let delivered = deliveries(&[&hot, &standby]);
    assert!((0..2).all(|n| delivered[&format!("/hang/{n}")] == 1));
    proxy.stop();
}

#[test]
fn three_that_hang_are_moved_once_and_wait_where_nothing_better_is_left() {
    let lab = Lab::new();
    let held = Arc::new(AtomicBool::new(false));
    let hanging = |name: &'static str| {
        let held = Arc::clone(&held);
        Endpoint::start(move |conn| {
            while let Some(request) = conn.request() {
                if request.target().starts_with("/hang") {
                    until("they may go on", || (!held.load(Ordering::SeqCst)).then_some(()));
                }
                conn.answer(200, name);
            }
        })
    };
    let (hot, standby) = (hanging("hot"), hanging("standby"));
    let bind = free_address();
    let config = config(bind, "", NO_VERDICT, &[hot.url()], &[standby.url()]);
    let proxy = Proxy::start(&lab, &config);
    proxy.wait_all_up("app");
    held.store(true, Ordering::SeqCst);
    let answers = thread::spawn(move || get_all(bind, (0..4).map(|n| format!("/hang/{n}"))));
    until("all are at the standby", || (standby.requests().len() == 4).then_some(()));
    // The standby is found silent as well, but to take them away from it would be to lose them.
    let errors = [("service", "app"), ("reason", "timeout")];
    let told = proxy.metrics().sum("standfast_upstream_errors_total", &errors);
    let before = standby.connections();
    // Each time it is found silent it is probed sooner than its interval.
    until("two more probes", || (standby.connections() >= before + 2).then_some(()));
    held.store(false, Ordering::SeqCst);
    assert_eq!(answers.join().unwrap(), ["standby"; 4]);
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("standfast_upstream_errors_total", &errors), told);
    assert_eq!(metrics.sum("standfast_requests_lost_total", &[]), 0.0);
    assert!(deliveries(&[&hot]).values().all(|count| *count == 1));
    proxy.stop();
}

/// Takes as long as a request that does some work, so that some wait at every moment.
fn working(name: &'static str) -> Endpoint {
    Endpoint::start(move |conn| {
        while conn.request().is_some() {
            thread::sleep(Duration::from_millis(30));
            if !conn.answer(200, name) {
                return;
            }
        }
    })
}

#[test]
fn standfast_that_was_stopped_itself_blames_nobody_and_loses_nothing() {
    let lab = Lab::new();
    let (hot, standby) = ([working("hot"), working("hot")], working("standby"));
    let bind = free_address();
    let hot_urls: Vec<_> = hot.iter().map(Endpoint::url).collect();
    let tls = format!("tls: {}", lab.tls());
    let check = "{ path: /healthz }";
    let config = config(bind, &tls, check, &hot_urls, &[standby.url()]);
    let proxy = Proxy::start(&lab, &config);
    proxy.wait_all_up("app");

    let load = Load::start(Plan {
        target: bind,
        tls: lab.client_config(),
        rate: 50,
        kept: 64,
        most: 256,
        fresh_every: 0,
        method: "GET",
    });
    load.wait_more_by("hot", 100);
    proxy.signal(Signal::STOP);
    // The fault itself: as long as a machine may be suspended or starved.
    thread::sleep(Duration::from_secs(2));
    proxy.signal(Signal::CONT);
    load.wait_more_by("hot", 150);
    let report = load.finish();

    report.assert_none_lost();
    assert_eq!(report.from("hot"), report.samples.len());
    assert_eq!(retries(&proxy), 0.0);
    assert_no_verdict(&proxy);
    assert!(deliveries(&[&hot[0], &hot[1], &standby]).values().all(|count| *count == 1));
    proxy.stop();
}
