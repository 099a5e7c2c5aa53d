//! Endpoints that misbehave: what the client sees, and that nothing of it leaks into the next answer.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::client::Client;
use support::endpoint::{Conn, Endpoint};
use support::lab::{Lab, plain_with};
use support::proxy::Proxy;
use support::wire::Message;
use support::{free_address, until};

/// A proxy in front of one hostile endpoint. Times are short, so that hanging costs little.
struct Stage {
    bind: SocketAddr,
    endpoint: Endpoint,
    proxy: Proxy,
    _lab: Lab,
}

const TIMES: &str = "timeouts: { connect: 500ms, response_header: 500ms, idle: 500ms }";

fn stage(script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Stage {
    let (lab, endpoint, bind) = (Lab::new(), Endpoint::start(script), free_address());
    let config =
        format!("process: {{ workers: 1 }}\n{}", plain_with(bind, "", TIMES, &endpoint.url()));
    let proxy = Proxy::start(&lab, &config);
    Stage { bind, endpoint, proxy, _lab: lab }
}

/// Sends these bytes in answer to every request, then ends the connection.
fn says(bytes: &'static [u8]) -> impl Fn(&mut Conn) + Send + Sync + 'static {
    move |conn| {
        if conn.request().is_some() {
            conn.send(bytes);
        }
    }
}

fn get(stage: &Stage) -> io::Result<Message> {
    let mut client = Client::plain(stage.bind);
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    client.try_response("GET")
}

fn assert_own(answer: &Message, status: u16) {
    assert_eq!(answer.status(), status, "{}", answer.start);
    let why = answer.field("proxy-status").unwrap_or_default();
    assert!(why.starts_with("standfast; error="), "{status} without Proxy-Status: {why:?}");
}

#[test]
fn accept_and_hang_is_504_at_its_timeout() {
    let stage = stage(|conn| drop(conn.until_closed()));
    assert_own(&get(&stage).unwrap(), 504);
    let lost = [("service", "app"), ("reason", "timeout")];
    until("the loss is counted", || {
        (stage.proxy.metrics().sum("standfast_requests_lost_total", &lost) >= 1.0).then_some(())
    });
    stage.proxy.stop();
}

#[test]
fn hanging_half_of_a_head_is_504() {
    let stage = stage(|conn| {
        if conn.request().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Le");
            conn.until_closed();
        }
    });
    assert_own(&get(&stage).unwrap(), 504);
    stage.proxy.stop();
}

#[test]
fn head_that_drips_for_ever_is_ended() {
    let stage = stage(|conn| {
        if conn.request().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nX: ");
            while conn.send("x") && !conn.closed_within(Duration::from_millis(50)) {}
        }
    });
    assert_own(&get(&stage).unwrap(), 504);
    stage.proxy.stop();
}

#[test]
fn endless_head_is_502_and_bounded() {
    let stage = stage(|conn| {
        if conn.request().is_some() && conn.send("HTTP/1.1 200 OK\r\n") {
            while conn.send(format!("X: {}\r\n", "y".repeat(8000))) {}
        }
    });
    assert_own(&get(&stage).unwrap(), 502);
    stage.proxy.stop();
}

#[test]
fn endless_interim_responses_are_502_and_bounded() {
    let stage = stage(|conn| {
        if conn.request().is_some() {
            while conn.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(100)) {}
        }
    });
    let mut client = Client::plain(stage.bind);
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let mut interim = 0;
    let last = loop {
        match client.try_response("GET") {
            Ok(answer) if answer.status() == 103 => interim += 1,
            other => break other,
        }
        assert!(interim < 100_000, "interim responses without end");
    };
    if let Ok(answer) = last {
        assert_own(&answer, 502);
    }
    stage.proxy.stop();
}

#[test]
fn close_and_reset_before_an_answer_are_502() {
    let closes = stage(|conn| drop(conn.request()));
    assert_own(&get(&closes).unwrap(), 502);
    closes.proxy.stop();
    let resets = stage(|conn| {
        conn.request();
        conn.reset_at_end();
    });
    assert_own(&get(&resets).unwrap(), 502);
    resets.proxy.stop();
    let at_once = stage(|conn| conn.reset_at_end());
    assert_own(&get(&at_once).unwrap(), 502);
    at_once.proxy.stop();
}

