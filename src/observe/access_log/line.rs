//! ● One entry → one line of JSON, by hand: no value is built, nothing is allocated.

use std::net::IpAddr;
use std::time::Duration;

use super::Entry;
use crate::observe::calendar::{date, digits};

/// Bytes of one field that are written; a peer's longer one is cut, so that a line has a bound.
const MOST_FIELD: usize = 4096;

/// Appends the line of `entry`, which ended at `timestamp` (RFC 3339).
pub(super) fn write(out: &mut Vec<u8>, timestamp: &[u8], entry: &Entry<'_>) {
    out.extend_from_slice(b"{\"timestamp\":\"");
    out.extend_from_slice(timestamp);
    out.extend_from_slice(b"\",\"client.address\":\"");
    address(out, entry.client);
    out.extend_from_slice(b"\",\"network.peer.address\":\"");
    address(out, entry.peer.ip());
    out.extend_from_slice(b"\",\"network.peer.port\":");
    number(out, u64::from(entry.peer.port()));
    text(out, "http.request.method", entry.method);
    text(out, "url.scheme", if entry.https { b"https" } else { b"http" });
    text(out, "server.address", entry.host);
    text(out, "url.path", entry.path);
    text(out, "network.protocol.version", entry.protocol.as_bytes());
    if entry.status != 0 {
        key(out, "http.response.status_code");
        number(out, u64::from(entry.status));
    }
    key(out, "http.request.body.size");
    number(out, entry.request_body_bytes);
    key(out, "http.response.body.size");
    number(out, entry.response_body_bytes);
    optional(out, "user_agent.original", entry.user_agent);
    error_type(out, entry);
    ours(out, entry);
    out.extend_from_slice(b"}\n");
}

fn ours(out: &mut Vec<u8>, entry: &Entry<'_>) {
    text(out, "standfast.request_id", entry.request_id);
    text(out, "standfast.listener", entry.listener.as_bytes());
    optional(out, "standfast.service", entry.service.map(str::as_bytes));
    optional(out, "standfast.pool", entry.pool.map(str::as_bytes));
    optional(out, "standfast.endpoint", entry.endpoint.map(str::as_bytes));
    key(out, "standfast.attempts");
    number(out, u64::from(entry.attempts));
    key(out, "standfast.duration_ms");
    milliseconds(out, entry.duration);
    if let Some(first_byte) = entry.first_byte {
        key(out, "standfast.upstream.ttfb_ms");
        milliseconds(out, first_byte);
    }
    optional(out, "standfast.reason", entry.reason.map(str::as_bytes));
}

/// OpenTelemetry: the reason of a failure, or the status where there is none; absent for successes
/// and for what the client did wrong.
fn error_type(out: &mut Vec<u8>, entry: &Entry<'_>) {
    if entry.status != 0 && entry.status < 500 {
        return;
    }
    match entry.reason {
        Some(reason) => text(out, "error.type", reason.as_bytes()),
        None if entry.status == 0 => {}
        None => text(out, "error.type", itoa::Buffer::new().format(entry.status).as_bytes()),
    }
}

/// `,"name":`; names are ours and need no escape. Inlined, for then their length is known, and they
/// are copied without a call.
#[inline(always)]
pub(super) fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

#[inline(always)]
pub(super) fn text(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    key(out, name);
    out.push(b'"');
    escape(out, value);
    out.push(b'"');
}

#[inline(always)]
pub(super) fn optional(out: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    if let Some(value) = value {
        text(out, name, value);
    }
}

pub(super) fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with three digits after the point.
pub(super) fn milliseconds(out: &mut Vec<u8>, duration: Duration) {
    let (seconds, micros) = (duration.as_secs(), duration.subsec_micros());
    number(out, seconds.saturating_mul(1000).saturating_add(u64::from(micros / 1000)));
    out.push(b'.');
    digits(out, u64::from(micros % 1000), 3);
}

pub(super) fn address(out: &mut Vec<u8>, address: IpAddr) {
    use std::io::Write;
    // An IPv4 client of a dual-stack socket is an IPv4 client.
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            // By hand: the formatting machinery costs ten times as much.
            let [a, b, c, d] = v4.octets();
            octet(out, a);
            for octet_behind in [b, c, d] {
                out.push(b'.');
                octet(out, octet_behind);
            }
        }
        // Writing to a vector cannot fail.
        IpAddr::V6(v6) => {
            let _ = write!(out, "{v6}");
        }
    }
}

fn octet(out: &mut Vec<u8>, value: u8) {
    let digits = [b'0' + value / 100, b'0' + value / 10 % 10, b'0' + value % 10];
    let zeros = usize::from(value < 100) + usize::from(value < 10);
    out.extend_from_slice(&digits[zeros..]);
}

/// JSON string contents (RFC 8259 section 7). Control characters of any kind are escaped, so that a
/// line neither breaks nor speaks to a terminal; what is not UTF-8 becomes U+FFFD.
fn escape(out: &mut Vec<u8>, value: &[u8]) {
    let cut = value.len() > MOST_FIELD;
    let value = &value[..value.len().min(MOST_FIELD)];
    // Without an early exit, so that many bytes are looked at at once.
    if value.iter().fold(true, |all, byte| all & plain(*byte)) {
        out.extend_from_slice(value);
    } else {
        for chunk in value.utf8_chunks() {
            chunk.valid().chars().for_each(|c| character(out, c));
            if !chunk.invalid().is_empty() {
                out.extend_from_slice(b"\\ufffd");
            }
        }
    }
    if cut {
        out.extend_from_slice(b"\\u2026");
    }
}

fn plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\'
}

fn character(out: &mut Vec<u8>, c: char) {
    match c {
        '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
        // All control characters lie below U+0100; U+2028 and U+2029 end a line for some readers.
        c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
            out.extend_from_slice(b"\\u");
            for shift in [12, 8, 4, 0] {
                out.push(b"0123456789abcdef"[(c as usize >> shift) & 0xf]);
            }
        }
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Formats the time as RFC 3339 in UTC with microseconds. The date is kept while the second lasts.
#[derive(Debug, Default)]
pub(super) struct Timestamp {
    second: Option<u64>,
    /// `2026-11-20T12:34:56.123456Z`.
    text: Vec<u8>,
}

impl Timestamp {
    /// Bytes up to and including the point.
    const DATE: usize = 20;

    /// `now` is the time since 1970.
    pub(super) fn at(&mut self, now: Duration) -> &[u8] {
        if self.second != Some(now.as_secs()) {
            self.second = Some(now.as_secs());
            self.text.clear();
            date(&mut self.text, now.as_secs());
            self.text.push(b'.');
        }
        self.text.truncate(Self::DATE);
        digits(&mut self.text, u64::from(now.subsec_micros()), 6);
        self.text.push(b'Z');
        &self.text
    }
}
