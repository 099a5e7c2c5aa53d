//! ● A request head, strictly (RFC 9112 sections 2, 3 and 6).

use std::mem::MaybeUninit;

use super::authority;
use super::fields::{self, Field, Kind, Side, Summary, list_items};
use super::framing::Body;
use super::head::{FIELDS_USUAL, Limits, Method, Parsed, Room, Span, Version};
use super::scan::{BareLineEnd, Scan};
use super::target::{self, Path, Target};

/// A request head, reused from request to request. Accessors take the buffer it was parsed from.
#[derive(Debug, Default)]
pub struct Request {
    pub(super) fields: Vec<Field>,
    /// The path, where it had to be rewritten.
    own_path: Vec<u8>,
    scan: Scan,
    pub(super) len: usize,
    method: Method,
    method_span: Span,
    version: Version,
    target: Target,
    authority: Span,
    /// Bytes of the host at the start of the authority.
    host_len: u32,
    summary: Summary,
    body: Body,
    expects_continue: bool,
    wants_websocket: bool,
}

/// A refused request: what to answer, and a fragment in lower case that says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestError {
    /// 400, 405, 414, 417, 431, 501 (upgrade) or 505.
    pub status: u16,
    pub reason: &'static str,
}

/// No method in the registry is longer than 20 bytes.
const METHOD_MAX: usize = 32;
/// Empty lines before the request line (RFC 9112 section 2.2 speaks of "at least one").
const EMPTY_LINES_MAX: usize = 4;
/// Longer X-Request-Ids are replaced.
const REQUEST_ID_MAX: usize = 128;

impl Request {
    /// Parses the head at the start of `buf`. Leading empty lines (RFC 9112 section 2.2) count as
    /// part of the head. The connection must be closed after an error.
    ///
    /// After [`Parsed::Partial`] the next call is given the same bytes and more, and looks at the
    /// new ones alone; to give up on a partial head, [`Request::reset`]. The cost of a head is
    /// linear in its length however it is cut.
    pub fn parse(&mut self, buf: &[u8], limits: &Limits) -> Result<Parsed, RequestError> {
        let window = limits.window(buf);
        let parsed = self.parse_window(window, limits);
        match parsed {
            Ok(Parsed::Partial)
                if window.len() < buf.len() || buf.len() >= limits.head_size_max =>
            {
                self.reset();
                Err(error(431, "request head is too large"))
            }
            Ok(Parsed::Partial) => parsed,
            _ => {
                self.reset();
                parsed
            }
        }
    }

    /// Forgets a partial head.
    pub fn reset(&mut self) {
        self.scan = Scan::default();
    }

    /// Gives back memory that only the next head would need.
    pub fn shrink(&mut self) {
        self.fields.shrink_to_fit();
        self.own_path.shrink_to_fit();
    }

    fn parse_window(&mut self, buf: &[u8], limits: &Limits) -> Result<Parsed, RequestError> {
        let start = skip_empty_lines(buf)?;
        if self.scan.should_parse(buf)? {
            let parsed = if limits.headers_max <= FIELDS_USUAL {
                self.parse_with_room::<FIELDS_USUAL>(buf, start, limits)?
            } else {
                self.parse_many(buf, start, limits)?
            };
            if parsed != Parsed::Partial {
                return Ok(parsed);
            }
            self.scan.remember(buf)?;
        }
        if !self.scan.first_line_ended() {
            check_unfinished_line(buf.get(start..).unwrap_or(&[]), limits)?;
        }
        Ok(Parsed::Partial)
    }

    /// Apart, so that its 32 KiB of stack are not touched by others.
    #[inline(never)]
    fn parse_many(
        &mut self,
        buf: &[u8],
        start: usize,
        limits: &Limits,
    ) -> Result<Parsed, RequestError> {
        self.parse_with_room::<{ Limits::HEADERS_CAP }>(buf, start, limits)
    }

