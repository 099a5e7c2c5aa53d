//! HTTP/1.1 as clients and endpoints see it: what passes, what is added, what is refused.

mod support;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::client::Client;
use support::endpoint::{Conn, Endpoint};
use support::lab::{Lab, plain, plain_with};
use support::nginx::Nginx;
use support::proxy::Proxy;
use support::wire::{Checksum, Message, Pattern};
use support::{free_address, until};

const MIB: u64 = 1024 * 1024;

/// A proxy with a plain listener in front of one scripted endpoint.
struct Stage {
    bind: SocketAddr,
    endpoint: Endpoint,
    proxy: Proxy,
    lab: Lab,
}

impl Stage {
    fn new(script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        Self::with("", "", script)
    }

    fn with(
        listener: &str,
        service: &str,
        script: impl Fn(&mut Conn) + Send + Sync + 'static,
    ) -> Self {
        let (lab, endpoint, bind) = (Lab::new(), Endpoint::start(script), free_address());
        let config = plain_with(bind, listener, service, &endpoint.url());
        let proxy = Proxy::start(&lab, &config);
        Self { bind, endpoint, proxy, lab }
    }

    fn client(&self) -> Client {
        Client::plain(self.bind)
    }
}

/// Answers with the request's target.
fn echo_target(conn: &mut Conn) {
    while let Some(request) = conn.request() {
        conn.answer(200, request.target());
    }
}

/// Answers with the request's body.
fn echo_body(conn: &mut Conn) {
    while let Some(request) = conn.request() {
        conn.answer(200, &request.text());
    }
}

/// Answers every request with these bytes.
fn say(response: &'static str) -> impl Fn(&mut Conn) + Send + Sync + 'static {
    move |conn| while conn.request().is_some() && conn.send(response) {}
}

fn assert_own(answer: &Message, status: u16) {
    assert_eq!(answer.status(), status, "{}", answer.start);
    let why = answer.field("proxy-status").unwrap_or_default();
    assert!(why.starts_with("standfast; error="), "{status} without Proxy-Status: {why:?}");
}

// --- what passes ---------------------------------------------------------------------------------

#[test]
fn kept_connections_carry_many_requests_on_both_sides() {
    let stage = Stage::new(echo_target);
    let mut client = stage.client();
    for n in 0..100 {
        assert_eq!(client.get(&format!("/{n}")).text(), format!("/{n}"));
    }
    assert_eq!(stage.endpoint.connections(), 1);
    stage.proxy.stop();
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let stage = Stage::new(echo_target);
    let mut client = stage.client();
    let requests: Vec<String> =
        (0..50).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: app.test\r\n\r\n")).collect();
    client.send(requests.concat());
    for n in 0..50 {
        assert_eq!(client.response("GET").text(), format!("/{n}"));
    }
    stage.proxy.stop();
}

#[test]
fn pipelined_request_behind_a_body_is_not_taken_for_the_body() {
    let stage = Stage::new(|conn| {
        while let Some(request) = conn.request() {
            conn.answer(200, &format!("{} {}", request.start, request.text()));
        }
    });
    let mut client = stage.client();
    client.send(
        "POST /1 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nfirst\
         POST /2 HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecond\r\n0\r\n\r\n\
         GET /3 HTTP/1.1\r\nHost: a.test\r\n\r\n",
    );
    assert_eq!(client.response("POST").text(), "POST /1 HTTP/1.1 first");
    assert_eq!(client.response("POST").text(), "POST /2 HTTP/1.1 second");
    assert_eq!(client.response("GET").text(), "GET /3 HTTP/1.1 ");
    stage.proxy.stop();
}

#[test]
fn chunked_bodies_and_their_trailers_pass_both_ways() {
    let stage = Stage::new(|conn| {
        while let Some(request) = conn.request() {
            let body = request.text();
            conn.send(format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                 3\r\nyou\r\n{:x};note=1\r\n{body}\r\n0\r\nX-Sum: 42\r\n\r\n",
                body.len()
            ));
        }
    });
    let mut client = stage.client();
    for _ in 0..2 {
        client.send(
            "POST / HTTP/1.1\r\nHost: app.test\r\nTE: trailers\r\nTrailer: X-Check\r\n\
             Transfer-Encoding: chunked\r\n\r\n\
             4\r\n sai\r\nA\r\nd so today\r\n0\r\nX-Check: 7\r\n\r\n",
        );
        let answer = client.response("POST");
        assert_eq!(answer.text(), "you said so today");
        assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
        let trailer = |message: &Message| message.trailers.first().map(|(_, v)| v.clone());
        assert_eq!(trailer(&answer).as_deref(), Some("42"));
        let request = stage.endpoint.requests().pop().unwrap();
        assert_eq!(trailer(&request).as_deref(), Some("7"));
    }
    stage.proxy.stop();
}

