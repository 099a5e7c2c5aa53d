use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::config::{AccessLog, Output};

fn entry() -> Entry<'static> {
    Entry {
        peer: "[::ffff:10.0.0.1]:4711".parse().unwrap(),
        client: "2001:db8::7".parse().unwrap(),
        method: b"GET",
        https: true,
        host: b"app.example.com",
        path: b"/a/b",
        protocol: "1.1",
        status: 200,
        request_body_bytes: 0,
        response_body_bytes: 12_345,
        user_agent: Some(b"curl/8"),
        request_id: b"0123",
        listener: "https",
        service: Some("app"),
        pool: Some("hot"),
        endpoint: Some("10.0.1.10:80"),
        attempts: 1,
        duration: Duration::from_micros(12_034),
        first_byte: Some(Duration::from_micros(9)),
        reason: None,
    }
}

fn to(output: Output) -> AccessLog {
    AccessLog { output, sample: 1.0 }
}

fn one_line(entry: &Entry<'_>) -> Value {
    let mut out = Vec::new();
    line::write(&mut out, Timestamp::default().at(Duration::from_secs(1)), entry);
    assert_eq!(memchr::memchr(b'\n', &out), Some(out.len() - 1));
    serde_json::from_slice(&out).unwrap()
}

struct Temporary {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn temporary() -> Temporary {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    Temporary { _directory: directory, path }
}

#[test]
fn a_line_has_the_names_of_the_conventions() {
    let expected = serde_json::json!({
        "timestamp": "1970-01-01T00:00:01.000000Z", "client.address": "2001:db8::7",
        "network.peer.address": "10.0.0.1", "network.peer.port": 4711,
        "http.request.method": "GET", "url.scheme": "https",
        "server.address": "app.example.com", "url.path": "/a/b",
        "network.protocol.version": "1.1", "http.response.status_code": 200,
        "http.request.body.size": 0, "http.response.body.size": 12_345,
        "user_agent.original": "curl/8", "standfast.request_id": "0123",
        "standfast.listener": "https", "standfast.service": "app", "standfast.pool": "hot",
        "standfast.endpoint": "10.0.1.10:80", "standfast.attempts": 1,
        "standfast.duration_ms": 12.034, "standfast.upstream.ttfb_ms": 0.009,
    });
    assert_eq!(one_line(&entry()), expected);
}

#[test]
fn addresses_are_written_as_the_standard_library_writes_them() {
    for octet in 0..=u8::MAX {
        let v4 = Ipv4Addr::new(octet, 255 - octet, 0, octet / 2);
        for client in
            [IpAddr::V4(v4), IpAddr::V6(v4.to_ipv6_mapped()), IpAddr::V6(v4.to_ipv6_compatible())]
        {
            let line = one_line(&Entry { client, ..entry() });
            assert_eq!(line["client.address"], client.to_canonical().to_string());
        }
    }
}

#[test]
fn a_failure_says_its_reason_and_what_is_unknown_is_left_out() {
    let failed = Entry {
        status: 0,
        user_agent: None,
        service: None,
        pool: None,
        endpoint: None,
        first_byte: None,
        reason: Some("client_abort"),
        ..entry()
    };
    let line = one_line(&failed);
    assert_eq!(line["standfast.reason"], "client_abort");
    assert_eq!(line["error.type"], "client_abort");
    for absent in [
        "http.response.status_code",
        "user_agent.original",
        "standfast.service",
        "standfast.pool",
        "standfast.endpoint",
        "standfast.upstream.ttfb_ms",
    ] {
        assert_eq!(line.get(absent), None, "{absent}");
    }
    assert_eq!(one_line(&Entry { status: 502, ..entry() })["error.type"], "502");
    let refused = Entry { status: 404, reason: Some("no_route"), ..entry() };
    assert_eq!(one_line(&refused).get("error.type"), None);
}

#[test]
fn controls_quotes_and_bytes_that_are_no_text_are_escaped() {
    let hostile = Entry { path: b"/\"\\\n\x1b\x7f\xff\xc2\x85\xe2\x80\xa8\xc3\xa4", ..entry() };
    let mut out = Vec::new();
    line::write(&mut out, b"", &hostile);
    let text = String::from_utf8(out).unwrap();
    let expected = r#""url.path":"/\"\\\u000a\u001b\u007f\ufffd\u0085\u2028ä","#;
    assert!(text.contains(expected), "{text}");
}

#[test]
fn an_endless_field_is_cut() {
    let long = vec![b'a'; 100_000];
    let line = one_line(&Entry { user_agent: Some(&long), ..entry() });
    let written = line["user_agent.original"].as_str().unwrap();
    assert!(written.ends_with("a…") && written.len() < 5_000, "{}", written.len());
}

#[test]
fn timestamps_follow_the_calendar() {
    let mut timestamp = Timestamp::default();
    let mut at = |seconds, micros| {
        let now = Duration::from_secs(seconds) + Duration::from_micros(micros);
        String::from_utf8(timestamp.at(now).to_vec()).unwrap()
    };
    assert_eq!(at(951_827_696, 5), "2000-02-29T12:34:56.000005Z");
    assert_eq!(at(951_827_696, 999_999), "2000-02-29T12:34:56.999999Z");
    assert_eq!(at(4_107_542_399, 0), "2100-02-28T23:59:59.000000Z");
    assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000000Z");
    assert_eq!(at(1_767_225_599, 0), "2025-12-31T23:59:59.000000Z");
}

#[test]
fn failures_are_kept_whatever_the_sample() {
    let file = temporary();
    let config = AccessLog { output: Output::File(file.path.clone()), sample: 0.5 };
    let (mut sinks, handle) = open(&config, 1).unwrap();
    sinks[0].write(&entry(), 0.49);
    sinks[0].write(&entry(), 0.5);
    sinks[0].write(&Entry { status: 503, ..entry() }, 0.99);
    sinks[0].write(&Entry { status: 0, reason: Some("client_abort"), ..entry() }, 0.99);
    drop(sinks);
    assert!(handle.close());
    assert_eq!(std::fs::read_to_string(&file.path).unwrap().lines().count(), 3);
}

#[test]
fn a_rotated_file_is_left_and_a_new_one_begun() {
    let file = temporary();
    let old = file.path.with_extension("1");
    let (mut sinks, handle) = open(&to(Output::File(file.path.clone())), 1).unwrap();
    let log = |sinks: &mut Vec<Sink>, path: &[u8]| {
        sinks[0].write(&Entry { path, ..entry() }, 0.0);
        sinks[0].flush();
    };
    log(&mut sinks, b"/before");
    while std::fs::metadata(&file.path).unwrap().len() == 0 {
        std::thread::yield_now();
    }
    std::fs::rename(&file.path, &old).unwrap();
    handle.reopen();
    log(&mut sinks, b"/after");
    drop(sinks);
    assert!(handle.close());
    assert!(std::fs::read_to_string(old).unwrap().contains("/before"));
    assert!(std::fs::read_to_string(&file.path).unwrap().contains("/after"));
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let (mut sinks, handle) = open(&to(Output::File("/dev/full".into())), 2).unwrap();
    for sink in &mut sinks {
        (0..10).for_each(|_| sink.write(&entry(), 0.0));
    }
    drop(sinks);
    let dropped = handle.dropped_counter();
    assert!(handle.close());
    assert_eq!(dropped(), 20);
}

#[test]
fn a_reader_that_stands_still_costs_lines_and_neither_blocks_a_worker_nor_the_end() {
    let pipe = temporary();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe.path, fifo, 0o600.into(), 0).unwrap();
    let (mut sinks, handle) = open(&to(Output::File(pipe.path.clone())), 1).unwrap();
    let mut reader = File::options().read(true).write(true).open(&pipe.path).unwrap();
    let user_agent = vec![b'a'; 4000];
    let mut lines: u64 = 0;
    while handle.dropped() == 0 {
        sinks[0].write(&Entry { user_agent: Some(&user_agent), ..entry() }, 0.0);
        lines += 1;
        assert!(lines < 100_000, "nothing was dropped");
    }
    // What got through is whole lines all the same.
    let mut head = vec![0; 5000];
    reader.read_exact(&mut head).unwrap();
    let end = memchr::memchr(b'\n', &head).unwrap();
    serde_json::from_slice::<Value>(&head[..end]).unwrap();
    drop(sinks);
    assert!(!handle.close());
}

proptest! {
    #[test]
    fn every_line_is_json_whatever_a_peer_sends(
        method: Vec<u8>, host: Vec<u8>, path: Vec<u8>, user_agent: Option<Vec<u8>>,
        text in "\\PC*", status: u16, micros: u64, bytes: u64,
    ) {
        let entry = Entry {
            method: &method, host: &host, path: &path, user_agent: user_agent.as_deref(),
            request_id: text.as_bytes(), status, duration: Duration::from_micros(micros),
            response_body_bytes: bytes, ..entry()
        };
        let line = one_line(&entry);
        prop_assert_eq!(line["standfast.request_id"].as_str(), Some(&*text));
        let lossy = String::from_utf8_lossy(&path);
        prop_assert_eq!(line["url.path"].as_str(), Some(&*lossy));
    }
}
