//! The harness itself: that what the other tests rely on happens, and that losses are seen.

mod support;

use std::time::Duration;

use support::client::Client;
use support::endpoint::Endpoint;
use support::lab::Lab;
use support::load::{Load, Plan};
use support::metrics::Metrics;
use support::nginx::Nginx;
use support::wire::{self, Checksum, Pattern};
use support::{free_address, until};

#[test]
fn ingress_is_killed_frozen_and_started_again() {
    let lab = Lab::new();
    let mut nginx = Nginx::start(&lab, "hot");
    let mut client = Client::plain(nginx.address);
    assert_eq!(client.get("/").text(), "hot\n");
    nginx.freeze();
    client.set_read_timeout(Duration::from_millis(200));
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert!(client.try_response("GET").is_err(), "a frozen ingress answered");
    nginx.thaw();
    until("the thawed ingress answers", || client.try_response("GET").ok());
    nginx.kill9();
    assert!(Client::try_plain(nginx.address).is_err(), "a killed ingress listens");
    client.assert_closed();
    nginx.restart();
    assert_eq!(Client::plain(nginx.address).get("/").text(), "hot\n");
    nginx.quit();
    assert!(Client::try_plain(nginx.address).is_err(), "an ended ingress listens");
}

#[test]
fn load_reaches_2000_a_second_and_sees_what_a_kill_costs() {
    let lab = Lab::new();
    let mut nginx = Nginx::start_tls(&lab, "hot", &lab.app);
    let plan = Plan {
        target: nginx.address,
        tls: lab.client_config(),
        rate: 2000,
        kept: 64,
        most: 512,
        fresh_every: 50,
        method: "GET",
    };
    let load = Load::start(plan.clone());
    load.wait_more_by("hot", 4000);
    let report = load.finish();
    report.assert_none_lost();
    let mut latencies: Vec<Duration> = report.samples.iter().map(|s| s.latency).collect();
    latencies.sort_unstable();
    println!("median {:?}, last {:?}", latencies[latencies.len() / 2], latencies.last());

    let load = Load::start(plan);
    load.wait_more_by("hot", 200);
    nginx.kill9();
    load.wait_more(200);
    let report = load.finish();
    assert!(!report.lost().is_empty(), "nobody saw the kill");
    assert_eq!(report.from("hot") + report.lost().len(), report.samples.len());
}

#[test]
fn killed_endpoint_refuses_and_ends_its_connections() {
    let endpoint = Endpoint::answering("here");
    let mut client = Client::plain(endpoint.address);
    assert_eq!(client.get("/a").text(), "here");
    assert_eq!(endpoint.requests().len(), 1);
    endpoint.kill();
    client.assert_closed();
    assert!(Client::try_plain(endpoint.address).is_err(), "a killed endpoint listens");
    let again = Endpoint::start_at(endpoint.address, |conn| {
        while conn.request().is_some() {
            conn.answer(200, "again");
        }
    });
    assert_eq!(Client::plain(again.address).get("/").text(), "again");
}

#[test]
fn checksum_tells_a_lost_a_doubled_and_a_moved_byte() {
    let length = 100_003;
    let mut bytes = vec![0; 100_003 + 8];
    let filled = Pattern::new(length).fill(&mut bytes);
    bytes.truncate(filled);
    let mut whole = Pattern::new(length);
    let mut all = Vec::new();
    let mut buf = [0; 4096];
    loop {
        match whole.fill(&mut buf) {
            0 => break,
            n => all.extend_from_slice(&buf[..n]),
        }
    }
    assert_eq!(all.len() as u64, length);
    let sum = |bytes: &[u8], step: usize| {
        let mut sum = Checksum::default();
        bytes.chunks(step).for_each(|chunk| sum.update(chunk));
        sum.finish()
    };
    let right = Pattern::checksum(length);
    assert_eq!(sum(&all, 7), right);
    assert_eq!(sum(&all, 4096), right);
    for change in [
        |bytes: &mut Vec<u8>| bytes.truncate(99_995),
        |bytes: &mut Vec<u8>| bytes.insert(500, 1),
        |bytes: &mut Vec<u8>| bytes.swap(8, 4096),
        |bytes: &mut Vec<u8>| bytes[99_999] ^= 1,
    ] {
        let mut wrong = all.clone();
        change(&mut wrong);
        assert_ne!(sum(&wrong, 4096), right);
    }
}

#[test]
fn messages_and_metrics_are_read_as_written() {
    let raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: 1\r\na: 2\r\n\r\n\
                5\r\nhello\r\n1;x\r\n!\r\n0\r\nT: 9\r\n\r\nNEXT";
    let (mut message, taken) = wire::head(raw).unwrap();
    let framing = message.response_framing("GET");
    let body = wire::body(&mut message, framing, &raw[taken..], false).unwrap();
    assert_eq!(&raw[taken + body..], b"NEXT");
    assert_eq!((message.text().as_str(), message.count("a")), ("hello!", 2));
    assert_eq!(message.trailers, [("T".to_owned(), "9".to_owned())]);

    let text = "# HELP up x\n# TYPE up gauge\nup{a=\"1\",b=\"x, y\"} 1\nup{a=\"2\"} 2.5\nplain 7\n";
    let metrics = Metrics::parse(text);
    assert_eq!(metrics.get("up", &[]), Some(3.5));
    assert_eq!(metrics.get("up", &[("b", "x, y")]), Some(1.0));
    assert_eq!(metrics.get("up", &[("a", "3")]), None);
    assert_eq!((metrics.sum("plain", &[]), metrics.typed.len()), (7.0, 1));
    assert_ne!(free_address(), free_address());
}