#[test]
fn nobody_listening_is_502_and_any_method_is_tried_elsewhere() {
    let (lab, bind, endpoint) = (Lab::new(), free_address(), Endpoint::answering("alive"));
    let endpoints = format!("http://{}, {}", free_address(), endpoint.url());
    let proxy = Proxy::start(&lab, &plain_with(bind, "", TIMES, &endpoints));
    let mut client = Client::plain(bind);
    for _ in 0..40 {
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(client.response("POST").text(), "alive");
    }
    assert_eq!(endpoint.requests().len(), 40);
    proxy.stop();

    let proxy = Proxy::start(&lab, &plain_with(bind, "", TIMES, "http://127.0.0.1:9"));
    assert_own(&Client::plain(bind).get("/"), 502);
    proxy.stop();
}

/// Heads a client must never see, each wrong in a way of its own.
const WRONG_HEADS: [&[u8]; 24] = [
    b"",
    b"\r\n\r\n",
    b"hello\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"HTTP/1.1\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 600 High\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nab",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nraw",
];

#[test]
fn wrong_head_is_502_and_nothing_of_it_reaches_the_client() {
    let stage = stage(|conn| {
        if let Some(request) = conn.request() {
            let index: usize = request.target().trim_start_matches('/').parse().unwrap();
            conn.send(WRONG_HEADS[index]);
        }
    });
    let mut passed = Vec::new();
    for (index, head) in WRONG_HEADS.iter().enumerate() {
        let mut client = Client::plain(stage.bind);
        client.send(format!("GET /{index} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        match client.try_response("GET") {
            Ok(answer) if answer.status() == 502 => assert_own(&answer, 502),
            other => passed.push(format!("{:?} → {other:?}", String::from_utf8_lossy(head))),
        }
    }
    assert!(passed.is_empty(), "\n{}", passed.join("\n"));
    stage.proxy.stop();
}

/// The client must see that the body is cut: no whole message may come of it.
fn assert_cut(stage: &Stage) {
    match get(stage) {
        Ok(answer) => assert_own(&answer, 502),
        Err(error) => assert!(
            !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
            "the client hangs"
        ),
    }
    let lost = [("service", "app"), ("reason", "cut")];
    until("the loss is counted", || {
        (stage.proxy.metrics().sum("standfast_requests_lost_total", &lost) >= 1.0).then_some(())
    });
}

#[test]
fn short_body_is_seen_as_short() {
    let stage = stage(says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"));
    assert_cut(&stage);
    stage.proxy.stop();
}

#[test]
fn body_without_its_last_chunk_is_seen_as_cut() {
    let stage = stage(says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n"));
    assert_cut(&stage);
    stage.proxy.stop();
}

#[test]
fn chunk_that_breaks_off_is_seen_as_cut() {
    let stage = stage(says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nshort"));
    assert_cut(&stage);
    stage.proxy.stop();
}

#[test]
fn reset_inside_a_body_is_seen_as_cut() {
    let stage = stage(|conn| {
        if conn.request().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nbeginning");
            conn.reset_at_end();
        }
    });
    assert_cut(&stage);
    stage.proxy.stop();
}

#[test]
fn wrong_chunk_size_never_makes_a_whole_answer() {
    for body in [
        "zz\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
    ] {
        let stage = stage(move |conn| {
            if conn.request().is_some() {
                conn.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
            }
        });
        if let Ok(answer) = get(&stage) {
            assert_own(&answer, 502);
        }
        stage.proxy.stop();
    }
}

#[test]
fn body_that_falls_silent_is_ended_at_the_idle_timeout() {
    let stage = stage(|conn| {
        if conn.request().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome");
            conn.until_closed();
        }
    });
    assert!(get(&stage).is_err(), "the client saw a whole answer");
    stage.proxy.stop();
}

#[test]
fn bytes_after_a_response_are_nobodys_answer() {
    // The second response belongs to no request: whoever reuses the connection would get it.
    let stage = stage(|conn| {
        while let Some(request) = conn.request() {
            let target = request.target();
            let length = target.len();
            conn.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}\
                 HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
            ));
        }
    });
    let mut client = Client::plain(stage.bind);
    for n in 0..50 {
        assert_eq!(client.get(&format!("/{n}")).text(), format!("/{n}"));
    }
    assert_eq!(stage.endpoint.connections(), 50, "a poisoned connection was reused");
    stage.proxy.stop();
}