#[test]
fn expect_100_continue_is_answered_before_the_body_is_sent() {
    let stage = Stage::new(|conn| {
        while let Some(head) = conn.head_only() {
            if head.field("expect").is_some() {
                conn.send("HTTP/1.1 100 Continue\r\n\r\n");
            }
            let sum = conn.digest_body(&head).unwrap();
            conn.answer(200, &sum.length.to_string());
        }
    });
    let mut client = stage.client();
    for _ in 0..2 {
        client.send(
            "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        );
        assert_eq!(client.response("POST").status(), 100);
        client.send("hello");
        let answer = client.response("POST");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "5"));
    }
    stage.proxy.stop();
}

#[test]
fn refusal_instead_of_100_continue_reaches_the_client() {
    let stage = Stage::new(|conn| {
        if conn.head_only().is_some() {
            conn.send("HTTP/1.1 403 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
        }
    });
    let mut client = stage.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    );
    let mut answer = client.response("POST");
    if answer.status() == 100 {
        answer = client.response("POST");
    }
    assert_eq!((answer.status(), answer.text().as_str()), (403, "no"));
    stage.proxy.stop();
}

#[test]
fn interim_responses_are_passed_on_before_the_final_one() {
    let stage = Stage::new(say("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n\
                                HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    let mut client = stage.client();
    for _ in 0..2 {
        let early = client.get("/");
        assert_eq!((early.status(), early.field("link")), (103, Some("</a.css>")));
        assert_eq!(client.response("GET").text(), "ok");
    }
    // A client that speaks HTTP/1.0 knows no interim responses.
    client = stage.client();
    client.send("GET / HTTP/1.0\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.response("GET").status(), 200);
    stage.proxy.stop();
}

#[test]
fn responses_without_a_body_do_not_swallow_the_next_one() {
    let stage = Stage::new(|conn| {
        while let Some(request) = conn.request() {
            match (request.method(), request.target()) {
                ("HEAD", _) => conn.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
                (_, "/204") => conn.send("HTTP/1.1 204 No Content\r\n\r\n"),
                (_, "/304") => conn
                    .send("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n"),
                (_, "/empty") => conn.answer(200, ""),
                _ => conn.answer(200, "whole"),
            };
        }
    });
    let mut client = stage.client();
    client.send("HEAD / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let head = client.response("HEAD");
    assert_eq!((head.status(), head.field("content-length")), (200, Some("5")));
    assert_eq!(client.get("/204").status(), 204);
    assert_eq!(client.get("/").text(), "whole");
    let unmodified = client.get("/304");
    assert_eq!((unmodified.status(), unmodified.field("etag")), (304, Some("\"a\"")));
    assert_eq!(client.get("/empty").field("content-length"), Some("0"));
    assert_eq!(client.get("/").text(), "whole");
    assert_eq!(stage.endpoint.connections(), 1);
    stage.proxy.stop();
}

#[test]
fn http10_client_gets_what_it_understands() {
    let stage = Stage::new(|conn| {
        while let Some(request) = conn.request() {
            match request.target() {
                "/chunked" => conn.send(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                     5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
                ),
                _ => conn.answer(200, "counted"),
            };
        }
    });
    let mut client = stage.client();
    client.send("GET /chunked HTTP/1.0\r\n\r\n");
    let answer = client.response("GET");
    assert_eq!(answer.text(), "hello world");
    assert_eq!(answer.field("transfer-encoding"), None);
    let request = stage.endpoint.requests().pop().unwrap();
    assert!(request.start.ends_with("HTTP/1.1"), "{}", request.start);
    assert_eq!(request.count("host"), 1);

    let mut client = stage.client();
    client.send("GET / HTTP/1.0\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.response("GET").text(), "counted");
    client.assert_closed();

    let mut client = stage.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\n\r\n");
        let answer = client.response("GET");
        assert_eq!(answer.text(), "counted");
        assert!(answer.keeps(), "{:?}", answer.fields);
    }
    stage.proxy.stop();
}

#[test]
fn response_that_ends_with_its_connection_is_whole_for_the_client() {
    let stage = Stage::new(|conn| {
        if conn.request().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end");
        }
    });
    let mut client = stage.client();
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!(answer.text(), "until the end");
        if !answer.keeps() {
            client = stage.client();
        }
    }
    stage.proxy.stop();
}

#[test]
fn long_response_that_ends_with_its_connection_is_whole_for_the_client() {
    // Longer than what is copied behind a head, around the size of a buffer, and much longer.
    for length in [2_049, 5_000, 18_300, 18_432, 100_000] {
        let stage = Stage::new(move |conn| {
            if conn.request().is_some() {
                conn.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
                conn.send("x".repeat(length));
            }
        });
        assert_eq!(stage.client().get("/").text().len(), length);
        stage.proxy.stop();
    }
}

#[test]
fn small_chunk_behind_a_large_one_is_passed_on() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let stage = Stage::new(move |conn| {
        if conn.request().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            conn.send(format!("2710\r\n{}\r\n", "a".repeat(10_000)));
            let _ = wait.lock().unwrap().recv();
            conn.send("1\r\nb\r\n0\r\n\r\n");
        }
    });
    let mut client = stage.client();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
    assert_eq!(client.head().status(), 200);
    let (mut count, mut buf) = (0, [0; 4096]);
    while count < 10_000 {
        count += client.read(&mut buf).unwrap();
    }
    go.send(()).unwrap();
    let (rest, ended) = client.rest();
    assert!(rest.ends_with(b"1\r\nb\r\n0\r\n\r\n") && ended.is_ok(), "{ended:?} after {rest:?}");
    stage.proxy.stop();
}