    #[inline]
    fn parse_with_room<const N: usize>(
        &mut self,
        buf: &[u8],
        start: usize,
        limits: &Limits,
    ) -> Result<Parsed, RequestError> {
        let mut room: Room<'_, N> = [const { MaybeUninit::uninit() }; N];
        let room = room.get_mut(..limits.headers_max.min(N)).unwrap_or(&mut []);
        let bytes = buf.get(start..).unwrap_or(&[]);
        let mut raw = httparse::Request::new(&mut []);
        let result = httparse::ParserConfig::default()
            .parse_request_with_uninit_headers(&mut raw, bytes, room);
        if raw.path.is_some_and(|path| path.len() > limits.uri_max) {
            return Err(error(414, "request target is too long"));
        }
        if raw.method.is_some_and(|method| method.len() > METHOD_MAX) {
            return Err(error(400, "method is too long"));
        }
        match result {
            Ok(httparse::Status::Complete(len)) => self.complete(buf, &raw, start + len)?,
            Ok(httparse::Status::Partial) => return Ok(Parsed::Partial),
            Err(cause) => return Err(refuse(cause, &raw, bytes)),
        }
        Ok(Parsed::Complete(self.len))
    }

    fn complete(
        &mut self,
        buf: &[u8],
        raw: &httparse::Request<'_, '_>,
        len: usize,
    ) -> Result<(), RequestError> {
        let (Some(method), Some(path)) = (raw.method, raw.path) else {
            return Err(bad("request line is not complete"));
        };
        self.len = len;
        self.method = Method::of(method.as_bytes());
        self.method_span = Span::within(buf, method.as_bytes());
        self.version = Version::of(raw.version);
        self.summary =
            fields::collect(&mut self.fields, buf, raw.headers, len, Side::Request).map_err(bad)?;
        if self.method == Method::Other && is_refused(method) {
            return Err(error(405, "method is not served here"));
        }
        let span = Span::within(buf, path.as_bytes());
        self.target = target::parse(buf, span, self.method, &mut self.own_path).map_err(bad)?;
        self.settle_authority(buf)?;
        self.settle_body()?;
        self.settle_expect(buf)?;
        self.settle_upgrade(buf)
    }

    /// RFC 9112 sections 3.2 and 3.2.2; Host that disagrees with the target is refused, not
    /// replaced.
    fn settle_authority(&mut self, buf: &[u8]) -> Result<(), RequestError> {
        let received = match (self.target.authority, self.summary.host) {
            (None, None) if self.version == Version::Http10 => {
                self.authority = Span::default();
                self.host_len = 0;
                return Ok(());
            }
            (_, None) if self.version == Version::Http11 => return Err(bad("host is missing")),
            (Some(target), Some(host)) if !target.of(buf).eq_ignore_ascii_case(host.of(buf)) => {
                return Err(bad("host disagrees with the target"));
            }
            (target, host) => target.or(host).unwrap_or_default(),
        };
        let host_len = authority::host_len(received.of(buf)).map_err(bad)?;
        self.authority = received;
        self.host_len = u32::try_from(host_len).unwrap_or(0);
        Ok(())
    }

    /// RFC 9112 section 6.3.
    fn settle_body(&mut self) -> Result<(), RequestError> {
        if self.summary.chunked && self.version == Version::Http10 {
            return Err(bad("transfer-encoding in http/1.0"));
        }
        self.body = match self.summary.content_length {
            _ if self.summary.chunked => Body::Chunked,
            Some(length) if length > 0 => Body::Length(length),
            _ => Body::Empty,
        };
        Ok(())
    }

    /// RFC 9110 section 10.1.1: HTTP/1.0 clients do not know 100.
    fn settle_expect(&mut self, buf: &[u8]) -> Result<(), RequestError> {
        self.expects_continue = false;
        if !self.summary.has_expect {
            return Ok(());
        }
        let is_known = |value: &[u8]| value.eq_ignore_ascii_case(b"100-continue");
        if !self.values(buf, Kind::Expect).all(is_known) {
            return Err(error(417, "expectation is not 100-continue"));
        }
        self.expects_continue = self.has_body() && self.version == Version::Http11;
        Ok(())
    }

