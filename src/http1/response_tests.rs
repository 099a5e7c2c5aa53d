use super::*;
use crate::http1::forward::{self, ResponseEdits};

const LIMITS: Limits = Limits { head_size_max: 4096, headers_max: 16, uri_max: 1024 };

fn parse_for(method: Method, head: &[u8]) -> Result<Response, ResponseError> {
    let mut response = Response::default();
    match response.parse(head, method, &LIMITS)? {
        Parsed::Complete(len) => assert_eq!(len, head.len()),
        Parsed::Partial => return Err(error("partial")),
    }
    Ok(response)
}

fn parse(head: &str) -> Result<Response, ResponseError> {
    parse_for(Method::Get, head.as_bytes())
}

fn forwarded(method: Method, head: &str, edits: ResponseEdits) -> String {
    let response = parse_for(method, head.as_bytes()).unwrap();
    let mut out = Vec::new();
    forward::response(&mut out, &response, head.as_bytes(), &edits);
    String::from_utf8(out).unwrap()
}

const KEPT: ResponseEdits =
    ResponseEdits { client: Version::Http11, keep_alive: true, chunked: true };

#[test]
fn bodies_end_as_method_status_and_fields_say() {
    use Body::{Chunked, Empty, Length, UntilClose};
    for (method, head, body) in [
        (Method::Get, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Length(5)),
        (Method::Get, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Empty),
        (Method::Get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Chunked),
        (Method::Get, "HTTP/1.1 200 OK\r\n\r\n", UntilClose),
        (Method::Get, "HTTP/1.0 200 OK\r\n\r\n", UntilClose),
        (Method::Head, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Empty),
        (Method::Head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Empty),
        (Method::Head, "HTTP/1.1 200 OK\r\n\r\n", Empty),
        (Method::Get, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", Empty),
        (Method::Get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Empty),
        (Method::Get, "HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n", Empty),
        (Method::Get, "HTTP/1.1 103 Early Hints\r\n\r\n", Empty),
    ] {
        assert_eq!(parse_for(method, head.as_bytes()).unwrap().body(), body, "{method:?} {head}");
    }
}

#[test]
fn malformed_heads_are_errors() {
    for head in [
        "HTTP/1.1 099 X\r\n\r\n",
        "HTTP/1.1 600 X\r\n\r\n",
        "HTTP/1.1 20 X\r\n\r\n",
        "HTTP/1.1 2000 X\r\n\r\n",
        "HTTP/1.1 -20 X\r\n\r\n",
        "HTTP/1.1 2x0 X\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        " HTTP/1.1 200 OK\r\n\r\n",
        "<html>",
        "HTTP/1.1 200 OK\n\r\n",
        "HTTP/1.1 200\n\r\n",
        "HTTP/1.1 200 OK\r\n\n",
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.1 200 O\0K\r\n\r\n",
        "HTTP/1.1 200 O\rK\r\n\r\n",
        "HTTP/1.1 200 O\x01K\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        assert!(parse(head).is_err(), "{head:?}");
    }
    for fields in [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: x\r\n",
        "Content-Length:\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "A: b\n",
        "A: b\0\r\n",
        "A : b\r\n",
        " A: b\r\n",
        "A: b\r\n c\r\n",
        ": b\r\n",
        "A\r\n",
        "A\u{e9}: b\r\n",
        "A: b\rC: d\r\n",
        "A: b\x7f\r\n",
        "Connection: content-length\r\n",
        "Connection: set-cookie\r\n",
    ] {
        for (method, status) in [(Method::Get, 200), (Method::Head, 200), (Method::Get, 204)] {
            let head = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
            assert!(parse_for(method, head.as_bytes()).is_err(), "{head:?}");
        }
    }
}

#[test]
fn the_endpoints_connection_is_kept_as_it_says() {
    for (head, kept) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n", false),
        ("HTTP/1.1 304 Not Modified\r\n\r\n", true),
    ] {
        assert_eq!(parse(head).unwrap().keep_alive(), kept, "{head}");
    }
    for (value, timeout) in [
        ("timeout=5", Some(5)),
        ("max=9, Timeout=60", Some(60)),
        ("max=9", None),
        ("timeout=", None),
        ("timeout=x", None),
        ("timeout=99999999999", None),
        ("timeout=-1", None),
    ] {
        let head = format!("HTTP/1.1 204 X\r\nKeep-Alive: {value}\r\n\r\n");
        assert_eq!(parse(&head).unwrap().keep_alive_timeout(), timeout, "{value}");
    }
}

