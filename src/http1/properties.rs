//! What holds for every head, accepted or not.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::forward::{self, RequestEdits, ResponseEdits};
use super::{Limits, Method, Parsed, Request, Response, Version};

const LIMITS: Limits = Limits { head_size_max: 16 * 1024, headers_max: 64, uri_max: 4096 };

/// Fields we write ourselves or never forward; all others must arrive as they came.
const NOT_END_TO_END: [&str; 16] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "upgrade",
    "proxy-connection",
    "expect",
    "via",
    "x-request-id",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-real-ip",
    "x-hop",
];

/// Names and values that are likely to be taken, likely to clash, and likely to be refused.
fn field() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        4 => "[A-Za-z][A-Za-z0-9-]{0,12}",
        1 => prop::sample::select(vec![
            "Accept", "Cookie", "Via", "X-Forwarded-For", "x-forwarded-proto", "X-Request-ID", "TE",
            "Keep-Alive", "Expect", "X-Hop", "Upgrade", "X-Real-IP", "X-Forwarded-Host",
        ]).prop_map(str::to_owned),
    ];
    let value = prop_oneof![8 => "[ -~\u{e9}]{0,20}", 1 => "[ \t]{0,3}[!-~]{0,5}[ \t]{0,3}"];
    let framing = prop::sample::select(vec![
        "Content-Length: 0",
        "Content-Length: 42",
        "Transfer-Encoding: chunked",
        "Connection: close",
        "Connection: x-hop, keep-alive",
        "Upgrade: h2c",
        "Expect: 100-continue",
        "Host: b",
    ]);
    prop_oneof![
        6 => (name, "[ \t]{0,2}", value).prop_map(|(name, space, value)| format!("{name}:{space}{value}")),
        1 => framing.prop_map(str::to_owned),
    ]
}

fn request_head() -> impl Strategy<Value = Vec<u8>> {
    let method = prop::sample::select(vec!["GET", "POST", "HEAD", "OPTIONS", "PROPFIND", "get"]);
    let segment =
        prop::sample::select(vec!["a", "b.c", ".", "..", "%2e", "%2E.", "", "%2f", "x%20y"]);
    let path = prop::collection::vec(segment, 0..6).prop_map(|segments| segments.join("/"));
    let front = prop::sample::select(vec!["/", "/", "/", "http://a:8/", "http://a:8"]);
    let query = prop_oneof![Just(String::new()), "\\?[!$-;=?-~]{0,10}"];
    let version = prop::sample::select(vec!["HTTP/1.1", "HTTP/1.0"]);
    let fields = prop::collection::vec(field(), 0..8);
    (method, front, path, query, version, fields).prop_map(
        |(method, front, path, query, version, fields)| {
            let mut head = format!("{method} {front}{path}{query} {version}\r\nHost: a:8\r\n");
            for field in fields {
                head.push_str(&field);
                head.push_str("\r\n");
            }
            head.push_str("\r\n");
            head.into_bytes()
        },
    )
}

fn response_head() -> impl Strategy<Value = Vec<u8>> {
    let version = prop::sample::select(vec!["HTTP/1.1", "HTTP/1.0"]);
    let fields = prop::collection::vec(field(), 0..8);
    (version, 95..610_u16, "( [ -~\u{e9}]{0,12})?", fields).prop_map(
        |(version, status, reason, fields)| {
            let mut head = format!("{version} {status:03}{reason}\r\n");
            for field in fields {
                head.push_str(&field);
                head.push_str("\r\n");
            }
            head.push_str("\r\n");
            head.into_bytes()
        },
    )
}

fn edits(trusted: bool) -> RequestEdits<'static> {
    RequestEdits {
        client: Ipv4Addr::LOCALHOST.into(),
        trusted,
        https: false,
        request_id: b"0123",
        fallback_host: b"e:80",
    }
}

fn forward_request(head: &[u8], request: &Request, trusted: bool) -> Vec<u8> {
    let mut out = Vec::new();
    forward::request(&mut out, request, head, &edits(trusted));
    out
}

/// Fields as another parser sees them, without those that are not end to end.
fn end_to_end(head: &[u8], is_request: bool) -> Vec<(String, Vec<u8>)> {
    let mut room = [httparse::EMPTY_HEADER; 80];
    let headers = if is_request {
        let mut other = httparse::Request::new(&mut room);
        assert_eq!(other.parse(head), Ok(httparse::Status::Complete(head.len())));
        &*other.headers
    } else {
        let mut other = httparse::Response::new(&mut room);
        assert_eq!(other.parse(head), Ok(httparse::Status::Complete(head.len())));
        &*other.headers
    };
    let fields = headers.iter().map(|field| (field.name.to_owned(), field.value.to_vec()));
    // Whatever begins like a forwarding field is treated as one.
    let is_ours = |name: &str| {
        NOT_END_TO_END.iter().any(|ours| name.eq_ignore_ascii_case(ours))
            || name.to_ascii_lowercase().starts_with("x-forwarded")
    };
    fields.filter(|(name, _)| !is_ours(name)).collect()
}