    /// An Upgrade that Connection does not name, and h2c, are for nobody: dropped (RFC 9110 section
    /// 7.8 allows it). A WebSocket goes on; any other would change what the connection carries.
    fn settle_upgrade(&mut self, buf: &[u8]) -> Result<(), RequestError> {
        self.wants_websocket = false;
        if !self.summary.has_upgrade || !self.summary.upgrade_option {
            return Ok(());
        }
        let is = |known: &'static [u8]| move |name: &[u8]| name.eq_ignore_ascii_case(known);
        let protocols = || self.values(buf, Kind::Upgrade).flat_map(list_items);
        if protocols().all(is(b"h2c")) {
            return Ok(());
        }
        let only = protocols().count() == 1 && protocols().all(is(b"websocket"));
        if !only || self.version == Version::Http10 {
            return Err(error(501, "upgrade is not to websocket alone"));
        }
        self.check_websocket(buf).map_err(bad)?;
        self.wants_websocket = true;
        Ok(())
    }

    /// RFC 6455 section 4.1. Which version it is, and what the key says, is for the endpoint.
    fn check_websocket(&self, buf: &[u8]) -> Result<(), &'static str> {
        let is_named = |field: &&Field, name: &str| {
            field.kind == Kind::Plain
                && field.name.of(buf).eq_ignore_ascii_case(name.as_bytes())
                && !field.value.of(buf).is_empty()
        };
        let count = |name| self.fields.iter().filter(|field| is_named(field, name)).count();
        if self.method != Method::Get {
            return Err("websocket upgrade is not a get");
        }
        if self.has_body() {
            return Err("websocket upgrade has a body");
        }
        if count("sec-websocket-key") != 1 || count("sec-websocket-version") != 1 {
            return Err("websocket upgrade without one key and one version");
        }
        Ok(())
    }

    fn values<'a>(&'a self, buf: &'a [u8], kind: Kind) -> impl Iterator<Item = &'a [u8]> {
        let fields = self.fields.iter().filter(move |field| field.kind == kind);
        fields.map(|field| field.value.of(buf))
    }

    pub fn method(&self) -> Method {
        self.method
    }

    pub fn method_bytes<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        self.method_span.of(buf)
    }

    /// The path that is routed **and** forwarded: dot segments removed, plain or percent-encoded.
    /// `*` for OPTIONS.
    pub fn path<'a>(&'a self, buf: &'a [u8]) -> &'a [u8] {
        match self.target.path {
            Path::Span(span) => span.of(buf),
            Path::Own => &self.own_path,
            Path::Root => b"/",
            Path::Asterisk => b"*",
        }
    }

    /// Without the question mark.
    pub fn query<'a>(&self, buf: &'a [u8]) -> Option<&'a [u8]> {
        self.target.query.map(|query| query.of(buf))
    }

    /// The authority: of an absolute-form target, else of Host; empty for HTTP/1.0 without Host.
    pub fn authority<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        self.authority.of(buf)
    }

    /// The authority without its port; an IPv6 address keeps its brackets.
    pub fn host<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        self.authority.of(buf).get(..self.host_len as usize).unwrap_or(&[])
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// The head that was parsed is the translation of one that came over HTTP/2.
    pub fn set_http2(&mut self) {
        self.version = Version::Http2;
    }

    pub fn body(&self) -> Body {
        self.body
    }

    pub fn has_body(&self) -> bool {
        self.body != Body::Empty
    }

    /// Content-Length as received, 0 included.
    pub fn content_length(&self) -> Option<u64> {
        self.summary.content_length
    }

    /// The client would like the connection kept.
    pub fn keep_alive(&self) -> bool {
        !self.summary.close && (self.version == Version::Http11 || self.summary.keep_alive)
    }

    /// `Expect: 100-continue` came with a body, from a client that knows 100.
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// It asks for a WebSocket, rightly (RFC 6455 section 4.1).
    pub fn wants_websocket(&self) -> bool {
        self.wants_websocket
    }

    /// The value of the first field of this name (lower case), for the access log and X-Request-Id.
    pub fn field<'a>(&self, buf: &'a [u8], name: &str) -> Option<&'a [u8]> {
        let is_it = |field: &&Field| field.name.of(buf).eq_ignore_ascii_case(name.as_bytes());
        self.fields.iter().find(is_it).map(|field| field.value.of(buf))
    }

    /// The X-Request-Id that came, if it is one line of at most 128 visible characters. Whether it
    /// is believed depends on who sent it: see [`super::forward::request_id`].
    pub fn request_id<'a>(&'a self, buf: &'a [u8]) -> Option<&'a [u8]> {
        let id = self.values(buf, Kind::RequestId).next()?;
        let sane = (1..=REQUEST_ID_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
        sane.then_some(id)
    }
}