#[test]
fn bytes_that_come_while_a_connection_is_idle_are_nobodys_answer() {
    let stage = stage(|conn| {
        while let Some(request) = conn.request() {
            conn.answer(200, request.target());
            std::thread::sleep(Duration::from_millis(20));
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
        }
    });
    let mut client = Client::plain(stage.bind);
    for n in 0..20 {
        let answer = client.get(&format!("/{n}"));
        // Sent before the poison came, a request can only fail; it never gets the wrong answer.
        assert_ne!(answer.text(), "poison");
        assert!(answer.status() != 200 || answer.text() == format!("/{n}"), "{}", answer.text());
        std::thread::sleep(Duration::from_millis(30));
    }
    stage.proxy.stop();
}

#[test]
fn body_where_none_may_be_is_nobodys_answer() {
    for head in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 43\r\n\r\n",
    ] {
        let stage = stage(move |conn| {
            while conn.request().is_some() {
                conn.send(format!("{head}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"));
            }
        });
        let mut client = Client::plain(stage.bind);
        for _ in 0..10 {
            let answer = client.get("/");
            assert!(matches!(answer.status(), 204 | 304), "{}", answer.start);
        }
        stage.proxy.stop();
    }
}

#[test]
fn hostile_endpoint_does_not_keep_others_from_being_served() {
    let (lab, bind) = (Lab::new(), free_address());
    let let_go = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&let_go);
    let hangs = Endpoint::start(move |conn| {
        conn.until_closed();
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let good = Endpoint::answering("good");
    let config = format!(
        "process: {{ workers: 1 }}
listeners:
  - bind: {bind}
    routes: [{{ path_prefix: /bad, service: bad }}, {{ path_prefix: /, service: good }}]
services:
  bad: {{ timeouts: {{ response_header: 5s }}, pools: [{{ name: hot, endpoints: [{}] }}] }}
  good: {{ pools: [{{ name: hot, endpoints: [{}] }}] }}
",
        hangs.url(),
        good.url()
    );
    let proxy = Proxy::start(&lab, &config);
    let waiting: Vec<Client> = (0..100)
        .map(|_| {
            let mut client = Client::plain(bind);
            client.send("GET /bad HTTP/1.1\r\nHost: app.test\r\n\r\n");
            client
        })
        .collect();
    until("all of them hang", || (hangs.connections() == 100).then_some(()));
    let mut client = Client::plain(bind);
    for _ in 0..100 {
        assert_eq!(client.get("/").text(), "good");
    }
    drop(waiting);
    // Clients that left free what they held.
    until("the endpoint is let go", || (let_go.load(Ordering::SeqCst) == 100).then_some(()));
    proxy.stop();
}

/// A TLS endpoint that follows every answer with one nobody asked for, in the same segment. The
/// answer fills the buffer it is read into to the last byte, so that the rest stays inside of TLS.
fn says_more_than_asked(lab: &Lab) -> SocketAddr {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = vec![CertificateDer::from_pem_file(&lab.app.cert_file).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&lab.app.key_file).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            std::thread::spawn(move || while answer_twice(&mut tls, &mut socket).is_ok() {});
        }
    });
    address
}

fn answer_twice(tls: &mut rustls::ServerConnection, socket: &mut TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut chunk = [0; 4096];
        let count = rustls::Stream::new(tls, socket).read(&mut chunk)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        request.extend_from_slice(&chunk[..count]);
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 18000\r\n\r\n";
    let body = "r".repeat(18 * 1024 - head.len());
    let head = head.replace("18000", &body.len().to_string());
    tls.writer().write_all(format!("{head}{body}").as_bytes())?;
    tls.writer().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")?;
    let mut segment = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut segment)?;
    }
    socket.write_all(&segment)
}

#[test]
fn answer_nobody_asked_for_is_not_the_next_one_over_tls_either() {
    let (lab, bind) = (Lab::new(), free_address());
    let endpoint = says_more_than_asked(&lab);
    let service = format!("upstream: {{ tls: {{ ca_file: {} }} }}", lab.ca.ca_file.display());
    let config = plain_with(bind, "", &service, &format!("https://{endpoint}"));
    let proxy = Proxy::start(&lab, &format!("process: {{ workers: 1 }}\n{config}"));
    let mut client = Client::plain(bind);
    for _ in 0..20 {
        assert!(client.get("/").text().starts_with("rrr"), "an answer to nobody was taken");
    }
    proxy.stop();
}
