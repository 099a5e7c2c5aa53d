//! The promise of the product: a pool that dies costs no request that could be saved.
//!
//! Real NGINX ingresses are the hot and the standby pool; an open-loop client over TLS numbers every
//! request and counts what became of each.

mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use support::client::Client;
use support::endpoint::{Conn, Endpoint};
use support::lab::{Lab, two_pools};
use support::load::{Load, Plan};
use support::nginx::Nginx;
use support::proxy::Proxy;
use support::{free_address, until};

/// The least configuration that works, as in the README, with the addresses of this test.
fn least(lab: &Lab, bind: SocketAddr, hot: &[String], standby: &[String]) -> String {
    with(lab, bind, "health_check: { path: /healthz }", hot, standby)
}

/// The same, with these settings for the service.
fn with(lab: &Lab, bind: SocketAddr, settings: &str, hot: &[String], standby: &[String]) -> String {
    two_pools(&format!("bind: {bind}, tls: {}", lab.tls()), settings, hot, standby)
}

/// Probes that reach a verdict in well under a second, and a return after one second.
const QUICK: &str = "health_check: { path: /healthz, interval: 300ms, timeout: 200ms }
    failover: { failback: { mode: auto, stable_for: 1s } }";

fn plan(lab: &Lab, target: SocketAddr, rate: u32) -> Plan {
    Plan {
        target,
        tls: lab.client_config(),
        rate,
        kept: 64,
        most: 512,
        fresh_every: 50,
        method: "GET",
    }
}

fn urls(ingresses: &[Nginx]) -> Vec<String> {
    ingresses.iter().map(Nginx::url).collect()
}

fn pair(lab: &Lab, pool: &str) -> Vec<Nginx> {
    (0..2).map(|_| Nginx::start(lab, pool)).collect()
}

#[test]
fn kill_of_all_hot_endpoints_under_2000_gets_a_second_loses_none() {
    let lab = Lab::new();
    let (mut hot, standby) = (pair(&lab, "hot"), pair(&lab, "standby"));
    let bind = free_address();
    let proxy = Proxy::start(&lab, &least(&lab, bind, &urls(&hot), &urls(&standby)));
    proxy.wait_all_up("app");

    let load = Load::start(plan(&lab, bind, 2000));
    load.wait_more_by("hot", 4000);
    hot.iter_mut().for_each(Nginx::kill9);
    // The standby answers from the first request that finds hot dead, before any verdict.
    load.wait_more_by("standby", 100);
    proxy.wait_serving("app", "standby");
    load.wait_more_by("standby", 4000);
    let report = load.finish();

    report.assert_none_lost();
    assert_eq!(report.from("hot") + report.from("standby"), report.samples.len());
    let metrics = proxy.metrics();
    let moved = [("service", "app"), ("from", "hot"), ("to", "standby")];
    assert_eq!(metrics.sum("standfast_failovers_total", &moved), 1.0);
    assert_eq!(metrics.sum("standfast_failovers_total", &[("service", "app")]), 1.0);
    assert_eq!(metrics.sum("standfast_requests_lost_total", &[("service", "app")]), 0.0);
    assert!(metrics.sum("standfast_requests_rescued_total", &[("service", "app")]) > 0.0);
    proxy.stop();
}

#[test]
fn service_returns_to_hot_once_it_was_stable_and_loses_none_on_the_way() {
    let lab = Lab::new();
    let (mut hot, standby) = (pair(&lab, "hot"), pair(&lab, "standby"));
    let bind = free_address();
    let proxy = Proxy::start(&lab, &with(&lab, bind, QUICK, &urls(&hot), &urls(&standby)));
    proxy.wait_all_up("app");

    let load = Load::start(plan(&lab, bind, 500));
    load.wait_more_by("hot", 500);
    hot.iter_mut().for_each(Nginx::kill9);
    proxy.wait_serving("app", "standby");
    load.wait_more_by("standby", 200);
    hot.iter_mut().for_each(Nginx::restart);
    proxy.wait_serving("app", "hot");
    load.wait_more_by("hot", 500);
    let report = load.finish();

    report.assert_none_lost();
    let metrics = proxy.metrics();
    let returned = [("service", "app"), ("from", "standby"), ("to", "hot")];
    assert_eq!(metrics.sum("standfast_failovers_total", &returned), 1.0);
    assert_eq!(metrics.sum("standfast_failovers_total", &[("service", "app")]), 2.0);
    proxy.stop();
}

