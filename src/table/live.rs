//! ● What the data path knows of an endpoint this moment, before any verdict: doubt, and how fast it
//! usually connects. Atomics that all workers and control share; they survive from table to table.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use super::EndpointId;

/// Why new requests avoid an endpoint for the moment. Doubt is no verdict: it moves no service and
/// ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// It takes no connections, or answers nobody.
    Silent = 1,
    /// It answered a request with a gateway error and nobody well since.
    Error = 2,
    /// It did so `outlier_detection.consecutive_errors` times in a row.
    Errors = 4,
}

/// What all workers share of one endpoint, on the cache line of its requests in flight.
#[derive(Debug, Default)]
pub struct Live {
    /// Bits of [`Doubt`].
    doubts: AtomicU8,
    /// Smoothed time a connection takes, in microseconds; 0: none was made yet.
    connect_micros: AtomicU32,
    /// When it was last doubted, in milliseconds since the origin; wraps.
    doubted_millis: AtomicU32,
}

impl Live {
    /// Nothing is held against it: what the hot path asks.
    pub fn is_trusted(&self) -> bool {
        self.doubts.load(Ordering::Relaxed) == 0
    }

    pub fn is(&self, doubt: Doubt) -> bool {
        self.doubts.load(Ordering::Relaxed) & doubt as u8 != 0
    }

    /// True where it was not doubted for this reason before.
    pub fn doubt(&self, doubt: Doubt, now: Duration) -> bool {
        self.doubted_millis.store(now.as_millis() as u32, Ordering::Relaxed);
        self.doubts.fetch_or(doubt as u8, Ordering::Relaxed) & doubt as u8 == 0
    }

    pub fn clear(&self, doubt: Doubt) {
        self.doubts.fetch_and(!(doubt as u8), Ordering::Relaxed);
    }

    /// It answered somebody well.
    pub fn answered(&self) {
        if !self.is_trusted() {
            self.doubts.store(0, Ordering::Relaxed);
        }
    }

    /// How long ago it was last doubted.
    pub fn doubted_for(&self, now: Duration) -> Duration {
        let since =
            (now.as_millis() as u32).wrapping_sub(self.doubted_millis.load(Ordering::Relaxed));
        Duration::from_millis(since.into())
    }

    /// One connection was made in this time.
    pub fn connected(&self, took: Duration) {
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let before = self.connect_micros.load(Ordering::Relaxed);
        let smoothed = if before == 0 { took } else { before - before / 8 + took / 8 };
        self.connect_micros.store(smoothed.max(1), Ordering::Relaxed);
    }

    /// Smoothed time a connection takes; `None` until one was made.
    pub fn usual_connect(&self) -> Option<Duration> {
        match self.connect_micros.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros.into())),
        }
    }
}

/// What a worker saw of an endpoint, told to control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    pub endpoint: EndpointId,
    pub kind: Seen,
    /// Since the process's origin.
    pub at: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A new connection was refused: no client can cause that.
    Refused,
    /// A new connection found no way.
    Unreachable,
    /// A new connection failed in its TLS handshake.
    Tls,
    /// A new connection, or requests waiting for an answer, met silence.
    Silent,
    /// A connection broke before an answer came.
    Reset,
    /// Gateway errors in a row, as many as `outlier_detection` allows.
    Errors { count: u32, status: u16 },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubts_add_up_and_an_answer_ends_them_all() {
        let live = Live::default();
        let now = Duration::from_secs(5);
        assert!(live.is_trusted());
        assert!(live.doubt(Doubt::Silent, now) && !live.doubt(Doubt::Silent, now));
        assert!(live.doubt(Doubt::Error, now));
        live.clear(Doubt::Silent);
        assert!(!live.is_trusted() && live.is(Doubt::Error) && !live.is(Doubt::Silent));
        assert_eq!(live.doubted_for(now + Duration::from_secs(1)), Duration::from_secs(1));
        live.answered();
        assert!(live.is_trusted());
    }

    #[test]
    fn usual_connect_time_follows_what_is_measured() {
        let live = Live::default();
        assert_eq!(live.usual_connect(), None);
        live.connected(Duration::from_millis(8));
        assert_eq!(live.usual_connect(), Some(Duration::from_millis(8)));
        (0..100).for_each(|_| live.connected(Duration::from_millis(80)));
        assert!(live.usual_connect().unwrap() > Duration::from_millis(79));
    }
}