#[test]
fn connection_close_is_each_sides_own_affair() {
    let stage = Stage::new(echo_target);
    for _ in 0..5 {
        let mut client = stage.client();
        client.send("GET /x HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
        let answer = client.response("GET");
        assert_eq!((answer.text().as_str(), answer.keeps()), ("/x", false));
        client.assert_closed();
    }
    // Five client connections may land on as many workers, but the endpoint's are reused by them.
    let requests = stage.endpoint.requests();
    assert!(requests.iter().all(|r| r.keeps()), "an endpoint was told to close");
    stage.proxy.stop();
}

#[test]
fn early_response_reaches_a_client_that_is_still_sending() {
    let stage = Stage::new(|conn| {
        if conn.head_only().is_some() {
            conn.send(
                "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig",
            );
        }
    });
    for _ in 0..5 {
        let mut client = stage.client();
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 50000000\r\n\r\n");
        let chunk = vec![b'x'; 64 * 1024];
        for _ in 0..16 {
            if client.try_send(&chunk).is_err() {
                break;
            }
        }
        let answer = client.response("POST");
        assert_eq!((answer.status(), answer.text().as_str()), (413, "big"));
    }
    stage.proxy.stop();
}

#[test]
fn client_that_closed_its_half_still_gets_its_answer() {
    let (go, gone) = (Arc::new(AtomicU64::new(0)), Duration::from_millis(5));
    let seen = Arc::clone(&go);
    let stage = Stage::new(move |conn| {
        while conn.request().is_some() {
            // Answers only once the client's FIN is on its way.
            while seen.load(Ordering::SeqCst) == 0 {
                std::thread::sleep(gone);
            }
            conn.answer(200, "late but whole");
        }
    });
    let mut client = stage.client();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    until("the endpoint has it", || (!stage.endpoint.requests().is_empty()).then_some(()));
    client.half_close();
    go.store(1, Ordering::SeqCst);
    assert_eq!(client.response("GET").text(), "late but whole");
    client.assert_closed();
    stage.proxy.stop();
}

#[test]
fn fields_pass_unchanged_and_in_their_order() {
    let stage = Stage::new(say(
        "HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nX-Empty:\r\nSet-Cookie: b=2\r\n\
         Server: mine\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n",
    ));
    let mut client = stage.client();
    client.send(
        "GET /a/%7Eb;c?q=1&r=%20?# HTTP/1.1\r\nHost: app.test\r\n\r\n".replace('#', "").as_str(),
    );
    let answer = client.response("GET");
    let cookies: Vec<_> =
        answer.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case("set-cookie")).collect();
    assert_eq!(cookies.len(), 2, "{answer:?}");
    assert_eq!((cookies[0].1.as_str(), cookies[1].1.as_str()), ("a=1; Path=/", "b=2"));
    assert_eq!(answer.field("x-empty"), Some(""));
    assert_eq!(answer.field("server"), Some("mine"));
    assert_eq!(answer.count("date"), 1);
    let request = stage.endpoint.requests().pop().unwrap();
    assert_eq!(request.target(), "/a/%7Eb;c?q=1&r=%20?");

    client.send(
        "GET / HTTP/1.1\r\nHost: app.test:8443\r\nCookie: a=1\r\nX-Two: 1\r\nX-Two: 2\r\n\
         Authorization: Basic eDp5\r\nContent-Type: a/b\r\n\r\n",
    );
    client.response("GET");
    let request = stage.endpoint.requests().pop().unwrap();
    assert_eq!(request.field("host"), Some("app.test:8443"));
    let two: Vec<_> = request.fields.iter().filter(|(n, _)| n == "X-Two").map(|f| &f.1).collect();
    assert_eq!(two, ["1", "2"]);
    assert_eq!(request.field("authorization"), Some("Basic eDp5"));
    stage.proxy.stop();
}

