//! What of an HTTP/2 head is refused, and what the rest becomes.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use http::Request as Message;
use proptest::prelude::*;

use super::*;
use crate::http1::forward::RequestEdits;
use crate::http1::{Limits, Parsed, Request};

const LIMITS: Limits = Limits { head_size_max: 64 * 1024, headers_max: 128, uri_max: 16 * 1024 };

fn written(parts: &Parts, ended: bool) -> Result<String, RequestError> {
    let mut out = Vec::new();
    request(&mut out, parts, ended)?;
    Ok(String::from_utf8(out).unwrap())
}

fn parts(fields: &[(&str, &str)]) -> Parts {
    let mut message = Message::builder().method("GET").uri("https://app.test/a?b=c");
    for (name, value) in fields {
        message = message.header(*name, *value);
    }
    message.body(()).unwrap().into_parts().0
}

/// What an endpoint gets of the HTTP/1.1 head in `text`.
fn forwarded(text: &[u8], http2: bool) -> Result<Vec<u8>, u16> {
    let mut head = Request::default();
    match head.parse(text, &LIMITS) {
        Ok(Parsed::Complete(length)) => assert_eq!(length, text.len()),
        Ok(Parsed::Partial) => panic!("a head without an end: {}", text.escape_ascii()),
        Err(error) => return Err(error.status),
    }
    if http2 {
        head.set_http2();
    }
    let mut out = Vec::new();
    let edits = RequestEdits {
        client: [192, 0, 2, 1].into(),
        trusted: false,
        https: true,
        request_id: b"id",
        fallback_host: b"endpoint",
    };
    forward::request(&mut out, &head, text, &edits);
    Ok(out)
}

#[test]
fn a_head_is_written_with_its_authority_as_host_and_its_cookies_as_one() {
    let parts = parts(&[("cookie", "a=1"), ("x-y", "z"), ("cookie", "b=2"), ("te", "trailers")]);
    assert_eq!(
        written(&parts, true).unwrap(),
        "GET /a?b=c HTTP/1.1\r\nHost: app.test\r\nx-y: z\r\nte: trailers\r\n\
         cookie: a=1; b=2\r\n\r\n"
    );
}

#[test]
fn a_body_without_a_length_goes_on_in_chunks() {
    let chunked = "transfer-encoding: chunked";
    assert!(written(&parts(&[]), false).unwrap().to_lowercase().contains(chunked));
    let counted = parts(&[("content-length", "3")]);
    assert!(!written(&counted, false).unwrap().to_lowercase().contains(chunked));
}

#[test]
fn fields_of_a_connection_blanks_at_an_end_and_two_hosts_are_refused() {
    for fields in [
        &[("connection", "close")][..],
        &[("proxy-connection", "keep-alive")],
        &[("keep-alive", "timeout=5")],
        &[("transfer-encoding", "chunked")],
        &[("upgrade", "websocket")],
        &[("te", "gzip")],
        &[("te", "trailers, gzip")],
        &[("x", " a")],
        &[("x", "a\t")],
        &[("host", "other.test")],
        &[("host", "app.test"), ("host", "app.test")],
    ] {
        assert_eq!(written(&parts(fields), true).unwrap_err().status, 400, "{fields:?}");
    }
    assert!(written(&parts(&[("host", "APP.test")]), true).is_ok());
}

#[test]
fn a_target_that_is_no_path_is_refused_before_it_can_name_another_authority() {
    for (method, uri, status) in [
        ("CONNECT", "app.test:443", 405),
        ("GET", "ftp://app.test/", 400),
        ("GET", "/no-authority", 400),
    ] {
        let message = Message::builder().method(method).uri(uri).body(()).unwrap();
        assert_eq!(written(&message.into_parts().0, true).unwrap_err().status, status, "{uri}");
    }
}

#[test]
fn trailers_and_answers_become_fields_with_their_values_whole() {
    let fields = trailers(b"a: b: c\r\nD: \r\nd: e\r\n");
    assert_eq!(fields.get("a").unwrap(), "b: c");
    assert_eq!(fields.get_all("d").iter().collect::<Vec<_>>(), ["", "e"]);
    let text =
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: x\r\nX: 1\r\nKeep-Alive: a\r\n\
                 Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nUpgrade: h2c\r\nY: 2\r\n\r\n";
    let mut parsed = Response::default();
    parsed.parse(text, crate::http1::Method::Get, &LIMITS).unwrap();
    let message = response(&parsed, text);
    let names: Vec<_> = message.headers().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["set-cookie", "set-cookie", "y", "content-length"]);
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9-]{0,12}",
        Just("cookie".to_owned()),
        Just("expect".to_owned()),
        Just("x-forwarded-for".to_owned()),
        Just("under_score".to_owned()),
        Just("idempotency-key".to_owned()),
    ]
}

fn is_of_http1_alone(name: &str) -> bool {
    ["host", "te", "connection", "upgrade", "content-length"].contains(&name)
}

proptest! {
    /// The promise: whatever the head, the endpoint gets what it would have got over HTTP/1.1, but
    /// for the version in Via; what is refused there is refused here.
    #[test]
    fn a_request_and_its_twin_over_http1_reach_the_endpoint_as_the_same_message(
        method in "(GET|HEAD|POST|PUT|DELETE|OPTIONS|PURGE|TRACE)",
        authority in "[a-z]{1,8}(\\.[a-z]{1,8}){0,2}(:[0-9]{1,6})?",
        path in "/[a-z0-9./%2eE_~!$&'()*+,;=:@-]{0,24}(\\?[a-z0-9=&%/?]{0,12})?",
        fields in proptest::collection::vec((name(), "[!-~]([ -~]{0,10}[!-~])?"), 0..8),
        length in proptest::option::of(0_u64..100_000),
        ended in any::<bool>(),
    ) {
        let uri = format!("https://{authority}{path}");
        prop_assume!(uri.parse::<http::Uri>().is_ok());
        let mut message = Message::builder().method(&*method).uri(uri);
        let mut twin = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\n");
        // In the order a map of fields keeps: all of a name where its first one stood.
        let mut cookies = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in &fields {
            if !is_of_http1_alone(name) && !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        for wanted in names {
            for (name, value) in fields.iter().filter(|(name, _)| name == wanted) {
                message = message.header(name, value);
                match name.as_str() {
                    "cookie" => cookies.push(value.clone()),
                    _ => twin += &format!("{name}: {value}\r\n"),
                }
            }
        }
        if let Some(length) = length.filter(|_| !ended) {
            message = message.header("content-length", length);
            twin += &format!("content-length: {length}\r\n");
        }
        if !cookies.is_empty() {
            twin += &format!("cookie: {}\r\n", cookies.join("; "));
        }
        if !ended && length.is_none() {
            twin += "Transfer-Encoding: chunked\r\n";
        }
        twin += "\r\n";
        let parts = message.body(()).unwrap().into_parts().0;
        let ours = written(&parts, ended).map_err(|error| error.status);
        let ours = ours.and_then(|text| forwarded(text.as_bytes(), true));
        let theirs = forwarded(twin.as_bytes(), false);
        let same_via = |bytes: Vec<u8>| {
            String::from_utf8(bytes).unwrap().replace("Via: 2.0 ", "Via: 1.1 ")
        };
        prop_assert_eq!(ours.map(same_via), theirs.map(same_via));
    }
}
