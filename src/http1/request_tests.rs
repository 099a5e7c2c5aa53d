use super::*;
use crate::http1::forward::{self, RequestEdits};

const LIMITS: Limits = Limits { head_size_max: 4096, headers_max: 16, uri_max: 1024 };

fn parse(head: &[u8]) -> Result<Request, RequestError> {
    let mut request = Request::default();
    match request.parse(head, &LIMITS)? {
        Parsed::Complete(len) => assert_eq!(len, head.len()),
        Parsed::Partial => return Err(error(0, "partial")),
    }
    Ok(request)
}

fn forwarded(head: &[u8], trusted: bool) -> String {
    let request = parse(head).unwrap();
    let edits = RequestEdits {
        client: "192.0.2.7".parse().unwrap(),
        trusted,
        https: true,
        request_id: b"id-1",
        fallback_host: b"10.0.0.1:80",
    };
    let mut out = Vec::new();
    forward::request(&mut out, &request, head, &edits);
    String::from_utf8(out).unwrap()
}

/// `fields` in a GET with a Host.
fn get(fields: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
}

fn status(head: &[u8]) -> u16 {
    parse(head).map_or_else(|error| error.status, |_| 200)
}

#[test]
fn what_is_parsed_can_be_asked_for() {
    let head =
        b"\r\nPOST /a/../b?c=%d HTTP/1.1\r\nhost: App.example:8443\r\nContent-Length: 007\r\n\
                 X-Empty:\r\nX-Tab: \t a\tb \t\r\nExpect: 100-Continue\r\n\r\n";
    let request = parse(head).unwrap();
    assert_eq!(request.method(), Method::Post);
    assert_eq!(request.method_bytes(head), b"POST");
    assert_eq!(request.path(head), b"/b");
    assert_eq!(request.query(head), Some(&b"c=%d"[..]));
    assert_eq!(request.authority(head), b"App.example:8443");
    assert_eq!(request.host(head), b"App.example");
    assert_eq!(request.version(), Version::Http11);
    assert_eq!((request.body(), request.content_length()), (Body::Length(7), Some(7)));
    assert!(request.keep_alive() && request.expects_continue() && request.has_body());
    assert_eq!(request.field(head, "x-empty"), Some(&b""[..]));
    assert_eq!(request.field(head, "x-tab"), Some(&b"a\tb"[..]));
    assert_eq!(request.field(head, "x-none"), None);
}

#[test]
fn the_connection_is_kept_as_version_and_option_say() {
    for (version, option, kept) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: x-a, Close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{option}\r\n");
        assert_eq!(parse(head.as_bytes()).unwrap().keep_alive(), kept, "{head}");
    }
}

