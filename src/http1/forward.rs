//! ● Which fields go on, and which are ours: one contiguous head for the other side.
//!
//! What frames, routes or names the client is written anew from parsed values, never copied:
//! Content-Length, Transfer-Encoding, Connection, Host, Upgrade, X-Forwarded-*, X-Request-Id, Via.
//! Hop-by-hop fields and those `Connection` names are dropped (RFC 9110 section 7.6.1).

use std::io::Write;
use std::net::IpAddr;

use super::fields::{Field, Kind};
use super::framing::Body;
use super::head::Version;
use super::request::Request;
use super::response::Response;

#[derive(Debug, Clone, Copy)]
pub struct RequestEdits<'a> {
    /// The peer of the connection; appended to X-Forwarded-For.
    pub client: IpAddr,
    /// The peer is a trusted proxy: its X-Forwarded-*, Forwarded, Via and X-Request-Id are kept.
    pub trusted: bool,
    pub https: bool,
    /// Ours, used unless a trusted one came.
    pub request_id: &'a [u8],
    /// `Host` where the request has none (HTTP/1.0): the endpoint's own.
    pub fallback_host: &'a [u8],
}

#[derive(Debug, Clone, Copy)]
pub struct ResponseEdits {
    /// The version the client spoke.
    pub client: Version,
    /// Our connection to the client stays open: written as `Connection: close` otherwise, and as
    /// `keep-alive` for HTTP/1.0.
    pub keep_alive: bool,
    /// The body goes on in chunks (`Transfer-Encoding: chunked`); false for HTTP/1.0 clients.
    pub chunked: bool,
}

/// Our own fields of a request, without values that come from outside, fit into this.
const OWN_FIELDS_LEN: usize = 320;

/// Asks for a WebSocket, and grants it (RFC 6455 sections 4.1 and 4.2.2).
const SWITCH: &[u8] = b"Connection: Upgrade\r\nUpgrade: websocket\r\n";

/// Appends the request head for an endpoint. Always HTTP/1.1; the body keeps its framing.
pub fn request(out: &mut Vec<u8>, head: &Request, buf: &[u8], edits: &RequestEdits<'_>) {
    let received = head.authority(buf);
    let host = if received.is_empty() { edits.fallback_host } else { received };
    out.reserve(
        head.len + 2 * host.len() + edits.request_id.len() + OWN_FIELDS_LEN + 4 * head.fields.len(),
    );
    out.extend_from_slice(head.method_bytes(buf));
    out.push(b' ');
    out.extend_from_slice(head.path(buf));
    if let Some(query) = head.query(buf) {
        out.push(b'?');
        out.extend_from_slice(query);
    }
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend_from_slice(host);
    out.extend_from_slice(b"\r\n");
    let mut seen = Seen::default();
    for field in &head.fields {
        match field.kind {
            Kind::Plain => copy(out, field, buf),
            Kind::ForwardedOther if edits.trusted => copy(out, field, buf),
            Kind::ForwardedProto if edits.trusted => {
                seen.proto = true;
                copy(out, field, buf);
            }
            Kind::ForwardedHost if edits.trusted => {
                seen.host = true;
                copy(out, field, buf);
            }
            _ => {}
        }
    }
    body_length(out, head.body(), head.content_length());
    own_fields(out, head, buf, edits, seen);
    if head.wants_websocket() {
        out.extend_from_slice(SWITCH);
    }
    out.extend_from_slice(b"\r\n");
}

/// What a trusted proxy said already.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    proto: bool,
    host: bool,
}

fn own_fields(out: &mut Vec<u8>, head: &Request, buf: &[u8], edits: &RequestEdits<'_>, seen: Seen) {
    out.extend_from_slice(b"X-Forwarded-For: ");
    if edits.trusted {
        join(out, head, buf, Kind::ForwardedFor);
    }
    address(out, edits.client);
    if !seen.proto {
        let proto: &[u8] = if edits.https { b"https" } else { b"http" };
        field(out, b"\r\nX-Forwarded-Proto: ", proto);
    }
    let host = head.authority(buf);
    if !seen.host && !host.is_empty() {
        field(out, b"\r\nX-Forwarded-Host: ", host);
    }
    field(out, b"\r\nX-Request-Id: ", request_id(head, buf, edits));
    out.extend_from_slice(b"\r\nVia: ");
    if edits.trusted {
        join(out, head, buf, Kind::Via);
    }
    let version: &[u8] = match head.version() {
        Version::Http10 => b"1.0",
        Version::Http11 => b"1.1",
        Version::Http2 => b"2.0",
    };
    field(out, version, b" standfast\r\n");
}

