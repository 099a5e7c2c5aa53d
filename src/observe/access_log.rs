//! ○ One JSON line a request, through a bounded writer that drops and counts rather than blocks.
//!
//! Field names are OpenTelemetry's HTTP semantic conventions; ours begin with `standfast.`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What a line tells. Byte strings come from peers and are escaped when written.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    pub peer: SocketAddr,
    /// After trusted X-Forwarded-For.
    pub client: IpAddr,
    pub method: &'a [u8],
    pub https: bool,
    pub host: &'a [u8],
    pub path: &'a [u8],
    /// `1.0` or `1.1`.
    pub protocol: &'static str,
    /// 0: the client left before an answer.
    pub status: u16,
    pub request_body_bytes: u64,
    pub response_body_bytes: u64,
    pub user_agent: Option<&'a [u8]>,
    pub request_id: &'a [u8],
    pub listener: &'a str,
    pub service: Option<&'a str>,
    pub pool: Option<&'a str>,
    pub endpoint: Option<&'a str>,
    /// Endpoints the request was sent to, or tried on.
    pub attempts: u32,
    pub duration: Duration,
    /// From the request sent to the response head.
    pub first_byte: Option<Duration>,
    /// Why it failed or was answered by us, in words with underscores; none for a plain success.
    pub reason: Option<&'a str>,
}

/// A worker's end: formats into its own buffer, hands over in batches.
#[derive(Debug)]
pub struct Sink {
    _private: (),
}

impl Sink {
    /// Formats one line. `draw` is a uniformly random number in 0..1 for the sample; entries with a
    /// reason or a status of 500 and above are always kept.
    pub fn write(&mut self, entry: &Entry<'_>, draw: f64) {
        let _ = (entry, draw);
    }

    /// Hands the buffer over to the writer; drops and counts it if the writer is behind. Called
    /// every 50 ms and by `write` itself when the buffer is large.
    pub fn flush(&mut self) {}
}
