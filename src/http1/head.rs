//! ● What request and response heads have in common: limits, methods, versions, spans.

use std::mem::MaybeUninit;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole head.
    pub head_size_max: usize,
    /// Fields of a head; more than [`Limits::HEADERS_CAP`] are never taken.
    pub headers_max: usize,
    /// Bytes of the request target.
    pub uri_max: usize,
}

impl Limits {
    /// What `headers_max` can ask for: parsed fields live on the stack while a head is read.
    pub const HEADERS_CAP: usize = 1024;
    /// The longest head that spans of 32 bits can describe.
    const HEAD_CAP: usize = u32::MAX as usize;

    /// The part of `buf` a head may lie in.
    pub(super) fn window<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        let cap = self.head_size_max.min(Self::HEAD_CAP);
        buf.get(..cap).unwrap_or(buf)
    }
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

impl Method {
    /// RFC 9110 section 9.2.2.
    pub fn is_idempotent(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options)
    }

    /// Method names are case-sensitive (RFC 9110 section 9.1).
    pub(super) fn of(token: &[u8]) -> Self {
        match token {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    Http10,
    #[default]
    Http11,
    /// Of a client, whose head was written as HTTP/1.1 before it was parsed.
    Http2,
}

impl Version {
    pub(super) fn of(minor: Option<u8>) -> Self {
        if minor == Some(0) { Self::Http10 } else { Self::Http11 }
    }
}

/// Bytes `start..end` of the buffer a head was parsed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    /// Heads are shorter than 4 GiB ([`Limits::window`]); beyond that a span is empty.
    pub(super) fn new(start: usize, end: usize) -> Self {
        match (u32::try_from(start), u32::try_from(end)) {
            (Ok(start), Ok(end)) => Self { start, end },
            _ => Self::default(),
        }
    }

    /// Where `part`, a slice of `buf`, lies in it.
    #[inline]
    pub(super) fn within(buf: &[u8], part: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(buf.as_ptr() as usize);
        Self::new(start, start.saturating_add(part.len()))
    }

    /// Empty when `buf` is not the buffer of the head.
    #[inline]
    pub(super) fn of(self, buf: &[u8]) -> &[u8] {
        buf.get(self.start as usize..self.end as usize).unwrap_or(&[])
    }
}

/// Room for the fields httparse finds, left uninitialised: only what is found is written.
pub(super) type Room<'a, const N: usize> = [MaybeUninit<httparse::Header<'a>>; N];

/// Enough for nearly every configuration, and small enough for the stack of the hot path.
pub(super) const FIELDS_USUAL: usize = 128;
