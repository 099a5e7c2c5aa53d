//! The client's view of one response: status 200 and the declared length, nothing more.
//!
//! Bodies are counted, not looked at, so that the generator stays lighter than what it measures.

use memchr::memmem;

use crate::Result;

/// The largest head accepted; every proxy here sends a few hundred bytes.
const MAX_HEAD: usize = 8 << 10;

/// Where in a response a connection is.
pub(crate) struct Response {
    /// The part of the head that came so far, when it did not come in one piece.
    head: Vec<u8>,
    /// Bytes of the body still to come; none while the head is awaited.
    body: Option<usize>,
    /// The length every response must declare.
    expected: usize,
}

impl Response {
    pub(crate) fn new(expected: usize) -> Self {
        Self { head: Vec::new(), body: None, expected }
    }

    /// Nothing of this response has come yet.
    pub(crate) fn is_untouched(&self) -> bool {
        self.body.is_none() && self.head.is_empty()
    }

    /// Bytes of the body still to come; none before the head is complete.
    pub(crate) fn left(&self) -> Option<usize> {
        self.body
    }

    /// Takes what came; true once the response is complete, and then ready for the next.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<bool> {
        if self.body.is_some() {
            return self.skip(bytes.len());
        }
        if self.head.is_empty() {
            if let Some(end) = head_end(bytes) {
                return self.begin(&bytes[..end], bytes.len() - end);
            }
            self.head.extend_from_slice(bytes);
            return Ok(false);
        }
        self.head.extend_from_slice(bytes);
        let head = std::mem::take(&mut self.head);
        if let Some(end) = head_end(&head) {
            return self.begin(&head[..end], head.len() - end);
        }
        if head.len() > MAX_HEAD {
            return Err("a response head longer than 8 KiB".into());
        }
        self.head = head;
        Ok(false)
    }

    /// Counts `count` bytes of the body; true once that was all.
    pub(crate) fn skip(&mut self, count: usize) -> Result<bool> {
        let left = self.body.unwrap_or(0);
        if count > left {
            return Err("more bytes than the response declared".into());
        }
        self.body = if count == left { None } else { Some(left - count) };
        Ok(self.body.is_none())
    }

    fn begin(&mut self, head: &[u8], after: usize) -> Result<bool> {
        if !head.starts_with(b"HTTP/1.1 200 ") {
            let line = head.split(|&b| b == b'\r').next().unwrap_or_default();
            return Err(format!("not a 200: {}", String::from_utf8_lossy(line)).into());
        }
        let length = content_length(head).ok_or("a response without Content-Length")?;
        if length != self.expected {
            return Err(format!("Content-Length {length} instead of {}", self.expected).into());
        }
        self.body = Some(length);
        self.skip(after)
    }
}

/// Where the head ends, behind its empty line.
fn head_end(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    for end in memchr::memchr_iter(b'\n', head) {
        let line = &head[end + 1..];
        if line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            let value = &line[NAME.len()..memchr::memchr(b'\r', line)?];
            return std::str::from_utf8(value).ok()?.trim().parse().ok();
        }
    }
    None
}