#[test]
fn options_asterisk_and_absolute_form_are_understood() {
    let stage = Stage::new(echo_target);
    let mut client = stage.client();
    client.send("OPTIONS * HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.response("OPTIONS").text(), "*");
    client.send("GET http://app.test/abs?q HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.response("GET").text(), "/abs?q");
    assert_eq!(stage.endpoint.requests().pop().unwrap().field("host"), Some("app.test"));
    stage.proxy.stop();
}

#[test]
fn curl_uploads_in_chunks_and_reads_it_back() {
    let stage = Stage::new(echo_body);
    // Much more than any buffer, so that chunks meet its end in every way.
    let body = "a line of text\n".repeat(300_000);
    std::fs::write(stage.lab.path("body"), &body).unwrap();
    let output = Command::new("curl")
        .args(["-sS", "--fail", "--max-time", "30", "-H", "Transfer-Encoding: chunked"])
        .args(["-T", "-"])
        .arg(format!("http://{}/up", stage.bind))
        .stdin(Stdio::from(File::open(stage.lab.path("body")).unwrap()))
        .output()
        .expect("curl is needed (tests/run installs it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), body);
    stage.proxy.stop();
}

// --- large bodies --------------------------------------------------------------------------------

#[test]
fn gibibyte_goes_up_and_down_over_tls_and_arrives_as_it_was_sent() {
    const LENGTH: u64 = 1024 * MIB;
    let lab = Lab::new();
    let (hot, bind) = (Nginx::start(&lab, "hot"), free_address());
    let tls = format!("tls: {}", lab.tls());
    let proxy = Proxy::start(&lab, &plain_with(bind, &tls, "", &hot.url()));
    let expected = Pattern::checksum(LENGTH);
    let mut client = Client::tls(bind, &lab.client_config(), "app.test");

    client.send(format!(
        "PUT /files/large HTTP/1.1\r\nHost: app.test\r\nContent-Length: {LENGTH}\r\n\r\n"
    ));
    let (mut pattern, mut buf) = (Pattern::new(LENGTH), vec![0; 256 * 1024]);
    loop {
        match pattern.fill(&mut buf) {
            0 => break,
            n => client.send(&buf[..n]),
        }
    }
    assert_eq!(client.response("PUT").status(), 201);
    let mut file = File::open(hot.file("large")).unwrap();
    let mut stored = Checksum::default();
    loop {
        match file.read(&mut buf).unwrap() {
            0 => break,
            n => stored.update(&buf[..n]),
        }
    }
    assert_eq!(stored.finish(), expected, "what the endpoint stored");

    client.send("GET /files/large HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let head = client.head();
    assert_eq!(head.status(), 200);
    assert_eq!(client.digest_body(&head).unwrap(), expected, "what the client read");
    let resident = proxy.resident() / MIB;
    assert!(resident < 128, "the proxy holds {resident} MiB");
    proxy.stop();
}

#[test]
fn response_is_held_back_by_a_client_that_does_not_read() {
    const LENGTH: u64 = 256 * MIB;
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let stage = Stage::new(move |conn| {
        while conn.request().is_some() {
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
            let (mut pattern, mut buf) = (Pattern::new(LENGTH), vec![0; 64 * 1024]);
            loop {
                match pattern.fill(&mut buf) {
                    0 => break,
                    n if conn.send(&buf[..n]) => counter.fetch_add(n as u64, Ordering::SeqCst),
                    _ => return,
                };
            }
        }
    });
    let mut client = stage.client();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let head = client.head();
    let stalled = stalls_at(&sent);
    assert!(stalled < 64 * MIB, "{} MiB were taken from the endpoint", stalled / MIB);
    assert!(stage.proxy.resident() < 128 * MIB, "{} bytes resident", stage.proxy.resident());
    assert_eq!(client.digest_body(&head).unwrap(), Pattern::checksum(LENGTH));
    stage.proxy.stop();
}

#[test]
fn upload_is_held_back_by_an_endpoint_that_does_not_read() {
    const LENGTH: u64 = 256 * MIB;
    let go = Arc::new(AtomicU64::new(0));
    let may = Arc::clone(&go);
    let stage = Stage::new(move |conn| {
        while let Some(head) = conn.head_only() {
            while may.load(Ordering::SeqCst) == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            let Some(sum) = conn.digest_body(&head) else { return };
            let right = sum == Pattern::checksum(LENGTH);
            conn.answer(200, if right { "right" } else { "wrong" });
        }
    });
    let sent = Arc::new(AtomicU64::new(0));
    let mut client = stage.client();
    let sender = std::thread::spawn({
        let sent = Arc::clone(&sent);
        move || {
            client.send("POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n");
            let (mut pattern, mut buf) = (Pattern::new(LENGTH), vec![0; 64 * 1024]);
            loop {
                let n = pattern.fill(&mut buf);
                client.send(format!("{n:x}\r\n"));
                client.send(&buf[..n]);
                client.send("\r\n");
                sent.fetch_add(n as u64, Ordering::SeqCst);
                if n == 0 {
                    return client;
                }
            }
        }
    });
    let stalled = stalls_at(&sent);
    assert!(stalled < 64 * MIB, "{} MiB were taken from the client", stalled / MIB);
    assert!(stage.proxy.resident() < 128 * MIB, "{} bytes resident", stage.proxy.resident());
    go.store(1, Ordering::SeqCst);
    let mut client = sender.join().unwrap();
    assert_eq!(client.response("POST").text(), "right");
    stage.proxy.stop();
}

/// Waits until a counter has moved and stands still.
fn stalls_at(counter: &AtomicU64) -> u64 {
    let mut before = 0;
    let mut still = 0;
    until("the stream stalls", || {
        std::thread::sleep(Duration::from_millis(50));
        let now = counter.load(Ordering::SeqCst);
        still = if now > 0 && now == before { still + 1 } else { 0 };
        before = now;
        (still == 6).then_some(now)
    })
}

// --- what is added -------------------------------------------------------------------------------

#[test]
fn endpoint_learns_who_asks_and_untrusted_claims_are_dropped() {
    let stage = Stage::new(echo_target);
    let mut client = stage.client();
    client.send(
        "GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: evil.test\r\nX-Request-Id: forged\r\nForwarded: for=6.6.6.6\r\n\
         X-Real-IP: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7\r\nVia: 1.0 before\r\n\r\n",
    );
    let answer = client.response("GET");
    assert_eq!(answer.status(), 200, "{}", answer.start);
    let request = stage.endpoint.requests().pop().unwrap();
    let all = |name: &str| -> Vec<&str> {
        let named = request.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, v)| v.as_str()).collect()
    };
    assert_eq!(all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(all("x-forwarded-proto"), ["http"]);
    assert_eq!(all("x-forwarded-host"), ["app.test"]);
    let via = all("via").join(", ");
    assert!(via.ends_with("1.1 standfast"), "{via}");
    let id = all("x-request-id");
    assert!(id.len() == 1 && id[0] != "forged" && id[0].len() >= 16, "{id:?}");
    client.get("/");
    let next = stage.endpoint.requests().pop().unwrap();
    assert_ne!(next.field("x-request-id"), Some(id[0]), "an id is used once");
    stage.proxy.stop();
}

#[test]
fn trusted_proxy_is_believed_and_appended_to() {
    let stage = Stage::with("trusted_proxies: [127.0.0.0/8]", "", echo_target);
    let mut client = stage.client();
    client.send(
        "GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: www.test\r\nX-Request-Id: theirs-0123456789\r\n\r\n",
    );
    client.response("GET");
    let request = stage.endpoint.requests().pop().unwrap();
    assert_eq!(request.field("x-forwarded-for"), Some("9.9.9.9, 127.0.0.1"));
    assert_eq!(request.field("x-forwarded-proto"), Some("https"));
    assert_eq!(request.field("x-forwarded-host"), Some("www.test"));
    assert_eq!(request.field("x-request-id"), Some("theirs-0123456789"));
    stage.proxy.stop();
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    let stage = Stage::new(say(
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Ours\r\nKeep-Alive: timeout=60\r\n\
         X-Ours: 1\r\nProxy-Authenticate: Basic\r\nX-Kept: 1\r\nContent-Length: 0\r\n\r\n",
    ));
    let mut client = stage.client();
    client.send(
        "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: X-Mine, keep-alive\r\nX-Mine: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nX-Kept: 1\r\nTE: gzip\r\n\r\n",
    );
    let answer = client.response("GET");
    assert_eq!((answer.status(), answer.field("x-kept")), (200, Some("1")));
    for name in ["x-ours", "keep-alive"] {
        assert_eq!(answer.field(name), None, "{name} reached the client");
    }
    let request = stage.endpoint.requests().pop().unwrap();
    assert_eq!(request.field("x-kept"), Some("1"));
    for name in ["x-mine", "keep-alive", "proxy-connection", "te"] {
        assert_eq!(request.field(name), None, "{name} reached the endpoint");
    }
    stage.proxy.stop();
}

// --- our own answers -----------------------------------------------------------------------------

#[test]
fn redirect_goes_to_the_same_address_on_https() {
    let (lab, bind) = (Lab::new(), free_address());
    let config = format!(
        "listeners:
  - {{ bind: {bind}, redirect: https }}
  - {{ bind: {}, tls: {}, service: app }}
services:
  app: {{ pools: [{{ name: hot, endpoints: [http://127.0.0.1:9] }}] }}
",
        free_address(),
        lab.tls()
    );
    let proxy = Proxy::start(&lab, &config);
    let mut client = Client::plain(bind);
    for method in ["GET", "POST"] {
        client.send(format!(
            "{method} /a/b?c=d HTTP/1.1\r\nHost: app.test:8080\r\nContent-Length: 0\r\n\r\n"
        ));
        let answer = client.response(method);
        assert_eq!(answer.status(), 308);
        let location = answer.field("location").unwrap();
        assert!(location.starts_with("https://app.test"), "{location}");
        assert!(location.ends_with("/a/b?c=d"), "{location}");
    }
    proxy.stop();
}

#[test]
fn routes_choose_by_host_and_path_and_the_rest_is_404() {
    let (lab, bind) = (Lab::new(), free_address());
    let named = |name: &'static str| Endpoint::answering(name);
    let (api, app, wild) = (named("api"), named("app"), named("wild"));
    let config = format!(
        "listeners:
  - bind: {bind}
    routes:
      - {{ hosts: [app.test], path_prefix: /api, service: api }}
      - {{ hosts: [app.test], service: app }}
      - {{ hosts: ['*.app.test'], service: wild }}
services:
  api: {{ pools: [{{ name: hot, endpoints: [{}] }}] }}
  app: {{ pools: [{{ name: hot, endpoints: [{}] }}] }}
  wild: {{ pools: [{{ name: hot, endpoints: [{}] }}] }}
",
        api.url(),
        app.url(),
        wild.url()
    );
    let proxy = Proxy::start(&lab, &config);
    let mut client = Client::plain(bind);
    let mut ask = |host: &str, path: &str| {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client.response("GET")
    };
    for (host, path, service) in [
        ("app.test", "/api", "api"),
        ("app.test", "/api/v1?x", "api"),
        ("APP.test:8443", "/api/", "api"),
        ("app.test", "/apis", "app"),
        ("app.test", "/x/../api/v1", "api"),
        ("app.test", "/", "app"),
        ("a.app.test", "/api", "wild"),
        ("a.b.app.test", "/", "wild"),
    ] {
        assert_eq!(ask(host, path).text(), service, "{host}{path}");
    }
    assert_own(&ask("other.test", "/"), 404);
    assert_eq!(ask("app.test", "/").text(), "app", "after a 404 the connection goes on");
    proxy.stop();
}

#[test]
fn other_upgrades_connect_and_trace_are_refused() {
    let stage = Stage::new(echo_target);
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: irc/6.9\r\n\r\n", 501),
        (
            "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            400,
        ),
        ("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\nHost: a.test\r\n\r\n", 405),
        ("GET / HTTP/2.0\r\nHost: a.test\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nExpect: more\r\n\r\n", 417),
    ] {
        let mut client = stage.client();
        client.send(request);
        assert_own(&client.response("GET"), status);
    }
    assert!(stage.endpoint.requests().is_empty());
    stage.proxy.stop();
}

#[test]
fn limits_are_answered_with_their_own_status() {
    let limits = "limits: { max_header_size: 4KiB, max_headers: 20, max_uri: 1KiB, \
                  max_body_size: 1KiB }";
    let stage = Stage::with(limits, "", echo_body);
    let fields = |count: usize, size: usize| {
        let value = "v".repeat(size);
        (0..count).map(|n| format!("X-{n}: {value}\r\n")).collect::<String>()
    };
    let get = |target: &str, fields: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")
    };
    for (request, status) in [
        (get(&format!("/{}", "u".repeat(1500)), ""), 414),
        (get("/", &fields(1, 5000)), 431),
        (get("/", &fields(25, 1)), 431),
        ("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1025\r\n\r\n".to_owned(), 413),
    ] {
        let mut client = stage.client();
        client.send(&request);
        assert_own(&client.response("GET"), status);
    }
    assert!(stage.endpoint.requests().is_empty());
    let mut client = stage.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n{}\r\n1\r\nx\r\n",
        "x".repeat(1024)
    ));
    assert_own(&client.response("POST"), 413);
    let mut client = stage.client();
    client.send(get("/", &fields(19, 100)));
    assert_eq!(client.response("GET").status(), 200);
    stage.proxy.stop();
}

// --- what is refused -----------------------------------------------------------------------------

/// Requests that are ambiguous or wrong, one fault each (reliability classes of HTTP/1.1 heads).
fn malformed_heads() -> Vec<Vec<u8>> {
    let post = |fields: &str| {
        format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n0\r\n\r\n").into_bytes()
    };
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n");
    let line = |line: &str| format!("{line}\r\nHost: a.test\r\n\r\n").into_bytes();
    let hosts = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}\r\n").into_bytes();
    let mut all = vec![
        post("Content-Length: 5\r\nTransfer-Encoding: chunked"),
        post("Transfer-Encoding: chunked\r\nContent-Length: 5"),
        post("Transfer-Encoding: gzip, chunked"),
        post("Transfer-Encoding: chunked, chunked"),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        post("Transfer-Encoding: identity"),
        post("Transfer-Encoding: xchunked"),
        post("Transfer-Encoding: \u{b}chunked"),
        post("Transfer-Encoding:"),
        post("Transfer-Encoding : chunked"),
        b"POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        hosts(""),
        hosts("Host: a.test\r\nHost: a.test\r\n"),
        hosts("Host: a.test, b.test\r\n"),
        hosts("Host: user@a.test\r\n"),
        hosts("Host: a.test:99999\r\n"),
        hosts("Host: a.test:x\r\n"),
        hosts("Host: a b\r\n"),
        line("GET http://b.test/ HTTP/1.1"),
        line("GET /a b HTTP/1.1"),
        line("GET  / HTTP/1.1"),
        line("GET /#fragment HTTP/1.1"),
        line("GET /\u{e4} HTTP/1.1"),
        line("GET /\u{1} HTTP/1.1"),
        line("GE(T / HTTP/1.1"),
        line("GET / HTTP/1.1 "),
        line("GET / http/1.1"),
        line("GET a HTTP/1.1"),
        line("/ HTTP/1.1"),
        b"GET / HTTP/1.1\nHost: a.test\n\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\nY: b\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\rY: b\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\n Host: a.test\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a.test\r\nX\xe4: a\r\n\r\n".to_vec(),
    ];
    let lengths =
        ["+5", "-1", "5, 5", "", "0x5", "5 5", "9223372036854775808", "18446744073709551617"];
    all.extend(lengths.map(|length| post(&format!("Content-Length: {length}"))));
    all.push(post("Content-Length: 5\r\nContent-Length: 5"));
    all.push(post("Content-Length: 5\r\nContent-Length: 6"));
    let fields = [
        "X: a\0b",
        "X: a\u{1}b",
        "X : a",
        "X: a\r\n folded",
        ": a",
        "no colon",
        "X_Y: a",
        "Connection: content-length",
        "Connection: host",
        "Connection: x-forwarded-for",
        "Connection: authorization",
        "Connection: transfer-encoding",
    ];
    all.extend(fields.map(|field| get(field).into_bytes()));
    all
}

#[test]
fn ambiguous_head_is_refused_with_400_and_the_connection_ends() {
    let stage = Stage::new(echo_body);
    let mut let_through = Vec::new();
    for request in malformed_heads() {
        let mut client = stage.client();
        client.send(&request);
        let shown = String::from_utf8_lossy(&request).into_owned();
        match client.try_response("POST") {
            Ok(answer) if answer.status() == 400 => {
                assert_own(&answer, 400);
                assert!(!answer.keeps(), "kept after {shown:?}");
                let _ = client.try_send(b"GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n");
                let (more, _) = client.rest();
                assert!(more.is_empty(), "another answer after {shown:?}");
            }
            Ok(answer) => let_through.push(format!("{shown:?} → {}", answer.start)),
            Err(error) => let_through.push(format!("{shown:?} → {error}")),
        }
    }
    assert!(let_through.is_empty(), "\n{}", let_through.join("\n"));
    assert!(stage.endpoint.requests().is_empty(), "something reached the endpoint");
    stage.proxy.stop();
}

#[test]
fn ambiguous_chunk_ends_the_request_and_never_completes_at_the_endpoint() {
    let stage = Stage::new(echo_body);
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "e".repeat(20_000));
    let bodies: [&str; 14] = [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhelloX0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        "11111111111111111\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n",
        "5\r\nhello\r\n0\r\nHost: b.test\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : a\r\n\r\n",
        &long,
    ];
    for body in bodies {
        let mut client = stage.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        ));
        let shown = &body[..body.len().min(60)];
        let answer = client.try_response("POST").unwrap_or_else(|e| panic!("{shown:?}: {e}"));
        assert_own(&answer, 400);
        assert!(!answer.keeps(), "kept after {shown:?}");
    }
    assert!(stage.endpoint.requests().is_empty(), "a wrong body completed at the endpoint");
    stage.proxy.stop();
}

#[test]
fn body_that_breaks_off_never_completes_at_the_endpoint() {
    let stage = Stage::new(echo_body);
    for request in [
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhalf",
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let mut client = stage.client();
        client.send(request);
        client.half_close();
        if let Ok(answer) = client.try_response("POST") {
            assert_own(&answer, 400);
        }
    }
    // A whole request afterwards shows that the two before are over.
    assert_eq!(stage.client().get("/").status(), 200);
    let requests = stage.endpoint.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    stage.proxy.stop();
}

// --- slow clients --------------------------------------------------------------------------------

/// Sends a byte now and then until the other side has had enough; panics if it never has.
fn drip(client: &mut Client, byte: &[u8]) {
    for _ in 0..400 {
        if client.try_send(byte).is_err() {
            return;
        }
        client.set_read_timeout(Duration::from_millis(25));
        match client.try_response("GET") {
            Ok(answer) => return assert_own(&answer, 408),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
    panic!("a client that drips is served for ever");
}

#[test]
fn slow_head_is_ended_at_header_timeout_though_bytes_keep_coming() {
    let stage = Stage::with("limits: { header_timeout: 300ms }", "", echo_target);
    let mut client = stage.client();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nX: ");
    drip(&mut client, b"x");
    let mut silent = stage.client();
    silent.send("GET / HT");
    if let Ok(answer) = silent.try_response("GET") {
        assert_own(&answer, 408);
    }
    silent.assert_closed();
    assert_eq!(stage.client().get("/").status(), 200);
    stage.proxy.stop();
}

#[test]
fn silent_connection_is_closed_at_its_timeout_without_a_word() {
    let limits = "limits: { header_timeout: 300ms, idle_timeout: 400ms }";
    let stage = Stage::with(limits, "", echo_target);
    stage.client().assert_closed();
    let mut kept = stage.client();
    assert_eq!(kept.get("/").status(), 200);
    kept.assert_closed();
    stage.proxy.stop();
}

#[test]
fn silent_body_is_ended_at_body_timeout_on_both_sides() {
    let ended = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&ended);
    let stage = Stage::with("limits: { body_timeout: 300ms }", "", move |conn| {
        while let Some(head) = conn.head_only() {
            if conn.digest_body(&head).is_none() {
                counter.fetch_add(1, Ordering::SeqCst);
                return;
            }
            conn.answer(200, "whole");
        }
    });
    let mut client = stage.client();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhal");
    if let Ok(answer) = client.try_response("POST") {
        assert_own(&answer, 408);
    }
    client.assert_closed();
    until("the endpoint is let go", || (ended.load(Ordering::SeqCst) == 1).then_some(()));
    stage.proxy.stop();
}

#[test]
fn connections_above_the_limit_are_turned_away_and_places_are_given_back() {
    let stage = Stage::with("limits: { max_connections: 3 }", "", echo_target);
    let mut kept: Vec<Client> = (0..3).map(|_| stage.client()).collect();
    for client in &mut kept {
        assert_eq!(client.get("/").status(), 200);
    }
    let mut fourth = stage.client();
    let _ = fourth.try_send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    if let Ok(answer) = fourth.try_response("GET") {
        assert_own(&answer, 503);
    }
    drop(kept);
    until("a place is free again", || {
        let mut client = stage.client();
        client.try_send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").ok()?;
        (client.try_response("GET").ok()?.status() == 200).then_some(())
    });
    stage.proxy.stop();
}

#[test]
fn smallest_configuration_serves() {
    let (lab, endpoint, bind) = (Lab::new(), Endpoint::answering("here"), free_address());
    let proxy = Proxy::start(&lab, &plain(bind, &endpoint.url()));
    assert_eq!(Client::plain(bind).get("/").text(), "here");
    proxy.stop();
}
