//! ● What the data path knows of an endpoint this moment, before any verdict: doubt, gateway errors
//! in a row, and how fast it usually connects. Atomics that all workers and control share; they
//! survive from table to table.

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
    /// When it was last doubted or tried in spite of it, in milliseconds since the origin; wraps.
    doubted_millis: AtomicU32,
    errors: ErrorRun,
    /// When it last answered well, in microseconds since the origin; wraps. And the smoothed time
    /// between such answers; 0: there was none.
    good_micros: AtomicU32,
    good_gap_micros: AtomicU32,
}

/// Gateway errors in a row. Several workers write it without agreeing on one order, so a count may
/// be off by the requests that are judged at the same moment, which decides nothing.
#[derive(Debug, Default)]
struct ErrorRun {
    count: AtomicU32,
    /// When it began, in microseconds since the origin; wraps.
    began_micros: AtomicU32,
    /// Of the request the run began with.
    target: AtomicU32,
    connection: AtomicU32,
    /// Bits of what was seen since: [`Self::OTHER_TARGET`] and its neighbours.
    seen: AtomicU8,
}

/// What tells requests of a run of errors apart, as hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Path and query.
    pub target: u32,
    /// The client's connection.
    pub connection: u32,
}

/// A run of gateway errors after the latest of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorsInRow {
    pub count: u32,
    /// One of the requests was answered well by another endpoint, so it was not at fault itself.
    pub twin_answers: bool,
    /// They were for different targets and came over different connections: no one client and no
    /// one URI is behind them.
    pub widespread: bool,
    /// It has lasted [`Live::SILENCES`] times as long as the endpoint usually needs for one good
    /// answer: were it well, somebody would have had one meanwhile. A client that asks often enough
    /// for what is refused can make a run of any count between the good answers of others.
    pub lasted: bool,
}

impl ErrorRun {
    const OTHER_TARGET: u8 = 1;
    const OTHER_CONNECTION: u8 = 2;
    const TWIN_ANSWERS: u8 = 4;

    fn add(&self, origin: Origin, now: Duration) {
        let Origin { target, connection } = origin;
        if self.count.fetch_add(1, Ordering::Relaxed) == 0 {
            self.began_micros.store(now.as_micros() as u32, Ordering::Relaxed);
            self.target.store(target, Ordering::Relaxed);
            self.connection.store(connection, Ordering::Relaxed);
            self.seen.store(0, Ordering::Relaxed);
            return;
        }
        let mut seen = 0;
        if self.target.load(Ordering::Relaxed) != target {
            seen |= Self::OTHER_TARGET;
        }
        if self.connection.load(Ordering::Relaxed) != connection {
            seen |= Self::OTHER_CONNECTION;
        }
        self.seen.fetch_or(seen, Ordering::Relaxed);
    }

    fn so_far(&self, gap_micros: u32, now: Duration) -> ErrorsInRow {
        let (least, most) = (Live::LASTS_LEAST, Live::LASTS_MOST);
        let needed = Duration::from_micros(gap_micros.into()).saturating_mul(Live::SILENCES);
        let seen = self.seen.load(Ordering::Relaxed);
        let both = Self::OTHER_TARGET | Self::OTHER_CONNECTION;
        ErrorsInRow {
            count: self.count.load(Ordering::Relaxed),
            twin_answers: seen & Self::TWIN_ANSWERS != 0,
            widespread: seen & both == both,
            lasted: since_micros(&self.began_micros, now) >= needed.clamp(least, most),
        }
    }
}

impl Live {
    /// A request that can be rescued may find out whether a doubted endpoint is well again once it
    /// was left alone for so long; any other request only after [`Self::LAST_TRIAL`].
    pub const TRIAL: Duration = Duration::from_secs(1);
    /// Where nothing that could be rescued comes by, doubt must end as well.
    pub const LAST_TRIAL: Duration = Duration::from_secs(5);

    /// A run of errors counts once it lasted so many usual times between two good answers, …
    pub const SILENCES: u32 = 10;
    /// … but not less than this, and not more.
    pub const LASTS_LEAST: Duration = Duration::from_millis(20);
    pub const LASTS_MOST: Duration = Duration::from_secs(2);

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

    /// It answered somebody well. True where that ended a doubt.
    pub fn answered(&self, now: Duration) -> bool {
        self.note_good(now);
        if self.is_trusted() {
            return false;
        }
        // A run of errors begins with a doubt, so whoever is trusted has none.
        self.errors.count.store(0, Ordering::Relaxed);
        self.doubts.store(0, Ordering::Relaxed);
        true
    }

    fn note_good(&self, now: Duration) {
        let gap = since_micros(&self.good_micros, now).as_micros() as u32;
        self.good_micros.store(now.as_micros() as u32, Ordering::Relaxed);
        let before = self.good_gap_micros.load(Ordering::Relaxed);
        // The first good answer has none before it.
        let smoothed = if before == 0 { 1 } else { before - before / 8 + gap / 8 };
        self.good_gap_micros.store(smoothed.max(1), Ordering::Relaxed);
    }