#[test]
fn manual_failback_stays_on_standby_though_hot_is_up_again() {
    let lab = Lab::new();
    let (mut hot, standby) = (pair(&lab, "hot"), pair(&lab, "standby"));
    let bind = free_address();
    let settings = "health_check: { path: /healthz, interval: 300ms, timeout: 200ms }
    failover: { failback: { mode: manual } }";
    let proxy = Proxy::start(&lab, &with(&lab, bind, settings, &urls(&hot), &urls(&standby)));
    proxy.wait_all_up("app");
    hot.iter_mut().for_each(Nginx::kill9);
    proxy.wait_serving("app", "standby");
    hot.iter_mut().for_each(Nginx::restart);
    hot.iter().for_each(|endpoint| proxy.wait_endpoint("app", &endpoint.name(), true));

    let load = Load::start(plan(&lab, bind, 500));
    load.wait_more(1000);
    let report = load.finish();
    report.assert_none_lost();
    assert_eq!(report.from("standby"), report.samples.len());
    proxy.stop();
}

#[test]
fn frozen_hot_pool_delays_gets_until_the_verdict_and_loses_none() {
    let lab = Lab::new();
    let (hot, standby) = (pair(&lab, "hot"), pair(&lab, "standby"));
    let bind = free_address();
    let proxy = Proxy::start(&lab, &with(&lab, bind, QUICK, &urls(&hot), &urls(&standby)));
    proxy.wait_all_up("app");

    let load = Load::start(plan(&lab, bind, 300));
    load.wait_more_by("hot", 600);
    hot.iter().for_each(Nginx::freeze);
    proxy.wait_serving("app", "standby");
    load.wait_more_by("standby", 600);
    let report = load.finish();

    report.assert_none_lost();
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("standfast_failovers_total", &[("service", "app")]), 1.0);
    assert_eq!(metrics.sum("standfast_requests_lost_total", &[("service", "app")]), 0.0);
    hot.iter().for_each(Nginx::thaw);
    proxy.wait_serving("app", "hot");
    proxy.stop();
}

#[test]
fn rolling_restart_of_hot_endpoints_loses_none_and_stays_on_hot() {
    let lab = Lab::new();
    let (mut hot, standby) = (pair(&lab, "hot"), pair(&lab, "standby"));
    let bind = free_address();
    let proxy = Proxy::start(&lab, &with(&lab, bind, QUICK, &urls(&hot), &urls(&standby)));
    proxy.wait_all_up("app");

    let load = Load::start(plan(&lab, bind, 500));
    load.wait_more_by("hot", 250);
    for round in 0..2 {
        for endpoint in &mut hot {
            // One round as an orderly rollout does it, one as a crash.
            if round == 0 {
                endpoint.quit();
            } else {
                endpoint.kill9();
            }
            proxy.wait_endpoint("app", &endpoint.name(), false);
            endpoint.restart();
            proxy.wait_endpoint("app", &endpoint.name(), true);
            load.wait_more_by("hot", 100);
        }
    }
    let report = load.finish();

    report.assert_none_lost();
    assert_eq!(proxy.metrics().sum("standfast_failovers_total", &[("service", "app")]), 0.0);
    assert_eq!(report.from("hot"), report.samples.len());
    proxy.stop();
}

/// Answers slowly enough that some requests are always in flight.
fn slow(conn: &mut Conn) {
    while conn.request().is_some() {
        std::thread::sleep(Duration::from_millis(20));
        if !conn.answer(200, "done") {
            return;
        }
    }
}

