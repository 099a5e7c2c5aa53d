//! ● A response head, strictly (RFC 9112 sections 4 and 6): what an endpoint says is not believed
//! either.

use std::mem::MaybeUninit;

use super::fields::{self, Field, Kind, Side, Summary, list_items};
use super::framing::Body;
use super::head::{FIELDS_USUAL, Limits, Method, Parsed, Room, Span, Version};
use super::scan::{BareLineEnd, Scan};

/// A response head, reused likewise.
#[derive(Debug, Default)]
pub struct Response {
    pub(super) fields: Vec<Field>,
    scan: Scan,
    pub(super) len: usize,
    status: u16,
    reason: Span,
    version: Version,
    summary: Summary,
    body: Body,
    may_switch: bool,
}

/// A response that cannot be passed on (502): a fragment in lower case that says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseError {
    pub reason: &'static str,
}

impl Response {
    /// Parses the head at the start of `buf`, the answer to a request of `method`. 1xx responses
    /// are returned like others, with an empty body; 101 is an error unless
    /// [`Response::may_switch`].
    ///
    /// Continues after [`Parsed::Partial`] like [`super::Request::parse`].
    pub fn parse(
        &mut self,
        buf: &[u8],
        method: Method,
        limits: &Limits,
    ) -> Result<Parsed, ResponseError> {
        let window = limits.window(buf);
        let parsed = self.parse_window(window, method, limits);
        match parsed {
            Ok(Parsed::Partial)
                if window.len() < buf.len() || buf.len() >= limits.head_size_max =>
            {
                self.reset();
                Err(error("response head is too large"))
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

    /// Whether the requests answered from now on ask for a WebSocket: then 101 may switch to it,
    /// and is final.
    pub fn set_may_switch(&mut self, may: bool) {
        self.may_switch = may;
    }

    fn parse_window(
        &mut self,
        buf: &[u8],
        method: Method,
        limits: &Limits,
    ) -> Result<Parsed, ResponseError> {
        // httparse skips empty lines here too; from an endpoint they are rests of something else.
        if buf.first().is_some_and(|&b| b != b'H') {
            return Err(error("response does not begin with a status line"));
        }
        if self.scan.should_parse(buf)? {
            let parsed = if limits.headers_max <= FIELDS_USUAL {
                self.parse_with_room::<FIELDS_USUAL>(buf, method, limits)?
            } else {
                self.parse_many(buf, method, limits)?
            };
            if parsed != Parsed::Partial {
                return Ok(parsed);
            }
            self.scan.remember(buf)?;
        }
        Ok(Parsed::Partial)
    }

    /// Apart, so that its 32 KiB of stack are not touched by others.
    #[inline(never)]
    fn parse_many(
        &mut self,
        buf: &[u8],
        method: Method,
        limits: &Limits,
    ) -> Result<Parsed, ResponseError> {
        self.parse_with_room::<{ Limits::HEADERS_CAP }>(buf, method, limits)
    }

    #[inline]
    fn parse_with_room<const N: usize>(
        &mut self,
        buf: &[u8],
        method: Method,
        limits: &Limits,
    ) -> Result<Parsed, ResponseError> {
        let mut room: Room<'_, N> = [const { MaybeUninit::uninit() }; N];
        let room = room.get_mut(..limits.headers_max.min(N)).unwrap_or(&mut []);
        let mut raw = httparse::Response::new(&mut []);
        let result = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut raw, buf, room);
        match result {
            Ok(httparse::Status::Complete(len)) => {
                self.complete(buf, &raw, len, method)?;
                Ok(Parsed::Complete(len))
            }
            Ok(httparse::Status::Partial) => Ok(Parsed::Partial),
            Err(cause) => Err(refuse(cause)),
        }
    }

    fn complete(
        &mut self,
        buf: &[u8],
        raw: &httparse::Response<'_, '_>,
        len: usize,
        method: Method,
    ) -> Result<(), ResponseError> {
        self.len = len;
        self.status = raw.code.unwrap_or(0);
        // httparse hands out an empty reason for one with 8-bit bytes, which is none of the
        // buffer's.
        self.reason = match raw.reason {
            Some(reason) if !reason.is_empty() => Span::within(buf, reason.as_bytes()),
            _ => Span::default(),
        };
        self.version = Version::of(raw.version);
        self.summary = fields::collect(&mut self.fields, buf, raw.headers, len, Side::Response)
            .map_err(error)?;
        match self.status {
            101 if !self.may_switch => return Err(error("endpoint switched protocols unasked")),
            101 => self.check_switch(buf)?,
            100..=599 => {}
            _ => return Err(error("status is not between 100 and 599")),
        }
        if self.summary.chunked && self.version == Version::Http10 {
            return Err(error("transfer-encoding in http/1.0"));
        }
        self.body = match self.summary.content_length {
            _ if method == Method::Head || self.never_has_body() => Body::Empty,
            _ if self.summary.chunked => Body::Chunked,
            Some(0) => Body::Empty,
            Some(length) => Body::Length(length),
            None => Body::UntilClose,
        };
        Ok(())
    }

    /// RFC 6455 section 4.2.2: the switch is to what was asked for, and to nothing else.
    fn check_switch(&self, buf: &[u8]) -> Result<(), ResponseError> {
        let upgrades = self.fields.iter().filter(|field| field.kind == Kind::Upgrade);
        let mut protocols = upgrades.flat_map(|field| list_items(field.value.of(buf)));
        let asked = protocols.next().is_some_and(|p| p.eq_ignore_ascii_case(b"websocket"));
        let only = asked && protocols.next().is_none();
        if !only || !self.summary.upgrade_option || self.version == Version::Http10 {
            return Err(error("endpoint switched to another protocol than asked"));
        }
        Ok(())
    }

    /// 1xx, 204 and 304 end with their head, whatever their fields say (RFC 9112 section 6.3).
    fn never_has_body(&self) -> bool {
        self.is_informational() || matches!(self.status, 204 | 304)
    }

    /// 100..=599.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// 1xx: the final response is still to come, unless it [switches](Self::switches).
    pub fn is_informational(&self) -> bool {
        self.status < 200
    }

    /// 101: what follows is no HTTP any more.
    pub fn switches(&self) -> bool {
        self.status == 101
    }

    /// The reason phrase as received, empty if it has bytes that are not ASCII.
    pub fn reason<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        self.reason.of(buf)
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn body(&self) -> Body {
        self.body
    }

    /// Content-Length as received, for HEAD and 304 too, where no body follows.
    pub fn content_length(&self) -> Option<u64> {
        self.summary.content_length
    }

    /// The endpoint will keep the connection after this response.
    pub fn keep_alive(&self) -> bool {
        self.version == Version::Http11 && !self.summary.close && self.body != Body::UntilClose
    }

    /// `Keep-Alive: timeout=N`, seconds.
    pub fn keep_alive_timeout(&self) -> Option<u32> {
        self.summary.keep_alive_timeout
    }

    /// The value of the first field of this name (lower case).
    pub fn field<'a>(&self, buf: &'a [u8], name: &str) -> Option<&'a [u8]> {
        let is_it = |field: &&Field| field.name.of(buf).eq_ignore_ascii_case(name.as_bytes());
        self.fields.iter().find(is_it).map(|field| field.value.of(buf))
    }
}

fn refuse(cause: httparse::Error) -> ResponseError {
    error(match cause {
        httparse::Error::TooManyHeaders => "response has too many fields",
        httparse::Error::Version => "http version is not 1.0 or 1.1",
        httparse::Error::HeaderName => "field name is malformed",
        httparse::Error::HeaderValue => "field value is malformed",
        httparse::Error::NewLine => "line end is malformed",
        httparse::Error::Status | httparse::Error::Token => "status line is malformed",
    })
}

fn error(reason: &'static str) -> ResponseError {
    ResponseError { reason }
}

impl From<BareLineEnd> for ResponseError {
    fn from(_: BareLineEnd) -> Self {
        error("line end is malformed")
    }
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