    /// A request may be sent to it though others are trusted. `resendable`: it can be rescued if
    /// that goes wrong, so a single gateway error does not deter it.
    pub fn may_try(&self, resendable: bool, now: Duration) -> bool {
        let patience = if resendable { Self::TRIAL } else { Self::LAST_TRIAL };
        match self.doubts.load(Ordering::Relaxed) {
            0 => true,
            doubts if resendable && doubts == Doubt::Error as u8 => true,
            _ => self.doubted_for(now) >= patience,
        }
    }

    /// A request tries it in spite of a doubt; the next one waits for what becomes of that.
    pub fn begin_trial(&self, now: Duration) {
        self.doubted_millis.store(now.as_millis() as u32, Ordering::Relaxed);
    }

    /// It answered a request with 502, 503 or 504.
    pub fn gateway_error(&self, origin: Origin, now: Duration) -> ErrorsInRow {
        self.doubt(Doubt::Error, now);
        self.errors.add(origin, now);
        self.errors.so_far(self.good_gap_micros.load(Ordering::Relaxed), now)
    }

    /// A request it answered with a gateway error was answered well by another endpoint.
    pub fn twin_answered(&self, now: Duration) -> ErrorsInRow {
        self.errors.seen.fetch_or(ErrorRun::TWIN_ANSWERS, Ordering::Relaxed);
        self.errors.so_far(self.good_gap_micros.load(Ordering::Relaxed), now)
    }

    /// When the gateway errors in a row began, if there are any; at most 36 minutes before `now`.
    pub fn errors_since(&self, now: Duration) -> Option<Duration> {
        let run = self.errors.count.load(Ordering::Relaxed) > 0;
        run.then(|| now.saturating_sub(since_micros(&self.errors.began_micros, now)))
    }

    /// How long ago it was last doubted.
    pub fn doubted_for(&self, now: Duration) -> Duration {
        let since =
            (now.as_millis() as u32).wrapping_sub(self.doubted_millis.load(Ordering::Relaxed));
        // Another worker's clock may have been read a moment after ours: that is no long time.
        let since = if since > u32::MAX / 2 { 0 } else { since };
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

/// Since a time kept in wrapping microseconds; at most half of what they can hold, 36 minutes.
fn since_micros(at: &AtomicU32, now: Duration) -> Duration {
    let since = (now.as_micros() as u32).wrapping_sub(at.load(Ordering::Relaxed));
    // Another worker's clock may have been read a moment after ours: that is no long time.
    Duration::from_micros(if since > u32::MAX / 2 { 0 } else { since.into() })
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
        assert_eq!(live.doubted_for(now - Duration::from_millis(1)), Duration::ZERO);
        assert!(live.answered(now) && !live.answered(now));
        assert!(live.is_trusted());
    }

    #[test]
    fn a_doubted_endpoint_is_tried_by_whom_it_can_cost_least_and_one_at_a_time() {
        let live = Live::default();
        let at = |millis| Duration::from_secs(5) + Duration::from_millis(millis);
        assert!(live.may_try(true, at(0)) && live.may_try(false, at(0)));
        live.doubt(Doubt::Error, at(0));
        assert!(live.may_try(true, at(1)) && !live.may_try(false, at(1)));
        live.doubt(Doubt::Errors, at(0));
        assert!(!live.may_try(true, at(999)) && live.may_try(true, at(1000)));
        live.begin_trial(at(1000));
        assert!(!live.may_try(true, at(1999)) && live.may_try(true, at(2000)));
        assert!(!live.may_try(false, at(5999)) && live.may_try(false, at(6000)));
    }

    #[test]
    fn a_run_of_errors_tells_one_client_or_one_target_from_many() {
        let live = Live::default();
        let now = Duration::from_secs(5);
        let error = |target, connection| live.gateway_error(Origin { target, connection }, now);
        let row = |count, twin_answers, widespread| ErrorsInRow {
            count,
            twin_answers,
            widespread,
            lasted: false,
        };
        assert_eq!(error(1, 1), row(1, false, false));
        assert_eq!(error(2, 1), row(2, false, false));
        assert_eq!(error(1, 1), row(3, false, false));
        assert_eq!(error(1, 2), row(4, false, true));
        assert_eq!(live.twin_answered(now), row(4, true, true));
        assert!(live.is(Doubt::Error));
        live.answered(now);
        assert_eq!(error(7, 7), row(1, false, false));
        assert_eq!(error(7, 8), row(2, false, false));
        assert_eq!(live.errors_since(now + Duration::from_secs(1)), Some(now));
        live.answered(now);
        assert_eq!(live.errors_since(now), None);
    }

    #[test]
    fn a_run_of_errors_counts_only_where_others_would_have_been_answered_meanwhile() {
        let at = Duration::from_millis;
        let lasted = |good_every: u64, run: u64| {
            let live = Live::default();
            for n in 1..=100 {
                live.answered(at(n * good_every));
            }
            let end = 100 * good_every;
            let origin = Origin { target: 1, connection: 1 };
            let first = live.gateway_error(origin, at(end));
            assert!(!first.lasted, "an error is no run");
            live.gateway_error(origin, at(end + run)).lasted
        };
        assert!(!lasted(30, 250) && lasted(30, 300), "ten times the usual gap");
        assert!(!lasted(1, 19) && lasted(1, 20), "never less than this");
        assert!(!lasted(9_000, 1_999) && lasted(9_000, 2_000), "never more");
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