/// The length of the empty lines in front.
fn skip_empty_lines(buf: &[u8]) -> Result<usize, RequestError> {
    let mut start = 0;
    while buf.get(start..).is_some_and(|rest| rest.starts_with(b"\r\n")) {
        start += 2;
    }
    if start > 2 * EMPTY_LINES_MAX {
        return Err(bad("too many empty lines before the request"));
    }
    match buf.get(start) {
        Some(b'\n') => Err(bad("line ends with a bare line feed")),
        _ => Ok(start),
    }
}

/// Refuses a request line that is too long already, though its end is not there yet.
fn check_unfinished_line(line: &[u8], limits: &Limits) -> Result<(), RequestError> {
    let front = line.get(..=METHOD_MAX).unwrap_or(line);
    let Some(method_len) = memchr::memchr(b' ', front) else {
        return if line.len() > METHOD_MAX { Err(bad("method is too long")) } else { Ok(()) };
    };
    let target = line.get(method_len + 1..).unwrap_or(&[]);
    match target.get(..=limits.uri_max) {
        Some(target) if memchr::memchr(b' ', target).is_none() => {
            Err(error(414, "request target is too long"))
        }
        _ => Ok(()),
    }
}

/// CONNECT would make a tunnel, TRACE would show what proxies added, PRI begins HTTP/2.
fn is_refused(method: &str) -> bool {
    ["CONNECT", "TRACE", "PRI"].iter().any(|refused| method.eq_ignore_ascii_case(refused))
}

fn refuse(cause: httparse::Error, raw: &httparse::Request<'_, '_>, bytes: &[u8]) -> RequestError {
    match cause {
        httparse::Error::TooManyHeaders => error(431, "request has too many fields"),
        httparse::Error::Version if has_other_version(raw, bytes) => {
            error(505, "http version is not 1.0 or 1.1")
        }
        httparse::Error::Version => bad("http version is malformed"),
        httparse::Error::HeaderName => bad("field name is malformed"),
        httparse::Error::HeaderValue => bad("field value is malformed"),
        httparse::Error::NewLine => bad("line end is malformed"),
        httparse::Error::Token | httparse::Error::Status => bad("request line is malformed"),
    }
}

/// `HTTP/` digit `.` digit behind the target: a version, but not ours.
fn has_other_version(raw: &httparse::Request<'_, '_>, bytes: &[u8]) -> bool {
    let Some(path) = raw.path else { return false };
    let after = Span::within(bytes, path.as_bytes()).end as usize + 1;
    match bytes.get(after..) {
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor, ..]) => {
            major.is_ascii_digit() && minor.is_ascii_digit()
        }
        _ => false,
    }
}

fn bad(reason: &'static str) -> RequestError {
    error(400, reason)
}

fn error(status: u16, reason: &'static str) -> RequestError {
    RequestError { status, reason }
}

impl From<BareLineEnd> for RequestError {
    fn from(_: BareLineEnd) -> Self {
        bad("line end is malformed")
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
