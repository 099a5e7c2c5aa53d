//! ● Which fields go on, and which are ours: one contiguous head for the other side.
//!
//! What frames, routes or names the client is written anew from parsed values, never copied:
//! Content-Length, Transfer-Encoding, Connection, Host, Upgrade, X-Forwarded-*, X-Request-Id, Via.
//! Hop-by-hop fields and those `Connection` names are dropped (RFC 9110 section 7.6.1).

use std::net::IpAddr;

use super::head::{Request, Response, Version};

#[derive(Debug, Clone, Copy)]
pub struct RequestEdits<'a> {
    /// The peer of the connection; appended to X-Forwarded-For.
    pub client: IpAddr,
    /// The peer is a trusted proxy: its X-Forwarded-* and X-Request-Id are kept.
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

/// Appends the request head for an endpoint. Always HTTP/1.1; the body keeps its framing.
pub fn request(out: &mut Vec<u8>, head: &Request, buf: &[u8], edits: &RequestEdits<'_>) {
    let _ = (out, head, buf, edits);
    todo!()
}

/// Appends the response head for the client. Content-Length is written where the body has one, and
/// kept for HEAD and 304.
pub fn response(out: &mut Vec<u8>, head: &Response, buf: &[u8], edits: &ResponseEdits) {
    let _ = (out, head, buf, edits);
    todo!()
}
