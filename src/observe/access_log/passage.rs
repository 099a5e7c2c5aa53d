//! ● A connection that was passed on → one line of JSON.

use std::net::SocketAddr;
use std::time::Duration;

use super::line::{address, key, milliseconds, number, optional, text};

/// What a line tells of a TCP connection. The server name comes from a peer and is escaped.
#[derive(Debug, Clone, Copy)]
pub struct Passage<'a> {
    /// After the PROXY protocol.
    pub client: SocketAddr,
    /// Asked for by SNI.
    pub server_name: Option<&'a str>,
    pub listener: &'a str,
    pub service: Option<&'a str>,
    pub pool: Option<&'a str>,
    pub endpoint: Option<&'a str>,
    /// Endpoints it was connected to, or tried on.
    pub attempts: u32,
    /// From the client, and to it.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub duration: Duration,
    /// Why it was not served, or cut off; none where both sides ended it.
    pub reason: Option<&'static str>,
}

/// Appends the line of `entry`, which ended at `timestamp` (RFC 3339).
pub(super) fn write(out: &mut Vec<u8>, timestamp: &[u8], entry: &Passage<'_>) {
    out.extend_from_slice(b"{\"timestamp\":\"");
    out.extend_from_slice(timestamp);
    out.extend_from_slice(b"\",\"client.address\":\"");
    address(out, entry.client.ip());
    out.extend_from_slice(b"\",\"client.port\":");
    number(out, u64::from(entry.client.port()));
    text(out, "network.transport", b"tcp");
    optional(out, "server.address", entry.server_name.map(str::as_bytes));
    optional(out, "error.type", entry.reason.map(str::as_bytes));
    text(out, "standfast.listener", entry.listener.as_bytes());
    optional(out, "standfast.service", entry.service.map(str::as_bytes));
    optional(out, "standfast.pool", entry.pool.map(str::as_bytes));
    optional(out, "standfast.endpoint", entry.endpoint.map(str::as_bytes));
    let counts = [
        ("standfast.attempts", u64::from(entry.attempts)),
        ("standfast.received_bytes", entry.received_bytes),
        ("standfast.sent_bytes", entry.sent_bytes),
    ];
    for (name, count) in counts {
        key(out, name);
        number(out, count);
    }
    key(out, "standfast.duration_ms");
    milliseconds(out, entry.duration);
    optional(out, "standfast.reason", entry.reason.map(str::as_bytes));
    out.extend_from_slice(b"}\n");
}