/// The id that is sent to the endpoint and belongs into the access log: the one a trusted proxy
/// sent if it is sane, else ours.
pub fn request_id<'a>(head: &'a Request, buf: &'a [u8], edits: &RequestEdits<'a>) -> &'a [u8] {
    let received = if edits.trusted { head.request_id(buf) } else { None };
    received.unwrap_or(edits.request_id)
}

/// Appends the response head for the client. Content-Length is written where the body has one, and
/// kept for HEAD and 304.
pub fn response(out: &mut Vec<u8>, head: &Response, buf: &[u8], edits: &ResponseEdits) {
    out.reserve(head.len + OWN_FIELDS_LEN + 4 * head.fields.len());
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(head.status()).as_bytes());
    field(out, b" ", head.reason(buf));
    out.extend_from_slice(b"\r\n");
    for field in head.fields.iter().filter(|field| goes_on(field)) {
        copy(out, field, buf);
    }
    if head.switches() {
        out.extend_from_slice(SWITCH);
    }
    if !head.is_informational() {
        match head.body() {
            Body::Chunked | Body::UntilClose if edits.chunked => {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            }
            Body::Chunked | Body::UntilClose => {}
            Body::Empty | Body::Length(_) => body_length(out, Body::Empty, length(head)),
        }
        match (edits.keep_alive, edits.client) {
            (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
            (true, Version::Http10) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (true, Version::Http11 | Version::Http2) => {}
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// The fields of a response that go on to a client of any version: name and value. Of what frames
/// the body there is only [`length`].
pub fn response_fields<'a>(
    head: &'a Response,
    buf: &'a [u8],
) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    let fields = head.fields.iter().filter(|field| goes_on(field));
    fields.map(|field| (field.name.of(buf), field.value.of(buf)))
}

/// The Content-Length that goes on with a final response. For HEAD, an endpoint's chunked says no
/// length, and none is made up here.
pub fn length(head: &Response) -> Option<u64> {
    match head.body() {
        _ if head.is_informational() || head.status() == 204 => None,
        Body::Length(length) => Some(length),
        Body::Empty => head.content_length(),
        Body::Chunked | Body::UntilClose => None,
    }
}

/// Neither frames the body nor is for one hop.
fn goes_on(field: &Field) -> bool {
    !matches!(
        field.kind,
        Kind::ContentLength
            | Kind::TransferEncoding
            | Kind::Connection
            | Kind::KeepAlive
            | Kind::Upgrade
            | Kind::HopByHop
            | Kind::Named
    )
}

/// The field that frames the body; `length` is what was received, for a body that is not there.
fn body_length(out: &mut Vec<u8>, body: Body, length: Option<u64>) {
    match (body, length) {
        (Body::Chunked, _) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        (Body::Length(length), _) | (Body::Empty, Some(length)) => {
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        (Body::Empty | Body::UntilClose, _) => {}
    }
}

/// `name: value\r\n`, from what was parsed: whatever stood between the two stays behind.
#[inline]
fn copy(out: &mut Vec<u8>, field: &Field, buf: &[u8]) {
    out.extend_from_slice(field.name.of(buf));
    out.extend_from_slice(b": ");
    out.extend_from_slice(field.value.of(buf));
    out.extend_from_slice(b"\r\n");
}

#[inline]
fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(value);
}

/// The values of all fields of `kind`, each with a comma behind it.
fn join(out: &mut Vec<u8>, head: &Request, buf: &[u8], kind: Kind) {
    for field in head.fields.iter().filter(|field| field.kind == kind) {
        let value = field.value.of(buf);
        if !value.is_empty() {
            out.extend_from_slice(value);
            out.extend_from_slice(b", ");
        }
    }
}

/// IPv4 clients of an IPv6 socket are written as IPv4.
fn address(out: &mut Vec<u8>, client: IpAddr) {
    match client.to_canonical() {
        IpAddr::V4(client) => {
            let mut number = itoa::Buffer::new();
            for (place, octet) in client.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(number.format(octet).as_bytes());
            }
        }
        // Writing to a Vec cannot fail.
        IpAddr::V6(client) => drop(write!(out, "{client}")),
    }
}