#[test]
fn a_response_is_written_anew() {
    let head = "HTTP/1.1 200 All right\r\nServer:  x\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
                Keep-Alive: timeout=5\r\ncontent-length: 007\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n\
                Upgrade: h2c\r\nVia: 1.1 x\r\nX_y: z\r\nHost: h\r\n\r\n";
    assert_eq!(
        forwarded(Method::Get, head, KEPT),
        "HTTP/1.1 200 All right\r\nServer: x\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nVia: 1.1 x\r\n\
         X_y: z\r\nHost: h\r\nContent-Length: 7\r\n\r\n"
    );
}

#[test]
fn a_switch_is_passed_on_only_if_asked_for_and_to_a_websocket() {
    let switch = |fields: &str| format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
    let good =
        switch("upgrade: WebSocket\r\nConnection: x, upgrade\r\nSec-WebSocket-Accept: a\r\n");
    let parse = |head: &str, asked: bool| {
        let mut response = Response::default();
        response.set_may_switch(asked);
        response.parse(head.as_bytes(), Method::Get, &LIMITS).map(|_| response)
    };
    assert!(parse(&good, false).is_err());
    let response = parse(&good, true).unwrap();
    assert!(response.switches() && response.body() == Body::Empty);
    let mut out = Vec::new();
    forward::response(&mut out, &response, good.as_bytes(), &KEPT);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: a\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    for fields in [
        "",
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
    ] {
        assert!(parse(&switch(fields), true).is_err(), "{fields}");
    }
    assert!(parse(&good.replace("HTTP/1.1", "HTTP/1.0"), true).is_err());
}

#[test]
fn framing_for_the_client_follows_the_body() {
    let old = ResponseEdits { client: Version::Http10, keep_alive: true, chunked: false };
    let close = ResponseEdits { keep_alive: false, ..KEPT };
    let old_close = ResponseEdits { keep_alive: false, ..old };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let bare = "HTTP/1.1 200\r\n\r\n";
    let no_content = "HTTP/1.1 204 \r\nContent-Length: 0\r\n\r\n";
    let not_modified = "HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\n";
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 0\r\n\r\n";
    for (method, head, edits, expected) in [
        (Method::Get, chunked, KEPT, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (Method::Get, chunked, old_close, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"),
        (Method::Head, chunked, KEPT, "HTTP/1.1 200 OK\r\n\r\n"),
        (
            Method::Get,
            length,
            old,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
        ),
        (
            Method::Head,
            length,
            close,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
        ),
        (Method::Get, bare, KEPT, "HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n"),
        (Method::Get, no_content, KEPT, "HTTP/1.1 204 \r\n\r\n"),
        (Method::Get, not_modified, KEPT, "HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\n"),
        (Method::Get, early, close, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    ] {
        assert_eq!(forwarded(method, head, edits), expected);
    }
}

#[test]
fn a_reason_that_is_not_ascii_is_left_out() {
    let mut head = b"HTTP/1.1 200 Tr\xe8s bien\r\nA: \xe8\r\nContent-Length: 1\r\n\r\n".to_vec();
    let response = parse_for(Method::Get, &head).unwrap();
    let mut out = Vec::new();
    forward::response(&mut out, &response, &head, &KEPT);
    assert_eq!(out, b"HTTP/1.1 200 \r\nA: \xe8\r\nContent-Length: 1\r\n\r\n");
    head.truncate(20);
    assert_eq!(Response::default().parse(&head, Method::Get, &LIMITS), Ok(Parsed::Partial));
}

#[test]
fn limits_hold_for_responses() {
    let long = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(4096));
    assert!(parse(&long).is_err_and(|error| error.reason != "partial"));
    let fields = |count| format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(count));
    assert!(parse(&fields(16)).is_ok());
    assert!(parse(&fields(17)).is_err());
}