#[test]
fn post_in_flight_at_the_kill_is_never_delivered_twice() {
    let lab = Lab::new();
    let (hot, standby) = ([Endpoint::start(slow), Endpoint::start(slow)], Endpoint::start(slow));
    let bind = free_address();
    let hot_urls: Vec<String> = hot.iter().map(Endpoint::url).collect();
    let proxy = Proxy::start(&lab, &least(&lab, bind, &hot_urls, &[standby.url()]));
    proxy.wait_all_up("app");

    let load = Load::start(Plan { method: "POST", ..plan(&lab, bind, 500) });
    load.wait_more_by("done", 500);
    hot.iter().for_each(Endpoint::kill);
    until("the standby answers", || (standby.requests().len() > 500).then_some(()));
    let report = load.finish();

    let mut delivered: HashMap<String, usize> = HashMap::new();
    for endpoint in hot.iter().chain([&standby]) {
        for request in endpoint.requests() {
            *delivered.entry(request.target().to_owned()).or_default() += 1;
        }
    }
    let twice: Vec<_> = delivered.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "delivered twice: {twice:?}");
    // What was answered was delivered; what hot had acknowledged but not answered is lost, for
    // nobody can know whether it was read, and the client is told so.
    for sample in &report.samples {
        match &sample.outcome {
            Ok((200, _)) => {
                let target = format!("/load?n={}", sample.number);
                assert!(delivered.contains_key(&target), "answered by nobody: {sample:?}");
            }
            outcome => assert!(matches!(outcome, Ok((502, _))), "lost silently: {sample:?}"),
        }
    }
    // One connection carries one request at a time, so no more can have been in flight.
    let in_flight_most: usize = hot.iter().map(Endpoint::connections).sum();
    assert!(report.lost().len() <= in_flight_most, "{} lost", report.lost().len());
    assert!(!report.lost().is_empty(), "no request was in flight: the test proves nothing");
    proxy.stop();
}

#[test]
fn without_an_available_pool_requests_are_tried_all_the_same() {
    let lab = Lab::new();
    // Healthy for clients, ill for probes.
    let ill = |name: &'static str| {
        Endpoint::start(move |conn| {
            while let Some(line) = conn.head_only() {
                let probe = line.target().starts_with("/probe");
                conn.answer(if probe { 500 } else { 200 }, name);
            }
        })
    };
    let (hot, standby) = (ill("hot"), ill("standby"));
    let settings = "health_check: { path: /probe, interval: 200ms, timeout: 100ms }";
    let bind = free_address();
    let config = with(&lab, bind, settings, &[hot.url()], &[standby.url()]);
    let proxy = Proxy::start(&lab, &config);
    proxy.wait_endpoint("app", &hot.name(), false);
    proxy.wait_endpoint("app", &standby.name(), false);

    let load = Load::start(plan(&lab, bind, 200));
    load.wait_more(200);
    load.finish().assert_none_lost();

    let unavailable = format!("{settings}\n    failover: {{ when_none: unavailable }}");
    proxy.write_config(&with(&lab, bind, &unavailable, &[hot.url()], &[standby.url()]));
    assert!(proxy.control(&["reload"]).status.success());
    let mut client = Client::tls(bind, &lab.client_config(), "app.test");
    let answer = client.get("/");
    assert_eq!(answer.status(), 503);
    assert!(answer.field("retry-after").is_some(), "{:?}", answer.fields);
    let why = answer.field("proxy-status").unwrap_or_default();
    assert!(why.starts_with("standfast; error="), "{why}");
    proxy.stop();
}

#[test]
fn standby_is_probed_as_often_as_hot() {
    let lab = Lab::new();
    let counting = || {
        Endpoint::start(|conn| {
            while let Some(request) = conn.head_only() {
                let _ = request;
                conn.answer(200, "ok");
            }
        })
    };
    let (hot, standby) = (counting(), counting());
    let settings = "health_check: { path: /probe, interval: 100ms, timeout: 80ms }";
    let config = with(&lab, free_address(), settings, &[hot.url()], &[standby.url()]);
    let proxy = Proxy::start(&lab, &config);
    until("fifty probes", || (standby.requests().len() >= 50).then_some(()));
    let (hot, standby) = (hot.requests().len(), standby.requests().len());
    // Jitter differs from endpoint to endpoint, and the two counts are read at two moments.
    assert!(hot.abs_diff(standby) <= 15, "hot {hot} probes, standby {standby}");
    proxy.stop();
}