#[test]
fn ambiguous_framing_is_refused() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked;a=b\r\n",
        "Transfer-Encoding: ,chunked\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer_Encoding: chunked\r\n",
        "Content-Length:\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5,\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 5.0\r\n",
        "Content-Length: 1e1\r\n",
        "Content-Length: \u{665}\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\ncontent-length: 6\r\n",
        "Content-Length: 9223372036854775808\r\n",
        "Content-Length: 18446744073709551621\r\n",
        "Content_Length: 5\r\n",
    ] {
        assert_eq!(status(&get(fields)), 400, "{fields:?}");
    }
    assert_eq!(status(b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    assert_eq!(status(&get("Content-Length: 9223372036854775807\r\n")), 200);
    let head = get("Transfer-Encoding: Chunked\r\n");
    assert_eq!(parse(&head).unwrap().body(), Body::Chunked);
}

#[test]
fn malformed_lines_are_refused() {
    for fields in [
        "A: b\n",
        "A: b\r",
        "A: b\rC: d\r\n",
        "A: \nB: c\r\n",
        "A:\n",
        "A: b\0c\r\n",
        "A: b\x01\r\n",
        "A: b\x7f\r\n",
        "A : b\r\n",
        "A\t: b\r\n",
        ": b\r\n",
        "A b\r\n",
        "A\r\n",
        "A\0: b\r\n",
        "\u{c4}: b\r\n",
        " A: b\r\n",
        "A: b\r\n c\r\n",
        "A: b\r\n\tc\r\n",
        "A(: b\r\n",
        "A@b: c\r\n",
        "A_b: c\r\n",
        "_: c\r\n",
        "\x0bA: b\r\n",
        "A[]: b\r\n",
    ] {
        assert_eq!(status(&get(fields)), 400, "{fields:?}");
    }
    for head in [
        &b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        b"GET / HTTP/1.1\r\nHost: a\n\n",
        b"GET / HTTP/1.0\n\r\n",
        b"GET / HTTP/1.0\r\n\n",
        b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / \r\nHost: a\r\n\r\n",
        b"GET HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / http/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
        b"GET / HTTP/01.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/+1.1\r\nHost: a\r\n\r\n",
        b"GET / HTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(status(head), 400, "{}", head.escape_ascii());
    }
    assert_eq!(status(&get("A: \u{e9}\tb\r\n")), 200);
}

#[test]
fn statuses_say_what_is_wrong() {
    let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n").into_bytes();
    for (request_line, expected) in [
        ("CONNECT a:443 HTTP/1.1", 405),
        ("TRACE / HTTP/1.1", 405),
        ("PRI * HTTP/1.1", 405),
        ("PRI * HTTP/2.0", 505),
        ("GET / HTTP/2.0", 505),
        ("GET / HTTP/1.2", 505),
        ("GET / HTTP/0.9", 505),
        ("OPTIONS * HTTP/1.1", 200),
        ("GET * HTTP/1.1", 400),
        ("PROPFIND /a HTTP/1.1", 200),
    ] {
        assert_eq!(status(&line(request_line)), expected, "{request_line}");
    }
    for (fields, expected) in [
        ("Expect: 100-continue\r\n", 200),
        ("Expect: 200-ok\r\n", 417),
        ("Expect: 100-continue, x\r\n", 417),
        ("Expect:\r\n", 417),
        ("Expect: 100-continue\r\nExpect: x\r\n", 417),
        ("Upgrade: websocket\r\nConnection: upgrade\r\n", 400),
        ("Upgrade: h2c, websocket\r\nConnection: x-a\r\nConnection: Upgrade\r\n", 501),
        ("Upgrade: websocket\r\n", 200),
        ("Upgrade: h2c\r\nHTTP2-Settings: AA\r\nConnection: Upgrade, HTTP2-Settings\r\n", 200),
    ] {
        assert_eq!(status(&get(fields)), expected, "{fields:?}");
    }
}

/// The fields of a WebSocket's handshake, as in RFC 6455 section 1.3.
const HANDSHAKE: &str = "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

#[test]
fn only_a_whole_handshake_asks_for_a_websocket() {
    let mut request = Request::default();
    request.parse(&get(HANDSHAKE), &LIMITS).unwrap();
    assert!(request.wants_websocket());
    request.parse(&get("Upgrade: h2c\r\nConnection: Upgrade\r\n"), &LIMITS).unwrap();
    assert!(!request.wants_websocket(), "of the request before");
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (fields, expected) in [
        (HANDSHAKE.replace(key, ""), 400),
        (HANDSHAKE.replace(key, &format!("{key}{key}")), 400),
        (HANDSHAKE.replace("dGhlIHNhbXBsZSBub25jZQ==", ""), 400),
        (HANDSHAKE.replace("Sec-WebSocket-Version: 13\r\n", ""), 400),
        (HANDSHAKE.replace("Upgrade\r\n", "Upgrade, Sec-WebSocket-Key\r\n"), 400),
        (format!("{HANDSHAKE}Content-Length: 5\r\n"), 400),
        (format!("{HANDSHAKE}Upgrade: websocket\r\n"), 501),
        (HANDSHAKE.replace("WebSocket\r\n", "websocket, h2c\r\n"), 501),
        (HANDSHAKE.replace("WebSocket\r\n", "websocket/13\r\n"), 501),
        (HANDSHAKE.replace("keep-alive, Upgrade", "keep-alive"), 200),
    ] {
        assert_eq!(status(&get(&fields)), expected, "{fields:?}");
    }
    let post = format!("POST / HTTP/1.1\r\nHost: a\r\n{HANDSHAKE}\r\n");
    assert_eq!(status(post.as_bytes()), 400);
    let old = format!("GET / HTTP/1.0\r\nHost: a\r\n{HANDSHAKE}\r\n");
    assert_eq!(status(old.as_bytes()), 501);
}

#[test]
fn a_handshake_is_forwarded_with_upgrade_and_connection_of_our_own() {
    let text = forwarded(&get(HANDSHAKE), false);
    assert!(text.ends_with("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), "{text}");
    assert_eq!(text.matches("Upgrade").count(), 2, "{text}");
    assert!(text.contains("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "{text}");
}

#[test]
fn hosts_are_there_once_and_mean_one_thing() {
    let host = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}\r\n").into_bytes();
    for fields in [
        "",
        "Host:\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host: a, b\r\n",
        "Host: u@a\r\n",
        "Host: a:b\r\n",
        "Host: a:99999\r\n",
        "Host: a b\r\n",
        "Host: a/\r\n",
        "Host: http://a\r\n",
        "Host: \u{e9}\r\n",
    ] {
        assert_eq!(status(&host(fields)), 400, "{fields:?}");
    }
    assert_eq!(status(b"GET http://a/ HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(status(b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n"), 400);
    assert_eq!(status(b"GET http://a/ HTTP/1.1\r\nHost: a:80\r\n\r\n"), 400);
    assert_eq!(status(b"GET http://u@a/ HTTP/1.1\r\nHost: u@a\r\n\r\n"), 400);
    assert_eq!(status(b"GET http:///x HTTP/1.0\r\n\r\n"), 400);
    let head = b"GET HTTP://A:81/x HTTP/1.1\r\nHost: a:81\r\n\r\n";
    let request = parse(head).unwrap();
    assert_eq!((request.authority(head), request.path(head)), (&b"A:81"[..], &b"/x"[..]));
    let head = b"GET / HTTP/1.0\r\n\r\n";
    assert_eq!(parse(head).unwrap().authority(head), b"");
}

#[test]
fn connection_may_not_take_away_what_others_rely_on() {
    for name in [
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Authorization",
        "Cookie",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "Forwarded",
        "X-Real-IP",
        "Via",
        "X-Request-Id",
        "Connection",
        "Expect",
        "Content-Type",
        "a b",
        "a;b",
        "\"close\"",
    ] {
        assert_eq!(status(&get(&format!("Connection: close, {name}\r\n"))), 400, "{name}");
    }
    let many = |count| format!("Connection: {}\r\n", "x,".repeat(count));
    assert_eq!(status(&get(&many(32))), 200);
    assert_eq!(status(&get(&many(33))), 400);
}

#[test]
fn limits_hold_for_whole_and_for_partial_heads() {
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(1024));
    let fits = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(1023));
    let field = format!("A: {}\r\n", "x".repeat(4096));
    assert_eq!(status(long.as_bytes()), 414);
    assert_eq!(status(fits.as_bytes()), 200);
    assert_eq!(status(&get(&field)), 431);
    assert_eq!(status(&get(&"A: b\r\n".repeat(15))), 200);
    assert_eq!(status(&get(&"A: b\r\n".repeat(16))), 431);
    assert_eq!(status(format!("{} / HTTP/1.1\r\n", "X".repeat(33)).as_bytes()), 400);
    for (head, expected) in [(long.as_bytes(), 414), (&get(&field)[..], 431)] {
        assert_eq!(drip(head), Err(expected));
    }
    assert_eq!(drip("X".repeat(99).as_bytes()), Err(400));
    assert_eq!(drip(b"\r\n\r\n\r\n\r\n\r\n\r\n"), Err(400));
    assert_eq!(drip(b"GET / HTTP/1.1\r\nHost: a\nB: c"), Err(400));
}

/// The length of a head given byte by byte, or the status it is refused with.
fn drip(head: &[u8]) -> Result<usize, u16> {
    let mut request = Request::default();
    for end in 1..=head.len() {
        match request.parse(&head[..end], &LIMITS) {
            Ok(Parsed::Partial) => {}
            Ok(Parsed::Complete(len)) => return Ok(len),
            Err(error) => return Err(error.status),
        }
    }
    Err(0)
}

#[test]
fn a_configuration_may_allow_more_fields_than_usual() {
    let limits = Limits { headers_max: 500, ..LIMITS };
    let mut request = Request::default();
    let head = get(&"A: b\r\n".repeat(499));
    assert_eq!(request.parse(&head, &limits), Ok(Parsed::Complete(head.len())));
    let head = get(&"A: b\r\n".repeat(500));
    assert_eq!(request.parse(&head, &limits).map_err(|error| error.status), Err(431));
}

#[test]
fn an_untrusted_client_says_nothing_about_itself() {
    let head =
        b"POST http://app:81/a/./b?c HTTP/1.1\r\nhost: app:81\r\nX-Forwarded-For: 1.1.1.1\r\n\
                 X-Forwarded-Proto: gopher\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\n\
                 Forwarded: for=1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\nX-Request-Id: theirs\r\n\
                 Via: 1.1 them\r\nAccept:   */* \r\nContent-Length: 3\r\n\r\n";
    assert_eq!(
        forwarded(head, false),
        "POST /a/b?c HTTP/1.1\r\nHost: app:81\r\nAccept: */*\r\nContent-Length: 3\r\n\
         X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: app:81\r\n\
         X-Request-Id: id-1\r\nVia: 1.1 standfast\r\n\r\n"
    );
}

#[test]
fn a_trusted_proxy_is_believed_and_continued() {
    let head =
        b"GET / HTTP/1.1\r\nHost: app\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\n\
                 X-Forwarded-Proto: http\r\nX-Forwarded-Host: front\r\nX-Forwarded-Port: 80\r\n\
                 Forwarded: for=1.1.1.1\r\nX-Request-Id: theirs\r\nVia: 1.1 them\r\n\r\n";
    assert_eq!(
        forwarded(head, true),
        "GET / HTTP/1.1\r\nHost: app\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: front\r\n\
         X-Forwarded-Port: 80\r\nForwarded: for=1.1.1.1\r\n\
         X-Forwarded-For: 1.1.1.1, 2.2.2.2, 192.0.2.7\r\n\
         X-Request-Id: theirs\r\nVia: 1.1 them, 1.1 standfast\r\n\r\n"
    );
    let insane = format!("X-Request-Id: {}\r\n", "x".repeat(129));
    assert!(forwarded(&get(&insane), true).contains("X-Request-Id: id-1\r\n"));
    assert!(forwarded(&get("X-Request-Id: a b\r\n"), true).contains("X-Request-Id: id-1\r\n"));
}

#[test]
fn what_is_for_one_hop_stays_behind() {
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Hop , upgrade, HTTP2-Settings\r\n\
                 X-Hop: 1\r\nx-hop: 2\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\nTE: trailers\r\n\
                 Proxy-Authenticate: x\r\nProxy-Authorization: y\r\nProxy: z\r\nUpgrade: h2c\r\n\
                 HTTP2-Settings: AA\r\nTrailer: Digest\r\nTransfer-Encoding: chunked\r\n\
                 Expect: 100-continue\r\n\r\n";
    assert_eq!(
        forwarded(head, false),
        "POST / HTTP/1.1\r\nHost: a\r\nTrailer: Digest\r\nTransfer-Encoding: chunked\r\n\
         X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a\r\n\
         X-Request-Id: id-1\r\nVia: 1.1 standfast\r\n\r\n"
    );
}

#[test]
fn an_old_client_without_host_gets_the_endpoints() {
    assert_eq!(
        forwarded(b"POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\n", false),
        "POST / HTTP/1.1\r\nHost: 10.0.0.1:80\r\nContent-Length: 0\r\n\
         X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\
         X-Request-Id: id-1\r\nVia: 1.0 standfast\r\n\r\n"
    );
}

#[test]
fn a_head_reused_remembers_nothing() {
    let mut request = Request::default();
    let first =
        b"POST /a/../b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\
                  Connection: close\r\n\r\n";
    request.parse(first, &LIMITS).unwrap();
    let second = b"GET http://x HTTP/1.0\r\n\r\n";
    request.parse(second, &LIMITS).unwrap();
    assert_eq!((request.method(), request.body()), (Method::Get, Body::Empty));
    assert_eq!((request.path(second), request.host(second)), (&b"/"[..], &b"x"[..]));
    assert!(!request.expects_continue() && !request.keep_alive());
    assert_eq!(request.field(second, "connection"), None);
    let third = b"GET / HTTP/1.0\r\n\r\n";
    request.parse(third, &LIMITS).unwrap();
    assert_eq!((request.authority(third), request.host(third)), (&b""[..], &b""[..]));
}
