//! ● Request and response heads, strictly.

use super::framing::Body;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole head.
    pub head_size_max: usize,
    pub headers_max: usize,
    /// Bytes of the request target.
    pub uri_max: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed; what is there is not wrong so far.
    Partial,
    /// The head is whole and takes this many bytes, the empty line included.
    Complete(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    /// Any other token; treated as neither safe nor idempotent. CONNECT, TRACE and PRI are refused.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    Http10,
    #[default]
    Http11,
}

/// A request head, reused from request to request. Accessors take the buffer it was parsed from.
#[derive(Debug, Default)]
pub struct Request {
    _private: (),
}

/// A refused request: what to answer, and a fragment in lower case that says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestError {
    /// 400, 405, 414, 417, 431, 501 (upgrade) or 505.
    pub status: u16,
    pub reason: &'static str,
}

#[expect(unused_variables, reason = "http1 helper fills this in")]
impl Request {
    /// Parses the head at the start of `buf`. Leading empty lines (RFC 9112 section 2.2) count as
    /// part of the head. The connection must be closed after an error.
    pub fn parse(&mut self, buf: &[u8], limits: &Limits) -> Result<Parsed, RequestError> {
        todo!()
    }

    pub fn method(&self) -> Method {
        todo!()
    }

    pub fn method_bytes<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        todo!()
    }

    /// The path that is routed **and** forwarded: dot segments removed, plain or percent-encoded.
    /// `*` for OPTIONS.
    pub fn path<'a>(&'a self, buf: &'a [u8]) -> &'a [u8] {
        todo!()
    }

    /// Without the question mark.
    pub fn query<'a>(&self, buf: &'a [u8]) -> Option<&'a [u8]> {
        todo!()
    }

    /// The authority: of an absolute-form target, else of Host; empty for HTTP/1.0 without Host.
    pub fn authority<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        todo!()
    }

    /// The authority without its port.
    pub fn host<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        todo!()
    }

    pub fn version(&self) -> Version {
        todo!()
    }

    pub fn body(&self) -> Body {
        todo!()
    }

    /// The client would like the connection kept.
    pub fn keep_alive(&self) -> bool {
        todo!()
    }

    pub fn expects_continue(&self) -> bool {
        todo!()
    }

    /// The value of the first field of this name (lower case), for the access log and X-Request-Id.
    pub fn field<'a>(&self, buf: &'a [u8], name: &str) -> Option<&'a [u8]> {
        todo!()
    }
}

impl Method {
    /// RFC 9110 section 9.2.2.
    pub fn is_idempotent(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options)
    }
}

/// A response head, reused likewise.
#[derive(Debug, Default)]
pub struct Response {
    _private: (),
}

/// A response that cannot be passed on (502): a fragment in lower case that says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseError {
    pub reason: &'static str,
}

#[expect(unused_variables, reason = "http1 helper fills this in")]
impl Response {
    /// Parses the head at the start of `buf`, the answer to a request of `method`. 1xx responses are
    /// returned like others, with an empty body; 101 is an error, for no upgrade is forwarded.
    pub fn parse(
        &mut self,
        buf: &[u8],
        method: Method,
        limits: &Limits,
    ) -> Result<Parsed, ResponseError> {
        todo!()
    }

    /// 100..=599.
    pub fn status(&self) -> u16 {
        todo!()
    }

    pub fn body(&self) -> Body {
        todo!()
    }

    /// The endpoint will keep the connection after this response.
    pub fn keep_alive(&self) -> bool {
        todo!()
    }

    /// `Keep-Alive: timeout=N`, seconds.
    pub fn keep_alive_timeout(&self) -> Option<u32> {
        todo!()
    }
}
