//! ● Heads between HTTP/2 and HTTP/1.1 (RFC 9113 section 8).
//!
//! A request is written as an HTTP/1.1 head and then read by the parser of those: so whatever is
//! refused there is refused here, and what goes on to the endpoint is what its twin over HTTP/1.1
//! would have been. What only HTTP/2 can get wrong is judged before.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};

use crate::http1::forward;
use crate::http1::{RequestError, Response};

/// Fields that speak of one connection (RFC 9113 section 8.2.2); TE may say `trailers`.
const OF_A_CONNECTION: [&str; 5] =
    ["connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"];

/// Appends the head of `parts` as HTTP/1.1. `ended`: no body and no trailers follow.
pub(super) fn request(out: &mut Vec<u8>, parts: &Parts, ended: bool) -> Result<(), RequestError> {
    if parts.method == Method::CONNECT {
        return Err(RequestError { status: 405, reason: "method is not served here" });
    }
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    // Any other target would be read as one with an authority of its own.
    if !path.starts_with('/') && path != "*" {
        return Err(bad("path does not begin with a slash"));
    }
    if parts.uri.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return Err(bad("scheme is neither http nor https"));
    }
    let authority = authority(parts)?;
    line(out, &[parts.method.as_str().as_bytes(), b" ", path.as_bytes(), b" HTTP/1.1"]);
    line(out, &[b"Host: ", authority]);
    for (name, value) in &parts.headers {
        check_field(name, value)?;
        if name != header::HOST && name != header::COOKIE {
            line(out, &[name.as_str().as_bytes(), b": ", value.as_bytes()]);
        }
    }
    cookies(out, &parts.headers);
    if !ended && !parts.headers.contains_key(header::CONTENT_LENGTH) {
        line(out, &[b"Transfer-Encoding: chunked"]);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Of `:authority` and Host, which must say the same where both are there.
fn authority(parts: &Parts) -> Result<&[u8], RequestError> {
    let asked = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut hosts = parts.headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    match (asked, hosts.next(), hosts.next()) {
        (_, _, Some(_)) => Err(bad("host is there twice")),
        (None, None, _) => Err(bad("host is missing")),
        (Some(asked), Some(host), None) if !asked.eq_ignore_ascii_case(host) => {
            Err(bad("host disagrees with the authority"))
        }
        (asked, host, None) => Ok(asked.or(host).unwrap_or_default()),
    }
}

fn check_field(name: &HeaderName, value: &HeaderValue) -> Result<(), RequestError> {
    let is_for_a_connection = OF_A_CONNECTION.iter().any(|refused| name == refused);
    if is_for_a_connection || name == header::TE && value != "trailers" {
        return Err(bad("field is for one connection"));
    }
    // RFC 9113 section 8.2.1.
    let bytes = value.as_bytes();
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if is_blank(bytes.first()) || is_blank(bytes.last()) {
        return Err(bad("field value begins or ends with a blank"));
    }
    if bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return Err(bad("field value is malformed"));
    }
    Ok(())
}

/// Crumbs are one field again (RFC 9113 section 8.2.3).
fn cookies(out: &mut Vec<u8>, fields: &HeaderMap) {
    let mut before: &[u8] = b"cookie: ";
    for crumb in fields.get_all(header::COOKIE) {
        out.extend_from_slice(before);
        out.extend_from_slice(crumb.as_bytes());
        before = b"; ";
    }
    if before == b"; " {
        out.extend_from_slice(b"\r\n");
    }
}

/// The head of an endpoint's answer, or of one of ours, as HTTP/2 has it.
pub(super) fn response(head: &Response, buf: &[u8]) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    let fields = response.headers_mut();
    for (name, value) in forward::response_fields(head, buf) {
        append(fields, name, value);
    }
    if let Some(length) = forward::length(head) {
        fields.insert(header::CONTENT_LENGTH, length.into());
    }
    response
}

/// Trailers as the decoder of a chunked body has them: `name: value\r\n` each.
pub(super) fn trailers(text: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in text.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = line.split_at_checked(colon).unwrap_or((line, &[]));
        append(&mut fields, name, value.strip_prefix(b": ").unwrap_or_default());
    }
    fields
}

/// What was parsed strictly is a name and a value to others too, and there are fewer of them than a
/// map can hold.
fn append(fields: &mut HeaderMap, name: &[u8], value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
        let _ = fields.try_append(name, value);
    }
}

/// Appends the trailers of a request as they stand behind a last chunk.
pub(super) fn trailer_section(out: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        line(out, &[name.as_str().as_bytes(), b": ", value.as_bytes()]);
    }
    out.extend_from_slice(b"\r\n");
}

fn line(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(b"\r\n");
}

fn bad(reason: &'static str) -> RequestError {
    RequestError { status: 400, reason }
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