/// A head and one byte of it overwritten, dropped or doubled.
fn damaged(head: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let byte =
        prop_oneof![prop::sample::select(b"\r\n\0 \t:,;_%/\\.#?\x7f\xff".to_vec()), any::<u8>(),];
    (head, any::<prop::sample::Index>(), byte, 0..4).prop_map(|(mut head, at, byte, how)| {
        let at = at.index(head.len());
        match how {
            0 => head[at] = byte,
            1 => drop(head.remove(at)),
            2 => head.insert(at, byte),
            _ => {}
        }
        head
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn a_forwarded_request_says_what_was_accepted(
        head in damaged(request_head()), trusted: bool,
    ) {
        let mut first = Request::default();
        let Ok(Parsed::Complete(len)) = first.parse(&head, &LIMITS) else { return Ok(()) };
        let once = forward_request(&head, &first, trusted);
        let mut second = Request::default();
        prop_assert_eq!(second.parse(&once, &LIMITS), Ok(Parsed::Complete(once.len())));
        prop_assert_eq!(first.method_bytes(&head), second.method_bytes(&once));
        prop_assert_eq!(first.path(&head), second.path(&once));
        prop_assert_eq!(first.query(&head), second.query(&once));
        prop_assert_eq!(first.body(), second.body());
        prop_assert!(first.authority(&head).is_empty()
            || first.authority(&head) == second.authority(&once));
        prop_assert!(second.keep_alive());
        // X-Hop may have been named by Connection, and the rest is ours.
        prop_assert_eq!(end_to_end(&head[..len], true), end_to_end(&once, true));
    }

    #[test]
    fn a_second_untrusting_hop_changes_nothing(
        head in request_head(),
    ) {
        let mut request = Request::default();
        let Ok(Parsed::Complete(_)) = request.parse(&head, &LIMITS) else { return Ok(()) };
        prop_assume!(request.version() == Version::Http11);
        let once = forward_request(&head, &request, false);
        request.parse(&once, &LIMITS).unwrap();
        let twice = forward_request(&once, &request, false);
        prop_assert_eq!(String::from_utf8_lossy(&once), String::from_utf8_lossy(&twice));
    }

    #[test]
    fn a_forwarded_response_says_what_was_accepted(
        head in damaged(response_head()), is_head: bool, chunked: bool,
    ) {
        let method = if is_head { Method::Head } else { Method::Get };
        let mut first = Response::default();
        let Ok(Parsed::Complete(len)) = first.parse(&head, method, &LIMITS) else { return Ok(()) };
        let edits = ResponseEdits { client: Version::Http11, keep_alive: true, chunked };
        let mut once = Vec::new();
        forward::response(&mut once, &first, &head, &edits);
        let mut second = Response::default();
        prop_assert_eq!(second.parse(&once, method, &LIMITS), Ok(Parsed::Complete(once.len())));
        prop_assert_eq!(first.status(), second.status());
        prop_assert_eq!(first.reason(&head), second.reason(&once));
        use super::Body::{Chunked, UntilClose};
        match first.body() {
            Chunked | UntilClose if chunked => prop_assert_eq!(second.body(), Chunked),
            Chunked | UntilClose => prop_assert_eq!(second.body(), UntilClose),
            body => prop_assert_eq!(second.body(), body),
        }
        prop_assert_eq!(end_to_end(&head[..len], false), end_to_end(&once, false));
    }

    #[test]
    fn no_strict_prefix_of_an_accepted_request_is_a_head(
        head in request_head(), cuts in prop::collection::vec(1_usize..60, 1..6),
    ) {
        let mut whole = Request::default();
        let Ok(Parsed::Complete(len)) = whole.parse(&head, &LIMITS) else { return Ok(()) };
        prop_assert_eq!(len, head.len());
        for end in 0..len {
            let fresh = Request::default().parse(&head[..end], &LIMITS);
            prop_assert_eq!(fresh, Ok(Parsed::Partial), "{}", end);
        }
        let mut grown = Request::default();
        let mut end = 0;
        for cut in cuts.iter().cycle() {
            end = len.min(end + cut);
            let parsed = grown.parse(&head[..end], &LIMITS);
            if end == len {
                prop_assert_eq!(parsed, Ok(Parsed::Complete(len)));
                break;
            }
            prop_assert_eq!(parsed, Ok(Parsed::Partial));
        }
        prop_assert_eq!(whole.path(&head), grown.path(&head));
        prop_assert_eq!(whole.body(), grown.body());
    }

    #[test]
    fn no_strict_prefix_of_an_accepted_response_is_a_head(head in response_head()) {
        let mut whole = Response::default();
        let Ok(Parsed::Complete(len)) = whole.parse(&head, Method::Get, &LIMITS) else {
            return Ok(());
        };
        prop_assert_eq!(len, head.len());
        let mut grown = Response::default();
        for end in 0..len {
            let fresh = Response::default().parse(&head[..end], Method::Get, &LIMITS);
            prop_assert_eq!(fresh, Ok(Parsed::Partial), "{}", end);
            prop_assert_eq!(grown.parse(&head[..end], Method::Get, &LIMITS), Ok(Parsed::Partial));
        }
    }

    #[test]
    fn a_damaged_head_in_pieces_ends_as_in_one(head in damaged(request_head())) {
        let whole = Request::default().parse(&head, &LIMITS);
        let mut grown = Request::default();
        let mut last = Ok(Parsed::Partial);
        for end in 1..=head.len() {
            last = grown.parse(&head[..end], &LIMITS);
            if last != Ok(Parsed::Partial) {
                break;
            }
        }
        match (whole, last) {
            (Ok(whole), Ok(last)) => prop_assert_eq!(whole, last),
            // In pieces an error may be noticed later, but never as a head.
            (Err(_), Ok(Parsed::Partial) | Err(_)) => {}
            (whole, last) => prop_assert!(false, "{:?} but {:?}", whole, last),
        }
    }

    #[test]
    fn noise_is_never_a_panic(buf in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::default().parse(&buf, &LIMITS);
        let answer = [b"HTTP/1.1 200", &buf[..]].concat();
        let _ = Response::default().parse(&answer, Method::Get, &LIMITS);
        let asked = [b"GET / HTTP/1.1\r\n", &buf[..]].concat();
        let _ = Request::default().parse(&asked, &LIMITS);
    }
}
