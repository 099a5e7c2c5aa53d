//! ○ One JSON line a request, through a bounded writer that drops and counts rather than blocks.
//!
//! Field names are OpenTelemetry's HTTP semantic conventions; ours begin with `standfast.`. What
//! there is nothing to say about is left out: no status where the client left before an answer, no
//! pool or endpoint where none was tried.
//!
//! Each worker formats into a buffer of its own and hands it over on a bounded channel. One thread
//! writes. A full disk, a closed pipe or a reader that stands still therefore costs lines, which
//! are counted, and never a request.

mod line;
mod passage;
mod writer;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, SystemTime};

use crate::config;
use line::Timestamp;
use writer::{Batch, Message, Shared};

pub use passage::Passage;
pub use writer::Handle;

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
    /// `1.0`, `1.1` or `2`.
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

/// Batches that wait for the writer, all workers together: with [`HAND_OVER`] and a line, about
/// 16 MiB at the very most.
const MOST_BATCHES: usize = 256;

/// Bytes in a worker's buffer at which it is handed over.
const HAND_OVER: usize = 48 * 1024;

/// A worker's end: formats into its own buffer, hands over in batches.
#[derive(Debug)]
pub struct Sink {
    batch: Batch,
    timestamp: Timestamp,
    sample: f64,
    sender: SyncSender<Message>,
    shared: Arc<Shared>,
}

/// Opens the log and starts its writer: one sink for each worker, and the handle of the whole.
///
/// Errors: the file cannot be opened, or the thread not started.
pub fn open(config: &config::AccessLog, workers: usize) -> io::Result<(Vec<Sink>, Handle)> {
    let (sender, handle) = writer::start(&config.output, MOST_BATCHES)?;
    let sink = || Sink {
        batch: Batch::default(),
        timestamp: Timestamp::default(),
        sample: config.sample,
        sender: sender.clone(),
        shared: Arc::clone(handle.shared()),
    };
    Ok(((0..workers).map(|_| sink()).collect(), handle))
}

impl Sink {
    /// Formats one line. `draw` is a uniformly random number in 0..1 for the sample; entries with a
    /// reason or a status of 500 and above are always kept.
    pub fn write(&mut self, entry: &Entry<'_>, draw: f64) {
        let failed = entry.reason.is_some() || entry.status >= 500;
        if !failed && draw >= self.sample {
            return;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        line::write(&mut self.batch.bytes, self.timestamp.at(now), entry);
        self.end_line();
    }

    /// The same of a connection that was passed on; those with a reason are always kept.
    pub fn write_passage(&mut self, entry: &Passage<'_>, draw: f64) {
        if entry.reason.is_none() && draw >= self.sample {
            return;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        passage::write(&mut self.batch.bytes, self.timestamp.at(now), entry);
        self.end_line();
    }

    fn end_line(&mut self) {
        self.batch.lines += 1;
        if self.batch.bytes.len() >= HAND_OVER {
            self.flush();
        }
    }

    /// Hands the buffer over to the writer; drops and counts it if the writer is behind. Called
    /// every 50 ms and by `write` itself when the buffer is large.
    pub fn flush(&mut self) {
        if self.batch.lines == 0 {
            return;
        }
        let batch = std::mem::replace(&mut self.batch, self.shared.recycled());
        if let Err(error) = self.sender.try_send(Message::Batch(batch)) {
            let (TrySendError::Full(message) | TrySendError::Disconnected(message)) = error;
            if let Message::Batch(batch) = message {
                self.shared.drop_lines(batch.lines);
                self.shared.recycle(batch);
            }
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests;
